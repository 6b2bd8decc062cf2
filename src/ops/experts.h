// SPDX-License-Identifier: MIT
// Mixture of experts (arXiv 1701.06538, 2401.04088): of E feed-forwards a token meets k, which a router chooses for it, and their outputs
// are added with the router's weights. Three ops: Route chooses, ExpertMatmul is Matmul with a matrix chosen for each pair of a token and
// a slot (weights of experts that nobody chose are never read), Combine adds up.
//
//   logits [T,E] → Route → chosen, weight [T,k]      x [T,C] → ExpertMatmul → h [T,k,F] → ExpertMatmul → y [T,k,C] → Combine → [T,C]
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "base/draw.h"
#include "ops/elementwise.h"

namespace folio {

enum class Scoring : int { softmax, sigmoid };   // how a logit becomes a weight

// s = scoring(logits[t,:]), key = s + bias;  chosen[t,:] = the k largest keys, largest first, of equal ones the lower index;
// weight = s[chosen], if normalise / (Σ s[chosen] + 1e−20), · scale.  The bias serves the choice alone (DeepSeek-V3, arXiv 2412.19437).
// With groups, experts stand in groups of E/groups, ranked by the sum of their `group_best` largest keys, and only the `kept` best groups
// have candidates (1: DeepSeek-V2's group-limited greedy, arXiv 2405.04434; 2: V3's). Softmax over the chosen alone is softmax, normalised.
// Where neither bias nor a sum is asked for the logit is the key: the same order, without rounding. NaN is the least of all keys.
struct Route {
  static constexpr const char* name = "route";
  Tensor logits;  // [T, E] f32
  Tensor bias;    // [E] f32, may be absent
  Tensor place;   // [T] i32, may be absent: negative is padding, which chooses −1 with weight 0
  Scoring scoring = Scoring::softmax;
  int k = 1, groups = 1, kept = 1, group_best = 1;
  bool normalise = false;
  float scale = 1;
  Tensor chosen;  // [T, k] i32
  Tensor weight;  // [T, k] f32

  void visit(auto& v) {
    v.in("logits", logits); v.in("bias", bias); v.in("place", place); v.attr("scoring", int(scoring)); v.attr("k", k);
    v.attr("groups", groups); v.attr("kept", kept); v.attr("group_best", group_best); v.attr("normalise", normalise);
    v.attr("scale", scale); v.out("chosen", chosen); v.out("weight", weight);
  }
  void shape() {
    check(logits.type == F32 && logits.rank() == 2, "route: logits are ", logits.shape.text());
    const int64_t experts = logits.cols();
    check(groups >= 1 && experts % groups == 0 && kept >= 1 && kept <= groups && group_best >= 1 && group_best <= 2 &&
          group_best <= experts / groups && k >= 1 && k <= experts / groups * kept, "route: k ", k, " of ", experts, " experts, ", kept,
          " of ", groups, " groups, ranked by ", group_best);
    check(!bias.present() || (bias.type == F32 && bias.shape == Shape{experts}), "route: ", experts, " experts, bias ", bias.shape.text());
    check(!place.present() || (place.type == I32 && place.shape == Shape{logits.dim(0)}), "route: logits are ", logits.shape.text(),
          ", place ", place.shape.text());
    chosen = Tensor::of(I32, {logits.dim(0), k});
    weight = Tensor::of(F32, {logits.dim(0), k});
  }
  bool by_logit() const { return !bias.present() && (group_best == 1 || kept == groups); }
  void reference(Worker worker) const {
    std::vector<float> score(static_cast<size_t>(logits.cols()));
    std::vector<uint64_t> code(score.size());
    for (int64_t t : worker.share(logits.dim(0))) {
      int32_t* ids = chosen.row<int32_t>(t);
      float* weights = weight.row<float>(t);
      std::fill(ids, ids + k, -1);
      std::fill(weights, weights + k, 0.0f);
      if (place.present() && place.at<int32_t>()[t] < 0) continue;
      scores(logits.row<float>(t), score);
      for (size_t e = 0; e < code.size(); ++e) {
        const float key = by_logit() ? logits.row<float>(t)[e] : bias.present() ? score[e] + bias.at<float>()[e] : score[e];
        code[e] = code_of(key, int(e));
      }
      if (kept < groups) drop_groups(code);
      float sum = 0;
      for (int i = 0; i < k; ++i) {
        ids[i] = take_largest(code);
        sum += weights[i] = score[size_t(ids[i])];
      }
      for (int i = 0; i < k; ++i) weights[i] = (normalise ? weights[i] / (sum + 1e-20f) : weights[i]) * scale;
    }
  }

