// SPDX-License-Identifier: MIT
// Conjugate gradients for the rows of a page, all at once: a round is two small matrix products,
//   W = (P Kᵀ) ⊙ M          rows × 64, M lower triangular
//   Y = e^b ⊙ (P H₀) + W K  rows × K
// and some passes over each row. A row that has ended leaves the list, and the others move up. Every product adds in one order
// for each of its rows alone, and what lies above the diagonal adds an exact zero, so a row's bits do not depend on the others. Where a
// new row holds what is no number, times zero it would not be zero: such a page is done row by row.
//
// H₀ of wide heads is more than the nearest cache holds. So every other round walks it from its end, where the round before has just
// been: what is still near is not fetched again. All open rows are in the same round, and a row's rounds are its own.
#pragma once
#include "cpu/simd/dots.h"
#include "cpu/simd/mesa.h"

namespace folio {
namespace {

constexpr int mesa_page = 64;
#if FOLIO_SET == FOLIO_SET_avx512
constexpr int mesa_rows = 12, mesa_sums = 24;   // of a product's tile at most: rows, and registers for sums
#elif FOLIO_SET == FOLIO_SET_neon
constexpr int mesa_rows = 6, mesa_sums = 24;
#else
constexpr int mesa_rows = 6, mesa_sums = 12;
#endif
constexpr int mesa_vectors(int rows) { return rows * 8 <= mesa_sums ? 8 : rows * 4 <= mesa_sums ? 4 : 2; }

template <int N> struct MesaCount { static constexpr int count = N; };

// A row of  out = (start + Σ_d a[d]·A[d])·scale + Σ_d b[d·step]·B[d];  start may be null, out may be start.
struct MesaRow {
  const float *start, *a, *b;
  float* out;
  float scale;
};
// What the rows share; A and B may be null. down: d of A from its end.
struct MesaProduct {
  const float *A, *B;
  int64_t A_row, B_row, step;
  int A_depth, B_depth, width;
  bool down = false;
};

template <int R, int N, bool Whole>
FOLIO_INLINE void mesa_tile(const MesaRow* rows, const MesaProduct& m, int at) {
  constexpr int lanes = Vec::lanes;
  const int left = m.width - at;
  auto get = [&](const float* from, int n) { return Whole ? load(from + at + n * lanes) : load_n(from + at, left); };
  Vec sum[R][N];
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n) sum[r][n] = rows[r].start ? get(rows[r].start, n) : zero();
  auto add = [&](const float* const (&by)[R], int64_t step, const float* matrix, int64_t row, int depth) {
    for (int d = 0; d < depth; ++d, matrix += row) {
      Vec column[N];
      for (int n = 0; n < N; ++n) column[n] = get(matrix, n);
      FOLIO_UNROLL
      for (int r = 0; r < R; ++r) {
        const Vec x = splat(by[r][d * step]);
        for (int n = 0; n < N; ++n) sum[r][n] = fma(x, column[n], sum[r][n]);
      }
    }
  };
  const float* by[R];
  const int64_t last = m.down ? m.A_depth - 1 : 0, turn = m.down ? -1 : 1;
  for (int r = 0; r < R; ++r) by[r] = rows[r].a + last;
  if (m.A) add(by, turn, m.A + last * m.A_row, turn * m.A_row, m.A_depth);
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n) sum[r][n] *= splat(rows[r].scale);
  for (int r = 0; r < R; ++r) by[r] = rows[r].b;
  if (m.B) add(by, m.step, m.B, m.B_row, m.B_depth);
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n) {
      if (Whole) store(rows[r].out + at + n * lanes, sum[r][n]);
      else store_n(rows[r].out + at, sum[r][n], left);
    }
}

