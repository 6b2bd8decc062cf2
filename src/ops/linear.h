// SPDX-License-Identifier: MIT
// Linear: every mixer whose memory is one matrix per head. Linear attention (arXiv 2006.16236), RetNet (2307.08621), simple GLA and
// Mamba-2's SSD (2405.21060), GLA (2312.06635), DeltaNet (2406.06484), gated DeltaNet (2412.06464) and KDA (2510.26692) differ in
// the decay (none, one constant or one number a head, or one a channel) and in whether a token writes its value or corrects what
// the memory foretold. All run in page form: chunk form over the 64 rows of a page, for prefill, decoding and drafts alike.
#pragma once
#include <cmath>
#include <vector>

#include "base/worker.h"
#include "graph/graph.h"
#include "ops/runs.h"

namespace folio {

// With g = h / (H/G), d_t = e^(decay of token t) (1 without one), S the matrix of the sequence's tokens before t:
//   S~ = d_t ⊙ S                       per row of S, or all of it
//   u_t = v_t                          or β_t·(v_t − k_t S~) with beta
//   S = S~ + k_tᵀ u_t                  z = d_t ⊙ z + k_t
//   o_t = scale · q_t S                divided by scale · q_t·z + 1e-10 if z is present
// In page form, with b_t = Σ of decays of the rows of t's page up to t, S₀ the slab of the page before (zeros in page 0):
//   u_t = β_t·(v_t − (k_t ⊙ e^b_t) S₀ − Σ_{s<t} (Σ_c k_t[c]·k_s[c]·e^(b_t[c] − b_s[c]))·u_s)
//   o_t = scale · ((q_t ⊙ e^b_t) S₀ + Σ_{s≤t} (Σ_c q_t[c]·k_s[c]·e^(b_t[c] − b_s[c]))·u_s)
//   S   = e^b_63 ⊙ S₀ + Σ_s (k_s ⊙ e^(b_63 − b_s))ᵀ u_s           written by the token that fills the page
// Rows keep each token's own decay, not b: a difference of two b that are large has lost its digits, a sum of what lies between them
// has not; and it is never positive. A kernel computes a token alike however the step was cut.
struct Linear {
  static constexpr const char* name = "linear";
  Tensor q;            // [T, G, K] f32
  Tensor k;            // [T, G, K] f32
  Tensor v;            // [T, H, V] f32
  Tensor g;            // log decay ≤ 0: [T, H], [T, H, K] (per channel), [H] (the same for every token) or absent; f32
  Tensor beta;         // [T, H] f32: delta rule; may be absent
  Tensor page;         // [B, most] i32   pages of the rows
  Tensor slab;         // [B, most] i32   pages of the slabs; −1: that page's slab is not kept
  Tensor seq, pos;     // [T] i32
  Tensor rows_k;       // [N, 64, G, K] f32   pools
  Tensor rows_u;       // [N, 64, H, V] f32
  Tensor rows_g;       // [N, 64, H, 1 or K] f32   g; absent if g is absent or [H]
  Tensor S;            // [M, H, K, V] f32   slabs
  Tensor z;            // [M, H, K] f32      may be absent
  float scale = 1;
  Tensor o;            // [T, H, V] f32; padding puts out 0

  void visit(auto& a) {
    a.in("q", q); a.in("k", k); a.in("v", v); a.in("g", g); a.in("beta", beta); a.in("page", page); a.in("slab", slab); a.in("seq", seq);
    a.in("pos", pos); a.inout("rows_k", rows_k); a.inout("rows_u", rows_u); a.inout("rows_g", rows_g); a.inout("S", S); a.inout("z", z);
    a.attr("scale", scale); a.out("o", o);
  }

  int64_t heads() const { return v.dim(1); }
  bool constant() const { return g.present() && g.rank() == 1; }
  bool channels() const { return g.present() && g.rank() == 3; }

  void shape() {
    check(q.type == F32 && k.type == F32 && v.type == F32 && q.rank() == 3 && q.shape == k.shape && v.rank() == 3 && v.dim(0) == q.dim(0) &&
          v.dim(1) % q.dim(1) == 0, "linear: q is ", q.shape.text(), ", k ", k.shape.text(), ", v ", v.shape.text());
    const int64_t T = q.dim(0), G = q.dim(1), H = v.dim(1), K = q.dim(2), V = v.dim(2);
    check(!g.present() || (g.type == F32 && (g.shape == Shape{H} || g.shape == Shape({T, H}) || g.shape == Shape({T, H, K}))),
          "linear: v is ", v.shape.text(), ", g ", g.shape.text());
    check(!beta.present() || (beta.type == F32 && beta.shape == Shape({T, H})), "linear: v is ", v.shape.text(), ", beta ",
          beta.shape.text());
    check(!beta.present() || !z.present(), "linear: the delta rule knows no normaliser");
    check(page.type == I32 && slab.type == I32 && page.rank() == 2 && slab.shape == page.shape && seq.type == I32 &&
              seq.shape == Shape{T} && pos.type == I32 && pos.shape == Shape{T},
          "linear: page is ", page.shape.text(), ", slab ", slab.shape.text(), ", seq ", seq.shape.text());
    const int64_t N = rows_k.dim(0), M = S.dim(0);
    check(rows_k.type == F32 && rows_u.type == F32 && rows_k.shape == Shape({N, page_tokens, G, K}) &&
              rows_u.shape == Shape({N, page_tokens, H, V}),
          "linear: rows of k are ", rows_k.shape.text(), ", of u ", rows_u.shape.text());
    check(rows_g.present() == (g.present() && !constant()) &&
              (!rows_g.present() || (rows_g.type == F32 && rows_g.shape == Shape({N, page_tokens, H, channels() ? K : 1}))),
          "linear: rows of g are ", rows_g.present() ? rows_g.shape.text() : "absent");
    check(S.type == F32 && S.shape == Shape({M, H, K, V}) && (!z.present() || (z.type == F32 && z.shape == Shape({M, H, K}))),
          "linear: S is ", S.shape.text());
    o = Tensor::of(F32, {T, H, V});
  }

