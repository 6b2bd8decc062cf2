// SPDX-License-Identifier: MIT
// Vec: a register of floats, as wide as the instruction set that this object is compiled for, and all that inner loops do with
// one. The intrinsics live in vec_SET.h; everything below is written on them and so exists once.
//
//   Vec::lanes                       16 avx512, 8 avx2, 4 neon and plain
//   load, store, *_n                 whole registers; *_n touch only the first n lanes' memory (0 <= n <= lanes), the others read 0
//   held(a)                          a, in a register: the compiler may not read it from memory again for each use
//   load_f16, load_bf16, store_f16, store_bf16, *_n      the same from and to 16-bit numbers; rounding to nearest even
//   load_i8(p), splat_f16(p)     `lanes` signed bytes as floats; the f16 at p in every lane
//   load_e4m3(p)                 of `lanes` bytes: q·2^-8, as exponent and fraction stand in the place of an f16's; NaN becomes ±1.875
//   any_nan_e4m3(p)              whether one of 64 bytes is NaN
//   + - *, fma(a,b,c) = a·b + c, nfma(a,b,c) = c − a·b   one rounding where the processor has it (all but plain on x86)
//   min, max, abs, round             max(a, b) and min(a, b) give b if one of them is NaN
//   less(a, b), first(n), select     masks
//   sum, highest                     over the lanes, always in the same order
//   exp, sigmoid, tanh, normal_cdf   below
//
// Everything is in an anonymous namespace and no library header is used: see kernels.cpp.
#pragma once
#include <stddef.h>
#include <stdint.h>

#define FOLIO_INLINE __attribute__((always_inline)) inline
#define FOLIO_UNROLL _Pragma("GCC unroll 16")

// SIMD_NAME as a number, for #if. Not the compiler's own macros: `plain` must stay plain whatever flags the build adds.
#define FOLIO_SET_plain 0
#define FOLIO_SET_avx2 1
#define FOLIO_SET_avx512 2
#define FOLIO_SET_avx512_bf16 3
#define FOLIO_SET_neon 4
#define FOLIO_SET_PASTE(name) FOLIO_SET_##name
#define FOLIO_SET_OF(name) FOLIO_SET_PASTE(name)
#define FOLIO_SET FOLIO_SET_OF(SIMD_NAME)

#if FOLIO_SET == FOLIO_SET_avx512 || FOLIO_SET == FOLIO_SET_avx512_bf16
#include "cpu/simd/vec_avx512.h"
#elif FOLIO_SET == FOLIO_SET_avx2
#include "cpu/simd/vec_avx2.h"
#elif FOLIO_SET == FOLIO_SET_neon
#include "cpu/simd/vec_neon.h"
#else
#include "cpu/simd/vec_plain.h"
#endif

