// SPDX-License-Identifier: MIT
#include "models/experts.h"

#include "models/mixers/mixer.h"

namespace folio {

// The router's rule, checked as the op would, but in the file's words.
static Route read_route(const FfnSource& s, int64_t experts) {
  const Weights& w = s.weights;
  const std::string& p = s.profile;
  const std::string scoring = w.text(p + "scoring");
  check(scoring == "softmax" || scoring == "sigmoid", w.path(), ": '", p, "scoring' is '", scoring, "', expected softmax or sigmoid");
  const int64_t groups = w.integer(p + "groups", 1), kept = w.integer(p + "groups_kept", groups), best = w.integer(p + "group_best", 1);
  const int64_t k = size_in(w, p + "chosen");
  check(groups >= 1 && experts % groups == 0, w.path(), ": '", p, "groups' is ", groups, ", which does not divide ", experts, " experts");
  check(kept >= 1 && kept <= groups, w.path(), ": '", p, "groups_kept' is ", kept, " of ", groups, " groups");
  check(best >= 1 && best <= std::min<int64_t>(2, experts / groups), w.path(), ": '", p, "group_best' is ", best, " with ",
        experts / groups, " experts in a group, expected 1 or 2");
  check(k <= experts / groups * kept, w.path(), ": '", p, "chosen' is ", k, " of ", experts / groups * kept, " experts that may be chosen");
  Route route;
  route.scoring = scoring == "sigmoid" ? Scoring::sigmoid : Scoring::softmax;
  route.k = int(k), route.groups = int(groups), route.kept = int(kept), route.group_best = int(best);
  route.normalise = w.integer(p + "normalise", 0) != 0;
  route.scale = float(w.real(p + "scale", 1));
  if (w.integer(p + "bias", 0)) route.bias = w.get(s.layer + "router.bias", {experts});
  return route;
}

Experts::Experts(const FfnSource& s)
    : experts_(size_in(s.weights, s.profile + "experts", 1 << 12)), route_(read_route(s, experts_)), act_(read_act(s)) {
  const Weights& w = s.weights;
  const int64_t width = size_in(w, s.profile + "dim");
  router_ = w.get(s.layer + "router.weight", {experts_, s.dim});
  if (w.find(s.layer + "router.logit_bias").present()) router_bias_ = w.get(s.layer + "router.logit_bias", {experts_});
  up_ = stack(s, "up", width, s.dim);
  up_bias_ = stack_bias(s, "up", width);
  if (w.integer(s.profile + "gated")) {
    gate_ = stack(s, "gate", width, s.dim);
    gate_bias_ = stack_bias(s, "gate", width);
  }
  down_ = stack(s, "down", s.dim, width);
  down_bias_ = stack_bias(s, "down", s.dim);
  if (w.integer(s.profile + "shared", 0) == 0) return;
  shared_ = std::make_unique<DenseFfn>(FfnSource{w, s.profile, s.layer + "shared.", s.dim}, size_in(w, s.profile + "shared"));
  if (w.integer(s.profile + "shared_gate", 0)) shared_gate_ = w.get(s.layer + "shared_gate.weight", {1, s.dim});
}

Tensor Experts::stack(const FfnSource& s, const std::string& name, int64_t rows, int64_t columns) const {
  return s.weights.get(s.layer + "experts." + name + ".weight", {experts_, rows, columns});
}
Tensor Experts::stack_bias(const FfnSource& s, const std::string& name, int64_t rows) const {
  const std::string full = s.layer + "experts." + name + ".bias";
  return s.weights.find(full).present() ? s.weights.get(full, {experts_, rows}) : Tensor();
}

Tensor Experts::forward(Tensor x, Tensor residual, Tensor place) const {
  Graph& graph = *x.graph;
  Route route = route_;
  route.logits = graph.record(Matmul{.x = x, .w = router_, .bias = router_bias_}).y;
  route.place = place;
  route = graph.record(route);
  const ExpertMatmul up{.x = x, .chosen = route.chosen, .w = up_, .bias = up_bias_, .gate = gate_, .gate_bias = gate_bias_, .act = act_};
  const Tensor h = graph.record(up).y;                                                                              // [T, k, F]
  const Tensor y = graph.record(ExpertMatmul{.x = h, .chosen = route.chosen, .w = down_, .bias = down_bias_}).y;    // [T, k, C]
  Combine sum{.y = y, .weight = route.weight, .add = residual};
  if (shared_gate_.present()) sum.shared = shared_->forward(x, {}, place), sum.gate = matmul(x, shared_gate_);
  else if (shared_) sum.add = shared_->forward(x, residual, place);
  return graph.record(sum).out;
}

// Of a stack, as much as the experts of one token have.
static int64_t part(int64_t whole, int64_t chosen, int64_t experts) { return whole / experts * chosen; }

int64_t Experts::weight_bytes() const {
  const int64_t shared = shared_ ? shared_->weight_bytes() + (shared_gate_.present() ? shared_gate_.bytes() : 0) : 0;
  return router_.bytes() + part(up_.bytes() + (gate_.present() ? gate_.bytes() : 0) + down_.bytes(), route_.k, experts_) + shared;
}
int64_t Experts::weight_count() const {
  const int64_t shared = shared_ ? shared_->weight_count() + (shared_gate_.present() ? shared_gate_.count() : 0) : 0;
  return router_.count() + part(up_.count() + (gate_.present() ? gate_.count() : 0) + down_.count(), route_.k, experts_) + shared;
}

}  // namespace folio
