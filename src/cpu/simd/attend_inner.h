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
// A product's tile in registers: rows × vectors sums. More rows than vectors, since then a page is read less often from L2.
#if FOLIO_SET == FOLIO_SET_avx512
constexpr int attend_rows = 12, attend_vectors = 2;
#elif FOLIO_SET == FOLIO_SET_neon
constexpr int attend_rows = 6, attend_vectors = 4;
#else
constexpr int attend_rows = 6, attend_vectors = 2;
#endif
constexpr int attend_panel = attend_vectors * Vec::lanes;   // a page's floats lie in panels as wide as the tile: [panel][D][attend_panel]
constexpr int attend_last = attend_panel == 32 ? 16 / Vec::lanes : 1;   // vectors of 16 numbers, where that is no whole number of panels

template <class Row>
FOLIO_INLINE Vec attend_load(const char* row, int at, int width) {
  const auto* p = reinterpret_cast<const typename Row::Number*>(row) + at;
  return width - at >= Vec::lanes ? Row::load(p) : width > at ? Row::load_n(p, width - at) : zero();
}

FOLIO_INLINE void attend_fetch(const char* row, int bytes) {
  for (int b = 0; b < bytes; b += 64) __builtin_prefetch(row + b, 0, 2);
}

// Keys j .. j + lanes − 1, numbers d .. d + lanes − 1, turned: square[i] has number d + i of those keys.
template <class Row, bool Whole>
FOLIO_INLINE void attend_square(const char* k, int64_t stride, int d, int width, Vec (&square)[Vec::lanes]) {
  FOLIO_UNROLL
  for (int i = 0; i < Vec::lanes; ++i, k += stride)
    square[i] = Whole ? Row::load(reinterpret_cast<const typename Row::Number*>(k) + d) : attend_load<Row>(k, d, width);
  transpose(square);
}

// `lanes` keys to floats, turned: number d of key i at panel[d · attend_panel + i].
template <class Row>
FOLIO_INLINE void attend_turn(const char* at, int64_t stride, int width, float* panel) {
  constexpr int lanes = Vec::lanes;
  int d = 0;
  for (; d + lanes <= width; d += lanes) {
    Vec square[lanes];
    attend_square<Row, true>(at, stride, d, width, square);
    FOLIO_UNROLL
    for (int i = 0; i < lanes; ++i) store(panel + (d + i) * attend_panel, square[i]);
  }
  if (d < width) {
    Vec square[lanes];
    attend_square<Row, false>(at, stride, d, width, square);
    for (int i = 0; d + i < width; ++i) store(panel + (d + i) * attend_panel, square[i]);
  }
}

// All keys, in panels of `pitch` rows: number d of key j at columns[(j / panel · pitch + d) · panel + j % panel].
template <class Row>
FOLIO_INLINE void attend_keys(const AttendKeys& keys, int width, int pitch, int from, int to, float* columns) {
  constexpr int lanes = Vec::lanes;
  const char *k = static_cast<const char*>(keys.k), *ahead = static_cast<const char*>(keys.k_ahead);
  for (int j = from / attend_panel * attend_panel; j < to; j += lanes) {
    attend_turn<Row>(k + j * keys.k_stride, keys.k_stride, width, columns + int64_t(j / attend_panel) * pitch * attend_panel + j % attend_panel);
    if (ahead)
      for (int i = 0; i < lanes; ++i) attend_fetch(ahead + (j + i) * keys.k_stride, width * int(sizeof(typename Row::Number)));
  }
}

// Values to floats in panels: numbers at .. at + panel − 1 of key j from rows[64·at + j·panel] on. The last panel may be narrower.
template <class Row>
FOLIO_INLINE void attend_values(const AttendKeys& keys, int padded, int from, int to, float* rows) {
  constexpr int lanes = Vec::lanes;
  const int width = keys.value_width;
  const char *v = static_cast<const char*>(keys.v), *ahead = static_cast<const char*>(keys.v_ahead);
  for (int j = from; j < to; ++j) {
    for (int at = 0; at < padded; at += attend_panel) {
      const int wide = padded - at < attend_panel ? padded - at : attend_panel;
      float* out = rows + int64_t(attend_page) * at + j * wide;
      for (int i = 0; i < wide; i += lanes) store(out + i, attend_load<Row>(v + j * keys.v_stride, at + i, width));
    }
    if (ahead) attend_fetch(ahead + j * keys.v_stride, width * int(sizeof(typename Row::Number)));
  }
}

