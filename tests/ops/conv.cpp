// SPDX-License-Identifier: MIT
// Cases of convolutions: every kind there is, channels and pixels on both sides of every tile and block.
#include "cases.h"

namespace folio {

// What sums in f32, in any order, may be off: a share of what they would be if nothing cancelled.
template <class Op>
static Tensor allowed(Inputs& in, Op op) {
  auto sizes = [&](Tensor& t) {
    if (!t.present()) return;
    Tensor all = in.store().zeros(F32, t.shape);
    for (int64_t i = 0; i < t.rows(); ++i) {
      format(t.type).to_float(t.row_bytes(i), all.row<float>(i), t.cols());
      for (int64_t c = 0; c < t.cols(); ++c) all.row<float>(i)[c] = 1e-6f * std::fabs(all.row<float>(i)[c]);
    }
    t = all;
  };
  if constexpr (std::is_same_v<Op, Conv>) sizes(op.add), sizes(op.past);
  sizes(op.x), sizes(op.w), sizes(op.bias);
  const Tensor w = op.w;
  for (int64_t i = 0; i < w.count(); ++i) w.at<float>()[i] *= 1e6f;   // of x·w only one is a share
  op.act = Act::none;
  op.shape();
  op.y = in.store().zeros(F32, op.y.shape);
  op.reference({});
  return op.y;
}

// Which tensors there are: bits of `parts`. features 0: depthwise.
static Conv random_op(Inputs& in, const Shape& x, int64_t features, Extent kernel, Extent pad, int parts = 1, Act act = Act::none,
                      DType type = F32) {
  const int64_t taps = kernel.t * kernel.h * kernel.w;
  const double scale = 1 / std::sqrt(double(taps * (features ? x[3] : 1)));
  Conv op{.x = in.normal(x), .kernel = kernel, .pad = pad, .act = act};
  op.w = features ? in.normal({taps, x[3], features}, type, scale) : in.normal({taps, x[3]}, type, scale);
  if (parts & 1) op.bias = in.normal({op.w.cols()});
  Conv shaped = op;
  shaped.shape();
  if (parts & 2) op.add = in.normal(shaped.y.shape);
  return op;
}
// The same with `grow` and `up`.
static Conv in_phases(Inputs& in, Conv op, int grow, int up) {
  op.grow = grow, op.up = up;
  const Shape taps = op.w.shape;
  op.w = op.depthwise() ? in.normal({taps[0] * op.phases(), taps[1]}) : in.normal({taps[0] * op.phases(), taps[1], taps[2]});
  Conv shaped = op;
  shaped.add = {};
  shaped.shape();
  if (op.add.present()) op.add = in.normal(shaped.y.shape);
  return op;
}
// Causal, with a past.
static Conv going_on(Inputs& in, Conv op) {
  op.causal = true;
  op.past = in.normal({op.pad.t, op.x.dim(1), op.x.dim(2), op.x.cols()});
  Conv shaped = op;
  shaped.add = {};
  shaped.shape();
  if (op.add.present()) op.add = in.normal(shaped.y.shape);
  return op;
}

static void known_convolutions(CaseList<Conv>& list) {
  auto of = [&](const Shape& shape, const std::vector<float>& numbers) { return list.values(shape, numbers); };
  // Along a row of 1 2 3, with a zero on either side: 210 321 32.
  list.known({.x = of({1, 1, 3, 1}, {1, 2, 3}), .w = of({3, 1, 1}, {1, 10, 100}), .bias = of({1}, {0.5f}),
              .add = of({1, 1, 3, 1}, {0, -1000, 0}), .kernel = {1, 1, 3}, .pad = {0, 0, 1}, .act = Act::relu},
             {of({1, 1, 3, 1}, {210.5f, 0, 32.5f})});
  // Frames 3 4 behind a past of 2, which becomes 4.
  list.known({.x = of({2, 1, 1, 1}, {3, 4}), .w = of({2, 1, 1}, {10, 1}), .past = of({1, 1, 1, 1}, {2}), .kernel = {2, 1, 1},
              .pad = {1, 0, 0}, .causal = true},
             {of({2, 1, 1, 1}, {23, 34}), of({1, 1, 1, 1}, {4})});
  // One frame behind a past of two: the younger of them becomes the older.
  list.known({.x = of({1, 1, 1, 1}, {7}), .w = of({3, 1, 1}, {100, 10, 1}), .past = of({2, 1, 1, 1}, {2, 5}), .kernel = {3, 1, 1},
              .pad = {2, 0, 0}, .causal = true},
             {of({1, 1, 1, 1}, {257}), of({2, 1, 1, 1}, {5, 7})});
  // A pixel enlarged to four, then a 3×3 of ones: each of the four sees all four.
  list.known({.x = of({1, 1, 1, 1}, {1}), .w = of({16, 1, 1}, {1, 2, 2, 4, 2, 1, 4, 2, 2, 4, 1, 2, 4, 2, 2, 1}), .kernel = {1, 2, 2},
              .pad = {0, 1, 1}, .up = 2},
             {of({1, 2, 2, 1}, {4, 4, 4, 4})});
  list.known({.x = of({1, 1, 1, 1}, {5}), .w = of({2, 1, 1}, {2, 3}), .grow = 2}, {of({2, 1, 1, 1}, {10, 15})});
  list.known({.x = of({1, 1, 2, 2}, {1, 2, 3, 4}), .w = of({2, 2}, {1, 10, 100, 1000}), .kernel = {1, 1, 2}},
             {of({1, 1, 1, 2}, {301, 4020})});
  // Rows 1 and 2 are inside; the others get no bias either.
  list.known({.x = of({1, 4, 1, 1}, {1, 2, 3, 4}), .w = of({1, 1, 1}, {10}), .bias = of({1}, {7}), .window = list.ints({2}, {1, 3})},
             {of({1, 4, 1, 1}, {0, 27, 37, 0})});
}

CASES(Conv) {
  auto put = [this](const Conv& op) { add(op, {allowed(*this, op)}); };
  known_convolutions(*this);
  for (int64_t features : {1, 2, 3, 4, 6, 8, 9, 16, 31, 64, 72}) put(random_op(*this, {1, 4, 7, 5}, features, {1, 3, 3}, {0, 1, 1}));
  for (int64_t channels : {1, 4, 16, 33, 70})   // blocks of inputs end anywhere
    for (int64_t features : {3, 24}) put(random_op(*this, {1, 3, 5, channels}, features, {1, 3, 3}, {0, 1, 1}, 3, Act::relu));
  for (int64_t width : {1, 12, 13, 50, 131})
    for (int64_t features : {3, 8, 20}) put(random_op(*this, {1, 3, width, 8}, features, {1, 3, 3}, {0, 1, 1}, 2));
  for (Act act : {Act::relu2, Act::silu, Act::gelu_tanh})
    put(random_op(*this, {1, 5, 6, 8}, act == Act::silu ? 3 : 40, {1, 3, 3}, {0, 1, 1}, 3, act));
  for (DType type : {F16, BF16})
    for (int64_t features : {3, 40, 0}) put(random_op(*this, {1, 4, 9, 12}, features, {1, 3, 3}, {0, 1, 1}, 1, Act::none, type));
  for (int64_t features : {0, 3, 24})
    for (int kind = 0; kind < 6; ++kind) {
      Conv op = random_op(*this, {4, 5, 14, 8}, features, {3, 3, 2}, {1, 1, 1}, kind % 4, kind % 2 ? Act::relu : Act::none);
      if (kind == 1) op.stride = {1, 2, 2}, op.add = {};
      if (kind == 2) op = going_on(*this, op);
      if (kind == 3) op.stride = {2, 3, 1}, op.add = {};
      if (kind == 4) op = in_phases(*this, op, 2, 2);
      if (kind == 5) op.window = ints({2}, {1, 3});
      put(op);
    }
  // Bands: rows that are all outside; phases cut by the edge.
  for (const auto& edge : std::vector<std::vector<int32_t>>{{0, 0}, {3, 6}, {-5, 100}}) {
    Conv op = in_phases(*this, random_op(*this, {2, 5, 7, 8}, edge[0] ? 3 : 24, {1, 2, 2}, {0, 0, 1}), 1, 2);
    op.window = ints({2}, edge);
    put(op);
  }
  // Fewer frames than the past has.
  put(going_on(*this, in_phases(*this, random_op(*this, {1, 4, 7, 8}, 24, {3, 2, 2}, {2, 1, 1}, 3, Act::silu), 2, 2)));
  put(going_on(*this, random_op(*this, {3, 4, 7, 8}, 0, {2, 7, 7}, {1, 3, 3}, 3)));
  put(random_op(*this, {2, 9, 20, 48}, 40, {1, 1, 1}, {0, 0, 0}, 3, Act::relu));
  Conv pool = random_op(*this, {4, 6, 8, 16}, 16, {2, 1, 1}, {0, 0, 0}, 0);
  pool.stride = {2, 1, 1};
  put(pool);
  put(random_op(*this, {1, 40, 120, 16}, 24, {1, 3, 3}, {0, 1, 1}));   // several chunks
  put(random_op(*this, {9, 9, 60, 8}, 3, {3, 3, 3}, {1, 1, 1}));
}

CASES(ConvTranspose) {
  // Two pixels, two places apart: 1·w, then 2·w two further on.
  known({.x = values({1, 1, 2, 1}, {1, 2}), .w = values({3, 1, 1}, {1, 10, 100}), .bias = values({1}, {0.5f}), .kernel = {1, 1, 3},
         .stride = {1, 1, 2}},
        {values({1, 1, 5, 1}, {1.5f, 10.5f, 102.5f, 20.5f, 200.5f})});
  for (int64_t features : {1, 3, 16}) {
    for (DType type : {F32, BF16}) {
      const ConvTranspose op{.x = normal({3, 4, 5, 8}), .w = normal({16, 8, features}, type, 0.2), .bias = normal({features}),
                             .kernel = {1, 4, 4}, .stride = {1, 2, 2}, .pad = {0, 1, 1}, .act = Act::silu};
      add(op, {allowed(*this, op)});
    }
    const ConvTranspose op{.x = normal({3, 4, 5, 6}), .w = normal({18, 6, features}), .kernel = {2, 3, 3}, .stride = {2, 1, 3},
                           .pad = {1, 0, 1}};
    add(op, {allowed(*this, op)});
  }
}

}  // namespace folio
