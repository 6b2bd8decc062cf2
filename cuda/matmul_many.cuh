// SPDX-License-Identifier: MIT
// Matmul of many tokens: a block computes a tile of tokens and weight rows, step after step along k, with copies to shared memory under
// way for the steps to come. Tokens come from scratch in the form that matmul_tokens.cuh has given them, 16 bytes at a time.
//
//   F16, BF16    mma with f32 sums; for f16 two mma per tile, one for each of the numbers that x is the sum of
//   Q8_0, Q4_0   mma of bytes: a step of mma is a block, its sum exact; then sum · w.d · x.d is added in f32. Rows are copied as they
//                stand, in whole vectors around the bytes that are wanted, and put in order within shared memory.
//   F32          multiply-add in f32, without tensor cores
//
// Where there are few tiles, the warps of a block share one tile and divide k among them, so that enough bytes are under way; at the end
// their sums are added in order.
#pragma once
#include "cuda/matmul_tokens.cuh"

namespace folio {

// Warps stand in a grid, each with M·16 tokens and R·8 rows; or all on the same, each with its part of every step.
template <int M_, int TokenWarps, int RowWarps, int KWarps_> struct ManyTile {
  static constexpr int M = M_, R = 4, k_warps = KWarps_, threads = 32 * TokenWarps * RowWarps * KWarps_;
  static constexpr int tokens = 16 * M * TokenWarps, rows = 8 * R * RowWarps;
  static constexpr int of_token = threads / tokens, of_row = threads / rows;  // threads that copy each
  static_assert(KWarps_ == 1 || TokenWarps * RowWarps == 1);
  static FOLIO_DEVICE int warp_token() { return KWarps_ > 1 ? 0 : warp_id() / RowWarps * 16 * M; }
  static FOLIO_DEVICE int warp_row() { return KWarps_ > 1 ? 0 : warp_id() % RowWarps * 8 * R; }
  static FOLIO_DEVICE int warp_k() { return KWarps_ > 1 ? warp_id() : 0; }
  using Sums = float[M][R][4];
};
// 128 tokens and 128 rows, 64 and 64, 32 and 32. Quantised weights need more registers beside the sums, and so more warps.
using WideTile = ManyTile<4, 2, 4, 1>;
using WideByteTile = ManyTile<2, 4, 4, 1>;
using MiddleTile = ManyTile<2, 2, 2, 1>;
using NarrowTile = ManyTile<2, 1, 1, 4>;

// Adds the sums of all parts of k in the first warp, through the shared memory of the stages, which are over. Whether the caller has them.
template <class Tile> FOLIO_DEVICE bool add_parts(typename Tile::Sums& sum, void* shared) {
  __syncthreads();  // nobody reads it any more
  if constexpr (Tile::k_warps == 1) return true;
  constexpr int n = Tile::M * Tile::R * 4;
  float* const mine = static_cast<float*>(shared) + lane_id();
  const auto at = [&](int i) -> float& { return sum[i / 4 / Tile::R][i / 4 % Tile::R][i % 4]; };
  if (warp_id() > 0)
#pragma unroll
    for (int i = 0; i < n; ++i) mine[(warp_id() * n + i) * 32] = at(i);
  __syncthreads();
  if (warp_id() > 0) return false;
  for (int warp = 1; warp < Tile::k_warps; ++warp)
#pragma unroll
    for (int i = 0; i < n; ++i) at(i) += mine[(warp * n + i) * 32];
  return true;
}

// Stores what a warp has, 16 tokens at a time, by way of a patch of its own. All warps of the block call, when they need the memory at
// `shared` for nothing else. The warp's tile begins at token `token`; the block's first row is that of feature `first`.
template <class Tile, bool Gate, class Out>
FOLIO_DEVICE void put_tile(const Out& out, const typename Tile::Sums& sum, void* shared, int token, int first) {
  static_assert(8 * Tile::R == patch_rows);
  const int g = lane_id() / 4, t = lane_id() % 4;
  float* const patch = static_cast<float*>(shared) + warp_id() * patch_floats;
#pragma unroll
  for (int m = 0; m < Tile::M; ++m) {
    __syncwarp();
#pragma unroll
    for (int r = 0; r < Tile::R; ++r)
#pragma unroll
      for (int i = 0; i < 4; i += 2) st_vec(patch + (g + 4 * i) * patch_pitch + 8 * r + 2 * t, make_float2(sum[m][r][i], sum[m][r][i + 1]));
    __syncwarp();
    put_patch<Gate>(out, patch, token + 16 * m, first + (Tile::warp_row() >> Gate));
  }
}

// Fragments, for 32 bytes of k, of 16 tokens, and of two groups of 8 rows: the first two words are the one's, the others the other's.
// `pitch` is an odd multiple of 16 bytes, so that eight rows lie in different banks.
FOLIO_DEVICE void token_fragment(uint32_t (&a)[4], const std::byte* tile, int pitch, int token, int byte) {
  const int l = lane_id();
  ldmatrix(a, tile + (token + l % 16) * pitch + byte + l / 16 * 16);
}
FOLIO_DEVICE void row_fragments(uint32_t (&b)[4], const std::byte* tile, int pitch, int row, int byte) {
  const int l = lane_id();
  ldmatrix(b, tile + (row + l % 8 + l / 16 * 8) * pitch + byte + l / 8 % 2 * 16);
}

// --- F16 and BF16.

// A stage: the tokens' planes, then the rows; 32 numbers for each part of k, and 16 bytes of room.
template <class Tile, bool F16> struct HalfStage {
  static constexpr int terms = F16 ? 2 : 1, k = 32 * Tile::k_warps, pitch = 2 * k + 16, stages = F16 ? 3 : 4;
  static constexpr int rows_at = terms * Tile::tokens * pitch, bytes = rows_at + Tile::rows * pitch;
  static constexpr int units = k / 8, rows_at_once = Tile::threads / units;  // of 16 bytes, a thread each
  static __host__ __device__ std::byte* take(Smem& shared) { return shared.take<std::byte>(stages * bytes); }
};

// 16 bytes of a row that holds `left` more elements of two bytes.
FOLIO_DEVICE void copy_halves(std::byte* to, const std::byte* from, int64_t left, bool aligned) {
  const int n = at_most(8, left);
  if (aligned) return cp_async_part(to, from, 2 * n);
#pragma unroll
  for (int i = 0; i < 8; ++i) st_vec<uint16_t>(to + 2 * i, i < n ? ld_vec<uint16_t>(from + 2 * i) : uint16_t(0));
}

template <class Tile, bool F16>
FOLIO_DEVICE void multiply_halves(const std::byte* stage, typename Tile::Sums& sum) {
  using Stage = HalfStage<Tile, F16>;
#pragma unroll
  for (int i = 0; i < 64; i += 32) {
    const int byte = 64 * Tile::warp_k() + i;
    uint32_t b[Tile::R / 2][4];
#pragma unroll
    for (int r = 0; r < Tile::R / 2; ++r) row_fragments(b[r], stage + Stage::rows_at, Stage::pitch, Tile::warp_row() + 16 * r, byte);
#pragma unroll
    for (int m = 0; m < Tile::M; ++m)
#pragma unroll
      for (int term = Stage::terms - 1; term >= 0; --term) {
        uint32_t a[4];
        token_fragment(a, stage + term * Tile::tokens * Stage::pitch, Stage::pitch, Tile::warp_token() + 16 * m, byte);
#pragma unroll
        for (int r = 0; r < Tile::R; ++r) {
          const uint32_t half[2] = {b[r / 2][r % 2 * 2], b[r / 2][r % 2 * 2 + 1]};
          if constexpr (F16) mma_f16(sum[m][r], a, half);
          else mma_bf16(sum[m][r], a, half);
        }
      }
  }
}

// The tile that begins at that token and feature; so do the functions of the other formats.
template <class Tile, bool F16, bool Gate, class Out>
FOLIO_DEVICE void multiply_tile(const MatmulWeights& w, const RoundedTokens& x, const Out& out, int token, int feature, bool aligned) {
  using Stage = HalfStage<Tile, F16>;
  constexpr int units = Stage::units, at_once = Stage::rows_at_once, stages = Stage::stages;
  const int unit = int(threadIdx.x) % units, first = int(threadIdx.x) / units;
  Smem shared = Smem::here();
  std::byte* const base = Stage::take(shared);
  const std::byte* from[Tile::rows / at_once];
#pragma unroll
  for (int i = 0; i < Tile::rows / at_once; ++i) from[i] = tile_row<Gate>(w, feature, first + i * at_once) + 16 * unit;
  const int steps = int((w.k + Stage::k - 1) / Stage::k);
  const auto copy = [&](int step) {
    std::byte* const to = base + step % stages * Stage::bytes + first * Stage::pitch + unit * 16;
    const int64_t k = int64_t(step) * Stage::k + 8 * unit;
    if (step < steps) {
#pragma unroll
      for (int i = 0; i < Stage::terms * Tile::tokens; i += at_once) {
        const int t = token + (i + first) % Tile::tokens;
        const std::byte* plane = x.planes + (i + first) / Tile::tokens * x.plane;
        cp_async(to + i * Stage::pitch, plane + (min(t, out.tokens - 1) * x.pitch + k) * 2, t < out.tokens);
      }
#pragma unroll
      for (int i = 0; i < Tile::rows; i += at_once)
        copy_halves(to + Stage::rows_at + i * Stage::pitch, from[i / at_once] + step * (2 * Stage::k), w.k - k, aligned);
    }
    cp_async_commit();
  };
  typename Tile::Sums sum = {};
  for (int step = 0; step < stages - 1; ++step) copy(step);
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<stages - 2>();
    __syncthreads();  // all copies of this step are there, and all threads are through with the stage that is filled now
    copy(step + stages - 1);
    multiply_halves<Tile, F16>(base + step % stages * Stage::bytes, sum);
  }
  cp_async_wait<0>();
  if (!add_parts<Tile>(sum, base)) return;
  if constexpr (F16) {
#pragma unroll
    for (int m = 0; m < Tile::M; ++m)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int t = min(token + Tile::warp_token() + 16 * m + lane_id() / 4 + 8 * i, out.tokens - 1);
        const float back = ld_vec<float>(x.back + t);
#pragma unroll
        for (int r = 0; r < Tile::R; ++r) sum[m][r][2 * i] *= back, sum[m][r][2 * i + 1] *= back;
      }
  }
  put_tile<Tile, Gate>(out, sum, base, token + Tile::warp_token(), feature);
}

