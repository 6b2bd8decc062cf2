// SPDX-License-Identifier: MIT
// One half of a thin autoencoder at work on one clip, frame by frame, at a memory that does not depend on how many there are. A net is
// causal in time and a memory block sees one frame back, so the input that each block had last is all that is carried over: streaming is
// exact, not an approximation of the whole clip.
//
// The net is cut into stages at the places where frames become more or fewer. A stage is one program for each phase of its units (the first
// or second frame that a `grow` makes, the first or second that a `pool` takes in); between programs values lie in buffers of ours. A tree
// of runs follows:                      z_t ─ 1× ─┬─ 2nd level, frame 0 ─┬─ tail, frame 0        (TAEHV's decoder: 1, 2 and 4 runs)
//                                                └─ … frame 1           └─ tail, frame 1 …
// so that only one frame of the largest level exists at any moment. A unit that sees the frame after as well is a stage of its own and a
// frame late: its first run only remembers, and finish() gives it the zeros that stand behind the clip. Frames that nobody wants are left
// out where no memory hangs on them.
//
// With a limit on memory a stage that would take more is cut into horizontal bands. A unit then reads rows of its input's buffer, with as
// many more above and below as its convolutions reach (no seams: the numbers are the same), and its output's rows go to its buffer; a
// block's go where its input was, and its input to where the frame before was, as soon as no later band will ask for those rows:
//            input  ░░░░░░░▓▓▓▓▓▓▓▒▒▒·········      ░ output already   ▓ this band   ▒ halo, still needed
// Buffers have a margin of zero rows at both ends, which stand for the padding.
#pragma once
#include <array>
#include <functional>

#include "graph/device.h"
#include "models/vae_net.h"

namespace folio {

class VaeStream {
 public:
  // Frames of `rows` × `cols` pixels of the net's input. limit: bytes that weights, state, buffers and temporaries may take together; 0: no
  // limit. Memory is reserved, but not touched on a CPU before the first frame. Throws Error if the image does not fit the net or the
  // limit is too low, saying what is needed.
  VaeStream(const VaeNet& net, Device& device, int64_t rows, int64_t cols, int64_t limit = 0);
  ~VaeStream();
  VaeStream(const VaeStream&) = delete;
  VaeStream& operator=(const VaeStream&) = delete;

  // Takes one input frame [rows, cols, in] and gives out the frames [rows', cols', out] that it completes, in order; each is the sink's for
  // the time of the call. Frames before number `from` of the clip are not given, nor computed where that can be helped.
  using Sink = std::function<void(float*)>;
  void push(const float* frame, int64_t from, const Sink& sink);
  // After the last: the frames that waited for one to come.
  void finish(int64_t from, const Sink& sink);

  int64_t bytes() const { return bytes_; }              // of weights, state, buffers, temporaries and the frame that is given out
  bool banded() const { return banded_; }
  int64_t frame_count() const;                          // numbers of an output frame

 private:
  // Rows of a value kept between programs, `margin` rows of zeros at both ends, padded to whole pages for Append.
  struct Buffer {
    int64_t rows = 0, cols = 0, channels = 0, margin = 0, offset = 0, bytes = 0;
    bool used = false;                                  // by some program
    bool lent = false, hosts = false;                   // lies in another that is not needed meanwhile; is that other
  };
  struct Stage {
    size_t first = 0, last = 0;                         // units [first, last)
    int grow = 1, pool = 1;
    bool memory = false;                                // in this stage or behind it
    bool late = false, begun = false;                   // sees the frame after; has seen one
    int taken = 0;                                      // frames of a pool so far
    std::vector<std::unique_ptr<Program>> programs;     // one for each phase
  };
  class Recorder;

  void lay_out(int64_t rows, int64_t cols);
  void lend(size_t unit);
  void compile(int64_t limit);
  void forget() const;
  const Buffer& buffer(size_t unit) const { return values_[size_t(home_[unit])]; }
  std::unique_ptr<Graph> record_whole(const Stage& stage, int phase) const;
  std::unique_ptr<Graph> record_bands(const Stage& stage, int phase, int64_t tile) const;
  void run(size_t stage, int64_t from, const Sink& sink);
  void behind(size_t stage, int64_t from, const Sink& sink);

  const VaeNet& net_;
  Device& device_;
  std::vector<Buffer> values_;                          // values_[u]: the input of unit u; one more: the output
  std::vector<int> home_;                               // which buffer of values_ that is: a block's output lies where its input did
  std::vector<Buffer> past_;                            // of units with memory; else empty
  std::vector<Stage> stages_;
  std::byte* memory_ = nullptr;
  int64_t memory_bytes_ = 0, bytes_ = 0;
  bool banded_ = false;
  int64_t given_ = 0;                                   // output frames of the clip so far
  std::vector<float> frame_;                            // the last one, from a device with memory of its own
};

}  // namespace folio