 private:
  void scores(const float* x, std::vector<float>& s) const {
    if (scoring == Scoring::sigmoid) {
      for (size_t e = 0; e < s.size(); ++e) s[e] = 1 / (1 + std::exp(-x[e]));
      return;
    }
    const float most = *std::max_element(x, x + s.size());
    double sum = 0;
    for (size_t e = 0; e < s.size(); ++e) sum += double(s[e] = std::exp(x[e] - most));
    for (float& v : s) v = float(double(v) / sum);
  }
  // The index of the largest code (base/draw.h: an ascending code of key and index; 0 is none), which becomes 0.
  static int take_largest(std::vector<uint64_t>& code) {
    const auto best = std::max_element(code.begin(), code.end());
    const int index = token_of(*best);
    *best = 0;
    return index;
  }
  void drop_groups(std::vector<uint64_t>& code) const {
    const size_t each = code.size() / size_t(groups);
    std::vector<uint64_t> rank(static_cast<size_t>(groups));
    for (size_t g = 0; g < rank.size(); ++g) {
      uint64_t first = 0, second = 0;
      for (size_t i = g * each; i < (g + 1) * each; ++i) {
        second = std::max(second, std::min(first, code[i]));
        first = std::max(first, code[i]);
      }
      rank[g] = code_of(group_best == 2 ? logit_of(first) + logit_of(second) : logit_of(first), int(g));
    }
    for (int i = 0; i < kept; ++i) take_largest(rank);
    for (size_t g = 0; g < rank.size(); ++g)
      if (rank[g] != 0) std::fill_n(code.begin() + int64_t(g * each), each, uint64_t(0));
  }
};

// The pairs p = t·k + j of a token and a slot, by expert: those of expert e are pair[first[e]] .. pair[first[e + 1] − 1], ascending. Ids
// that name no expert stand nowhere. `first` has E + 1 places, `pair` T·k.
inline void order_pairs(const Tensor& chosen, int64_t experts, int32_t* first, int32_t* pair) {
  const int64_t k = chosen.cols();
  const auto each = [&](auto f) {
    for (int64_t p = 0; p < chosen.count(); ++p) {
      const int32_t e = chosen.row<int32_t>(p / k)[p % k];
      if (e >= 0 && e < experts) f(e, int32_t(p));
    }
  };
  std::fill(first, first + experts + 1, 0);
  each([&](int32_t e, int32_t) { ++first[e + 1]; });
  for (int64_t e = 0; e < experts; ++e) first[e + 1] += first[e];
  each([&](int32_t e, int32_t p) { pair[first[e]++] = p; });
  for (int64_t e = experts; e > 0; --e) first[e] = first[e - 1];
  first[0] = 0;
}

// Of expert e = chosen[t,j], for x[t,:] or x[t,j,:]:  u = x·w[e]ᵀ + bias[e];  without gate: y[t,j,:] = act(u);
// with gate: y = act(x·gate[e]ᵀ + gate_bias[e]) ⊙ beside(act, u).  An id that names no expert gives zeros.
struct ExpertMatmul {
  static constexpr const char* name = "expert_matmul";
  Tensor x;          // [T, K] f32, the same for all experts of a token, or [T, k, K]
  Tensor chosen;     // [T, k] i32
  Tensor w;          // [E, N, K] any format
  Tensor bias;       // [E, N] f32, may be absent
  Tensor gate;       // [E, N, K] like w, may be absent
  Tensor gate_bias;  // [E, N] f32, may be absent
  Act act = Act::none;
  Tensor y;          // [T, k, N] f32

