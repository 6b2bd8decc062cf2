// SPDX-License-Identifier: MIT
#include "tools/lib/random_model.h"

#include <cstdlib>
#include <cstring>
#include <random>

#include "base/error.h"

namespace folio {

namespace {

const std::map<std::string, ModelShape> shapes = {
    {"1b", {22, 2048, 32, 4, 5632, 32000, 8192}},             // TinyLlama
    {"8b", {32, 4096, 32, 8, 14336, 128256, 8192}},           // Llama 3 8B
    {"0.5b", {24, 896, 14, 2, 4864, 151936, 8192}},           // Qwen2 0.5B
    {"mla-0.5b", {14, 1536, 16, 16, 4096, 32000, 8192, false, 512}},   // DeepSeek-V2-Lite's layers, fewer and narrower, all dense
    {"mla-2m", {2, 256, 4, 4, 512, 1000, 8192, false, 64}},
    {"moe-1b", {12, 1024, 16, 4, 768, 32000, 8192, false, 0, 32, 4}},            // of no known model: 1.0 B, of which a token meets 0.2 B
    {"moe-7b", {16, 2048, 16, 16, 1024, 50304, 4096, false, 0, 64, 8}},          // OLMoE 1B-7B, but for its norms of q and k
    {"gpt2", {12, 768, 12, 12, 3072, 50257, 8192, true}},     // GPT-2, but for a longer context
    {"15m", {6, 288, 6, 6, 768, 32000, 8192}},                // stories15M
    {"260k", {5, 64, 8, 4, 172, 512, 8192}},                  // stories260K
};

// Lays the tensors out in one block of memory.
class RandomModel {
 public:
  RandomModel(const ModelShape& s, DType type) : shape_(s), type_(type) {
    add("embed.weight", type, {s.vocab, s.dim});
    if (s.gpt2) add("embed.positions", F32, {s.context, s.dim});
    else add("head.weight", type, {s.vocab, s.dim});
    norm("norm_out");
    const int64_t head = s.dim / s.heads;
    for (int64_t l = 0; l < s.layers; ++l) {
      const std::string layer = join("layer.", l, ".");
      norm(layer + "norm_mix");
      if (s.rank) {
        product(layer + "mix.in", s.heads * (s.nope + s.rope) + s.rank + s.rope, s.dim);
        add(layer + "mix.latent_norm.weight", F32, {s.rank});
        product(layer + "mix.k_up", s.heads * s.nope, s.rank);
        product(layer + "mix.v_up", s.heads * s.value, s.rank);
        product(layer + "mix.out", s.dim, s.heads * s.value);
      } else {
        product(layer + "mix.qkv", (s.heads + 2 * s.groups) * head, s.dim);
        product(layer + "mix.out", s.dim, s.heads * head);
      }
      norm(layer + "norm_ffn");
      if (s.experts) add_experts(layer + "ffn.");
      else add_ffn(layer + "ffn.");
    }
  }

  Weights make() {
    // Whole pages from the system, as a mapped file would have them.
    std::shared_ptr<std::byte> memory(static_cast<std::byte*>(std::aligned_alloc(4096, size_t((bytes_ + 4095) / 4096 * 4096))), std::free);
    check(memory != nullptr, "no memory for ", bytes_ >> 20, " MiB of random weights");
    for (auto& entry : entries_) {
      entry.tensor.data = memory.get() + entry.offset;
      fill(entry.tensor);
    }
    return Weights("random", meta(), std::move(entries_), memory);
  }

