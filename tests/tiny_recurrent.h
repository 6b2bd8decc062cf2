// SPDX-License-Identifier: MIT
// Small random models of recurrent layers, without a tokenizer: two layers of one profile of models/mixers/recurrent.h. A test may change
// what is written, to lie in exactly one place.
#pragma once
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "weights_writer.h"

namespace folio {

struct TinyRecurrent {
  std::string kind = "linear";   // "log_linear", "mesa"
  bool delta = true;             // write strengths; Mesa has them anyway
  int levels = 10, context = 512;
};

constexpr int tiny_recurrent_vocab = 64;

// Puts another value in the place of a metadata entry that is there, or adds one.
inline void set_meta(WeightsWriter& w, const std::string& key, const MetaValue& value) {
  std::erase_if(w.metadata, [&](const auto& m) { return m.key == key; });
  w.meta(key, value);
}

inline std::string write_tiny_recurrent(const std::string& path, const TinyRecurrent& model,
                                        const std::function<void(WeightsWriter&)>& change = nullptr) {
  const bool mesa = model.kind == "mesa", beta = mesa || model.delta;
  const int vocab = tiny_recurrent_vocab, dim = 16, H = 4, G = mesa ? H : 2, K = 8, V = 4;
  const int L = model.kind == "log_linear" ? model.levels : 0;
  std::mt19937 engine(7);
  std::normal_distribution<float> normal;
  auto random = [&](int64_t count, float scale) {
    std::vector<float> out(static_cast<size_t>(count));
    for (float& x : out) x = scale * normal(engine);
    return out;
  };
  WeightsWriter w;
  w.meta("arch", "decoder").meta("dim", dim).meta("layers", 2).meta("vocab", vocab).meta("context", model.context);
  w.meta("norm.kind", "rms").meta("norm.eps", 1e-6).meta("ffn.0.kind", "none");
  w.meta("layer.mixer", MetaValue(std::vector<int64_t>{0, 0})).meta("layer.ffn", MetaValue(std::vector<int64_t>{0, 0}));
  w.meta("mixer.0.kind", model.kind.c_str()).meta("mixer.0.heads", H).meta("mixer.0.groups", G).meta("mixer.0.key_size", K);
  w.meta("mixer.0.value_size", V).meta("mixer.0.conv", 4).meta("mixer.0.act", "silu").meta("mixer.0.qk_norm", "l2");
  w.meta("mixer.0.decay", "head").meta("mixer.0.beta", beta ? 1 : 0);
  if (L) w.meta("mixer.0.levels", L);
  w.tensor("embed.weight", {vocab, dim}, random(vocab * dim, 1)).tensor("norm_out.weight", {dim}, std::vector<float>(size_t(dim), 1));
  for (int l = 0; l < 2; ++l) {
    const std::string at = "layer." + std::to_string(l) + ".", mix = at + "mix.";
    const int channels = 2 * G * K + H * V, gates = H * (1 + beta + L);
    w.tensor(at + "norm_mix.weight", {dim}, std::vector<float>(size_t(dim), 1));
    w.tensor(mix + "in.weight", {channels, dim}, random(channels * dim, 0.3f));
    w.tensor(mix + "out.weight", {dim, H * V}, random(dim * H * V, 0.3f));
    w.tensor(mix + "conv.weight", {4, channels}, random(4 * channels, 0.5f));
    w.tensor(mix + "gates.weight", {gates, dim}, random(gates * dim, 0.3f));
    w.tensor(mix + "decay.rate", {H}, std::vector<float>(size_t(H), -0.1f));
    w.tensor(mix + "norm.weight", {V}, std::vector<float>(size_t(V), 1));
    if (L) w.tensor(mix + "level.weight", {H * L}, std::vector<float>(size_t(H * L), 1));
    if (mesa) w.tensor(mix + "ridge", {H, K}, std::vector<float>(size_t(H * K), 1));
  }
  if (change) change(w);
  w.save(path);
  return path;
}

}  // namespace folio