  void visit(auto& v) {
    v.in("x", x); v.in("chosen", chosen); v.in("w", w); v.in("bias", bias); v.in("gate", gate); v.in("gate_bias", gate_bias);
    v.attr("act", int(act));
    v.out("y", y);
  }
  void shape() {
    check(chosen.type == I32 && chosen.rank() == 2 && x.type == F32 && x.rank() >= 2 && x.rank() <= 3 && x.dim(0) == chosen.dim(0) &&
          (x.rank() == 2 || x.dim(1) == chosen.dim(1)), "expert_matmul: x is ", x.shape.text(), ", chosen ", chosen.shape.text());
    check(w.rank() == 3 && w.cols() == x.cols() && format(w.type).to_float, "expert_matmul: x is ", x.shape.text(), ", w ",
          format(w.type).name, " ", w.shape.text());
    const Shape features = {w.dim(0), w.dim(1)};
    check(!bias.present() || (bias.type == F32 && bias.shape == features), "expert_matmul: w is ", w.shape.text(), ", bias ", bias.shape.text());
    check(!gate.present() || (gate.type == w.type && gate.shape == w.shape), "expert_matmul: w is ", format(w.type).name, " ",
          w.shape.text(), ", gate ", format(gate.type).name, " ", gate.shape.text());
    check(!gate_bias.present() || (gate.present() && gate_bias.type == F32 && gate_bias.shape == features), "expert_matmul: gate_bias is ",
          gate_bias.shape.text());
    y = Tensor::of(F32, {x.dim(0), chosen.dim(1), w.dim(1)});
  }
  const float* token(int64_t pair) const { return x.row<float>(x.rank() == 3 ? pair : pair / chosen.cols()); }
  void reference(Worker worker) const {
    const int64_t experts = w.dim(0), features = w.dim(1);
    std::vector<int32_t> first(size_t(experts + 1)), pair(size_t(chosen.count()));
    order_pairs(chosen, experts, first.data(), pair.data());
    std::vector<float> row(static_cast<size_t>(w.cols())), gate_row(row.size());
    auto product = [&](const std::vector<float>& weights, const Tensor& b, int64_t e, int64_t n, const float* token) {
      double sum = b.present() ? b.row<float>(e)[n] : 0;
      for (size_t k = 0; k < weights.size(); ++k) sum += double(token[k]) * weights[k];
      return float(sum);
    };
    for (int64_t n : worker.share(features)) {
      for (int64_t p = 0; p < chosen.count(); ++p) y.row<float>(p)[n] = 0;
      for (int64_t e = 0; e < experts; ++e) {
        if (first[size_t(e)] == first[size_t(e + 1)]) continue;
        format(w.type).to_float(w.row_bytes(e * features + n), row.data(), w.cols());
        if (gate.present()) format(gate.type).to_float(gate.row_bytes(e * features + n), gate_row.data(), gate.cols());
        for (int32_t i = first[size_t(e)]; i < first[size_t(e + 1)]; ++i) {
          const int32_t p = pair[size_t(i)];
          const float u = product(row, bias, e, n, token(p));
          y.row<float>(p)[n] = gate.present() ? activate(act, product(gate_row, gate_bias, e, n, token(p))) * beside(act, u) : activate(act, u);
        }
      }
    }
  }
};

// out[t,:] = add[t,:] + sigmoid(gate[t])·shared[t,:] + Σ_j weight[t,j]·y[t,j,:], in that order; what is absent is zero.
struct Combine {
  static constexpr const char* name = "combine";
  Tensor y;       // [T, k, C] f32
  Tensor weight;  // [T, k] f32
  Tensor add;     // [T, C] f32, may be absent: the residual
  Tensor shared;  // [T, C] f32, may be absent: of an expert that all tokens meet, and
  Tensor gate;    // [T, 1] f32, with it: how far
  Tensor out;     // [T, C] f32

  void visit(auto& v) {
    v.in("y", y); v.in("weight", weight); v.in("add", add); v.in("shared", shared); v.in("gate", gate);
    v.out("out", out, &add);
  }
  void shape() {
    check(y.type == F32 && y.rank() == 3 && weight.type == F32 && weight.shape == Shape({y.dim(0), y.dim(1)}), "combine: y is ",
          y.shape.text(), ", weight ", weight.shape.text());
    out = Tensor::of(F32, {y.dim(0), y.dim(2)});
    check(!add.present() || (add.type == F32 && add.shape == out.shape), "combine: y is ", y.shape.text(), ", add ", add.shape.text());
    check(shared.present() == gate.present() && (!shared.present() || (shared.type == F32 && shared.shape == out.shape && gate.type == F32 &&
          gate.shape == Shape({y.dim(0), 1}))), "combine: y is ", y.shape.text(), ", shared ", shared.shape.text(), ", gate ", gate.shape.text());
  }
  void reference(Worker worker) const {
    const int64_t k = y.dim(1), cols = y.dim(2);
    for (int64_t t : worker.share(y.dim(0))) {
      float* to = out.row<float>(t);
      if (add.present()) std::memmove(to, add.row<float>(t), size_t(cols) * sizeof(float));
      else std::memset(to, 0, size_t(cols) * sizeof(float));
      const auto plus = [&](float factor, const float* from) {
        for (int64_t c = 0; c < cols; ++c) to[c] += factor * from[c];
      };
      if (shared.present()) plus(1 / (1 + std::exp(-gate.row<float>(t)[0])), shared.row<float>(t));
      for (int64_t j = 0; j < k; ++j) plus(weight.row<float>(t)[j], y.row<float>(t * k + j));
    }
  }
};

}  // namespace folio
