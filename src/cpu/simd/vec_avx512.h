// SPDX-License-Identifier: MIT
// Vec on AVX-512 (F, BW, DQ, VL, VNNI; BF16 in the set of that name).
#pragma once
#include <immintrin.h>

namespace folio {
namespace {

struct Vec {
  static constexpr int lanes = 16;
  __m512 v;
};
struct Mask { __mmask16 m; };

FOLIO_INLINE Vec zero() { return {_mm512_setzero_ps()}; }
FOLIO_INLINE Vec splat(float x) { return {_mm512_set1_ps(x)}; }
FOLIO_INLINE Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
FOLIO_INLINE Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
FOLIO_INLINE Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
FOLIO_INLINE Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
FOLIO_INLINE Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
FOLIO_INLINE Vec nfma(Vec a, Vec b, Vec c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
FOLIO_INLINE Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
FOLIO_INLINE Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
FOLIO_INLINE Vec abs(Vec a) { return {_mm512_abs_ps(a.v)}; }
FOLIO_INLINE Vec round(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }

FOLIO_INLINE Mask less(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
FOLIO_INLINE Mask is_nan(Vec a) { return {_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q)}; }
FOLIO_INLINE Mask first(int n) { return {__mmask16((1u << n) - 1)}; }
FOLIO_INLINE Vec select(Mask m, Vec yes, Vec no) { return {_mm512_mask_blend_ps(m.m, no.v, yes.v)}; }

// a · 2^n for a whole number n
FOLIO_INLINE Vec times_two_to(Vec a, Vec n) { return {_mm512_scalef_ps(a.v, n.v)}; }

FOLIO_INLINE Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
FOLIO_INLINE Vec held(Vec a) {
  __asm__("" : "+v"(a.v));
  return a;
}
FOLIO_INLINE Vec load_n(const float* p, int n) { return {_mm512_maskz_loadu_ps(first(n).m, p)}; }
FOLIO_INLINE void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
FOLIO_INLINE void store_n(float* p, Vec a, int n) { _mm512_mask_storeu_ps(p, first(n).m, a.v); }

FOLIO_INLINE Vec load_f16(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }
FOLIO_INLINE Vec load_f16_n(const uint16_t* p, int n) { return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n).m, p))}; }
FOLIO_INLINE Vec bf16_bits(__m256i h) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16))}; }
FOLIO_INLINE Vec load_bf16(const uint16_t* p) { return bf16_bits(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
FOLIO_INLINE Vec load_bf16_n(const uint16_t* p, int n) { return bf16_bits(_mm256_maskz_loadu_epi16(first(n).m, p)); }

FOLIO_INLINE Vec load_i8(const int8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
FOLIO_INLINE Vec splat_f16(const void* p) {
  int16_t h;
  __builtin_memcpy(&h, p, 2);
  return {_mm512_cvtph_ps(_mm256_set1_epi16(h))};
}
FOLIO_INLINE Vec load_e4m3(const uint8_t* p) {
  const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));   // the sign above all the rest
  return {_mm512_cvtph_ps(_mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(int16_t(0xbfff))))};
}
// Bytes with all but the sign set.
FOLIO_INLINE bool any_nan_e4m3(const uint8_t* p) {
  const __m512i set = _mm512_or_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(int8_t(0x80)));
  return _mm512_cmpeq_epi8_mask(set, _mm512_set1_epi8(-1)) != 0;
}

FOLIO_INLINE __m256i f16_of(Vec a) { return _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
FOLIO_INLINE void store_f16(uint16_t* p, Vec a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), f16_of(a)); }
FOLIO_INLINE void store_f16_n(uint16_t* p, Vec a, int n) { _mm256_mask_storeu_epi16(p, first(n).m, f16_of(a)); }
// By hand also where vcvtneps2bf16 exists: that one flushes denormals.
FOLIO_INLINE __m256i bf16_of(Vec a) {
  const __m512i u = _mm512_castps_si512(a.v), high = _mm512_srli_epi32(u, 16);
  const __m512i even = _mm512_and_si512(high, _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff))), 16);
  return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, is_nan(a).m, high, _mm512_set1_epi32(64)));
}
FOLIO_INLINE void store_bf16(uint16_t* p, Vec a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bf16_of(a)); }
FOLIO_INLINE void store_bf16_n(uint16_t* p, Vec a, int n) { _mm256_mask_storeu_epi16(p, first(n).m, bf16_of(a)); }

