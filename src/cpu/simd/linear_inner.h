// SPDX-License-Identifier: MIT
// Linear over one page of one head, in the page form of ops/linear.h. With lanes along the value, everything that grows with T is one
// kind of product, sums[rows of a tile][panel] += a · b, on three pairs of factors:
//
//   S₀ [K][V]          u_t += (−β·k·e^b)_t · S₀        o_t  = (scale·q·e^b)_t · S₀
//   rows u [t][V]      u_t += Σ_{s<t} A[t][s]·u_s      o_t += Σ_{s≤t} P[t][s]·u_s        P, A: scores, with decay, scale and −β
//   page [64][V]       S    = e^b₆₃ ⊙ S₀ + Σ_s (k_s ⊙ e^(b₆₃ − b_s))ᵀ u_s
//
// Each number is one chain of multiply-adds in ascending order, whatever the tile and however many rows are new: so a token's bits do
// not depend on how the step was cut, nor on later tokens, of which nothing is added to it, were it times zero.
//
// Decays between two rows are exponentials of sums of log decays of the rows between them, never of differences of sums, which lose
// digits behind a strong decay, and never of a positive number. One a channel they are taken in blocks of 16 rows: from a key of an
// earlier block to the block's beginning (into the key), from there to the row (into the query); within a block pair by pair.
#pragma once
#include "cpu/simd/linear.h"
#include "cpu/simd/transpose.h"

#ifndef FOLIO_UNROLL
#define FOLIO_UNROLL _Pragma("GCC unroll 16")
#endif

namespace folio {
namespace {

constexpr int linear_block = 16;
// A tile in registers: rows × vectors.
#if FOLIO_SET == FOLIO_SET_avx512
constexpr int linear_tile = 8, linear_vectors = 2, linear_wide = 8;
#elif FOLIO_SET == FOLIO_SET_neon
constexpr int linear_tile = 4, linear_vectors = 4, linear_wide = 8;
#else
constexpr int linear_tile = 4, linear_vectors = 2, linear_wide = 4;
#endif
constexpr int linear_panel = linear_vectors * Vec::lanes;   // values lie in panels as wide as the tile: [panel][row][linear_panel]

// The page and its scratch.
struct LinearWork {
  const LinearPage& p;
  int wide, across;                 // K and V up to whole registers and panels
  float *keys, *queries;            // [64][wide]    k of all rows; q of the new ones, times what its scores want
  float *asks;                      // [64][wide]    the same of k, for the delta rule; may be `keys`
  float *q_state, *k_state;         // [64][wide]    scale·q·e^b, −β·k·e^b of the new rows
  float *decayed, *turned;          // [64][wide]    keys with decay; keys turned, in panels [K][linear_panel]
  float *update;                    // [K][64]       keys with the decay to the page's end, turned
  float *gates;                     // [64][wide]    log decays a channel
  float *sum, *part, *z, *total;    // [wide]
  float *P, *A;                     // [64][64]
  float *u, *o;                     // panels [64][linear_panel]
  float *S;                         // panels [K][linear_panel]
  float *gate, *between, *until, *norm;   // [64]   log decays; sums to the row at hand; e^b; normaliser

