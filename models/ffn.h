// SPDX-License-Identifier: MIT
// The feed-forward half of a layer, which looks at one token at a time. Dense: plain or gated, two products with activation, gate and
// residual in their epilogues. Experts: models/experts.h.
#pragma once
#include <memory>
#include <string>

#include "files/weights.h"
#include "ops/ops.h"

namespace folio {

class Ffn {
 public:
  virtual ~Ffn() = default;
  // residual + ffn(x); [T, C] f32. `place` [T] i32: negative where a row of x is padding.
  virtual Tensor forward(Tensor x, Tensor residual, Tensor place) const = 0;
  virtual int64_t weight_bytes() const = 0;   // that one token reads
  virtual int64_t weight_count() const = 0;   // elements of its matrices that one token meets
};

// Where an ffn's description stands: `profile` is "ffn.0.", `layer` the prefix of its tensors, "layer.3.ffn.".
struct FfnSource {
  const Weights& weights;
  std::string profile, layer;
  int64_t dim;
};

// The ffn of the kind that the profile names; null for "none", a layer that is all mixer (Mamba-2). Throws Error for a kind that is not
// known, listing those that are.
std::unique_ptr<Ffn> make_ffn(const FfnSource& source);

// The profile's activation.
Act read_act(const FfnSource& source);

class DenseFfn final : public Ffn {
 public:
  DenseFfn(const FfnSource& source, int64_t width);
  Tensor forward(Tensor x, Tensor residual, Tensor place) const override;
  int64_t weight_bytes() const override { return up_.bytes() + gate_.bytes() + down_.bytes(); }
  int64_t weight_count() const override { return up_.count() + (gate_.present() ? gate_.count() : 0) + down_.count(); }

 private:
  Act act_;
  Tensor up_, up_bias_, gate_, gate_bias_, down_, down_bias_;   // [F,C], [F], [F,C], [F], [C,F], [C]
};

}  // namespace folio
