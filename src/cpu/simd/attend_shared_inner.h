// SPDX-License-Identifier: MIT
// Attention whose values are the keys' first numbers: MLA's latents, which many heads share. A page passes twice, 64 numbers of its keys at
// a time, which become floats in a tile that stays in the first-level cache; all rows of the step meet them there:
//
//   tile      [64 keys][64]            a chunk of the page as floats
//   queries   [rows/16][pitch][16]     scores: lanes are rows, and a number of a key meets 16 of them at once
//   weights   [rows/16][64 keys][16]   so a softmax, too, has its rows side by side, and nothing is added across lanes
//   output    [rows][width]            lanes are numbers of the value
//
// Nothing is turned but the queries, once. Lanes do not meet: a row's sums are those of its own numbers, in ascending order, whatever rows
// (or none) lie beside it.
#pragma once
#include "cpu/simd/attend_inner.h"

namespace folio {
namespace {

#if FOLIO_SET == FOLIO_SET_avx512 || FOLIO_SET == FOLIO_SET_neon
constexpr int shared_sums = 16;   // registers of scores
#else
constexpr int shared_sums = 8;
#endif

// n numbers of a row of q8_0.
FOLIO_INLINE void unpack_q8(const uint8_t* row, int n, float* to) {
  for (int at = 0; at < n; at += 32, row += 34) {
    const Vec d = splat_f16(row);
    for (int i = 0; i < 32; i += Vec::lanes) store(to + at + i, load_i8(reinterpret_cast<const int8_t*>(row + 2 + i)) * d);
  }
}

template <class Row>
FOLIO_INLINE void unpack_plain(const void* row, int n, float* to) {
  const auto* from = static_cast<const typename Row::Number*>(row);
  int i = 0;
  for (; i + Vec::lanes <= n; i += Vec::lanes) store(to + i, Row::load(from + i));
  if (i < n) store_n(to + i, Row::load_n(from + i, n - i), n - i);
}

// Rows from .. to − 1 of a page as floats, with zeros up to the pitch.
void attend_unpack(int kind, const void* rows, int64_t stride, int width, int from, int to, float* floats) {
  const int pitch = int(attend_pitch(width));
  for (int j = from; j < to; ++j) {
    const char* row = static_cast<const char*>(rows) + j * stride;
    float* out = floats + j * pitch;
    if (kind == 0) unpack_plain<F32Row>(row, width, out);
    else if (kind == 1) unpack_plain<F16Row>(row, width, out);
    else if (kind == 2) unpack_plain<Bf16Row>(row, width, out);
    else unpack_q8(reinterpret_cast<const uint8_t*>(row), width, out);
    for (int i = width; i < pitch; ++i) out[i] = 0;
  }
}

// Numbers at .. at + n − 1 of the keys from .. to − 1 as floats, with zeros behind the last of `width`.
template <class Row>
FOLIO_INLINE void shared_plain(const AttendKeys& keys, int width, int at, int n, int from, int to, float* tile) {
  const int there = width - at < n ? width - at : n;
  for (int j = from; j < to; ++j) {
    const auto* row = reinterpret_cast<const typename Row::Number*>(static_cast<const char*>(keys.k) + j * keys.k_stride) + at;
    float* out = tile + j * shared_numbers;
    if (there == shared_numbers) {   // a length that the compiler knows
      FOLIO_UNROLL
      for (int i = 0; i < shared_numbers; i += Vec::lanes) store(out + i, Row::load(row + i));
      continue;
    }
    unpack_plain<Row>(row, there, out);
    for (int i = there; i < n; ++i) out[i] = 0;
  }
}
void shared_tile(const AttendKeys& keys, int width, int at, int n, int from, int to, float* tile) {
  switch (keys.kind) {
    case 0: return shared_plain<F32Row>(keys, width, at, n, from, to, tile);
    case 1: return shared_plain<F16Row>(keys, width, at, n, from, to, tile);
    case 2: return shared_plain<Bf16Row>(keys, width, at, n, from, to, tile);
  }
  for (int j = from; j < to; ++j)
    unpack_q8(static_cast<const uint8_t*>(keys.k) + j * keys.k_stride + at / 32 * 34, n, tile + j * shared_numbers);
}

void shared_pack(const AttendQueries& q, float* packed) {
  constexpr int lanes = Vec::lanes;
  const int pitch = int(attend_pitch(q.width)), rows = q.tokens * q.heads;
  for (int row = 0; row < up_to_group(rows); row += lanes) {
    float* to = packed + row / shared_rows * shared_rows * pitch + row % shared_rows;
    for (int d = 0; d < pitch; d += lanes) {
      Vec square[lanes];
      for (int i = 0; i < lanes; ++i) {
        const float* from = q.q + (row + i) / q.heads * q.token_stride + (row + i) % q.heads * q.head_stride;
        square[i] = row + i < rows ? attend_load<F32Row>(reinterpret_cast<const char*>(from), d, q.width) * splat(q.scale) : zero();
      }
      transpose(square);
      for (int i = 0; i < lanes; ++i) store(to + (d + i) * shared_rows, square[i]);
    }
  }
}

// The lines of the next page, asked for one by one between the products: many at once would fill the line buffers and stop the loads
// behind them.
struct SharedAhead {
  const char *at, *end;
  FOLIO_INLINE void next() {
    if (at >= end) return;
    __builtin_prefetch(at, 0, 2);
    at += 64;
  }
};

// s (+)= q·k over n numbers, a multiple of 16, of V registers of rows.
template <int V>
void shared_scores(const float* queries, const float* tile, int n, bool begin, float* s, SharedAhead& ahead, int from, int to) {
  constexpr int lanes = Vec::lanes, K = shared_sums / V;
  for (int j = from / K * K; j < to; j += K) {
    Vec sum[K][V];
    FOLIO_UNROLL
    for (int k = 0; k < K; ++k)
      FOLIO_UNROLL
      for (int v = 0; v < V; ++v) sum[k][v] = begin ? zero() : load(s + (j + k) * shared_rows + v * lanes);
    const float *q = queries, *key = tile + j * shared_numbers;
    for (int d = 0; d < n; d += 4) {
      ahead.next();
      FOLIO_UNROLL
      for (int i = 0; i < 4; ++i, q += shared_rows, ++key) {
        Vec x[V];
        FOLIO_UNROLL
        for (int v = 0; v < V; ++v) x[v] = load(q + v * lanes);
        FOLIO_UNROLL
        for (int k = 0; k < K; ++k) {
          const Vec number = splat(key[k * shared_numbers]);
          FOLIO_UNROLL
          for (int v = 0; v < V; ++v) sum[k][v] = fma(number, x[v], sum[k][v]);
        }
      }
    }
    FOLIO_UNROLL
    for (int k = 0; k < K; ++k)
      FOLIO_UNROLL
      for (int v = 0; v < V; ++v) store(s + (j + k) * shared_rows + v * lanes, sum[k][v]);
  }
}

// What some rows see of the page: keys [0, sink) and [low, high). `whole`: all of them all.
struct SharedLimits {
  alignas(64) float low[16] = {}, high[16] = {}, sink[16] = {}, slope[16] = {}, behind[16] = {};
  bool whole = true;
  SharedLimits(const AttendQueries& q, int row, int rows, int start, int from, int to) {
    for (int r = 0; r < rows; ++r) {
      const int token = (row + r) / q.heads;
      low[r] = float(q.first[token] - start), high[r] = float(q.end[token] - start), sink[r] = float(q.sinked[token] - start);
      whole &= q.first[token] <= start + from && q.end[token] >= start + to;
      slope[r] = q.slopes ? q.slopes[(row + r) % q.heads] : 0;
      behind[r] = float(q.pos[token] - start);
    }
  }
};

// Products of a register of rows to logits to e^(s − m), with m and l brought up to date. by: what the sums so far are worth now,
// e^(m before − m).
void shared_softmax(const AttendQueries& q, const AttendSum& sum, float* s, float* by, int row, int start, int from, int to) {
  const int rows = q.tokens * q.heads - row < Vec::lanes ? q.tokens * q.heads - row : Vec::lanes;
  const SharedLimits limit(q, row, rows, start, from, to);
  const Vec nothing = splat(attend_nothing), before = load_n(sum.m + row, rows);
  Vec most = nothing;
  for (int j = from; j < to; ++j) {
    const Vec key = splat(float(j));
    Vec x = load(s + j * shared_rows);
    if (q.softcap > 0) x = tanh(x * splat(1 / q.softcap)) * splat(q.softcap);
    if (q.slopes) x = nfma(load(limit.slope), load(limit.behind) - key, x);
    if (!limit.whole) {
      const Vec otherwise = select(less(key, load(limit.sink)), x, nothing);
      x = select(less(key, load(limit.low)), otherwise, select(less(key, load(limit.high)), x, otherwise));
    }
    store(s + j * shared_rows, x);
    most = max(x, most);
  }
  const Vec now = select(less(before, most), most, before);
  const Vec base = select(less(nothing, now), now, zero());   // −∞ − −∞ is not a number
  const Vec worth = exp(before - base);
  Vec total = zero();
  for (int j = from; j < to; ++j) {
    const Vec p = exp(load(s + j * shared_rows) - base);
    store(s + j * shared_rows, p);
    total += p;
  }
  store(by, worth);
  store_n(sum.m + row, now, rows);
  store_n(sum.l + row, fma(load_n(sum.l + row, rows), worth, total), rows);
}

struct SharedOutput {
  const float *p, *by;   // of the first row
  const float* v;        // the tile
  float* o;
  int64_t o_stride;
  int from, to;
};
// o = o·by + Σ p·v of R rows and N registers of numbers.
template <int R, int N>
FOLIO_INLINE void shared_output_tile(const SharedOutput& t, int at, SharedAhead& ahead) {
  constexpr int lanes = Vec::lanes;
  Vec sum[R][N];
  FOLIO_UNROLL
  for (int r = 0; r < R; ++r)
    FOLIO_UNROLL
    for (int n = 0; n < N; ++n) sum[r][n] = load(t.o + r * t.o_stride + at + n * lanes) * splat(t.by[r]);
  const float *p = t.p + t.from * shared_rows, *v = t.v + t.from * shared_numbers + at;
  auto key = [&]() __attribute__((always_inline)) {
    Vec value[N];
    FOLIO_UNROLL
    for (int n = 0; n < N; ++n) value[n] = load(v + n * lanes);
    FOLIO_UNROLL
    for (int r = 0; r < R; ++r) {
      const Vec x = splat(p[r]);
      FOLIO_UNROLL
      for (int n = 0; n < N; ++n) sum[r][n] = fma(x, value[n], sum[r][n]);
    }
    p += shared_rows, v += shared_numbers;
  };
  int j = t.from;
  for (; j + 4 <= t.to; j += 4) {
    ahead.next();
    key(), key(), key(), key();
  }
  for (; j < t.to; ++j) key();
  FOLIO_UNROLL
  for (int r = 0; r < R; ++r)
    FOLIO_UNROLL
    for (int n = 0; n < N; ++n) store(t.o + r * t.o_stride + at + n * lanes, sum[r][n]);
}
template <int R>
void shared_output(const SharedOutput& t, int n, SharedAhead& ahead) {
  int at = 0;
  for (; at + attend_panel <= n; at += attend_panel) shared_output_tile<R, attend_vectors>(t, at, ahead);
  if (at < n) shared_output_tile<R, attend_last>(t, at, ahead);
}

FOLIO_INLINE void shared_scores_of(int rows, const float* queries, const float* tile, int n, bool begin, float* s, SharedAhead& ahead,
                                   int from, int to) {
  constexpr int lanes = Vec::lanes, most = shared_rows / lanes;
  if (rows <= lanes) shared_scores<1>(queries, tile, n, begin, s, ahead, from, to);
  else if (rows <= 2 * lanes) shared_scores<most < 2 ? 1 : 2>(queries, tile, n, begin, s, ahead, from, to);
  else shared_scores<most < 4 ? 1 : 4>(queries, tile, n, begin, s, ahead, from, to);
}
FOLIO_INLINE void shared_output_of(int rows, SharedOutput t, int numbers, SharedAhead& ahead) {
  for (int n; rows > 0; rows -= n, t.p += n, t.by += n, t.o += n * t.o_stride) {
    n = attend_next(rows);
    switch (n) {
      case 1: shared_output<1>(t, numbers, ahead); break;
      case 2: shared_output<2>(t, numbers, ahead); break;
      case 4: shared_output<4>(t, numbers, ahead); break;
      case 8: shared_output<attend_rows < 8 ? 1 : 8>(t, numbers, ahead); break;
      default: shared_output<attend_rows>(t, numbers, ahead); break;
    }
  }
}

void attend_shared(const AttendQueries& q, const AttendSum& sum, const AttendKeys& keys, float* buffer, int start, int from, int to) {
  const int rows = q.tokens * q.heads, pitch = int(attend_pitch(q.width));
  float *tile = buffer, *s = tile + attend_page * shared_numbers, *by = s + up_to_group(rows) * attend_page;
  const auto* next = static_cast<const char*>(keys.k_ahead);
  SharedAhead ahead = {next, next ? next + attend_page * keys.k_stride : nullptr};
  auto groups = [&](auto each) {
    for (int row = 0; row < rows; row += shared_rows) each(row, rows - row < shared_rows ? rows - row : shared_rows);
  };
  for (int at = 0; at < pitch; at += shared_numbers) {
    const int n = pitch - at < shared_numbers ? pitch - at : shared_numbers;
    shared_tile(keys, q.width, at, n, from, to, tile);
    groups([&](int row, int some) {
      shared_scores_of(some, q.packed + int64_t(row) * pitch + at * shared_rows, tile, n, at == 0, s + row * attend_page, ahead, from, to);
    });
  }
  for (int row = 0; row < rows; row += Vec::lanes)
    shared_softmax(q, sum, s + row / shared_rows * shared_rows * attend_page + row % shared_rows, by + row, row, start, from, to);
  for (int at = 0; at < sum.width; at += shared_numbers) {
    const int n = sum.width - at < shared_numbers ? sum.width - at : shared_numbers;
    shared_tile(keys, q.width, at, n, from, to, tile);
    groups([&](int row, int some) {
      shared_output_of(some, {s + row * attend_page, by + row, tile, sum.o + int64_t(row) * sum.width + at, sum.width, from, to}, n, ahead);
    });
  }
}

}  // namespace
}  // namespace folio
