// SPDX-License-Identifier: MIT
// The token that follows each row of logits, drawn where the logits are. run/sampler.h describes the pipeline, base/draw.h has its
// arithmetic; here it is written down the plain way, over a sorted list. Whatever may differ from step to step is an input.
#pragma once
#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "base/draw.h"
#include "base/worker.h"
#include "graph/graph.h"

namespace folio {

// token[r] = argmax over the tokens v that are left over of (logit'[v] − max logit')/temperature + gumbel(seed[r], position[r], v), ties to
// the lowest id; logit' are the row's logits after penalties of the tokens `seen` and the biases, and left over are those that top-k,
// typical, top-p and min-p keep, in this order. Temperature 0: argmax of logit'. −1 where no logit' is a number.
struct Sample {
  static constexpr const char* name = "sample";
  Tensor logits;    // [R, V] f32; NaN counts as −∞
  Tensor options;   // [R, 7] f32   DrawOptions
  Tensor place;     // [R, 5] i32   DrawPlace
  Tensor seen;      // [R, P, 2] i32, P > 0, or absent: a token that is penalised, once, and how often it was seen; token −1: none
  Tensor biased;    // [R, B] i32, B > 0, or absent: tokens, equal ones next to each other; −1: none
  Tensor bias;      // [R, B] f32, what is added to each; absent with `biased`
  Tensor token;     // [R] i32

  void visit(auto& v) {
    v.in("logits", logits); v.in("options", options); v.in("place", place);
    v.in("seen", seen); v.in("biased", biased); v.in("bias", bias);
    v.out("token", token);
  }
  void shape() {
    check(logits.type == F32 && logits.rank() == 2 && logits.cols() > 0 && logits.cols() < int64_t(1) << 31, "sample: logits are ", logits.shape.text());
    const int64_t rows = logits.dim(0);
    auto fits = [](const Tensor& t, DType type, const Shape& shape) { return t.type == type && t.shape == shape && t.contiguous(); };
    check(fits(options, F32, {rows, draw_options}) && fits(place, I32, {rows, draw_places}), "sample: logits are ", logits.shape.text(),
          ", options ", options.shape.text(), ", place ", place.shape.text(), "; expected [R,7] and [R,5], contiguous");
    check(!seen.present() || (seen.rank() == 3 && fits(seen, I32, {rows, seen.dim(1), 2})), "sample: seen is ", seen.shape.text(),
          ", expected [R,P,2], contiguous");
    check(biased.present() == bias.present(), "sample: biased tokens without biases, or biases without tokens");
    check(!bias.present() || (bias.rank() == 2 && fits(bias, F32, {rows, bias.cols()}) && fits(biased, I32, bias.shape)), "sample: biased is ",
          biased.shape.text(), ", bias ", bias.shape.text(), ", expected [R,B] twice, contiguous");
    token = Tensor::of(I32, {rows});
  }
  void reference(Worker w) const {
    for (int64_t r : w.share(logits.dim(0))) token.at<int32_t>()[r] = draw(processed(r), r);
  }

 private:
  // Penalties and biases; codes of what is a number, the likeliest first.
  std::vector<uint64_t> processed(int64_t r) const {
    const int64_t vocab = logits.cols();
    const DrawOptions o = options_of(r);
    std::vector<float> x(logits.row<float>(r), logits.row<float>(r) + vocab);
    for (float& logit : x) logit = usable(logit);
    for (int64_t i = 0; seen.present() && i < seen.dim(1); ++i) {
      const int32_t* pair = seen.row<int32_t>(r * seen.dim(1) + i);
      if (pair[0] >= 0 && pair[0] < vocab) x[size_t(pair[0])] = penalised(x[size_t(pair[0])], pair[1], o);
    }
    for (int64_t i = 0; bias.present() && i < bias.cols(); ++i) {
      const int32_t v = biased.row<int32_t>(r)[i];
      if (v >= 0 && v < vocab) x[size_t(v)] = folio::biased(x[size_t(v)], bias.row<float>(r)[i]);
    }
    std::vector<uint64_t> codes;
    for (int64_t v = 0; v < vocab; ++v)
      if (const uint64_t code = code_of(x[size_t(v)], int(v)); code >= lowest_code) codes.push_back(code);
    std::sort(codes.rbegin(), codes.rend());
    return codes;
  }
  int32_t draw(std::vector<uint64_t> left, int64_t r) const {
    const DrawOptions o = options_of(r);
    DrawPlace p;
    std::memcpy(&p, place.row<int32_t>(r), sizeof p);
    if (left.empty()) return -1;
    if (o.temperature == 0) return token_of(left[0]);
    if (p.top_k > 0 && size_t(p.top_k) < left.size()) left.resize(size_t(p.top_k));
    if (o.typical < 1) keep_typical(left, o.typical);
    if (o.top_p < 1) keep_mass(left, o.top_p, logit_of(left[0]));
    const float highest = logit_of(left[0]), least = o.min_p > 0 ? least_of(highest, o.min_p) : -INFINITY;
    const uint64_t seed = uint64_t(p.seed_high) << 32 | p.seed_low, position = uint64_t(p.position_high) << 32 | p.position_low;
    uint64_t best = 0;
    for (uint64_t code : left) {
      if (!(logit_of(code) >= least)) continue;
      const float noise = gumbel(seed, position, uint32_t(token_of(code)));
      best = std::max(best, code_of(draw_of(logit_of(code), highest, o.temperature, noise), token_of(code)));
    }
    return token_of(best);
  }
  // The shortest beginning of the list that holds that share of its mass.
  static void keep_mass(std::vector<uint64_t>& list, float share, float highest) {
    uint64_t whole = 0, held = 0;
    for (uint64_t code : list) whole += mass_of(highest - logit_of(code));
    const uint64_t need = need_of(share, whole);
    for (size_t i = 0; i < list.size(); ++i)
      if ((held += mass_of(highest - logit_of(list[i]))) >= need) return list.resize(i + 1);
  }
  static void keep_typical(std::vector<uint64_t>& list, float share) {
    const float highest = logit_of(list[0]);
    uint64_t masses = 0, moments = 0;
    for (uint64_t code : list) {
      const float below = highest - logit_of(code);
      masses += mass_of(below), moments += moment_of(below, mass_of(below));
    }
    const float mean = mean_of(moments, masses);
    auto nearness = [=](uint64_t code) { return nearness_of(highest - logit_of(code), mean, token_of(code)); };
    std::sort(list.begin(), list.end(), [&](uint64_t a, uint64_t b) { return nearness(a) > nearness(b); });
    keep_mass(list, share, highest);
    std::sort(list.rbegin(), list.rend());
  }
  DrawOptions options_of(int64_t r) const {
    DrawOptions o;
    std::memcpy(&o, options.row<float>(r), sizeof o);
    return o;
  }
};

}  // namespace folio
