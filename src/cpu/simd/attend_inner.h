// SPDX-License-Identifier: MIT
// Softmax attention of some query rows over one page of keys, as two small matrix products with an online softmax between them
// (arXiv 2307.08691). Keys are turned once so that 64 of them lie side by side for each of the D numbers; then the lanes of a
// vector are keys for the scores and numbers of the value for the output, and no product needs a sum over lanes.
//
// Every query row goes through the same operations in the same order whatever rows stand beside it, and a masked key
// contributes an exact zero. So a token's result depends on its own keys alone: not on the tile, the step or the batch.
#pragma once
#include "cpu/simd/attend.h"
#include "cpu/simd/transpose.h"

namespace folio {
namespace {

constexpr int attend_page = 64;
constexpr float attend_nothing = -__builtin_inff();
#if FOLIO_SET == FOLIO_SET_avx2 || FOLIO_SET == FOLIO_SET_plain
constexpr int attend_rows = 6, attend_vectors = 2;   // 12 of 16 registers are sums
#else
constexpr int attend_rows = 6, attend_vectors = 4;   // 24 of 32
#endif

template <class Row>
void attend_keys_of(const char* k, int64_t stride, int width, int from, int to, float* columns, const char* ahead) {
  using Number = typename Row::Number;
  constexpr int lanes = Vec::lanes;
  const int line = 64, bytes = width * int(sizeof(Number));
  for (int j = from / lanes * lanes; j < to; j += lanes) {
    for (int d = 0; d < width; d += lanes) {
      Vec square[lanes];
      const int n = width - d;
      for (int i = 0; i < lanes; ++i) {
        const Number* row = reinterpret_cast<const Number*>(k + (j + i) * stride) + d;
        square[i] = n >= lanes ? Row::load(row) : Row::load_n(row, n);
      }
      transpose(square);
      const int used = n < lanes ? n : lanes;
      for (int i = 0; i < used; ++i) store(columns + (d + i) * attend_page + j, square[i]);
    }
    if (ahead)
      for (int i = 0; i < lanes; ++i)
        for (int b = 0; b < bytes; b += line) __builtin_prefetch(ahead + (j + i) * stride + b, 0, 2);
  }
}

template <class Row>
void attend_values_of(const char* v, int64_t stride, int width, int from, int to, float* rows, int padded, const char* ahead) {
  using Number = typename Row::Number;
  constexpr int lanes = Vec::lanes;
  const int line = 64, bytes = width * int(sizeof(Number));
  for (int j = from; j < to; ++j) {
    const Number* row = reinterpret_cast<const Number*>(v + j * stride);
    float* out = rows + j * padded;
    int d = 0;
    for (; d + lanes <= width; d += lanes) store(out + d, Row::load(row + d));
    if (d < width) {
      store(out + d, Row::load_n(row + d, width - d));
      d += lanes;
    }
    for (; d < padded; d += lanes) store(out + d, zero());
    if (ahead)
      for (int b = 0; b < bytes; b += line) __builtin_prefetch(ahead + j * stride + b, 0, 2);
  }
}

void attend_keys(int kind, const void* k, int64_t stride, int width, int from, int to, float* columns, const void* ahead) {
  const char *at = static_cast<const char*>(k), *next = static_cast<const char*>(ahead);
  if (kind == 0) attend_keys_of<F32Row>(at, stride, width, from, to, columns, next);
  else if (kind == 1) attend_keys_of<F16Row>(at, stride, width, from, to, columns, next);
  else attend_keys_of<Bf16Row>(at, stride, width, from, to, columns, next);
}
void attend_values(int kind, const void* v, int64_t stride, int width, int from, int to, float* rows, int padded, const void* ahead) {
  const char *at = static_cast<const char*>(v), *next = static_cast<const char*>(ahead);
  if (kind == 0) attend_values_of<F32Row>(at, stride, width, from, to, rows, padded, next);
  else if (kind == 1) attend_values_of<F16Row>(at, stride, width, from, to, rows, padded, next);
  else attend_values_of<Bf16Row>(at, stride, width, from, to, rows, padded, next);
}

// Up to attend_rows query rows and what they need of the page at hand.
struct AttendBlock {
  const float* q[attend_rows];
  float* o[attend_rows];
  int low[attend_rows], high[attend_rows], sink[attend_rows];   // the row's keys within the page: [0, sink) and [low, high)
  float by[attend_rows];                                        // what the sum so far is worth now: e^(m before − m)
  alignas(64) float s[attend_rows][attend_page];                // logits, then e^(s − m)
};

template <int R, int N>
FOLIO_INLINE void attend_scores_tile(AttendBlock& b, const float* columns, int width, int at) {
  constexpr int lanes = Vec::lanes;
  Vec sum[R][N];
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n) sum[r][n] = zero();
  const float* k = columns + at;
  for (int d = 0; d < width; ++d, k += attend_page) {
    Vec key[N];
    for (int n = 0; n < N; ++n) key[n] = load(k + n * lanes);
    for (int r = 0; r < R; ++r) {
      const Vec x = splat(b.q[r][d]);
      for (int n = 0; n < N; ++n) sum[r][n] = fma(x, key[n], sum[r][n]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n) store(&b.s[r][at + n * lanes], sum[r][n]);
}

template <int R>
void attend_scores(AttendBlock& b, const float* columns, int width, int from, int to) {
  constexpr int lanes = Vec::lanes, most = attend_vectors;
  int at = from / lanes * lanes;
  for (; at + (most - 1) * lanes < to; at += most * lanes) attend_scores_tile<R, most>(b, columns, width, at);
  for (; at < to; at += lanes) attend_scores_tile<R, 1>(b, columns, width, at);
}

template <int R, int N>
FOLIO_INLINE void attend_output_tile(AttendBlock& b, const float* rows, int padded, int from, int to, int at) {
  constexpr int lanes = Vec::lanes;
  Vec sum[R][N];
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n) sum[r][n] = load(b.o[r] + at + n * lanes) * splat(b.by[r]);
  const float* v = rows + int64_t(from) * padded + at;
  for (int j = from; j < to; ++j, v += padded) {
    Vec value[N];
    for (int n = 0; n < N; ++n) value[n] = load(v + n * lanes);
    for (int r = 0; r < R; ++r) {
      const Vec p = splat(b.s[r][j]);
      for (int n = 0; n < N; ++n) sum[r][n] = fma(p, value[n], sum[r][n]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n) store(b.o[r] + at + n * lanes, sum[r][n]);
}

template <int R>
void attend_output(AttendBlock& b, const float* rows, int padded, int from, int to) {
  constexpr int lanes = Vec::lanes, most = attend_vectors;
  int at = 0;
  for (; at + most * lanes <= padded; at += most * lanes) attend_output_tile<R, most>(b, rows, padded, from, to, at);
  for (; at < padded; at += lanes) attend_output_tile<R, 1>(b, rows, padded, from, to, at);
}

// Dot products to logits of row r, −∞ where the row may not look. Returns the highest.
FOLIO_INLINE float attend_logits(AttendBlock& b, int r, const AttendQueries& q, float slope, int behind, int from, int to) {
  constexpr int lanes = Vec::lanes;
  static constexpr float order[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const Vec nothing = splat(attend_nothing), scale = splat(q.scale);
  const int low = b.low[r], high = b.high[r], sink = b.sink[r];
  Vec most = nothing;
  for (int j = from / lanes * lanes; j < to; j += lanes) {
    Vec s = load(&b.s[r][j]) * scale;
    if (q.softcap > 0) s = tanh(s * splat(1 / q.softcap)) * splat(q.softcap);
    if (slope != 0) s = nfma(splat(slope), splat(float(behind - j)) - load(order), s);
    if (j < low || j + lanes > high) {
      auto within = [&](int n) { return first(n < j ? 0 : n > j + lanes ? lanes : n - j); };
      s = select(within(low), select(within(sink), s, nothing), select(within(high), s, nothing));
    }
    store(&b.s[r][j], s);
    most = max(s, most);
  }
  return highest(most);
}

// Logits to e^(s − m) in place, m and l of R rows brought up to date.
template <int R>
FOLIO_INLINE void attend_softmax(AttendBlock& b, const AttendQueries& q, int row, int start, float* m, float* l, int from, int to) {
  constexpr int lanes = Vec::lanes;
  alignas(64) float now[16] = {}, by[16] = {}, add[16] = {};
  for (int r = 0; r < R; ++r) {
    const int token = (row + r) / q.heads, head = (row + r) % q.heads;
    const float high = attend_logits(b, r, q, q.slopes ? q.slopes[head] : 0, q.pos[token] - start, from, to);
    const float most = high > m[r] ? high : m[r];
    by[r] = m[r];
    m[r] = most;
    now[r] = most == attend_nothing ? 0 : most;   // −∞ − −∞ is not a number
  }
  for (int i = 0; i < R; i += lanes) store(by + i, exp(load(by + i) - load(now + i)));
  for (int r = 0; r < R; ++r) {
    Vec total = zero();
    for (int j = from / lanes * lanes; j < to; j += lanes) {
      const Vec p = exp(load(&b.s[r][j]) - splat(now[r]));
      store(&b.s[r][j], p);
      total += p;
    }
    b.by[r] = by[r];
    add[r] = sum(total);
  }
  for (int i = 0; i < R; i += lanes) {
    const int n = R - i < lanes ? R - i : lanes;
    store_n(l + i, fma(load_n(l + i, n), load(by + i), load(add + i)), n);
  }
}

template <int R>
void attend_block(const AttendQueries& q, const AttendSum& sum, const float* columns, const float* rows, int row, int start, int from, int to) {
  AttendBlock b;
  int low = to, high = from;
  for (int r = 0; r < R; ++r) {
    const int token = (row + r) / q.heads, head = (row + r) % q.heads;
    auto within = [&](int32_t key) { return key < start ? 0 : key - start > to ? to : key - start; };
    b.q[r] = q.q + token * q.token_stride + head * q.head_stride;
    b.o[r] = sum.o + int64_t(row + r) * sum.width;
    b.low[r] = within(q.first[token]);
    b.high[r] = within(q.end[token]);
    b.sink[r] = within(q.sinked[token]);
    if (b.sink[r] > 0) {
      low = 0;
      if (b.sink[r] > high) high = b.sink[r];
    }
    if (b.low[r] < b.high[r]) {
      if (b.low[r] < low) low = b.low[r];
      if (b.high[r] > high) high = b.high[r];
    }
  }
  if (low >= high) return;
  attend_scores<R>(b, columns, q.width, low, high);
  attend_softmax<R>(b, q, row, start, sum.m + row, sum.l + row, low, high);
  attend_output<R>(b, rows, sum.width, low, high);
}

void attend_page_of(const AttendQueries& q, const AttendSum& sum, const float* columns, const float* rows, int start, int from, int to) {
  const int all = q.tokens * q.heads, blocks = (all + attend_rows - 1) / attend_rows;
  for (int i = 0; i < blocks; ++i) {
    const int row = all * i / blocks;   // blocks of equal size: 4 and 4 rather than 6 and 2
    switch (all * (i + 1) / blocks - row) {
      case 1: attend_block<1>(q, sum, columns, rows, row, start, from, to); break;
      case 2: attend_block<2>(q, sum, columns, rows, row, start, from, to); break;
      case 3: attend_block<3>(q, sum, columns, rows, row, start, from, to); break;
      case 4: attend_block<4>(q, sum, columns, rows, row, start, from, to); break;
      case 5: attend_block<5>(q, sum, columns, rows, row, start, from, to); break;
      default: attend_block<6>(q, sum, columns, rows, row, start, from, to); break;
    }
  }
}

void attend_fold(bool begin, const AttendSum& part, const AttendWhole& whole, int from, int to) {
  constexpr int lanes = Vec::lanes;
  float *m = whole.m, *l = whole.l;
  for (int row = from; row < to; row += 16) {
    alignas(64) float was[16] = {}, is[16] = {}, now[16] = {};
    const int n = to - row < 16 ? to - row : 16;
    for (int r = 0; r < n; ++r) {
      was[r] = begin ? attend_nothing : m[row + r];
      is[r] = part.m[row + r];
      const float most = was[r] > is[r] ? was[r] : is[r];
      m[row + r] = most;
      now[r] = most == attend_nothing ? 0 : most;
    }
    for (int i = 0; i < n; i += lanes) {
      const int some = n - i < lanes ? n - i : lanes;
      const Vec before = exp(load(was + i) - load(now + i)), after = exp(load(is + i) - load(now + i));
      Vec total = load_n(part.l + row + i, some) * after;
      if (!begin) total = fma(load_n(l + row + i, some), before, total);
      store_n(l + row + i, total, some);
      store(was + i, before);
      store(is + i, after);
    }
    for (int r = 0; r < n; ++r) {
      float* o = whole.o + (row + r) / whole.heads * whole.token_stride + (row + r) % whole.heads * whole.head_stride;
      const float* add = part.o + int64_t(row + r) * part.width;
      const Vec old_weight = splat(was[r]), new_weight = splat(is[r]);
      for (int d = 0; d < whole.width; d += lanes) {
        const int left = whole.width - d;
        Vec x = load(add + d) * new_weight;
        if (!begin) x = fma(left < lanes ? load_n(o + d, left) : load(o + d), old_weight, x);
        if (left < lanes) store_n(o + d, x, left);
        else store(o + d, x);
      }
    }
  }
}

void attend_scale(float* o, int width, float by) {
  constexpr int lanes = Vec::lanes;
  int d = 0;
  for (; d + lanes <= width; d += lanes) store(o + d, load(o + d) * splat(by));
  if (d < width) store_n(o + d, load_n(o + d, width - d) * splat(by), width - d);
}

constexpr AttendInner attend_inner = {attend_keys, attend_values, attend_page_of, attend_fold, attend_scale};

}  // namespace
}  // namespace folio
