// SPDX-License-Identifier: MIT
// LogLinear: log-linear attention (arXiv 2506.04761). A token reads not one matrix of all that was, but log2 of them: the nearest
// token, the one or none before it, the next two, four … (a Fenwick tree over the text), each with a weight of its own, λ.
//
//   level(t, t) = 0, level(t, s) = 1 + ⌊log2(t xor s)⌋         t = 13:   | 0 … 7 | 8 … 11 | 12 | 13 |
//                                                               level      4       3       1    0      (2 is empty: bit 1 of 13)
//
// A page of 64 tokens is 2^6 of them: levels 0 … 6 lie within the page, and level 7 + m is the bucket of 2^m whole pages which is
// there if bit m of the number n of full pages is set. Two mixers have this form, told apart by beta:
//   without (Mamba-2)           a bucket only decays, by one number a head: its slab stands where it was made (SlabSpec::chain), and
//                               c, the decay of the whole text up to a slab, says how much it has decayed since
//   with (gated DeltaNet)       every token changes every matrix: a page's slab holds all its buckets
// Beyond the table nothing is remembered: a level ≥ L, or with beta a bucket ≥ the slab's, has weight 0. Tokens on two sides of a multiple
// of 2^(L−1) differ in a bit that no level stands for, so a longer text is to the mixer as texts of 2^(L−1) tokens one behind the other:
// at each multiple it begins anew (reach()). With 15 levels, as the published models have, that is every 16,384 tokens.
#pragma once
#include <bit>
#include <cmath>
#include <vector>

#include "base/worker.h"
#include "graph/graph.h"
#include "ops/runs.h"

namespace folio {

// With g = h / (H/G), d_t = e^(decay of token t), λ_t[l] = 0 for l ≥ L, S_l the matrix of level l's tokens:
//   before t > 0   j = ctz(t): S_{j+1} = S_0 + … + S_j, which become empty
//   S_l = d_t · S_l                              with beta: d_t · (I − β_t k_tᵀ k_t) S_l
//   S_0 = k_tᵀ v_t                               with beta: β_t k_tᵀ v_t
//   o_t = Σ_l λ_t[l] · q_t S_l
// In page form, n the page of t, b_t = Σ of decays of the page's rows up to t, P_ts = (q_t·k_s) e^(b_t − b_s) for s ≤ t:
//   o_t = Σ_s λ_t[level(t,s)] A_ts u_s + Σ_{bits m of n} λ_t[7 + m] r_t S_m
//   without beta   A = P, u = v, r_t = e^b_t q_t; S_m as its slab has it, times e^(c of page n−1 − c of its page)
//   with beta      u_s = β_s v_s, L_ts = β_t (k_t·k_s) e^(b_t − b_s) for s < t, and with X = (I + L)⁻¹
//                  w = X · (β_s e^b_s k_s), A = P X, r_t = e^b_t q_t − P_t w          (levels weigh what the inverse has mixed)
// The token that fills page n makes, with j = ctz(n + 1), the bucket j of R = Σ_{m<j} S_m and of the page:
//   S_j = e^b_63 R + Σ_s (k_s e^(b_63 − b_s))ᵀ x_s,   x = u, with beta X u − w R;   the others, with beta: R = S_m, u = 0
// A step costs T·log(pages) matrix products and no sum over all pages. A kernel computes a token alike however the step was cut.
struct LogLinear {
  static constexpr const char* name = "log_linear";
  static constexpr int fine = 7;   // levels within a page
  Tensor q, k;           // [T, G, K] f32
  Tensor v;              // [T, H, V] f32
  Tensor g;              // [T, H] f32     log decay ≤ 0
  Tensor beta;           // [T, H] f32     delta rule; may be absent
  Tensor lambda;         // [T, H, L] f32  ≥ 0
  Tensor page;           // [B, most] i32  pages of the rows
  Tensor slab;           // [B, most] i32  pages of the slabs; −1: that page's slab is not kept
  Tensor seq, pos;       // [T] i32
  Tensor rows_k;         // [N, 64, G, K] f32   pools
  Tensor rows_u;         // [N, 64, H, V] f32
  Tensor rows_g;         // [N, 64, H, 1] f32   g
  Tensor rows_w;         // [N, 64, H, K] f32   with beta, else absent
  Tensor rows_x;         // [N, 64, H, 64] f32  with beta, else absent: the rows of X
  Tensor S;              // [M, H, K, V] f32    the bucket that ends with the page; with beta [M, H, C·K, V]: buckets 0 … C−1 after it
  Tensor c;              // [M, H, 2] f32       Σ of all decays up to the page's end, as a float and what it lacks; absent with beta
  Tensor o;              // [T, H, V] f32; padding puts out 0