// Up to attend_rows query rows and what they need of the page at hand.
struct AttendBlock {
  const float* q;                                               // [D][R], scaled
  float* o;                                                     // [R][width]
  int low[attend_rows], high[attend_rows], sink[attend_rows];   // the row's keys within the page: [0, sink) and [low, high)
  float by[attend_rows];                                        // what the sum so far is worth now: e^(m before − m)
  alignas(64) float s[attend_rows][attend_page];                // logits, then e^(s − m)
};

// s = q·k, panel by panel of keys.
template <int R>
FOLIO_INLINE void attend_scores(AttendBlock& b, const float* columns, int width, int from, int to) {
  constexpr int lanes = Vec::lanes, N = attend_vectors;
  for (int at = from / attend_panel * attend_panel; at < to; at += attend_panel) {
    Vec sum[R][N];
    for (int r = 0; r < R; ++r)
      for (int n = 0; n < N; ++n) sum[r][n] = zero();
    const float *k = columns + int64_t(at) * width, *q = b.q;
    for (int d = 0; d < width; ++d, k += attend_panel, q += R) {
      Vec key[N];
      for (int n = 0; n < N; ++n) key[n] = load(k + n * lanes);
      FOLIO_UNROLL
      for (int r = 0; r < R; ++r) {
        const Vec x = splat(q[r]);
        for (int n = 0; n < N; ++n) sum[r][n] = fma(x, key[n], sum[r][n]);
      }
    }
    FOLIO_UNROLL
    for (int r = 0; r < R; ++r)
      for (int n = 0; n < N; ++n) store(&b.s[r][at + n * lanes], sum[r][n]);
  }
}

// The same straight from the keys' bytes: the turned square stays in registers, which is worth it while it is used once.
template <int R, class Row>
FOLIO_INLINE void attend_scores_of(AttendBlock& b, const AttendKeys& keys, int width, int from, int to) {
  constexpr int lanes = Vec::lanes;
  // A square is as wide as a line, or `share` squares are: each of them asks for its share of the next page's lines, one by one
  // between the products. Many at once would fill the line buffers and stop the loads behind them.
  constexpr int size = int(sizeof(typename Row::Number)), share = lanes * size < 64 ? 64 / (lanes * size) : 1;
  const char *k = static_cast<const char*>(keys.k), *ahead = static_cast<const char*>(keys.k_ahead ? keys.k_ahead : keys.k);
  for (int j = from / lanes * lanes; j < to; j += lanes) {
    Vec sum[R];
    for (int r = 0; r < R; ++r) sum[r] = zero();
    const char *at = k + j * keys.k_stride, *next = ahead + j * keys.k_stride;
    const float* q = b.q;
    int d = 0;
    for (; d + lanes <= width; d += lanes, q += lanes * R) {
      Vec square[lanes];
      attend_square<Row, true>(at, keys.k_stride, d, width, square);
      const char* line = next + d / lanes % share * keys.k_stride + d * size;
      FOLIO_UNROLL
      for (int i = 0; i < lanes; ++i) {
        if (i % share == 0) __builtin_prefetch(line + i * keys.k_stride, 0, 2);
        FOLIO_UNROLL
        for (int r = 0; r < R; ++r) sum[r] = fma(splat(q[i * R + r]), square[i], sum[r]);
      }
    }
    if (d < width) {
      Vec square[lanes];
      attend_square<Row, false>(at, keys.k_stride, d, width, square);
      for (int i = 0; d + i < width; ++i)
        for (int r = 0; r < R; ++r) sum[r] = fma(splat(q[i * R + r]), square[i], sum[r]);
    }
    for (int r = 0; r < R; ++r) store(&b.s[r][j], sum[r]);
  }
}

