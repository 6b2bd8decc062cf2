// SPDX-License-Identifier: MIT
// transpose(a): a square of lanes × lanes numbers, turned. Where registers allow it the rows are paired, then the pairs, so that
// no number passes through memory. turn_quads(a): the same within every four lanes; load_quads and store_quads read and write a
// register as fours that lie `stride` numbers apart. And the sums over the lanes of several registers at once: sums_of(a) has that of a[i] in lane i,
// as a tree whose pairs differ from set to set; store_sums adds lane after lane.
#pragma once
#include "cpu/simd/vec.h"

namespace folio {
namespace {

#if FOLIO_SET == FOLIO_SET_avx512 || FOLIO_SET == FOLIO_SET_avx512_bf16
FOLIO_INLINE void transpose(Vec (&a)[16]) {
  __m512 t[16], u[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(a[i].v, a[i + 1].v);
    t[i + 1] = _mm512_unpackhi_ps(a[i].v, a[i + 1].v);
  }
  // u[4i + c]: in lane L, column 4L + c of rows 4i .. 4i+3
  for (int i = 0; i < 16; i += 4)
    for (int c = 0; c < 2; ++c) {
      const __m512d x = _mm512_castps_pd(t[i + c]), y = _mm512_castps_pd(t[i + 2 + c]);
      u[i + 2 * c] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
      u[i + 2 * c + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
    }
  for (int c = 0; c < 4; ++c) {
    const __m512 p = _mm512_shuffle_f32x4(u[c], u[4 + c], 0x44), q = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], 0x44);
    const __m512 r = _mm512_shuffle_f32x4(u[c], u[4 + c], 0xee), s = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], 0xee);
    a[c].v = _mm512_shuffle_f32x4(p, q, 0x88);
    a[4 + c].v = _mm512_shuffle_f32x4(p, q, 0xdd);
    a[8 + c].v = _mm512_shuffle_f32x4(r, s, 0x88);
    a[12 + c].v = _mm512_shuffle_f32x4(r, s, 0xdd);
  }
}
FOLIO_INLINE Vec load_quads(const float* p, int64_t stride) {
  const __m512 a = _mm512_insertf32x4(_mm512_castps128_ps512(_mm_loadu_ps(p)), _mm_loadu_ps(p + stride), 1);
  return {_mm512_insertf32x4(_mm512_insertf32x4(a, _mm_loadu_ps(p + 2 * stride), 2), _mm_loadu_ps(p + 3 * stride), 3)};
}
FOLIO_INLINE void store_quads(float* p, int64_t stride, Vec a) {
  _mm_storeu_ps(p, _mm512_castps512_ps128(a.v));
  _mm_storeu_ps(p + stride, _mm512_extractf32x4_ps(a.v, 1));
  _mm_storeu_ps(p + 2 * stride, _mm512_extractf32x4_ps(a.v, 2));
  _mm_storeu_ps(p + 3 * stride, _mm512_extractf32x4_ps(a.v, 3));
}
FOLIO_INLINE void turn_quads(Vec (&a)[4]) {
  const __m512d p = _mm512_castps_pd(_mm512_unpacklo_ps(a[0].v, a[1].v)), q = _mm512_castps_pd(_mm512_unpackhi_ps(a[0].v, a[1].v));
  const __m512d r = _mm512_castps_pd(_mm512_unpacklo_ps(a[2].v, a[3].v)), s = _mm512_castps_pd(_mm512_unpackhi_ps(a[2].v, a[3].v));
  a[0].v = _mm512_castpd_ps(_mm512_unpacklo_pd(p, r)), a[1].v = _mm512_castpd_ps(_mm512_unpackhi_pd(p, r));
  a[2].v = _mm512_castpd_ps(_mm512_unpacklo_pd(q, s)), a[3].v = _mm512_castpd_ps(_mm512_unpackhi_pd(q, s));
}
FOLIO_INLINE Vec sums_of(const Vec (&a)[16]) {
  __m512 t[8], u[4], v[2];
  FOLIO_UNROLL
  for (int i = 0; i < 8; ++i)   // of two registers, in each 128 bits: two halves of each sum
    t[i] = _mm512_add_ps(_mm512_unpacklo_ps(a[2 * i].v, a[2 * i + 1].v), _mm512_unpackhi_ps(a[2 * i].v, a[2 * i + 1].v));
  FOLIO_UNROLL
  for (int i = 0; i < 4; ++i) {
    const __m512d x = _mm512_castps_pd(t[2 * i]), y = _mm512_castps_pd(t[2 * i + 1]);
    u[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
  }
  auto pairs = [](__m512 x, __m512 y) { return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x88), _mm512_shuffle_f32x4(x, y, 0xdd)); };
  for (int i = 0; i < 2; ++i) v[i] = pairs(u[2 * i], u[2 * i + 1]);
  return {pairs(v[0], v[1])};
}
#elif FOLIO_SET == FOLIO_SET_avx2
FOLIO_INLINE void transpose(Vec (&a)[8]) {
  __m256 t[8], u[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(a[i].v, a[i + 1].v);
    t[i + 1] = _mm256_unpackhi_ps(a[i].v, a[i + 1].v);
  }
  for (int i = 0; i < 8; i += 4)
    for (int c = 0; c < 2; ++c) {
      u[i + 2 * c] = _mm256_shuffle_ps(t[i + c], t[i + 2 + c], 0x44);
      u[i + 2 * c + 1] = _mm256_shuffle_ps(t[i + c], t[i + 2 + c], 0xee);
    }
  for (int c = 0; c < 4; ++c) {
    a[c].v = _mm256_permute2f128_ps(u[c], u[4 + c], 0x20);
    a[4 + c].v = _mm256_permute2f128_ps(u[c], u[4 + c], 0x31);
  }
}
FOLIO_INLINE Vec load_quads(const float* p, int64_t stride) {
  return {_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + stride), 1)};
}
FOLIO_INLINE void store_quads(float* p, int64_t stride, Vec a) {
  _mm_storeu_ps(p, _mm256_castps256_ps128(a.v));
  _mm_storeu_ps(p + stride, _mm256_extractf128_ps(a.v, 1));
}
FOLIO_INLINE void turn_quads(Vec (&a)[4]) {
  const __m256d p = _mm256_castps_pd(_mm256_unpacklo_ps(a[0].v, a[1].v)), q = _mm256_castps_pd(_mm256_unpackhi_ps(a[0].v, a[1].v));
  const __m256d r = _mm256_castps_pd(_mm256_unpacklo_ps(a[2].v, a[3].v)), s = _mm256_castps_pd(_mm256_unpackhi_ps(a[2].v, a[3].v));
  a[0].v = _mm256_castpd_ps(_mm256_unpacklo_pd(p, r)), a[1].v = _mm256_castpd_ps(_mm256_unpackhi_pd(p, r));
  a[2].v = _mm256_castpd_ps(_mm256_unpacklo_pd(q, s)), a[3].v = _mm256_castpd_ps(_mm256_unpackhi_pd(q, s));
}
FOLIO_INLINE Vec sums_of(const Vec (&a)[8]) {
  __m256 t[4], u[2];
  for (int i = 0; i < 4; ++i)
    t[i] = _mm256_add_ps(_mm256_unpacklo_ps(a[2 * i].v, a[2 * i + 1].v), _mm256_unpackhi_ps(a[2 * i].v, a[2 * i + 1].v));
  for (int i = 0; i < 2; ++i)
    u[i] = _mm256_add_ps(_mm256_shuffle_ps(t[2 * i], t[2 * i + 1], 0x44), _mm256_shuffle_ps(t[2 * i], t[2 * i + 1], 0xee));
  return {_mm256_add_ps(_mm256_permute2f128_ps(u[0], u[1], 0x20), _mm256_permute2f128_ps(u[0], u[1], 0x31))};
}
#elif FOLIO_SET == FOLIO_SET_neon
FOLIO_INLINE void transpose(Vec (&a)[4]) {
  const float32x4x2_t t = vtrnq_f32(a[0].v, a[1].v), u = vtrnq_f32(a[2].v, a[3].v);
  a[0].v = vcombine_f32(vget_low_f32(t.val[0]), vget_low_f32(u.val[0]));
  a[1].v = vcombine_f32(vget_low_f32(t.val[1]), vget_low_f32(u.val[1]));
  a[2].v = vcombine_f32(vget_high_f32(t.val[0]), vget_high_f32(u.val[0]));
  a[3].v = vcombine_f32(vget_high_f32(t.val[1]), vget_high_f32(u.val[1]));
}
FOLIO_INLINE Vec sums_of(const Vec (&a)[4]) { return {vpaddq_f32(vpaddq_f32(a[0].v, a[1].v), vpaddq_f32(a[2].v, a[3].v))}; }
#else
FOLIO_INLINE void transpose(Vec (&a)[4]) {
  const Vec t[4] = {a[0], a[1], a[2], a[3]};
  for (int i = 0; i < 4; ++i) a[i].v = Vec::Floats{t[0].v[i], t[1].v[i], t[2].v[i], t[3].v[i]};
}
FOLIO_INLINE Vec sums_of(const Vec (&a)[4]) {
  Vec t[4] = {a[0], a[1], a[2], a[3]};
  transpose(t);
  return (t[0] + t[1]) + (t[2] + t[3]);
}
#endif
#if FOLIO_SET == FOLIO_SET_neon || FOLIO_SET == FOLIO_SET_plain
FOLIO_INLINE Vec load_quads(const float* p, int64_t) { return load(p); }
FOLIO_INLINE void store_quads(float* p, int64_t, Vec a) { store(p, a); }
FOLIO_INLINE void turn_quads(Vec (&a)[4]) { transpose(a); }
#endif

// to[r] = ((0 + lane 0) + lane 1) + ... of sums[r * step], for r < rows.
FOLIO_INLINE void store_sums(float* to, const Vec* sums, int64_t step, int rows) {
  for (int r = 0; r < rows; r += Vec::lanes) {
    const int n = rows - r < Vec::lanes ? rows - r : Vec::lanes;
    Vec a[Vec::lanes], total = zero();
    for (int i = 0; i < Vec::lanes; ++i) a[i] = i < n ? sums[(r + i) * step] : zero();
    transpose(a);
    for (int i = 0; i < Vec::lanes; ++i) total += a[i];
    if (n == Vec::lanes) store(to + r, total);
    else store_n(to + r, total, n);
  }
}

}  // namespace
}  // namespace folio