 private:
  void add_ffn(const std::string& layer) {
    if (!shape_.gpt2) product(layer + "gate", shape_.ffn, shape_.dim);
    product(layer + "up", shape_.ffn, shape_.dim);
    product(layer + "down", shape_.dim, shape_.ffn);
  }
  void add_experts(const std::string& layer) {
    add(layer + "router.weight", F32, {shape_.experts, shape_.dim});
    for (const char* name : {"gate", "up"}) add(join(layer, "experts.", name, ".weight"), type_, {shape_.experts, shape_.ffn, shape_.dim});
    add(layer + "experts.down.weight", type_, {shape_.experts, shape_.dim, shape_.ffn});
  }
  std::map<std::string, MetaValue, std::less<>> meta() const {
    const ModelShape& s = shape_;
    const std::vector<int64_t> same(static_cast<size_t>(s.layers), 0);   // one profile for all layers
    std::map<std::string, MetaValue, std::less<>> meta;
    meta["arch"] = "decoder";
    meta["dim"] = s.dim;
    meta["layers"] = s.layers;
    meta["vocab"] = s.vocab;
    meta["context"] = s.context;
    meta["norm.kind"] = s.gpt2 ? "layer" : "rms";
    meta["norm.eps"] = 1e-5;
    meta["mixer.0.kind"] = s.rank ? "mla" : "attention";
    meta["mixer.0.heads"] = s.heads;
    if (s.rank) {
      meta["mixer.0.key_size"] = s.nope;
      meta["mixer.0.rope_size"] = s.rope;
      meta["mixer.0.value_size"] = s.value;
      meta["mixer.0.rank"] = s.rank;
    } else {
      meta["mixer.0.groups"] = s.groups;
      meta["mixer.0.head_size"] = s.dim / s.heads;
    }
    meta["mixer.0.rope"] = s.rank ? "adjacent" : s.gpt2 ? "none" : "half";
    meta["embed.positions"] = s.gpt2 ? "learned" : "none";
    meta["ffn.0.kind"] = s.experts ? "experts" : "dense";
    if (s.experts) meta["ffn.0.experts"] = s.experts, meta["ffn.0.chosen"] = s.chosen, meta["ffn.0.scoring"] = "softmax";
    meta["ffn.0.dim"] = s.ffn;
    meta["ffn.0.gated"] = int64_t(!s.gpt2);
    meta["ffn.0.act"] = s.gpt2 ? "gelu_tanh" : "silu";
    meta["layer.mixer"] = same;
    meta["layer.ffn"] = same;
    return meta;
  }
  void norm(const std::string& name) {
    add(name + ".weight", F32, {shape_.dim});
    if (shape_.gpt2) add(name + ".bias", F32, {shape_.dim});
  }
  void product(const std::string& name, int64_t out, int64_t in) {
    add(name + ".weight", type_, {out, in});
    if (shape_.gpt2) add(name + ".bias", F32, {out});
  }
  void add(const std::string& name, DType type, const Shape& shape) {
    const bool fits = shape[shape.rank - 1] % format(type).block == 0;
    WeightEntry entry{.name = name, .tensor = Tensor::of(fits ? type : F16, shape), .offset = uint64_t(bytes_)};
    bytes_ += (entry.tensor.bytes() + 255) / 256 * 256;
    entries_.push_back(entry);
  }
  void fill(const Tensor& t) {
    auto& block = blocks_[t.type];
    if (block.empty()) block = random_bytes(t.type);
    for (int64_t at = 0; at < t.bytes(); at += int64_t(block.size()))
      std::memcpy(t.data + at, block.data(), size_t(std::min(t.bytes() - at, int64_t(block.size()))));
  }
  ModelShape shape_;
  DType type_;
  int64_t bytes_ = 0;
  std::vector<WeightEntry> entries_;
  std::map<DType, std::vector<std::byte>> blocks_;
};

}  // namespace

std::string model_shapes() {
  std::string names;
  for (const auto& [name, shape] : shapes) names += (names.empty() ? "" : ", ") + name;
  return names;
}

const ModelShape& model_shape(const std::string& name) {
  const auto found = shapes.find(name);
  check(found != shapes.end(), "there is no shape '", name, "'; there are ", model_shapes());
  return found->second;
}

Weights random_weights(const ModelShape& shape, DType type) { return RandomModel(shape, type).make(); }

std::vector<std::byte> random_bytes(DType type) {
  constexpr int64_t n = 1 << 20;
  std::vector<float> numbers(size_t(n), 0.0f);
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(-0.03f, 0.03f);
  for (float& x : numbers) x = uniform(random);
  std::vector<std::byte> bytes(size_t(bytes_of(type, n)));
  format(type).from_float(numbers.data(), bytes.data(), n);
  return bytes;
}

}  // namespace folio
