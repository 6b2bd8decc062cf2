// SPDX-License-Identifier: MIT
#include "state/step.h"

namespace folio {

Step::Step(Graph& g, const StepShape& shape, int kinds, int64_t most_pages) : graph(&g) {
  token = g.input("token", I32, {shape.tokens});
  pos = g.input("pos", I32, {shape.tokens});
  seq = g.input("seq", I32, {shape.tokens});
  length = g.input("length", I32, {shape.sequences});
  wanted = g.input("wanted", I32, {shape.wanted});
  for (int k = 0; k < kinds; ++k) page.push_back(g.input(Step::page_name(k), I32, {shape.sequences, most_pages}));
}

static const Pool& find(const std::vector<Pool>& pools, std::string_view name) {
  for (const Pool& pool : pools)
    if (pool.name == name) return pool;
  fail("memory: the layer keeps no '", std::string(name), "'");
}

const Pool& LayerMemory::row(std::string_view name) const { return find(rows, name); }
const Pool& LayerMemory::slab(std::string_view name) const { return find(slabs, name); }

}  // namespace folio