// A block's tile of a Matmul.
template <class Tile> FOLIO_DEVICE int block_token() { return int(blockIdx.x) * Tile::tokens; }
template <class Tile, bool Gate> FOLIO_DEVICE int block_feature() { return int(blockIdx.y) * (Tile::rows >> Gate); }

template <class Tile, bool F16, bool Gate>
__global__ void __launch_bounds__(Tile::threads) many_halves(MatmulWeights w, RoundedTokens x, MatmulOut out, bool aligned) {
  multiply_tile<Tile, F16, Gate>(w, x, out, block_token<Tile>(), block_feature<Tile, Gate>(), aligned);
}

// --- Quantised weights. A step is four blocks.

// One copy of the rows in order, read by mma; stages of rows as they stand (one fewer than of tokens, for they are read sooner), of tokens
// and of their scales. Vectors are of 16 bytes; a row as it stands begins within its first one.
template <class Tile, class Q> struct ByteStages {
  static constexpr int blocks = 4, pitch = 32 * blocks + 16, vectors = (14 + blocks * Q::bytes + 15) / 16;
  static constexpr int stages = Tile::k_warps > 1 ? 5 : 2, raw_stages = stages - 1;
  std::byte *rows, *tokens;
  uint4* raw;
  float *row_scales, *token_scales;  // [blocks][rows], [stages][tokens][blocks]

  static __host__ __device__ ByteStages take(Smem& shared) {
    ByteStages s;
    s.rows = shared.take<std::byte>(Tile::rows * pitch);
    s.tokens = shared.take<std::byte>(stages * Tile::tokens * pitch);
    s.raw = shared.take<uint4>(raw_stages * Tile::rows * vectors);
    s.row_scales = shared.take<float>(blocks * Tile::rows);
    s.token_scales = shared.take<float>(stages * Tile::tokens * blocks);
    return s;
  }
};

