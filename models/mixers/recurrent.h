// SPDX-License-Identifier: MIT
// The mixers that fold the past into matrices: linear, gated, delta, log-linear and Mesa attention, with all that the published layers
// put around them. One layer, told by its profile; whatever a checkpoint names differently is bent into this form by tools/convert.py.
//
//   x ─ in ──┬─ q │ k │ v ─ conv, act ─ features or norms, rope ─┐
//            └─ z ─────────────────────────────────────────┐     ├─ Linear │ LogLinear │ Mesa ─ (+ skip ⊙ v) ─ norm, gate z ─ out
//   x ─ gates ─ a │ b │ l ─ decay, β, λ ───────────────────┼─────┘
//
// Metadata of mixer.N ("?" = may be absent, then the value in brackets):
//   .kind "linear" | "log_linear" | "mesa" · .heads H · .groups? [H] (value head h uses q and k of h/(H/groups)) · .key_size K · .value_size V
//   .scale? [1/√K] · .conv? [0 = none] (width) · .conv_values? [1] (0: q and k alone) · .act? ["none"] (of q, k, and v if it is convolved)
//   .features? ["none"] | "elu1" | "relu" (of q and k) · .qk_norm? ["none"] | "l2" · .rope? ["none"] | "half" | "adjacent" · .theta? [10000]
//   .decay "none" | "constant" | "head" | "channel" · .decay_sign? [1] · .decay_act? ["softplus"] · .step? [0] · .step_low? [0] · .step_high? [∞]
//      head, channel: log decay = rate ⊙ softplus(sign · (a + bias)); with step, Δ = clamp(softplus(a + bias)) multiplies v, too (Mamba-2)
//   .beta? [0] (write strengths b: the delta rule, Mesa) · .beta_factor? [1] · .normalise? [0] · .skip? [0]
//   .gate? ["none"] | "after" (norm(o) ⊙ f(z)) | "before" (norm(o ⊙ f(z))) · .gate_act? ["silu"] | "sigmoid"
//   .norm? ["head"] | "group" (over .norm_groups? [1] parts of all values) | "none" · .norm_eps? [norm.eps]
//   log_linear: .levels L (up to 46, and 2^(L−1) ≥ the model's context. A longer text the layer takes as texts of 2^(L−1) tokens, one
//      behind the other: beyond its table it remembers nothing, ops/log_linear.h)
//   mesa: .tolerance? [1e-4] · .iterations? [30] · .solver? ["exact"] | "fla_prefill" | "fla_decode" (ops/mesa.h)
// Tensors of layer.I.mix ("w" = weight matrix of any format, the rest f32):
//   in.weight w [2·G·K + H·V (+ H·V with gate), C]: rows of q, k, v, z (+ in.bias) · out.weight w [C, H·V] (+ out.bias)
//   gates.weight [.., C]: rows a [H, "head"], b [H], l [H·L], as many of them as there are (+ gates.bias)
//   conv.weight [W, channels] (+ conv.bias): the channels of q, k(, v); the newest token meets the last row
//   decay.rate [H | H·K], decay.bias? (same) · decay.log [H] ("constant") · decay.down.weight [r, C], decay.up.weight [H·K, r] (+ .bias) ("channel")
//   gate.down.weight, gate.up.weight (+ .bias): z from a low rank; then in.weight has no rows of z
//   level.weight [H·L] · skip [H·V] · norm.weight [V] or [H·V] ("group") · ridge [H, K] (Mesa's Λ)
#pragma once
#include <limits>
#include <vector>

#include "models/mixers/mixer.h"

namespace folio {

class Recurrent final : public Mixer {
 public:
  explicit Recurrent(const MixerSource& source);
  LayerSpec state(DType rows) const override;
  int64_t weight_bytes() const override;
  int64_t weight_count() const override;
  int64_t reach() const override { return levels_ ? LogLinear::reach(levels_) : INT64_MAX; }
  Tensor extend(Tensor x, Tensor residual, const LayerMemory& memory, const Step& step) const override;

 private:
  enum class Kind { linear, log_linear, mesa };
  enum class Decay { none, constant, head, channel };
  enum class GateAt { none, after, before };
  enum class NormOf { none, head, group };
  // A product through a narrow middle: up(down(x)).
  struct LowRank {
    Tensor down, up, bias;
    bool present() const { return down.present(); }
    Tensor operator()(Tensor x) const;
  };
  // What the memory's op is fed with; absent where the profile has none.
  struct Inputs {
    Tensor q, k, v, g, beta, lambda;
    Tensor unscaled;   // v before step sizes; what skip adds
  };
  void read_decay(const MixerSource& source);
  void read_output(const MixerSource& source);
  LowRank low_rank(const MixerSource& source, const std::string& name, int64_t rows) const;
  int64_t key_width() const { return groups_ * key_size_; }
  int64_t value_width() const { return heads_ * value_size_; }
  int64_t conv_channels() const { return 2 * key_width() + (conv_values_ ? value_width() : 0); }
  int64_t buckets() const { return levels_ > LogLinear::fine ? levels_ - LogLinear::fine : 1; }
  Tensor keys(Tensor x, const Step& step) const;                       // of q or k, [T, G·K] -> [T, G, K]
  Inputs inputs(Tensor x, Tensor in, const LayerMemory& memory, const Step& step) const;
  void gates(Tensor x, Inputs& to) const;
  Tensor remember(const Inputs& in, const LayerMemory& memory, const Step& step) const;   // [T, H, V]
  Tensor finish(Tensor o, Tensor z) const;                             // norm and gate; [T, H·V]

  Kind kind_;
  int64_t heads_, groups_, key_size_, value_size_, levels_ = 0, norm_groups_ = 1;
  float scale_, beta_factor_ = 1, decay_sign_ = 1, norm_eps_, tolerance_ = 0, step_low_ = 0, step_high_ = std::numeric_limits<float>::infinity();
  int iterations_ = 0, mode_ = 0;
  Act act_ = Act::none;
  bool conv_values_, features_ = false, relu_features_ = false, l2_, half_ = false, step_, beta_, normalise_, gate_sigmoid_ = false;
  Decay decay_ = Decay::none;
  GateAt gate_at_ = GateAt::none;
  NormOf norm_of_ = NormOf::none;
  Tensor in_, in_bias_, gates_, gates_bias_, conv_, conv_bias_, out_, out_bias_;
  Tensor decay_rate_, decay_bias_, level_weight_, skip_, norm_, ridge_;
  LowRank decay_from_, gate_from_;
  std::vector<float> freq_;   // empty: no rope
};

}  // namespace folio