// Not _mm512_reduce_add_ps: GCC 12 warns inside it.
FOLIO_INLINE float sum(Vec a) {
  const __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  const __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}
FOLIO_INLINE float highest(Vec a) {
  const __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  const __m128 d = _mm_max_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)));
}

// Integers: see the end of vec.h.
struct Ints { __m512i v; };
constexpr int32_t dot_start = 0x4b400000;
constexpr int q8_offset = 128;

FOLIO_INLINE int dword(const void* p) {
  int i;
  __builtin_memcpy(&i, p, 4);
  return i;
}
FOLIO_INLINE Ints load_ints(const void* p) { return {_mm512_loadu_si512(p)}; }
FOLIO_INLINE Ints splat_ints(const void* p) { return {_mm512_set1_epi32(dword(p))}; }
FOLIO_INLINE Ints ints_of(Vec a) { return {_mm512_cvtps_epi32(a.v)}; }
FOLIO_INLINE Ints operator+(Ints a, Ints b) { return {_mm512_add_epi32(a.v, b.v)}; }
FOLIO_INLINE void store_ints(void* p, Ints a) { _mm512_storeu_si512(p, a.v); }
FOLIO_INLINE Ints dot_q8(Ints sum, Ints w, Ints x) { return {_mm512_dpbusd_epi32(sum.v, w.v, x.v)}; }
FOLIO_INLINE Ints dot_q4(Ints sum, Ints w, Ints x) { return {_mm512_dpbusd_epi32(sum.v, w.v, x.v)}; }
FOLIO_INLINE Vec minus_start(Vec d) { return d * splat(-12582912.0f); }
FOLIO_INLINE Vec scaled(Ints dot, Vec d, Vec minus) { return {_mm512_fmadd_ps(_mm512_castsi512_ps(dot.v), d.v, minus.v)}; }
FOLIO_INLINE void store_i8(int8_t* p, Vec a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a.v)));
}

