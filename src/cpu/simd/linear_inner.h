// SPDX-License-Identifier: MIT
// Linear over one page of one head, in the page form of ops/linear.h. With lanes along the value, everything that grows with T is one
// kind of product, sums[rows of a tile][panel] += a · b, on three pairs of factors:
//
//   S₀ [K][V]          u_t += −β·e^b_t·(k_t · S₀)       o_t  = scale·e^b_t·(q_t · S₀)
//   rows u [t][V]      u_t += Σ_{s<t} A[t][s]·u_s      o_t += Σ_{s≤t} P[t][s]·u_s        P, A: scores, with decay, scale and −β
//   page [64][V]       S    = e^b₆₃ ⊙ S₀ + Σ_s k_sᵀ (e^(b₆₃ − b_s) u_s)
//
// Each number is one chain of multiply-adds in ascending order, and each score one such chain a lane and one tree over the lanes,
// whatever the tile and however many rows are new: so a token's bits do not depend on how the step was cut, nor on later tokens, of which
// nothing is added to it, were it times zero.
//
// Decays between two rows are exponentials of sums of log decays of the rows between them, never of differences of sums, which lose
// digits behind a strong decay, and never of a positive number. One a channel they are taken in blocks of 16 rows: from a key of an
// earlier block to the block's beginning (into the key), from there to the row (into the query); within a block pair by pair.
//
// Rows lie far apart in memory, as many bytes as a token has in all heads, so nothing but us fetches them in time, and asked for all at
// once they would be waited for: between short stretches of the sums a row of the next page is taken, and some are asked for (LinearTake).
#pragma once
#include "cpu/simd/dots.h"
#include "cpu/simd/linear.h"

namespace folio {
namespace {

constexpr int linear_block = 16;
// A tile in registers: rows × vectors.
#if FOLIO_SET == FOLIO_SET_avx512
constexpr int linear_tile = 6, linear_vectors = 4, linear_wide = 8;
#elif FOLIO_SET == FOLIO_SET_neon
constexpr int linear_tile = 4, linear_vectors = 4, linear_wide = 8;
#else
constexpr int linear_tile = 4, linear_vectors = 2, linear_wide = 4;
#endif
constexpr int linear_panel = linear_vectors * Vec::lanes;   // values lie in panels as wide as the tile: [panel][row][linear_panel]
template <int N> struct LinearCount { static constexpr int count = N; };

// The inputs of a page, padded with zeros: [64][pitch], and u, which begins as v or β·v, in panels [64][linear_panel].
struct LinearSide {
  int wide, across, pitch;   // K and V up to whole registers and panels; a row's floats
  float *q, *keys, *gates, *u;
  explicit LinearSide(const LinearPage& p) : wide((p.K + 15) / 16 * 16), across(int(linear_across(p.V))), pitch(int(linear_pitch(p.K))) {
    q = p.scratch + p.side * 64 * (3 * int64_t(pitch) + across);
    keys = q + 64 * pitch, gates = keys + 64 * pitch, u = gates + 64 * pitch;
  }
};

// The page and its scratch.
struct LinearWork {
  const LinearPage& p;
  LinearSide in;
  int wide, pitch;
  bool token;                       // one row that decodes
  bool few;                         // so few rows are new that those in the pools, and S, are read where they lie
  int there;                        // rows that are: 0, or from
  float *queries, *asks;            // [64][pitch]   with one decay a channel: scale·q and −β·k, decayed from the block's beginning
  float *q_state, *k_state;         //               the same from the page's beginning
  float *decayed;                   //               keys with decay
  float *sum, *part, *z, *total;    // [wide]
  float *P, *A;                     // [64][64]
  float *moved;                     // [64][linear_panel]   u with the decay to the page's end
  float *S;                         // panels [K][linear_panel]
  float *gate, *q_by, *k_by;        // [64]   log decays; factors of what the row has from S
  float *until, *to_end, *norm;     //        b; e^(b₆₃ − b); normaliser
  const float* key[64];

