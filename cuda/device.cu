// SPDX-License-Identifier: MIT
// A CUDA card as a device. compile() plans a graph into an arena on the card, runs its nodes once (modules are loaded, limits of
// shared memory set) and captures them, with the copies of inputs and outputs, as one CUDA graph; run() launches that graph and
// waits. Nothing in it ever needs an update: inputs and outputs lie in pinned memory of fixed addresses, all else on the card.
//
//   pinned inputs -> arena | node | node | ... | arena -> pinned outputs          one launch
//
// Given values. What alloc() handed out (page pools) is used where it lies. Anything else is host memory: a weight is copied to the
// card once and shared by all programs that use it at the same time, or, of layers that are not kept there, in every run
// (cuda/host_layers.h); what a node changes is copied there before a run and back after.
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>

#include "cuda/host_layers.h"
#include "cuda/lib/event.h"
#include "cuda/limits.h"
#include "cuda/table.h"
#include "graph/device.h"
#include "graph/plan.h"

namespace folio {

namespace {

// Whether FOLIO_CUDA_TIER asks for the Hopper tier. Its kernels, where there are any, then run on cards of compute capability 9; all
// else, and all without it, runs by those of the portable tier.
bool hopper_wanted() {
  const char* tier = std::getenv("FOLIO_CUDA_TIER");
  const std::string_view wish = tier && *tier ? tier : "portable";
  check(wish == "portable" || wish == "hopper", "FOLIO_CUDA_TIER=", tier, ": not a tier of CUDA kernels; there are portable, hopper");
  return wish == "hopper";
}

// The card, its stream, what alloc() has handed out and the weights that live there.
class Card {
 public:
  Card(int index, int layers) : index_(index), layers_(layers), hopper_(hopper_wanted()) {
    int count = 0;
    const cudaError_t found = cudaGetDeviceCount(&count);
    if (found != cudaSuccess) cudaGetLastError();
    check(found == cudaSuccess && count > 0, "cuda: no card that can be used: ", found == cudaSuccess ? "none found" : cudaGetErrorString(found));
    check(index >= 0 && index < count, "cuda: there is no card ", index, ": this machine has ", count, ", numbered from 0");
    cuda_check(cudaSetDevice(index), "cudaSetDevice");
    cuda_check(cudaGetDeviceProperties(&properties_, index), "cudaGetDeviceProperties");
    check(properties_.major >= 8, "cuda: ", properties_.name, " has compute capability ", properties_.major, ".", properties_.minor, "; 8.0 or more is needed");
    hopper_ &= properties_.major == 9;
    cuda_check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  ~Card() { cudaStreamDestroy(stream_); }
  Card(const Card&) = delete;
  Card& operator=(const Card&) = delete;

  cudaStream_t stream() const { return stream_; }
  const cudaDeviceProp& properties() const { return properties_; }
  bool hopper() const { return hopper_; }
  CudaQueue queue(std::byte* scratch) const { return {stream_, scratch, properties_.multiProcessorCount, hopper_, properties_.sharedMemPerBlockOptin}; }
  int index() const { return index_; }
  Streamed streamed;
  void wait() const { cuda_check(cudaStreamSynchronize(stream_), "a step"); }

  std::byte* alloc(int64_t bytes) {
    auto memory = std::make_unique<CardMemory>(std::max<int64_t>(bytes, 1));
    std::byte* at = memory->data();
    cuda_check(cudaMemsetAsync(at, 0, size_t(memory->bytes()), stream_), "cudaMemset");
    wait();
    handed_out_[at] = std::move(memory);
    return at;
  }
  void free(std::byte* at) { handed_out_.erase(at); }
  bool owns(const std::byte* at) const {
    auto after = handed_out_.upper_bound(const_cast<std::byte*>(at));
    if (after == handed_out_.begin()) return false;
    --after;
    return at < after->first + after->second->bytes();
  }
  // The card's copy of a host tensor's bytes. It lives as long as somebody holds it.
  std::shared_ptr<CardMemory> copy_of(const Tensor& host) {
    std::weak_ptr<CardMemory>& kept = copies_[{host.data, host.bytes()}];
    if (auto alive = kept.lock()) return alive;
    auto memory = std::make_shared<CardMemory>(host.bytes());
    upload(memory->data(), host.data, host.bytes());
    kept = memory;
    return memory;
  }
  // How many of a model's layers are kept here: what was asked for, else what fits beside `rest` bytes and a reserve for other programs.
  // The same for all programs of a model, which is known by the address of its first matrix.
  size_t kept_layers(const std::vector<GraphLayer>& layers, const std::byte* model, int64_t rest) {
    if (layers_ != layers_that_fit) return std::min(size_t(layers_), layers.size());
    const auto [found, is_new] = fitting_.try_emplace(model, 0);
    if (is_new) {
      size_t free = 0, total = 0;
      cuda_check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
      found->second = fitting_layers(layers, int64_t(free) - rest - int64_t(total / 20));
    }
    return std::min(size_t(found->second), layers.size());
  }
  const std::shared_ptr<HostWeights>& host_weights() {
    if (!host_weights_) host_weights_ = std::make_shared<HostWeights>();
    return host_weights_;
  }
  void upload(std::byte* to, const void* from, int64_t bytes) const {
    cuda_check(cudaMemcpyAsync(to, from, size_t(bytes), cudaMemcpyHostToDevice, stream_), "copy to the card");
    wait();
  }
  void download(void* to, const std::byte* from, int64_t bytes) const {
    cuda_check(cudaMemcpyAsync(to, from, size_t(bytes), cudaMemcpyDeviceToHost, stream_), "copy from the card");
    wait();
  }

 private:
  int index_, layers_;
  bool hopper_;
  cudaDeviceProp properties_{};
  cudaStream_t stream_ = nullptr;
  std::map<std::byte*, std::unique_ptr<CardMemory>> handed_out_;
  std::map<std::pair<const std::byte*, int64_t>, std::weak_ptr<CardMemory>> copies_;
  std::map<const std::byte*, int> fitting_;
  std::shared_ptr<HostWeights> host_weights_;
};

// Which values a graph's nodes change in place, and what each node puts out.
class Changes final : public Visitor {
 public:
  std::set<int> values;

