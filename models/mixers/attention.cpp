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

  gated_ = w.integer(s.profile + "gate", 0) != 0;
  const int64_t rows = ((gated_ ? 2 : 1) * heads_ + 2 * groups_) * size_;
  qkv_ = w.get(s.layer + "qkv.weight", {rows, s.dim});
  out_ = w.get(s.layer + "out.weight", {s.dim, heads_ * size_});
  qkv_bias_ = w.find(s.layer + "qkv.bias");
  out_bias_ = w.find(s.layer + "out.bias");
  if (w.integer(s.profile + "qk_norm", 0)) {
    q_norm_ = w.get(s.layer + "q_norm.weight", {size_});
    k_norm_ = w.get(s.layer + "k_norm.weight", {size_});
  }
  if (w.integer(s.profile + "alibi", 0)) alibi_ = w.get(s.layer + "alibi", {heads_});
  if (w.find(s.layer + "sink").present()) sink_ = w.get(s.layer + "sink", {heads_});
  rotate_ = Rotary(s, size_);
}

LayerSpec Attention::state(DType rows) const {
  check(rows == F32 || rows == F16 || rows == BF16, "cache: attention keeps rows of f32, f16 or bf16, not of ", format(rows).name);
  return {.rows = {{.name = "k", .type = rows, .shape = {groups_, size_}, .window = window_, .sinks = sinks_},
                   {.name = "v", .type = rows, .shape = {groups_, size_}, .window = window_, .sinks = sinks_}}};
}

Tensor Attention::extend(Tensor x, Tensor residual, const LayerMemory& memory, const Step& s) const {
  const Tensor qkv = s.graph->record(Matmul{.x = x, .w = qkv_, .bias = qkv_bias_}).y;   // [T, q | k | v | gate]
  const int64_t q_width = heads_ * size_, k_width = groups_ * size_;
  Tensor q, k, v = qkv.columns(q_width + k_width, k_width).split_last(groups_);
  if (q_norm_.present()) {
    q = rotate_(rms_norm(qkv.columns(0, q_width).split_last(heads_), q_norm_, norm_eps_), s);
    k = rotate_(rms_norm(qkv.columns(q_width, k_width).split_last(groups_), k_norm_, norm_eps_), s);
  } else {  // one rope over the heads of both
    const Tensor qk = rotate_(qkv.columns(0, q_width + k_width).split_last(heads_ + groups_), s).merge_last();
    q = qk.columns(0, q_width).split_last(heads_);
    k = qk.columns(q_width, k_width).split_last(groups_);
  }
  const Pool &keys = memory.row("k"), &values = memory.row("v");
  append(k, keys, s);
  append(v, values, s);
  Tensor o = s.graph->record(Attend{.q = q, .k = keys.tensor, .v = values.tensor, .page = s.page[size_t(keys.kind)], .seq = s.seq,
                                    .pos = s.pos, .length = s.length, .slopes = alibi_, .sink = sink_, .scale = scale_,
                                    .softcap = softcap_, .window = window_, .sinks = sinks_}).o.merge_last();   // [T, H·D]
  if (gated_) o = mul(o, gate(qkv.columns(q_width + 2 * k_width, q_width), GateKind::sigmoid));
  return s.graph->record(Matmul{.x = o, .w = out_, .bias = out_bias_, .add = residual}).y;
}

}  // namespace folio