// o = o·by + Σ p·v of N vectors; Row and stride say what v is, and what lies at v + ahead is fetched.
template <int R, int N, class Row>
FOLIO_INLINE void attend_output_tile(AttendBlock& b, const char* v, int64_t stride, int64_t ahead, int padded, int from, int to,
                                     int at) {
  constexpr int lanes = Vec::lanes;
  Vec sum[R][N];
  FOLIO_UNROLL
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n) sum[r][n] = load(b.o + r * padded + at + n * lanes) * splat(b.by[r]);
  v += from * stride;
  for (int j = from; j < to; ++j, v += stride) {
    if (ahead) attend_fetch(v + ahead, N * lanes * int(sizeof(typename Row::Number)));
    Vec value[N];
    for (int n = 0; n < N; ++n) value[n] = Row::load(reinterpret_cast<const typename Row::Number*>(v) + n * lanes);
    FOLIO_UNROLL
    for (int r = 0; r < R; ++r) {
      const Vec p = splat(b.s[r][j]);
      for (int n = 0; n < N; ++n) sum[r][n] = fma(p, value[n], sum[r][n]);
    }
  }
  FOLIO_UNROLL
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n) store(b.o + r * padded + at + n * lanes, sum[r][n]);
}

template <int R>
FOLIO_INLINE void attend_output(AttendBlock& b, const float* rows, int padded, int from, int to) {
  const char* v = reinterpret_cast<const char*>(rows);
  int at = 0;
  for (; at + attend_panel <= padded; at += attend_panel)
    attend_output_tile<R, attend_vectors, F32Row>(b, v + 4 * attend_page * at, 4 * attend_panel, 0, padded, from, to, at);
  if (at < padded) attend_output_tile<R, attend_last, F32Row>(b, v + 4 * attend_page * at, 4 * 16, 0, padded, from, to, at);
}

// The same straight from the values' bytes, whose width must be a multiple of 16.
template <int R, class Row>
FOLIO_INLINE void attend_output_of(AttendBlock& b, const AttendKeys& keys, int padded, int from, int to) {
  constexpr int bytes = int(sizeof(typename Row::Number));
  const char* v = static_cast<const char*>(keys.v);
  const int64_t ahead = keys.v_ahead ? int64_t(uintptr_t(keys.v_ahead)) - int64_t(uintptr_t(keys.v)) : 0;
  int at = 0;
  for (; at + attend_panel <= padded; at += attend_panel)
    attend_output_tile<R, attend_vectors, Row>(b, v + at * bytes, keys.v_stride, ahead, padded, from, to, at);
  if (at < padded) attend_output_tile<R, attend_last, Row>(b, v + at * bytes, keys.v_stride, ahead, padded, from, to, at);
}

