// SPDX-License-Identifier: MIT
// The products of LogLinear. A product is cut into tiles of rows by columns that stay in registers while the depth is walked; a
// score is a dot product along the width, four keys at a time. Neither cut changes the order of anybody's sum.
#pragma once
#include "cpu/simd/log_linear.h"
#include "cpu/simd/vec.h"

namespace folio {
namespace {

constexpr int log_linear_rows = Vec::lanes == 16 ? 6 : 4;   // of a tile

// R rows by N registers of columns; with `part`, one register of which the first n columns are there.
template <int R, int N, bool part, bool minus>
FOLIO_INLINE void log_linear_tile(const LogLinearProduct& p, int row, int column, int n) {
  constexpr int lanes = Vec::lanes;
  Vec sum[R][N];
  float* o = p.o + row * p.o_row + column;
  FOLIO_UNROLL
  for (int r = 0; r < R; ++r)
    for (int i = 0; i < N; ++i)
      sum[r][i] = !p.add ? zero() : part ? load_n(o + r * p.o_row, n) : load(o + r * p.o_row + i * lanes);
  const float *a = p.a + row * p.a_row, *b = p.b + column;
  const int all = p.sees > 0 && p.sees + row < p.depth ? p.sees + row : p.depth;   // what every row sees
  auto add = [&](int r, const Vec (&y)[N]) {
    const Vec x = splat(a[r * p.a_row]);
    for (int i = 0; i < N; ++i) sum[r][i] = minus ? nfma(x, y[i], sum[r][i]) : fma(x, y[i], sum[r][i]);
  };
  auto next = [&](Vec (&y)[N]) {
    for (int i = 0; i < N; ++i) y[i] = part ? load_n(b, n) : load(b + i * lanes);
  };
  for (int d = 0; d < all; ++d, a += p.a_depth, b += p.b_row) {
    Vec y[N];
    next(y);
    FOLIO_UNROLL
    for (int r = 0; r < R; ++r) add(r, y);
  }
  FOLIO_UNROLL
  for (int first = 1; first < R; ++first, a += p.a_depth, b += p.b_row) {   // what the rows from this one on see
    if (all + first > p.depth) break;
    Vec y[N];
    next(y);
    FOLIO_UNROLL
    for (int r = 1; r < R; ++r)
      if (r >= first) add(r, y);
  }
  FOLIO_UNROLL
  for (int r = 0; r < R; ++r)
    for (int i = 0; i < N; ++i) {
      if (part) store_n(o + r * p.o_row, sum[r][i], n);
      else store(o + r * p.o_row + i * lanes, sum[r][i]);
    }
}

// All rows of N registers of columns.
template <int N, bool part, bool minus>
FOLIO_INLINE void log_linear_strip(const LogLinearProduct& p, int column, int n) {
  constexpr int most = log_linear_rows;
  int row = 0;
  for (; row + most <= p.rows; row += most) log_linear_tile<most, N, part, minus>(p, row, column, n);
  if (most > 4 && row + 4 <= p.rows) log_linear_tile<4, N, part, minus>(p, row, column, n), row += 4;
  if (row + 2 <= p.rows) log_linear_tile<2, N, part, minus>(p, row, column, n), row += 2;
  if (row < p.rows) log_linear_tile<1, N, part, minus>(p, row, column, n);
}

template <bool minus> void log_linear_product_of(const LogLinearProduct& p) {
  constexpr int lanes = Vec::lanes, N = lanes == 16 ? 4 : 2, wide = 8;
  int at = 0;
  if (p.rows == 1)
    for (; at + wide * lanes <= p.columns; at += wide * lanes) log_linear_tile<1, wide, false, minus>(p, 0, at, 0);
  for (; at + N * lanes <= p.columns; at += N * lanes) log_linear_strip<N, false, minus>(p, at, 0);
  for (; at + lanes <= p.columns; at += lanes) log_linear_strip<1, false, minus>(p, at, 0);
  if (at < p.columns) log_linear_strip<1, true, minus>(p, at, p.columns - at);
}
void log_linear_product(const LogLinearProduct& p) { p.minus ? log_linear_product_of<true>(p) : log_linear_product_of<false>(p); }

// q · k for N keys, `width` apart.
template <int N>
FOLIO_INLINE void log_linear_dots(const float* q, const float* k, int width, float* to) {
  constexpr int lanes = Vec::lanes;
  Vec dot[N];
  for (int i = 0; i < N; ++i) dot[i] = zero();
  int d = 0;
  for (; d + lanes <= width; d += lanes) {
    const Vec x = load(q + d);
    for (int i = 0; i < N; ++i) dot[i] = fma(x, load(k + i * width + d), dot[i]);
  }
  if (d < width) {
    const Vec x = load_n(q + d, width - d);
    for (int i = 0; i < N; ++i) dot[i] = fma(x, load_n(k + i * width + d, width - d), dot[i]);
  }
  for (int i = 0; i < N; ++i) to[i] = sum(dot[i]);
}

void log_linear_scores(const float* q, int64_t q_row, const float* k, const float* b, const float* rate, float* p, int first, int rows,
                       int keys, int width, bool self) {
  constexpr int lanes = Vec::lanes;
  for (int r = 0; r < rows; ++r, p += 64) {
    const int t = first + r, seen = t + (self ? 1 : 0);
    int s = 0;
    for (; s + 4 <= seen; s += 4) log_linear_dots<4>(q + r * q_row, k + s * width, width, p + s);
    for (; s < seen; ++s) log_linear_dots<1>(q + r * q_row, k + s * width, width, p + s);
    for (; s < keys; ++s) p[s] = 0;
    const Vec now = splat(b[t]), rest = splat(b[64 + t]), by = splat(rate ? rate[r] : 1);
    for (s = 0; s < seen; s += lanes) {
      const int n = seen - s < lanes ? seen - s : lanes;
      const Vec decay = exp(min((now - load_n(b + s, n)) + (rest - load_n(b + 64 + s, n)), zero()));
      store_n(p + s, load_n(p + s, n) * (by * decay), n);
    }
  }
}

void log_linear_sum(float* to, int64_t to_row, const float* const* from, const int64_t* from_row, const float* factor, int count, int rows,
                    int columns) {
  constexpr int lanes = Vec::lanes;
  for (int r = 0; r < rows; ++r, to += to_row)
    for (int e = 0; e < columns; e += lanes) {
      const int n = columns - e < lanes ? columns - e : lanes;
      Vec total = zero();
      for (int i = 0; i < count; ++i) total = fma(splat(factor[i]), load_n(from[i] + r * from_row[i] + e, n), total);
      store_n(to + e, total, n);
    }
}

constexpr LogLinearInner log_linear_inner = {log_linear_product, log_linear_scores, log_linear_sum};

}  // namespace
}  // namespace folio
