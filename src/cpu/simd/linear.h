// SPDX-License-Identifier: MIT
// The inner loops of Linear: pointers and numbers only. Implemented in linear_inner.h, put together in cpu/linear.cpp.
#pragma once
#include <stdint.h>

namespace folio {

// One page of one head: rows before `from` are in the pools, rows from .. to − 1 are tokens of the step, `to` = 64 fills the page.
// Strides are in floats, from row to row.
struct LinearPage {
  int K, V, from, to;
  enum Decay { none, constant, scalar, channel } decay;   // of a token: 1, one number a head, one a token, one a channel
  float scale, rate;                       // rate: the log decay of every token, if constant
  const float *q, *k, *v, *g, *beta;       // of token `from`; g null unless scalar or channel, beta null: no delta rule
  int64_t q_stride, k_stride, v_stride, g_stride, beta_stride;
  float* o;
  int64_t o_stride;
  float *rows_k, *rows_u, *rows_g;         // row 0 of the page in the pools
  int64_t rows_k_stride, rows_u_stride, rows_g_stride;
  bool writes_k;                           // of the heads that share a key one writes its row
  const float *S, *z;                      // before the page; null: zeros, or no normaliser
  int64_t S_stride;
  float *S_to, *z_to;                      // behind it, if it fills and somebody wants it, else null; may be S and z themselves
  int64_t S_to_stride;
  bool normalise;
  int ahead;                               // rows of the run's next page, whose inputs lie behind this one's; fetched meanwhile
  float* rows_k_ahead;                     // and its row 0 in the pool, if ahead > 0 and writes_k
  float* scratch;                          // linear_floats(K, V), at a multiple of 64 bytes
};

struct LinearInner {
  void (*page)(const LinearPage&);
};

inline int64_t linear_floats(int64_t K, int64_t V) {
  const int64_t wide = (K + 15) / 16 * 16, across = (V + 31) / 32 * 32;
  return 64 * 9 * wide + 4 * wide + K * across + 2 * 64 * across + 2 * 64 * 64 + 4 * 64;
}

}  // namespace folio
