// SPDX-License-Identifier: MIT
// Cases of Mla, each in both orders of work. Pool rows that hold no token of the sequence are NaN: a kernel that lets them into a sum,
// were it with weight zero, is found out.
#include <algorithm>
#include <numeric>

#include "frame.h"
#include "pages.h"

namespace folio {

namespace {

struct Wish {
  std::vector<int> lengths;
  int fresh = 1, heads = 4, rank = 32, nope = 16, rope = 8, value = 16, padding = 0;
  DType rows = F32, weights = F32;
  bool shuffle = false;
};

Mla mla(Inputs& in, const Wish& wish) {
  const Pages text(in, {wish.lengths, wish.fresh, wish.padding, wish.shuffle});
  const int64_t T = text.seq.dim(0);
  const double each = 1 / std::sqrt(double(wish.rank));
  return {.q = in.normal({T, wish.heads, wish.nope}), .q_rope = in.normal({T, wish.heads, wish.rope}),
          .latent = text.pool(in, wish.rows, 1, wish.rank + wish.rope), .page = text.page, .seq = text.seq, .pos = text.pos,
          .k_up = in.normal({wish.heads, wish.nope, wish.rank}, wish.weights, each),
          .v_up = in.normal({wish.heads, wish.value, wish.rank}, wish.weights, each), .scale = 1 / std::sqrt(float(wish.nope + wish.rope))};
}

// Errors of f32 sums in any order and of a fast exponential. The longest chains of numbers are q·k_up·c and v_up·c: a logit moves by some
// 2e-7 of Σ|q|·|k_up|·|c| + Σ|q_rope·r|, a weight by as much of itself, and the result by that much of the largest Σ|v_up·c|.
std::vector<Tensor> allowed(Inputs& in, const Mla& op) {
  const int64_t T = op.q.dim(0), H = op.q.dim(1), R = op.rank(), dn = op.q.cols(), dr = op.q_rope.cols(), dv = op.v_up.dim(1);
  auto sizes = [](const Tensor& t) {
    std::vector<double> all = elements(t);
    for (double& x : all) x = std::fabs(x);
    return all;
  };
  const std::vector<double> q = sizes(op.q), q_rope = sizes(op.q_rope), rows = sizes(op.latent), k_up = sizes(op.k_up), v_up = sizes(op.v_up);
  Tensor o = in.store().zeros(F32, {T, H, dv}), lse = in.store().zeros(F32, {T, H});
  for (int64_t item = 0; item < T * H; ++item) {
    const int64_t t = item / H, h = item % H, b = op.seq.at<int32_t>()[t];
    if (b < 0) continue;
    std::vector<double> absorbed(static_cast<size_t>(R)), most(static_cast<size_t>(dv));
    for (int64_t d = 0; d < dn; ++d)
      for (int64_t r = 0; r < R; ++r) absorbed[size_t(r)] += q[size_t(item * dn + d)] * k_up[size_t((h * dn + d) * R + r)];
    double sum = 1;
    for (int64_t j = 0; j <= op.pos.at<int32_t>()[t]; ++j) {
      const int64_t id = op.page.row<int32_t>(b)[j / page_tokens];
      if (id < 0) continue;
      const double* row = &rows[size_t((id * page_tokens + j % page_tokens) * (R + dr))];
      double dot = std::inner_product(absorbed.begin(), absorbed.end(), row, 0.0);
      for (int64_t d = 0; d < dr; ++d) dot += q_rope[size_t(item * dr + d)] * row[R + d];
      sum = std::max(sum, dot * op.scale);
      for (int64_t d = 0; d < dv; ++d)
        most[size_t(d)] = std::max(most[size_t(d)], std::inner_product(row, row + R, &v_up[size_t((h * dv + d) * R)], 0.0));
    }
    lse.row<float>(t)[h] = float(2e-7 * sum);
    for (int64_t d = 0; d < dv; ++d) o.row<float>(item)[d] = float(2e-7 * sum * most[size_t(d)]);
  }
  return {o, lse};
}

// One head, R = 2, dn = dr = dv = 1, keys in page 1: c = (1, 2), (3, −1), (0, 1), r = 1, 0, 2. k_up = (1, −1), v_up = (2, 1), scale ½.
// Keys (−1, 1), (4, 0), (−1, 2), values 4, 5, 1. Queries at places 1 and 2: (1, 2) gives the logits ½, 2; (−1, 1) gives 1, −2, 3/2.
// o = (4·e^½ + 5·e²)/(e^½ + e²) and (4·e + 5·e^−2 + e^1.5)/(e + e^−2 + e^1.5).
Mla by_hand(Inputs& in) {
  std::vector<float> rows(2 * 64 * 3, std::numeric_limits<float>::quiet_NaN());
  const std::vector<float> three = {1, 2, 1, 3, -1, 0, 0, 1, 2};
  std::copy(three.begin(), three.end(), rows.begin() + 64 * 3);
  return {.q = in.values({3, 1, 1}, {1, -1, 7}), .q_rope = in.values({3, 1, 1}, {2, 1, 7}), .latent = in.values({2, 64, 1, 3}, rows),
          .page = in.ints({1, 2}, {1, -1}), .seq = in.ints({3}, {0, 0, -1}), .pos = in.ints({3}, {1, 2, 0}), .k_up = in.values({1, 1, 2}, {1, -1}),
          .v_up = in.values({1, 1, 2}, {2, 1}), .scale = 0.5f};
}

}  // namespace

CASES(Mla) {
  auto put = [this](const Wish& wish) {
    for (bool expand : {false, true}) {
      Mla op = mla(*this, wish);
      op.expand = expand;
      add(op, allowed(*this, op));
    }
  };
  for (bool expand : {false, true}) {
    Mla op = by_hand(*this);
    op.expand = expand;
    const float none = -std::numeric_limits<float>::infinity();
    known(op, {values({3, 1, 1}, {4.81757448f, 2.18552469f, 0}), values({3, 1}, {2.20141328f, 1.99269915f, none})});
  }
  for (DType rows : {F32, F16, BF16, Q8_0}) {
    const Wish wish = {.lengths = {70}, .rope = rows == Q8_0 ? 32 : 8, .rows = rows};
    auto with = [&](auto change) {
      Wish changed = wish;
      change(changed);
      put(changed);
    };
    for (int length : {1, 7, 64, 65, 129}) with([&](Wish& w) { w.lengths = {length}; });                                   // decoding
    for (int fresh : {7, 64, 65, 129}) with([&](Wish& w) { w.lengths = {130}, w.fresh = fresh, w.heads = 2; });             // prompts
    with([](Wish& w) { w.lengths = {5, 64, 1, 129}, w.fresh = 3, w.padding = 2; });                                        // a batch
    with([](Wish& w) { w.lengths = {30, 70}, w.fresh = 20, w.padding = 3, w.shuffle = true; });
    with([](Wish& w) { w.lengths = {600}, w.heads = 16; });                                                                // far on
    with([](Wish& w) { w.fresh = 3, w.heads = 3, w.nope = 5, w.value = 7; });                                              // odd sizes
    with([](Wish& w) { w.lengths = {40}, w.fresh = 13, w.heads = 1, w.rank = 96, w.nope = 40, w.value = 72; });
  }
  put({.lengths = {50}, .fresh = 5, .heads = 3, .rank = 13, .nope = 3, .rope = 2, .value = 1});
  put({.lengths = {100}, .fresh = 9, .heads = 2, .rank = 70, .nope = 33, .rope = 6, .value = 17, .rows = F16});
  for (DType weights : {F16, BF16, Q8_0, Q4_0, F8_E4M3})
    for (int fresh : {1, 20})
      put({.lengths = {70}, .fresh = fresh, .heads = 2, .rank = 64, .nope = 24, .rope = 16, .value = 40, .rows = F16, .weights = weights});
  // A real model's sizes, and more tokens than are absorbed at a time.
  put({.lengths = {70}, .fresh = 2, .heads = 2, .rank = 512, .nope = 128, .rope = 64, .value = 128, .rows = F16, .weights = Q8_0});
  put({.lengths = {200}, .fresh = 150, .heads = 1, .rank = 64, .nope = 32, .rope = 16, .value = 32, .rows = F16});
  for (bool expand : {false, true}) {
    Mla op = mla(*this, {.lengths = {190}, .fresh = 4});
    op.page.row<int32_t>(0)[1] = -1;   // a page that is gone
    op.expand = expand;
    add(op, allowed(*this, op));
    op = mla(*this, {.lengths = {130}, .fresh = 2});
    op.q = normal({2, 4, 16}, F32, 30);   // sharp: weights of one key
    op.expand = expand;
    add(op, allowed(*this, op));
  }
}

}  // namespace folio