template <int R, int N>
FOLIO_INLINE int mesa_columns(const MesaRow* rows, const MesaProduct& m, int at) {
  constexpr int lanes = Vec::lanes;
  for (; at + N * lanes <= m.width; at += N * lanes) mesa_tile<R, N, true>(rows, m, at);
  if constexpr (N > 1) return mesa_columns<R, N / 2>(rows, m, at);
  if (at < m.width) mesa_tile<R, 1, false>(rows, m, at);
  return at;
}
template <int R>
void mesa_block(const MesaRow* rows, const MesaProduct& m) {
  mesa_columns<R, mesa_vectors(R)>(rows, m, 0);
}

// How many of `left` rows the next block takes, `most` at most.
FOLIO_INLINE int mesa_next(int left, int most = mesa_rows) {
  left = left < most ? left : most;
  return left >= mesa_rows ? mesa_rows : left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}
FOLIO_INLINE void mesa_product(const MesaRow* rows, int count, const MesaProduct& m) {
  switch (count) {
    case 1: return mesa_block<1>(rows, m);
    case 2: return mesa_block<2>(rows, m);
    case 4: return mesa_block<4>(rows, m);
    case 8: return mesa_block<mesa_rows < 8 ? 1 : 8>(rows, m);
    default: return mesa_block<mesa_rows>(rows, m);
  }
}

FOLIO_INLINE int mesa_up(int n) { return (n + Vec::lanes - 1) / Vec::lanes * Vec::lanes; }

// The buffer of a page and what all rows need of it.
struct MesaWork {
  int K;                                        // padded
  int most = mesa_rows;                         // rows of a block
  float *key, *weighted;                        // [64][K]
  float *x, *r, *p, *y;                         // [64][K], of the rows asked for
  float *lambda, *diagonal;                     // [K]; of the slab
  float *M, *W;                                 // [64][64]
  alignas(64) float g[mesa_page], beta[mesa_page], decay[mesa_page];   // decay: e^b

  MesaWork(const MesaPage& page, float* buffer) : K(int(mesa_padded(page.keys))) {
    float** const all[] = {&key, &weighted, &x, &r, &p, &y};
    for (float** one : all) *one = buffer, buffer += mesa_page * K;
    lambda = buffer;
    diagonal = lambda + K;
    M = diagonal + K;
    W = M + mesa_page * mesa_page;
    for (int s = 0; s < mesa_page; ++s) {
      g[s] = s < page.rows ? page.g[s * page.g_row] : 0;
      beta[s] = s < page.rows ? page.beta[s * page.beta_row] : 0;
      decay[s] = 0;
    }
  }
};

// Keys side by side, padded with zeros.
FOLIO_INLINE void mesa_keys(const MesaPage& page, MesaWork& work) {
  for (int s = 0; s < page.rows; ++s)
    for (int c = 0; c < work.K; c += Vec::lanes) {
      const int left = page.keys - c;
      const float* from = page.k + s * page.k_row + c;
      store(work.key + s * work.K + c, left >= Vec::lanes ? load(from) : left > 0 ? load_n(from, left) : zero());
    }
}

// Whether the keys and values of the rows from `from` on are all finite.
FOLIO_INLINE bool mesa_finite(const MesaPage& page, const MesaWork& work, int from) {
  constexpr int lanes = Vec::lanes;
  Vec none = zero();
  for (int s = from; s < page.rows; ++s) {
    for (int c = 0; c < work.K; c += lanes) none = fma(load(work.key + s * work.K + c), zero(), none);
    for (int e = 0; e < page.values; e += lanes) {
      const float* value = page.v + s * page.v_row + e;
      none = fma(page.values - e >= lanes ? load(value) : load_n(value, page.values - e), zero(), none);
    }
  }
  return sum(none) == 0;
}

// A row that is being solved.
struct MesaOne {
  int row, at;      // of the page; in x, r, p, y
  float delta, end;
};

