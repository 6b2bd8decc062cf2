// SPDX-License-Identifier: MIT
// Multi-head latent attention (MLA: DeepSeek-V2, arXiv 2405.04434). A token leaves one row for all heads, the latent c and a rotated key
// r; each head makes its key and its value from c by matrices of its own. The same numbers come out of two orders of work:
//
//   absorbed   q·k_up once a query, attention of all heads over the latents themselves (keys R + dr wide, values R), v_up on what comes
//              out: 2·(2R + dr) operations for a query, key and head, and a row is read once for all heads         decoding
//   expanded   k_up·c and v_up·c once a key, then plain attention: 2·(dn + dr + dv) for a query, key and head, and
//              2·R·(dn + dv) for a key and head                                                                    prompts
#pragma once
#include <cmath>
#include <limits>
#include <vector>

#include "base/worker.h"
#include "graph/graph.h"

namespace folio {

// o[t,h,:] = Σ_j softmax_j(s(t,h,j)) · (v_up[h]·c_j)      lse[t,h] = log Σ_j exp(s(t,h,j))
// s = scale · (q[t,h,:]·(k_up[h]·c_j) + q_rope[t,h,:]·r_j)   with c_j | r_j = latent[page[b, j/64], j%64]
// over the tokens j ≤ pos[t] of t's own sequence b; a page id −1 holds no tokens. Padding tokens (seq −1) put out o = 0, lse = −∞.
struct Mla {
  static constexpr const char* name = "mla";
  Tensor q;         // [T, H, dn] f32
  Tensor q_rope;    // [T, H, dr] f32, rotated
  Tensor latent;    // [N, 64, 1, R + dr]   the layer's pool: f32, f16, bf16 or q8_0
  Tensor page;      // [B, most] i32        page ids of each sequence
  Tensor seq, pos;  // [T] i32              whose token, and where
  Tensor k_up;      // [H, dn, R] any format
  Tensor v_up;      // [H, dv, R] any format
  float scale = 1;
  bool expand = false;   // which of the two orders; it changes no more than the last digits
  Tensor o;         // [T, H, dv] f32
  Tensor lse;       // [T, H] f32

  void visit(auto& v) {
    v.in("q", q); v.in("q_rope", q_rope); v.in("latent", latent); v.in("page", page); v.in("seq", seq); v.in("pos", pos);
    v.in("k_up", k_up); v.in("v_up", v_up);
    v.attr("scale", scale); v.attr("expand", expand);
    v.out("o", o); v.out("lse", lse);
  }
  void shape() {
    check(q.type == F32 && q.rank() == 3 && q_rope.type == F32 && q_rope.rank() == 3 && q.dim(0) == q_rope.dim(0) && q.dim(1) == q_rope.dim(1),
          "mla: q is ", q.shape.text(), ", q_rope ", q_rope.shape.text());
    check(k_up.rank() == 3 && v_up.rank() == 3 && k_up.dim(0) == q.dim(1) && k_up.dim(1) == q.dim(2) && v_up.dim(0) == q.dim(1) &&
          k_up.cols() == v_up.cols() && format(k_up.type).to_float && format(v_up.type).to_float, "mla: q is ", q.shape.text(), ", k_up ",
          k_up.shape.text(), ", v_up ", v_up.shape.text());
    check(latent.rank() == 4 && latent.dim(1) == page_tokens && latent.dim(2) == 1 && latent.dim(3) == rank() + q_rope.cols() &&
          (latent.type == F32 || latent.type == F16 || latent.type == BF16 || latent.type == Q8_0) && rank() % format(latent.type).block == 0,
          "mla: latent is ", format(latent.type).name, " ", latent.shape.text(), ", k_up ", k_up.shape.text(), ", q_rope ", q_rope.shape.text());
    check(page.type == I32 && page.rank() == 2 && seq.type == I32 && pos.type == I32 && seq.shape == pos.shape && seq.dim(0) == q.dim(0),
          "mla: page is ", page.shape.text(), ", seq ", seq.shape.text(), ", pos ", pos.shape.text());
    o = Tensor::of(F32, {q.dim(0), q.dim(1), v_up.dim(1)});
    lse = Tensor::of(F32, {q.dim(0), q.dim(1)});
  }
  int64_t rank() const { return k_up.cols(); }

  // From how many new tokens of a sequence on expanding is less work, however long the text before them; 171 at DeepSeek-V3's sizes.
  static int64_t crossover(int64_t rank, int64_t nope, int64_t value) {
    const int64_t spared = 2 * rank - nope - value;   // of a query, key and head, against rank·(nope + value) of a key and head
    return spared > 0 ? (rank * (nope + value) + spared - 1) / spared : std::numeric_limits<int64_t>::max();
  }