  explicit LinearWork(const LinearPage& page) : p(page), wide((page.K + 15) / 16 * 16), across((page.V + 31) / 32 * 32) {
    float* at = page.scratch;
    auto take = [&](int64_t n) {
      float* const begin = at;
      at += n;
      return begin;
    };
    const int64_t row = 64 * int64_t(wide);
    keys = take(row), queries = take(row), asks = take(row), q_state = take(row), k_state = take(row), decayed = take(row);
    turned = take(row), update = take(row), gates = take(row);
    sum = take(wide), part = take(wide), z = take(wide), total = take(wide);
    S = take(int64_t(page.K) * across), u = take(64 * int64_t(across)), o = take(64 * int64_t(across));
    P = take(4096), A = take(4096), gate = take(64), between = take(64), until = take(64), norm = take(64);
  }
};

FOLIO_INLINE Vec linear_load(const float* row, int at, int width) {
  return width - at >= Vec::lanes ? load(row + at) : width > at ? load_n(row + at, width - at) : zero();
}
FOLIO_INLINE void linear_store(float* row, int at, int width, Vec a) {
  if (width - at >= Vec::lanes) store(row + at, a);
  else if (width > at) store_n(row + at, a, width - at);
}

// to = from, with zeros up to `wide`.
FOLIO_INLINE void linear_copy(float* to, const float* from, int width, int wide) {
  for (int c = 0; c < wide; c += Vec::lanes) store(to + c, linear_load(from, c, width));
}

// Rows 0 .. count − 1 of `from`, turned: number c of row s at to[s / linear_panel · panel_stride + c · stride + s % linear_panel].
void linear_turn(const float* from, int64_t from_stride, int count, int width, float* to, int64_t panel_stride, int64_t stride) {
  constexpr int lanes = Vec::lanes;
  for (int s = 0; s < count; s += lanes)
    for (int c = 0; c < width; c += lanes) {
      Vec square[lanes];
      for (int i = 0; i < lanes; ++i) square[i] = load(from + (s + i) * from_stride + c);
      transpose(square);
      float* at = to + s / linear_panel * panel_stride + c * stride + s % linear_panel;
      for (int i = 0; i < lanes && c + i < width; ++i) store(at + i * stride, square[i]);
    }
}

// sums += a · b, rows of a `a_stride` apart, a row of the panel b every `b_stride`.
template <int R>
FOLIO_INLINE void linear_add(Vec (&sums)[R][linear_vectors], const float* a, int64_t a_stride, int depth, const float* b,
                             int64_t b_stride) {
  constexpr int lanes = Vec::lanes, N = linear_vectors;
  for (int d = 0; d < depth; ++d, b += b_stride) {
    Vec x[N];
    for (int n = 0; n < N; ++n) x[n] = load(b + n * lanes);
    FOLIO_UNROLL
    for (int r = 0; r < R; ++r) {
      const Vec y = splat(a[r * a_stride + d]);
      for (int n = 0; n < N; ++n) sums[r][n] = fma(y, x[n], sums[r][n]);
    }
  }
}
template <int R> FOLIO_INLINE void linear_get(Vec (&sums)[R][linear_vectors], const float* from, int64_t stride) {
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < linear_vectors; ++n) sums[r][n] = load(from + r * stride + n * Vec::lanes);
}
template <int R> FOLIO_INLINE void linear_put(const Vec (&sums)[R][linear_vectors], float* to, int64_t stride) {
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < linear_vectors; ++n) store(to + r * stride + n * Vec::lanes, sums[r][n]);
}

// each(LinearRows<R>(), row): tiles of linear_tile rows as far as they go, one of half as many, single rows.
template <int R> struct LinearRows { static constexpr int count = R; };
template <class Each> FOLIO_INLINE void linear_tiles(int from, int to, Each each) {
  for (int row = from; row < to;) {
    constexpr int half = linear_tile / 2;
    if (to - row >= linear_tile) each(LinearRows<linear_tile>(), row), row += linear_tile;
    else if (to - row >= half) each(LinearRows<half>(), row), row += half;
    else each(LinearRows<1>(), row), ++row;
  }
}

// --- What is there, and what the step brings.

