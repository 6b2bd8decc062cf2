// SPDX-License-Identifier: MIT
// Models small enough to be made when a test needs them, with a tokenizer whose tokens are the 256 bytes and four control tokens.
// One has random weights; the other knows by heart which token follows which, so that a test knows what it will say:
//
//   a b c ... z <|im_end|>    1 2 ... 9 0 1 ...    a newline begins the alphabet    E is followed by é for ever    <bos> by a
#pragma once
#include <random>
#include <string>
#include <vector>

#include "weights_writer.h"

namespace folio {

struct TinyModel {
  bool random = false;       // weights; else the one that knows by heart
  bool tokenizer = true;
  bool add_bos = true;
  bool swapped = false;      // the tokens of a and b
  std::string chat;          // its template
  int context = 512;
};

constexpr Token tiny_bos = 256, tiny_eos = 257, tiny_im_start = 258, tiny_im_end = 259;
constexpr int tiny_tokens = 260, tiny_vocab = 264;   // four rows without a token

constexpr const char* chatml_template =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

inline int tiny_successor(int v) {
  switch (v) {
    case 'z': return tiny_im_end;
    case '9': return '0';
    case '\n': case tiny_bos: return 'a';
    case 'E': case 0xa9: return 0xc3;
    case 0xc3: return 0xa9;
    default: return v < 255 ? v + 1 : tiny_eos;
  }
}

inline void write_tiny_tokenizer(WeightsWriter& w, const TinyModel& model) {
  std::string bytes, types;
  std::vector<int32_t> ends;
  for (int v = 0; v < 256; ++v) bytes += char(model.swapped && (v == 'a' || v == 'b') ? 'a' + 'b' - v : v), types += char(0), ends.push_back(v + 1);
  for (const char* text : {"<bos>", "<eos>", "<|im_start|>", "<|im_end|>"})
    bytes += text, types += char(1), ends.push_back(int32_t(bytes.size()));
  w.meta("tokenizer.kind", "bpe").meta("tokenizer.bos", tiny_bos).meta("tokenizer.add_bos", model.add_bos ? 1 : 0);
  w.meta("tokenizer.eos", MetaValue(std::vector<int64_t>{tiny_eos, tiny_im_end}));
  w.bytes("tokenizer.bytes", {int64_t(bytes.size())}, bytes)
      .integers("tokenizer.ends", {tiny_tokens}, ends)
      .bytes("tokenizer.types", {tiny_tokens}, types);
}

// Writes the model to `path` and returns it.
inline std::string write_tiny_model(const std::string& path, const TinyModel& model = {}) {
  const int vocab = tiny_vocab, dim = model.random ? 32 : vocab, layers = model.random ? 2 : 1, head = 8, ffn = 48;
  std::mt19937 engine(7);
  std::normal_distribution<float> normal;
  auto matrix = [&](int64_t rows, int64_t cols, float scale) {
    std::vector<float> out(size_t(rows * cols));
    if (model.random)
      for (float& x : out) x = scale * normal(engine);
    return out;
  };
  WeightsWriter w;
  w.meta("arch", "decoder").meta("dim", dim).meta("layers", layers).meta("vocab", vocab).meta("context", model.context);
  w.meta("norm.kind", "rms").meta("norm.eps", MetaValue(1e-6));
  w.meta("mixer.0.kind", "attention")
      .meta("mixer.0.heads", 2)
      .meta("mixer.0.groups", 1)
      .meta("mixer.0.head_size", head)
      .meta("mixer.0.rope", "half");
  w.meta("ffn.0.kind", "dense").meta("ffn.0.dim", ffn).meta("ffn.0.gated", 1).meta("ffn.0.act", "silu");
  w.meta("layer.mixer", MetaValue(std::vector<int64_t>(size_t(layers)))).meta("layer.ffn", MetaValue(std::vector<int64_t>(size_t(layers))));
  if (!model.chat.empty()) w.meta("chat.template", model.chat.c_str());
  std::vector<float> embed = matrix(vocab, dim, 1), out = matrix(vocab, dim, 0.4f);
  if (!model.random)
    for (int v = 0; v < tiny_tokens; ++v) embed[size_t(v * dim + v)] = out[size_t(tiny_successor(v) * dim + v)] = 1;
  const std::vector<float> ones(size_t(dim), 1);
  w.tensor("embed.weight", {vocab, dim}, embed).tensor("head.weight", {vocab, dim}, out).tensor("norm_out.weight", {dim}, ones);
  for (int l = 0; l < layers; ++l) {
    const std::string at = "layer." + std::to_string(l) + ".";
    const float scale = 1 / std::sqrt(float(dim));
    w.tensor(at + "norm_mix.weight", {dim}, ones).tensor(at + "norm_ffn.weight", {dim}, ones);
    w.tensor(at + "mix.qkv.weight", {4 * head, dim}, matrix(4 * head, dim, 2 * scale))
        .tensor(at + "mix.out.weight", {dim, 2 * head}, matrix(dim, 2 * head, 0.5f));
    w.tensor(at + "ffn.up.weight", {ffn, dim}, matrix(ffn, dim, scale)).tensor(at + "ffn.gate.weight", {ffn, dim}, matrix(ffn, dim, scale));
    w.tensor(at + "ffn.down.weight", {dim, ffn}, matrix(dim, ffn, 0.3f));
  }
  if (model.tokenizer) write_tiny_tokenizer(w, model);
  w.save(path);
  return path;
}

}  // namespace folio