// M of rows from .. to − 1, zeros above the diagonal, and e^b. Sums of g grow from their key's row on, whichever rows are wanted.
FOLIO_INLINE void mesa_weights(MesaWork& work, int from, int to) {
  constexpr int lanes = Vec::lanes;
  alignas(64) float between[mesa_page] = {};
  float sum = 0;
  for (int row = 0; row < to; ++row) {
    work.decay[row] = sum += work.g[row];
    float* M = work.M + row * mesa_page;
    for (int s = 0; s < mesa_page; s += lanes) {
      auto before = [&](int end, Vec x) { return end - s >= lanes ? x : select(first(end > s ? end - s : 0), x, zero()); };
      const Vec g = before(row, load(between + s) + splat(work.g[row]));
      store(between + s, g);
      if (row >= from) store(M + s, before(row + 1, exp(g) * load(work.beta + s)));
    }
  }
  for (int s = 0; s < mesa_page; s += lanes) store(work.decay + s, exp(load(work.decay + s)));
}

// W of a block, and how deep it is.
FOLIO_INLINE int mesa_scores(const MesaPage& page, MesaWork& work, const MesaOne* ones, int count, const float* in, MesaRow* rows) {
  const int depth = ones[count - 1].row + 1;
  for (int i = 0; i < count; ++i)
    rows[i] = {nullptr, in + ones[i].at * work.K, work.W + ones[i].at * mesa_page, nullptr, work.decay[ones[i].row]};
  const float* key[mesa_page];
  for (int s = 0; s < mesa_up(depth); ++s) key[s] = work.key + (s < depth ? s : depth - 1) * work.K;
  auto ask = [&](auto asks, int i) __attribute__((always_inline)) {
    constexpr int A = asks.count;
    for (int s = 0; s < depth; s += Vec::lanes / A) {
      const float* of[A];
      float* to[A];
      for (int a = 0; a < A; ++a) of[a] = rows[i + a].a, to[a] = work.W + ones[i + a].at * mesa_page + s;
      row_dots<A>(of, key + s, page.keys, to);
    }
  };
  int done = 0;
  for (; done + dots_rows <= count; done += dots_rows) ask(MesaCount<dots_rows>(), done);
  for (; done < count; ++done) ask(MesaCount<1>(), done);
  for (int i = 0; i < count; ++i) {
    const float* M = work.M + ones[i].row * mesa_page;
    float* W = work.W + ones[i].at * mesa_page;
    for (int s = 0; s < depth; s += Vec::lanes) {
      const int seen = ones[i].row + 1 - s;
      const Vec w = load(W + s) * load(M + s);
      store(W + s, seen >= Vec::lanes ? w : select(first(seen > 0 ? seen : 0), w, zero()));
    }
  }
  return depth;
}

// y = in·H_t for the listed rows, in ascending order. down: see above.
FOLIO_INLINE void mesa_times(const MesaPage& page, MesaWork& work, const MesaOne* ones, int count, const float* in, bool down) {
  for (int n; count > 0; ones += n, count -= n) {
    n = mesa_next(count, work.most);
    MesaRow rows[mesa_rows];
    const int depth = mesa_scores(page, work, ones, n, in, rows);
    for (int i = 0; i < n; ++i) rows[i].out = work.y + ones[i].at * work.K;
    mesa_product(rows, n, {page.kk, work.key, page.kk_row, work.K, 1, page.keys, depth, page.keys, down});
  }
}

// The diagonal of H_t + Λ, N registers from channel c on, into y.
template <int N> FOLIO_INLINE void mesa_diagonal(MesaWork& work, const MesaOne& one, int c) {
  constexpr int lanes = Vec::lanes;
  const float* M = work.M + one.row * mesa_page;
  Vec d[N];
  for (int n = 0; n < N; ++n) d[n] = load(work.diagonal + c + n * lanes) * splat(work.decay[one.row]);
  for (int s = 0; s <= one.row; ++s)
    for (int n = 0; n < N; ++n) {
      const Vec k = load(work.key + s * work.K + c + n * lanes);
      d[n] = fma(k * k, splat(M[s]), d[n]);
    }
  for (int n = 0; n < N; ++n) store(work.y + one.at * work.K + c + n * lanes, d[n] + load(work.lambda + c + n * lanes));
}

