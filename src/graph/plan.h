// SPDX-License-Identifier: MIT
// Decides where every value of a graph lives: two values share bytes if their lives do not overlap, an output takes over the
// bytes of an input that dies in the same op where the op allows it. One arena for all, laid out biggest first.
#pragma once
#include <cstdint>
#include <vector>

#include "graph/graph.h"

namespace folio {

struct Plan {
  std::vector<int64_t> place;  // offset of each value in the arena; -1 for given values
  int64_t arena = 0;           // bytes
  int64_t unshared = 0;        // bytes if nothing were shared: what the plan saves
};

Plan make_plan(const Graph& graph);

// Gives every tensor of every node its address. `given`: where the device has each given value; empty: where it is.
void place(const Graph& graph, const Plan& plan, std::byte* arena, const std::vector<std::byte*>& given = {});

}  // namespace folio
