// SPDX-License-Identifier: MIT
// A graph for the eye: as text (one line a node), as dot (for graphviz), and as checksums of a traced run; and the search for
// the first node where two runs of the same graph differ.
#pragma once
#include <string>

#include "graph/device.h"
#include "graph/plan.h"

namespace folio {

// First the inputs, then one line a node: index, scope, op, attributes, inputs -> outputs. A value is #number, with type, shape and
// place in the arena (@bytes); a view says where it begins (+bytes) and what it strides over; given memory goes by its field's name.
std::string print_text(const Graph& graph, const Plan& plan);
// Nodes are boxes, one cluster a scope; inputs, outputs and given memory are ellipses; edges carry shapes.
std::string print_dot(const Graph& graph);

// Runs the program node by node: one line per output with hash, min, max, mean, count of NaN and infinity.
std::string print_trace(Program& program);

// How far an element may be off: atol + rtol·|reference| + stol·RMS of the reference over all elements with the same first index (of a
// token, that is), for sums of many rounded products are off by a share of what they are sums of, also where they come to nothing.
struct NodeTolerance { double atol = 0, rtol = 0, stol = 0; };

// Runs both, whose graphs must have equal nodes and whose inputs must be set, and describes the first node whose outputs differ by more
// than that, or in where they are NaN or infinite: its index, scope, worst element and coordinates. Empty if none differs; *worst is then
// the largest difference as a share of what is allowed. The reference's outputs are all kept in memory meanwhile: compare short steps.
std::string first_difference(Program& tested, Program& reference, const NodeTolerance& tolerance, double* worst = nullptr);

}  // namespace folio
