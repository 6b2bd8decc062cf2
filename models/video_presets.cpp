// SPDX-License-Identifier: MIT
#include "models/video_presets.h"

#include <bit>
#include <cmath>
#include <cstdlib>

#include "base/random.h"

namespace folio {

int64_t VideoPreset::parameters() const {
  int64_t count = 0;
  for (const auto& [name, shape] : tensors)
    if (name != "flow.mean" && name != "flow.std") count += shape.count();
  return count;
}

VideoPreset flow_preset(const VideoSize& s, const std::vector<std::string>& mixers, const std::vector<std::string>& words) {
  VideoPreset p;
  const int64_t C = s.dim, H = s.heads, F = s.ffn, c = s.channels();
  auto add = [&](const std::string& name, const Shape& shape) { p.tensors.emplace_back("flow." + name, shape); };
  auto linear = [&](const std::string& name, int64_t out, int64_t in, bool bias = true) {
    add(name + ".weight", {out, in});
    if (bias) add(name + ".bias", {out});
  };
  add("mean", {s.latent}), add("std", {s.latent});
  linear("embed", int64_t(words.size()), C, false);
  add("text.position", {s.text, C});
  linear("in", C, c);
  add("video.position", {s.tokens(), C});
  linear("time.0", C, 128), linear("time.2", C, C);
  linear("caption.embed", int64_t(words.size()), s.caption, false);
  linear("caption.0", C, s.caption * s.text), linear("caption.2", C, C);
  linear("modulate", 6 * C, C), add("modulate.table", {s.layers, 6 * C}), linear("modulate.out", 2 * C, C), linear("out", c, C);
  std::vector<std::string> kinds;
  std::vector<int64_t> reverse;
  for (int64_t i = 0; i < s.layers; ++i) {
    kinds.push_back(mixers[size_t(i) % mixers.size()]);
    reverse.push_back(i / 2 % 2);
    const std::string mix = join("layer.", i, ".mix."), ffn = join("layer.", i, ".ffn.");
    linear(mix + "in", 4 * C, C, false);
    linear(mix + "gates", 2 * H + (kinds.back() == "log_linear" ? H * s.levels : 0), C);
    if (kinds.back() == "mesa") add(mix + "ridge", {H, C / H});
    add(mix + "norm.weight", {C / H});
    linear(mix + "out", C, C, false);
    linear(ffn + "up", 2 * F, C), linear(ffn + "down", C, F);
    add(ffn + "space.weight", {9, 2 * F}), add(ffn + "space.bias", {2 * F});
    add(ffn + "time.weight", {3, 2 * F}), add(ffn + "time.bias", {2 * F});
  }
  p.meta = {{"arch", "video_dit"}, {"vae.latent", s.latent}, {"video.grid", std::vector<int64_t>{s.frames, s.rows, s.cols}},
            {"video.patch", s.patch}, {"video.dim", C}, {"video.layers", s.layers}, {"video.heads", H}, {"video.ffn", F},
            {"video.text", s.text}, {"video.caption", s.caption}, {"video.levels", s.levels}, {"video.words", words},
            {"video.mixers", kinds}, {"video.reverse", reverse}};
  return p;
}

// The words of tools/train_video.py's captions.
static const std::vector<std::string> shape_words = {
    "<pad>", "<null>", "a", "on", "background", "small", "large", "red", "green", "blue", "yellow", "magenta", "cyan", "white", "orange",
    "circle", "square", "triangle", "cross", "moving", "left", "right", "up", "down", "bouncing", "spinning", "growing", "shrinking",
    "black", "gray", "navy"};

static VideoPreset trained(const std::string& name, const std::string& what, VideoSize size) {
  size.levels = std::bit_width(uint64_t(size.sequence() - 1)) + 1;   // as many as a clip has
  VideoPreset p = flow_preset(size, {"log_linear", "mesa"}, shape_words);
  p.name = name, p.what = what;
  return p;
}

static VideoPreset seed() {
  return {.name = "seed-8.5m",
          .what = "clips of 64x64 in and out: Conv3d encoder, a frame a token, log-linear attention, Mesa, thin Conv3d decoder",
          .meta = {{"arch", "seed_video"}},
          .tensors = {{"seed.encoder.0.weight", {48, 3, 32}}, {"seed.encoder.0.bias", {32}}, {"seed.encoder.1.weight", {27, 32, 32}},
                      {"seed.encoder.1.bias", {32}}, {"seed.in.weight", {128, 32768}}, {"seed.in.bias", {128}},
                      {"seed.qkv.weight", {384, 128}}, {"seed.proj.weight", {128, 128}}, {"seed.proj.bias", {128}},
                      {"seed.norm.weight", {128}}, {"seed.norm.bias", {128}},
                      {"seed.mesa.weight", {128, 128}}, {"seed.mesa.bias", {128}}, {"seed.out.weight", {32768, 128}},
                      {"seed.out.bias", {32768}}, {"seed.decoder.0.weight", {27, 32, 8}}, {"seed.decoder.0.bias", {8}},
                      {"seed.decoder.1.weight", {16, 8, 3}},
                      {"seed.decoder.1.bias", {3}}}};
}

std::vector<VideoPreset> video_presets() {
  return {trained("vg-s", "17 frames of 64x64: latents [5, 8, 8, 16], 80 tokens, 6 layers of 192",
                  {.frames = 5, .rows = 4, .cols = 4, .latent = 16, .patch = 2, .dim = 192, .layers = 6, .heads = 6, .ffn = 480,
                   .text = 12, .caption = 32}),
          trained("vg-m", "33 frames of 128x128: latents [9, 16, 16, 16], 576 tokens, 8 layers of 256",
                  {.frames = 9, .rows = 8, .cols = 8, .latent = 16, .patch = 2, .dim = 256, .layers = 8, .heads = 8, .ffn = 640,
                   .text = 16, .caption = 32}),
          seed()};
}

VideoPreset video_preset(const std::string& name) {
  std::string known;
  for (const VideoPreset& preset : video_presets()) {
    if (preset.name == name) return preset;
    known += (known.empty() ? "" : ", ") + preset.name;
  }
  fail("there is no video model '", name, "'; there are ", known);
}

std::string list_video_presets() {
  std::string lines;
  for (const VideoPreset& preset : video_presets()) {
    std::string count = std::to_string(preset.parameters());
    for (size_t at = count.size(); at > 3; at -= 3) count.insert(at - 3, ",");
    lines += preset.name + std::string(22 - preset.name.size() - count.size(), ' ') + count + " parameters   " + preset.what + "\n";
  }
  return lines;
}

static void fill(const std::string& name, const Tensor& t, int64_t heads, uint64_t number) {
  float* to = t.at<float>();
  if (t.rank() > 1 && !name.ends_with(".ridge")) {
    const bool depthwise = name.ends_with("space.weight") || name.ends_with("time.weight");
    const float size = 1 / std::sqrt(float(t.rank() == 3 ? t.dim(0) * t.dim(1) : depthwise ? t.dim(0) : t.cols()));
    for (int64_t i = 0; i < t.count(); ++i) to[i] = size * normal(number, uint64_t(i));
  } else {
    const bool one = name.ends_with("norm.weight") || name.ends_with(".ridge") || name.ends_with(".std");
    std::fill_n(to, t.count(), one ? 1.0f : 0.0f);
    if (name.ends_with("gates.bias")) std::fill_n(to, heads, -4.0f), std::fill_n(to + heads, heads, 2.0f);
  }
}

Weights random_weights(const VideoPreset& preset, uint64_t number) {
  std::vector<WeightEntry> entries;
  int64_t bytes = 0;
  for (const auto& [name, shape] : preset.tensors) {
    entries.push_back({.name = name, .tensor = Tensor::of(F32, shape), .offset = uint64_t(bytes)});
    bytes += (entries.back().tensor.bytes() + 255) / 256 * 256;
  }
  std::shared_ptr<std::byte> memory(static_cast<std::byte*>(std::aligned_alloc(256, size_t(bytes))), std::free);
  check(memory != nullptr, "no memory for ", bytes >> 20, " MiB of random weights");
  const auto heads = preset.meta.find("video.heads");
  for (size_t i = 0; i < entries.size(); ++i) {
    entries[i].tensor.data = memory.get() + entries[i].offset;
    fill(entries[i].name, entries[i].tensor, heads == preset.meta.end() ? 0 : std::get<int64_t>(heads->second), number + i);
  }
  return Weights(preset.name.empty() ? "random" : preset.name, preset.meta, std::move(entries), memory);
}

}  // namespace folio
