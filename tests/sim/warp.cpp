// SPDX-License-Identifier: MIT
// Operations of a warp, each computed at once for all lanes: shuffles, votes, ldmatrix, mma.sync. Fragment layouts are the PTX
// manual's, written down in cuda/lib/mma.cuh. Tensor cores are emulated as float sums in order of k; the chip adds all products of an
// instruction before it rounds, so results agree to some ulp, not to the bit.
#include <cstring>

#include "engine.h"
#include "graph/dtype.h"

namespace folio::sim {

float f16_to_float(uint16_t bits) { return f16_to_f32(bits); }
uint16_t f16_from_float(float x) { return f32_to_f16(x); }

namespace {

struct ShuffleCall { Shuffle kind; const void* mine; void* result; size_t bytes; int lane, width; };

void finish_shuffle(void** argument, uint32_t mask) {
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    const auto& call = *static_cast<ShuffleCall*>(argument[lane]);
    const int first = lane & ~(call.width - 1), end = first + call.width;
    int from = lane;
    switch (call.kind) {
      case Shuffle::index: from = first + (call.lane & (call.width - 1)); break;
      case Shuffle::up: from = lane - call.lane < first ? lane : lane - call.lane; break;
      case Shuffle::down: from = lane + call.lane >= end ? lane : lane + call.lane; break;
      case Shuffle::exclusive_or: from = (lane ^ call.lane) >= end ? lane : lane ^ call.lane; break;
    }
    if (from < 0 || from > 31 || !(mask >> from & 1)) refuse("lane ", lane, " shuffles from lane ", from, ", which is not in the mask");
    std::memcpy(call.result, static_cast<ShuffleCall*>(argument[from])->mine, call.bytes);
  }
}

struct BallotCall { bool mine; unsigned result; };

void finish_ballot(void** argument, uint32_t mask) {
  unsigned result = 0;
  for (int lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1) result |= unsigned(static_cast<BallotCall*>(argument[lane])->mine) << lane;
  for (int lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1) static_cast<BallotCall*>(argument[lane])->result = result;
}

struct LdmatrixCall { uint32_t* fragment; const std::byte* row; int tiles; bool transposed; };

// Rows of a tile that start in the same 16 of the 128 bytes of all banks are read one after the other.
uint64_t waves_of(const LdmatrixCall* const (&rows)[8]) {
  uint64_t most = 1;
  for (int i = 0; i < 8; ++i) {
    uint64_t here = 1;
    for (int j = 0; j < i; ++j) {
      if (rows[j]->row == rows[i]->row) {
        here = 0;  // the same row is one read
        break;
      }
      here += uintptr_t(rows[j]->row) / 16 % 8 == uintptr_t(rows[i]->row) / 16 % 8;
    }
    most = std::max(most, here);
  }
  return most;
}

void finish_ldmatrix(void** argument, uint32_t) {
  const auto call = [&](int lane) { return static_cast<const LdmatrixCall*>(argument[lane]); };
  for (int tile = 0; tile < call(0)->tiles; ++tile) {
    const LdmatrixCall* rows[8];
    for (int i = 0; i < 8; ++i) {
      rows[i] = call(tile * 8 + i);
      tsan::reads(rows[i]->row, 16);
    }
    ++stats().ldmatrix_tiles;
    stats().ldmatrix_waves += waves_of(rows);
    for (int lane = 0; lane < 32; ++lane)
      for (int half = 0; half < 2; ++half) {
        const int row = call(0)->transposed ? lane % 4 * 2 + half : lane / 4, column = call(0)->transposed ? lane / 4 : lane % 4 * 2 + half;
        std::memcpy(reinterpret_cast<char*>(&call(lane)->fragment[tile]) + 2 * half, rows[row]->row + 2 * column, 2);
      }
  }
}

struct MmaCall { void* d; const uint32_t *a, *b; };

// Element i of a word, as a number that holds it exactly.
template <Mma kind, class Sum> Sum element(uint32_t word, int i) {
  if constexpr (kind == Mma::bf16) return bf16_to_f32(uint16_t(word >> 16 * i));
  else if constexpr (kind == Mma::f16) return f16_to_f32(uint16_t(word >> 16 * i));
  else if constexpr (kind == Mma::tf32) return __uint_as_float(word & 0xffffe000u);
  else return Sum(int8_t(word >> 8 * i));
}

// Sum is float, or uint32_t for bytes: sums wrap. A word holds `packed` numbers along k; each half of k is 4 words wide.
template <Mma kind, class Sum, int packed> void multiply(void** argument, uint32_t) {
  constexpr int half = 4 * packed;
  Sum a[16][2 * half], b[2 * half][8], c[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto& call = *static_cast<MmaCall*>(argument[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < packed; ++i) {
      for (int w = 0; w < 4; ++w) a[g + w % 2 * 8][t * packed + i + w / 2 * half] = element<kind, Sum>(call.a[w], i);
      for (int w = 0; w < 2; ++w) b[t * packed + i + w * half][g] = element<kind, Sum>(call.b[w], i);
    }
    for (int i = 0; i < 4; ++i) std::memcpy(&c[g + i / 2 * 8][2 * t + i % 2], static_cast<Sum*>(call.d) + i, 4);
  }
  for (int row = 0; row < 16; ++row)
    for (int k = 0; k < 2 * half; ++k)
      for (int column = 0; column < 8; ++column) c[row][column] += a[row][k] * b[k][column];
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i)
      std::memcpy(static_cast<Sum*>(static_cast<MmaCall*>(argument[lane])->d) + i, &c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2], 4);
  ++stats().mma;
}

}  // namespace

void shuffle(Shuffle kind, unsigned mask, const void* mine, void* result, size_t bytes, int lane, int width, const char* name, Here here) {
  if (width < 1 || width > 32 || (width & (width - 1))) stop("shuffle width is not a power of two up to 32", here);
  ShuffleCall call{kind, mine, result, bytes, lane, width};
  meet_warp(mask, name, &call, finish_shuffle, here);
}

unsigned ballot(unsigned mask, bool mine, const char* name, Here here) {
  BallotCall call{mine, 0};
  meet_warp(mask, name, &call, finish_ballot, here);
  return call.result;
}

void sync_warp(unsigned mask, Here here) { meet_warp(mask, "__syncwarp", nullptr, nullptr, here); }

void ldmatrix(uint32_t* fragment, int tiles, bool transposed, const void* row, Here here) {
  const Thread& me = self();
  if (me.lane() < unsigned(tiles) * 8) {
    shared_address(row, here);
    if (uintptr_t(row) % 16) stop("a row for ldmatrix is not aligned to 16 bytes", here);
  }
  LdmatrixCall call{fragment, static_cast<const std::byte*>(row), tiles, transposed};
  meet_warp(~0u, transposed ? "ldmatrix_transposed" : "ldmatrix", &call, finish_ldmatrix, here);
}

void mma(Mma kind, void* d, const uint32_t* a, const uint32_t* b, Here here) {
  MmaCall call{d, a, b};
  switch (kind) {
    case Mma::bf16: return meet_warp(~0u, "mma_bf16", &call, multiply<Mma::bf16, float, 2>, here);
    case Mma::f16: return meet_warp(~0u, "mma_f16", &call, multiply<Mma::f16, float, 2>, here);
    case Mma::tf32: return meet_warp(~0u, "mma_tf32", &call, multiply<Mma::tf32, float, 1>, here);
    case Mma::s8: return meet_warp(~0u, "mma_s8", &call, multiply<Mma::s8, uint32_t, 4>, here);
  }
}

}  // namespace folio::sim
