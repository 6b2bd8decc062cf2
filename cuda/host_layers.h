// SPDX-License-Identifier: MIT
// Layers whose weights are larger than the card has room for. They stay in host memory, and each step copies them, layer after layer,
// into one of two places on the card, on a stream of its own, while the layer before computes:
//
//   copies    | L5 -> A | L6 -> B |         | L7 -> A |        | L8 -> B |
//   nodes     | L0 .. L4 (resident) |  L5   |   L6    |   L7   |    L8   |
//                                     waits for "copied 5"; copy 7 waits for "used 5", and so on
//
// All of it is captured with the step. A layer is what the scopes of nodes call "layer.N"; of its given values the matrices are streamed,
// vectors and tables are so small that they stay on the card. What is read by two layers stays, too.
#pragma once
#include <map>
#include <memory>
#include <vector>

#include "cuda/memory.h"
#include "graph/device.h"

namespace folio {

// Host memory from which the card copies while a graph is replayed: the bytes where they are, if the system lets the card have them,
// else a copy. They must outlive it.
class HostRange {
 public:
  HostRange(const std::byte* from, int64_t bytes);
  ~HostRange();
  HostRange(const HostRange&) = delete;
  HostRange& operator=(const HostRange&) = delete;
  const std::byte* of(const std::byte* at) const { return copy_ ? copy_->data() + (at - from_) : at; }

 private:
  const std::byte* from_;
  std::unique_ptr<PinnedMemory> copy_;   // null: registered
};

// The given matrices of one layer, in a graph.
struct GraphLayer {
  int number;                       // in the model
  int first, last;                  // nodes that use them
  std::vector<int> values;
  int64_t bytes = 0;                // each value padded to 256
};
// The layers of a graph in the order in which they run; none if its nodes have no such scopes. `stays[v]`: not to be counted.
std::vector<GraphLayer> layers_of(const Graph& graph, const std::vector<bool>& stays);

// How many of these layers' weights can stay on a card that has room for so many bytes of them and of the two places.
int fitting_layers(const std::vector<GraphLayer>& layers, int64_t room);

// What the programs of a card share: host memory, the two places, the stream of copies.
class HostWeights {
 public:
  HostWeights();
  ~HostWeights();
  HostWeights(const HostWeights&) = delete;
  HostWeights& operator=(const HostWeights&) = delete;
  cudaStream_t stream() const { return stream_; }
  std::shared_ptr<HostRange> range(const std::byte* from, int64_t bytes);
  std::shared_ptr<CardMemory> places(int64_t bytes);
  // Bytes a second of such a copy, timed once when nothing else runs.
  double rate(std::byte* to, const std::byte* from, int64_t bytes);
  double rate() const { return rate_; }

 private:
  cudaStream_t stream_ = nullptr;
  std::map<std::pair<const std::byte*, int64_t>, std::weak_ptr<HostRange>> ranges_;
  std::weak_ptr<CardMemory> places_;
  double rate_ = 0;
};

// The copies of one program.
class LayerStream {
 public:
  // Of these layers; `host[v]` is where a value lies in host memory.
  LayerStream(std::shared_ptr<HostWeights> weights, std::vector<GraphLayer> layers, const std::vector<Tensor>& host);
  ~LayerStream();
  LayerStream(const LayerStream&) = delete;
  LayerStream& operator=(const LayerStream&) = delete;

  // Calls f(value, address) for each streamed value: where nodes find it.
  template <class F> void each_place(F f) const {
    for (const Copy& copy : copies_) f(copy.value, copy.to);
  }
  int64_t bytes() const { return bytes_; }   // copied in each step
  // To be called before a step, before each of its nodes and after it, eagerly or while `nodes` is captured.
  void begin(cudaStream_t nodes) const;
  void before(int node, cudaStream_t nodes) const;
  void after(int node, cudaStream_t nodes) const;

 private:
  struct Copy {
    int value;
    const std::byte* from;
    std::byte* to;
    int64_t bytes;
  };
  struct Turn {                // of a layer
    int first, last;           // nodes
    size_t copies_from, copies_to;
    cudaEvent_t copied, used;
  };
  void copy(size_t turn) const;

  std::shared_ptr<HostWeights> weights_;
  std::vector<std::shared_ptr<HostRange>> ranges_;
  std::shared_ptr<CardMemory> places_;
  std::vector<Copy> copies_;
  std::vector<Turn> turns_;
  cudaEvent_t begun_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace folio
