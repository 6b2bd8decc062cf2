// SPDX-License-Identifier: MIT
// `bench vae`: convolutions of video decoders beside the device's fp32 peak. Two decoders of two 3×3×3 convolutions each, over whole clips:
// naive (32 -> 32 -> 3 channels) and thin (32 -> 8 -> 3), which has a quarter of the operations; `ratio` says what of that arrives. And the
// layers of a TAEHV decoder (widths 256, 128, 64; a frame of 256 × 256 pixels), with enlargements and grown frames folded in. Each figure
// is the median of several repeats; inputs and weights stay on the device. Then whole decoders of that layout, random weights, latent by
// latent as videogen runs them: time of the clip and until its first frame, memory, and the share of the peak in the multiply-adds of the
// layers as they stand, unfolded.
#pragma once
#include <CLI/CLI.hpp>

#include "tools/lib/bench.h"

namespace folio {

struct BenchVaeFlags : BenchFlags {
  std::string only;    // in the name
  bool quick = false;
  bool full = false;   // also 17 and 97 frames of 480 × 832
};

void add_bench_vae_flags(CLI::App& app, BenchVaeFlags& flags);
int bench_vae(const BenchVaeFlags& flags);   // the exit code; throws Error

}  // namespace folio