void linear_gather(const LinearWork& w) {
  const LinearPage& p = w.p;
  const int lanes = Vec::lanes, last = (p.to + lanes - 1) / lanes * lanes;
  for (int row = 0; row < p.to; ++row) {
    const bool fresh = row >= p.from;
    const int64_t i = row - p.from;
    float* const key = w.keys + row * w.wide;
    linear_copy(key, fresh ? p.k + i * p.k_stride : p.rows_k + row * p.rows_k_stride, p.K, w.wide);
    for (int c = 0; fresh && p.writes_k && c < p.K; c += lanes) linear_store(p.rows_k + row * p.rows_k_stride, c, p.K, load(key + c));
    if (p.decay == LinearPage::scalar) {
      w.gate[row] = fresh ? p.g[i * p.g_stride] : p.rows_g[row * p.rows_g_stride];
      if (fresh) p.rows_g[row * p.rows_g_stride] = w.gate[row];
    } else if (p.decay == LinearPage::channel) {
      float* const gate = w.gates + row * w.wide;
      linear_copy(gate, fresh ? p.g + i * p.g_stride : p.rows_g + row * p.rows_g_stride, p.K, w.wide);
      for (int c = 0; fresh && c < p.K; c += lanes) linear_store(p.rows_g + row * p.rows_g_stride, c, p.K, load(gate + c));
    }
    const float* value = fresh ? p.v + i * p.v_stride : p.rows_u + row * p.rows_u_stride;
    const Vec by = splat(fresh && p.beta ? p.beta[i * p.beta_stride] : 1);
    for (int at = 0; at < w.across; at += lanes)
      store(w.u + int64_t(at / linear_panel) * 64 * linear_panel + row * linear_panel + at % linear_panel,
            linear_load(value, at, p.V) * by);
  }
  for (int row = p.to; row < last; ++row) linear_copy(w.keys + row * w.wide, w.keys, 0, w.wide);
}

// --- Scores: P[t][s] and A[t][s] for s ≤ t.

template <int R> FOLIO_INLINE void linear_scores(const LinearWork& w, const float* a, float* to, int row, int columns) {
  for (int at = 0; at < columns; at += linear_panel) {
    Vec sums[R][linear_vectors];
    for (int r = 0; r < R; ++r)
      for (int n = 0; n < linear_vectors; ++n) sums[r][n] = zero();
    linear_add(sums, a + row * w.wide, w.wide, w.p.K, w.turned + int64_t(at) * w.p.K, linear_panel);
    linear_put(sums, to + row * 64 + at, 64);
  }
}
// Columns up to the row itself, or the first `columns`.
void linear_score_rows(const LinearWork& w, const float* a, float* to, int from, int end, int columns) {
  linear_tiles(from, end, [&](auto rows, int row) { linear_scores<rows.count>(w, a, to, row, columns ? columns : row + rows.count); });
}

