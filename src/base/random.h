// SPDX-License-Identifier: MIT
// Randomness without a state: Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011)
// turns a key and a counter into four words. The noise of token v at position pos of a sequence is a function of (seed, pos, v)
// alone, so a text does not depend on threads, chunks, batch mates or drafts that were tried on the way (serving.md 0).
//
// All of this compiles as device code too and gives the same bits there: integers, exact steps, and a logarithm of our own built
// from fused multiply-adds. No step has a product whose sum a compiler could fuse or not as it likes.
#pragma once
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define FOLIO_ANYWHERE __host__ __device__ __forceinline__
#else
#define FOLIO_ANYWHERE inline __attribute__((always_inline))
#endif

namespace folio {

struct Words4 { uint32_t word[4]; };

// One of the ten rounds, and the keys of the next.
FOLIO_ANYWHERE void philox_round(uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d, uint32_t k0, uint32_t k1) {
  const uint64_t p = uint64_t(0xD2511F53u) * a, q = uint64_t(0xCD9E8D57u) * c;
  a = uint32_t(q >> 32) ^ b ^ k0;
  b = uint32_t(q);
  c = uint32_t(p >> 32) ^ d ^ k1;
  d = uint32_t(p);
}
FOLIO_ANYWHERE void philox_next(uint32_t& k0, uint32_t& k1) {
  k0 += 0x9E3779B9u;  // the golden ratio and sqrt(3) - 1, as fractions of 2^32
  k1 += 0xBB67AE85u;
}

// Philox4x32-10. Key and counter are 64 and 128 bits, low words first.
FOLIO_ANYWHERE Words4 philox(uint64_t key, uint64_t counter_low, uint64_t counter_high) {
  uint32_t a = uint32_t(counter_low), b = uint32_t(counter_low >> 32), c = uint32_t(counter_high), d = uint32_t(counter_high >> 32);
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  for (int round = 0; round < 10; ++round) {
    philox_round(a, b, c, d, k0, k1);
    philox_next(k0, k1);
  }
  return {{a, b, c, d}};
}

FOLIO_ANYWHERE float fused(float a, float b, float c) {  // a·b + c, rounded once
#ifdef __CUDA_ARCH__
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

// log(1 + f) + e·log 2 for sqrt(1/2) <= 1 + f <= sqrt(2). The polynomial is a minimax fit of our own of
// (log(1 + f) - f + f²/2) / f³ over that interval, error 7.5e-10 relative to log(1 + f).
FOLIO_ANYWHERE float log_of_parts(float f, float e) {
  float p = 0.067466408f;
  p = fused(p, f, -0.116756521f);
  p = fused(p, f, 0.11888162f);
  p = fused(p, f, -0.124055892f);
  p = fused(p, f, 0.142195523f);
  p = fused(p, f, -0.166679963f);
  p = fused(p, f, 0.200021192f);
  p = fused(p, f, -0.250000089f);
  p = fused(p, f, 0.333333135f);
  p = fused(p, f, -0.5f);
  const float square = f * f;
  const float small = fused(square, p, e * 1.42860677e-6f);  // log 2 = 0.693145752 + 0.00000142860677: e times the first is exact
  return fused(e, 0.693145752f, f + small);
}

FOLIO_ANYWHERE uint32_t bits_of(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
FOLIO_ANYWHERE float float_of(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }

FOLIO_ANYWHERE uint32_t select(uint32_t mask, uint32_t a, uint32_t b) { return (a & mask) | (b & ~mask); }

// log x of a normal, finite x > 0.
FOLIO_ANYWHERE float log_of(float x) {
  const uint32_t shifted = bits_of(x) - 0x3F3504F3u;  // how far above sqrt(1/2)
  const int32_t e = int32_t(shifted) >> 23;
  const float m = float_of(bits_of(x) - (uint32_t(e) << 23));
  return log_of_parts(m - 1.0f, float(e));
}

// -log(-log u) for u = (x + 1/2)/2^32: x uniform over all words gives the Gumbel distribution, from -3.13 to 22.87.
// Above one half, 1 - u is what is represented: u itself would round to 1 and its noise to infinity.
FOLIO_ANYWHERE float gumbel_of(uint32_t x) {
  const uint32_t upper = 0u - (x >> 31);            // all ones or zero: selects, so that the loop over many has no branch
  const int32_t t = int32_t(x ^ upper);
  const float u = (float(t) + 0.5f) * 0x1p-32f;     // u itself, or 1 - u: at most one half
  const uint32_t shifted = bits_of(u) - 0x3F3504F3u;
  const int32_t e_lower = int32_t(shifted) >> 23;
  const float f_lower = float_of(bits_of(u) - (uint32_t(e_lower) << 23)) - 1.0f;
  const uint32_t far = uint32_t(int32_t(0x3E95F619u - bits_of(u)) >> 31);  // u > 1 - sqrt(1/2): 1 - u is written as m/2
  const float f_upper = float_of(select(far, bits_of(1.0f - (u + u)), bits_of(-u)));
  const float f = float_of(select(upper, bits_of(f_upper), bits_of(f_lower)));
  const int32_t e = int32_t(select(upper, far, uint32_t(e_lower)));        // far is -1 or 0, just what is wanted
  return -log_of(-log_of_parts(f, float(e)));
}

// The noise of token `v` when the token at place `position` of a sequence is drawn.
FOLIO_ANYWHERE float gumbel(uint64_t seed, uint64_t position, uint32_t v) {
  return gumbel_of(philox(seed, position, v / 4).word[v % 4]);
}

// Two independent normal numbers of two words (Box and Muller 1958): radius sqrt(-2 log u) with u = (first's upper 23 bits + 1/2)/2^23,
// so at most 5.77, and angle second/2^32 of a turn. Sine and cosine are polynomials of our own over an eighth of a turn to both sides,
// errors 4e-9 and 1e-10; which quarter it is swaps and signs them.
struct Normals2 { float first, second; };
FOLIO_ANYWHERE Normals2 normals_of(uint32_t first, uint32_t second) {
  const float radius = __builtin_sqrtf(-2.0f * log_of((float(first >> 9) + 0.5f) * 0x1p-23f));
  const float x = float(int32_t(second << 2)) * 3.6572953e-10f, z = x * x;   // π/2^33
  const float s = fused(x * z, fused(fused(-0.000195159198f, z, 0.00833216589f), z, -0.166666552f), x);
  const float c = fused(z * z, fused(fused(2.44358162e-05f, z, -0.00138873409f), z, 0.0416666456f), fused(z, -0.5f, 1.0f));
  const uint32_t quarter = (second + 0x20000000u) >> 30;
  const float cosine = quarter % 2 ? s : c, sine = quarter % 2 ? c : s;
  return {radius * (quarter == 1 || quarter == 2 ? -cosine : cosine), radius * (quarter >= 2 ? -sine : sine)};
}

// Number `index` of the standard normal noise that a seed stands for.
FOLIO_ANYWHERE float normal(uint64_t seed, uint64_t index) {
  const Words4 w = philox(seed, index / 4, uint64_t(1) << 63);   // tokens' noise has counters below
  const Normals2 pair = index & 2 ? normals_of(w.word[2], w.word[3]) : normals_of(w.word[0], w.word[1]);
  return index & 1 ? pair.second : pair.first;
}

// The noise of tokens first .. first + n - 1, the same bits, many at a time; `first` is a multiple of 4.
void gumbel_row(uint64_t seed, uint64_t position, uint32_t first, int n, float* out);

}  // namespace folio