// A token's part of a step, and its scales; zeros where there is no token. `records` are the token's.
template <class Tile, class Q>
FOLIO_DEVICE void copy_records(const ByteStages<Tile, Q>& s, int stage, const std::byte* records, bool there, int block) {
  constexpr int blocks = ByteStages<Tile, Q>::blocks, pitch = ByteStages<Tile, Q>::pitch;
  const int slot = stage * Tile::tokens + int(threadIdx.x) / Tile::of_token, b = block % TokenRecord::blocks;
  const std::byte* record = records + int64_t(block / TokenRecord::blocks) * TokenRecord::bytes;
  const int first = int(threadIdx.x) % Tile::of_token;
#pragma unroll
  for (int i = 0; i < 2 * blocks; i += Tile::of_token) {
    const int unit = first + i;
    cp_async(s.tokens + slot * pitch + 16 * unit, record + unit % 2 * TokenRecord::second + 16 * (b + unit / 2), there);
  }
  if (first == 0) cp_async(s.token_scales + slot * blocks, record + TokenRecord::scales + 4 * b, there);
}

// Puts a row's part of a step, which begins at `shift` bytes of its first vector, in order.
template <class Tile, class Q> FOLIO_DEVICE void order_row(const ByteStages<Tile, Q>& s, int stage, int shift) {
  using Stages = ByteStages<Tile, Q>;
  const int row = int(threadIdx.x) / Tile::of_row;
  const auto* raw = reinterpret_cast<const uint32_t*>(s.raw + (stage * Tile::rows + row) * Stages::vectors);
#pragma unroll
  for (int i = 0; i < Stages::blocks; i += Tile::of_row) {
    const int b = int(threadIdx.x) % Tile::of_row + i;
    uint32_t q[8];
    s.row_scales[b * Tile::rows + row] = read_block<Q>(raw, shift + b * Q::bytes, q);
    std::byte* to = s.rows + row * Stages::pitch + 32 * b;
    st_vec(to, make_uint4(q[0], q[1], q[2], q[3]));
    st_vec(to + 16, make_uint4(q[4], q[5], q[6], q[7]));
  }
}

