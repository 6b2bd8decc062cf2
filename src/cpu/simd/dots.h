// SPDX-License-Identifier: MIT
// Dot products of a few rows with many keys, lanes along the rows: a score is one chain of multiply-adds a lane and one tree over the
// lanes, whatever else is asked for at once, so that one row that decodes gets the bits that it gets among others.
#pragma once
#include "cpu/simd/transpose.h"

namespace folio {
namespace {

// Rows that are best asked for together.
constexpr int dots_rows = Vec::lanes == 16 ? 4 : 2;

// A rows times as many keys as make the lanes full; to[a] has those of ask[a].
template <int A> FOLIO_INLINE void row_dots(const float* const* ask, const float* const* key, int K, float* const* to) {
  constexpr int lanes = Vec::lanes, S = lanes / A, near = S < 8 ? S : 8;   // so many keys at once that their places stay in registers
  Vec sums[lanes];
  FOLIO_UNROLL
  for (int first = 0; first < S; first += near) {
    FOLIO_UNROLL
    for (int a = 0; a < A; ++a)
      FOLIO_UNROLL
      for (int s = 0; s < near; ++s) sums[a * S + first + s] = zero();
    auto add = [&](int c, auto get) __attribute__((always_inline)) {
      Vec y[near];
      FOLIO_UNROLL
      for (int s = 0; s < near; ++s) y[s] = get(key[first + s] + c);
      FOLIO_UNROLL
      for (int a = 0; a < A; ++a) {
        const Vec x = get(ask[a] + c);
        FOLIO_UNROLL
        for (int s = 0; s < near; ++s) sums[a * S + first + s] = fma(x, y[s], sums[a * S + first + s]);
      }
    };
    int c = 0;
    for (; c + lanes <= K; c += lanes) add(c, [](const float* x) { return load(x); });
    if (c < K) add(c, [&](const float* x) { return load_n(x, K - c); });
  }
  alignas(64) float all[lanes];
  store(all, sums_of(sums));
  FOLIO_UNROLL
  for (int a = 0; a < A; ++a) __builtin_memcpy(to[a], all + a * S, S * sizeof(float));
}

}  // namespace
}  // namespace folio