constexpr float linear_order[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// One decay a token at most.
void linear_scalar(const LinearWork& w) {
  const LinearPage& p = w.p;
  constexpr int lanes = Vec::lanes;
  for (int row = p.from; row < p.to; ++row) linear_copy(w.queries + row * w.wide, p.q + (row - p.from) * p.q_stride, p.K, w.wide);
  linear_turn(w.keys, w.wide, p.to, p.K, w.turned, int64_t(p.K) * linear_panel, linear_panel);
  linear_score_rows(w, w.queries, w.P, p.from, p.to, 0);
  if (p.beta) linear_score_rows(w, w.keys, w.A, p.from, p.to, 0);
  float sum = 0;
  for (int row = 0; row < p.to; ++row) {
    sum = p.decay == LinearPage::none ? 0 : p.decay == LinearPage::constant ? p.rate * float(row + 1) : sum + w.gate[row];
    w.until[row] = sum;
    const float minus = p.beta && row >= p.from ? -p.beta[(row - p.from) * p.beta_stride] : 0;
    for (int s = 0; s <= row; s += lanes) {
      Vec x = zero();
      if (p.decay == LinearPage::constant) x = min(zero(), splat(p.rate) * (splat(float(row - s)) - load(linear_order)));
      else if (p.decay == LinearPage::scalar) x = s < row ? load(w.between + s) + splat(w.gate[row]) : zero();
      store(w.between + s, x);
    }
    w.between[row] = 0;
    for (int s = 0; row >= p.from && s <= row; s += lanes) {
      const Vec by = exp(load(w.between + s));
      store(w.P + row * 64 + s, load(w.P + row * 64 + s) * (by * splat(p.scale)));
      if (p.beta) store(w.A + row * 64 + s, load(w.A + row * 64 + s) * (by * splat(minus)));
    }
  }
  for (int s = 0; s < p.to; s += lanes) store(w.until + s, exp(load(w.until + s)));
  for (int row = p.from; row < p.to; ++row) {
    const Vec by = splat(w.until[row]), q = by * splat(p.scale), k = by * splat(p.beta ? -p.beta[(row - p.from) * p.beta_stride] : 0);
    for (int c = 0; c < w.wide; c += lanes) {
      store(w.q_state + row * w.wide + c, load(w.queries + row * w.wide + c) * q);
      if (p.beta) store(w.k_state + row * w.wide + c, load(w.keys + row * w.wide + c) * k);
    }
  }
}

// Keys of the rows 0 .. end − 1 with the decay that lies between them and row end − 1, that row's included.
void linear_decay_keys(const LinearWork& w, int end) {
  for (int c = 0; c < w.wide; c += Vec::lanes) {
    Vec sum = zero();
    for (int s = end - 1; s >= 0; --s) {
      store(w.decayed + s * w.wide + c, load(w.keys + s * w.wide + c) * exp(sum));
      sum += load(w.gates + s * w.wide + c);
    }
  }
}

// Scores of row t with the rows of its own block.
void linear_pairs(const LinearWork& w, int t, const float* q, float minus) {
  const LinearPage& p = w.p;
  const int begin = t / linear_block * linear_block;
  Vec of_q[linear_block], of_k[linear_block];
  for (Vec& v : of_q) v = zero();
  for (Vec& v : of_k) v = zero();
  for (int c = 0; c < w.wide; c += Vec::lanes) {
    const Vec query = linear_load(q, c, p.K), ask = load(w.keys + t * w.wide + c);
    Vec sum = zero();
    for (int s = t; s >= begin; --s) {
      const Vec key = load(w.keys + s * w.wide + c) * exp(sum);
      of_q[s - begin] = fma(query, key, of_q[s - begin]);
      if (p.beta) of_k[s - begin] = fma(ask, key, of_k[s - begin]);
      sum += load(w.gates + s * w.wide + c);
    }
  }
  store_sums(w.P + t * 64 + begin, of_q, 1, t - begin + 1);
  if (p.beta) store_sums(w.A + t * 64 + begin, of_k, 1, t - begin + 1);
  for (int s = begin; s <= t; ++s) w.P[t * 64 + s] *= p.scale, w.A[t * 64 + s] *= minus;
}

// One decay a channel.
void linear_channels(const LinearWork& w) {
  const LinearPage& p = w.p;
  constexpr int lanes = Vec::lanes;
  for (int c = 0; c < w.wide; c += lanes) {
    Vec all = zero(), block = zero();
    for (int row = 0; row < p.to; ++row) {
      const Vec gate = load(w.gates + row * w.wide + c);
      all += gate;
      block = row % linear_block == 0 ? gate : block + gate;
      if (row < p.from) continue;
      const Vec q = linear_load(p.q + (row - p.from) * p.q_stride, c, p.K) * splat(p.scale), near = exp(block), far = exp(all);
      store(w.queries + row * w.wide + c, q * near);
      store(w.q_state + row * w.wide + c, q * far);
      if (!p.beta) continue;
      const Vec k = load(w.keys + row * w.wide + c) * splat(-p.beta[(row - p.from) * p.beta_stride]);
      store(w.asks + row * w.wide + c, k * near);
      store(w.k_state + row * w.wide + c, k * far);
    }
    store(w.total + c, exp(all));
  }
  for (int begin = p.from / linear_block * linear_block; begin < p.to; begin += linear_block) {
    const int from = begin > p.from ? begin : p.from, to = begin + linear_block < p.to ? begin + linear_block : p.to;
    if (begin > 0) {
      linear_decay_keys(w, begin);
      linear_turn(w.decayed, w.wide, begin, p.K, w.turned, int64_t(p.K) * linear_panel, linear_panel);
      linear_score_rows(w, w.queries, w.P, from, to, begin);
      if (p.beta) linear_score_rows(w, w.asks, w.A, from, to, begin);
    }
    for (int t = from; t < to; ++t)
      linear_pairs(w, t, p.q + (t - p.from) * p.q_stride, p.beta ? -p.beta[(t - p.from) * p.beta_stride] : 0);
  }
}

// --- u and o.

// What a panel's rows have from S.
template <int R> FOLIO_INLINE void linear_state(const LinearWork& w, int row, const float* S, int64_t stride, float* u, float* o) {
  Vec sums[R][linear_vectors];
  if (w.p.beta) {
    linear_get(sums, u + row * linear_panel, linear_panel);
    linear_add(sums, w.k_state + row * w.wide, w.wide, w.p.K, S, stride);
    linear_put(sums, u + row * linear_panel, linear_panel);
  }
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < linear_vectors; ++n) sums[r][n] = zero();
  linear_add(sums, w.q_state + row * w.wide, w.wide, w.p.K, S, stride);
  linear_put(sums, o + row * linear_panel, linear_panel);
}

