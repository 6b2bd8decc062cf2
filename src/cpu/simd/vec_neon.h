// SPDX-License-Identifier: MIT
// Vec on NEON, the baseline of aarch64.
#pragma once
#include <arm_neon.h>

namespace folio {
namespace {

struct Vec {
  static constexpr int lanes = 4;
  float32x4_t v;
};
struct Mask { uint32x4_t m; };

FOLIO_INLINE Vec zero() { return {vdupq_n_f32(0)}; }
FOLIO_INLINE Vec splat(float x) { return {vdupq_n_f32(x)}; }
FOLIO_INLINE Vec operator+(Vec a, Vec b) { return {vaddq_f32(a.v, b.v)}; }
FOLIO_INLINE Vec operator-(Vec a, Vec b) { return {vsubq_f32(a.v, b.v)}; }
FOLIO_INLINE Vec operator*(Vec a, Vec b) { return {vmulq_f32(a.v, b.v)}; }
FOLIO_INLINE Vec operator/(Vec a, Vec b) { return {vdivq_f32(a.v, b.v)}; }
FOLIO_INLINE Vec fma(Vec a, Vec b, Vec c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
FOLIO_INLINE Vec nfma(Vec a, Vec b, Vec c) { return {vfmsq_f32(c.v, a.v, b.v)}; }
// vminq and vmaxq would hand a NaN on.
FOLIO_INLINE Vec min(Vec a, Vec b) { return {vbslq_f32(vcltq_f32(a.v, b.v), a.v, b.v)}; }
FOLIO_INLINE Vec max(Vec a, Vec b) { return {vbslq_f32(vcgtq_f32(a.v, b.v), a.v, b.v)}; }
FOLIO_INLINE Vec abs(Vec a) { return {vabsq_f32(a.v)}; }
FOLIO_INLINE Vec round(Vec a) { return {vrndnq_f32(a.v)}; }

FOLIO_INLINE Mask less(Vec a, Vec b) { return {vcltq_f32(a.v, b.v)}; }
FOLIO_INLINE Mask is_nan(Vec a) { return {vmvnq_u32(vceqq_f32(a.v, a.v))}; }
FOLIO_INLINE Mask first(int n) {
  const int32_t order[4] = {0, 1, 2, 3};
  return {vcgtq_s32(vdupq_n_s32(n), vld1q_s32(order))};
}
FOLIO_INLINE Vec select(Mask m, Vec yes, Vec no) { return {vbslq_f32(m.m, yes.v, no.v)}; }

// a · 2^n for a whole number n, −252 <= n <= 254: in two steps, so that results may be denormal or infinite.
FOLIO_INLINE Vec times_two_to(Vec a, Vec n) {
  const int32x4_t i = vcvtq_s32_f32(n.v), half = vshrq_n_s32(i, 1), bias = vdupq_n_s32(127);
  const int32x4_t p = vshlq_n_s32(vaddq_s32(half, bias), 23), q = vshlq_n_s32(vaddq_s32(vsubq_s32(i, half), bias), 23);
  return {vmulq_f32(vmulq_f32(a.v, vreinterpretq_f32_s32(p)), vreinterpretq_f32_s32(q))};
}

template <class Number>
FOLIO_INLINE void copy_n(Number* to, const Number* from, int n) {
  for (int i = 0; i < n; ++i) to[i] = from[i];
}
FOLIO_INLINE Vec load(const float* p) { return {vld1q_f32(p)}; }
FOLIO_INLINE Vec held(Vec a) {
  __asm__("" : "+w"(a.v));
  return a;
}
FOLIO_INLINE Vec load_n(const float* p, int n) {
  float part[4] = {};
  copy_n(part, p, n);
  return load(part);
}
FOLIO_INLINE void store(float* p, Vec a) { vst1q_f32(p, a.v); }
FOLIO_INLINE void store_n(float* p, Vec a, int n) {
  float part[4];
  store(part, a);
  copy_n(p, part, n);
}

FOLIO_INLINE uint16x4_t four_n(const uint16_t* p, int n) {
  uint16_t part[4] = {};
  copy_n(part, p, n);
  return vld1_u16(part);
}
FOLIO_INLINE void put_n(uint16_t* p, uint16x4_t a, int n) {
  uint16_t part[4];
  vst1_u16(part, a);
  copy_n(p, part, n);
}
FOLIO_INLINE Vec f16_bits(uint16x4_t h) { return {vcvt_f32_f16(vreinterpret_f16_u16(h))}; }
FOLIO_INLINE Vec bf16_bits(uint16x4_t h) { return {vreinterpretq_f32_u32(vshll_n_u16(h, 16))}; }
FOLIO_INLINE Vec load_f16(const uint16_t* p) { return f16_bits(vld1_u16(p)); }
FOLIO_INLINE Vec load_f16_n(const uint16_t* p, int n) { return f16_bits(four_n(p, n)); }
FOLIO_INLINE Vec load_bf16(const uint16_t* p) { return bf16_bits(vld1_u16(p)); }
FOLIO_INLINE Vec load_bf16_n(const uint16_t* p, int n) { return bf16_bits(four_n(p, n)); }

FOLIO_INLINE Vec load_i8(const int8_t* p) {
  uint32_t four;
  __builtin_memcpy(&four, p, 4);
  return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(four))))))};
}
FOLIO_INLINE Vec splat_f16(const void* p) {
  uint16_t h;
  __builtin_memcpy(&h, p, 2);
  return f16_bits(vdup_n_u16(h));
}
FOLIO_INLINE Vec load_e4m3(const uint8_t* p) {
  uint32_t four;
  __builtin_memcpy(&four, p, 4);
  const int16x4_t wide = vget_low_s16(vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(four))));   // the sign above all the rest
  return f16_bits(vand_u16(vreinterpret_u16_s16(vshl_n_s16(wide, 7)), vdup_n_u16(0xbfff)));
}
// Bytes with all but the sign set.
FOLIO_INLINE bool any_nan_e4m3(const uint8_t* p) {
  auto set = [p](int i) { return vorrq_u8(vld1q_u8(p + 16 * i), vdupq_n_u8(0x80)); };
  return vmaxvq_u8(vmaxq_u8(vmaxq_u8(set(0), set(1)), vmaxq_u8(set(2), set(3)))) == 0xff;
}

