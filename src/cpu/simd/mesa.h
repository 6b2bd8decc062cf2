// SPDX-License-Identifier: MIT
// The inner loops of Mesa: pointers and numbers only. Implemented in mesa_inner.h, put together in cpu/mesa.cpp.
#pragma once
#include <stdint.h>

namespace folio {

// The first rows of a page of one head, in floats from row to row, and the slabs of the page before (null: nothing was before).
struct MesaPage {
  int keys, values;                  // K, V
  int rows;                          // rows 0 .. rows − 1 are there
  const float *k, *v, *g, *beta;
  int64_t k_row, v_row, g_row, beta_row;
  const float *kk, *kv;              // [K][K], [K][V]
  int64_t kk_row, kv_row;
};

// Those of its rows from .. from + count − 1 whose number in fours is `part` modulo `parts` are asked for.
struct MesaAsk {
  int from, count, part, parts;
  const float* q;                    // of row `from`
  float* o;
  int32_t* iterations;
  int64_t q_row, o_row, iterations_row;
  const float* lambda;
  float tolerance, epsilon;
  int cap, mode;
};

struct MesaInner {
  // Both want a buffer of mesa_floats(K) floats.
  void (*solve)(const MesaPage&, const MesaAsk&, float* buffer);
  // The slabs after a full page, [K][K] and [K][V] with rows kk_row and kv_row apart, which may be those of the page before.
  void (*fold)(const MesaPage&, float* kk, int64_t kk_row, float* kv, int64_t kv_row, float* buffer);
};

constexpr int64_t mesa_padded(int64_t n) { return (n + 15) / 16 * 16; }
// Keys, and keys weighted; x, r, p and pA of 64 rows; the diagonal and lambda; two squares of the page.
constexpr int64_t mesa_floats(int64_t keys) { return (6 * 64 + 2) * mesa_padded(keys) + 2 * 64 * 64; }

}  // namespace folio
