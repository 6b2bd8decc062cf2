// SPDX-License-Identifier: MIT
// What a layer remembers, in the two forms there are (house.md 4.6): rows, one per token, kept as far back as their window
// says; and slabs, the folded state after a page's last token. A layer of any mixer is a list of these.
#pragma once
#include <string>
#include <vector>

#include "graph/tensor.h"

namespace folio {

struct RowSpec {
  std::string name;   // "k", "v"
  DType type = F16;
  Shape shape;        // of one token: {G, D}
  int window = 0;     // tokens that stay readable behind the newest; 0: all of them
  int sinks = 0;      // with a window: the first tokens that stay readable as well
};

struct SlabSpec {
  std::string name;   // "S"
  DType type = F32;
  Shape shape;        // {H, Dk, Dv}
};

struct LayerSpec {
  std::vector<RowSpec> rows;
  std::vector<SlabSpec> slabs;
};

using StateSpec = std::vector<LayerSpec>;   // one per layer

}  // namespace folio
