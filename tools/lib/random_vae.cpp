// SPDX-License-Identifier: MIT
#include "tools/lib/random_vae.h"

#include <cmath>
#include <cstdlib>
#include <random>

#include "base/error.h"

namespace folio {

namespace {

class RandomVae {
 public:
  explicit RandomVae(const VaeShape& shape) : shape_(shape) {
    if (shape.encoder > 0) encoder();
    decoder();
  }
  Weights make() {
    std::shared_ptr<std::byte> memory(static_cast<std::byte*>(std::aligned_alloc(4096, size_t((bytes_ + 4095) / 4096 * 4096))), std::free);
    check(memory != nullptr, "no memory for ", bytes_ >> 20, " MiB of random weights");
    std::mt19937 random(1);
    for (auto& entry : entries_) {
      entry.tensor.data = memory.get() + entry.offset;
      const Tensor& t = entry.tensor;
      const float reach = t.rank() == 1 ? 0.1f : std::sqrt(3.0f / float(t.rank() == 3 ? t.dim(1) * t.dim(0) : t.dim(0)));
      std::uniform_real_distribution<float> uniform(-reach, reach);
      for (int64_t i = 0; i < t.count(); ++i) t.at<float>()[i] = uniform(random);
    }
    const Metadata meta = {{"arch", "taehv"}, {"vae.latent", shape_.latent}, {"vae.patch", shape_.patch}};
    return Weights("random", meta, std::move(entries_), memory);
  }

 private:
  void encoder() {
    const VaeShape& shape = shape_;
    const int64_t pixels = 3 * shape.patch * shape.patch, n = shape.encoder;
    conv("encoder.0", 9, pixels, n, true);
    for (int level = 0; level < 3; ++level) {
      const int at = 2 + 5 * level;
      conv(join("encoder.", at, ".conv"), shape.time[size_t(2 - level)], n, n, false);
      conv(join("encoder.", at + 1), 9, n, n, false);
      for (int i = at + 2; i < at + 5; ++i) memory(join("encoder.", i), n);
    }
    conv("encoder.17", 9, n, shape.latent, true);
  }
  void decoder() {
    const VaeShape& shape = shape_;
    const int64_t pixels = 3 * shape.patch * shape.patch;
    conv("decoder.1", 9, shape.latent, shape.decoder[0], true);
    for (int level = 0; level < 3; ++level) {
      const int at = 3 + 6 * level;
      const int64_t c = shape.decoder[size_t(level)];
      for (int i = at; i < at + 3; ++i) memory(join("decoder.", i), c);
      conv(join("decoder.", at + 4, ".conv"), shape.time[size_t(level)], c, c, false);
      conv(join("decoder.", at + 5), 9, c, shape.decoder[size_t(level) + 1], false);
    }
    conv("decoder.22", 9, shape.decoder[3], pixels, true);
  }
  void conv(const std::string& name, int64_t taps, int64_t in, int64_t out, bool bias) {
    add(name + ".weight", {taps, in, out});
    if (bias) add(name + ".bias", {out});
  }
  void memory(const std::string& name, int64_t c) {
    conv(name + ".conv.0", 18, c, c, true), conv(name + ".conv.2", 9, c, c, true), conv(name + ".conv.4", 9, c, c, true);
  }
  void add(const std::string& name, const Shape& shape) {
    entries_.push_back({.name = name, .tensor = Tensor::of(F32, shape), .offset = uint64_t(bytes_)});
    bytes_ += (entries_.back().tensor.bytes() + 255) / 256 * 256;
  }
  VaeShape shape_;
  int64_t bytes_ = 0;
  std::vector<WeightEntry> entries_;
};

}  // namespace

int64_t vae_decoder_macs(const VaeShape& s) {
  int64_t total = 9 * s.latent * s.decoder[0], pixels = 1, frames = 1;
  for (size_t level = 0; level < 3; ++level) {
    const int64_t c = s.decoder[level];
    total += pixels * frames * 3 * 36 * c * c;   // three memory blocks of 4 · 9 · c²
    pixels *= 4;
    total += pixels * frames * c * c * s.time[level];   // the growing stands behind the enlargement
    frames *= s.time[level];
    total += pixels * frames * 9 * c * s.decoder[level + 1];
  }
  return total + pixels * frames * 9 * s.decoder[3] * 3 * s.patch * s.patch;
}

Weights random_vae(const VaeShape& shape) { return RandomVae(shape).make(); }

}  // namespace folio
