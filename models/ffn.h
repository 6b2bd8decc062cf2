// SPDX-License-Identifier: MIT
// The feed-forward half of a layer: dense, plain or gated. Two products; activation, gate and residual ride in their epilogues.
#pragma once
#include <string>

#include "files/weights.h"
#include "ops/ops.h"

namespace folio {

class Ffn {
 public:
  // `profile` is "ffn.0.", `layer` "layer.3.ffn.".
  Ffn(const Weights& weights, const std::string& profile, const std::string& layer, int64_t dim);
  bool present() const { return up_.present(); }   // kind "none": a layer that is all mixer (Mamba-2)
  // residual + ffn(x); [T, C] f32.
  Tensor forward(Tensor x, Tensor residual) const;
  int64_t weight_bytes() const { return !present() ? 0 : up_.bytes() + gate_.bytes() + down_.bytes(); }
  int64_t weight_count() const { return !present() ? 0 : up_.count() + (gate_.present() ? gate_.count() : 0) + down_.count(); }

 private:
  Act act_ = Act::none;
  Tensor up_, up_bias_, gate_, gate_bias_, down_, down_bias_;   // [F,C], [F], [F,C], [F], [C,F], [C]
};

}  // namespace folio