FOLIO_INLINE __m512i join_halves(const uint8_t* p, const uint8_t* q) {
  const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q));
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
// Four registers as 4x4 squares of dwords, each square within 128 bits, transposed.
FOLIO_INLINE void transpose_squares(__m512i a, __m512i b, __m512i c, __m512i d, __m512i* to) {
  const __m512i ab = _mm512_unpacklo_epi32(a, b), cd = _mm512_unpacklo_epi32(c, d);
  const __m512i ef = _mm512_unpackhi_epi32(a, b), gh = _mm512_unpackhi_epi32(c, d);
  to[0] = _mm512_unpacklo_epi64(ab, cd);
  to[1] = _mm512_unpackhi_epi64(ab, cd);
  to[2] = _mm512_unpacklo_epi64(ef, gh);
  to[3] = _mm512_unpackhi_epi64(ef, gh);
}
FOLIO_INLINE void columns_of_blocks(const uint8_t* p, size_t stride, Ints* to) {
  __m512i low[4], high[4];
  const uint8_t* q = p + 8 * stride;
  transpose_squares(join_halves(p, p + 4 * stride), join_halves(p + stride, p + 5 * stride),
                    join_halves(p + 2 * stride, p + 6 * stride), join_halves(p + 3 * stride, p + 7 * stride), low);
  transpose_squares(join_halves(q, q + 4 * stride), join_halves(q + stride, q + 5 * stride),
                    join_halves(q + 2 * stride, q + 6 * stride), join_halves(q + 3 * stride, q + 7 * stride), high);
  for (int j = 0; j < 4; ++j) {
    to[j].v = _mm512_shuffle_i32x4(low[j], high[j], _MM_SHUFFLE(2, 0, 2, 0));
    to[4 + j].v = _mm512_shuffle_i32x4(low[j], high[j], _MM_SHUFFLE(3, 1, 3, 1));
  }
}
FOLIO_INLINE void columns_q8(const uint8_t* p, size_t stride, Ints* to) {
  columns_of_blocks(p, stride, to);
  for (int j = 0; j < 8; ++j) to[j].v = _mm512_xor_si512(to[j].v, _mm512_set1_epi8(int8_t(0x80)));
}
FOLIO_INLINE __m512i join_quarters(const uint8_t* p, size_t stride) {
  auto part = [&](size_t i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + i * stride)); };
  const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(part(0)), part(4), 1);
  const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(part(8)), part(12), 1);
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
FOLIO_INLINE void columns_q4(const uint8_t* p, size_t stride, Ints* to) {
  __m512i pairs[4];
  transpose_squares(join_quarters(p, stride), join_quarters(p + stride, stride), join_quarters(p + 2 * stride, stride),
                    join_quarters(p + 3 * stride, stride), pairs);
  const __m512i nibble = _mm512_set1_epi8(15);
  for (int j = 0; j < 4; ++j) {
    to[j].v = _mm512_and_si512(pairs[j], nibble);
    to[4 + j].v = _mm512_and_si512(_mm512_srli_epi16(pairs[j], 4), nibble);
  }
}
FOLIO_INLINE __m128i eight_words(const uint8_t* p, size_t stride) {
  auto word = [&](size_t i) {
    uint16_t h;
    __builtin_memcpy(&h, p + i * stride, 2);
    return int(h);
  };
  __m128i a = _mm_cvtsi32_si128(word(0));
  a = _mm_insert_epi16(a, word(1), 1);
  a = _mm_insert_epi16(a, word(2), 2);
  a = _mm_insert_epi16(a, word(3), 3);
  __m128i b = _mm_cvtsi32_si128(word(4));
  b = _mm_insert_epi16(b, word(5), 1);
  b = _mm_insert_epi16(b, word(6), 2);
  b = _mm_insert_epi16(b, word(7), 3);
  return _mm_unpacklo_epi64(a, b);
}
// Words 0, 9 .. 63 of the 128 bytes at p.
FOLIO_INLINE __m128i every_ninth_word(const uint8_t* p) {
  const __m512i at = _mm512_zextsi128_si512(_mm_setr_epi16(0, 9, 18, 27, 36, 45, 54, 63));
  return _mm512_castsi512_si128(_mm512_permutex2var_epi16(_mm512_loadu_si512(p), at, _mm512_loadu_si512(p + 64)));
}
FOLIO_INLINE Vec f16_of_blocks(const uint8_t* p, size_t stride) {
  const bool q4_row = stride == 18;   // eight scales lie within two registers
  const __m128i low = q4_row ? every_ninth_word(p) : eight_words(p, stride);
  const __m128i high = q4_row ? every_ninth_word(p + 8 * stride) : eight_words(p + 8 * stride, stride);
  return {_mm512_cvtph_ps(_mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1))};
}
FOLIO_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

#if FOLIO_SET == FOLIO_SET_avx512_bf16
#define FOLIO_BF16_DOT 1
// Pairs of bf16, 32 numbers a register; a lane's sum takes both products of its pair.
struct Pairs {
  static constexpr int numbers = 32;
  __m512bh v;
};
FOLIO_INLINE Pairs load_pairs(const uint16_t* p) { return {reinterpret_cast<__m512bh>(_mm512_loadu_si512(p))}; }
FOLIO_INLINE Pairs load_pairs_n(const uint16_t* p, int n) {
  const __mmask32 m = n >= 32 ? ~__mmask32(0) : (__mmask32(1) << n) - 1;
  return {reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16(m, p))};
}
FOLIO_INLINE Vec vec_of(Pairs a) { return {reinterpret_cast<__m512>(a.v)}; }
FOLIO_INLINE Pairs pairs_of(Vec a) { return {reinterpret_cast<__m512bh>(a.v)}; }
FOLIO_INLINE Pairs held(Pairs a) { return pairs_of(held(vec_of(a))); }
FOLIO_INLINE Vec dot_pairs(Vec sum, Pairs a, Pairs b) { return {_mm512_dpbf16_ps(sum.v, a.v, b.v)}; }
#endif

}  // namespace
}  // namespace folio
