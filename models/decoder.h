// SPDX-License-Identifier: MIT
// A decoder-only language model: embed, n × (norm, mixer, norm, ffn), norm, head. What the layers are stands in the weight
// file as data: profiles of mixers and ffns, and a list per layer that says which profile it uses. The engine knows no names of
// models; tools/convert.py bends every checkpoint into this one form.
//
// Metadata ("?" = may be absent, then the value in brackets):
//   arch "decoder" · dim · layers · vocab · context (trained length) · name?
//   norm.kind "rms" | "layer" · norm.eps
//   embed.positions? ["none"] | "learned" · embed.scale? [1] · logit.scale? [1] · logit.softcap? [0 = off]
//   mixer.N.kind "attention" (others: mixers/mla.h, mixers/recurrent.h) · .heads · .groups · .head_size · .window? [0 = all] (keys a query sees, its own included) · .sinks? [0] · .scale? [1/√head_size]
//          .softcap? [0] · .qk_norm? [0] (RMS norm of each head of q and k, before rope) · .alibi? [0]
//          .gate? [0] (the heads' output ⊙ sigmoid of a product of x)
//          .rope? ["none"] | "adjacent" (pairs 2i, 2i+1) | "half" (pairs i, i + n/2) · .rope_dims? [head_size] · .theta? [10000]
//          .rope_scaling? ["none"] | "linear" | "llama3" | "yarn" · .rope_factor · .rope_original_context
//          llama3: .rope_low_freq_factor · .rope_high_freq_factor      yarn: .rope_beta_fast? [32] · .rope_beta_slow? [1] ·
//          .rope_truncate? [1] (the ramp between them begins and ends at whole pairs) ·
//          .rope_mscale? (factor on q·k's rotated parts, sqrt of the logits' factor; absent: 0.1·ln(factor)+1)
//   ffn.N.kind "none" (a layer that is all mixer) | "dense" · .dim · .gated 0|1 · .act "silu" | "gelu" (exact) | "gelu_tanh" | "relu" |
//          "relu2" | "swiglu_oai" (ops/elementwise.h)
//   ffn.N.kind "experts": its keys and tensors stand in experts.h
//   layer.mixer, layer.ffn: one profile number per layer
//   chat.template? (the checkpoint's Jinja text) · source.gguf? (JSON from which convert.py restores a GGUF file; of no use here)
// A file that holds a tokenizer alone has arch "vocab".
// Tensors, weight matrices as [out, in]:
//   embed.weight [V,C] · embed.positions [context,C] if learned · head.weight [V,C]? (absent: embed.weight) · norm_out.weight [C] (+ .bias)
//   layer.I.norm_mix.weight, layer.I.norm_ffn.weight [C] (+ .bias with "layer")
//   layer.I.mix.qkv.weight [(H+2G)·D, C]: rows of q, then k, then v, then H·D of the gate if there is one (+ .bias)
//   layer.I.mix.out.weight [C, H·D] (+ .bias)
//   layer.I.mix.q_norm.weight, .k_norm.weight [D] with qk_norm · layer.I.mix.alibi f32 [H] with alibi · layer.I.mix.sink? f32 [H] (a logit
//   of each head that takes part in the softmax and has no value; nothing to do with .sinks, the first tokens that a window keeps)
//   layer.I.ffn.up.weight [F,C], .down.weight [C,F] (+ .bias each) · layer.I.ffn.gate.weight [F,C] (+ .bias) if gated
// Norm weights, biases and positions are f32; tensors named "gguf.*" only wait for the way back.
// The tokenizer's tensors and keys are described in text/tokenizer.h.
#pragma once
#include <memory>
#include <vector>

#include "models/ffn.h"
#include "models/mixers/mixer.h"

namespace folio {

class Decoder final : public Model {
 public:
  // Takes its tensors from the file, which must stay open as long as the model. Throws Error on whatever does not fit together.
  explicit Decoder(const Weights& weights);
  StateSpec state(DType rows) const override;
  DType natural_rows() const override { return head_.type == F32 ? F32 : F16; }
  int64_t vocab() const override { return vocab_; }
  int64_t context() const override { return context_; }
  int64_t longest() const override { return positions_.present() ? context_ : int64_t(1) << 30; }
  int64_t reach() const override;
  int64_t weight_bytes() const override;
  int64_t flops_per_token() const override;
  Tensor logits(const Step& step, const Memory& memory) const override;
  Tensor draw(Tensor logits, const DrawInputs& inputs) const override;

 private:
  struct Norm {
    Tensor weight, bias;   // [C]
    bool centred = false;  // LayerNorm, else RmsNorm
    float eps = 0;
    Tensor operator()(Tensor x) const;
  };
  struct Layer {
    Norm norm_mix, norm_ffn;
    std::unique_ptr<Mixer> mixer;
    std::unique_ptr<Ffn> ffn;   // null: all mixer
  };
  Norm norm(const Weights& weights, const std::string& name) const;

  int64_t dim_, vocab_, context_;
  float embed_scale_, logit_scale_, logit_softcap_;
  Tensor embed_, positions_, head_;   // [V,C], [context,C] or absent, [V,C]
  std::vector<Layer> layers_;
  Norm norm_out_;
};

}  // namespace folio
