// SPDX-License-Identifier: MIT
#include "models/mixers/attention.h"

#include <cmath>

namespace folio {

Attention::Attention(const MixerSource& s) {
  const Weights& w = s.weights;
  heads_ = size_in(w, s.profile + "heads", 1 << 16);
  groups_ = size_in(w, s.profile + "groups", 1 << 16);
  size_ = size_in(w, s.profile + "head_size", 1 << 12);
  check(heads_ % groups_ == 0, w.path(), ": ", heads_, " heads cannot share ", groups_, " key groups");
  window_ = int(w.integer(s.profile + "window", 0));
  sinks_ = int(w.integer(s.profile + "sinks", 0));
  check(window_ >= 0 && sinks_ >= 0, w.path(), ": window ", window_, ", sinks ", sinks_);
  scale_ = float(w.real(s.profile + "scale", 1 / std::sqrt(double(size_))));
  softcap_ = float(w.real(s.profile + "softcap", 0));
  check(softcap_ >= 0, w.path(), ": softcap ", softcap_);
  norm_eps_ = float(w.real("norm.eps"));

  const int64_t rows = (heads_ + 2 * groups_) * size_;
  qkv_ = w.get(s.layer + "qkv.weight", {rows, s.dim});
  out_ = w.get(s.layer + "out.weight", {s.dim, heads_ * size_});
  qkv_bias_ = w.find(s.layer + "qkv.bias");
  out_bias_ = w.find(s.layer + "out.bias");
  if (w.integer(s.profile + "qk_norm", 0)) {
    q_norm_ = w.get(s.layer + "q_norm.weight", {size_});
    k_norm_ = w.get(s.layer + "k_norm.weight", {size_});
  }
  if (w.integer(s.profile + "alibi", 0)) alibi_ = w.get(s.layer + "alibi", {heads_});
  read_rope(s);
}

void Attention::read_rope(const MixerSource& s) {
  const Weights& w = s.weights;
  const std::string style = w.text(s.profile + "rope", "none");
  check(style == "none" || style == "adjacent" || style == "half", w.path(), ": rope '", style, "', expected none, adjacent or half");
  if (style == "none") return;
  half_ = style == "half";
  const int64_t dims = w.integer(s.profile + "rope_dims", size_);
  check(dims >= 2 && dims <= size_ && dims % 2 == 0, w.path(), ": rope over ", dims, " of ", size_, " dimensions");
  RopeScaling scaling;
  const std::string kind = w.text(s.profile + "rope_scaling", "none");
  if (kind == "linear") scaling.kind = RopeScaling::Kind::linear;
  else if (kind == "llama3") scaling.kind = RopeScaling::Kind::llama3;
  else if (kind == "yarn") scaling.kind = RopeScaling::Kind::yarn;
  else check(kind == "none", w.path(), ": rope scaling '", kind, "', expected none, linear, llama3 or yarn");
  if (kind != "none") {
    scaling.factor = w.real(s.profile + "rope_factor");
    check(scaling.factor > 0, w.path(), ": rope factor ", scaling.factor);
  }
  if (kind == "llama3" || kind == "yarn") {
    scaling.original_context = w.real(s.profile + "rope_original_context");
    check(scaling.original_context > 0, w.path(), ": rope original context ", scaling.original_context);
  }
  if (kind == "llama3") {
    scaling.low_freq_factor = w.real(s.profile + "rope_low_freq_factor");
    scaling.high_freq_factor = w.real(s.profile + "rope_high_freq_factor");
  }
  if (kind == "yarn") {
    scaling.beta_fast = w.real(s.profile + "rope_beta_fast", 32);
    scaling.beta_slow = w.real(s.profile + "rope_beta_slow", 1);
    rope_factor_ = float(w.real(s.profile + "rope_mscale", 0.1 * std::log(scaling.factor) + 1));
  }
  freq_ = rope_frequencies(dims, w.real(s.profile + "theta", 10000), scaling);
}

LayerSpec Attention::state(DType rows) const {
  return {.rows = {{.name = "k", .type = rows, .shape = {groups_, size_}, .window = window_, .sinks = sinks_},
                   {.name = "v", .type = rows, .shape = {groups_, size_}, .window = window_, .sinks = sinks_}}};
}

Tensor Attention::rotate(Tensor x, const Step& step) const {
  if (freq_.empty()) return x;
  const Tensor freq = step.graph->constant("rope_freq", F32, {int64_t(freq_.size())}, freq_.data());
  return rope(x, step.pos, freq, half_, rope_factor_);
}

Tensor Attention::extend(Tensor x, Tensor residual, const LayerMemory& memory, const Step& s) const {
  const Tensor qkv = s.graph->record(Matmul{.x = x, .w = qkv_, .bias = qkv_bias_}).y;   // [T, (H+2G)·D]
  const int64_t q_width = heads_ * size_, k_width = groups_ * size_;
  Tensor q, k, v = qkv.columns(q_width + k_width, k_width).split_last(groups_);
  if (q_norm_.present()) {
    q = rotate(rms_norm(qkv.columns(0, q_width).split_last(heads_), q_norm_, norm_eps_), s);
    k = rotate(rms_norm(qkv.columns(q_width, k_width).split_last(groups_), k_norm_, norm_eps_), s);
  } else {  // one rope over the heads of both
    const Tensor qk = rotate(qkv.columns(0, q_width + k_width).split_last(heads_ + groups_), s).merge_last();
    q = qk.columns(0, q_width).split_last(heads_);
    k = qk.columns(q_width, k_width).split_last(groups_);
  }
  const Pool &keys = memory.row("k"), &values = memory.row("v");
  append(k, keys, s);
  append(v, values, s);
  const Tensor o = s.graph->record(Attend{.q = q, .k = keys.tensor, .v = values.tensor, .page = s.page[size_t(keys.kind)], .seq = s.seq, .pos = s.pos,
                                          .length = s.length, .slopes = alibi_, .scale = scale_, .softcap = softcap_, .window = window_,
                                          .sinks = sinks_}).o;   // [T, H, D]
  return s.graph->record(Matmul{.x = o.merge_last(), .w = out_, .bias = out_bias_, .add = residual}).y;
}

}  // namespace folio
