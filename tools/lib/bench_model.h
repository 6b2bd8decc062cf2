// SPDX-License-Identifier: MIT
// `bench model`: speed of whole models beside the limits of the device, measured in the same run: how much of the memory bandwidth a
// decode step reaches, how much of the arithmetic peak a prefill. Weights are random (--shape) or come from a file (-m). A figure is the
// best of several repeats; everything else on the machine should be quiet. Steps are whole: inputs go to the device, logits come back.
#pragma once
#include <CLI/CLI.hpp>

#include "tools/lib/bench.h"

namespace folio {

struct BenchModelFlags : BenchFlags {
  std::string shape = "1b", file, cache_type = "auto";
  std::vector<int> batches = {2, 4, 8};
  int prompt = 512, generate = 128, depth = 4096;
};

void add_bench_model_flags(CLI::App& app, BenchModelFlags& flags);
int bench_model(const BenchModelFlags& flags);   // the exit code; throws Error

}  // namespace folio
