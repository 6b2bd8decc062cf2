// SPDX-License-Identifier: MIT
// Vec on AVX2 with FMA and F16C.
#pragma once
#include <immintrin.h>

namespace folio {
namespace {

struct Vec {
  static constexpr int lanes = 8;
  __m256 v;
};
struct Mask { __m256 m; };

FOLIO_INLINE Vec zero() { return {_mm256_setzero_ps()}; }
FOLIO_INLINE Vec splat(float x) { return {_mm256_set1_ps(x)}; }
FOLIO_INLINE Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
FOLIO_INLINE Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
FOLIO_INLINE Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
FOLIO_INLINE Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
FOLIO_INLINE Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
FOLIO_INLINE Vec nfma(Vec a, Vec b, Vec c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
FOLIO_INLINE Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
FOLIO_INLINE Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
FOLIO_INLINE Vec abs(Vec a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
FOLIO_INLINE Vec round(Vec a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }

FOLIO_INLINE Mask less(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
FOLIO_INLINE Mask is_nan(Vec a) { return {_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q)}; }
FOLIO_INLINE Mask first(int n) {
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)))};
}
FOLIO_INLINE Vec select(Mask m, Vec yes, Vec no) { return {_mm256_blendv_ps(no.v, yes.v, m.m)}; }

// a · 2^n for a whole number n, −252 <= n <= 254: in two steps, so that results may be denormal or infinite.
FOLIO_INLINE Vec times_two_to(Vec a, Vec n) {
  const __m256i i = _mm256_cvtps_epi32(n.v), half = _mm256_srai_epi32(i, 1), bias = _mm256_set1_epi32(127);
  const __m256i p = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i q = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(i, half), bias), 23);
  return {_mm256_mul_ps(_mm256_mul_ps(a.v, _mm256_castsi256_ps(p)), _mm256_castsi256_ps(q))};
}

FOLIO_INLINE Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
FOLIO_INLINE Vec held(Vec a) {
  __asm__("" : "+x"(a.v));
  return a;
}
FOLIO_INLINE Vec load_n(const float* p, int n) { return {_mm256_maskload_ps(p, _mm256_castps_si256(first(n).m))}; }
FOLIO_INLINE void store(float* p, Vec a) { _mm256_storeu_ps(p, a.v); }
FOLIO_INLINE void store_n(float* p, Vec a, int n) { _mm256_maskstore_ps(p, _mm256_castps_si256(first(n).m), a.v); }

FOLIO_INLINE __m128i eight(const uint16_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
FOLIO_INLINE __m128i eight_n(const uint16_t* p, int n) {
  uint16_t part[8] = {};
  for (int i = 0; i < n; ++i) part[i] = p[i];
  return eight(part);
}
FOLIO_INLINE void put_n(uint16_t* p, __m128i a, int n) {
  uint16_t part[8];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(part), a);
  for (int i = 0; i < n; ++i) p[i] = part[i];
}
FOLIO_INLINE Vec bf16_bits(__m128i h) { return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16))}; }
FOLIO_INLINE Vec load_f16(const uint16_t* p) { return {_mm256_cvtph_ps(eight(p))}; }
FOLIO_INLINE Vec load_f16_n(const uint16_t* p, int n) { return {_mm256_cvtph_ps(eight_n(p, n))}; }
FOLIO_INLINE Vec load_bf16(const uint16_t* p) { return bf16_bits(eight(p)); }
FOLIO_INLINE Vec load_bf16_n(const uint16_t* p, int n) { return bf16_bits(eight_n(p, n)); }

FOLIO_INLINE Vec load_i8(const int8_t* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
}
FOLIO_INLINE Vec splat_f16(const void* p) {
  int16_t h;
  __builtin_memcpy(&h, p, 2);
  return {_mm256_cvtph_ps(_mm_set1_epi16(h))};
}
FOLIO_INLINE Vec load_e4m3(const uint8_t* p) {
  const __m128i wide = _mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));   // the sign above all the rest
  return {_mm256_cvtph_ps(_mm_and_si128(_mm_slli_epi16(wide, 7), _mm_set1_epi16(int16_t(0xbfff))))};
}
// Bytes with all but the sign set.
FOLIO_INLINE bool any_nan_e4m3(const uint8_t* p) {
  const __m256i* at = reinterpret_cast<const __m256i*>(p);
  const __m256i sign = _mm256_set1_epi8(int8_t(0x80)), low = _mm256_or_si256(_mm256_loadu_si256(at), sign);
  const __m256i most = _mm256_max_epu8(low, _mm256_or_si256(_mm256_loadu_si256(at + 1), sign));
  return _mm256_movemask_epi8(_mm256_cmpeq_epi8(most, _mm256_set1_epi8(-1))) != 0;
}

FOLIO_INLINE __m128i f16_of(Vec a) { return _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
FOLIO_INLINE void store_f16(uint16_t* p, Vec a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), f16_of(a)); }
FOLIO_INLINE void store_f16_n(uint16_t* p, Vec a, int n) { put_n(p, f16_of(a), n); }
FOLIO_INLINE __m128i bf16_of(Vec a) {
  const __m256i u = _mm256_castps_si256(a.v), high = _mm256_srli_epi32(u, 16);
  const __m256i even = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(even, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(64));
  const __m256i h = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(is_nan(a).m));
  return _mm_packus_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
}
FOLIO_INLINE void store_bf16(uint16_t* p, Vec a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bf16_of(a)); }
FOLIO_INLINE void store_bf16_n(uint16_t* p, Vec a, int n) { put_n(p, bf16_of(a), n); }

