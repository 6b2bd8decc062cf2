// SPDX-License-Identifier: MIT
// What videogen reads and writes: clips that come in, latents on disk, frames that go out.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "files/image.h"
#include "files/video.h"

namespace folio {

// Latents as the models have them: [count, rows, cols, z], channels last.
struct Latents {
  int64_t count = 0, rows = 0, cols = 0, z = 0;
  std::vector<float> values;
  int64_t frame() const { return rows * cols * z; }   // numbers of one
};

// .npy, float32 [1, z, count, rows, cols], as diffusers have them. Reading also takes [z, count, rows, cols] and float64.
void save_latents(const std::string& path, const Latents& latents);
// Throws Error if it is no such array, or if its channels are not z: then it belongs to another autoencoder, `vae`.
Latents load_latents(const std::string& path, int64_t z, const std::string& vae);

// A clip in memory, all frames [H, W, 3] one after the other.
struct Frames {
  Clip clip;
  int64_t count = 0;
  std::vector<uint8_t> rgb;
  size_t frame_bytes() const { return size_t(clip.width) * size_t(clip.height) * 3; }
  const uint8_t* frame(int64_t i) const { return rgb.data() + size_t(i) * frame_bytes(); }
};
// The first `most` frames (0: all), brought to the size (0x0: as they are). Throws Error if there are fewer than `most`, or none.
Frames load_frames(const std::string& name, int64_t most, int width, int height);

// Mean squared errors, frame by frame.
class Psnr {
 public:
  void add(const uint8_t* a, const uint8_t* b, size_t bytes);
  double all() const;     // dB over all frames; infinity if they are equal
  double worst() const;   // of a single frame
  int64_t frames() const { return frames_; }

 private:
  double sum_ = 0, worst_ = 0;
  int64_t frames_ = 0;
};

// [0, 1] -> bytes, rounded to the nearest.
void to_bytes(const float* from, size_t count, std::vector<uint8_t>& to);
std::vector<float> to_floats(const uint8_t* from, size_t count);

// Pictures of equal height side by side, in rows of at most `across`, enlarged by whole pixels so that one is at least `side` high.
Image sheet(const std::vector<Image>& pictures, int across, int side);

}  // namespace folio
