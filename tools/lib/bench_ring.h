// SPDX-License-Identifier: MIT
// `bench ring`: attention in pieces (models/ring.h) on random numbers. A text through a ring of virtual ranks, threads of this machine
// with a processor each, against the same text at once: what the ranks compute, what joining the pieces costs, what travels. And the same
// text streamed through a device that may hold only `--kv-bytes` of keys and values: what it held, and that the result is that of
// attention at once.
#pragma once
#include <CLI/CLI.hpp>

#include "tools/lib/bench.h"

namespace folio {

struct BenchRingFlags : BenchFlags {
  int64_t tokens = 65536, heads = 4, groups = 1, head_size = 64, ring_tokens = 16384;
  uint64_t kv_bytes = 4 << 20;
  int ranks = 4;
};

void add_bench_ring_flags(CLI::App& app, BenchRingFlags& flags);
int bench_ring(const BenchRingFlags& flags);   // the exit code; throws Error

}  // namespace folio
