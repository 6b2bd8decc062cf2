// SPDX-License-Identifier: MIT
// `bench ops`: single ops beside the roofline, the larger of two times that no kernel can beat: operations over the peak of the unit
// that does them, bytes that must move at least over the bandwidth. A program holds an op several times, each time with other weights
// or other pools, so that no cache serves them; it is replayed, timed by the device's own clock (events on a card), and the figure is
// the median of several repeats. Inputs and outputs stay on the device.
#pragma once
#include <CLI/CLI.hpp>

#include "tools/lib/bench.h"

namespace folio {

// One op at one size; of the sizes, those that it has. `matmul`: x [tokens, inputs] by w [features, inputs]. `mlp`: the gated product to
// `features` (SiLU) and the one back to `inputs` with a sum: y = x + down(silu(gate x) * up x). `attend`: each of `sequences` sequences
// has `depth` tokens, of which the last `tokens` ask, causally.
struct OpCase {
  std::string op;
  DType type;
  int64_t tokens, inputs = 0, features = 0, sequences = 1, depth = 0, heads = 0, groups = 0, head_size = 0;
  std::string name() const;   // "matmul q8_0 T=512 4096->14336", "attend f16 D=128 decode 16 x 8192"
  double flops() const;       // 2 for a multiply and an add
  double bytes() const;       // weights or visible rows of the cache once, inputs and outputs once
};

// The cases that are measured; `quick`: few and tiny, to see that everything works.
std::vector<OpCase> op_cases(const std::vector<DType>& types, bool quick);

struct BenchOpsFlags : BenchFlags {
  std::string only;           // in the name
  bool quick = false, list = false;
  double most = 1;            // seconds
};

void add_bench_ops_flags(CLI::App& app, BenchOpsFlags& flags);
int bench_ops(const BenchOpsFlags& flags);   // the exit code; throws Error

}  // namespace folio