namespace folio {
namespace {

// The number, or the four bytes, at p in every lane.
FOLIO_INLINE Vec splat_at(const void* p) {
  float x;
  __builtin_memcpy(&x, p, 4);
  return splat(x);
}

FOLIO_INLINE Vec operator-(Vec a) { return zero() - a; }
FOLIO_INLINE Vec& operator+=(Vec& a, Vec b) { return a = a + b; }
FOLIO_INLINE Vec& operator*=(Vec& a, Vec b) { return a = a * b; }

// One number of a row in format f32, f16 or bf16, by the name of the type alone.
struct F32Row {
  using Number = float;
  static FOLIO_INLINE Vec load(const float* p) { return folio::load(p); }
  static FOLIO_INLINE Vec load_n(const float* p, int n) { return folio::load_n(p, n); }
};
struct F16Row {
  using Number = uint16_t;
  static FOLIO_INLINE Vec load(const uint16_t* p) { return load_f16(p); }
  static FOLIO_INLINE Vec load_n(const uint16_t* p, int n) { return load_f16_n(p, n); }
};
struct Bf16Row {
  using Number = uint16_t;
  static FOLIO_INLINE Vec load(const uint16_t* p) { return load_bf16(p); }
  static FOLIO_INLINE Vec load_n(const uint16_t* p, int n) { return load_bf16_n(p, n); }
};

// e^x within 1 ulp or so; 0 below −104, infinity above 88.8, NaN stays NaN. x = n·ln 2 + r, e^r by a polynomial fitted over
// |r| <= ln(2)/2 (relative error 3e-9 before rounding). ln 2 in two parts, so that r is exact.
FOLIO_INLINE Vec exp(Vec x) {
  // The bounds keep n within what times_two_to takes; x second in both, for that is what a NaN gets through.
  const Vec y = min(splat(104), max(splat(-110), x));
  const Vec n = round(y * splat(1.44269504f));
  const Vec r = nfma(n, splat(-2.12194440e-4f), nfma(n, splat(0.693359375f), y));
  Vec p = splat(1.3814537894e-3f);
  p = fma(p, r, splat(8.3687453201e-3f));
  p = fma(p, r, splat(4.1668390831e-2f));
  p = fma(p, r, splat(1.6666520397e-1f));
  p = fma(p, r, splat(4.9999993432e-1f));
  p = fma(p, r * r, r) + splat(1);
  return times_two_to(p, n);
}

// 1/(1 + e^−x)
FOLIO_INLINE Vec sigmoid(Vec x) { return splat(1) / (splat(1) + exp(-x)); }

// Near 0 an odd polynomial (relative error 4e-9), since 1 − 2/(e^2x + 1) loses its digits there.
FOLIO_INLINE Vec tanh(Vec x) {
  const Vec u = x * x;
  Vec p = splat(-5.7170365616e-3f);
  p = fma(p, u, splat(2.0650579004e-2f));
  p = fma(p, u, splat(-5.3743495261e-2f));
  p = fma(p, u, splat(1.3331491249e-1f));
  p = fma(p, u, splat(-3.3333283924e-1f));
  const Vec small = fma(p * u, x, x);
  const Vec large = splat(1) - splat(2) / (exp(x + x) + splat(1));
  return select(less(abs(x), splat(0.625f)), small, large);
}

// Φ(x) = (1 + erf(x/√2))/2. With z = |x|/√2 and t = 1/(1 + z/2): erfc(z) = e^−z² · t · P(t), P fitted to a relative 4e-8, so that
// the lower tail keeps its digits too.
FOLIO_INLINE Vec normal_cdf(Vec x) {
  const Vec z = abs(x) * splat(0.70710678f);
  const Vec t = splat(1) / fma(z, splat(0.5f), splat(1));
  Vec p = splat(-5.9069215658e-2f);
  p = fma(p, t, splat(2.8457616881e-1f));
  p = fma(p, t, splat(-4.8720230019e-1f));
  p = fma(p, t, splat(2.7806978789e-1f));
  p = fma(p, t, splat(-2.6627384905e-2f));
  p = fma(p, t, splat(2.0268755431e-1f));
  p = fma(p, t, splat(2.4310360112e-1f));
  p = fma(p, t, splat(2.8237532904e-1f));
  p = fma(p, t, splat(2.8208641680e-1f));
  const Vec half_erfc = splat(0.5f) * t * p * exp(-(z * z));
  return select(less(x, zero()), half_erfc, splat(1) - half_erfc);
}

// Integers, for products of quantised weights with quantised activations. A lane holds 4 bytes, or one sum of 32 bits, of one
// block of 32 numbers; so `lanes` blocks lie side by side, and a block is eight registers deep:
//
//   register j:   | block 0: 4j .. 4j+3 | block 1: 4j .. 4j+3 | ... | block lanes−1: 4j .. 4j+3 |      j = 0 .. 7
//
//   columns_q8(p, stride, to)    those eight registers of `lanes` blocks of 32 signed bytes, `stride` apart, plus q8_offset
//   columns_q4                   of blocks of 16 bytes of nibbles: 0 .. 15, low ones first
//   columns_of_blocks            of 32 bytes as they are
//   f16_of_blocks(p, stride)     their f16 scales
//   splat_ints(p), ints_of(v)    the four bytes at p in every lane; whole numbers as integers
//   dot_q8, dot_q4(sum, w, x)    sum + Σ of 4 products w·x a lane, exact
//   dot_start, scaled            A sum starts at dot_start = the bits of 1.5·2^23, so that its bits are the float 1.5·2^23 + sum, and
//                                scaled(sum, d, minus_start(d)) = (1.5·2^23 + sum)·d − 1.5·2^23·d = sum·d is one fused multiply-add:
//                                exact, for 1.5·2^23 times an f16 fits a float. |sum| <= 32·128·127 < 2^22.
//   store_i8                     whole numbers within −128 .. 127 to bytes

}  // namespace
}  // namespace folio
