// SPDX-License-Identifier: MIT
// A video model made on the spot: a flow model of random weights beside an autoencoder that loses nothing. Its encoder sorts the pixels of
// two frames of 2x2 into the 24 channels of a latent, its decoder sorts them back; so whatever is done to a clip can be told exactly.
#pragma once
#include <cmath>
#include <string>
#include <vector>

#include "base/random.h"
#include "weights_writer.h"

namespace folio {

inline constexpr int64_t tiny_z = 24;   // channel = frame·12 + colour·4 + row·2 + column

struct TinyVideo {
  bool encoder = true, decoder = true, flow = true;
  int64_t latent = tiny_z;   // what the flow model makes
  int64_t grid[3] = {3, 4, 4};
  std::string arch = "video_dit";
};

class TinyVideoWriter {
 public:
  explicit TinyVideoWriter(const TinyVideo& video) : video_(video) {
    w_.meta("arch", video.arch.c_str()).meta("name", "tiny").meta("vae.latent", video.latent);
    w_.meta("vae.pad", "front").meta("vae.time", std::vector<int64_t>{2}).meta("vae.spatial", 2);
    if (video.encoder) encoder();
    if (video.decoder) decoder();
    if (video.flow) flow();
  }
  std::string save(const std::string& path) {
    w_.save(path);
    return path;
  }

 private:
  using List = std::vector<std::string>;

  void encoder() {
    w_.meta("vae.encoder", List{"conv", "relu", "pool", "down", "memory"});
    std::vector<float> pool(2 * 3 * 6), down(9 * 6 * tiny_z);
    for (int f = 0; f < 2; ++f)
      for (int c = 0; c < 3; ++c) pool[size_t((f * 3 + c) * 6 + f * 3 + c)] = 1;
    for (int i = 0; i < 6; ++i)
      for (int row = 0; row < 2; ++row)
        for (int column = 0; column < 2; ++column) {   // the taps from the middle on meet the pixels (2y + row, 2x + column)
          const int tap = (1 + row) * 3 + 1 + column;
          down[size_t((tap * 6 + i) * tiny_z + i * 4 + row * 2 + column)] = 1;
        }
    same("encoder.0.weight", 3);
    w_.tensor("encoder.2.conv.weight", {2, 3, 6}, pool).tensor("encoder.3.weight", {9, 6, tiny_z}, down);
    memory("encoder.4.");
  }

  void decoder() {
    w_.meta("vae.decoder", List{"conv", "relu", "memory", "grow", "shuffle"});
    same("decoder.0.weight", tiny_z);
    memory("decoder.2.");
    std::vector<float> grow(2 * tiny_z * 12);
    for (int f = 0; f < 2; ++f)
      for (int i = 0; i < 12; ++i) grow[size_t((f * tiny_z + f * 12 + i) * 12 + i)] = 1;
    w_.tensor("decoder.3.conv.weight", {2, tiny_z, 12}, grow);
  }

  void same(const std::string& name, int64_t channels) {
    std::vector<float> w(size_t(channels * channels));
    for (int64_t i = 0; i < channels; ++i) w[size_t(i * channels + i)] = 1;
    w_.tensor(name, {1, channels, channels}, w);
  }

  // One that changes nothing: relu(0 + x), and pixels are never below zero.
  void memory(const std::string& name) {
    for (const auto& [part, taps] : {std::pair("conv.0", 18), {"conv.2", 9}, {"conv.4", 9}}) {
      w_.tensor(name + part + ".weight", {taps, tiny_z, tiny_z}, std::vector<float>(size_t(taps * tiny_z * tiny_z)));
      w_.tensor(name + part + ".bias", {tiny_z}, std::vector<float>(size_t(tiny_z)));
    }
  }

  void random(const std::string& name, const Shape& shape, float spread, float middle = 0) {
    std::vector<float> values;
    for (int64_t i = 0; i < shape.count(); ++i) values.push_back(middle + spread * normal(9, next_++));
    w_.tensor(name, shape, values);
  }
  void linear(const std::string& name, int64_t out, int64_t in, bool bias = true) {
    random(name + ".weight", {out, in}, 1 / std::sqrt(float(in)));
    if (bias) random(name + ".bias", {out}, 0.1f);
  }

  void flow() {
    const int64_t C = 16, H = 2, F = 8, L = 4, V = 6, patch = 2, channels = video_.latent * patch * patch, layers = 2, levels = 8;
    const int64_t N = video_.grid[0] * video_.grid[1] * video_.grid[2];
    w_.meta("video.grid", std::vector<int64_t>(video_.grid, video_.grid + 3)).meta("video.patch", patch).meta("video.dim", C);
    w_.meta("video.layers", layers).meta("video.heads", H).meta("video.ffn", F).meta("video.text", L).meta("video.caption", 8);
    w_.meta("video.levels", levels).meta("video.words", List{"", "<none>", "a", "red", "blue", "circle"});
    w_.meta("video.mixers", List{"log_linear", "mesa"}).meta("video.reverse", std::vector<int64_t>{0, 1});
    w_.meta("video.fps", 8).meta("video.steps", 3).meta("video.cfg", 2.0).meta("video.shift", 1.0);
    random("flow.mean", {video_.latent}, 0.0f, 0.5f);
    random("flow.std", {video_.latent}, 0.0f, 0.25f);
    random("flow.embed.weight", {V, C}, 1);
    random("flow.text.position", {L, C}, 1);
    random("flow.video.position", {N, C}, 1);
    random("flow.caption.embed.weight", {V, 8}, 1);
    for (const auto& [name, out, in] : {std::tuple("flow.in", C, channels), {"flow.time.0", C, int64_t(128)}, {"flow.time.2", C, C},
                                        {"flow.caption.0", C, 8 * L}, {"flow.caption.2", C, C}, {"flow.modulate", 6 * C, C},
                                        {"flow.modulate.out", 2 * C, C}, {"flow.out", channels, C}})
      linear(name, out, in);
    random("flow.modulate.table", {layers, 6 * C}, 0.3f);
    for (int64_t i = 0; i < layers; ++i) {
      const std::string name = join("flow.layer.", i, ".");
      linear(name + "mix.in", 4 * C, C, false);
      linear(name + "mix.gates", 2 * H + (i == 0 ? H * levels : 0), C);
      linear(name + "mix.out", C, C, false);
      random(name + "mix.norm.weight", {C / H}, 0.1f, 1);
      if (i == 1) random(name + "mix.ridge", {H, C / H}, 0.0f, 1);
      linear(name + "ffn.up", 2 * F, C);
      random(name + "ffn.space.weight", {9, 2 * F}, 0.3f);
      random(name + "ffn.space.bias", {2 * F}, 0.1f);
      random(name + "ffn.time.weight", {3, 2 * F}, 0.3f);
      random(name + "ffn.time.bias", {2 * F}, 0.1f);
      linear(name + "ffn.down", C, F);
    }
  }

  const TinyVideo video_;
  WeightsWriter w_;
  uint64_t next_ = 0;
};

inline std::string write_tiny_video(const std::string& path, const TinyVideo& video = {}) { return TinyVideoWriter(video).save(path); }

}  // namespace folio
