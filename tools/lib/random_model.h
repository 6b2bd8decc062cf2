// SPDX-License-Identifier: MIT
// Models for measuring: the shapes of known ones, with random weights made in memory. Of no use for anything but speed.
#pragma once
#include <map>
#include <string>

#include "files/weights.h"

namespace folio {

struct ModelShape {
  int64_t layers, dim, heads, groups, ffn, vocab, context;
  bool gpt2 = false;   // layer norms, biases, learned positions, an ffn without gate, one matrix for both ends; else like Llama
  int64_t rank = 0;    // of latent attention, with DeepSeek-V2's heads; 0: plain attention
  static constexpr int64_t nope = 128, rope = 64, value = 128;   // of its heads
  // Numbers that a token leaves in a layer if every head keeps a key and a value of its own.
  int64_t multi_head_row() const { return rank ? heads * (nope + rope + value) : 2 * dim; }
  int64_t experts = 0, chosen = 0;   // in each layer, each of `ffn`, and how many a token meets; 0: one ffn that all meet
};

// "1b", "8b" ... Throws Error with the list if there is none of that name.
const ModelShape& model_shape(const std::string& name);
std::string model_shapes();   // "1b, 8b, ..."

// Throws Error if there is no memory.
Weights random_weights(const ModelShape& shape, DType type);

// A piece of memory like any tensor of that format: numbers between -0.03 and 0.03, the bytes of whole blocks, some MiB that may be
// repeated at will: values do not matter for speed, only that they are finite, small and not zero.
std::vector<std::byte> random_bytes(DType type);

}  // namespace folio