  // Expanded, in double.
  void reference(Worker worker) const {
    for (int64_t h : worker.share(q.dim(1))) {
      for (int64_t b = 0; b < page.dim(0); ++b) one_head(h, b);
      for (int64_t t = 0; t < q.dim(0); ++t) {
        if (seq.at<int32_t>()[t] >= 0) continue;
        std::fill_n(o.row<float>(t * q.dim(1) + h), o.cols(), 0.0f);
        lse.row<float>(t)[h] = -std::numeric_limits<float>::infinity();
      }
    }
  }

 private:
  // One head's key (dn + dr numbers) and value (dv) of each token that a sequence's tokens look back on.
  struct Expanded {
    std::vector<double> keys, values;
    std::vector<bool> there;
  };
  Expanded expanded(int64_t h, int64_t b, int64_t count) const {
    const int64_t R = rank(), dn = q.cols(), dr = q_rope.cols(), dv = v_up.dim(1);
    Expanded to{std::vector<double>(size_t(count * (dn + dr))), std::vector<double>(size_t(count * dv)), std::vector<bool>(size_t(count))};
    std::vector<float> row(static_cast<size_t>(R + dr)), up(static_cast<size_t>((dn + dv) * R));
    for (int64_t d = 0; d < dn; ++d) format(k_up.type).to_float(k_up.row_bytes(h * dn + d), &up[size_t(d * R)], R);
    for (int64_t d = 0; d < dv; ++d) format(v_up.type).to_float(v_up.row_bytes(h * dv + d), &up[size_t((dn + d) * R)], R);
    for (int64_t j = 0; j < count; ++j) {
      const int64_t id = page.row<int32_t>(b)[j / page_tokens];
      if (id < 0) continue;
      to.there[size_t(j)] = true;
      format(latent.type).to_float(latent.row_bytes(id * page_tokens + j % page_tokens), row.data(), R + dr);
      for (int64_t d = 0; d < dn + dv; ++d) {
        double sum = 0;
        for (int64_t r = 0; r < R; ++r) sum += double(up[size_t(d * R + r)]) * row[size_t(r)];
        (d < dn ? to.keys[size_t(j * (dn + dr) + d)] : to.values[size_t(j * dv + d - dn)]) = sum;
      }
      for (int64_t d = 0; d < dr; ++d) to.keys[size_t(j * (dn + dr) + dn + d)] = row[size_t(R + d)];
    }
    return to;
  }
  void one_head(int64_t h, int64_t b) const {
    const int64_t dn = q.cols(), dr = q_rope.cols(), dv = v_up.dim(1), heads = q.dim(1);
    int64_t count = 0;
    for (int64_t t = 0; t < q.dim(0); ++t)
      if (seq.at<int32_t>()[t] == b) count = std::max<int64_t>(count, pos.at<int32_t>()[t] + 1);
    const Expanded all = expanded(h, b, count);
    std::vector<double> s(static_cast<size_t>(count)), sum(static_cast<size_t>(dv));
    for (int64_t t = 0; t < q.dim(0); ++t) {
      if (seq.at<int32_t>()[t] != b) continue;
      const int64_t end = pos.at<int32_t>()[t] + 1;
      double most = -std::numeric_limits<double>::infinity(), total = 0;
      for (int64_t j = 0; j < end; ++j) {
        const double* key = &all.keys[size_t(j * (dn + dr))];
        double dot = 0;
        for (int64_t d = 0; d < dn; ++d) dot += q.row<float>(t * heads + h)[d] * key[d];
        for (int64_t d = 0; d < dr; ++d) dot += q_rope.row<float>(t * heads + h)[d] * key[dn + d];
        s[size_t(j)] = all.there[size_t(j)] ? scale * dot : -std::numeric_limits<double>::infinity();
        most = s[size_t(j)] <= most ? most : s[size_t(j)];   // NaN goes on
      }
      std::fill(sum.begin(), sum.end(), 0.0);
      for (int64_t j = 0; j < end; ++j) {
        if (!all.there[size_t(j)]) continue;
        const double p = std::exp(s[size_t(j)] - most);
        total += p;
        for (int64_t d = 0; d < dv; ++d) sum[size_t(d)] += p * all.values[size_t(j * dv + d)];
      }
      const bool none = total == 0;
      for (int64_t d = 0; d < dv; ++d) o.row<float>(t * heads + h)[d] = none ? 0 : float(sum[size_t(d)] / total);
      lse.row<float>(t)[h] = none ? -std::numeric_limits<float>::infinity() : float(most + std::log(total));
    }
  }
};

}  // namespace folio