 private:
  void change(const char*, Tensor& t) override { values.insert(t.value); }
};
class Outputs final : public Visitor {
 public:
  std::vector<std::pair<std::string, Tensor>> found;

 private:
  void output(const char* name, Tensor& t, Tensor*) override { found.emplace_back(name, t); }
};

class CudaProgram final : public Program {
 public:
  CudaProgram(std::unique_ptr<Graph> graph, std::shared_ptr<Card> card) : graph_(std::move(graph)), card_(std::move(card)), plan_(make_plan(*graph_)) {
    arena_ = std::make_unique<CardMemory>(plan_.arena);
    folio::place(*graph_, plan_, arena_->data(), take_given());
    make_ports();
    int64_t scratch = 0;
    for (const auto& node : graph_->nodes()) {
      const CudaLauncher& launcher = cuda_launcher(node->name());
      launches_.push_back({launcher.run, node->op()});
      scratch = std::max(scratch, launcher.scratch(node->op(), card_->properties().multiProcessorCount));
    }
    scratch_ = std::make_unique<CardMemory>(scratch);
    capture();
  }
  ~CudaProgram() override {
    if (replay_) cudaGraphExecDestroy(replay_);
  }
  Tensor input(const std::string& name) override { return named(name, Life::input); }
  Tensor output(const std::string& name) override {
    const Tensor t = named(name, Life::output);
    for (const Port& port : ports_)
      if (port.host == t.data && port.on_demand && port.bytes > 0) card_->download(port.host, port.card, port.bytes);
    return t;
  }
  void run() override {
    for (const Changed& c : changed_) card_->upload(c.card->data(), c.host.data, c.host.bytes());
    cuda_check(cudaGraphLaunch(replay_, card_->stream()), "launch of a captured step");
    card_->wait();
    for (const Changed& c : changed_) card_->download(c.host.data, c.card->data(), c.host.bytes());
  }
  double time(int times) override {
    run();   // what its nodes change in host memory is brought over, and the clock does not begin with a cold card
    Event start, end;
    start.record(card_->stream());
    for (int i = 0; i < times; ++i) cuda_check(cudaGraphLaunch(replay_, card_->stream()), "launch of a captured step");
    end.record(card_->stream());
    return end.seconds_since(start) / times;
  }
  void trace(const std::function<void(const TracedNode&)>& after) override;
  const Graph& graph() const override { return *graph_; }
  int64_t arena_bytes() const override { return arena_->bytes() + scratch_->bytes(); }

