// SPDX-License-Identifier: MIT
// The inner loops of LogLinear: pointers and numbers only. Implemented in log_linear_inner.h, put together in cpu/log_linear.cpp.
#pragma once
#include <stdint.h>

namespace folio {

// o[r][e] = (add ? o[r][e] : 0) ± Σ_{d < depth} a[r·a_row + d·a_depth] · b[d·b_row + e], summed in ascending d: a row of o has
// the same bits whatever rows are computed with it, and with more depth whose a is 0. With sees > 0 row r ends after sees + r: nothing
// of what lies behind reaches it, were it NaN times zero.
struct LogLinearProduct {
  const float* a;
  int64_t a_row, a_depth;
  const float* b;
  int64_t b_row;
  float* o;
  int64_t o_row;
  int rows, depth, columns;
  bool minus, add;
  int sees;
};

struct LogLinearInner {
  void (*product)(const LogLinearProduct&);
  // p[r·64 + s] = e^(b[first + r] − b[s]) · rate[r] · q[r]·k[s] for s < first + r + self, 0 for the other s < keys. q and k have
  // `width` columns; b[s] is b[s] + b[64 + s], so that differences of large ones keep their digits; rate may be null: 1.
  void (*scores)(const float* q, int64_t q_row, const float* k, const float* b, const float* rate, float* p, int first, int rows, int keys,
                 int width, bool self);
  // to = Σ_i factor[i] · from[i], rows of `columns` floats; `to` may be one of them.
  void (*sum)(float* to, int64_t to_row, const float* const* from, const int64_t* from_row, const float* factor, int count, int rows,
              int columns);
};

}  // namespace folio