// x, r and p of a row as its solver begins, r without − x A.
FOLIO_INLINE void mesa_begin(const MesaPage& page, const MesaAsk& ask, MesaWork& work, MesaOne& one) {
  constexpr int lanes = Vec::lanes;
  const float* q = ask.q + (one.row - ask.from) * ask.q_row;
  const int64_t at = int64_t(one.at) * work.K;
  if (ask.mode == 0 || ask.mode == 2) {
    int c = 0;
    for (; c + 4 * lanes <= work.K; c += 4 * lanes) mesa_diagonal<4>(work, one, c);
    for (; c < work.K; c += lanes) mesa_diagonal<1>(work, one, c);
  }
  Vec square = zero();
  for (int c = 0; c < work.K; c += lanes) {
    const int left = page.keys - c;
    const Vec query = left >= lanes ? load(q + c) : left > 0 ? load_n(q + c, left) : zero();
    Vec x = zero();
    if (ask.mode != 1) {
      const Vec d = ask.mode == 3 ? splat(work.beta[one.row]) + load(work.lambda + c) : load(work.y + at + c);
      x = select(less(zero(), d), query / d, zero());
    }
    store(work.x + at + c, x);
    store(work.r + at + c, query);
    store(work.y + at + c, zero());
    square = fma(query, query, square);
  }
  one.end = ask.mode == 0 ? ask.tolerance * ask.tolerance * sum(square) : -1;
}

// r −= y + Λx, p = r
FOLIO_INLINE void mesa_residual(MesaWork& work, MesaOne& one) {
  const int64_t at = int64_t(one.at) * work.K;
  Vec square = zero();
  for (int c = 0; c < work.K; c += Vec::lanes) {
    const Vec r = load(work.r + at + c) - fma(load(work.lambda + c), load(work.x + at + c), load(work.y + at + c));
    store(work.r + at + c, r);
    store(work.p + at + c, r);
    square = fma(r, r, square);
  }
  one.delta = sum(square);
}

// A round of one row; y holds p H. False if the row ends here as it is.
FOLIO_INLINE bool mesa_round(const MesaAsk& ask, MesaWork& work, MesaOne& one) {
  constexpr int lanes = Vec::lanes;
  const int64_t at = int64_t(one.at) * work.K;
  float *x = work.x + at, *r = work.r + at, *p = work.p + at, *y = work.y + at;
  Vec curve = zero(), square = zero();
  for (int c = 0; c < work.K; c += lanes) {
    const Vec a = fma(load(work.lambda + c), load(p + c), load(y + c));
    store(y + c, a);
    curve = fma(load(p + c), a, curve);
  }
  const float bend = sum(curve);
  if (ask.mode == 0 && !(bend > 0)) return false;
  const Vec alpha = splat(one.delta / (bend + ask.epsilon));
  for (int c = 0; c < work.K; c += lanes) {
    store(x + c, fma(alpha, load(p + c), load(x + c)));
    const Vec left = nfma(alpha, load(y + c), load(r + c));
    store(r + c, left);
    square = fma(left, left, square);
  }
  const float delta = sum(square);
  const Vec turn = splat(delta / (one.delta + ask.epsilon));
  for (int c = 0; c < work.K; c += lanes) store(p + c, fma(turn, load(p + c), load(r + c)));
  one.delta = delta;
  return true;
}

