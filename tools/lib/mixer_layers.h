// SPDX-License-Identifier: MIT
// Rows of `bench mixers` about whole layers whose cost hangs on more than T: latent attention (MLA) at DeepSeek-V2-Lite's shape, beside
// multi-head attention of the same heads; a feed-forward of experts at that shape; ring attention on four virtual ranks. Each is one step
// of one layer; programs hold it several times, with weights and pools of its own, so that they come from memory.
#pragma once
#include <string>
#include <vector>

#include "graph/device.h"
#include "tools/lib/mixer_lines.h"

namespace folio {

// The shapes: V2-Lite's unless `tokens` (the longest text) is short.
struct LayerSizes {
  int64_t heads = 16, rank = 512, rope = 64, nope = 128, value = 128;
  int64_t dim = 2048, width = 1408, experts = 64, chosen = 6;
  int64_t depth = 4096, prompt = 512, ring_tokens = 16384, ranks = 4;
  static LayerSizes up_to(int64_t tokens);
};

struct LayerRow {
  std::string name;
  double seconds = 0, flops = 0;
  double bytes = 0;      // that must be read: rows seen, weights met; 0: not what limits it
  std::string note;
};

struct LayerFindings {
  std::vector<LayerRow> rows;
  std::vector<MixerLine> lines;
};

// The kinds whose name has `only` in it, of "mla", "experts" and "ring".
const std::vector<std::string>& layer_kinds();
LayerFindings measure_layers(const std::string& only, const LayerSizes& sizes, Device& device, const Limits& limits, int repeats);

}  // namespace folio