FOLIO_INLINE uint16x4_t f16_of(Vec a) { return vreinterpret_u16_f16(vcvt_f16_f32(a.v)); }
FOLIO_INLINE void store_f16(uint16_t* p, Vec a) { vst1_u16(p, f16_of(a)); }
FOLIO_INLINE void store_f16_n(uint16_t* p, Vec a, int n) { put_n(p, f16_of(a), n); }
FOLIO_INLINE uint16x4_t bf16_of(Vec a) {
  const uint32x4_t u = vreinterpretq_u32_f32(a.v), high = vshrq_n_u32(u, 16);
  const uint32x4_t even = vandq_u32(high, vdupq_n_u32(1));
  const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(u, vaddq_u32(even, vdupq_n_u32(0x7fff))), 16);
  return vmovn_u32(vbslq_u32(is_nan(a).m, vorrq_u32(high, vdupq_n_u32(64)), rounded));
}
FOLIO_INLINE void store_bf16(uint16_t* p, Vec a) { vst1_u16(p, bf16_of(a)); }
FOLIO_INLINE void store_bf16_n(uint16_t* p, Vec a, int n) { put_n(p, bf16_of(a), n); }

FOLIO_INLINE float sum(Vec a) { return vaddvq_f32(a.v); }
FOLIO_INLINE float highest(Vec a) { return vmaxvq_f32(a.v); }

// Integers: see the end of vec.h.
struct Ints { int32x4_t v; };
constexpr int32_t dot_start = 0x4b400000;
constexpr int q8_offset = 0;

