// SPDX-License-Identifier: MIT
// A golden model with something changed on purpose: what its logits do not notice, the goldens do not test.
#pragma once
#include "fixtures.h"

namespace folio {

// With one key of its metadata changed; the text "-" takes the key away. Or with a tensor whose numbers stand one place further on.
struct Changed {
  Weights original;
  std::vector<std::byte> turned;
  Weights weights;
  std::unique_ptr<Model> model;
  Changed(const std::string& file, const std::string& key, const MetaValue& value)
      : original(file), weights("changed", change(original.metadata(), key, value), original.tensors(), nullptr),
        model(load_model(weights)) {}
  Changed(const std::string& file, size_t tensor)
      : original(file), weights("changed", original.metadata(), turn(tensor), nullptr), model(load_model(weights)) {}
  static Metadata change(Metadata meta, const std::string& key, const MetaValue& value) {
    if (value == MetaValue(std::string("-"))) meta.erase(key);
    else meta[key] = value;
    return meta;
  }

 private:
  std::vector<WeightEntry> turn(size_t i) {
    std::vector<WeightEntry> tensors = original.tensors();
    Tensor& t = tensors[i].tensor;
    turned.assign(reinterpret_cast<const std::byte*>(t.data), reinterpret_cast<const std::byte*>(t.data) + t.bytes());
    std::rotate(turned.begin(), turned.begin() + format(t.type).bytes, turned.end());
    t.data = turned.data();
    return tensors;
  }
};

inline std::vector<float> logits_of(const Model& model, std::span<const Token> prompt, DType rows, int chunk = 7) {
  const auto device = cpu(2);
  Engine engine(model, *device, {.context = 256, .chunk = std::max(chunk, 8), .cache_type = rows});
  Seq seq = engine.cache().open({});
  return all_logits(engine, seq, prompt, chunk);
}

}  // namespace folio