// What they have from the rows of the page; with the delta rule a tile's rows wait for each other.
template <int R> FOLIO_INLINE void linear_within(const LinearWork& w, int row, float* u, float* o) {
  constexpr int lanes = Vec::lanes, N = linear_vectors;
  Vec sums[R][N];
  if (w.p.beta) {
    const float* A = w.A + row * 64;
    linear_get(sums, u + row * linear_panel, linear_panel);
    linear_add(sums, A, 64, row, u, linear_panel);
    FOLIO_UNROLL
    for (int s = 0; s < R; ++s)
      FOLIO_UNROLL
      for (int t = s + 1; t < R; ++t)
        for (int n = 0; n < N; ++n) sums[t][n] = fma(splat(A[t * 64 + row + s]), sums[s][n], sums[t][n]);
    linear_put(sums, u + row * linear_panel, linear_panel);
  }
  const float* P = w.P + row * 64;
  linear_get(sums, o + row * linear_panel, linear_panel);
  linear_add(sums, P, 64, row, u, linear_panel);
  FOLIO_UNROLL
  for (int s = 0; s < R; ++s) {
    Vec x[N];
    for (int n = 0; n < N; ++n) x[n] = load(u + (row + s) * linear_panel + n * lanes);
    FOLIO_UNROLL
    for (int t = s; t < R; ++t)
      for (int n = 0; n < N; ++n) sums[t][n] = fma(splat(P[t * 64 + row + s]), x[n], sums[t][n]);
  }
  linear_put(sums, o + row * linear_panel, linear_panel);
}

// scale·q_t·z_t + 1e-10 of the new rows.
void linear_norms(const LinearWork& w) {
  const LinearPage& p = w.p;
  constexpr int lanes = Vec::lanes;
  for (int c = 0; c < w.wide; c += lanes) store(w.z + c, p.z ? linear_load(p.z, c, p.K) : zero());
  for (int row = p.from; row < p.to; ++row) {
    Vec all = zero();
    for (int c = 0; c < w.wide; c += lanes) all = fma(load(w.q_state + row * w.wide + c), load(w.z + c), all);
    for (int s = 0; s <= row; s += lanes) all += linear_load(w.P + row * 64, s, row + 1);
    w.norm[row] = sum(all) + 1e-10f;
  }
}

// --- The state behind a page that is full.