FOLIO_INLINE float sum(Vec a) {
  const __m128 c = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}
FOLIO_INLINE float highest(Vec a) {
  const __m128 c = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 d = _mm_max_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)));
}

// Integers: see the end of vec.h.
struct Ints { __m256i v; };
constexpr int32_t dot_start = 0x4b400000;
constexpr int q8_offset = 0;

FOLIO_INLINE int dword(const void* p) {
  int i;
  __builtin_memcpy(&i, p, 4);
  return i;
}
FOLIO_INLINE Ints load_ints(const void* p) { return {_mm256_loadu_si256(static_cast<const __m256i*>(p))}; }
FOLIO_INLINE Ints splat_ints(const void* p) { return {_mm256_set1_epi32(dword(p))}; }
FOLIO_INLINE Ints ints_of(Vec a) { return {_mm256_cvtps_epi32(a.v)}; }
FOLIO_INLINE Ints operator+(Ints a, Ints b) { return {_mm256_add_epi32(a.v, b.v)}; }
FOLIO_INLINE void store_ints(void* p, Ints a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a.v); }
// maddubs saturates at 32767: |w| <= 128 and |x| <= 127 stay below (2·128·127 = 32512), w + 128 would not.
FOLIO_INLINE Ints dot_q8(Ints sum, Ints w, Ints x) {
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w.v), _mm256_sign_epi8(x.v, w.v));
  return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))};
}
FOLIO_INLINE Ints dot_q4(Ints sum, Ints w, Ints x) {
  return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(_mm256_maddubs_epi16(w.v, x.v), _mm256_set1_epi16(1)))};
}
FOLIO_INLINE Vec minus_start(Vec d) { return d * splat(-12582912.0f); }
FOLIO_INLINE Vec scaled(Ints dot, Vec d, Vec minus) { return {_mm256_fmadd_ps(_mm256_castsi256_ps(dot.v), d.v, minus.v)}; }
FOLIO_INLINE void store_i8(int8_t* p, Vec a) {
  const __m256i i = _mm256_cvtps_epi32(a.v);
  const __m128i h = _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(h, h));
}

FOLIO_INLINE __m256i join_halves(const uint8_t* p, const uint8_t* q) {
  const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(q));
  return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}
// Four registers as 4x4 squares of dwords, each square within 128 bits, transposed. Blocks 0-3 are the low squares' rows.
FOLIO_INLINE void columns_of_halves(const uint8_t* p, size_t stride, __m256i* to) {
  const __m256i a = join_halves(p, p + 4 * stride), b = join_halves(p + stride, p + 5 * stride);
  const __m256i c = join_halves(p + 2 * stride, p + 6 * stride), d = join_halves(p + 3 * stride, p + 7 * stride);
  const __m256i ab = _mm256_unpacklo_epi32(a, b), cd = _mm256_unpacklo_epi32(c, d);
  const __m256i ef = _mm256_unpackhi_epi32(a, b), gh = _mm256_unpackhi_epi32(c, d);
  to[0] = _mm256_unpacklo_epi64(ab, cd);
  to[1] = _mm256_unpackhi_epi64(ab, cd);
  to[2] = _mm256_unpacklo_epi64(ef, gh);
  to[3] = _mm256_unpackhi_epi64(ef, gh);
}
FOLIO_INLINE void columns_of_blocks(const uint8_t* p, size_t stride, Ints* to) {
  __m256i low[4], high[4];
  columns_of_halves(p, stride, low);
  columns_of_halves(p + 16, stride, high);
  for (int j = 0; j < 4; ++j) {
    to[j].v = low[j];
    to[4 + j].v = high[j];
  }
}
FOLIO_INLINE void columns_q8(const uint8_t* p, size_t stride, Ints* to) { columns_of_blocks(p, stride, to); }
FOLIO_INLINE void columns_q4(const uint8_t* p, size_t stride, Ints* to) {
  __m256i pairs[4];
  columns_of_halves(p, stride, pairs);
  const __m256i nibble = _mm256_set1_epi8(15);
  for (int j = 0; j < 4; ++j) {
    to[j].v = _mm256_and_si256(pairs[j], nibble);
    to[4 + j].v = _mm256_and_si256(_mm256_srli_epi16(pairs[j], 4), nibble);
  }
}
FOLIO_INLINE Vec f16_of_blocks(const uint8_t* p, size_t stride) {
  uint16_t h[8];
  for (size_t i = 0; i < 8; ++i) __builtin_memcpy(h + i, p + i * stride, 2);
  return {_mm256_cvtph_ps(_mm_setr_epi16(int16_t(h[0]), int16_t(h[1]), int16_t(h[2]), int16_t(h[3]), int16_t(h[4]), int16_t(h[5]),
                                         int16_t(h[6]), int16_t(h[7])))};
}
FOLIO_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

}  // namespace
}  // namespace folio