// A block of k: sums of integers start at 1.5·2^23 as a float's bits, so that taking that float away turns them into floats.
template <class Tile, class Q>
FOLIO_DEVICE void multiply_block(const ByteStages<Tile, Q>& s, int stage, int block, typename Tile::Sums& sum) {
  using Stages = ByteStages<Tile, Q>;
  constexpr float offset = 12582912;
  const int g = lane_id() / 4, t = lane_id() % 4;
  uint32_t b[Tile::R / 2][4];
#pragma unroll
  for (int r = 0; r < Tile::R / 2; ++r) row_fragments(b[r], s.rows, Stages::pitch, Tile::warp_row() + 16 * r, 32 * block);
  float2 row_scale[Tile::R];
#pragma unroll
  for (int r = 0; r < Tile::R; ++r)
    row_scale[r] = ld_vec<float2>(s.row_scales + block * Tile::rows + Tile::warp_row() + 8 * r + 2 * t);
#pragma unroll
  for (int m = 0; m < Tile::M; ++m) {
    const int token = stage * Tile::tokens + Tile::warp_token() + 16 * m;
    uint32_t a[4];
    token_fragment(a, s.tokens, Stages::pitch, token, 32 * block);
    const float token_scale[2] = {s.token_scales[(token + g) * Stages::blocks + block],
                                  s.token_scales[(token + g + 8) * Stages::blocks + block]};
#pragma unroll
    for (int r = 0; r < Tile::R; ++r) {
      const uint32_t half[2] = {b[r / 2][r % 2 * 2], b[r / 2][r % 2 * 2 + 1]};
      int32_t dot[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) dot[i] = __float_as_int(offset);
      mma_s8(dot, a, half);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float scaled = (__int_as_float(dot[i]) - offset) * (i % 2 ? row_scale[r].y : row_scale[r].x);
        sum[m][r][i] = fmaf(scaled, token_scale[i / 2], sum[m][r][i]);
      }
    }
  }
}

