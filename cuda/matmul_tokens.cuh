// SPDX-License-Identifier: MIT
// Tokens of Matmul in the form that tensor cores and integer dots want, written to scratch before the product: int8 in blocks of 32 for
// Q8_0 and Q4_0; bf16 for bf16 and F8_E4M3; for f16 the sum of two f16, for x must not lose bits there: 22 of them are left. A token is
// scaled by a power of two first, for f16 has no room for what f32 may hold; its largest number lands between 2^14 and 2^15, and of small
// ones what is left is 2^-39 of the largest.
#pragma once
#include "cuda/matmul.cuh"

namespace folio {

struct MatmulTokens {
  const float* x;
  int64_t stride;  // elements
  int tokens;
  int64_t k;
  FOLIO_DEVICE bool has(int) const { return true; }
  FOLIO_DEVICE const float* row(int64_t t) const { return x + t * stride; }
};

// Tokens as round_tokens leaves them: planes of rows of `pitch` numbers, `plane` bytes apart, and for f16 a factor for each token.
struct RoundedTokens {
  const std::byte* planes;
  const float* back;
  int64_t pitch, plane;
};

// matmul_hopper.cu: multiplies in the Hopper tier if that is chosen and suits the shape; says whether. Weights are f16 or bf16, and every
// row of theirs begins at a multiple of 16 bytes.
struct CudaQueue;
bool run_hopper(DType type, const MatmulWeights& w, const RoundedTokens& x, const MatmulOut& out, const CudaQueue& queue);

inline constexpr int token_threads = 256;

FOLIO_DEVICE bool is_finite(float x) { return fabsf(x) <= 3.402823466e38f; }

// Eight threads to a block of a token, a word of four numbers each, all threads of a block with one token. Infinity and NaN make the
// scale NaN.
template <bool Aligned, class Tokens>
__global__ void __launch_bounds__(token_threads) quantise_tokens(Tokens in, int records, std::byte* to) {
  const int i = int(blockIdx.x * (token_threads / 8) + threadIdx.x / 8), word = int(threadIdx.x % 8);
  const int b = i % (records * TokenRecord::blocks), t = i / (records * TokenRecord::blocks);
  if (!in.has(t)) return;
  float x[4] = {};
  if (b < in.k / 32) {
    const float* from = in.row(t) + 32 * b + 4 * word;
    if constexpr (Aligned) {
      const float4 v = ld_vec<float4>(from);
      x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
    } else {
      for (int j = 0; j < 4; ++j) x[j] = ld_vec<float>(from + j);
    }
  }
  float high = 0;
  for (float v : x) high = max(high, is_finite(v) ? fabsf(v) : __uint_as_float(0x7f800000u));
  high = warp_max<8>(high);
  const float factor = high > 1e-30f ? 127 / high : 0.0f;
  uint32_t q = 0;
#pragma unroll
  for (int j = 0; j < 4; ++j) q |= uint32_t(int(rintf(fmaxf(-127.0f, fminf(x[j] * factor, 127.0f)))) & 255) << 8 * j;
  std::byte* record = to + (int64_t(t) * records + b / TokenRecord::blocks) * TokenRecord::bytes;
  st_vec(record + word / 4 * TokenRecord::second + b % TokenRecord::blocks * 16 + word % 4 * 4, q);
  if (word == 0) st_vec(record + TokenRecord::scales + b % TokenRecord::blocks * 4, high / 127 + (high - high));
}

// One block of threads per token: bf16, or the two f16 that x·2^e is the sum of, `plane` bytes apart, and 2^-e in `back`. Rows hold
// `pitch` numbers, those from k on zeros.
template <bool Two, class Tokens>
__global__ void __launch_bounds__(token_threads) round_tokens(Tokens in, int64_t pitch, int64_t plane, std::byte* to, float* back) {
  const int t = int(blockIdx.x);
  if (!in.has(t)) return;
  const float* x = in.row(t);
  const auto at = [&](int64_t k) { return k < in.k ? ld_vec<float>(x + k) : 0.0f; };
  float factor = 1;
  if constexpr (Two) {
    float high = 0;
    for (int64_t k = threadIdx.x; k < in.k; k += token_threads) {
      const float v = at(k);
      high = max(high, is_finite(v) ? fabsf(v) : 0.0f);
    }
    const int exponent = int(__float_as_uint(block_max(high)) >> 23);      // biased by 127
    const int e = min(127 + 127 + 14 - exponent, 253);                     // 14 and up to 253: both factors are normal numbers
    factor = __uint_as_float(uint32_t(e) << 23);
    if (threadIdx.x == 0) st_vec(back + t, __uint_as_float(uint32_t(254 - e) << 23));
  }
  for (int64_t k = 2 * threadIdx.x; k < pitch; k += 2 * token_threads) {
    const float low = at(k) * factor, high = at(k + 1) * factor;
    std::byte* pair = to + (t * pitch + k) * 2;
    if constexpr (Two) {
      const uint32_t first = pack_f16(low, high);
      const float2 got = unpack_f16(first);
      st_vec(pair, first);
      st_vec(pair + plane, pack_f16(is_finite(low) ? low - got.x : 0.0f, is_finite(high) ? high - got.y : 0.0f));
    } else {
      st_vec(pair, pack_bf16(low, high));
    }
  }
}

}  // namespace folio
