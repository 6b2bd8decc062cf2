// SPDX-License-Identifier: MIT
#include "models/ffn.h"

#include <map>

#include "models/mixers/mixer.h"

namespace folio {

static Act read_act(const Weights& weights, const std::string& key) {
  static const std::map<std::string, Act> acts = {{"relu", Act::relu}, {"relu2", Act::relu2}, {"silu", Act::silu}, {"gelu", Act::gelu}, {"gelu_tanh", Act::gelu_tanh}};
  const std::string name = weights.text(key);
  const auto found = acts.find(name);
  check(found != acts.end(), weights.path(), ": activation '", name, "' is not known; known are: silu, gelu, gelu_tanh, relu, relu2");
  return found->second;
}

Ffn::Ffn(const Weights& w, const std::string& profile, const std::string& layer, int64_t dim) {
  const std::string kind = w.text(profile + "kind");
  if (kind == "none") return;
  check(kind == "dense", w.path(), ": ffn kind '", kind, "' is not known; known are: dense, none");
  act_ = read_act(w, profile + "act");
  const int64_t width = size_in(w, profile + "dim");
  up_ = w.get(layer + "up.weight", {width, dim});
  down_ = w.get(layer + "down.weight", {dim, width});
  up_bias_ = w.find(layer + "up.bias");
  down_bias_ = w.find(layer + "down.bias");
  if (w.integer(profile + "gated")) {
    gate_ = w.get(layer + "gate.weight", {width, dim});
    gate_bias_ = w.find(layer + "gate.bias");
  }
}

Tensor Ffn::forward(Tensor x, Tensor residual) const {
  Graph& graph = *x.graph;
  const Tensor h = graph.record(Matmul{.x = x, .w = up_, .bias = up_bias_, .gate = gate_, .gate_bias = gate_bias_, .act = act_}).y;   // [T, F]
  return graph.record(Matmul{.x = h, .w = down_, .bias = down_bias_, .add = residual}).y;
}

}  // namespace folio
