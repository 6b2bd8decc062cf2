// SPDX-License-Identifier: MIT
// A weight file made ready to run: the flags that say how, and what comes of them. The same for every tool that runs a model.
#pragma once
#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "files/weights.h"
#include "run/engine.h"
#include "text/tokenizer.h"

namespace folio {

double seconds_now();   // of a clock that only goes forward

struct ModelFlags {
  std::string path;
  std::string device = "cpu";
  int threads = 0;
  int64_t context = 0;
  int chunk = 512;
  std::string cache_type = "auto";
  bool verify = false;
  bool deterministic = false;
  int sequences = 1;                             // texts at once
  uint64_t kv_bytes = 0;                         // of all that they remember; 0: what so many of the longest want
  bool remember = false;                         // what texts have left behind
  uint64_t host_bytes = 0;                       // of host memory behind that
  std::string policy = "lru";                    // what of it goes first
  std::string cache_file;                        // where that is kept between runs; empty: nowhere
};

// -m --device -t -c -b --cache-type --verify --deterministic. To be called first: of a flag that is given twice, the last one counts from here on.
void add_model_flags(CLI::App& app, ModelFlags& flags);

// "cpu", "cuda" or "cuda:N". Throws Error if there is no such device here; `threads` are the CPU's.
std::unique_ptr<Device> open_device(const std::string& name, int threads);

struct OpenModel {
  explicit OpenModel(const ModelFlags& flags);   // throws Error

  double load_seconds;                           // from here to ready; the first member, for it is also when that began
  Weights weights;
  std::unique_ptr<Model> model;
  std::optional<Tokenizer> tokenizer;            // absent if the file has none
  std::unique_ptr<Device> device;
  EngineOptions options;
  std::unique_ptr<Engine> engine;
  int threads;
  std::string cache_file;

  int64_t vocab() const { return model->vocab(); }
  // One line on standard error if the context is longer than what the model can look back on.
  void warn() const;
  uint64_t cache_fingerprint() const;
  // The ids of a text that is to be continued. Throws Error if there is no tokenizer.
  std::vector<Token> encode(std::string_view text) const;
  // Tokens that end a text: the tokenizer's, and the one that begins another, for models that learned from one long stream.
  std::vector<Token> ends() const;
  // What is remembered, to the cache file if there is one.
  void save_cache() const;
  // The matrices of the layers as one piece of memory: what a step reads most of.
  std::span<const std::byte> layers() const;
};

// "1 2 3" or "1,2,3" -> ids. Throws Error on anything else and on ids that the vocabulary does not have.
std::vector<Token> parse_tokens(const std::string& text, int64_t vocab);

}  // namespace folio
