// SPDX-License-Identifier: MIT
// Cases of Mesa. Pool rows and slabs that hold nothing of a sequence are NaN: who reads them is found out. Keys are normalised, slabs
// are what some tokens would have left. The kernels' rounding may cost a round more or less near the tolerance, and then the result
// differs by about the tolerance: `allowed` says so.
#include <algorithm>

#include "frame.h"

namespace folio {

// Sequences of these lengths, of each of which the last `fresh` tokens are the step's, then `padding` tokens that belong to nobody.
struct MesaWish {
  std::vector<int> lengths;
  int fresh = 1, heads = 2, keys = 16, values = 16, padding = 0;
  bool hard = false;        // nearly collinear keys and hardly any decay
  bool kept = true;         // whether the slabs of pages that fill are
  float tolerance = 1e-4f;
  int cap = 30, mode = 0;
};

// Vectors of length one.
static Tensor directions(Inputs& in, const Shape& shape, bool hard) {
  Tensor t = in.normal(shape, F32, hard ? 0.3 : 1);
  for (int64_t i = 0; i < t.rows(); ++i) {
    float* x = t.row<float>(i);
    double square = 1e-6;
    for (int64_t c = 0; c < t.cols(); ++c) x[c] += hard ? 1 : 0, square += double(x[c]) * x[c];
    for (int64_t c = 0; c < t.cols(); ++c) x[c] = float(x[c] / std::sqrt(square));
  }
  return t;
}

static Tensor poisoned(Inputs& in, const Shape& shape) {
  Tensor t = in.store().zeros(F32, shape);
  poison(F32, t.data, t.count());
  return t;
}

// What some tokens left: Σ c kᵀk and Σ c kᵀv.
static void fill_slab(Inputs& in, const Mesa& op, const MesaWish& wish, int64_t id) {
  constexpr int tokens = 40;
  for (int64_t h = 0; h < wish.heads; ++h) {
    const Tensor key = directions(in, {tokens, wish.keys}, wish.hard), value = in.normal({tokens, wish.values});
    for (int64_t c = 0; c < wish.keys; ++c) {
      float *kk = Mesa::slab_row(op.Hkk, id, h, c), *kv = Mesa::slab_row(op.Hkv, id, h, c);
      std::fill_n(kk, wish.keys, 0.0f), std::fill_n(kv, wish.values, 0.0f);
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t e = 0; e < wish.keys; ++e) kk[e] += 0.3f * (key.row<float>(t)[c] * key.row<float>(t)[e]);
        for (int64_t e = 0; e < wish.values; ++e) kv[e] += 0.3f * (key.row<float>(t)[c] * value.row<float>(t)[e]);
      }
    }
  }
}

// Rows 0 .. count − 1 of a page, as earlier steps left them.
static void fill_rows(Inputs& in, const Mesa& op, const MesaWish& wish, int64_t id, int64_t count) {
  for (int64_t h = 0; h < wish.heads; ++h) {
    if (count == 0) return;
    const Tensor key = directions(in, {count, wish.keys}, wish.hard), value = in.normal({count, wish.values});
    for (int64_t row = 0; row < count; ++row) {
      std::copy_n(key.row<float>(row), wish.keys, Mesa::pool_row(op.rows_k, id, row, h));
      std::copy_n(value.row<float>(row), wish.values, Mesa::pool_row(op.rows_v, id, row, h));
      *Mesa::pool_row(op.rows_g, id, row, h) = -float((wish.hard ? 1e-3 : 0.2) * in.random().uniform());
      *Mesa::pool_row(op.rows_beta, id, row, h) = float(in.random().uniform());
    }
  }
}