  void visit(auto& a) {
    a.in("q", q); a.in("k", k); a.in("v", v); a.in("g", g); a.in("beta", beta); a.in("lambda", lambda);
    a.in("page", page); a.in("slab", slab); a.in("seq", seq); a.in("pos", pos);
    a.inout("rows_k", rows_k); a.inout("rows_u", rows_u); a.inout("rows_g", rows_g); a.inout("rows_w", rows_w); a.inout("rows_x", rows_x);
    a.inout("S", S); a.inout("c", c); a.out("o", o);
  }

  // Tokens of a text until a table of so many levels ends.
  static constexpr int64_t reach(int64_t levels) { return int64_t(1) << (levels - 1); }
  int64_t heads() const { return v.dim(1); }
  int64_t group(int64_t h) const { return h / (heads() / q.dim(1)); }
  // Buckets that a slab may stand for: with beta those it holds, else as many as a text of `most` pages can have.
  int buckets() const { return beta.present() ? int(S.dim(2) / q.dim(2)) : std::bit_width(uint64_t(page.dim(1))); }
  // λ_t[level] of head h.
  float weight(int64_t t, int64_t h, int64_t level) const {
    return level < lambda.dim(2) ? lambda.row<float>(t * heads() + h)[level] : 0;
  }
  // Of the rows t ≥ s of a page.
  static int level_of(int64_t t, int64_t s) { return std::bit_width(uint64_t(t ^ s)); }

  void shape() {
    check(q.type == F32 && k.type == F32 && v.type == F32 && q.rank() == 3 && q.shape == k.shape && v.rank() == 3 && v.dim(0) == q.dim(0) &&
          v.dim(1) % q.dim(1) == 0, "log_linear: q is ", q.shape.text(), ", k ", k.shape.text(), ", v ", v.shape.text());
    const int64_t T = q.dim(0), G = q.dim(1), H = v.dim(1), K = q.dim(2), V = v.dim(2);
    check(g.type == F32 && g.shape == Shape({T, H}) && (!beta.present() || (beta.type == F32 && beta.shape == g.shape)),
          "log_linear: v is ", v.shape.text(), ", g ", g.shape.text(), ", beta ", beta.present() ? beta.shape.text() : "absent");
    check(lambda.type == F32 && lambda.rank() == 3 && lambda.dim(0) == T && lambda.dim(1) == H, "log_linear: v is ", v.shape.text(),
          ", lambda ", lambda.shape.text(), ", expected [T,H,L]");
    check(page.type == I32 && slab.type == I32 && page.rank() == 2 && slab.shape == page.shape && seq.type == I32 &&
          seq.shape == Shape{T} && pos.type == I32 && pos.shape == Shape{T}, "log_linear: page is ", page.shape.text(), ", slab ",
          slab.shape.text(), ", seq ", seq.shape.text());
    const int64_t N = rows_k.dim(0), M = S.dim(0);
    auto rows = [&](const Tensor& pool, int64_t heads, int64_t width) {
      return pool.type == F32 && pool.shape == Shape({N, page_tokens, heads, width});
    };
    check(rows(rows_k, G, K) && rows(rows_u, H, V) && rows(rows_g, H, 1), "log_linear: rows of k are ", rows_k.shape.text(), ", of u ",
          rows_u.shape.text(), ", of g ", rows_g.shape.text());
    check(rows_w.present() == beta.present() && rows_x.present() == beta.present() && c.present() != beta.present(),
          "log_linear: rows of w and x go with beta, c goes without");
    check(!beta.present() || (rows(rows_w, H, K) && rows(rows_x, H, page_tokens)), "log_linear: rows of w are ", rows_w.shape.text(),
          ", of x ", rows_x.shape.text());
    check(S.type == F32 && S.rank() == 4 && S.dim(1) == H && S.dim(3) == V && (beta.present() ? S.dim(2) % K == 0 : S.dim(2) == K),
          "log_linear: S is ", S.shape.text());
    check(!c.present() || (c.type == F32 && c.shape == Shape({M, H, 2})), "log_linear: S is ", S.shape.text(), ", c ", c.shape.text());
    o = Tensor::of(F32, {T, H, V});
  }

