// SPDX-License-Identifier: MIT
// `bench serve`: many requests through the scheduler (run/scheduler.h), on a model of random weights or a file: texts that share a
// beginning, conversations turn by turn, and texts that share nothing, each with and without what is remembered; so many at once, with
// Poisson arrivals if a rate is given. Tokens a second, time to the first token, time between tokens, what was found. Then single figures:
// what a hit spares, what looking a long prompt up costs, what several at once and guesses bring.
#pragma once
#include <CLI/CLI.hpp>

#include "tools/lib/bench.h"

namespace folio {

struct BenchServeFlags : BenchFlags {
  std::string shape = "15m", file;
  int requests = 24, running = 8, shared = 1024, own = 32, draw = 16, turns = 4, hit = 2048, match = 10000;
  double rate = 0;   // arrivals a second; 0: the next comes when one leaves
};

void add_bench_serve_flags(CLI::App& app, BenchServeFlags& flags);
int bench_serve(const BenchServeFlags& flags);   // the exit code; throws Error

}  // namespace folio
