// SPDX-License-Identifier: MIT
// A model on a device, with its cache and its programs: one program per step shape, recorded the first time it is asked for. It
// moves tokens and tensors and knows no architecture, no text and no sampling.
#pragma once
#include <list>
#include <memory>
#include <optional>
#include <span>

#include "graph/device.h"
#include "run/model.h"
#include "state/cache.h"

namespace folio {

struct EngineOptions {
  int64_t context = 0;               // longest sequence; 0: what the model was trained for
  int chunk = 512;                   // most tokens of one step
  int sequences = 1;                 // that may be open at once
  std::optional<DType> cache_type;   // of attention rows: f32, f16, bf16; absent: the model's natural one
  bool padded = false;               // step shapes of powers of two on every device: so that two devices record the same graph
};

// Tokens of one sequence for one step; logits are wanted for the last `wanted` of them.
struct Work {
  Seq* seq;
  std::span<const Token> tokens;
  int wanted;
};

class Engine {
 public:
  // Allocates the cache. Throws Error if the options make no sense for the model or there is no room.
  Engine(const Model& model, Device& device, const EngineOptions& options);

  Cache& cache() { return cache_; }
  const Model& model() const { return model_; }
  int64_t context() const { return cache_.options().context; }
  int chunk() const { return chunk_; }
  int64_t kv_bytes() const { return cache_.bytes(); }

  // Runs all works in one step: reads and writes rows, commits nothing. Each sequence must have room (Cache::reserve) and
  // stand in one work only. Host tensor [W, V] f32, the wanted rows of the works one after the other; valid until the next step.
  Tensor step(std::span<const Work> works);
  // The same without running: the program with its inputs set, for tracing.
  Program& prepare(std::span<const Work> works);

  // Steps through all tokens in chunks, committing each, and returns the logits of the last one. Throws Error if they do not fit.
  Tensor read(Seq& seq, std::span<const Token> tokens);

 private:
  struct Recorded {
    StepShape shape;
    std::unique_ptr<Program> program;
  };
  Program& program(const StepShape& shape);
  StepShape shape_of(std::span<const Work> works) const;

  const Model& model_;
  Device& device_;
  int chunk_;
  bool padded_;
  Cache cache_;
  std::list<Recorded> programs_;   // the most recently used first
};

}  // namespace folio