// o of the rows: W once more, with x, times the values.
FOLIO_INLINE void mesa_answer(const MesaPage& page, const MesaAsk& ask, MesaWork& work, const MesaOne* ones, int count) {
  for (int n; count > 0; ones += n, count -= n) {
    n = mesa_next(count, work.most);
    MesaRow rows[mesa_rows];
    const int depth = mesa_scores(page, work, ones, n, work.x, rows);
    for (int i = 0; i < n; ++i) rows[i].out = ask.o + (ones[i].row - ask.from) * ask.o_row;
    mesa_product(rows, n, {page.kv, page.v, page.kv_row, page.v_row, 1, page.keys, depth, page.values});
  }
}

void mesa_solve(const MesaPage& page, const MesaAsk& ask, float* buffer) {
  MesaWork work(page, buffer);
  MesaOne ones[mesa_page], open[mesa_page];
  int count = 0;
  for (int row = ask.from; row < ask.from + ask.count; ++row)
    if (row / 4 % ask.parts == ask.part) ones[count] = {row, count, 0, 0}, ++count;
  if (count == 0) return;
  mesa_keys(page, work);
  if (ask.count > 1 && !mesa_finite(page, work, ask.from)) work.most = 1;
  for (int c = 0; c < work.K; ++c) {
    work.lambda[c] = c < page.keys ? ask.lambda[c] : 0;
    work.diagonal[c] = page.kk && c < page.keys ? page.kk[c * page.kk_row + c] : 0;
  }
  mesa_weights(work, ask.from, ask.from + ask.count);
  for (int i = 0; i < count; ++i) mesa_begin(page, ask, work, ones[i]);
  if (ask.mode != 1) mesa_times(page, work, ones, count, work.x, false);
  for (int i = 0; i < count; ++i) mesa_residual(work, ones[i]);
  __builtin_memcpy(open, ones, sizeof ones);
  for (int round = 0, left = count;; ++round) {
    int still = 0;
    for (int i = 0; i < left; ++i) {
      ask.iterations[(open[i].row - ask.from) * ask.iterations_row] = round;
      if (round < ask.cap && !(open[i].delta <= open[i].end)) open[still++] = open[i];
    }
    if (still == 0) break;
    mesa_times(page, work, open, still, work.p, round % 2 == 0);
    left = 0;
    for (int i = 0; i < still; ++i)
      if (mesa_round(ask, work, open[i])) open[left++] = open[i];
  }
  mesa_answer(page, ask, work, ones, count);
}

void mesa_fold(const MesaPage& page, float* kk, int64_t kk_row, float* kv, int64_t kv_row, float* buffer) {
  MesaWork work(page, buffer);
  const int K = page.keys, last = mesa_page - 1;
  mesa_keys(page, work);
  mesa_weights(work, last, mesa_page);
  for (int s = 0; s < mesa_page; ++s)
    for (int c = 0; c < work.K; c += Vec::lanes)
      store(work.weighted + s * work.K + c, load(work.key + s * work.K + c) * splat(work.M[last * mesa_page + s]));
  for (int i = 0, n; i < K; i += n) {
    n = mesa_next(K - i);
    MesaRow rows[mesa_rows];
    auto fill = [&](const float* from, int64_t from_row, float* to, int64_t to_row) {
      for (int r = 0; r < n; ++r)
        rows[r] = {from ? from + (i + r) * from_row : nullptr, nullptr, work.weighted + i + r, to + (i + r) * to_row, work.decay[last]};
    };
    fill(page.kk, page.kk_row, kk, kk_row);
    mesa_product(rows, n, {nullptr, work.key, 0, work.K, work.K, 0, mesa_page, K});
    fill(page.kv, page.kv_row, kv, kv_row);
    mesa_product(rows, n, {nullptr, page.v, 0, page.v_row, work.K, 0, mesa_page, page.values});
  }
  for (int i = 0; i < K; ++i)   // the weight stands at either key: make both halves alike
    for (int j = 0; j < i; ++j) kk[i * kk_row + j] = kk[j * kk_row + i];
}

constexpr MesaInner mesa_inner = {mesa_solve, mesa_fold};

}  // namespace
}  // namespace folio
