// SPDX-License-Identifier: MIT
// Softmax attention: MHA, GQA, MQA, full or sliding window, with rope, q/k norms, softcap, ALiBi and an output gate
// (arXiv 2505.06708) as the profile says, and a learned sink for each head where the layer has such (gpt-oss).
#pragma once
#include "models/mixers/rotary.h"

namespace folio {

class Attention final : public Mixer {
 public:
  explicit Attention(const MixerSource& source);
  LayerSpec state(DType rows) const override;
  int64_t weight_bytes() const override { return qkv_.bytes() + out_.bytes(); }
  int64_t weight_count() const override { return qkv_.count() + out_.count(); }
  Tensor extend(Tensor x, Tensor residual, const LayerMemory& memory, const Step& step) const override;

 private:
  int64_t heads_, groups_, size_;
  int window_, sinks_;
  float scale_, softcap_;
  bool gated_;
  Tensor qkv_, qkv_bias_, out_, out_bias_;      // rows q | k | v (| gate); [C, H·D], [C]
  Tensor q_norm_, k_norm_;                      // [D], absent without qk_norm
  Tensor alibi_;                                // [H], absent without ALiBi
  Tensor sink_;                                 // [H], absent without learned sinks
  float norm_eps_;
  Rotary rotate_;
};

}  // namespace folio