// Keys with the decay to the page's end, turned; and what is left of S₀ by then, in total[wide].
void linear_fold_keys(const LinearWork& w) {
  const LinearPage& p = w.p;
  constexpr int lanes = Vec::lanes;
  if (p.decay == LinearPage::channel) {
    linear_decay_keys(w, 64);
    return linear_turn(w.decayed, w.wide, 64, p.K, w.update, linear_panel, 64);
  }
  for (int s = 0; s < 64; s += lanes) {
    const Vec by = exp(load(w.between + s));
    const float* from = w.turned + int64_t(s / linear_panel) * p.K * linear_panel + s % linear_panel;
    for (int c = 0; c < p.K; ++c) store(w.update + c * 64 + s, load(from + c * linear_panel) * by);
  }
  for (int c = 0; c < w.wide; c += lanes) store(w.total + c, splat(w.until[63]));
}

// Rows c .. c + R − 1 of a panel of S. `S` has `stride` floats a row, or is null.
template <int R> FOLIO_INLINE void linear_fold(const LinearWork& w, int c, int at, const float* S, int64_t stride, const float* u) {
  constexpr int lanes = Vec::lanes;
  Vec sums[R][linear_vectors];
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < linear_vectors; ++n) sums[r][n] = S ? load(S + (c + r) * stride + n * lanes) * splat(w.total[c + r]) : zero();
  linear_add(sums, w.update + c * 64, 64, 64, u, linear_panel);
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < linear_vectors; ++n) linear_store(w.p.S_to + (c + r) * w.p.S_to_stride, at + n * lanes, w.p.V, sums[r][n]);
}

void linear_fold_z(const LinearWork& w) {
  for (int c = 0; c < w.p.K; ++c) {
    Vec all = zero();
    for (int s = 0; s < 64; s += Vec::lanes) all += load(w.update + c * 64 + s);
    w.p.z_to[c] = w.z[c] * w.total[c] + sum(all);
  }
}

// Rows lie far apart in memory, as many bytes as a token has in all heads, so nothing but us fetches them in time: for a tile's rows, what
// the panel will write now and the next page will read.
FOLIO_INLINE void linear_fetch(const LinearWork& w, int row, int at) {
  const LinearPage& p = w.p;
  auto columns = [&](const float* x, int width) {
    for (int c = at; c < at + linear_panel && c < width; c += 16) __builtin_prefetch(x + c, 0, 2);
  };
  for (int r = row; r < row + linear_tile && r < p.to; ++r) {
    __builtin_prefetch(p.o + (r - p.from) * p.o_stride + at, 1, 3);
    __builtin_prefetch(p.rows_u + r * p.rows_u_stride + at, 1, 3);
    if (linear_panel > 16 && at + 16 < p.V) {
      __builtin_prefetch(p.o + (r - p.from) * p.o_stride + at + 16, 1, 3);
      __builtin_prefetch(p.rows_u + r * p.rows_u_stride + at + 16, 1, 3);
    }
  }
  const int64_t next = p.to - p.from;
  for (int r = row; r < row + linear_tile && r < p.ahead; ++r) {
    columns(p.q + (next + r) * p.q_stride, p.K);
    columns(p.k + (next + r) * p.k_stride, p.K);
    columns(p.v + (next + r) * p.v_stride, p.V);
    if (p.rows_k_ahead) columns(p.rows_k_ahead + r * p.rows_k_stride, p.K);
  }
}

