// SPDX-License-Identifier: MIT
// A feed-forward of experts (ops/experts.h): a router chooses for each token k of E ffns of the dense kind, all of one width; beside them
// there may be a shared one that every token meets, as it is or times a gate of its own.
//
// Keys of a profile of the kind "experts" ("?" = may be absent, then the value in brackets):
//   .experts (E) · .chosen (k) · .dim (width of an expert) · .gated 0|1 · .act · .scoring "softmax" | "sigmoid" · .normalise? [0] (the
//   chosen weights add up to 1) · .scale? [1] (times all weights) · .bias? [0] (a bias on the choice) · .shared? [0] (its width) ·
//   .shared_gate? [0] · .groups? [1] · .groups_kept? [.groups] · .group_best? [1] (keys of a group that rank it, 1 or 2)
// Tensors below layer.I.ffn.:
//   router.weight [E,C] (f32: a choice must not hang on rounding) · router.logit_bias [E] f32, if it is there (a bias of the product, which
//   weights have, too) · router.bias [E] f32 with .bias
//   experts.up.weight [E,F,C], .down.weight [E,C,F], .gate.weight [E,F,C] if gated (with f32 .bias [E,F], [E,C] each, if they are there)
//   shared.up.weight and so on, as of a dense ffn, with .shared · shared_gate.weight [1,C] with .shared_gate
#pragma once
#include "models/ffn.h"

namespace folio {

class Experts final : public Ffn {
 public:
  explicit Experts(const FfnSource& source);
  Tensor forward(Tensor x, Tensor residual, Tensor place) const override;
  // Router, shared ffn and k of the E experts: no step of one token reads more.
  int64_t weight_bytes() const override;
  int64_t weight_count() const override;

 private:
  Tensor stack(const FfnSource& source, const std::string& name, int64_t rows, int64_t columns) const;
  Tensor stack_bias(const FfnSource& source, const std::string& name, int64_t rows) const;

  int64_t experts_;
  Route route_;                                   // without its inputs
  Act act_;
  Tensor router_, router_bias_;                   // [E,C], [E] or absent
  Tensor up_, up_bias_, gate_, gate_bias_;        // [E,F,C], [E,F] twice
  Tensor down_, down_bias_;                       // [E,C,F], [E,C]
  std::unique_ptr<DenseFfn> shared_;              // may be null
  Tensor shared_gate_;                            // [1,C], may be absent
};

}  // namespace folio
