// SPDX-License-Identifier: MIT
// A graph for the eye: as text (one line a node), as dot (for graphviz), and as checksums of a traced run; and the search for
// the first node where two runs of the same graph differ.
#pragma once
#include <string>

#include "graph/device.h"
#include "graph/plan.h"

namespace folio {

// One line a node: index, scope, op, attributes, inputs and outputs with type, shape and place in the arena.
std::string print_text(const Graph& graph, const Plan& plan);
std::string print_dot(const Graph& graph);

// Runs the program node by node: one line per output with hash, min, max, mean, count of NaN and infinity.
std::string print_trace(Program& program);

// Runs both, whose graphs must have equal nodes and whose inputs must be set, and describes the first node whose outputs differ
// by more than atol + rtol·|reference|: its index, scope, worst element and coordinates. Empty if none differs.
std::string first_difference(Program& tested, Program& reference, float atol, float rtol);

}  // namespace folio