static Mesa mesa(Inputs& in, const MesaWish& wish) {
  std::vector<int32_t> seq, pos;
  int64_t most = 1, pages = 2;
  for (size_t b = 0; b < wish.lengths.size(); ++b) {
    for (int j = std::max(0, wish.lengths[b] - wish.fresh); j < wish.lengths[b]; ++j) seq.push_back(int32_t(b)), pos.push_back(j);
    const int64_t used = (wish.lengths[b] + page_tokens - 1) / page_tokens;
    most = std::max(most, used + 1), pages += used;
  }
  seq.insert(seq.end(), size_t(wish.padding), -1);
  pos.insert(pos.end(), size_t(wish.padding), 0);
  const auto T = int64_t(seq.size()), B = int64_t(wish.lengths.size());
  const int64_t H = wish.heads, K = wish.keys, V = wish.values;
  const int32_t *rows = in.shuffled({pages}).at<int32_t>(), *slabs = in.shuffled({pages}).at<int32_t>();
  Mesa op{.q = directions(in, {T, H, K}, false), .k = directions(in, {T, H, K}, wish.hard), .v = in.normal({T, H, V}),
          .g = in.uniform(wish.hard ? -1e-3 : -0.2, 0, {T, H}), .beta = in.uniform(0, 1, {T, H}), .lambda = in.uniform(0.25, 1.25, {H, K}),
          .page = in.ints({B, most}, std::vector<int32_t>(size_t(B * most), -1)), .seq = in.ints({T}, seq), .pos = in.ints({T}, pos),
          .rows_k = poisoned(in, {pages, page_tokens, H, K}), .rows_v = poisoned(in, {pages, page_tokens, H, V}),
          .rows_g = poisoned(in, {pages, page_tokens, H, 1}), .rows_beta = poisoned(in, {pages, page_tokens, H, 1}),
          .Hkk = poisoned(in, {pages, H, K, K}), .Hkv = poisoned(in, {pages, H, K, V}),
          .tolerance = wish.tolerance, .cap = wish.cap, .mode = wish.mode};
  op.slab = in.store().copy(op.page);
  for (int64_t b = 0; b < B; ++b) {
    const int64_t length = wish.lengths[size_t(b)], first = std::max<int64_t>(0, length - wish.fresh), p = first / page_tokens;
    for (int64_t i = p; i * page_tokens < length; ++i) {
      op.page.row<int32_t>(b)[i] = *rows++;
      op.slab.row<int32_t>(b)[i] = wish.kept ? *slabs++ : -1;
    }
    fill_rows(in, op, wish, op.page.row<int32_t>(b)[p], first % page_tokens);
    if (p > 0) fill_slab(in, op, wish, op.slab.row<int32_t>(b)[p - 1] = *slabs++);
  }
  return op;
}

// For o `tolerance` and some rounding of the largest result. float32 may take a round more than double, or three where the problem is hard.
static std::vector<Tensor> allowed(Inputs& in, Mesa op, bool hard = false) {
  for (Tensor* pool : {&op.rows_k, &op.rows_v, &op.rows_g, &op.rows_beta, &op.Hkk, &op.Hkv}) *pool = in.store().copy(*pool);
  op.shape();
  op.o = in.store().zeros(F32, op.o.shape);
  op.iterations = in.store().zeros(I32, op.iterations.shape);
  op.reference(Worker{});
  double largest = 0;
  for (double x : elements(op.o)) largest = std::max(largest, std::fabs(x));
  Tensor o = in.store().zeros(F32, op.o.shape), rounds = in.store().zeros(F32, op.iterations.shape);
  std::fill_n(o.at<float>(), o.count(), float((op.mode == 0 ? 2 * op.tolerance : 0) + 1e-5) * float(largest));
  std::fill_n(rounds.at<float>(), rounds.count(), op.mode > 0 ? 0 : hard ? 3.0f : 1.0f);
  return {o, rounds};
}

