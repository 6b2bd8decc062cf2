// SPDX-License-Identifier: MIT
#include "cuda/host_layers.h"

#include <algorithm>
#include <charconv>

namespace folio {

namespace {

int64_t padded(int64_t bytes) { return (bytes + 255) / 256 * 256; }

// The N of "layer.N.mix"; -1 for any other scope.
int layer_in(const std::string& scope) {
  constexpr std::string_view word = "layer.";
  int number = -1;
  if (scope.starts_with(word)) std::from_chars(scope.data() + word.size(), scope.data() + scope.size(), number);
  return number;
}

// Which layer reads each given value: -1 none, -2 more than one, or a node that belongs to none.
class Readers final : public Visitor {
 public:
  explicit Readers(const Graph& graph) : layer(graph.values().size(), -1), first(layer.size(), -1), last(layer.size(), -1) {
    for (node = 0; node < int(graph.nodes().size()); ++node) {
      now = layer_in(graph.nodes()[size_t(node)]->scope);
      graph.nodes()[size_t(node)]->visit(*this);
    }
  }
  std::vector<int> layer, first, last;

 private:
  void input(const char*, Tensor& t) override {
    const auto v = size_t(t.value);
    if (first[v] < 0) layer[v] = now < 0 ? -2 : now, first[v] = node;
    else if (layer[v] != now) layer[v] = -2;
    last[v] = node;
  }
  void change(const char*, Tensor& t) override { layer[size_t(t.value)] = -2, first[size_t(t.value)] = node; }
  int node = 0, now = -1;
};

cudaEvent_t make_event(unsigned flags) {
  cudaEvent_t event;
  cuda_check(cudaEventCreateWithFlags(&event, flags), "cudaEventCreate");
  return event;
}

}  // namespace

HostRange::HostRange(const std::byte* from, int64_t bytes) : from_(from) {
  void* const at = const_cast<std::byte*>(from);
  for (unsigned flags : {cudaHostRegisterReadOnly, cudaHostRegisterDefault}) {   // not every system knows the first
    if (cudaHostRegister(at, size_t(bytes), flags) == cudaSuccess) return;
    cudaGetLastError();
  }
  copy_ = std::make_unique<PinnedMemory>(bytes);
  std::memcpy(copy_->data(), from, size_t(bytes));
}
HostRange::~HostRange() {
  if (!copy_) cudaHostUnregister(const_cast<std::byte*>(from_));
}

std::vector<GraphLayer> layers_of(const Graph& graph, const std::vector<bool>& stays) {
  const Readers readers(graph);
  std::map<int, GraphLayer> found;
  for (size_t v = 0; v < graph.values().size(); ++v) {
    const Value& value = graph.values()[v];
    if (value.life != Life::given || readers.layer[v] < 0 || value.whole.rank() < 2 || stays[v] || value.whole.bytes() == 0) continue;
    GraphLayer& layer = found.try_emplace(readers.layer[v], GraphLayer{readers.layer[v], readers.first[v], readers.last[v], {}}).first->second;
    layer.first = std::min(layer.first, readers.first[v]);
    layer.last = std::max(layer.last, readers.last[v]);
    layer.values.push_back(int(v));
    layer.bytes += padded(value.whole.bytes());
  }
  std::vector<GraphLayer> layers;
  for (auto& [number, layer] : found) layers.push_back(std::move(layer));
  std::sort(layers.begin(), layers.end(), [](const GraphLayer& a, const GraphLayer& b) { return a.first < b.first; });
  return layers;
}

int fitting_layers(const std::vector<GraphLayer>& layers, int64_t room) {
  int64_t all = 0, largest = 0;
  for (const GraphLayer& layer : layers) all += layer.bytes;
  if (all <= room) return int(layers.size());
  for (size_t n = layers.size(); n-- > 0;) {   // all but the first n are streamed
    all -= layers[n].bytes;
    largest = std::max(largest, layers[n].bytes);
    if (all + 2 * largest <= room) return int(n);
  }
  return 0;
}

HostWeights::HostWeights() { cuda_check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate"); }
HostWeights::~HostWeights() { cudaStreamDestroy(stream_); }

std::shared_ptr<HostRange> HostWeights::range(const std::byte* from, int64_t bytes) {
  std::weak_ptr<HostRange>& kept = ranges_[{from, bytes}];
  if (auto alive = kept.lock()) return alive;
  auto range = std::make_shared<HostRange>(from, bytes);
  kept = range;
  return range;
}

std::shared_ptr<CardMemory> HostWeights::places(int64_t bytes) {
  if (auto alive = places_.lock(); alive && alive->bytes() >= bytes) return alive;
  auto memory = std::make_shared<CardMemory>(bytes);
  places_ = memory;
  return memory;
}

double HostWeights::rate(std::byte* to, const std::byte* from, int64_t bytes) {
  if (rate_ > 0) return rate_;
  const cudaEvent_t start = make_event(cudaEventDefault), end = make_event(cudaEventDefault);
  float milliseconds = 0;
  for (int round = 0; round < 2; ++round) {   // the first one wakes the bus
    cuda_check(cudaEventRecord(start, stream_), "an event");
    cuda_check(cudaMemcpyAsync(to, from, size_t(bytes), cudaMemcpyHostToDevice, stream_), "copy of a layer");
    cuda_check(cudaEventRecord(end, stream_), "an event");
    cuda_check(cudaEventSynchronize(end), "copy of a layer");
    cuda_check(cudaEventElapsedTime(&milliseconds, start, end), "the time of a copy");
  }
  cudaEventDestroy(start);
  cudaEventDestroy(end);
  return rate_ = double(bytes) / (std::max(double(milliseconds), 1e-3) / 1e3);   // events do not tell less than a microsecond
}

LayerStream::LayerStream(std::shared_ptr<HostWeights> weights, std::vector<GraphLayer> layers, const std::vector<Tensor>& host)
    : weights_(std::move(weights)) {
  // Pages are registered once each: what shares one is one range.
  constexpr uintptr_t page = 4096;
  std::vector<std::pair<uintptr_t, uintptr_t>> pages, merged;
  int64_t largest = 0;
  for (const GraphLayer& layer : layers) {
    largest = std::max(largest, layer.bytes);
    for (int v : layer.values) {
      const auto at = reinterpret_cast<uintptr_t>(host[size_t(v)].data);
      pages.emplace_back(at / page * page, (at + uintptr_t(host[size_t(v)].bytes()) + page - 1) / page * page);
    }
  }
  std::sort(pages.begin(), pages.end());
  for (const auto& [from, to] : pages) {
    if (merged.empty() || from > merged.back().second) merged.emplace_back(from, to);
    else merged.back().second = std::max(merged.back().second, to);
  }
  for (const auto& [from, to] : merged) ranges_.push_back(weights_->range(reinterpret_cast<const std::byte*>(from), int64_t(to - from)));
  auto pinned = [&](const std::byte* at) {
    size_t r = 0;
    while (reinterpret_cast<uintptr_t>(at) >= merged[r].second) ++r;
    return ranges_[r]->of(at);
  };

  places_ = weights_->places(2 * largest);
  for (size_t turn = 0; turn < layers.size(); ++turn) {
    const GraphLayer& layer = layers[turn];
    check(turn < 2 || turns_[turn - 2].last < layer.first, "cuda: layers ", layer.number, " and ", layers[turn - 2].number, " run at once");
    std::byte* to = places_->data() + (turn % 2 ? largest : 0);
    const size_t first_copy = copies_.size();
    for (int v : layer.values) {
      const int64_t bytes = host[size_t(v)].bytes();
      copies_.push_back({v, pinned(host[size_t(v)].data), to, bytes});
      to += padded(bytes);
      bytes_ += bytes;
    }
    turns_.push_back({layer.first, layer.last, first_copy, copies_.size(), make_event(cudaEventDisableTiming), make_event(cudaEventDisableTiming)});
  }
  begun_ = make_event(cudaEventDisableTiming);
  weights_->rate(copies_[0].to, copies_[0].from, copies_[0].bytes);
}

LayerStream::~LayerStream() {
  for (const Turn& turn : turns_) cudaEventDestroy(turn.copied), cudaEventDestroy(turn.used);
  cudaEventDestroy(begun_);
}

void LayerStream::copy(size_t turn) const {
  if (turn >= turns_.size()) return;
  const Turn& t = turns_[turn];
  if (turn >= 2) cuda_check(cudaStreamWaitEvent(weights_->stream(), turns_[turn - 2].used, 0), "wait for a layer");
  for (size_t c = t.copies_from; c < t.copies_to; ++c) {
    const Copy& copy = copies_[c];
    cuda_check(cudaMemcpyAsync(copy.to, copy.from, size_t(copy.bytes), cudaMemcpyHostToDevice, weights_->stream()), "copy of a layer");
  }
  cuda_check(cudaEventRecord(t.copied, weights_->stream()), "an event");
}

void LayerStream::begin(cudaStream_t nodes) const {
  cuda_check(cudaEventRecord(begun_, nodes), "an event");
  cuda_check(cudaStreamWaitEvent(weights_->stream(), begun_, 0), "wait for a step");
  copy(0);
  copy(1);
}

void LayerStream::before(int node, cudaStream_t nodes) const {
  for (const Turn& turn : turns_)
    if (turn.first == node) cuda_check(cudaStreamWaitEvent(nodes, turn.copied, 0), "wait for a copy");
}

void LayerStream::after(int node, cudaStream_t nodes) const {
  for (size_t t = 0; t < turns_.size(); ++t) {
    if (turns_[t].last != node) continue;
    cuda_check(cudaEventRecord(turns_[t].used, nodes), "an event");
    copy(t + 2);
  }
}

}  // namespace folio
