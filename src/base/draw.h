// SPDX-License-Identifier: MIT
// The rule by which a token is drawn, in its smallest steps; run/sampler.h says what its processors mean. The host's sampler, the op
// Sample (ops/sample.h) and its CUDA kernel all decide by these functions and by no others, so a text does not depend on who draws it.
//
// Nothing is left to a compiler or a library: probabilities are integers, whose sums are the same in any order; exp and log are our
// own; there is no product whose sum could be fused or not. A code of 64 bits orders tokens as the rule wants them, no two alike:
//
//   | the logit's bits, made ascending | complement of the token |        larger: likelier, and of equals the one with the lower id
#pragma once
#include <cfloat>
#include <cmath>

#include "base/random.h"

namespace folio {

// The options of a row, as it lies in a tensor of floats. Off: repeat_penalty 1, the other penalties 0, typical and top_p 1, min_p 0.
struct DrawOptions {
  float temperature, repeat_penalty, presence_penalty, frequency_penalty, typical, top_p, min_p;
};
// And its whole numbers: top_k (0: off), the seed's and the position's low and high words.
struct DrawPlace {
  int32_t top_k;
  uint32_t seed_low, seed_high, position_low, position_high;
};
inline constexpr int draw_options = sizeof(DrawOptions) / 4, draw_places = sizeof(DrawPlace) / 4;

FOLIO_ANYWHERE float divided(float a, float b) {   // rounded correctly, whatever the compiler's flags
#ifdef __CUDA_ARCH__
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}

// A NaN is no candidate, infinity is a number like the others, only larger, and there is one zero.
FOLIO_ANYWHERE float usable(float logit) {
  if (logit != logit) return -INFINITY;
  if (logit == 0) return 0;
  return logit < FLT_MAX ? logit : FLT_MAX;
}

// Of a token that stands in the window so many times.
FOLIO_ANYWHERE float penalised(float logit, int32_t times, const DrawOptions& o) {
  const float repeated = logit > 0 ? divided(logit, o.repeat_penalty) - o.presence_penalty : fused(logit, o.repeat_penalty, -o.presence_penalty);
  return usable(fused(-float(times), o.frequency_penalty, repeated));
}
FOLIO_ANYWHERE float biased(float logit, float bias) { return usable(logit + bias); }

FOLIO_ANYWHERE uint32_t order_of(float x) {   // -0 is 0; NaN, whatever its sign, is the least
  const uint32_t bits = bits_of(x == 0 ? 0.0f : x);
  return x != x ? 0 : bits >> 31 ? ~bits : bits | 0x80000000u;
}
FOLIO_ANYWHERE uint64_t code_of(float x, int token) { return uint64_t(order_of(x)) << 32 | uint32_t(~token); }
FOLIO_ANYWHERE int token_of(uint64_t code) { return int(~uint32_t(code)); }
FOLIO_ANYWHERE float logit_of(uint64_t code) {
  const uint32_t order = uint32_t(code >> 32);
  return float_of(order >> 31 ? order & 0x7fffffffu : ~order);
}
// The smallest code of a number: below are those of minus infinity and of NaN.
inline constexpr uint64_t lowest_code = uint64_t(0x00800000u) << 32;

FOLIO_ANYWHERE uint32_t high_product(uint32_t a, uint32_t b) { return uint32_t(uint64_t(a) * b >> 32); }

// 2^40 · e^-below of a token whose logit is so far below the highest (0 or more): what it weighs against 2^40 of the highest. Relative
// error 2e-6 at the far end, 2e-8 near 0; from 28.4 on 0. The polynomial is a fit of our own to (1 - 2^-f)/f over 0..1, in units of 2^-32.
FOLIO_ANYWHERE uint64_t mass_of(float below) {
  const float halvings = below * 1.44269504f;
  if (!(halvings < 41.0f)) return 0;
  const uint32_t fixed = uint32_t(halvings * 0x1p26f);
  const uint32_t f = fixed << 6;
  uint32_t p = 468251;
  p = 5475002 - high_product(p, f);
  p = 41142263 - high_product(p, f);
  p = 238330987 - high_product(p, f);
  p = 1031755803 - high_product(p, f);
  p = 2977043973u - high_product(p, f);
  return ((uint64_t(1) << 32) - high_product(p, f)) << 8 >> (fixed >> 26);
}

// How much of a whole is wanted to hold that share of it; at least something.
FOLIO_ANYWHERE uint64_t need_of(float share, uint64_t whole) {
  const uint64_t need = share > 0 ? uint64_t(double(share) * double(whole)) : 0;
  return need > 0 ? need : 1;
}

// Typical: a token's surprise is what its logit lies below the highest and a constant, and so the mean surprise of all is the mean of
// that by mass: sum of moment_of / sum of mass_of. The nearer a token is to the mean, the larger its code; of equals the lower id.
FOLIO_ANYWHERE uint64_t moment_of(float below, uint64_t mass) { return mass == 0 ? 0 : mass * uint64_t(below * 0x1p20f) >> 20; }
FOLIO_ANYWHERE float mean_of(uint64_t moments, uint64_t masses) { return float(double(moments) / double(masses)); }
FOLIO_ANYWHERE uint64_t nearness_of(float below, float mean, int token) {
  const float away = below < mean ? mean - below : below - mean;
  return uint64_t(~bits_of(away)) << 32 | uint32_t(~token);
}

// The least logit that min_p > 0 leaves over.
FOLIO_ANYWHERE float least_of(float highest, float min_p) { return highest + log_of(min_p < FLT_MIN ? FLT_MIN : min_p); }

// What the drawn token has most of; of equals the lower id is drawn.
FOLIO_ANYWHERE float draw_of(float logit, float highest, float temperature, float noise) {
  return divided(logit - highest, temperature) + noise;
}

}  // namespace folio