void linear_panel_of(const LinearWork& w, int at) {
  const LinearPage& p = w.p;
  float *u = w.u + int64_t(at) * 64, *o = w.o + int64_t(at) * 64, *packed = w.S + int64_t(at) * p.K;
  const bool lies = p.to - p.from <= 2 * linear_tile && p.V % linear_panel == 0;   // few rows do not pay for packing S
  const float* S = !p.S ? nullptr : lies ? p.S + at : packed;
  const int64_t stride = lies ? p.S_stride : linear_panel;
  for (int c = 0; p.S && !lies && c < p.K; ++c)
    for (int n = 0; n < linear_panel; n += Vec::lanes)
      store(packed + c * linear_panel + n, linear_load(p.S + c * p.S_stride, at + n, p.V));
  for (int row = p.from; !S && row < p.to; ++row)
    for (int n = 0; n < linear_panel; n += Vec::lanes) store(o + row * linear_panel + n, zero());
  if (S)
    linear_tiles(p.from, p.to, [&](auto rows, int row) {
      if (rows.count == linear_tile) linear_fetch(w, row, at);
      linear_state<rows.count>(w, row, S, stride, u, o);
    });
  linear_tiles(p.from, p.to, [&](auto rows, int row) { linear_within<rows.count>(w, row, u, o); });
  for (int row = p.from; row < p.to; ++row)
    for (int n = 0; n < linear_panel; n += Vec::lanes) {
      const Vec x = load(o + row * linear_panel + n);
      linear_store(p.o + (row - p.from) * p.o_stride, at + n, p.V, p.normalise ? x / splat(w.norm[row]) : x);
      linear_store(p.rows_u + row * p.rows_u_stride, at + n, p.V, load(u + row * linear_panel + n));
    }
  if (p.S_to) linear_tiles(0, p.K, [&](auto rows, int c) { linear_fold<rows.count>(w, c, at, S, stride, u); });
}

// --- Decoding: one row that does not fill its page. The same chains, but what is there is read where it lies, and once.

// Of the rows s .. s + lanes − 1 the log decay up to the row, summed from the older to the newer.
FOLIO_INLINE Vec linear_token_decay(const LinearWork& w, int row, int s) {
  const LinearPage& p = w.p;
  if (p.decay == LinearPage::constant) return min(zero(), splat(p.rate) * (splat(float(row - s)) - load(linear_order)));
  Vec sum = zero();
  for (int r = s + 1; p.decay == LinearPage::scalar && r <= row; ++r) {
    sum += splat(w.gate[r]);
    if (r - s < Vec::lanes) sum = select(first(r - s), sum, zero());
  }
  return sum;
}

// q and k of the row times all keys of the rows s .. s + lanes − 1; beyond the row, for nobody, times its own.
FOLIO_INLINE void linear_token_products(const LinearWork& w, int row, int s, Vec& of_q, Vec& of_k) {
  const LinearPage& p = w.p;
  constexpr int lanes = Vec::lanes;
  of_q = of_k = zero();
  for (int c = 0; c < p.K; c += lanes) {
    Vec square[lanes];
    FOLIO_UNROLL
    for (int i = 0; i < lanes; ++i) square[i] = linear_load(s + i < row ? p.rows_k + (s + i) * p.rows_k_stride : p.k, c, p.K);
    transpose(square);
    FOLIO_UNROLL
    for (int i = 0; i < lanes; ++i) {
      if (c + i >= p.K) break;
      of_q = fma(splat(p.q[c + i]), square[i], of_q);
      if (p.beta) of_k = fma(splat(p.k[c + i]), square[i], of_k);
    }
  }
}

