// SPDX-License-Identifier: MIT
// Vec in plain C++ with the vector types of GCC and Clang: what every processor runs.
#pragma once

namespace folio {
namespace {

struct Vec {
  static constexpr int lanes = 4;
  typedef float Floats __attribute__((vector_size(16)));
  typedef int32_t Ints __attribute__((vector_size(16)));
  Floats v;
};
struct Mask { Vec::Ints m; };

FOLIO_INLINE Vec::Ints bits(Vec a) { return reinterpret_cast<Vec::Ints>(a.v); }
FOLIO_INLINE Vec of_bits(Vec::Ints i) { return {reinterpret_cast<Vec::Floats>(i)}; }

FOLIO_INLINE Vec splat(float x) { return {Vec::Floats{x, x, x, x}}; }
FOLIO_INLINE Vec zero() { return splat(0); }
FOLIO_INLINE Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
FOLIO_INLINE Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
FOLIO_INLINE Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
FOLIO_INLINE Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
FOLIO_INLINE Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
FOLIO_INLINE Vec nfma(Vec a, Vec b, Vec c) { return {c.v - a.v * b.v}; }

FOLIO_INLINE Mask less(Vec a, Vec b) { return {a.v < b.v}; }
FOLIO_INLINE Mask is_nan(Vec a) { return {a.v != a.v}; }
FOLIO_INLINE Mask first(int n) { return {Vec::Ints{0, 1, 2, 3} < n}; }
FOLIO_INLINE Vec select(Mask m, Vec yes, Vec no) { return of_bits((m.m & bits(yes)) | (~m.m & bits(no))); }

FOLIO_INLINE Vec min(Vec a, Vec b) { return select(less(a, b), a, b); }
FOLIO_INLINE Vec max(Vec a, Vec b) { return select(less(b, a), a, b); }
FOLIO_INLINE Vec abs(Vec a) { return of_bits(bits(a) & 0x7fffffff); }
// Adding 2^23 pushes the fraction out, rounded to even; larger numbers are whole already.
FOLIO_INLINE Vec round(Vec a) {
  const Vec sign = of_bits(bits(a) & int32_t(0x80000000)), size = abs(a), big = splat(8388608);
  const Vec whole = of_bits(bits((size + big) - big) | bits(sign));
  return select(less(size, big), whole, a);
}

// a · 2^n for a whole number n, −252 <= n <= 254: in two steps, so that results may be denormal or infinite.
FOLIO_INLINE Vec times_two_to(Vec a, Vec n) {
  const Vec::Ints i = __builtin_convertvector(n.v, Vec::Ints), half = i >> 1;
  return a * of_bits((half + 127) << 23) * of_bits((i - half + 127) << 23);
}

template <class Number>
FOLIO_INLINE void copy_n(Number* to, const Number* from, int n) {
  for (int i = 0; i < n; ++i) to[i] = from[i];
}
FOLIO_INLINE Vec load(const float* p) {
  Vec a;
  __builtin_memcpy(&a.v, p, sizeof a.v);
  return a;
}
FOLIO_INLINE Vec held(Vec a) { return a; }
FOLIO_INLINE Vec load_n(const float* p, int n) {
  float part[4] = {};
  copy_n(part, p, n);
  return load(part);
}
FOLIO_INLINE void store(float* p, Vec a) { __builtin_memcpy(p, &a.v, sizeof a.v); }
FOLIO_INLINE void store_n(float* p, Vec a, int n) {
  float part[4];
  store(part, a);
  copy_n(p, part, n);
}

// f16 by arithmetic on the bits of all lanes. Exponent and fraction move up by 13 and the exponent is biased anew by one
// multiplication, which also makes denormals normal; infinity and NaN had exponent 31 and get 255.
FOLIO_INLINE Vec load_f16_n(const uint16_t* p, int n) {
  uint16_t part[4] = {};
  copy_n(part, p, n);
  const Vec::Ints h = {part[0], part[1], part[2], part[3]};
  const Vec::Ints rest = (h & 0x7fff) << 13;
  const Vec::Ints special = reinterpret_cast<Vec::Ints>((h & 0x7c00) == 0x7c00) & 0x7f800000;
  const Vec scaled = of_bits(rest) * splat(5.192296858534828e33f);   // 2^112
  return of_bits(((h & 0x8000) << 16) | bits(scaled) | special);
}
FOLIO_INLINE Vec load_f16(const uint16_t* p) { return load_f16_n(p, 4); }
FOLIO_INLINE Vec load_bf16_n(const uint16_t* p, int n) {
  uint16_t part[4] = {};
  copy_n(part, p, n);
  return of_bits(Vec::Ints{part[0], part[1], part[2], part[3]} << 16);
}
FOLIO_INLINE Vec load_bf16(const uint16_t* p) { return load_bf16_n(p, 4); }

FOLIO_INLINE Vec load_i8(const int8_t* p) { return {Vec::Floats{float(p[0]), float(p[1]), float(p[2]), float(p[3])}}; }
FOLIO_INLINE Vec splat_f16(const void* p) {
  uint16_t h;
  __builtin_memcpy(&h, p, 2);
  const uint16_t same[4] = {h, h, h, h};
  return load_f16(same);
}

// In the place of an f32's bits the number is 2^120 too small.
FOLIO_INLINE Vec load_e4m3(const uint8_t* p) {
  const Vec::Ints b = {p[0], p[1], p[2], p[3]};
  return of_bits(((b & 0x80) << 24) | ((b & 0x7f) << 20)) * splat(5.192296858534828e33f);   // 2^112
}
// Bytes with all but the sign set: adding 0x7f to what is not leaves the top bit of every other byte.
FOLIO_INLINE bool any_nan_e4m3(const uint8_t* p) {
  uint64_t all = ~uint64_t(0);
  for (int i = 0; i < 64; i += 8) {
    uint64_t eight;
    __builtin_memcpy(&eight, p + i, 8);
    all &= (~eight & 0x7f7f7f7f7f7f7f7f) + 0x7f7f7f7f7f7f7f7f;
  }
  return (all & 0x8080808080808080) != 0x8080808080808080;
}

FOLIO_INLINE uint16_t f16_of(float x) {
  uint32_t u;
  __builtin_memcpy(&u, &x, 4);
  const uint32_t sign = u >> 16 & 0x8000, size = u & 0x7fffffff;
  if (size > 0x7f800000) return uint16_t(sign | 0x7e00 | (size >> 13 & 0x3ff));
  if (size >= 0x477ff000) return uint16_t(sign | 0x7c00);                   // 65520 and above round to infinity
  if (size >= 0x38800000) {                                                 // 2^-14 and above are normal
    return uint16_t(sign | ((size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13));
  }
  float whole;                                                              // units of 2^-24, rounded by the addition
  __builtin_memcpy(&whole, &size, 4);
  whole = whole * 16777216.0f + 8388608.0f;
  __builtin_memcpy(&u, &whole, 4);
  return uint16_t(sign | (u & 0x7ff));
}
FOLIO_INLINE void store_f16_n(uint16_t* p, Vec a, int n) {
  for (int i = 0; i < n; ++i) p[i] = f16_of(a.v[i]);
}
FOLIO_INLINE void store_f16(uint16_t* p, Vec a) { store_f16_n(p, a, 4); }
FOLIO_INLINE void store_bf16_n(uint16_t* p, Vec a, int n) {
  for (int i = 0; i < n; ++i) {
    const uint32_t u = uint32_t(bits(a)[i]);
    p[i] = (u & 0x7fffffffu) > 0x7f800000u ? uint16_t(u >> 16 | 64) : uint16_t((u + 0x7fffu + (u >> 16 & 1)) >> 16);
  }
}
FOLIO_INLINE void store_bf16(uint16_t* p, Vec a) { store_bf16_n(p, a, 4); }

FOLIO_INLINE float sum(Vec a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
FOLIO_INLINE float highest(Vec a) {
  const float p = a.v[0] > a.v[2] ? a.v[0] : a.v[2], q = a.v[1] > a.v[3] ? a.v[1] : a.v[3];
  return p > q ? p : q;
}

// Integers: see the end of vec.h. Without a fused multiply-add the sum is converted instead of starting at 1.5·2^23.
struct Ints { Vec::Ints v; };
constexpr int32_t dot_start = 0;
constexpr int q8_offset = 0;

FOLIO_INLINE int dword(const void* p) {
  int i;
  __builtin_memcpy(&i, p, 4);
  return i;
}
FOLIO_INLINE Ints load_ints(const void* p) {
  Ints a;
  __builtin_memcpy(&a.v, p, sizeof a.v);
  return a;
}
FOLIO_INLINE Ints splat_ints(const void* p) { return {Vec::Ints{} + dword(p)}; }
FOLIO_INLINE Ints ints_of(Vec a) { return {__builtin_convertvector(a.v, Vec::Ints)}; }
FOLIO_INLINE Ints operator+(Ints a, Ints b) { return {a.v + b.v}; }
FOLIO_INLINE void store_ints(void* p, Ints a) { __builtin_memcpy(p, &a.v, sizeof a.v); }
// Bytes 0 and 2 of every lane, then 1 and 3, as products of 16 bits in 32.
FOLIO_INLINE Ints dot_q8(Ints sum, Ints w, Ints x) {
  for (int shift = 24; shift >= 0; shift -= 8) sum.v += ((w.v << shift) >> 24) * ((x.v << shift) >> 24);
  return sum;
}
FOLIO_INLINE Ints dot_q4(Ints sum, Ints w, Ints x) { return dot_q8(sum, w, x); }
FOLIO_INLINE Vec minus_start(Vec) { return zero(); }
FOLIO_INLINE Vec scaled(Ints dot, Vec d, Vec) { return {__builtin_convertvector(dot.v, Vec::Floats) * d.v}; }
FOLIO_INLINE void store_i8(int8_t* p, Vec a) {
  const Vec::Ints i = __builtin_convertvector(a.v, Vec::Ints);
  for (int j = 0; j < 4; ++j) p[j] = int8_t(i[j]);
}

FOLIO_INLINE void columns_of_blocks(const uint8_t* p, size_t stride, Ints* to) {
  for (int j = 0; j < 8; ++j) {
    int32_t column[4];
    for (size_t b = 0; b < 4; ++b) __builtin_memcpy(column + b, p + b * stride + 4 * size_t(j), 4);
    to[j] = load_ints(column);
  }
}
FOLIO_INLINE void columns_q8(const uint8_t* p, size_t stride, Ints* to) { columns_of_blocks(p, stride, to); }
FOLIO_INLINE void columns_q4(const uint8_t* p, size_t stride, Ints* to) {
  for (int j = 0; j < 4; ++j) {
    int32_t column[4];
    for (size_t b = 0; b < 4; ++b) __builtin_memcpy(column + b, p + b * stride + 4 * size_t(j), 4);
    const Vec::Ints pairs = load_ints(column).v;
    to[j].v = pairs & 0x0f0f0f0f;
    to[4 + j].v = (pairs >> 4) & 0x0f0f0f0f;
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
