// SPDX-License-Identifier: MIT
// A mixer is how a layer looks at other tokens. It says what it remembers and records one step: project, append rows, output. It
// takes the residual stream along, so that its last product can add to it.
#pragma once
#include <memory>
#include <string>

#include "files/weights.h"
#include "ops/ops.h"
#include "run/model.h"

namespace folio {

class Mixer {
 public:
  virtual ~Mixer() = default;
  virtual LayerSpec state(DType rows) const = 0;
  virtual int64_t weight_bytes() const = 0;
  virtual int64_t weight_count() const = 0;   // elements of its matrices
  virtual int64_t reach() const { return INT64_MAX; }   // as Model::reach
  // residual + mix(x); x, residual and the result are [T, C] f32.
  virtual Tensor extend(Tensor x, Tensor residual, const LayerMemory& memory, const Step& step) const = 0;
};

// A profile in the metadata: "mixer.0." and what follows it; `layer` is the prefix of the layer's tensors, "layer.3.mix.".
struct MixerSource {
  const Weights& weights;
  std::string profile, layer;
  int64_t dim;
};

// The mixer of the kind that the profile names. Throws Error for a kind that is not known, listing those that are.
std::unique_ptr<Mixer> make_mixer(const MixerSource& source);

// Short forms that hand the step's tensors to the ops.
inline void append(Tensor x, const Pool& pool, const Step& s) {
  s.graph->record(Append{.x = x, .page = s.page[size_t(pool.kind)], .seq = s.seq, .pos = s.pos, .pool = pool.tensor});
}

// A positive integer of the metadata that must lie in 1..most: sizes from a file are not trusted.
inline int64_t size_in(const Weights& weights, const std::string& key, int64_t most = 1 << 24) {
  const int64_t n = weights.integer(key);
  check(n >= 1 && n <= most, weights.path(), ": '", key, "' is ", n, ", expected 1 to ", most);
  return n;
}

}  // namespace folio