  explicit LinearWork(const LinearPage& page)
      : p(page), in(page), wide(in.wide), pitch(in.pitch) {
    token = p.to - p.from == 1 && !p.S_to && (!p.S || p.S_stride > 0);
    few = token || (!p.S_to && p.to - p.from <= 2 * linear_tile && p.V % linear_panel == 0);
    there = few ? p.from : 0;
    const int64_t row = 64 * int64_t(pitch);
    float* at = p.scratch + 2 * (3 * row + 64 * in.across);
    auto take = [&](int64_t n) {
      float* const begin = at;
      at += n;
      return begin;
    };
    queries = take(row), asks = take(row), q_state = take(row), k_state = take(row), decayed = take(row);
    sum = take(wide), part = take(wide), z = take(wide), total = take(wide);
    S = take(int64_t(p.K) * in.across), moved = take(64 * linear_panel), P = take(4096), A = take(4096);
    gate = take(64), q_by = take(64), k_by = take(64), until = take(64), to_end = take(64), norm = take(64);
  }
};

FOLIO_INLINE Vec linear_load(const float* row, int at, int width) {
  return width - at >= Vec::lanes ? load(row + at) : width > at ? load_n(row + at, width - at) : zero();
}
FOLIO_INLINE void linear_store(float* row, int at, int width, Vec a) {
  if (width - at >= Vec::lanes) store(row + at, a);
  else if (width > at) store_n(row + at, a, width - at);
}

// --- What is there, and what the step brings.

// Takes a page's inputs to its side, row by row, and writes its keys and gates to their pools. And asks for the rows of results.
struct LinearTake {
  struct Rows {
    const float* from;        // of the first new row
    int64_t stride;
    float* to;                // its first vectors side by side, the next ones `panel` further on
    int64_t row, panel;
    float* pool;              // or null
    int64_t pool_stride;
    int width, vectors;
    const float* by;          // a factor of each row, or null
    int64_t by_stride;
  } list[4];
  static constexpr int early = 8;   // a row is asked for so many rows before it is taken
  int count = 0, rows = 0, which = 0, row = 0;
  float *o = nullptr, *u = nullptr;
  int64_t o_stride = 0, u_stride = 0;
  int results = 0;

