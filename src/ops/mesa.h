// SPDX-License-Identifier: MIT
// Mesa: a memory that answers with the least-squares fit to all it has seen (MesaNet, arXiv 2506.05233). Beside G, the matrix of linear
// attention, a head keeps the keys' covariance H, and a query is first solved against H + Λ, by conjugate gradients (Hestenes and
// Stiefel, 1952). Page form: what is solved with is "slab + rows", H of a token is never formed.
#pragma once
#include <cmath>
#include <vector>

#include "base/worker.h"
#include "graph/graph.h"
#include "ops/runs.h"

namespace folio {

// Per head, with γ_t = e^g_t and Λ = diag(lambda):
//   H_t = γ_t H_{t−1} + β_t k_tᵀ k_t      G_t = γ_t G_{t−1} + β_t k_tᵀ v_t      x_t = q_t (H_t + Λ)⁻¹      o_t = x_t G_t
// In page form, with b_t = Σ of g of the rows of t's page up to t, M_ts = e^(g_{s+1} + … + g_t) β_s, H₀ and G₀ the slabs of the page before
// (zeros in page 0); rows keep g and not b, for a difference of large sums has lost its digits:
//   p H_t = e^b_t·p H₀ + Σ_{s≤t} M_ts (p·k_s) k_s         o_t = e^b_t·x_t G₀ + Σ_{s≤t} M_ts (x_t·k_s) v_s
//   H = e^b_63 H₀ + Σ_s M_63,s k_sᵀ k_s,  G likewise: written by the token that fills the page, H exactly symmetric
// The solver, with A = H_t + Λ:  r = q − x A, p = r, δ = r·r, then as often as `mode` says
//   α = δ/(p·pA + ε)    x += α p    r −= α pA    δ' = r·r    p = r + δ'/(δ + ε)·p    δ = δ'
//   mode 0   x begins as q/(diag H_t + Λ), ε = 0; ends when |r| ≤ tolerance·|q|, after `cap` rounds, or where p·pA ≤ 0
//   mode 1   x begins as 0, ε = 1e-5, always `cap` rounds: flash-linear-attention's prefill, about 1e-3 from the solution
//   mode 2   the same from q/(diag H_t + Λ): its decoding
//   mode 3   x begins as q/(β_t + Λ), ε = 1e-6, always `cap` rounds: what the video prototype was trained with
// Each token stops by itself, so its result does not hang on who is solved beside it. q = 0 gives o = 0.
struct Mesa {
  static constexpr const char* name = "mesa";
  Tensor q, k;             // [T, H, K] f32, normalised by the caller
  Tensor v;                // [T, H, V] f32
  Tensor g;                // [T, H] f32     log decay ≤ 0
  Tensor beta;             // [T, H] f32     0 .. 1
  Tensor lambda;           // [H, K] f32     > 0
  Tensor page;             // [B, most] i32  pages of the rows
  Tensor slab;             // [B, most] i32  pages of the slabs; −1: that page's slab is not kept
  Tensor seq, pos;         // [T] i32
  Tensor rows_k, rows_v;   // [N, 64, H, K], [N, 64, H, V] f32   pools
  Tensor rows_g;           // [N, 64, H, 1] f32
  Tensor rows_beta;        // [N, 64, H, 1] f32
  Tensor Hkk;              // [M, H, K, K] f32    slabs: H
  Tensor Hkv;              // [M, H, K, V] f32    slabs: G
  float tolerance = 1e-4f;
  int cap = 30, mode = 0;
  Tensor o;                // [T, H, V] f32; padding puts out 0
  Tensor iterations;       // [T, H] i32: rounds of the solver

  void visit(auto& a) {
    a.in("q", q); a.in("k", k); a.in("v", v); a.in("g", g); a.in("beta", beta); a.in("lambda", lambda); a.in("page", page);
    a.in("slab", slab); a.in("seq", seq); a.in("pos", pos); a.inout("rows_k", rows_k); a.inout("rows_v", rows_v);
    a.inout("rows_g", rows_g); a.inout("rows_beta", rows_beta); a.inout("Hkk", Hkk); a.inout("Hkv", Hkv);
    a.attr("tolerance", tolerance); a.attr("cap", cap); a.attr("mode", mode); a.out("o", o); a.out("iterations", iterations);
  }

  int64_t heads() const { return q.dim(1); }
  float epsilon() const { return mode == 0 ? 0 : mode == 3 ? 1e-6f : 1e-5f; }

