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
  int64_t S_stride;                        // 0: as linear_inner.h keeps it, in linear_state_floats(K, V)
  float *S_to, *z_to;                      // behind it, if it fills and somebody wants it, else null; may be S and z themselves
  int64_t S_to_stride;
  bool normalise;
  const LinearPage* next;                  // what this worker does behind it, or null; its inputs are taken meanwhile if there is time,
  bool ready;                              //   and then they are ready
  int side;                                // 0 or 1, the other one than the page before has: which buffers inputs are in
  float* scratch;                          // linear_floats(K, V), at a multiple of 64 bytes
};

struct LinearInner {
  bool (*page)(const LinearPage&);         // true: the next page's inputs are ready
};

// Floats of a row, an odd number of cache lines, so that a column of rows does not meet in few places of the cache.
inline int64_t linear_pitch(int64_t K) { return ((K + 15) / 16 | 1) * 16; }
inline int64_t linear_across(int64_t V) { return (V + 63) / 64 * 64; }
inline int64_t linear_state_floats(int64_t K, int64_t V) { return K * linear_across(V); }
inline int64_t linear_floats(int64_t K, int64_t V) {
  const int64_t pitch = linear_pitch(K), across = linear_across(V);
  return 2 * 64 * (3 * pitch + across) + 64 * 5 * pitch + 4 * pitch + K * across + 64 * 64 + 2 * 64 * 64 + 6 * 64;
}

}  // namespace folio
