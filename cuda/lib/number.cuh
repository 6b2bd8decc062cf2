// SPDX-License-Identifier: MIT
// Small number formats and fast arithmetic on the device. bf16, f16 and e4m3 are storage: they are read into float, computed with
// there and written back, each by one instruction where the chip has it. Our own types, so that host, device and simulator agree on
// them and no header of 10,000 lines stands behind one conversion.
//
// Errors of the fast functions are the PTX manual's: exp2_fast 2 ulp, log2_fast 2^-22 absolute near 1, rsqrt_fast and rcp_fast 2^-23
// relative, tanh_fast 2^-11 relative. All flush denormals. The simulator computes them exactly rounded instead.
#pragma once
#include "cuda/lib/launch.cuh"

namespace folio {

struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };
struct e4m3 { uint8_t bits; };  // sign, 4 bits of exponent with bias 7, 3 of mantissa; largest 448, no infinity, NaN is 0x7f

FOLIO_DEVICE float to_float(float x) { return x; }
FOLIO_DEVICE float to_float(bf16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }
FOLIO_DEVICE float to_float(f16 x) {
  FOLIO_SIM(return sim::f16_to_float(x.bits);)
  FOLIO_GPU(float y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits)); return y;)
}

// Two numbers in a word, the first in the low half: as fragments of mma and vector loads have them. Rounded to nearest, ties to even.
FOLIO_DEVICE uint32_t pack_bf16(float low, float high) {
#ifdef FOLIO_CUDA_SIM
  const auto half = [](float x) -> uint32_t {
    const uint32_t u = __float_as_uint(x);
    return (u & 0x7fffffffu) > 0x7f800000u ? 0x7fffu : (u + 0x7fffu + (u >> 16 & 1)) >> 16;  // every NaN becomes 0x7fff
  };
  return half(low) | half(high) << 16;
#else
  uint32_t y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
#endif
}
FOLIO_DEVICE uint32_t pack_f16(float low, float high) {
  FOLIO_SIM(return sim::f16_from_float(low) | uint32_t(sim::f16_from_float(high)) << 16;)
  FOLIO_GPU(uint32_t y; asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low)); return y;)
}
FOLIO_DEVICE float2 unpack_bf16(uint32_t pair) { return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)); }
FOLIO_DEVICE float2 unpack_f16(uint32_t pair) { return make_float2(to_float(f16{uint16_t(pair)}), to_float(f16{uint16_t(pair >> 16)})); }

FOLIO_DEVICE bf16 to_bf16(float x) { return {uint16_t(pack_bf16(x, 0.0f))}; }
FOLIO_DEVICE f16 to_f16(float x) { return {uint16_t(pack_f16(x, 0.0f))}; }

// One name for code that is a template over the type it stores.
template <class T> FOLIO_DEVICE T from_float(float x);
template <> FOLIO_DEVICE float from_float<float>(float x) { return x; }
template <> FOLIO_DEVICE bf16 from_float<bf16>(float x) { return to_bf16(x); }
template <> FOLIO_DEVICE f16 from_float<f16>(float x) { return to_f16(x); }

// e4m3 by shifts: any sm_80, and the simulator. Below 2^-6 the format is denormal with steps of 2^-9.
FOLIO_DEVICE float e4m3_by_shifts(uint8_t bits) {
  const uint32_t magnitude = bits & 0x7fu, sign = uint32_t(bits & 0x80u) << 24;
  if (magnitude == 0x7f) return __uint_as_float(sign | 0x7fffffffu);
  if (magnitude < 8) return __uint_as_float(sign | __float_as_uint(float(magnitude) * 0x1p-9f));
  return __uint_as_float(sign | ((magnitude << 20) + (120u << 23)));  // the biases differ by 120
}
FOLIO_DEVICE uint8_t e4m3_by_shifts(float x) {
  const uint32_t u = __float_as_uint(x), sign = u >> 24 & 0x80u, magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7f;                               // NaN, without its sign as the instruction has it
  if (magnitude >= 0x43e80000u) return uint8_t(sign | 0x7eu);             // from 464, half way to what would be 480: the largest
  if (magnitude < 0x3c800000u)                                            // below 2^-6: 2^14 + x/2^-9 leaves the integer in the last bits
    return uint8_t(sign | ((__float_as_uint(__uint_as_float(magnitude) + 16384.0f)) & 0xfu));
  const uint32_t rounded = magnitude + 0x7ffffu + (magnitude >> 20 & 1);  // to three bits of mantissa
  const uint32_t code = (rounded - (120u << 23)) >> 20;
  return uint8_t(sign | (code < 0x7eu ? code : 0x7eu));
}
FOLIO_DEVICE float to_float(e4m3 x) {
#if !defined(FOLIO_CUDA_SIM) && FOLIO_SM90
  uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(uint16_t(x.bits)));
  return to_float(f16{uint16_t(halves)});
#else
  return e4m3_by_shifts(x.bits);
#endif
}
// Four in a word, the first in the low byte.
FOLIO_DEVICE float4 unpack_e4m3(uint32_t word) {
#if !defined(FOLIO_CUDA_SIM) && FOLIO_SM90
  uint32_t low, high;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(low) : "h"(uint16_t(word)));
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(high) : "h"(uint16_t(word >> 16)));
  const float2 a = unpack_f16(low), b = unpack_f16(high);
  return make_float4(a.x, a.y, b.x, b.y);
#else
  return make_float4(e4m3_by_shifts(uint8_t(word)), e4m3_by_shifts(uint8_t(word >> 8)), e4m3_by_shifts(uint8_t(word >> 16)),
                     e4m3_by_shifts(uint8_t(word >> 24)));
#endif
}
// Nearest, ties to even; what is too large becomes ±448.
FOLIO_DEVICE e4m3 to_e4m3(float x) {
#if !defined(FOLIO_CUDA_SIM) && FOLIO_SM90
  uint16_t pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(x));
  return {uint8_t(pair)};
#else
  return {e4m3_by_shifts(x)};
#endif
}
template <> FOLIO_DEVICE e4m3 from_float<e4m3>(float x) { return to_e4m3(x); }

// What mma_tf32 multiplies: a float whose last 13 bits are zero, rounded to nearest with ties away from zero.
FOLIO_DEVICE uint32_t to_tf32(float x) {
  FOLIO_SIM(return __builtin_isfinite(x) ? (__float_as_uint(x) + 0x1000u) & 0xffffe000u : __float_as_uint(x);)
  FOLIO_GPU(uint32_t y; asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x)); return y;)
}

FOLIO_DEVICE float exp2_fast(float x) {
  FOLIO_SIM(return std::exp2(x);)
  FOLIO_GPU(float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y;)
}
FOLIO_DEVICE float exp_fast(float x) { return exp2_fast(x * 1.44269504f); }
FOLIO_DEVICE float log2_fast(float x) {
  FOLIO_SIM(return std::log2(x);)
  FOLIO_GPU(float y; asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y;)
}
FOLIO_DEVICE float rsqrt_fast(float x) {
  FOLIO_SIM(return float(1 / std::sqrt(double(x)));)
  FOLIO_GPU(float y; asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y;)
}
FOLIO_DEVICE float rcp_fast(float x) {
  FOLIO_SIM(return 1 / x;)
  FOLIO_GPU(float y; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y;)
}
FOLIO_DEVICE float tanh_fast(float x) {
  FOLIO_SIM(return std::tanh(x);)
  FOLIO_GPU(float y; asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x)); return y;)
}

}  // namespace folio
