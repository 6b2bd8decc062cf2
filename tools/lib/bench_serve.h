// SPDX-License-Identifier: MIT
// `bench serve`: many requests through the scheduler (run/scheduler.h), on a model of random weights or a file: texts that share a
// beginning, conversations turn by turn, a tree of thoughts, and texts that share nothing; each with and without what is remembered, under
// a closed loop (who is answered asks again) and under arrivals at random (Poisson). Tokens a second, time to the first token, time
// between tokens, what was found. Then single figures: what remembering costs and spares, what looking a long prompt up costs, what
// several at once and guesses bring, and what guesses cost that are never right.
//
// An engine has served the same kind of requests once before it is measured, with other tokens: so its memory is not touched for the first
// time, and where it remembers, room for the new is made of the old, as in a server that runs for long. Ratios are of pairs of runs, one
// behind the other.
#pragma once
#include <CLI/CLI.hpp>

#include "tools/lib/bench.h"
#include "tools/lib/bench_load.h"

namespace folio {

struct BenchServeFlags : BenchFlags {
  std::string shape = "15m", file, only;
  TraceSizes sizes;
  int running = 8, draw = 16, hit = 2048, match = 10000;
  double rate = 0;   // arrivals a second; 0: as many as keep the engine busy most of the time
};

void add_bench_serve_flags(CLI::App& app, BenchServeFlags& flags);
int bench_serve(const BenchServeFlags& flags);   // the exit code; throws Error

}  // namespace folio