  // The recurrence in double, one token after the other.
  void reference(Worker worker) const {
    int64_t runs = 0;
    each_run(seq, pos, [&](const Run&, int64_t) { ++runs; });
    for (int64_t item : worker.share(runs * heads() + q.dim(0))) {
      if (item >= runs * heads()) {   // padding
        const int64_t t = item - runs * heads();
        for (int64_t h = 0; seq.at<int32_t>()[t] < 0 && h < heads(); ++h) std::fill_n(o.row<float>(t * heads() + h), v.dim(2), 0.0f);
        continue;
      }
      each_run(seq, pos, [&](const Run& run, int64_t index) {
        if (index == item / heads()) one_run(run, item % heads());
      });
    }
  }

 private:
  using Matrix = std::vector<double>;   // [K][V]; empty: nobody is in it
  struct Levels {
    std::vector<Matrix> S;              // by level
    double c = 0;                       // up to the last full page
  };
  static float* pool_row(const Tensor& pool, int64_t id, int64_t row, int64_t head) {
    return pool.row<float>((id * page_tokens + row) * pool.dim(2) + head);
  }
  // b of a row.
  double decay_until(int64_t id, int64_t row, int64_t h) const {
    double b = 0;
    for (int64_t i = 0; i <= row; ++i) b += *pool_row(rows_g, id, i, h);
    return b;
  }
  void one_run(const Run& run, int64_t h) const {
    const int32_t *rows = page.row<int32_t>(run.seq), *slabs = slab.row<int32_t>(run.seq);
    Levels levels{std::vector<Matrix>(size_t(fine + std::bit_width(uint64_t(page.dim(1))) + 1))};
    for (int64_t done = 0; done < run.count;) {
      const Piece piece = piece_at(run, done);
      if (done == 0) remember(levels, piece, rows[piece.page], slabs, h);
      for (int64_t row = piece.from; row < piece.to; ++row, ++done) {
        write_rows(piece.first + row - piece.from, rows[piece.page], row, h);
        token(levels, piece.first + row - piece.from, row, h);
      }
      if (!piece.fills()) continue;
      carry(levels, (piece.page + 1) * page_tokens);
      for (size_t m = size_t(buckets()); beta.present() && fine + m < levels.S.size(); ++m) levels.S[fine + m].clear();
      levels.c = pair(levels.c + decay_until(rows[piece.page], page_tokens - 1, h))[2];
      if (slabs[piece.page] >= 0) write_slab(levels, piece.page, slabs[piece.page], h);
    }
  }
  // x as the float nearest to it, the float nearest to the rest, and what the two are together.
  static std::vector<double> pair(double x) {
    const float high = float(x), low = float(x - high);
    return {high, low, double(high) + low};
  }
  float* matrix_row(int64_t id, int64_t h, int64_t row) const { return S.row<float>((id * heads() + h) * S.dim(2) + row); }
  Matrix read_matrix(int64_t id, int64_t h, int64_t from, double factor) const {
    Matrix m;
    for (int64_t i = from; i < from + q.dim(2); ++i) {
      const float* row = matrix_row(id, h, i);
      for (int64_t e = 0; e < v.dim(2); ++e) m.push_back(factor * row[e]);
    }
    return m;
  }
  // What is there before the run: the buckets of the pages before, and the levels of the rows before.
  void remember(Levels& levels, const Piece& piece, int64_t rows, const int32_t* slabs, int64_t h) const {
    auto decay_of = [&](int64_t id) { return double(c.row<float>(id * heads() + h)[0]) + c.row<float>(id * heads() + h)[1]; };
    if (piece.page > 0 && c.present()) levels.c = decay_of(slabs[piece.page - 1]);
    for (int64_t full = piece.page; full > 0; full &= full - 1) {
      const int m = std::countr_zero(uint64_t(full));
      if (m >= buckets()) continue;
      const int64_t id = slabs[beta.present() ? piece.page - 1 : full - 1];
      levels.S[size_t(fine + m)] =
          beta.present() ? read_matrix(id, h, m * q.dim(2), 1) : read_matrix(id, h, 0, std::exp(levels.c - decay_of(id)));
    }
    if (piece.from == 0) return;
    // After rows 0 … r, with f_j = k_j e^(b_r − b_j): a level has Σ_j f_jᵀ Σ_s x_js u_s of its rows s, an older matrix is
    // e^b_r S − Σ_j f_jᵀ w_j S.
    const int64_t K = q.dim(2), V = v.dim(2), last = piece.from - 1;
    const double b = decay_until(rows, last, h);
    std::vector<double> u(static_cast<size_t>(V));
    for (size_t l = fine; l < levels.S.size(); ++l) {
      const Matrix old = levels.S[l];
      for (double& x : levels.S[l]) x *= std::exp(b);
      for (int64_t j = 0; beta.present() && !old.empty() && j <= last; ++j) {
        const float* w = pool_row(rows_w, rows, j, h);
        for (int64_t e = 0; e < V; ++e) {
          double part = 0;
          for (int64_t i = 0; i < K; ++i) part += w[i] * old[size_t(i * V + e)];
          u[size_t(e)] = -part;
        }
        add_outer(levels.S[l], rows, j, h, b, u);
      }
    }
    for (int64_t s = 0; s <= last; ++s) {
      Matrix& level = levels.S[size_t(level_of(last, s))];
      level.resize(size_t(K * V));
      for (int64_t j = s; j <= last; ++j) {
        const double x = beta.present() ? pool_row(rows_x, rows, j, h)[s] : j == s;
        if (x == 0) continue;
        const float* its = pool_row(rows_u, rows, s, h);
        for (int64_t e = 0; e < V; ++e) u[size_t(e)] = x * its[e];
        add_outer(level, rows, j, h, b, u);
      }
    }
  }
  void add_outer(Matrix& m, int64_t rows, int64_t j, int64_t h, double b, const std::vector<double>& u) const {
    const double decay = std::exp(b - decay_until(rows, j, h));
    const float* key = pool_row(rows_k, rows, j, group(h));
    for (int64_t i = 0; i < q.dim(2); ++i)
      for (size_t e = 0; e < u.size(); ++e) m[size_t(i) * u.size() + e] += decay * key[i] * u[e];
  }
  // What comes before token t.
  void carry(Levels& levels, int64_t t) const {
    const size_t j = size_t(std::countr_zero(uint64_t(t)));
    Matrix sum;
    for (size_t l = 0; l <= j; ++l) {
      Matrix& level = levels.S[l];
      if (sum.empty()) sum = std::move(level);
      else
        for (size_t i = 0; i < level.size(); ++i) sum[i] += level[i];
      level.clear();
    }
    levels.S[j + 1] = std::move(sum);
  }
  void token(Levels& levels, int64_t t, int64_t row, int64_t h) const {
    const int64_t K = q.dim(2), V = v.dim(2);
    const float *key = k.row<float>(t * k.dim(1) + group(h)), *query = q.row<float>(t * q.dim(1) + group(h));
    const float* value = v.row<float>(t * heads() + h);
    const double decay = std::exp(double(g.row<float>(t)[h])), rate = beta.present() ? beta.row<float>(t)[h] : 0;
    if (row > 0) carry(levels, row);   // a page's first token finds its pages carried already
    for (size_t l = 1; l < levels.S.size(); ++l) {
      Matrix& m = levels.S[l];
      for (int64_t e = 0; !m.empty() && e < V; ++e) {
        double part = 0;
        for (int64_t i = 0; i < K; ++i) part += key[i] * m[size_t(i * V + e)];
        for (int64_t i = 0; i < K; ++i) m[size_t(i * V + e)] = decay * (m[size_t(i * V + e)] - rate * key[i] * part);
      }
    }
    levels.S[0].resize(size_t(K * V));
    for (int64_t i = 0; i < K * V; ++i) levels.S[0][size_t(i)] = (beta.present() ? rate : 1) * key[i / V] * value[i % V];
    for (int64_t e = 0; e < V; ++e) {
      double sum = 0;
      for (size_t l = 0; l < levels.S.size(); ++l) {
        if (levels.S[l].empty()) continue;
        const double its = weight(t, h, int64_t(l));
        for (int64_t i = 0; i < K; ++i) sum += its * query[i] * levels.S[l][size_t(i * V + e)];
      }
      o.row<float>(t * heads() + h)[e] = float(sum);
    }
  }
  void write_rows(int64_t t, int64_t id, int64_t row, int64_t h) const {
    const int64_t K = q.dim(2), V = v.dim(2);
    const float *key = k.row<float>(t * k.dim(1) + group(h)), *value = v.row<float>(t * heads() + h);
    const float rate = beta.present() ? beta.row<float>(t)[h] : 1;
    if (h % (heads() / k.dim(1)) == 0) std::copy(key, key + K, pool_row(rows_k, id, row, group(h)));
    *pool_row(rows_g, id, row, h) = g.row<float>(t)[h];
    for (int64_t e = 0; e < V; ++e) pool_row(rows_u, id, row, h)[e] = rate * value[e];
    if (!beta.present()) return;
    std::vector<double> w(static_cast<size_t>(K)), x(page_tokens);   // (I + L) rows = right-hand sides, from the first row on
    const double b = decay_until(id, row, h);
    for (int64_t i = 0; i < K; ++i) w[size_t(i)] = rate * std::exp(b) * key[i];
    x[size_t(row)] = 1;
    for (int64_t j = 0; j < row; ++j) {
      // A row of this step is not yet in the pool if another head writes it.
      const int64_t its = t - (row - j);
      const bool fresh = its >= 0 && seq.at<int32_t>()[its] == seq.at<int32_t>()[t];
      const float* before = fresh ? k.row<float>(its * k.dim(1) + group(h)) : pool_row(rows_k, id, j, group(h));
      double dot = 0;
      for (int64_t i = 0; i < K; ++i) dot += double(key[i]) * before[i];
      dot *= rate * std::exp(b - decay_until(id, j, h));
      const float *its_w = pool_row(rows_w, id, j, h), *its_x = pool_row(rows_x, id, j, h);
      for (int64_t i = 0; i < K; ++i) w[size_t(i)] -= dot * its_w[i];
      for (int64_t i = 0; i <= j; ++i) x[size_t(i)] -= dot * its_x[i];
    }
    std::copy(w.begin(), w.end(), pool_row(rows_w, id, row, h));
    std::copy(x.begin(), x.end(), pool_row(rows_x, id, row, h));
  }
  // What a slab has no bucket for stays as it is.
  void write_slab(const Levels& levels, int64_t n, int64_t id, int64_t h) const {
    const int64_t K = q.dim(2), V = v.dim(2);
    auto write = [&](const Matrix& m, int64_t from) {
      for (int64_t i = 0; i < K * V; ++i) matrix_row(id, h, from + i / V)[i % V] = float(m[size_t(i)]);
    };
    if (c.present()) {
      write(levels.S[size_t(fine + std::countr_zero(uint64_t(n + 1)))], 0);
      for (int i = 0; i < 2; ++i) c.row<float>(id * heads() + h)[i] = float(pair(levels.c)[size_t(i)]);
    }
    for (int m = 0; beta.present() && m < buckets(); ++m)
      if ((n + 1) >> m & 1) write(levels.S[size_t(fine + m)], m * K);
  }
};

}  // namespace folio