 private:
  struct Launch {
    void (*run)(const void*, const CudaQueue&);
    const void* op;
  };
  struct Changed {       // host memory that the graph's nodes change
    Tensor host;
    std::shared_ptr<CardMemory> card;
  };
  struct Port {          // an input or output: where the host sees it, and where the card does
    int value;
    std::byte *host, *card;
    int64_t bytes;
    bool on_demand;      // copied by output(), else by run()
  };

  // Where the card has each given value; the copies are kept.
  std::vector<std::byte*> take_given() {
    Changes changes;
    for (const auto& node : graph_->nodes()) node->visit(changes);
    std::vector<std::byte*> at(graph_->values().size(), nullptr);
    stream_layers(changes);
    if (stream_) stream_->each_place([&](int value, std::byte* place) { at[size_t(value)] = place; });
    for (size_t v = 0; v < at.size(); ++v) {
      const Value& value = graph_->values()[v];
      if (value.life != Life::given || at[v]) continue;
      at[v] = value.whole.data;
      if (card_->owns(value.whole.data) || value.whole.bytes() == 0) continue;
      const bool changes_it = changes.values.contains(int(v));
      auto copy = changes_it ? std::make_shared<CardMemory>(value.whole.bytes()) : card_->copy_of(value.whole);
      at[v] = copy->data();
      if (changes_it) {
        card_->upload(copy->data(), value.whole.data, value.whole.bytes());
        changed_.push_back({value.whole, copy});
      }
      copies_.push_back(std::move(copy));
    }
    return at;
  }
  // Of the layers that are not kept on the card.
  void stream_layers(const Changes& changes) {
    std::vector<Tensor> host;
    std::vector<bool> stays;
    int64_t rest = plan_.arena;
    for (const Value& value : graph_->values()) {
      const bool copied = value.life == Life::given && !card_->owns(value.whole.data);
      stays.push_back(!copied || changes.values.contains(int(host.size())));
      host.push_back(value.whole);
      if (copied) rest += value.whole.bytes();
    }
    std::vector<GraphLayer> layers = layers_of(*graph_, stays);
    if (layers.empty()) return;
    for (const GraphLayer& layer : layers)
      for (int v : layer.values) rest -= host[size_t(v)].bytes();
    const size_t all = layers.size(), kept = card_->kept_layers(layers, host[size_t(layers[0].values[0])].data, rest);
    if (kept == all) return;
    layers.erase(layers.begin(), layers.begin() + int64_t(kept));
    stream_ = std::make_unique<LayerStream>(card_->host_weights(), std::move(layers), host);
    card_->streamed = {int(all), int(kept), stream_->bytes(), card_->host_weights()->rate()};
  }
  void make_ports() {
    int64_t bytes = 0;
    for (size_t v = 0; v < graph_->values().size(); ++v) {
      const Value& value = graph_->values()[v];
      if (value.life != Life::input && value.life != Life::output) continue;
      ports_.push_back({int(v), nullptr, arena_->data() + plan_.place[v], value.whole.bytes(), value.on_demand});
      bytes += (value.whole.bytes() + 255) / 256 * 256;
    }
    pinned_ = std::make_unique<PinnedMemory>(bytes);
    std::byte* next = pinned_->data();
    for (Port& port : ports_) {
      port.host = next;
      next += (port.bytes + 255) / 256 * 256;
    }
  }
  void move(Life life) const {
    for (const Port& port : ports_) {
      if (graph_->values()[size_t(port.value)].life != life || port.bytes == 0 || port.on_demand) continue;
      if (life == Life::input) cuda_check(cudaMemcpyAsync(port.card, port.host, size_t(port.bytes), cudaMemcpyHostToDevice, card_->stream()), "an input");
      else cuda_check(cudaMemcpyAsync(port.host, port.card, size_t(port.bytes), cudaMemcpyDeviceToHost, card_->stream()), "an output");
    }
  }
  void queue_nodes() const {
    move(Life::input);
    if (stream_) stream_->begin(card_->stream());
    for (int i = 0; i < int(launches_.size()); ++i) queue_node(i);
    move(Life::output);
  }
  void queue_node(int i) const {
    const CudaQueue queue = card_->queue(scratch_->data());
    if (stream_) stream_->before(i, queue.stream);
    launches_[size_t(i)].run(launches_[size_t(i)].op, queue);
    if (stream_) stream_->after(i, queue.stream);
  }
  void capture() {
    queue_nodes();
    card_->wait();
    cuda_check(cudaStreamBeginCapture(card_->stream(), cudaStreamCaptureModeThreadLocal), "begin of a capture");
    queue_nodes();
    cudaGraph_t recorded = nullptr;
    cuda_check(cudaStreamEndCapture(card_->stream(), &recorded), "end of a capture");
    const cudaError_t made = cudaGraphInstantiate(&replay_, recorded, 0);
    cudaGraphDestroy(recorded);
    cuda_check(made, "cudaGraphInstantiate");
  }
  Tensor named(const std::string& name, Life life) const {
    for (const Port& port : ports_) {
      const Value& value = graph_->values()[size_t(port.value)];
      if (value.life != life || value.name != name) continue;
      Tensor t = value.whole;
      t.graph = nullptr;
      t.data = port.host;
      return t;
    }
    fail("program: no ", life == Life::input ? "input" : "output", " '", name, "'");
  }