// One head, K = 2, V = 1, two tokens. The first is solved by its start; for the second A = [1.11 .48; .48 1.64], whose determinant is
// 1.59, so x = (1.64, −.48)/1.59; two dimensions take two rounds.
static void by_hand(CaseList<Mesa>& list) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  auto pool = [&](const Shape& shape, const std::vector<float>& rows) {
    std::vector<float> all(size_t(shape.count()), nan);
    std::copy(rows.begin(), rows.end(), all.begin());
    return list.values(shape, all);
  };
  const Mesa op{.q = list.values({2, 1, 2}, {0.6f, 0.8f, 1, 0}), .k = list.values({2, 1, 2}, {1, 0, 0.6f, 0.8f}),
                .v = list.values({2, 1, 1}, {3, 2}), .g = list.values({2, 1}, {-0.3f, -0.693147181f}),
                .beta = list.values({2, 1}, {0.5f, 1}), .lambda = list.values({1, 2}, {0.5f, 1}), .page = list.ints({1, 1}, {0}),
                .slab = list.ints({1, 1}, {0}), .seq = list.ints({2}, {0, 0}), .pos = list.ints({2}, {0, 1}),
                .rows_k = pool({1, 64, 1, 2}, {}), .rows_v = pool({1, 64, 1, 1}, {}), .rows_g = pool({1, 64, 1, 1}, {}),
                .rows_beta = pool({1, 64, 1, 1}, {}), .Hkk = pool({1, 1, 2, 2}, {}), .Hkv = pool({1, 1, 2, 1}, {}), .tolerance = 1e-6f};
  list.known(op, {list.values({2, 1, 1}, {0.9f, 1.52830189f}), list.ints({2, 1}, {0, 2}), pool({1, 64, 1, 2}, {1, 0, 0.6f, 0.8f}),
                  pool({1, 64, 1, 1}, {3, 2}), pool({1, 64, 1, 1}, {-0.3f, -0.693147181f}), pool({1, 64, 1, 1}, {0.5f, 1}),
                  pool({1, 1, 2, 2}, {}), pool({1, 1, 2, 1}, {})});
}

CASES(Mesa) {
  by_hand(*this);
  auto wish = [&](const MesaWish& w) {
    const Mesa op = mesa(*this, w);
    add(op, allowed(*this, op, w.hard));
  };
  for (int length : {1, 2, 7, 64, 65, 129}) wish({.lengths = {length}, .fresh = length});   // a prompt
  for (int length : {2, 63, 64, 65, 128, 130}) wish({.lengths = {length}});                 // a token
  for (int fresh : {3, 17, 70}) wish({.lengths = {200}, .fresh = fresh, .heads = 3});       // drafts, a part of a prompt
  wish({.lengths = {5, 64, 150, 1}, .fresh = 5, .padding = 3});
  wish({.lengths = {64, 200}, .fresh = 90, .heads = 1, .padding = 1, .kept = false});
  wish({.lengths = {70}, .fresh = 9, .keys = 5, .values = 3});
  wish({.lengths = {67}, .fresh = 66, .keys = 33, .values = 50, .tolerance = 1e-6f});
  wish({.lengths = {140, 13}, .fresh = 20, .keys = 20, .values = 7, .tolerance = 1e-3f});
  wish({.lengths = {128}, .fresh = 11, .heads = 1, .keys = 1, .values = 1});
  for (int mode : {1, 2, 3})
    for (int fresh : {1, 40}) wish({.lengths = {150, 30}, .fresh = fresh, .keys = 24, .values = 18, .mode = mode});
  for (int cap : {0, 3}) wish({.lengths = {90}, .fresh = 12, .tolerance = 0, .cap = cap});
  wish({.lengths = {130}, .fresh = 40, .keys = 32, .values = 32, .hard = true});
  wish({.lengths = {192, 100}, .fresh = 65, .keys = 64, .values = 64});
  wish({.lengths = {131}, .fresh = 5, .keys = 128, .values = 128});
  Mesa silent = mesa(*this, {.lengths = {66}, .fresh = 4});   // queries and keys of zeros
  std::fill_n(silent.q.row<float>(2), 2 * silent.q.cols(), 0.0f);
  std::fill_n(silent.k.row<float>(4), 2 * silent.k.cols(), 0.0f);
  add(silent, allowed(*this, silent));
}

}  // namespace folio
