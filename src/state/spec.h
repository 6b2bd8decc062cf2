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

// After page n − 1 (n pages are full) a mixer goes on from the slab of that page; or, with `chain`, from those of the pages n − 1,
// n − lowbit(n) − 1, …: a binary counter whose digits are slabs, each standing where it was made (Fenwick; log-linear attention).
struct SlabSpec {
  std::string name;   // "S"
  DType type = F32;
  Shape shape;        // {H, Dk, Dv}
  bool chain = false;
};

// Whether the slab of page p is wanted by one who goes on after `full` pages.
inline bool slab_wanted(int64_t p, int64_t full, bool chain) {
  if (p + 1 >= full) return true;           // the newest, and those still to come
  while (chain && full > p + 1) full &= full - 1;   // where the chain's next digit ends
  return full == p + 1;
}

struct LayerSpec {
  std::vector<RowSpec> rows;
  std::vector<SlabSpec> slabs;
};

using StateSpec = std::vector<LayerSpec>;   // one per layer

}  // namespace folio