template <class Tile, class Q, bool Gate, class Out>
FOLIO_DEVICE void multiply_tile_of_blocks(const MatmulWeights& w, const std::byte* x, const Out& out, int token, int feature) {
  using Stages = ByteStages<Tile, Q>;
  static_assert(Stages::stages * Tile::tokens * Stages::pitch >= Tile::threads / 32 * patch_floats * int(sizeof(float)));
  Smem shared = Smem::here();
  const Stages s = Stages::take(shared);
  const int steps = int((w.k / 32 + Stages::blocks - 1) / Stages::blocks), t = token + int(threadIdx.x) / Tile::of_token;
  const std::byte* const row = tile_row<Gate>(w, feature, int(threadIdx.x) / Tile::of_row);
  const std::byte* const records = x + min(t, out.tokens - 1) * (TokenRecord::of(w.k) * TokenRecord::bytes);
  const auto from = [&](int step) { return row + int64_t(step) * (Stages::blocks * Q::bytes); };
  const auto copy = [&](int step) {
    if (step < steps) {
      uint4* const raw = s.raw + (step % Stages::raw_stages * Tile::rows + int(threadIdx.x) / Tile::of_row) * Stages::vectors;
      copy_bytes(raw, from(step), row + w.k / 32 * Q::bytes, Stages::vectors, int(threadIdx.x) % Tile::of_row, Tile::of_row);
      copy_records(s, step % Stages::stages, records, t < out.tokens, step * Stages::blocks);
    }
    cp_async_commit();
  };
  typename Tile::Sums sum = {};
  for (int step = 0; step < Stages::stages - 1; ++step) copy(step);
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<Stages::stages - 2>();
    __syncthreads();  // all copies of this step are there, and nobody multiplies by the ordered rows of the last one
    order_row(s, step % Stages::raw_stages, int(reinterpret_cast<uintptr_t>(from(step)) % 16));
    __syncthreads();
    copy(step + Stages::stages - 1);
#pragma unroll 1
    for (int b = Tile::warp_k(); b < Stages::blocks; b += Tile::k_warps) multiply_block(s, step % Stages::stages, b, sum);
  }
  cp_async_wait<0>();
  if (add_parts<Tile>(sum, s.tokens)) put_tile<Tile, Gate>(out, sum, s.tokens, token + Tile::warp_token(), feature);
}

template <class Tile, class Q, bool Gate>
__global__ void __launch_bounds__(Tile::threads) many_quantised(MatmulWeights w, const std::byte* x, MatmulOut out) {
  multiply_tile_of_blocks<Tile, Q, Gate>(w, x, out, block_token<Tile>(), block_feature<Tile, Gate>());
}

// --- F32: 64 tokens and 64 rows, of which a thread has eight and four; k lies outermost in shared memory, copied number by number.

struct FloatTile {
  static constexpr int tokens = 64, rows = 64, threads = 128, k = 16, pitch = 68, stages = 3;  // pitch: neighbours in k apart by 4 banks
  static __host__ __device__ float* take(Smem& shared) { return shared.take<float>(stages * 2 * k * pitch); }
};