  explicit LinearTake(const LinearPage* next) {
    if (!next) return;
    const LinearPage& p = *next;
    const LinearSide in(p);
    rows = p.to - p.from;
    auto add = [&](const float* from, int64_t stride, float* to, float* pool, int64_t pool_stride) {
      if (pool) pool += p.from * pool_stride;
      list[count++] = {from, stride, to + p.from * in.pitch, in.pitch, linear_panel, pool, pool_stride,
                       p.K, in.wide / Vec::lanes, nullptr, 0};
    };
    add(p.k, p.k_stride, in.keys, p.writes_k ? p.rows_k : nullptr, p.rows_k_stride);
    add(p.q, p.q_stride, in.q, nullptr, 0);
    if (p.decay == LinearPage::channel) add(p.g, p.g_stride, in.gates, p.rows_g, p.rows_g_stride);
    list[count++] = {p.v, p.v_stride, in.u + p.from * linear_panel, linear_panel, 64 * linear_panel, nullptr, 0,
                     p.V, in.across / Vec::lanes, p.beta, p.beta_stride};
  }
  bool done() const { return which == count; }
  FOLIO_INLINE void next() {
    constexpr int lanes = Vec::lanes, N = linear_vectors;
    const Rows& x = list[which];
    const float* from = x.from + row * x.stride;
    float* to = x.to + row * x.row;
    const Vec by = splat(x.by ? x.by[row * x.by_stride] : 1);
    int i = 0;
    for (; (i + N) * lanes <= x.width; i += N, to += x.panel) {
      FOLIO_UNROLL
      for (int n = 0; n < N; ++n) store(to + n * lanes, load(from + (i + n) * lanes) * by);
    }
    for (int n = 0; i + n < x.vectors; ++n) store(to + n * lanes, linear_load(from, (i + n) * lanes, x.width) * by);
    if (x.pool) {
      float* const pool = x.pool + row * x.pool_stride;
      int c = 0;
      for (; c + lanes <= x.width; c += lanes) store(pool + c, load(from + c));
      linear_store(pool, c, x.width, linear_load(from, c, x.width));
    }
    const bool wraps = row + early >= rows;
    if (const int soon = wraps ? row + early - rows : row + early; soon < rows && which + wraps < count) {
      const Rows& y = list[which + wraps];
      const float* at = y.from + soon * y.stride;
      for (int c = 0; c < y.width; c += 16) __builtin_prefetch(at + c, 0, 2);
      at = y.pool + soon * y.pool_stride;
      for (int c = 0; y.pool && c < y.width; c += 16) __builtin_prefetch(at + c, 0, 2);
    }
    if (++row == rows) row = 0, ++which;
  }
  FOLIO_INLINE void some() {
    if (results > 0) {
      for (int c = 0; c < linear_panel; c += 16) {
        __builtin_prefetch(o + c, 0, 2);
        __builtin_prefetch(u + c, 0, 2);
      }
      --results, o += o_stride, u += u_stride;
    }
    if (!done()) next();
  }
  void all() {
    while (!done()) next();
  }
};

// Old rows too, unless they are read where they lie; decays a channel need them side by side.
void linear_gather(LinearWork& w) {
  const LinearPage& p = w.p;
  constexpr int lanes = Vec::lanes;
  if (!p.ready) LinearTake(&p).all();
  const bool copies = !w.few || p.decay == LinearPage::channel;
  for (int row = 0; row < p.from; ++row) {
    for (int c = 0; copies && c < w.wide; c += lanes)
      store(w.in.keys + row * w.pitch + c, linear_load(p.rows_k + row * p.rows_k_stride, c, p.K));
    for (int c = 0; p.decay == LinearPage::channel && c < w.wide; c += lanes)
      store(w.in.gates + row * w.pitch + c, linear_load(p.rows_g + row * p.rows_g_stride, c, p.K));
    for (int at = 0; !w.few && at < w.in.across; at += lanes)
      store(w.in.u + int64_t(at / linear_panel) * 64 * linear_panel + row * linear_panel + at % linear_panel,
            linear_load(p.rows_u + row * p.rows_u_stride, at, p.V));
  }
  for (int row = 0; row < 64; ++row)
    w.key[row] = row < p.from && !copies ? p.rows_k + row * p.rows_k_stride : w.in.keys + (row < p.to ? row : p.to - 1) * w.pitch;
}

void linear_gates(const LinearWork& w) {
  const LinearPage& p = w.p;
  if (p.decay != LinearPage::scalar) return;
  for (int row = 0; row < p.from; ++row) w.gate[row] = p.rows_g[row * p.rows_g_stride];
  for (int row = p.from; row < p.to; ++row) p.rows_g[row * p.rows_g_stride] = w.gate[row] = p.g[(row - p.from) * p.g_stride];
}

// --- Scores: P[t][s] and A[t][s] for s ≤ t.

// Of rows from .. to − 1 of q, and of k for the delta rule, with the keys up to the row itself, or with the first `end`.
void linear_scores(const LinearWork& w, LinearTake& take, const float* q, const float* k, const float* const* key, int from, int to,
                   int end) {
  constexpr int group = 8;   // tokens whose rows stay in the nearest cache
  const bool both = w.p.beta;
  const int each = both ? dots_rows / 2 : dots_rows, all = w.p.K;
  auto dots = [&](auto asks, int t, int s) __attribute__((always_inline)) {   // of the tokens that make so many asks
    const float* ask[asks.count];
    float* out[asks.count];
    FOLIO_UNROLL
    for (int a = 0; a < asks.count; ++a) {
      const int row = both ? t + a / 2 : t + a;
      ask[a] = (both && a % 2 ? k : q) + row * w.pitch;
      out[a] = (both && a % 2 ? w.A : w.P) + row * 64 + s;
    }
    row_dots<asks.count>(ask, key + s, all, out);
  };
  for (int first = from; first < to; first += group) {
    const int last = first + group < to ? first + group : to, whole = first + (last - first) / each * each;
    for (int s = 0; s < (end ? end : whole); s += Vec::lanes / dots_rows) {
      for (int t = first; t < whole; t += each)
        if (end || s < t + each) dots(LinearCount<dots_rows>(), t, s);
      take.some();
    }
    for (int t = whole; t < last; ++t) {
      if (both)
        for (int s = 0; s < (end ? end : t + 1); s += Vec::lanes / 2) dots(LinearCount<2>(), t, s);
      else
        for (int s = 0; s < (end ? end : t + 1); s += Vec::lanes) dots(LinearCount<1>(), t, s);
    }
  }
}

constexpr float linear_order[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// One decay a token at most: the new rows' scores become P and A. Sums of log decays grow from the older row to the newer.
void linear_decays(const LinearWork& w) {
  const LinearPage& p = w.p;
  constexpr int lanes = Vec::lanes, blocks = 64 / lanes;
  const bool none = p.decay == LinearPage::none, scalar = p.decay == LinearPage::scalar;
  Vec between[blocks];
  FOLIO_UNROLL
  for (int b = 0; b < blocks; ++b) between[b] = zero();
  float until = 0;
  for (int row = scalar ? 0 : p.from; row < p.to; ++row) {
    const float gate = scalar ? w.gate[row] : p.rate;
    until = scalar ? until + gate : none ? 0 : gate * float(row + 1);
    FOLIO_UNROLL
    for (int b = 0; b < blocks; ++b) {
      const Vec s = splat(float(b * lanes)) + load(linear_order);
      between[b] = scalar ? select(less(s, splat(float(row))), between[b] + splat(gate), zero())
                          : min(zero(), splat(gate) * (splat(float(row)) - s));   // of no use where there is none
    }
    if (row < p.from) continue;
    w.until[row] = until;
    const Vec minus = splat(w.k_by[row] = p.beta ? -p.beta[(row - p.from) * p.beta_stride] : 0);
    FOLIO_UNROLL
    for (int b = 0; b < blocks; ++b) {
      if (b * lanes > row) continue;
      float *P = w.P + row * 64 + b * lanes, *A = w.A + row * 64 + b * lanes;
      const Vec by = none ? splat(1) : exp(between[b]);
      store(P, load(P) * (by * splat(p.scale)));
      if (p.beta) store(A, load(A) * (by * minus));
    }
  }
  FOLIO_UNROLL
  for (int b = 0; b < blocks; ++b)
    if (p.S_to) store(w.to_end + b * lanes, none ? splat(1) : exp(between[b]));
  for (int s = p.from / lanes * lanes; s < p.to; s += lanes) {
    const Vec by = none ? splat(1) : exp(load(w.until + s));
    store(w.until + s, by);
    store(w.q_by + s, by * splat(p.scale));
    store(w.k_by + s, by * load(w.k_by + s));
  }
}

// Keys of the rows 0 .. end − 1 with the decay that lies between them and row end − 1, that row's included.
void linear_decay_keys(const LinearWork& w, int end) {
  for (int c = 0; c < w.wide; c += Vec::lanes) {
    Vec sum = zero();
    for (int s = end - 1; s >= 0; --s) {
      store(w.decayed + s * w.pitch + c, load(w.in.keys + s * w.pitch + c) * exp(sum));
      sum += load(w.in.gates + s * w.pitch + c);
    }
  }
}

// Scores of row t with the rows of its own block.
void linear_pairs(const LinearWork& w, int t, float minus) {
  const LinearPage& p = w.p;
  const int begin = t / linear_block * linear_block;
  Vec of_q[linear_block], of_k[linear_block];
  FOLIO_UNROLL
  for (int i = 0; i < linear_block; ++i) of_q[i] = of_k[i] = zero();
  for (int c = 0; c < w.wide; c += Vec::lanes) {
    const Vec query = load(w.in.q + t * w.pitch + c), ask = load(w.in.keys + t * w.pitch + c);
    Vec sum = zero();
    for (int s = t; s >= begin; --s) {
      const Vec key = load(w.in.keys + s * w.pitch + c) * exp(sum);
      of_q[s - begin] = fma(query, key, of_q[s - begin]);
      if (p.beta) of_k[s - begin] = fma(ask, key, of_k[s - begin]);
      sum += load(w.in.gates + s * w.pitch + c);
    }
  }
  store_sums(w.P + t * 64 + begin, of_q, 1, t - begin + 1);
  if (p.beta) store_sums(w.A + t * 64 + begin, of_k, 1, t - begin + 1);
  for (int s = begin; s <= t; ++s) w.P[t * 64 + s] *= p.scale, w.A[t * 64 + s] *= minus;
}

// One decay a channel.
void linear_channels(const LinearWork& w, LinearTake& take) {
  const LinearPage& p = w.p;
  constexpr int lanes = Vec::lanes;
  for (int c = 0; c < w.wide; c += lanes) {
    Vec all = zero(), block = zero();
    for (int row = 0; row < p.to; ++row) {
      const Vec gate = load(w.in.gates + row * w.pitch + c);
      all += gate;
      block = row % linear_block == 0 ? gate : block + gate;
      if (row < p.from) continue;
      const Vec q = load(w.in.q + row * w.pitch + c) * splat(p.scale), near = exp(block), far = exp(all);
      store(w.queries + row * w.pitch + c, q * near);
      store(w.q_state + row * w.pitch + c, q * far);
      if (!p.beta) continue;
      const Vec k = load(w.in.keys + row * w.pitch + c) * splat(-p.beta[(row - p.from) * p.beta_stride]);
      store(w.asks + row * w.pitch + c, k * near);
      store(w.k_state + row * w.pitch + c, k * far);
    }
    store(w.total + c, exp(all));
  }
  for (int s = 0; s < 64; s += lanes) store(w.q_by + s, splat(1)), store(w.k_by + s, splat(1)), store(w.to_end + s, splat(1));
  const float* decayed[64];
  for (int s = 0; s < 64; ++s) decayed[s] = w.decayed + s * w.pitch;
  for (int begin = p.from / linear_block * linear_block; begin < p.to; begin += linear_block) {
    const int from = begin > p.from ? begin : p.from, to = begin + linear_block < p.to ? begin + linear_block : p.to;
    if (begin > 0) {
      linear_decay_keys(w, begin);
      linear_scores(w, take, w.queries, w.asks, decayed, from, to, begin);
    }
    for (int t = from; t < to; ++t) {
      linear_pairs(w, t, p.beta ? -p.beta[(t - p.from) * p.beta_stride] : 0);
      take.some();
    }
  }
}

// --- u and o.

// sums += a · b: row r of a has its number d at a[r · a_row + d · a_depth], a row of the panel b lies every `b_row`.
template <int R>
FOLIO_INLINE void linear_add(LinearTake& take, Vec (&sums)[R][linear_vectors], const float* a, int64_t a_row, int64_t a_depth, int depth,
                             const float* b, int64_t b_row) {
  constexpr int lanes = Vec::lanes, N = linear_vectors, stretch = 16;
  for (int d = 0; d < depth;) {
    const int end = d + stretch < depth ? d + stretch : depth;
    for (; d < end; ++d, a += a_depth, b += b_row) {
      Vec x[N];
      for (int n = 0; n < N; ++n) x[n] = load(b + n * lanes);
      FOLIO_UNROLL
      for (int r = 0; r < R; ++r) {
        const Vec y = splat(a[r * a_row]);
        for (int n = 0; n < N; ++n) sums[r][n] = fma(y, x[n], sums[r][n]);
      }
    }
    if (R == linear_tile) take.some();
  }
}

// each(LinearCount<R>(), row): tiles of linear_tile rows as far as they go, then of fewer.
template <class Each> FOLIO_INLINE void linear_tiles(int from, int to, Each each) {
  int row = from;
  for (; to - row >= linear_tile; row += linear_tile) each(LinearCount<linear_tile>(), row);
  if (linear_tile > 4 && to - row >= 4) each(LinearCount<4>(), row), row += 4;
  if (to - row >= 2) each(LinearCount<2>(), row), row += 2;
  if (to - row >= 1) each(LinearCount<1>(), row);
}

// R rows of a panel of u and of o: what they have from S, then what from the rows of the page; with the delta rule a tile's rows wait
// for each other. `S` has `S_row` floats a row, or is null.
template <int R> void linear_rows(const LinearWork& w, LinearTake& take, int row, int at, const float* S, int64_t S_row) {
  constexpr int lanes = Vec::lanes, N = linear_vectors;
  const LinearPage& p = w.p;
  float* const u = w.in.u + int64_t(at) * 64;
  const bool channel = p.decay == LinearPage::channel, whole = at + linear_panel <= p.V;
  Vec sums[R][N];
  auto put = [&](float* to, int n, Vec x) __attribute__((always_inline)) {
    if (whole) store(to + at + n * lanes, x);
    else linear_store(to, at + n * lanes, p.V, x);
  };
  auto from_state = [&](const float* a) __attribute__((always_inline)) {
    FOLIO_UNROLL
    for (int r = 0; r < R; ++r)
      FOLIO_UNROLL
      for (int n = 0; n < N; ++n) sums[r][n] = zero();
    if (S) linear_add(take, sums, a + row * w.pitch, w.pitch, 1, p.K, S, S_row);
  };
  auto from_rows = [&](const float* a) __attribute__((always_inline)) {
    if (w.there > 0) linear_add(take, sums, a + row * 64, 64, 1, w.there, p.rows_u + at, p.rows_u_stride);
    linear_add(take, sums, a + row * 64 + w.there, 64, 1, row - w.there, u + w.there * linear_panel, linear_panel);
  };
  if (p.beta) {
    from_state(channel ? w.k_state : w.in.keys);
    FOLIO_UNROLL
    for (int r = 0; r < R; ++r)
      FOLIO_UNROLL
      for (int n = 0; n < N; ++n) sums[r][n] = fma(splat(w.k_by[row + r]), sums[r][n], load(u + (row + r) * linear_panel + n * lanes));
    from_rows(w.A);
    FOLIO_UNROLL
    for (int s = 0; s < R; ++s)
      FOLIO_UNROLL
      for (int t = s + 1; t < R; ++t)
        for (int n = 0; n < N; ++n) sums[t][n] = fma(splat(w.A[(row + t) * 64 + row + s]), sums[s][n], sums[t][n]);
    FOLIO_UNROLL
    for (int r = 0; r < R; ++r)
      FOLIO_UNROLL
      for (int n = 0; n < N; ++n) store(u + (row + r) * linear_panel + n * lanes, sums[r][n]);
  }
  from_state(channel ? w.q_state : w.in.q);
  FOLIO_UNROLL
  for (int r = 0; r < R; ++r)
    FOLIO_UNROLL
    for (int n = 0; n < N; ++n) sums[r][n] = sums[r][n] * splat(w.q_by[row + r]);
  from_rows(w.P);
  FOLIO_UNROLL
  for (int s = 0; s < R; ++s)
    for (int n = 0; n < N; ++n) {
      const Vec x = load(u + (row + s) * linear_panel + n * lanes);
      put(p.rows_u + (row + s) * p.rows_u_stride, n, x);
      FOLIO_UNROLL
      for (int t = s; t < R; ++t) sums[t][n] = fma(splat(w.P[(row + t) * 64 + row + s]), x, sums[t][n]);
    }
  FOLIO_UNROLL
  for (int r = 0; r < R; ++r)
    FOLIO_UNROLL
    for (int n = 0; n < N; ++n)
      put(p.o + (row + r - p.from) * p.o_stride, n, p.normalise ? sums[r][n] / splat(w.norm[row + r]) : sums[r][n]);
}

// scale·q_t·z_t + 1e-10 of the new rows.
void linear_norms(const LinearWork& w) {
  const LinearPage& p = w.p;
  constexpr int lanes = Vec::lanes;
  const float* q = p.decay == LinearPage::channel ? w.q_state : w.in.q;
  for (int c = 0; c < w.wide; c += lanes) store(w.z + c, p.z ? linear_load(p.z, c, p.K) : zero());
  for (int row = p.from; row < p.to; ++row) {
    Vec all = zero();
    for (int c = 0; c < w.wide; c += lanes) all = fma(load(q + row * w.pitch + c), load(w.z + c), all);
    all = all * splat(w.q_by[row]);
    for (int s = 0; s <= row; s += lanes) all += linear_load(w.P + row * 64, s, row + 1);
    w.norm[row] = sum(all) + 1e-10f;
  }
}

// --- The state behind a page that is full: the page's own part first, then what is left of what was.

// Rows c .. c + R − 1 of a panel of S.
template <int R> FOLIO_INLINE void linear_fold(const LinearWork& w, LinearTake& take, int c, int at, const float* S, int64_t S_row) {
  constexpr int lanes = Vec::lanes, N = linear_vectors;
  Vec sums[R][N];
  FOLIO_UNROLL
  for (int r = 0; r < R; ++r)
    FOLIO_UNROLL
    for (int n = 0; n < N; ++n) sums[r][n] = zero();
  linear_add(take, sums, (w.p.decay == LinearPage::channel ? w.decayed : w.in.keys) + c, 1, w.pitch, 64, w.moved, linear_panel);
  FOLIO_UNROLL
  for (int r = 0; r < R; ++r)
    FOLIO_UNROLL
    for (int n = 0; n < N; ++n) {
      const Vec x = S ? fma(load(S + (c + r) * S_row + n * lanes), splat(w.total[c + r]), sums[r][n]) : sums[r][n];
      if (w.p.S_to_stride > 0) linear_store(w.p.S_to + (c + r) * w.p.S_to_stride, at + n * lanes, w.p.V, x);
      else store(w.p.S_to + int64_t(at) * w.p.K + (c + r) * linear_panel + n * lanes, x);
    }
}

void linear_fold_z(const LinearWork& w) {
  const float* keys = w.p.decay == LinearPage::channel ? w.decayed : w.in.keys;
  for (int c = 0; c < w.p.K; c += Vec::lanes) {
    Vec all = zero();
    for (int s = 0; s < 64; ++s) all = fma(load(keys + s * w.pitch + c), splat(w.to_end[s]), all);
    linear_store(w.p.z_to, c, w.p.K, fma(load(w.z + c), load(w.total + c), all));
  }
}

void linear_panel_of(const LinearWork& w, LinearTake& take, int at) {
  const LinearPage& p = w.p;
  constexpr int lanes = Vec::lanes;
  float* const packed = w.S + int64_t(at) * p.K;
  const bool lies = w.few && p.S_stride > 0, packs = p.S && !lies && p.S_stride > 0;
  const float* S = !p.S ? nullptr : lies ? p.S + at : packs ? packed : p.S + int64_t(at) * p.K;
  const int64_t S_row = lies ? p.S_stride : linear_panel;
  for (int c = 0; packs && c < p.K; ++c)
    for (int n = 0; n < linear_panel; n += lanes) store(packed + c * linear_panel + n, linear_load(p.S + c * p.S_stride, at + n, p.V));
  linear_tiles(p.from, p.to, [&](auto rows, int row) {
    const int soon = row + rows.count, left = p.to - soon;   // the rows of results that come next
    take.o = p.o + (soon - p.from) * p.o_stride + at, take.o_stride = p.o_stride;
    take.u = p.rows_u + soon * p.rows_u_stride + at, take.u_stride = p.rows_u_stride;
    take.results = left < linear_tile ? left : linear_tile;
    linear_rows<rows.count>(w, take, row, at, S, S_row);
  });
  take.results = 0;
  if (!p.S_to) return;
  for (int s = 0; s < 64; ++s)
    for (int n = 0; n < linear_panel; n += lanes)
      store(w.moved + s * linear_panel + n, load(w.in.u + int64_t(at) * 64 + s * linear_panel + n) * splat(w.to_end[s]));
  linear_tiles(0, p.K, [&](auto rows, int c) { linear_fold<rows.count>(w, take, c, at, S, S_row); });
}

// --- Decoding: one row that does not fill its page. The same chains, but all columns of a row of S pass by at once.

// P and A of the row, where a token has one decay at most.
void linear_token_scores(LinearWork& w) {
  const LinearPage& p = w.p;
  const int row = p.from;
  for (int s = 0; s < 64; ++s) w.key[s] = s < row ? p.rows_k + s * p.rows_k_stride : p.k;
  linear_gates(w);
  const float* const ask[2] = {p.q, p.k};
  for (int s = 0; s <= row; s += p.beta ? Vec::lanes / 2 : Vec::lanes) {
    float* const to[2] = {w.P + row * 64 + s, w.A + row * 64 + s};
    if (p.beta) row_dots<2>(ask, w.key + s, p.K, to);
    else row_dots<1>(ask, w.key + s, p.K, to);
  }
  linear_decays(w);
  for (int c = 0; p.writes_k && c < p.K; c += Vec::lanes) linear_store(p.rows_k + row * p.rows_k_stride, c, p.K, linear_load(p.k, c, p.K));
}

// W registers of u and o.
template <int W> FOLIO_INLINE void linear_token_columns(const LinearWork& w, const float* q, const float* k, int at) {
  const LinearPage& p = w.p;
  constexpr int lanes = Vec::lanes;
  const int row = p.from;
  auto get = [&](const float* from, int i) { return W > 1 ? load(from + at + i * lanes) : linear_load(from, at, p.V); };
  auto put = [&](float* to, int i, Vec x) { W > 1 ? store(to + at + i * lanes, x) : linear_store(to, at, p.V, x); };
  Vec u[W], o[W];
  for (int i = 0; i < W; ++i) u[i] = o[i] = zero();
  auto take = [&](const float* x, float of_u, float of_o) {   // one row of S, or of u
    const Vec a = splat(of_u), b = splat(of_o);
    FOLIO_UNROLL
    for (int i = 0; i < W; ++i) {
      const Vec y = get(x, i);
      o[i] = fma(b, y, o[i]);
      if (p.beta) u[i] = fma(a, y, u[i]);
    }
  };
  for (int c = 0; p.S && c < p.K; ++c) take(p.S + c * p.S_stride, k[c], q[c]);
  const Vec beta = splat(p.beta ? p.beta[0] : 1), of_u = splat(w.k_by[row]), of_o = splat(w.q_by[row]);
  for (int i = 0; i < W; ++i) u[i] = p.beta ? fma(of_u, u[i], get(p.v, i) * beta) : get(p.v, i) * beta, o[i] = o[i] * of_o;
  for (int s = 0; s < row; ++s) take(p.rows_u + s * p.rows_u_stride, w.A[row * 64 + s], w.P[row * 64 + s]);
  for (int i = 0; i < W; ++i) {
    o[i] = fma(splat(w.P[row * 64 + row]), u[i], o[i]);
    put(p.rows_u + row * p.rows_u_stride, i, u[i]);
    put(p.o, i, p.normalise ? o[i] / splat(w.norm[row]) : o[i]);
  }
}

void linear_token(LinearWork& w) {
  const LinearPage& p = w.p;
  constexpr int lanes = Vec::lanes, few = linear_wide / 2;
  const bool channel = p.decay == LinearPage::channel;
  LinearTake nothing(nullptr);
  if (channel) linear_gather(w), linear_channels(w, nothing);
  else linear_token_scores(w);
  if (p.normalise) {
    for (int c = 0; !channel && c < w.wide; c += lanes) store(w.in.q + p.from * w.pitch + c, linear_load(p.q, c, p.K));
    linear_norms(w);
  }
  const float *q = channel ? w.q_state + p.from * w.pitch : p.q, *k = channel ? w.k_state + p.from * w.pitch : p.k;
  int at = 0;
  for (; at + linear_wide * lanes <= p.V; at += linear_wide * lanes) linear_token_columns<linear_wide>(w, q, k, at);
  for (; at + few * lanes <= p.V; at += few * lanes) linear_token_columns<few>(w, q, k, at);
  for (; at < p.V; at += lanes) linear_token_columns<1>(w, q, k, at);
}

bool linear_page_of(const LinearPage& p) {
  LinearWork w(p);
  if (w.token) return linear_token(w), false;
  LinearTake take(p.next);
  linear_gather(w);
  linear_gates(w);
  if (p.decay == LinearPage::channel) {
    linear_channels(w, take);
    if (p.S_to) linear_decay_keys(w, 64);
  } else {
    linear_scores(w, take, w.in.q, w.in.keys, w.key, p.from, p.to, 0);
    linear_decays(w);
    for (int c = 0; p.S_to && c < w.wide; c += Vec::lanes) store(w.total + c, splat(w.until[63]));
  }
  if (p.normalise) linear_norms(w);
  for (int at = 0; at < p.V; at += linear_panel) linear_panel_of(w, take, at);
  if (p.S_to && p.normalise) linear_fold_z(w);
  take.all();
  return p.next;
}

constexpr LinearInner linear_inner = {linear_page_of};

}  // namespace
}  // namespace folio
