// SPDX-License-Identifier: MIT
// `bench video`: the flow model of clips (models/video_dit.h) on random weights. A forward for one caption and for two, which is a step
// of a guided sample, beside the machine's fp32 peak; the same layers over clips of more and more tokens, up to those of 1080p, with
// softmax attention in their mixers' place (tiled, all tokens see all) and with what the whole square of scores costs alone; and the
// network of the seeds (models/seed_video.h) beside the numbers that they print. Operations are those of matrices and convolutions, not
// the mixers'.
#pragma once
#include <CLI/CLI.hpp>

#include "tools/lib/bench.h"

namespace folio {

struct BenchVideoFlags : BenchFlags {
  std::string preset = "vg-s";
  int64_t max_tokens = 65536;
  double seconds = 60;                       // a forward that will take longer is left out
  uint64_t score_bytes = uint64_t(4) << 30;  // of the squares of scores
};

void add_bench_video_flags(CLI::App& app, BenchVideoFlags& flags);
int bench_video(const BenchVideoFlags& flags);   // the exit code; throws Error

}  // namespace folio
