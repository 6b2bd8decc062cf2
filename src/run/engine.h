// SPDX-License-Identifier: MIT
// A model on a device, with its cache and its programs: one program per step shape, recorded the first time it is asked for. It
// moves tokens and tensors and knows no architecture and no text, and of sampling only who writes the inputs of a draw.
#pragma once
#include <list>
#include <memory>
#include <optional>
#include <span>

#include "graph/device.h"
#include "run/model.h"
#include "run/sampler.h"
#include "state/cache.h"

namespace folio {

struct EngineOptions {
  int64_t context = 0;               // longest sequence; 0: what the model was trained for
  int chunk = 512;                   // most tokens of one step
  int sequences = 1;                 // that may be open at once
  std::optional<DType> cache_type;   // of attention rows: f32, f16, bf16, q8_0 where all mixers can; absent: the model's natural one
  int64_t kv_bytes = 0;              // of all that sequences remember; 0: what `sequences` of the longest want
  bool remember = false;             // what texts have left behind, for others that begin alike (state/cache.h)
  int64_t host_bytes = 0;            // of host memory behind it, for what there is no room for any more; 0: none
  Evict evict = Evict::lru;
  bool deterministic = false;        // a token's logits have the same bits whatever else is in the step and however a text is cut
  bool padded = false;               // step shapes of powers of two on every device: so that two devices record the same graph
  bool expand_latents = false;       // latent attention without its shorter order of work (ops/mla.h): for comparisons
};

// Tokens of one sequence for one step; logits are wanted for the last `wanted` of them.
struct Work {
  Seq* seq;
  std::span<const Token> tokens;
  int wanted;
};

// Whose token is to be drawn after a wanted place: `text` is all that stands before it, this step's tokens included.
struct Draw {
  Sampler* sampler;
  std::span<const Token> text;
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
  // A step's program with its inputs set, not run: for tracing.
  Program& prepare(std::span<const Work> works) { return prepare(works, std::nullopt); }

  // Whether draw() spares more than it costs: on a device with memory of its own one token comes back in place of V logits.
  bool draws() const { return device_.apart(); }
  // As step, and draws the token that follows each wanted place where the logits are; each sampler must have a draw_shape() for this
  // context. [W] tokens, those that the samplers' pick() would give, -1 where it would throw; valid until the next step.
  std::span<const Token> draw(std::span<const Work> works, std::span<const Draw> draws);
  // The logits of the last step or draw, as step returns them.
  Tensor logits();

  // Steps through all tokens in chunks, committing each, and returns the logits of the last one. Throws Error if they do not fit.
  Tensor read(Seq& seq, std::span<const Token> tokens);

 private:
  struct Recorded {
    StepShape shape;
    std::optional<DrawShape> draw;   // absent: no token is drawn
    std::unique_ptr<Program> program;
  };
  Program& program(const StepShape& shape, const std::optional<DrawShape>& draw);
  Program& prepare(std::span<const Work> works, const std::optional<DrawShape>& draw);
  void run(Program& program, std::span<const Work> works);
  StepShape shape_of(std::span<const Work> works) const;

  const Model& model_;
  Device& device_;
  int chunk_;
  bool padded_, deterministic_, expand_latents_;
  Cache cache_;
  std::list<Recorded> programs_;   // the most recently used first
  Program* last_ = nullptr;        // what was run last, and how many of its rows were wanted
  int64_t wanted_ = 0;
  Workspace workspace_;            // of all programs
};

}  // namespace folio