FOLIO_DEVICE void multiply_floats(const float* x, const float* w, float (&sum)[8][4]) {
#pragma unroll
  for (int k = 0; k < FloatTile::k; ++k) {
    const float4 a = ld_vec<float4>(x + k * FloatTile::pitch), b = ld_vec<float4>(x + k * FloatTile::pitch + 4);
    const float4 c = ld_vec<float4>(w + k * FloatTile::pitch);
    const float of_token[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}, of_row[4] = {c.x, c.y, c.z, c.w};
#pragma unroll
    for (int t = 0; t < 8; ++t)
#pragma unroll
      for (int r = 0; r < 4; ++r) sum[t][r] = fmaf(of_token[t], of_row[r], sum[t][r]);
  }
}

// Row r of a thread is of matrix r / 2 if there is a gate: place 4 i + r of the tile holds feature 2 i + r % 2 of it.
template <bool Gate, class X, class Out>
FOLIO_DEVICE void multiply_tile_of_floats(const MatmulWeights& w, const X& x, const Out& out, int token, int feature) {
  using Tile = FloatTile;
  const int mine = int(threadIdx.x) / 16 * 8, my_row = int(threadIdx.x) % 16 * 4;
  Smem shared = Smem::here();
  float* const stages = Tile::take(shared);
  const int steps = int((w.k + Tile::k - 1) / Tile::k);
  const auto copy = [&](int step) {
    float* const to = stages + step % Tile::stages * 2 * Tile::k * Tile::pitch + int(threadIdx.x) % Tile::k * Tile::pitch;
    const int64_t k = int64_t(step) * Tile::k + int(threadIdx.x) % Tile::k;
    if (step < steps)
#pragma unroll
      for (int i = 0; i < 64; i += Tile::threads / Tile::k) {
        const int j = int(threadIdx.x) / Tile::k + i;
        const bool there = token + j < out.tokens && k < w.k;
        cp_async<4>(to + j, there ? x.row(token + j) + k : x.x, there);
        const std::byte* row = Gate ? w.row(j % 4 / 2 != 0, feature + j / 4 * 2 + j % 2) : w.row(false, feature + j);
        cp_async<4>(to + Tile::k * Tile::pitch + j, row + (k < w.k ? 4 * k : 0), k < w.k);
      }
    cp_async_commit();
  };
  float sum[8][4] = {};
  for (int step = 0; step < Tile::stages - 1; ++step) copy(step);
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<Tile::stages - 2>();
    __syncthreads();  // all copies of this step are there, and all threads are through with the stage that is filled now
    copy(step + Tile::stages - 1);
    const float* stage = stages + step % Tile::stages * 2 * Tile::k * Tile::pitch;
    multiply_floats(stage + mine, stage + Tile::k * Tile::pitch + my_row, sum);
  }
  cp_async_wait<0>();
  __syncthreads();  // the stages are over: results take their place
#pragma unroll
  for (int t = 0; t < 8; ++t)
    st_vec(stages + (mine + t) * Tile::pitch + my_row, make_float4(sum[t][0], sum[t][1], sum[t][2], sum[t][3]));
  __syncthreads();
  constexpr int features = Tile::rows >> Gate;
#pragma unroll 1
  for (int i = int(threadIdx.x); i < Tile::tokens * features; i += Tile::threads) {
    const int f = i % features;
    const float* at = stages + i / features * Tile::pitch + (Gate ? f / 2 * 4 + f % 2 : f);
    out.template put<Gate>(token + i / features, feature + f, at[0], Gate ? at[2] : 0.0f);
  }
}

template <bool Gate> __global__ void __launch_bounds__(FloatTile::threads) many_floats(MatmulWeights w, MatmulTokens x, MatmulOut out) {
  multiply_tile_of_floats<Gate>(w, x, out, block_token<FloatTile>(), block_feature<FloatTile, Gate>());
}

}  // namespace folio
