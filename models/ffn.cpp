// SPDX-License-Identifier: MIT
#include "models/ffn.h"

#include <map>

#include "models/experts.h"
#include "models/mixers/mixer.h"

namespace folio {

Act read_act(const FfnSource& s) {
  static const std::map<std::string, Act> acts = {{"relu", Act::relu}, {"relu2", Act::relu2}, {"silu", Act::silu}, {"gelu", Act::gelu},
                                                  {"gelu_tanh", Act::gelu_tanh}, {"swiglu_oai", Act::swiglu_oai}};
  const std::string name = s.weights.text(s.profile + "act");
  const auto found = acts.find(name);
  check(found != acts.end(), s.weights.path(), ": activation '", name, "' is not known; known are: silu, gelu, gelu_tanh, relu, relu2, swiglu_oai");
  return found->second;
}

std::unique_ptr<Ffn> make_ffn(const FfnSource& s) {
  const std::string kind = s.weights.text(s.profile + "kind");
  if (kind == "none") return nullptr;
  if (kind == "dense") return std::make_unique<DenseFfn>(s, size_in(s.weights, s.profile + "dim"));
  if (kind == "experts") return std::make_unique<Experts>(s);
  fail(s.weights.path(), ": ffn kind '", kind, "' is not known; known are: dense, experts, none");
}

DenseFfn::DenseFfn(const FfnSource& s, int64_t width) : act_(read_act(s)) {
  const Weights& w = s.weights;
  up_ = w.get(s.layer + "up.weight", {width, s.dim});
  down_ = w.get(s.layer + "down.weight", {s.dim, width});
  up_bias_ = w.find(s.layer + "up.bias");
  down_bias_ = w.find(s.layer + "down.bias");
  if (w.integer(s.profile + "gated")) {
    gate_ = w.get(s.layer + "gate.weight", {width, s.dim});
    gate_bias_ = w.find(s.layer + "gate.bias");
  }
}

Tensor DenseFfn::forward(Tensor x, Tensor residual, Tensor) const {
  Graph& graph = *x.graph;
  const Matmul up{.x = x, .w = up_, .bias = up_bias_, .gate = gate_, .gate_bias = gate_bias_, .act = act_};
  const Tensor h = graph.record(up).y;   // [T, F]
  return graph.record(Matmul{.x = h, .w = down_, .bias = down_bias_, .add = residual}).y;
}

}  // namespace folio
