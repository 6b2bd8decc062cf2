// SPDX-License-Identifier: MIT
// What the engine asks of an architecture: what a sequence must remember, and how one step is recorded. A model describes
// itself once; devices, caches and step shapes are none of its business.
#pragma once
#include "run/draw.h"
#include "state/spec.h"
#include "state/step.h"

namespace folio {

class Model {
 public:
  virtual ~Model() = default;
  // What each layer keeps; rows of attention in format `rows`.
  virtual StateSpec state(DType rows) const = 0;
  virtual DType natural_rows() const = 0;       // f32 for f32 weights, else f16: rows no worse than the weights that made them
  virtual int64_t vocab() const = 0;
  virtual int64_t context() const = 0;          // tokens it was trained for
  virtual int64_t longest() const = 0;          // tokens it can take at all: learned positions end somewhere
  virtual int64_t reach() const { return INT64_MAX; }   // tokens after which some layer begins anew: tables of log-linear attention end
  virtual int64_t weight_bytes() const = 0;     // read by a step of one token; of experts, those that it chooses
  virtual int64_t flops_per_token() const = 0;  // of the matrices that it meets, 2 per multiply and add
  // Records the ops of one step on step.graph; returns [W, V] f32, one row for each wanted place.
  virtual Tensor logits(const Step& step, const Memory& memory) const = 0;
  // Records the draw of a token after each row of them (ops/sample.h), which this room cannot: it knows no ops. [W] i32, -1: no number.
  virtual Tensor draw(Tensor logits, const DrawInputs& inputs) const = 0;
};

}  // namespace folio