// Dot products to logits of row r, −∞ where the row may not look. Returns the highest.
FOLIO_INLINE float attend_logits(AttendBlock& b, int r, const AttendQueries& q, float slope, int behind, int from, int to) {
  constexpr int lanes = Vec::lanes;
  static constexpr float order[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const Vec nothing = splat(attend_nothing);
  const int low = b.low[r], high = b.high[r], sink = b.sink[r];
  Vec most = nothing;
  for (int j = from / lanes * lanes; j < to; j += lanes) {
    Vec s = load(&b.s[r][j]);
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

// Which keys of the page the rows of a block see. Returns false if none of them sees any; else low and high hold them all.
template <int R>
FOLIO_INLINE bool attend_limits(AttendBlock& b, const AttendQueries& q, int row, int start, int to, int& low, int& high) {
  low = to;
  high = 0;
  for (int r = 0; r < R; ++r) {
    const int token = (row + r) / q.heads;
    auto within = [&](int32_t key) { return key < start ? 0 : key - start > to ? to : key - start; };
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
  return low < high;
}

template <int R>
void attend_block(const AttendQueries& q, const AttendSum& sum, const float* columns, const float* rows, int row, int start, int to) {
  AttendBlock b;
  int low, high;
  if (!attend_limits<R>(b, q, row, start, to, low, high)) return;
  b.q = q.packed + int64_t(row) * q.width;
  b.o = sum.o + int64_t(row) * sum.width;
  attend_scores<R>(b, columns, q.width, low, high);
  attend_softmax<R>(b, q, row, start, sum.m + row, sum.l + row, low, high);
  attend_output<R>(b, rows, sum.width, low, high);
}

// All rows of the tile at once, from the page's bytes.
template <int R, class Row>
void attend_few_rows(const AttendQueries& q, const AttendSum& sum, const AttendKeys& keys, int start, int to) {
  AttendBlock b;
  int low, high;
  if (!attend_limits<R>(b, q, 0, start, to, low, high)) return;
  b.q = q.packed;
  b.o = sum.o;
  attend_scores_of<R, Row>(b, keys, q.width, low, high);
  attend_softmax<R>(b, q, 0, start, sum.m, sum.l, low, high);
  attend_output_of<R, Row>(b, keys, sum.width, low, high);
}

// How many of `left` rows the next block takes: 12, 8, 6, 4, 2 or 1, and 8 and 8 rather than 12 and 4.
FOLIO_INLINE int attend_next(int left) {
  const int room = left > attend_rows && left < 2 * attend_rows ? (left + 1) / 2 : left;
  return room >= attend_rows ? attend_rows : attend_rows > 8 && room >= 8 ? 8 : room >= 4 ? 4 : room >= 2 ? 2 : 1;
}

// Takes the page if the tile has so few rows that it should be taken from its bytes.
template <class Row>
FOLIO_INLINE bool attend_few(const AttendQueries& q, const AttendSum& sum, const AttendKeys& keys, int start, int to) {
  const int rows = q.tokens * q.heads;
  if (keys.value_width != sum.width || attend_next(rows) != rows) return false;
  switch (rows) {
    case 1: attend_few_rows<1, Row>(q, sum, keys, start, to); return true;
    case 2: attend_few_rows<2, Row>(q, sum, keys, start, to); return true;
    case 4: attend_few_rows<4, Row>(q, sum, keys, start, to); return true;
    case 8: attend_few_rows<attend_rows < 8 ? 1 : 8, Row>(q, sum, keys, start, to); return true;
    default: return false;
  }
}

void attend_blocks(const AttendQueries& q, const AttendSum& sum, const float* columns, const float* rows, int start, int to) {
  for (int row = 0, n; row < q.tokens * q.heads; row += n) {
    n = attend_next(q.tokens * q.heads - row);
    switch (n) {
      case 1: attend_block<1>(q, sum, columns, rows, row, start, to); break;
      case 2: attend_block<2>(q, sum, columns, rows, row, start, to); break;
      case 4: attend_block<4>(q, sum, columns, rows, row, start, to); break;
      case 8: attend_block<attend_rows < 8 ? 1 : 8>(q, sum, columns, rows, row, start, to); break;
      default: attend_block<attend_rows>(q, sum, columns, rows, row, start, to); break;
    }
  }
}

template <class Row>
FOLIO_INLINE void attend_page_in(const AttendQueries& q, const AttendSum& sum, const AttendKeys& keys, float* buffer, int start, int from,
                                 int to) {
  if (attend_few<Row>(q, sum, keys, start, to)) return;
  float *columns = buffer, *rows = buffer + q.width * attend_page;
  attend_keys<Row>(keys, q.width, q.width, from, to, columns);
  attend_values<Row>(keys, sum.width, from, to, rows);
  attend_blocks(q, sum, columns, rows, start, to);
}

// attend_shared_inner.h
void attend_shared(const AttendQueries& q, const AttendSum& sum, const AttendKeys& keys, float* buffer, int start, int from, int to);
void shared_pack(const AttendQueries& q, float* packed);

void attend_page_of(const AttendQueries& q, const AttendSum& sum, const AttendKeys& keys, float* buffer, int start, int from, int to) {
  if (keys.v == keys.k) attend_shared(q, sum, keys, buffer, start, from, to);
  else if (keys.kind == 0) attend_page_in<F32Row>(q, sum, keys, buffer, start, from, to);
  else if (keys.kind == 1) attend_page_in<F16Row>(q, sum, keys, buffer, start, from, to);
  else attend_page_in<Bf16Row>(q, sum, keys, buffer, start, from, to);
}

// Queries in the order in which a block's product reads them.
void attend_pack(const AttendQueries& q, float* packed) {
  if (q.shared) return shared_pack(q, packed);
  for (int row = 0, n; row < q.tokens * q.heads; row += n) {
    n = attend_next(q.tokens * q.heads - row);
    for (int r = 0; r < n; ++r) {
      const float* from = q.q + (row + r) / q.heads * q.token_stride + (row + r) % q.heads * q.head_stride;
      float* to = packed + int64_t(row) * q.width + r;
      for (int d = 0; d < q.width; ++d) to[int64_t(d) * n] = q.scale * from[d];
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

constexpr AttendInner attend_inner = {attend_pack, attend_page_of, attend_fold, attend_scale};

}  // namespace
}  // namespace folio
