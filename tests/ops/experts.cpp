// SPDX-License-Identifier: MIT
// Cases of experts: the router's rules worked out by hand and on random scores; products of all formats with experts that all tokens
// choose, that nobody chooses, and padding that chooses none; sums.
#include "compare.h"
#include "rounding.h"

namespace folio {

static constexpr float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();

CASES(Route) {
  // Softmax of log 1 .. log 4 is 0.1 .. 0.4. Then: over the chosen alone, scaled; equal logits by ascending index; padding.
  const Tensor x = values({1, 4}, {0, 0.693147181f, 1.09861229f, 1.38629436f});
  known({.logits = x, .k = 2}, {ints({1, 2}, {3, 2}), values({1, 2}, {0.4f, 0.3f})});
  known({.logits = x, .k = 2, .normalise = true, .scale = 7}, {ints({1, 2}, {3, 2}), values({1, 2}, {4, 3})});
  known({.logits = values({1, 4}, {1, 1, 1, 1}), .k = 3}, {ints({1, 3}, {0, 1, 2}), values({1, 3}, {0.25f, 0.25f, 0.25f})});
  known({.logits = values({2, 2}, {0, 0, 0, 0}), .place = ints({2}, {-1, 5}), .k = 1}, {ints({2, 1}, {-1, 0}), values({2, 1}, {0, 0.5f})});
  // A bias moves the choice and no weight: sigmoid(0) = 0.5 each, expert 2 pushed up, expert 0 down.
  known({.logits = values({1, 3}, {0, 0, 0}), .bias = values({3}, {-1, 0, 2}), .scoring = Scoring::sigmoid, .k = 2},
        {ints({1, 2}, {2, 1}), values({1, 2}, {0.5f, 0.5f})});
  // Three groups of two; the best group by its largest is the last, by the sum of two the first: 0.5 + 0.5 > 0.731 + 0.119.
  const Tensor grouped = values({1, 6}, {0, 0, -2, 0, 1, -2});
  known({.logits = grouped, .scoring = Scoring::sigmoid, .k = 2, .groups = 3, .kept = 1},
        {ints({1, 2}, {4, 5}), values({1, 2}, {0.731058579f, 0.119202922f})});
  known({.logits = grouped, .scoring = Scoring::sigmoid, .k = 2, .groups = 3, .kept = 1, .group_best = 2},
        {ints({1, 2}, {0, 1}), values({1, 2}, {0.5f, 0.5f})});
  known({.logits = values({1, 4}, {5, 5, 5, 5}), .scoring = Scoring::sigmoid, .k = 1, .groups = 2, .kept = 1, .normalise = true},
        {ints({1, 1}, {0}), values({1, 1}, {1})});  // equal groups by ascending index
  // What is not a number comes last, and all ids stay in range.
  known({.logits = values({1, 4}, {nan, 0, nan, 0}), .scoring = Scoring::sigmoid, .k = 4},
        {ints({1, 4}, {1, 3, 0, 2}), values({1, 4}, {0.5f, 0.5f, nan, nan})});
  known({.logits = values({1, 4}, {nan, 0, 1, nan}), .k = 2}, {ints({1, 2}, {2, 1}), values({1, 2}, {nan, nan})});
  known({.logits = values({1, 4}, {nan, nan, nan, nan}), .k = 2, .groups = 2, .kept = 1, .group_best = 2},
        {ints({1, 2}, {0, 1}), values({1, 2}, {nan, nan})});
  known({.logits = values({2, 3}, {-inf, inf, -inf, -inf, 3, -inf}), .scoring = Scoring::sigmoid, .k = 2},
        {ints({2, 2}, {1, 0, 1, 0}), values({2, 2}, {1, 0, 0.952574127f, 0})});
  for (int64_t tokens : {1, 7, 130})
    for (int64_t experts : {4, 16, 60, 64, 256})
      for (int k : {1, 2, 8}) {
        if (k > experts) continue;
        add({.logits = normal({tokens, experts}, F32, 2), .k = k, .normalise = k > 1});
        add({.logits = normal({tokens, experts}), .bias = normal({experts}, F32, 0.3), .scoring = Scoring::sigmoid, .k = k, .scale = 2.5f});
        if (experts % 4 != 0 || 2 * k > experts) continue;
        add({.logits = normal({tokens, experts}, F32, 2), .place = ids(-1, 2, {tokens}), .k = k, .groups = 4, .kept = 2, .scale = 16});
        add({.logits = normal({tokens, experts}), .bias = normal({experts}, F32, 0.3), .place = ids(-1, 2, {tokens}),
             .scoring = Scoring::sigmoid, .k = k, .groups = 4, .kept = 2, .group_best = experts > 4 ? 2 : 1, .normalise = true,
             .scale = 2.5f});
      }
  add({.logits = normal({3, 512}), .scoring = Scoring::sigmoid, .k = 10, .groups = 64, .kept = 40, .group_best = 2, .normalise = true});
}

// k distinct experts for each token.
static Tensor choices(Inputs& in, int64_t tokens, int64_t k, int64_t experts) {
  Tensor t = in.ids(0, 1, {tokens, k});
  std::vector<int32_t> all(static_cast<size_t>(experts));
  for (int64_t i = 0; i < experts; ++i) all[size_t(i)] = int32_t(i);
  for (int64_t i = 0; i < tokens; ++i)
    for (int64_t j = 0; j < k; ++j) {
      std::swap(all[size_t(j)], all[size_t(j + in.random().below(experts - j))]);
      t.row<int32_t>(i)[j] = all[size_t(j)];
    }
  return t;
}

// As rounding.h has it, for the expert of each pair.
static Tensor allowed(Inputs& in, const ExpertMatmul& op) {
  const int64_t k = op.chosen.cols(), features = op.w.dim(1), n = op.w.cols();
  const Row x = elements(op.x), w = elements(op.w), gate = op.gate.present() ? elements(op.gate) : Row();
  auto bias = [](const Tensor& b, int64_t e, int64_t f) { return b.present() ? double(b.row<float>(e)[f]) : 0; };
  Tensor t = in.store().zeros(F32, {op.chosen.dim(0), k, features});
  for (int64_t p = 0; p < op.chosen.count(); ++p) {
    const int64_t e = op.chosen.at<int32_t>()[p];
    if (e < 0 || e >= op.w.dim(0)) continue;
    const double* token = &x[size_t((op.x.rank() == 3 ? p : p / k) * n)];
    const Row error = rounding(token, size_t(n), op.w.type);
    for (int64_t f = 0; f < features; ++f) {
      const size_t row = size_t((e * features + f) * n);
      const Sum u = product(token, error, &w[row], bias(op.bias, e, f));
      if (op.gate.present())
        t.row<float>(p)[f] = float(error_of(op.act, u, through(op.act, product(token, error, &gate[row], bias(op.gate_bias, e, f)))));
      else t.row<float>(p)[f] = float(through(op.act, u).error);
    }
  }
  return t;
}

struct Sizes {
  int64_t tokens, chosen, experts, features, inputs;
};

// `parts` says which of bias, gate, gate_bias, a row of x for each pair are there, as bits.
static ExpertMatmul random_op(Inputs& in, DType type, const Sizes& s, int parts, Act act) {
  const Shape matrix = {s.experts, s.features, s.inputs};
  const double scale = 1 / std::sqrt(double(s.inputs));
  ExpertMatmul op{.x = in.normal(parts & 8 ? Shape{s.tokens, s.chosen, s.inputs} : Shape{s.tokens, s.inputs}),
                  .chosen = choices(in, s.tokens, s.chosen, s.experts), .w = in.normal(matrix, type, scale), .act = act};
  if (parts & 1) op.bias = in.normal({s.experts, s.features});
  if (parts & 2) op.gate = in.normal(matrix, type, scale);
  if ((parts & 6) == 6) op.gate_bias = in.normal({s.experts, s.features});
  return op;
}

CASES(ExpertMatmul) {
  auto put = [this](const ExpertMatmul& op) { add(op, {allowed(*this, op)}); };
  // Experts of one feature: [3,4], [-1,1], [0,2]. Token [1,2] meets the third and the first, [5,6] the second and none.
  const Tensor x = values({2, 2}, {1, 2, 5, 6}), w = values({3, 1, 2}, {3, 4, -1, 1, 0, 2}), chosen = ints({2, 2}, {2, 0, 1, -1});
  known({.x = x, .chosen = chosen, .w = w}, {values({2, 2, 1}, {4, 11, 1, 0})});
  known({.x = x, .chosen = chosen, .w = w, .bias = values({3, 1}, {-12, 1, 0.5f}), .act = Act::relu}, {values({2, 2, 1}, {4.5f, 0, 2, 0})});
  const Tensor gate = values({3, 1, 2}, {1, 0, 0, 0, 1, 0}), gate_bias = values({3, 1}, {0, 3, 1});
  known({.x = x, .chosen = chosen, .w = w, .gate = gate, .gate_bias = gate_bias, .act = Act::relu},
        {values({2, 2, 1}, {8, 11, 3, 0})});
  known({.x = values({1, 2, 2}, {1, 2, 3, 4}), .chosen = ints({1, 2}, {1, 1}), .w = w}, {values({1, 2, 1}, {1, 1})});
  known({.x = x, .chosen = ints({2, 1}, {-1, 3}), .w = w}, {values({2, 1, 1}, {0, 0})});  // none, and one that there is not

  for (DType type : {F32, F16, BF16, Q8_0, Q4_0, F8_E4M3}) {
    const bool blocks = format(type).block > 1;
    auto whole = [&](int64_t k) { return (k + format(type).block - 1) / format(type).block * format(type).block; };
    static constexpr int parts[] = {0, 2, 8, 15, 1, 7, 9, 10};
    static constexpr Act acts[] = {Act::silu, Act::none, Act::gelu, Act::relu2, Act::swiglu_oai};
    static constexpr Sizes sizes[] = {{1, 1, 4, 20, 64}, {1, 8, 64, 12, 64}, {2, 2, 4, 33, 96}, {2, 8, 16, 20, 64}, {7, 2, 5, 37, 64},
                                      {8, 8, 16, 16, 64}, {7, 1, 64, 20, 64}, {64, 1, 4, 20, 64}, {64, 2, 8, 37, 64}, {72, 8, 16, 16, 64},
                                      {130, 2, 4, 40, 64}, {130, 8, 60, 8, 64}};
    int turn = 0;
    for (const Sizes& s : sizes)
      for (int i = 0; i < 2; ++i, ++turn) {
        Sizes now = s;
        now.inputs = blocks || turn % 3 ? whole(s.inputs) : s.inputs - 15;
        put(random_op(*this, type, now, parts[turn % 8], acts[turn % 5]));
      }
    // Rows long enough to be split; tiles of 128 tokens; one expert that all choose beside many that nobody does, and padding.
    put(random_op(*this, type, {1, 2, 3, 7, whole(blocks ? 2112 : 1100)}, 2, Act::silu));
    put(random_op(*this, type, {3, 2, 3, 5, whole(blocks ? 2112 : 1100)}, 8, Act::none));
    for (int which : {0, 2}) put(random_op(*this, type, {200, 1, 2, 136, 64}, which, Act::silu));
    for (int64_t tokens : {5, 40}) {
      ExpertMatmul op = random_op(*this, type, {tokens, 2, 64, 21, 64}, 2, Act::silu);
      for (int64_t t = 0; t < tokens; ++t) op.chosen.row<int32_t>(t)[1] = t % 3 ? 63 : -1, op.chosen.row<int32_t>(t)[0] = t % 5 ? 7 : -1;
      put(op);
      op.chosen = ints({tokens, 2}, std::vector<int32_t>(size_t(2 * tokens), -1));  // a step of padding alone
      put(op);
    }
  }
}

CASES(Combine) {
  const Tensor y = values({1, 2, 2}, {1, 2, 3, 4}), weight = values({1, 2}, {10, -1});
  known({.y = y, .weight = weight}, {values({1, 2}, {7, 16})});
  known({.y = y, .weight = weight, .add = values({1, 2}, {0.5f, 100})}, {values({1, 2}, {7.5f, 116})});
  known({.y = y, .weight = weight, .add = values({1, 2}, {0.5f, 100}), .shared = values({1, 2}, {2, -4}), .gate = values({1, 1}, {0})},
        {values({1, 2}, {8.5f, 114})});
  for (int64_t tokens : {1, 7, 65})
    for (int64_t k : {1, 2, 8})
      for (int64_t cols : {1, 16, 100}) {
        add({.y = normal({tokens, k, cols}), .weight = uniform(0, 1, {tokens, k}), .add = normal({tokens, cols})});
        add({.y = normal({tokens, k, cols}), .weight = uniform(0, 1, {tokens, k}), .add = cols > 1 ? normal({tokens, cols}) : Tensor(),
             .shared = normal({tokens, cols}), .gate = normal({tokens, 1}, F32, 3)});
      }
}

}  // namespace folio
