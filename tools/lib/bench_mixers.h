// SPDX-License-Identifier: MIT
// `bench mixers`: all sequence mixers and two baselines over T, each alone, as one layer of an engine would run it (mixer_run.h,
// mixer_plain.h; mixer_curve.h says what is measured and how): a table, a plot, where each overtakes attention, and the lines that this
// project wants to reach (those about single steps only from --max-tokens 1024 on). Latents, experts and a ring have rows of their own
// (mixer_layers.h): from --max-tokens 1024 on, too, or where --only names them. Memory is what plans, pools and inputs ask for, not
// what the process has touched.
#pragma once
#include <CLI/CLI.hpp>

#include "tools/lib/bench.h"

namespace folio {

struct BenchMixersFlags : BenchFlags {
  int64_t max_tokens = 65536, heads = 8;
  std::vector<int64_t> sizes = {64, 128};
  std::string only, plot = "bench_mixers.svg", golden;
  double seconds = 20;
};

void add_bench_mixers_flags(CLI::App& app, BenchMixersFlags& flags);
int bench_mixers(const BenchMixersFlags& flags);   // the exit code; throws Error

}  // namespace folio