// P and A of the row, and its factors of S, where a token has one decay at most.
void linear_token_scores(const LinearWork& w, int row) {
  const LinearPage& p = w.p;
  constexpr int lanes = Vec::lanes;
  float sum = p.decay == LinearPage::constant ? p.rate * float(row + 1) : 0;
  if (p.decay == LinearPage::scalar) {
    for (int s = 0; s < row; ++s) w.gate[s] = p.rows_g[s * p.rows_g_stride];
    p.rows_g[row * p.rows_g_stride] = w.gate[row] = p.g[0];
    for (int s = 0; s <= row; ++s) sum += w.gate[s];
  }
  const Vec scale = splat(p.scale), minus = splat(p.beta ? -p.beta[0] : 0), until = exp(splat(sum));
  for (int s = 0; s <= row; s += lanes) {
    Vec of_q, of_k;
    linear_token_products(w, row, s, of_q, of_k);
    const Vec by = exp(linear_token_decay(w, row, s));
    store(w.P + row * 64 + s, of_q * (by * scale));
    store(w.A + row * 64 + s, of_k * (by * minus));
  }
  for (int c = 0; c < w.wide; c += lanes) {
    const Vec key = linear_load(p.k, c, p.K);
    if (p.writes_k) linear_store(p.rows_k + row * p.rows_k_stride, c, p.K, key);
    store(w.q_state + row * w.wide + c, linear_load(p.q, c, p.K) * (until * scale));
    store(w.k_state + row * w.wide + c, key * (until * minus));
  }
}

// W registers of u and o.
template <int W> FOLIO_INLINE void linear_token_columns(const LinearWork& w, int row, int at) {
  const LinearPage& p = w.p;
  constexpr int lanes = Vec::lanes;
  auto get = [&](const float* from, int i) { return W > 1 ? load(from + at + i * lanes) : linear_load(from, at, p.V); };
  auto put = [&](float* to, int i, Vec x) { W > 1 ? store(to + at + i * lanes, x) : linear_store(to, at, p.V, x); };
  Vec u[W], o[W];
  for (int i = 0; i < W; ++i) u[i] = get(p.v, i) * splat(p.beta ? p.beta[0] : 1), o[i] = zero();
  auto take = [&](const float* x, float of_u, float of_o) {   // one row of S, or of u
    const Vec a = splat(of_u), b = splat(of_o);
    FOLIO_UNROLL
    for (int i = 0; i < W; ++i) {
      const Vec y = get(x, i);
      o[i] = fma(b, y, o[i]);
      if (p.beta) u[i] = fma(a, y, u[i]);
    }
  };
  for (int c = 0; p.S && c < p.K; ++c) take(p.S + c * p.S_stride, w.k_state[row * w.wide + c], w.q_state[row * w.wide + c]);
  for (int s = 0; s < row; ++s) take(p.rows_u + s * p.rows_u_stride, w.A[row * 64 + s], w.P[row * 64 + s]);
  for (int i = 0; i < W; ++i) {
    o[i] = fma(splat(w.P[row * 64 + row]), u[i], o[i]);
    put(p.rows_u + row * p.rows_u_stride, i, u[i]);
    put(p.o, i, p.normalise ? o[i] / splat(w.norm[row]) : o[i]);
  }
}

void linear_token(const LinearWork& w, int row) {
  const LinearPage& p = w.p;
  constexpr int lanes = Vec::lanes, few = linear_wide / 2;
  if (p.decay == LinearPage::channel) linear_gather(w), linear_channels(w);
  else linear_token_scores(w, row);
  if (p.normalise) linear_norms(w);
  int at = 0;
  for (; at + linear_wide * lanes <= p.V; at += linear_wide * lanes) linear_token_columns<linear_wide>(w, row, at);
  for (; at + few * lanes <= p.V; at += few * lanes) linear_token_columns<few>(w, row, at);
  for (; at < p.V; at += lanes) linear_token_columns<1>(w, row, at);
}

void linear_page_of(const LinearPage& p) {
  const LinearWork w(p);
  if (p.to - p.from == 1 && !p.S_to) return linear_token(w, p.from);
  linear_gather(w);
  if (p.decay == LinearPage::channel) linear_channels(w);
  else linear_scalar(w);
  if (p.normalise) linear_norms(w);
  if (p.S_to) linear_fold_keys(w);
  for (int at = 0; at < p.V; at += linear_panel) linear_panel_of(w, at);
  if (p.S_to && p.normalise) linear_fold_z(w);
}

constexpr LinearInner linear_inner = {linear_page_of};

}  // namespace
}  // namespace folio
