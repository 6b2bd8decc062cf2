// SPDX-License-Identifier: MIT
// One forward step as tensors: all that changes from step to step. Padding tokens have seq = -1 and do nothing.
// Memory is what a model sees of the cache: the pools of every layer, and which page table each pool goes with.
#pragma once
#include <compare>
#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"
#include "state/spec.h"

namespace folio {

// The sizes that make one recorded step differ from another.
struct StepShape {
  int tokens = 1;      // T
  int sequences = 1;   // B
  int wanted = 1;      // W
  auto operator<=>(const StepShape&) const = default;
};

struct Step {
  // Declares the inputs "token", "pos", "seq" [T], "length" [B], "page.K" [B, most] for each kind K of page table, "wanted" [W].
  Step(Graph& graph, const StepShape& shape, int kinds, int64_t most_pages);
  static std::string page_name(int kind) { return "page." + std::to_string(kind); }
  Graph* graph;
  Tensor token, pos, seq;     // [T] i32
  Tensor length;              // [B] i32   tokens of each sequence, this step's included
  Tensor wanted;              // [W] i32   places in the step whose logits are wanted
  std::vector<Tensor> page;   // one table [B, most] i32 per kind: pool page of each 64 tokens, -1 where there is none
  bool deterministic = false; // no choice of arithmetic may hang on how many tokens stand in the step
  bool expand_latents = false;  // latent attention multiplies all latents out in every step, however few tokens ask
};

// A pool of one layer: rows [N, 64, ...] or slabs [N, ...].
struct Pool {
  std::string name;
  Tensor tensor;
  int kind = 0;               // which of Step::page finds a sequence's pages in it
};

struct LayerMemory {
  std::vector<Pool> rows, slabs;
  const Pool& row(std::string_view name) const;
  const Pool& slab(std::string_view name) const;
};

struct Memory {
  std::vector<LayerMemory> layers;
  int kinds = 1;              // page tables: one for each distinct window, one for slabs if any layer folds
  int64_t most_pages = 0;     // width of the page tables
};

}  // namespace folio