  void shape() {
    check(q.type == F32 && k.type == F32 && v.type == F32 && q.rank() == 3 && q.shape == k.shape && v.rank() == 3 && v.dim(0) == q.dim(0) &&
          v.dim(1) == q.dim(1), "mesa: q is ", q.shape.text(), ", k ", k.shape.text(), ", v ", v.shape.text());
    const int64_t T = q.dim(0), H = q.dim(1), K = q.dim(2), V = v.dim(2);
    check(g.type == F32 && g.shape == Shape({T, H}) && beta.type == F32 && beta.shape == g.shape && lambda.type == F32 &&
          lambda.shape == Shape({H, K}), "mesa: q is ", q.shape.text(), ", g ", g.shape.text(), ", beta ", beta.shape.text(), ", lambda ",
          lambda.shape.text());
    check(page.type == I32 && slab.type == I32 && page.rank() == 2 && slab.shape == page.shape && seq.type == I32 && pos.type == I32 &&
          seq.shape == Shape{T} && pos.shape == seq.shape, "mesa: page is ", page.shape.text(), ", slab ", slab.shape.text(), ", seq ",
          seq.shape.text(), ", pos ", pos.shape.text());
    const int64_t N = rows_k.dim(0), M = Hkk.dim(0);
    check(rows_k.type == F32 && rows_v.type == F32 && rows_k.shape == Shape({N, page_tokens, H, K}) &&
          rows_v.shape == Shape({N, page_tokens, H, V}), "mesa: rows of k are ", rows_k.shape.text(), ", of v ", rows_v.shape.text());
    check(rows_g.type == F32 && rows_g.shape == Shape({N, page_tokens, H, 1}) && rows_beta.type == F32 && rows_beta.shape == rows_g.shape,
          "mesa: rows of g are ", rows_g.shape.text(), ", of beta ", rows_beta.shape.text());
    check(Hkk.type == F32 && Hkv.type == F32 && Hkk.shape == Shape({M, H, K, K}) && Hkv.shape == Shape({M, H, K, V}), "mesa: Hkk is ",
          Hkk.shape.text(), ", Hkv ", Hkv.shape.text());
    check(tolerance >= 0 && cap >= 0 && mode >= 0 && mode <= 3, "mesa: tolerance ", tolerance, ", cap ", cap, ", mode ", mode);
    o = Tensor::of(F32, {T, H, V});
    iterations = Tensor::of(I32, {T, H});
  }

  static float* pool_row(const Tensor& pool, int64_t id, int64_t row, int64_t head) {
    return pool.row<float>((id * page_tokens + row) * pool.dim(2) + head);
  }
  static float* slab_row(const Tensor& pool, int64_t id, int64_t head, int64_t c) {
    return pool.row<float>((id * pool.dim(1) + head) * pool.dim(2) + c);
  }

  // The textbook's recurrence in double, H formed, one token after the other.
  void reference(Worker worker) const {
    int64_t runs = 0;
    each_run(seq, pos, [&](const Run&, int64_t) { ++runs; });
    for (int64_t item : worker.share(runs * heads() + q.dim(0))) {
      if (item >= runs * heads()) {   // padding
        const int64_t t = item - runs * heads();
        for (int64_t h = 0; seq.at<int32_t>()[t] < 0 && h < heads(); ++h) {
          std::fill_n(o.row<float>(t * heads() + h), v.dim(2), 0.0f);
          iterations.row<int32_t>(t)[h] = 0;
        }
        continue;
      }
      each_run(seq, pos, [&](const Run& run, int64_t index) {
        if (index == item / heads()) one_run(run, item % heads());
      });
    }
  }