FOLIO_INLINE int dword(const void* p) {
  int i;
  __builtin_memcpy(&i, p, 4);
  return i;
}
FOLIO_INLINE Ints load_ints(const void* p) { return {vreinterpretq_s32_u8(vld1q_u8(static_cast<const uint8_t*>(p)))}; }
FOLIO_INLINE Ints splat_ints(const void* p) { return {vdupq_n_s32(dword(p))}; }
FOLIO_INLINE Ints ints_of(Vec a) { return {vcvtnq_s32_f32(a.v)}; }
FOLIO_INLINE Ints operator+(Ints a, Ints b) { return {vaddq_s32(a.v, b.v)}; }
FOLIO_INLINE void store_ints(void* p, Ints a) { vst1q_u8(static_cast<uint8_t*>(p), vreinterpretq_u8_s32(a.v)); }
FOLIO_INLINE Ints dot_q8(Ints sum, Ints w, Ints x) {
  const int8x16_t a = vreinterpretq_s8_s32(w.v), b = vreinterpretq_s8_s32(x.v);
#ifdef __ARM_FEATURE_DOTPROD
  return {vdotq_s32(sum.v, a, b)};
#else
  const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b))), high = vpaddlq_s16(vmull_high_s8(a, b));
  return {vaddq_s32(sum.v, vpaddq_s32(low, high))};
#endif
}
FOLIO_INLINE Ints dot_q4(Ints sum, Ints w, Ints x) { return dot_q8(sum, w, x); }
FOLIO_INLINE Vec minus_start(Vec d) { return d * splat(-12582912.0f); }
FOLIO_INLINE Vec scaled(Ints dot, Vec d, Vec minus) { return {vfmaq_f32(minus.v, vreinterpretq_f32_s32(dot.v), d.v)}; }
FOLIO_INLINE void store_i8(int8_t* p, Vec a) {
  const int16x4_t h = vqmovn_s32(vcvtnq_s32_f32(a.v));
  const int8x8_t b = vqmovn_s16(vcombine_s16(h, h));
  for (int i = 0; i < 4; ++i) {
    int8_t all[8];
    vst1_s8(all, b);
    p[i] = all[i];
  }
}

// Four blocks' 16 bytes as a square of dwords, transposed.
FOLIO_INLINE void columns_of_halves(const uint8_t* p, size_t stride, int32x4_t* to) {
  const int32x4_t a = load_ints(p).v, b = load_ints(p + stride).v, c = load_ints(p + 2 * stride).v, d = load_ints(p + 3 * stride).v;
  const int64x2_t ab = vreinterpretq_s64_s32(vtrn1q_s32(a, b)), cd = vreinterpretq_s64_s32(vtrn1q_s32(c, d));
  const int64x2_t ef = vreinterpretq_s64_s32(vtrn2q_s32(a, b)), gh = vreinterpretq_s64_s32(vtrn2q_s32(c, d));
  to[0] = vreinterpretq_s32_s64(vtrn1q_s64(ab, cd));
  to[1] = vreinterpretq_s32_s64(vtrn1q_s64(ef, gh));
  to[2] = vreinterpretq_s32_s64(vtrn2q_s64(ab, cd));
  to[3] = vreinterpretq_s32_s64(vtrn2q_s64(ef, gh));
}
FOLIO_INLINE void columns_of_blocks(const uint8_t* p, size_t stride, Ints* to) {
  int32x4_t low[4], high[4];
  columns_of_halves(p, stride, low);
  columns_of_halves(p + 16, stride, high);
  for (int j = 0; j < 4; ++j) {
    to[j].v = low[j];
    to[4 + j].v = high[j];
  }
}
FOLIO_INLINE void columns_q8(const uint8_t* p, size_t stride, Ints* to) { columns_of_blocks(p, stride, to); }
FOLIO_INLINE void columns_q4(const uint8_t* p, size_t stride, Ints* to) {
  int32x4_t pairs[4];
  columns_of_halves(p, stride, pairs);
  for (int j = 0; j < 4; ++j) {
    const uint8x16_t both = vreinterpretq_u8_s32(pairs[j]);
    to[j].v = vreinterpretq_s32_u8(vandq_u8(both, vdupq_n_u8(15)));
    to[4 + j].v = vreinterpretq_s32_u8(vshrq_n_u8(both, 4));
  }
}
FOLIO_INLINE Vec f16_of_blocks(const uint8_t* p, size_t stride) {
  uint16_t h[4];
  for (size_t i = 0; i < 4; ++i) __builtin_memcpy(h + i, p + i * stride, 2);
  return load_f16(h);
}
FOLIO_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }

}  // namespace
}  // namespace folio
