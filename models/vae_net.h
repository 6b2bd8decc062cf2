// SPDX-License-Identifier: MIT
// One half of a thin autoencoder, read from the weight file: a straight line of units, each a few convolutions. What the layers are stands
// in the file as data; this is where they become ops to record, and where two exact identities are used up (they hold because the layer
// that goes in front has no bias, so that it maps the padding's zeros to zeros):
//   F1  a 1×1 convolution that makes s frames of one, or one of s, in front of another convolution: W'_f = W1_f · W, once, in float64
//   F2  a nearest ×2 enlargement in front of a 3×3: four 2×2 on the small image, one to a phase (ops/conv.h)
//
// The words of a half's list of layers, one to a position of the module it was trained as; tensors are HALF.POSITION.NAME:
//   clamp        3·tanh(x/3)                                      relu         of the convolution before it
//   conv         [k·k, Cin, Cout] (+ .bias), padded by k/2         down         the same, of every second row and column
//   up           nearest ×2, in front of a conv                   shuffle      pixel shuffle by 2
//   memory       x ⊕ x of the frame before (zeros at first) -> conv.0 [18, C, C], relu, conv.2, relu, conv.4, + x, relu; the first 9 taps
//                meet the frame before
//   wide_memory  the same pair -> conv.0 depthwise 7×7 [98, C], conv.1 1×1 [2, C, 4C] + bias, relu, conv.3 1×1 [1, 4C, C], + x
//   block        conv.0, relu, conv.2, relu, conv.4, + x, relu
//   block_norm   x + pool.3 · relu(group norm of 4 groups (pool.1) of pool.0 · x), then as block
//   pool         [s, C, C]: s frames become one, in front of a down   (.conv.weight)
//   grow         [s, C, C]: one frame becomes s                       (.conv.weight)
//   volume       [27, Cin, Cout] (+ .bias): a convolution that sees the frame before and the frame after, zeros at both ends of the clip
// No list in the file: TAEHV's layout. Numbers: arXiv has no paper of these; the repositories madebyollin/taehv and madebyollin/taesd are
// what the golden numbers of the tests were computed with.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "files/weights.h"
#include "ops/ops.h"

namespace folio {

// A recorded op. It reads value `x` of its unit: 0 is the unit's input, i what step i − 1 put out; `add` likewise, −1 is none.
struct VaeStep {
  enum class Kind { conv, clamp, shuffle, unshuffle, norm };
  Kind kind = Kind::conv;
  std::string scope;          // "decoder.3"
  int x = 0, add = -1;
  Tensor w, bias;             // of a convolution or a norm
  int time = 1, size = 1;     // taps in time, in height and in width
  int stride = 1, up = 1;
  int factor = 1;             // of a shuffle
  Act act = Act::none;
};

struct VaeUnit {
  std::vector<VaeStep> steps;
  int64_t in = 0, out = 0;    // channels
  int grow = 1;               // output frames of an input frame: the phases of the first step's weights
  int pool = 1;               // input frames of an output frame: the taps in time of the last step
  bool block = false;         // its output has the shape of its input
  bool memory = false;        // its first step sees the frame before
  bool late = false;          // it sees the frame after, too: what it puts out is of the frame before the one it was given
  bool whole = false;         // sees all of a frame at once: cannot be cut into bands
  int up = 1, down = 1;       // rows out : rows in = up : down
};

class VaeNet {
 public:
  // half: "encoder" or "decoder". The weights are used as `type` (F32, F16 or BF16); those that are stored so and need no fold stay where
  // the file has them, which must stay open. Throws Error, naming the tensor, if something is missing or does not fit.
  VaeNet(const Weights& weights, const std::string& half, DType type);

  const std::vector<VaeUnit>& units() const { return units_; }
  int64_t in() const { return units_.front().in; }
  int64_t out() const { return units_.back().out; }
  int up() const;                                       // rows of an output frame = rows of an input frame · up() / down()
  int down() const;
  int grow() const;                                     // output frames of an input frame
  int pool() const;                                     // input frames of an output frame
  int64_t weight_bytes() const;

  // All frames of a clip at once, x [N, H, W, in] of a graph; [N', H', W', out]. What streaming is held against.
  Tensor record_full(Tensor x) const;

 private:
  friend class VaeBuilder;
  std::vector<VaeUnit> units_;
  std::vector<std::shared_ptr<std::byte>> made_;        // weights that the file does not hold as they are used
};

// One unit on whole frames x [N, H, W, in]. past [1, H, W, in], of a late unit [2, H, W, in]: the last frames of the run before, left as
// the last of this one; absent: zeros stand before the first frame, and of a late unit behind the last as well. phase: of the frames that
// the unit makes, or of those that it makes one of; −1: all, else that one alone. acc: what the phases before have added up.
Tensor record_unit(Graph& graph, const VaeUnit& unit, Tensor x, Tensor past, int phase, Tensor acc);
// One step on rows of a frame, for those who cut it into bands: x holds all rows that it needs, `pad` says whether zeros stand above and
// below them, window which rows of its output lie in the image (ops/conv.h).
struct VaeCut {
  Tensor past, window, add;
  bool pad = true;
  int phase = -1;
};
Tensor record_step(Graph& graph, const VaeUnit& unit, size_t step, Tensor x, const VaeCut& cut);

}  // namespace folio
