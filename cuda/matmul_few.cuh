// SPDX-License-Identifier: MIT
// Matmul of up to eight tokens: weights are read once, and nothing else matters. A warp owns some rows, or with three others a quarter of
// each, and walks along them; all tokens meet what it has read. Tokens come from the first-level cache, so a warp with many tokens takes
// four rows at a time, for each word of x to be used four times.
//
// A token's sums are added in an order that follows from the format, N, K and the device: not from the number of tokens, nor from
// alignment.
//
//   F32, F16, BF16   a lane takes 16 bytes of a row, the next lane the next 16; products in f32
//   Q8_0, Q4_0       a lane takes a block. Rows lie at odd multiples of two bytes, so what a warp needs of them comes by cp.async as whole
//                    vectors into its own shared memory, stages ahead, and is shifted into place on its way to registers. dp4a with
//                    tokens in int8 (TokenRecord): Σ_blocks (w.d · sum) · x.d
//   F8_E4M3          copied the same way; of a stage, a lane takes every 32nd word. (w.d · w.q) · x in f32
#pragma once
#include "cuda/matmul_tokens.cuh"

namespace folio {

inline constexpr int few_warps = 4;  // of a block

// Rows of one warp, of both matrices if there is a gate, and the features that they belong to.
template <int Tokens, bool Gate> struct FewTile {
  static constexpr int rows = Tokens <= 2 ? 2 : 4, features = Gate ? rows / 2 : rows;
};

struct FewWarp {
  int first, part, parts;  // first feature; of the row, part of parts
  template <class Tile> static FOLIO_DEVICE FewWarp here(bool split) {
    const int warp = warp_id(), block = int(blockIdx.x);
    if (split) return {block * Tile::features, warp, few_warps};
    return {(block * few_warps + warp) * Tile::features, 0, 1};
  }
};

// Adds up what lanes and, of split rows, warps have, and stores the results.
template <int Tokens, bool Gate, int Rows>
FOLIO_DEVICE void put_few(const MatmulOut& out, const FewWarp& at, float (&sum)[Rows][Tokens]) {
  constexpr int features = FewTile<Tokens, Gate>::features;
#pragma unroll
  for (int r = 0; r < Rows; ++r)
#pragma unroll
    for (int t = 0; t < Tokens; ++t) sum[r][t] = warp_sum(sum[r][t]);
  if (at.parts > 1) {
    FOLIO_SHARED(float, part, [few_warps][Rows * Tokens]);
    if (lane_id() == 0)
      for (int i = 0; i < Rows * Tokens; ++i) part[at.part][i] = sum[i / Tokens][i % Tokens];
    block_sync();
    if (at.part > 0) return;
#pragma unroll
    for (int i = 0; i < Rows * Tokens; ++i) sum[i / Tokens][i % Tokens] = part[0][i] + part[1][i] + part[2][i] + part[3][i];
  }
  float u = 0, gate = 0;  // of the result that is this lane's
#pragma unroll
  for (int f = 0; f < features; ++f)
#pragma unroll
    for (int t = 0; t < Tokens; ++t)
      if (lane_id() == f * Tokens + t) u = sum[f][t], gate = Gate ? sum[Rows - features + f][t] : 0.0f;
  if (lane_id() < features * Tokens) out.put<Gate>(lane_id() % Tokens, at.first + lane_id() / Tokens, u, gate);
}

template <int Tokens, bool Gate> FOLIO_DEVICE const std::byte* few_row(const MatmulWeights& w, const FewWarp& at, int r) {
  constexpr int features = FewTile<Tokens, Gate>::features;
  return w.row(r >= features, at.first + r % features);
}

// --- Plain formats. A chunk is what 16 bytes hold.

struct WeightsF32 {
  static constexpr int bytes = 4, chunk = 4;
  static FOLIO_DEVICE float word(uint32_t w, int) { return __uint_as_float(w); }
};
struct WeightsF16 {
  static constexpr int bytes = 2, chunk = 8;
  static FOLIO_DEVICE float word(uint32_t w, int i) { return to_float(f16{uint16_t(i ? w >> 16 : w)}); }
};
struct WeightsBF16 {
  static constexpr int bytes = 2, chunk = 8;
  static FOLIO_DEVICE float word(uint32_t w, int i) { return __uint_as_float(i ? w & 0xffff0000u : w << 16); }
};

// `n` elements, a chunk or the rest of the row; behind them zeros.
template <class W, bool Aligned> FOLIO_DEVICE void load_weights(const std::byte* at, int n, uint32_t (&w)[4]) {
  if (Aligned && n >= W::chunk) {
    const uint4 v = ld_stream<uint4>(at);
    w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if constexpr (W::bytes == 4) w[i] = i < n ? ld_vec<uint32_t>(at + 4 * i) : 0;
    else {
      const uint32_t low = 2 * i < n ? ld_vec<uint16_t>(at + 4 * i) : 0, high = 2 * i + 1 < n ? ld_vec<uint16_t>(at + 4 * i + 2) : 0;
      w[i] = low | high << 16;
    }
}
template <int Chunk, bool Aligned> FOLIO_DEVICE void load_token(const float* at, int n, float (&x)[Chunk]) {
#pragma unroll
  for (int i = 0; i < Chunk; i += 4)
    if (Aligned && n >= Chunk) {
      const float4 v = ld_vec<float4>(at + i);
      x[i] = v.x, x[i + 1] = v.y, x[i + 2] = v.z, x[i + 3] = v.w;
    } else {
#pragma unroll
      for (int j = i; j < i + 4; ++j) x[j] = j < n ? ld_vec<float>(at + j) : 0.0f;
    }
}

// One chunk of all rows meets all tokens.
template <class W, int Tokens, bool Aligned, int Rows>
FOLIO_DEVICE void meet_tokens(const uint32_t (&w)[Rows][4], const MatmulTokens& x, int64_t k, int n, float (&sum)[Rows][Tokens]) {
#pragma unroll
  for (int t = 0; t < Tokens; ++t) {
    float v[W::chunk];
    load_token<W::chunk, Aligned>(x.x + min(t, x.tokens - 1) * x.stride + k, n, v);
#pragma unroll
    for (int r = 0; r < Rows; ++r)
#pragma unroll
      for (int i = 0; i < W::chunk; ++i)
        sum[r][t] = fmaf(W::word(w[r][i * W::bytes / 4], i % (4 / W::bytes)), v[i], sum[r][t]);
  }
}

template <class W, int Tokens, bool Gate, bool Aligned>
FOLIO_DEVICE void multiply_few(const MatmulWeights& w, const MatmulTokens& x, const MatmulOut& out, bool split) {
  using Tile = FewTile<Tokens, Gate>;
  constexpr int rows = Tile::rows, ahead = 8 / rows;  // chunks of each row under way
  const FewWarp at = FewWarp::here<Tile>(split);
  const std::byte* row[rows];
#pragma unroll
  for (int r = 0; r < rows; ++r) row[r] = few_row<Tokens, Gate>(w, at, r);
  float sum[rows][Tokens] = {};
  const int64_t step = at.parts * 32 * W::chunk;
  int64_t k = (at.part * 32 + lane_id()) * W::chunk;
  for (; k + (ahead - 1) * step + W::chunk <= w.k; k += ahead * step) {
    uint32_t words[ahead][rows][4];
#pragma unroll
    for (int a = 0; a < ahead; ++a)
#pragma unroll
      for (int r = 0; r < rows; ++r) load_weights<W, Aligned>(row[r] + (k + a * step) * W::bytes, W::chunk, words[a][r]);
#pragma unroll
    for (int a = 0; a < ahead; ++a) meet_tokens<W, Tokens, Aligned>(words[a], x, k + a * step, W::chunk, sum);
  }
  for (; k < w.k; k += step) {
    const int n = at_most(W::chunk, w.k - k);
    uint32_t words[rows][4];
#pragma unroll
    for (int r = 0; r < rows; ++r) load_weights<W, Aligned>(row[r] + k * W::bytes, n, words[r]);
    meet_tokens<W, Tokens, Aligned>(words, x, k, n, sum);
  }
  put_few<Tokens, Gate>(out, at, sum);
}

template <class W, int Tokens, bool Gate, bool Aligned>
__global__ void __launch_bounds__(32 * few_warps) few_plain(MatmulWeights w, MatmulTokens x, MatmulOut out, bool split) {
  multiply_few<W, Tokens, Gate, Aligned>(w, x, out, split);
}

// --- Quantised formats. A stage is a block of every row for each lane.

template <class Q, int Tokens, bool Gate> struct FewStages {
  static constexpr int rows = FewTile<Tokens, Gate>::rows, bytes = 32 * Q::bytes, vectors = bytes / 16 + 1, stages = rows == 2 ? 4 : 3;
  static __host__ __device__ uint4* take(Smem& shared) { return shared.take<uint4>(few_warps * stages * rows * vectors); }
};

template <class Q, int Tokens, int Rows>
FOLIO_DEVICE void meet_records(const uint4* stage, int vectors, const int (&shift)[Rows], const std::byte* x, int64_t token_bytes,
                               int tokens, float (&sum)[Rows][Tokens]) {
  uint32_t q[Rows][8];
  float d[Rows];
#pragma unroll
  for (int r = 0; r < Rows; ++r)
    d[r] = read_block<Q>(reinterpret_cast<const uint32_t*>(stage + r * vectors), shift[r] + lane_id() * Q::bytes, q[r]);
#pragma unroll
  for (int t = 0; t < Tokens; ++t) {
    const std::byte* record = x + min(t, tokens - 1) * token_bytes;
    const uint4 a = ld_vec<uint4>(record + 16 * lane_id()), b = ld_vec<uint4>(record + TokenRecord::second + 16 * lane_id());
    const float scale = ld_vec<float>(record + TokenRecord::scales + 4 * lane_id());
    const uint32_t v[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
    for (int r = 0; r < Rows; ++r) {
      int dot = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) dot = __dp4a(int(q[r][i]), int(v[i]), dot);
      sum[r][t] = fmaf(float(dot) * d[r], scale, sum[r][t]);
    }
  }
}

// Tokens of F8_E4M3, as they are. A stage is 16 blocks, and a half warp has one.
template <bool Aligned> struct FloatTokens {
  MatmulTokens x;

  template <class Q, int Tokens, int Rows>
  FOLIO_DEVICE void meet(const uint4* stage, int vectors, const int (&shift)[Rows], int record, float (&sum)[Rows][Tokens]) const {
    const int half = lane_id() / 16, word = 1 + lane_id() % 16;  // the first word of a block is its scale
#pragma unroll 2
    for (int block = half; block < 16; block += 2) {
      const int64_t k = int64_t(record) * 1024 + 64 * block + 4 * (word - 1);
      if (k >= x.k) break;
      float4 weight[Rows];
#pragma unroll
      for (int r = 0; r < Rows; ++r) {
        const auto* from = reinterpret_cast<const uint32_t*>(stage + r * vectors) + shift[r] / 4 + 17 * block;
        const float d = __uint_as_float(from[0]);
        const float4 q = unpack_e4m3(from[word]);
        weight[r] = make_float4(q.x * d, q.y * d, q.z * d, q.w * d);
      }
#pragma unroll
      for (int t = 0; t < Tokens; ++t) {
        float v[4];
        load_token<4, Aligned>(x.x + min(t, x.tokens - 1) * x.stride + k, 4, v);
#pragma unroll
        for (int r = 0; r < Rows; ++r) {
          const float4 u = weight[r];
          sum[r][t] = fmaf(u.w, v[3], fmaf(u.z, v[2], fmaf(u.y, v[1], fmaf(u.x, v[0], sum[r][t]))));
        }
      }
    }
  }
};

// Those of the others, in records.
struct ByteTokens {
  const std::byte* x;
  int blocks, tokens;  // of a row; how many

  template <class Q, int Tokens, int Rows>
  FOLIO_DEVICE void meet(const uint4* stage, int vectors, const int (&shift)[Rows], int record, float (&sum)[Rows][Tokens]) const {
    const int64_t token_bytes = int64_t((blocks + TokenRecord::blocks - 1) / TokenRecord::blocks) * TokenRecord::bytes;
    if (record * TokenRecord::blocks + lane_id() < blocks)
      meet_records<Q>(stage, vectors, shift, x + int64_t(record) * TokenRecord::bytes, token_bytes, tokens, sum);
  }
};

template <class Q, int Tokens, bool Gate, class X>
FOLIO_DEVICE void multiply_few_blocks(const MatmulWeights& w, const X& x, const MatmulOut& out, bool split) {
  using Stages = FewStages<Q, Tokens, Gate>;
  constexpr int rows = Stages::rows, vectors = Stages::vectors, stages = Stages::stages;
  const FewWarp at = FewWarp::here<FewTile<Tokens, Gate>>(split);
  Smem shared = Smem::here();
  uint4* const mine = Stages::take(shared) + warp_id() * stages * rows * vectors;
  const std::byte* row[rows];
  int shift[rows];
#pragma unroll
  for (int r = 0; r < rows; ++r) {
    row[r] = few_row<Tokens, Gate>(w, at, r);
    shift[r] = int(reinterpret_cast<uintptr_t>(row[r]) % 16);
  }
  const int blocks = int(w.k / 32), records = int(TokenRecord::of(w.k)), steps = (records - at.part + at.parts - 1) / at.parts;
  const auto copy = [&](int step) {
    const int64_t from = int64_t(at.part + step * at.parts) * Stages::bytes;
    if (step < steps)
#pragma unroll
      for (int r = 0; r < rows; ++r)
        copy_bytes(mine + (step % stages * rows + r) * vectors, row[r] + from, row[r] + int64_t(blocks) * Q::bytes, vectors, lane_id(), 32);
    cp_async_commit();
  };
  for (int step = 0; step < stages - 1; ++step) copy(step);
  float sum[rows][Tokens] = {};
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<stages - 2>();
    __syncwarp();  // all lanes have waited, and all are through with the stage that is copied into now
    copy(step + stages - 1);
    x.template meet<Q>(mine + step % stages * rows * vectors, vectors, shift, at.part + step * at.parts, sum);
  }
  cp_async_wait<0>();
  put_few<Tokens, Gate>(out, at, sum);
}

template <class Q, int Tokens, bool Gate, class X>
__global__ void __launch_bounds__(32 * few_warps) few_quantised(MatmulWeights w, X x, MatmulOut out, bool split) {
  multiply_few_blocks<Q, Tokens, Gate>(w, x, out, split);
}

}  // namespace folio
