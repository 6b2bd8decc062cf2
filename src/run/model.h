// SPDX-License-Identifier: MIT
// What the engine asks of an architecture: what a sequence must remember, and how one step is recorded. A model describes
// itself once; devices, caches and step shapes are none of its business.
#pragma once
#include "state/spec.h"
#include "state/step.h"

namespace folio {

class Model {
 public:
  virtual ~Model() = default;
  virtual StateSpec state() const = 0;
  virtual int64_t vocab() const = 0;
  virtual int64_t context() const = 0;                                  // tokens it was trained for
  virtual int64_t weight_bytes() const = 0;                             // read by a step of one token
  // Records the ops of one step on step.token's graph; [W, V] f32, one row for each wanted place.
  virtual Tensor logits(const Step& step, const Memory& memory) const = 0;
};

}  // namespace folio
