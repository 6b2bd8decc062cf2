// SPDX-License-Identifier: MIT
// Matmul of many tokens with weights in F8_E4M3: as the other quantised formats (matmul_many.cuh), but rows are put in order as bf16,
// which holds every e4m3 exactly, and meet tokens rounded to bf16. The sum of 32 numbers is a result of mma alone; then sum · d is added
// in f32, so that a scale never loses a digit.
#pragma once
#include "cuda/matmul_many.cuh"

namespace folio {

// A step is `blocks` times 32 numbers of each row and token: one block of 64, or two where the warps divide k. One copy of the rows in
// order, stages of tokens, and of rows as they stand, one fewer. A row as it stands begins within its first vector of 16 bytes.
template <class Tile> struct E4m3Stages {
  static constexpr int blocks = Tile::k_warps > 1 ? 4 : 2, k = 32 * blocks, pitch = 2 * k + 16;
  static constexpr int raw_bytes = blocks * BlocksE4m3::bytes, vectors = (12 + raw_bytes + 15) / 16;
  static constexpr int stages = Tile::k_warps > 1 ? 4 : 3, raw_stages = stages - 1;
  std::byte *rows, *tokens;
  uint4* raw;
  float* scales;  // [blocks / 2][rows]

  static __host__ __device__ E4m3Stages take(Smem& shared) {
    E4m3Stages s;
    s.rows = shared.take<std::byte>(Tile::rows * pitch);
    s.tokens = shared.take<std::byte>(stages * Tile::tokens * pitch);
    s.raw = shared.take<uint4>(raw_stages * Tile::rows * vectors);
    s.scales = shared.take<float>(blocks / 2 * Tile::rows);
    return s;
  }
};

// The part of all tokens that begins at number `k`; zeros where there is no token.
template <class Tile>
FOLIO_DEVICE void copy_tokens(const E4m3Stages<Tile>& s, int stage, const RoundedTokens& x, int token, int tokens, int64_t k) {
  constexpr int units = E4m3Stages<Tile>::k / 8, pitch = E4m3Stages<Tile>::pitch;
#pragma unroll
  for (int i = 0; i < Tile::tokens * units; i += Tile::threads) {
    const int place = (i + int(threadIdx.x)) / units, unit = int(threadIdx.x) % units, t = token + place;
    cp_async(s.tokens + (stage * Tile::tokens + place) * pitch + 16 * unit, x.planes + (min(t, tokens - 1) * x.pitch + k + 8 * unit) * 2,
             t < tokens);
  }
}

// Puts a row's part of a step, which begins at `shift` bytes of its first vector, in order: four numbers of a word are two words of bf16.
template <class Tile> FOLIO_DEVICE void order_e4m3(const E4m3Stages<Tile>& s, int stage, int shift) {
  using Stages = E4m3Stages<Tile>;
  const int row = int(threadIdx.x) / Tile::of_row, first = int(threadIdx.x) % Tile::of_row;
  const auto* raw = reinterpret_cast<const uint32_t*>(s.raw + (stage * Tile::rows + row) * Stages::vectors) + shift / 4;
  for (int b = first; b < Stages::blocks / 2; b += Tile::of_row) s.scales[b * Tile::rows + row] = __uint_as_float(raw[17 * b]);
#pragma unroll
  for (int i = 0; i < Stages::k / 4; i += Tile::of_row) {
    const int word = i + first;
    const float4 q = unpack_e4m3(raw[word / 16 * 17 + 1 + word % 16]);
    const auto halves = [](float low, float high) { return __byte_perm(__float_as_uint(low), __float_as_uint(high), 0x7632); };
    st_vec(s.rows + row * Stages::pitch + 8 * word, make_uint2(halves(q.x, q.y), halves(q.z, q.w)));
  }
}

// 32 numbers of k.
template <class Tile> FOLIO_DEVICE void multiply_e4m3(const E4m3Stages<Tile>& s, int stage, int block, typename Tile::Sums& sum) {
  using Stages = E4m3Stages<Tile>;
  uint32_t b[2][Tile::R / 2][4];
  float2 scale[Tile::R];
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int r = 0; r < Tile::R / 2; ++r)
      row_fragments(b[half][r], s.rows, Stages::pitch, Tile::warp_row() + 16 * r, 64 * block + 32 * half);
#pragma unroll
  for (int r = 0; r < Tile::R; ++r)
    scale[r] = ld_vec<float2>(s.scales + block / 2 * Tile::rows + Tile::warp_row() + 8 * r + 2 * (lane_id() % 4));
#pragma unroll
  for (int m = 0; m < Tile::M; ++m) {
    float dot[Tile::R][4] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t a[4];
      token_fragment(a, s.tokens, Stages::pitch, stage * Tile::tokens + Tile::warp_token() + 16 * m, 64 * block + 32 * half);
#pragma unroll
      for (int r = 0; r < Tile::R; ++r) {
        const uint32_t rows[2] = {b[half][r / 2][r % 2 * 2], b[half][r / 2][r % 2 * 2 + 1]};
        mma_bf16(dot[r], a, rows);
      }
    }
#pragma unroll
    for (int r = 0; r < Tile::R; ++r)
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[m][r][i] = fmaf(dot[r][i], i % 2 ? scale[r].y : scale[r].x, sum[m][r][i]);
  }
}

