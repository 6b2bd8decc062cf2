// SPDX-License-Identifier: MIT
// The network that this project began with: clips of 64x64 through an encoder, sequence mixing over their frames, and a thin decoder. A
// frame's latent of 32 channels is flattened and projected to one token; so its two projections are 98.6% of its 8,543,563 parameters and
// it cannot grow with the picture. It pins shapes and counts, and is what a forward is timed with; there are no trained weights.
//
//   [T, 64, 64, 3] ─ Conv3d 3→32 (3,4,4), stride (1,2,2) ─ Conv3d 32→32 (3,3,3) ─ flatten ─ in 32768→128 ─ + log-linear attention
//   ─ + Mesa of a layer norm ─ out 128→32768 ─ Conv3d 32→8 (3,3,3) ─ ConvTranspose3d 8→3 (1,4,4), stride (1,2,2) ─ [T, 64, 64, 3]
//
// Attention has 4 heads of 32 and no gates of its own: level l weighs 1/(1 + l), nothing decays; Mesa takes one projection as query, key
// and value, with Λ = 1. Tensors of arch "seed_video" are listed in models/video_presets.cpp, convolutions as [taps, Cin, Cout].
#pragma once
#include <memory>
#include <utility>
#include <vector>

#include "files/weights.h"
#include "graph/device.h"

namespace folio {

class SeedVideo {
 public:
  static constexpr int64_t side = 64, dim = 128, heads = 4;
  // A clip of `frames` frames on a device. The weights must stay open as long as this object. Throws Error if they do not fit.
  SeedVideo(const Weights& weights, Device& device, int64_t frames);
  ~SeedVideo();
  SeedVideo(const SeedVideo&) = delete;
  SeedVideo& operator=(const SeedVideo&) = delete;
  Program& program() { return *program_; }   // input and output "clip" and "made", [T, 64, 64, 3]
  int64_t bytes() const;                     // arena and pools

 private:
  Tensor mixed(Tensor x, Graph& graph, const Weights& weights, int64_t frames);   // [T, 128] -> [T, 128]
  Tensor pool(const Shape& shape);
  Device& device_;
  std::vector<std::pair<std::byte*, int64_t>> pools_;
  std::unique_ptr<Program> program_;
};

}  // namespace folio
