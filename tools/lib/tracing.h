// SPDX-License-Identifier: MIT
// The first step of a prompt, for the eye: its graph, its nodes one by one, and where it differs from the plain reference.
#pragma once
#include <span>
#include <string>

#include "tools/lib/model.h"

namespace folio {

struct TracingFlags {
  bool eager = false;
  std::string against, print_graph;
  bool any() const { return eager || !against.empty() || !print_graph.empty(); }
};

// --eager --against --print-graph
void add_tracing_flags(CLI::App& app, TracingFlags& flags);

// Prints what the flags ask for about the step that reads the first chunk of the prompt. Returns the program's exit code: 1 if
// --against found a difference.
int trace_first_step(OpenModel& model, std::span<const Token> prompt, const TracingFlags& flags);

}  // namespace folio