 private:
  using Vector = std::vector<double>;
  struct Memory {
    Vector H, G;   // [K][K], [K][V]
  };
  static double dot(const Vector& a, const Vector& b) {
    double sum = 0;
    for (size_t c = 0; c < a.size(); ++c) sum += a[c] * b[c];
    return sum;
  }
  void take(Memory& m, const float* key, const float* value, double decay, double weight) const {
    const int64_t K = q.dim(2), V = v.dim(2);
    for (int64_t c = 0; c < K; ++c) {
      for (int64_t e = 0; e < K; ++e) m.H[size_t(c * K + e)] = decay * m.H[size_t(c * K + e)] + weight * (double(key[c]) * key[e]);
      for (int64_t e = 0; e < V; ++e) m.G[size_t(c * V + e)] = decay * m.G[size_t(c * V + e)] + weight * (double(key[c]) * value[e]);
    }
  }
  void one_run(const Run& run, int64_t h) const {
    const int64_t K = q.dim(2), V = v.dim(2);
    Memory m{Vector(size_t(K * K)), Vector(size_t(K * V))};
    const int32_t *rows = page.row<int32_t>(run.seq), *slabs = slab.row<int32_t>(run.seq);
    for (int64_t done = 0; done < run.count;) {
      const Piece piece = piece_at(run, done);
      if (done == 0) remember(m, run, piece, h);
      for (int64_t row = piece.from; row < piece.to; ++row, ++done) token(m, piece.first + row - piece.from, rows[piece.page], row, h);
      if (!piece.fills() || slabs[piece.page] < 0) continue;
      for (int64_t c = 0; c < K; ++c) {
        std::copy_n(m.H.begin() + c * K, K, slab_row(Hkk, slabs[piece.page], h, c));
        std::copy_n(m.G.begin() + c * V, V, slab_row(Hkv, slabs[piece.page], h, c));
      }
    }
  }
  // What is there before the run: the slabs of the page before, and the rows of its own page.
  void remember(Memory& m, const Run& run, const Piece& piece, int64_t h) const {
    const int64_t K = q.dim(2), V = v.dim(2), id = page.row<int32_t>(run.seq)[piece.page];
    for (int64_t c = 0; c < K && piece.page > 0; ++c) {
      const int64_t before = slab.row<int32_t>(run.seq)[piece.page - 1];
      std::copy_n(slab_row(Hkk, before, h, c), K, m.H.begin() + c * K);
      std::copy_n(slab_row(Hkv, before, h, c), V, m.G.begin() + c * V);
    }
    for (int64_t row = 0; row < piece.from; ++row)
      take(m, pool_row(rows_k, id, row, h), pool_row(rows_v, id, row, h), std::exp(double(*pool_row(rows_g, id, row, h))),
           *pool_row(rows_beta, id, row, h));
  }
  void token(Memory& m, int64_t t, int64_t id, int64_t row, int64_t h) const {
    const int64_t K = q.dim(2), V = v.dim(2), item = t * heads() + h;
    const float decay = g.row<float>(t)[h], weight = beta.row<float>(t)[h];
    take(m, k.row<float>(item), v.row<float>(item), std::exp(double(decay)), weight);
    const Vector x = solve(m, q.row<float>(item), lambda.row<float>(h), weight, iterations.row<int32_t>(t)[h]);
    for (int64_t e = 0; e < V; ++e) {
      double sum = 0;
      for (int64_t c = 0; c < K; ++c) sum += x[size_t(c)] * m.G[size_t(c * V + e)];
      o.row<float>(item)[e] = float(sum);
    }
    std::copy_n(k.row<float>(item), K, pool_row(rows_k, id, row, h));
    std::copy_n(v.row<float>(item), V, pool_row(rows_v, id, row, h));
    *pool_row(rows_g, id, row, h) = decay;
    *pool_row(rows_beta, id, row, h) = weight;
  }
  Vector times(const Memory& m, const Vector& p, const float* diagonal) const {   // p (H + Λ)
    const size_t K = p.size();
    Vector y(K);
    for (size_t c = 0; c < K; ++c) {
      for (size_t e = 0; e < K; ++e) y[e] += p[c] * m.H[c * K + e];
      y[c] += diagonal[c] * p[c];
    }
    return y;
  }
  Vector solve(const Memory& m, const float* query, const float* diagonal, double weight, int32_t& rounds) const {
    const size_t K = size_t(q.dim(2));
    const Vector right(query, query + K);
    Vector x(K);
    for (size_t c = 0; c < K && mode != 1; ++c) {
      const double d = (mode == 3 ? weight : m.H[c * K + c]) + diagonal[c];
      x[c] = d > 0 ? right[c] / d : 0;
    }
    Vector r = times(m, x, diagonal);
    for (size_t c = 0; c < K; ++c) r[c] = right[c] - r[c];
    Vector p = r;
    const double end = double(tolerance) * tolerance * dot(right, right), eps = epsilon();
    double delta = dot(r, r);
    for (rounds = 0; rounds < cap && (mode > 0 || !(delta <= end)); ++rounds) {
      const Vector y = times(m, p, diagonal);
      const double curve = dot(p, y);
      if (mode == 0 && !(curve > 0)) break;
      const double alpha = delta / (curve + eps), was = delta;
      for (size_t c = 0; c < K; ++c) x[c] += alpha * p[c], r[c] -= alpha * y[c];
      delta = dot(r, r);
      for (size_t c = 0; c < K; ++c) p[c] = r[c] + delta / (was + eps) * p[c];
    }
    return x;
  }
};

}  // namespace folio
