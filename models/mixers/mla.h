// SPDX-License-Identifier: MIT
// Multi-head latent attention (DeepSeek-V2 and V3; ops/mla.h). A token leaves one row for all heads: the latent c, normalised, and a
// rotated key r that the heads share.
//
//   x ─ in ─┬─ q_down ─ norm ─ q_up ─┐ (q_rank; else q itself)
//           │                        ├─ q │ rope ─────┐
//           ├─ c ─ norm ─────────────┴─┐              ├─ Mla (k_up, v_up) ─ out ─ + residual
//           └─ r ─ rope ───────────────┴─ latent row ─┘
//
// Metadata of mixer.N ("?" = may be absent, then the value in brackets):
//   .kind "mla" · .heads H · .key_size dn · .rope_size dr · .value_size dv · .rank R · .q_rank? [0 = none]
//   .scale? [1/√(dn + dr)] (with YaRN times the square of its mscale over all dimensions) · .norm_eps? [norm.eps] (of both norms)
//   .rope? ["none": a head's dr numbers stay as they are, as in Kimi Linear, arXiv 2510.26692] | "adjacent" | "half" · .theta? ·
//   .rope_scaling? ... as attention has them (models/decoder.h), over a head's dr rotated numbers
// Tensors of layer.I.mix:
//   in.weight [(q_rank or H·(dn+dr)) + R + dr, C]: rows of q, c, r (+ in.bias)
//   with q_rank: q_norm.weight [q_rank], q_up.weight [H·(dn+dr), q_rank]
//   latent_norm.weight [R] · k_up.weight [H·dn, R] · v_up.weight [H·dv, R] · out.weight [C, H·dv] (+ out.bias)
//   A head's rows of q are its dn plain numbers, then its dr rotated ones.
#pragma once
#include "models/mixers/rotary.h"

namespace folio {

class LatentAttention final : public Mixer {
 public:
  explicit LatentAttention(const MixerSource& source);
  LayerSpec state(DType rows) const override;
  int64_t weight_bytes() const override;
  int64_t weight_count() const override;
  Tensor extend(Tensor x, Tensor residual, const LayerMemory& memory, const Step& step) const override;

 private:
  int64_t heads_, nope_, rope_, value_, rank_, q_rank_;   // H, dn, dr, dv, R, q_rank
  float scale_, norm_eps_;
  Tensor in_, in_bias_, q_norm_, q_up_, latent_norm_, k_up_, v_up_, out_, out_bias_;   // k_up [H, dn, R], v_up [H, dv, R]
  Rotary rotate_;
};

}  // namespace folio
