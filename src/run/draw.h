// SPDX-License-Identifier: MIT
// What a step needs besides the tokens to be read when the next ones are drawn where the model runs: the inputs of the op Sample
// (ops/sample.h), one row for each place whose logits are wanted. The engine declares them, a Sampler writes its rows.
#pragma once
#include <compare>

#include "base/draw.h"
#include "graph/device.h"

namespace folio {

// The sizes that make one recorded draw differ from another.
struct DrawShape {
  int seen = 0;     // P: tokens that may be penalised
  int biases = 0;   // B
  auto operator<=>(const DrawShape&) const = default;
};

struct DrawInputs {
  // Declares "draw.options" [R, 7] f32, "draw.place" [R, 5] i32 and, unless empty, "draw.seen" [R, P, 2] i32, "draw.biased" [R, B] i32 and
  // "draw.bias" [R, B] f32.
  DrawInputs(Graph& graph, int64_t rows, const DrawShape& shape)
      : options(graph.input("draw.options", F32, {rows, draw_options})), place(graph.input("draw.place", I32, {rows, draw_places})) {
    if (shape.seen > 0) seen = graph.input("draw.seen", I32, {rows, shape.seen, 2});
    if (shape.biases == 0) return;
    biased = graph.input("draw.biased", I32, {rows, shape.biases});
    bias = graph.input("draw.bias", F32, {rows, shape.biases});
  }
  // The same in a program's memory.
  DrawInputs(Program& program, const DrawShape& shape) : options(program.input("draw.options")), place(program.input("draw.place")) {
    if (shape.seen > 0) seen = program.input("draw.seen");
    if (shape.biases == 0) return;
    biased = program.input("draw.biased");
    bias = program.input("draw.bias");
  }
  Tensor options, place, seen, biased, bias;
};

}  // namespace folio
