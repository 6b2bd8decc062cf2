// SPDX-License-Identifier: MIT
#include "models/decoder.h"

#include <algorithm>

namespace folio {

Decoder::Decoder(const Weights& w) : dim_(size_in(w, "dim")), vocab_(size_in(w, "vocab")), context_(size_in(w, "context", 1 << 30)) {
  embed_scale_ = float(w.real("embed.scale", 1));
  logit_scale_ = float(w.real("logit.scale", 1));
  logit_softcap_ = float(w.real("logit.softcap", 0));
  embed_ = w.get("embed.weight", {vocab_, dim_});
  head_ = w.find("head.weight").present() ? w.get("head.weight", {vocab_, dim_}) : embed_;
  const std::string positions = w.text("embed.positions", "none");
  check(positions == "none" || positions == "learned", w.path(), ": positions '", positions, "', expected none or learned");
  if (positions == "learned") positions_ = w.get("embed.positions", {context_, dim_});

  const int64_t layers = size_in(w, "layers", 1 << 16);
  const auto mixers = w.integers("layer.mixer"), ffns = w.integers("layer.ffn");
  check(int64_t(mixers.size()) == layers && int64_t(ffns.size()) == layers, w.path(), ": ", layers, " layers, but layer.mixer has ", mixers.size(),
        " entries and layer.ffn ", ffns.size());
  for (int64_t l = 0; l < layers; ++l) {
    const std::string layer = join("layer.", l, ".");
    layers_.push_back({.norm_mix = norm(w, layer + "norm_mix"), .norm_ffn = {},
                       .mixer = make_mixer({w, join("mixer.", mixers[size_t(l)], "."), layer + "mix.", dim_}),
                       .ffn = make_ffn({w, join("ffn.", ffns[size_t(l)], "."), layer + "ffn.", dim_})});
    if (layers_.back().ffn) layers_.back().norm_ffn = norm(w, layer + "norm_ffn");
  }
  norm_out_ = norm(w, "norm_out");
}

Decoder::Norm Decoder::norm(const Weights& w, const std::string& name) const {
  const std::string kind = w.text("norm.kind");
  check(kind == "rms" || kind == "layer", w.path(), ": norm '", kind, "', expected rms or layer");
  return {.weight = w.get(name + ".weight", {dim_}), .bias = w.find(name + ".bias"), .centred = kind == "layer", .eps = float(w.real("norm.eps"))};
}

Tensor Decoder::Norm::operator()(Tensor x) const { return centred ? layer_norm(x, weight, bias, eps) : rms_norm(x, weight, eps); }

StateSpec Decoder::state(DType rows) const {
  StateSpec spec;
  for (const Layer& layer : layers_) spec.push_back(layer.mixer->state(rows));
  return spec;
}

int64_t Decoder::reach() const {
  int64_t least = INT64_MAX;
  for (const Layer& layer : layers_) least = std::min(least, layer.mixer->reach());
  return least;
}

int64_t Decoder::weight_bytes() const {
  int64_t bytes = head_.bytes();
  for (const Layer& layer : layers_) bytes += layer.mixer->weight_bytes() + (layer.ffn ? layer.ffn->weight_bytes() : 0);
  return bytes;
}

int64_t Decoder::flops_per_token() const {
  int64_t weights = head_.count();
  for (const Layer& layer : layers_) weights += layer.mixer->weight_count() + (layer.ffn ? layer.ffn->weight_count() : 0);
  return 2 * weights;
}

Tensor Decoder::logits(const Step& step, const Memory& memory) const {
  Graph& graph = *step.graph;
  graph.scope("embed");
  Tensor x = embed(step.token, embed_, embed_scale_);   // [T, C]
  if (positions_.present()) x = add(x, embed(step.pos, positions_));
  for (size_t l = 0; l < layers_.size(); ++l) {
    const Layer& layer = layers_[l];
    graph.scope(join("layer.", l, ".mix"));
    x = layer.mixer->extend(layer.norm_mix(x), x, memory.layers[l], step);
    graph.scope(join("layer.", l, ".ffn"));
    const bool last = l + 1 == layers_.size();
    if (last) x = gather(x, step.wanted);   // nobody reads the other places any more
    if (layer.ffn) x = layer.ffn->forward(layer.norm_ffn(x), x, last ? step.wanted : step.seq);
  }
  graph.scope("head");
  Tensor y = matmul(norm_out_(x), head_);               // [W, V]
  if (logit_scale_ != 1) y = scale(y, logit_scale_);
  if (logit_softcap_ > 0) y = softcap(y, logit_softcap_);
  return y;
}

Tensor Decoder::draw(Tensor logits, const DrawInputs& in) const {
  logits.graph->scope("draw");
  return logits.graph->record(Sample{.logits = logits, .options = in.options, .place = in.place, .seen = in.seen, .biased = in.biased,
                                     .bias = in.bias}).token;
}

}  // namespace folio
