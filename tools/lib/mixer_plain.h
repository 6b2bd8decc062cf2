// SPDX-License-Identifier: MIT
// What the mixers are measured against: attention as its formula stands, the whole square of scores in memory; and a step of gated delta
// as its recurrence stands. Neither knows pages. Both are vectorised and use all threads: a rival that is slow would prove nothing.
#pragma once
#include <memory>
#include <vector>

#include "base/threads.h"
#include "tools/lib/mixer_run.h"

namespace folio {

// o = softmax(q·kᵀ)·v, the newest `tokens` of `depth` tokens asking, causally. Products by the house's own matrix product, over all
// keys, seen or not, as textbooks have it; v is kept turned, for that is how the product likes it.
class PlainAttention {
 public:
  PlainAttention(const MixerSize& size, int64_t tokens, int64_t depth, int threads);
  double run();                                     // seconds
  Tensor q, k, v;                                   // [H, tokens, D] scaled, [H, depth, D], [H, D, depth]: f32, random, to be overwritten
  Tensor output(int64_t head) const;                // [tokens, D]
  MixerMemory memory() const;                       // rows: keys and values
  static int64_t score_bytes(const MixerSize& size, int64_t tokens, int64_t depth) { return 4 * size.heads * tokens * depth; }
  static double flops(const MixerSize& size, int64_t tokens, int64_t depth) {
    return 4.0 * double(size.heads * size.width) * double(tokens) * double(depth);
  }

 private:
  struct Head {
    std::unique_ptr<Program> scores, mix;           // on the device of the worker whose head it is
    Tensor at;                                      // [tokens, depth]: the scores, then their softmax
  };
  int64_t tokens_, depth_;
  ThreadPool pool_;
  std::vector<std::unique_ptr<Device>> devices_;    // of one thread each, one a worker
  std::unique_ptr<DeviceTensors> given_;
  std::vector<Head> heads_;
};

// One token of gated delta after the other, S written in each:
//   S ← e^g·S      u = β(v − k·S)      S ← S + kᵀu      o = scale·q·S
class PlainDelta {
 public:
  PlainDelta(const MixerSize& size, ThreadPool& pool);
  double run();                                     // one token; seconds
  std::vector<float> q, k, v, g, beta, o;           // [H, D], g and beta [H]; random
  Tensor S;                                         // [H, D, D], zero before the first

 private:
  MixerSize size_;
  ThreadPool& pool_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<DeviceTensors> given_;
};

}  // namespace folio