  std::unique_ptr<Graph> graph_;
  std::shared_ptr<Card> card_;
  Plan plan_;
  std::unique_ptr<CardMemory> arena_, scratch_;
  std::unique_ptr<PinnedMemory> pinned_;
  std::vector<std::shared_ptr<CardMemory>> copies_;
  std::unique_ptr<LayerStream> stream_;   // null: all layers are kept on the card
  std::vector<Changed> changed_;
  std::vector<Port> ports_;
  std::vector<Launch> launches_;
  cudaGraphExec_t replay_ = nullptr;
};

void CudaProgram::trace(const std::function<void(const TracedNode&)>& after) {
  for (const Changed& c : changed_) card_->upload(c.card->data(), c.host.data, c.host.bytes());
  move(Life::input);
  if (stream_) stream_->begin(card_->stream());
  for (size_t i = 0; i < launches_.size(); ++i) {
    queue_node(int(i));
    Outputs outputs;
    graph_->nodes()[i]->visit(outputs);
    std::vector<std::vector<std::byte>> bytes;
    for (auto& [name, t] : outputs.found) {
      bytes.emplace_back(size_t(t.bytes()));
      card_->download(bytes.back().data(), t.data, t.bytes());
      t.data = bytes.back().data();
    }
    card_->wait();
    after({int(i), graph_->nodes()[i]->name(), graph_->nodes()[i]->scope, outputs.found});
  }
  for (const Changed& c : changed_) card_->download(c.host.data, c.card->data(), c.host.bytes());
}

class Cuda final : public Device {
 public:
  Cuda(int index, int layers) : card_(std::make_shared<Card>(index, layers)) {}
  std::string name() const override {
    const cudaDeviceProp& p = card_->properties();
    return join("cuda:", card_->index(), ", ", p.name, ", ", p.multiProcessorCount, " processors, ", p.totalGlobalMem >> 20, " MiB",
                card_->hopper() ? ", Hopper tier" : "");
  }
  bool exact_shapes() const override { return false; }
  std::optional<Limits> limits() override { return measure_limits(card_->properties(), card_->stream()); }
  bool apart() const override { return true; }
  std::byte* alloc(int64_t bytes) override { return card_->alloc(bytes); }
  void free(std::byte* at, int64_t) override { card_->free(at); }
  void upload(std::byte* to, const void* from, int64_t bytes) override { card_->upload(to, from, bytes); }
  void download(void* to, const std::byte* from, int64_t bytes) override { card_->download(to, from, bytes); }
  std::unique_ptr<Program> compile(std::unique_ptr<Graph> graph) override { return std::make_unique<CudaProgram>(std::move(graph), card_); }
  Streamed streamed() const override { return card_->streamed; }

 private:
  std::shared_ptr<Card> card_;
};

}  // namespace

std::unique_ptr<Device> cuda(int index, int layers) { return std::make_unique<Cuda>(index, layers); }

}  // namespace folio