template <class Tile, bool Gate, class Out>
FOLIO_DEVICE void multiply_tile_of_e4m3(const MatmulWeights& w, const RoundedTokens& x, const Out& out, int token, int feature) {
  using Stages = E4m3Stages<Tile>;
  static_assert(Stages::stages * Tile::tokens * Stages::pitch >= Tile::threads / 32 * patch_floats * int(sizeof(float)));
  Smem shared = Smem::here();
  const Stages s = Stages::take(shared);
  const int steps = int((w.k + Stages::k - 1) / Stages::k);
  const std::byte* const row = tile_row<Gate>(w, feature, int(threadIdx.x) / Tile::of_row);
  const auto from = [&](int step) { return row + int64_t(step) * Stages::raw_bytes; };
  const auto copy = [&](int step) {
    if (step < steps) {
      uint4* const raw = s.raw + (step % Stages::raw_stages * Tile::rows + int(threadIdx.x) / Tile::of_row) * Stages::vectors;
      copy_bytes(raw, from(step), row + w.k / 32 * BlocksE4m3::bytes, Stages::vectors, int(threadIdx.x) % Tile::of_row, Tile::of_row);
      copy_tokens(s, step % Stages::stages, x, token, out.tokens, int64_t(step) * Stages::k);
    }
    cp_async_commit();
  };
  typename Tile::Sums sum = {};
  for (int step = 0; step < Stages::stages - 1; ++step) copy(step);
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<Stages::stages - 2>();
    __syncthreads();  // all copies of this step are there, and nobody multiplies by the ordered rows of the last one
    order_e4m3(s, step % Stages::raw_stages, int(reinterpret_cast<uintptr_t>(from(step)) % 16));
    __syncthreads();
    copy(step + Stages::stages - 1);
#pragma unroll 1
    for (int b = Tile::warp_k(); b < Stages::blocks; b += Tile::k_warps) multiply_e4m3(s, step % Stages::stages, b, sum);
  }
  cp_async_wait<0>();
  if (add_parts<Tile>(sum, s.tokens)) put_tile<Tile, Gate>(out, sum, s.tokens, token + Tile::warp_token(), feature);
}

template <class Tile, bool Gate>
__global__ void __launch_bounds__(Tile::threads) many_e4m3(MatmulWeights w, RoundedTokens x, MatmulOut out) {
  multiply_tile_of_e4m3<Tile, Gate>(w, x, out, block_token<Tile>(), block_feature<Tile, Gate>());
}

}  // namespace folio