  // The textbook's recurrence in double, one token after the other.
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
  struct Memory {
    std::vector<double> S, z;   // [K][V], [K]
  };
  static float* pool_row(const Tensor& pool, int64_t id, int64_t row, int64_t head) {
    return pool.row<float>((id * page_tokens + row) * pool.dim(2) + head);
  }
  double decay(int64_t t, int64_t h, int64_t c) const {
    if (!g.present()) return 0;
    if (constant()) return g.at<float>()[h * g.stride[0]];
    return channels() ? g.row<float>(t * heads() + h)[c] : g.row<float>(t)[h];
  }
  // S ← d ⊙ S + kᵀ u
  void take(Memory& m, const float* key, const float* u, auto&& log_decay) const {
    const int64_t K = q.dim(2), V = v.dim(2);
    for (int64_t c = 0; c < K; ++c) {
      const double d = std::exp(log_decay(c));
      for (int64_t e = 0; e < V; ++e) m.S[size_t(c * V + e)] = d * m.S[size_t(c * V + e)] + double(key[c]) * u[e];
      m.z[size_t(c)] = d * m.z[size_t(c)] + key[c];
    }
  }
  void one_run(const Run& run, int64_t h) const {
    const int64_t group = h / (heads() / q.dim(1)), K = q.dim(2), V = v.dim(2);
    Memory m{std::vector<double>(size_t(K * V)), std::vector<double>(size_t(K))};
    const int32_t *rows = page.row<int32_t>(run.seq), *slabs = slab.row<int32_t>(run.seq);
    for (int64_t done = 0; done < run.count;) {
      const Piece piece = piece_at(run, done);
      if (done == 0) remember(m, run, piece, h, group);
      for (int64_t row = piece.from; row < piece.to; ++row, ++done)
        token(m, piece.first + row - piece.from, rows[piece.page], row, h, group);
      if (!piece.fills() || slabs[piece.page] < 0) continue;
      for (int64_t c = 0; c < K; ++c) {
        float* to = S.row<float>((slabs[piece.page] * heads() + h) * K + c);
        for (int64_t e = 0; e < V; ++e) to[e] = float(m.S[size_t(c * V + e)]);
        if (z.present()) z.row<float>(slabs[piece.page] * heads() + h)[c] = float(m.z[size_t(c)]);
      }
    }
  }
  // What is there before the run: the slab of the page before, and the rows of its own page.
  void remember(Memory& m, const Run& run, const Piece& piece, int64_t h, int64_t group) const {
    const int64_t K = q.dim(2), V = v.dim(2), rows = page.row<int32_t>(run.seq)[piece.page];
    if (piece.page > 0) {
      const int64_t id = slab.row<int32_t>(run.seq)[piece.page - 1];
      for (int64_t c = 0; c < K; ++c) {
        for (int64_t e = 0; e < V; ++e) m.S[size_t(c * V + e)] = S.row<float>((id * heads() + h) * K + c)[e];
        if (z.present()) m.z[size_t(c)] = z.row<float>(id * heads() + h)[c];
      }
    }
    for (int64_t row = 0; row < piece.from; ++row)
      take(m, pool_row(rows_k, rows, row, group), pool_row(rows_u, rows, row, h), [&](int64_t c) {
        return rows_g.present() ? double(pool_row(rows_g, rows, row, h)[channels() ? c : 0]) : decay(0, h, c);
      });
  }
  void token(Memory& m, int64_t t, int64_t id, int64_t row, int64_t h, int64_t group) const {
    const int64_t K = q.dim(2), V = v.dim(2);
    const float *key = k.row<float>(t * k.dim(1) + group), *query = q.row<float>(t * q.dim(1) + group),
                *value = v.row<float>(t * heads() + h);
    std::vector<float> u(value, value + V);
    for (int64_t e = 0; beta.present() && e < V; ++e) {
      double foretold = 0;
      for (int64_t c = 0; c < K; ++c) foretold += key[c] * std::exp(decay(t, h, c)) * m.S[size_t(c * V + e)];
      u[size_t(e)] = float(beta.row<float>(t)[h] * (value[e] - foretold));
    }
    take(m, key, u.data(), [&](int64_t c) { return decay(t, h, c); });
    double norm = 0;
    for (int64_t c = 0; c < K; ++c) norm += scale * double(query[c]) * m.z[size_t(c)];
    for (int64_t e = 0; e < V; ++e) {
      double sum = 0;
      for (int64_t c = 0; c < K; ++c) sum += query[c] * m.S[size_t(c * V + e)];
      o.row<float>(t * heads() + h)[e] = float(scale * sum / (z.present() ? norm + 1e-10 : 1));
    }
    if (h % (heads() / k.dim(1)) == 0) std::copy(key, key + K, pool_row(rows_k, id, row, group));
    std::copy(u.begin(), u.end(), pool_row(rows_u, id, row, h));
    for (int64_t c = 0; rows_g.present() && c < rows_g.dim(3); ++c) pool_row(rows_g, id, row, h)[c] = float(decay(t, h, c));
  }
};

}  // namespace folio
