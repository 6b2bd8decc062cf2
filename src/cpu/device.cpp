// SPDX-License-Identifier: MIT
// The CPU as a device. A program is a list of launchers; all workers walk it together and meet at a spin barrier after each
// node. Everything is allocated in compile(): run() touches no allocator.
#include <sys/mman.h>

#include <cstring>

#include "base/threads.h"
#include "cpu/simd/simd.h"
#include "cpu/table.h"
#include "graph/device.h"
#include "graph/plan.h"

namespace folio {

namespace {

// Zeroed memory straight from the system, given back at once. Large blocks may use huge pages: fewer misses while streaming.
class Block {
 public:
  Block() = default;
  explicit Block(int64_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    void* at = mmap(nullptr, size_t(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(at != MAP_FAILED, "cpu: out of memory: could not get ", bytes >> 20, " MiB");
    if (bytes >= 4 << 20) madvise(at, size_t(bytes), MADV_HUGEPAGE);
    data_ = static_cast<std::byte*>(at);
  }
  ~Block() { if (data_) munmap(data_, size_t(bytes_)); }
  Block(Block&& other) noexcept { *this = std::move(other); }
  Block& operator=(Block&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  std::byte* release() { return std::exchange(data_, nullptr); }

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

class CpuProgram final : public Program {
 public:
  // `shared`: null if the program's values are its own. `all_scratch`: of all programs, for it is used within an op only.
  CpuProgram(std::unique_ptr<Graph> graph, ThreadPool& pool, bool by_reference, Workspace* shared, Workspace& all_scratch)
      : graph_(std::move(graph)), pool_(pool) {
    plan_ = make_plan(*graph_);
    arena_ = shared ? part_of(*shared, plan_.arena) : std::make_shared<Block>(plan_.arena);
    place(*graph_, plan_, arena_->data());
    for (const auto& node : graph_->nodes()) {
      const CpuLauncher& launcher = cpu_launcher(node->name());
      launches_.push_back({by_reference ? launcher.reference : launcher.run, node->op()});
      if (!by_reference) scratch_bytes_ = std::max(scratch_bytes_, launcher.scratch(node->op(), pool.size()));
    }
    scratch_ = part_of(all_scratch, scratch_bytes_);
    all_ = [this](Worker w) {
      w.scratch = scratch_->data();
      for (const Launch& launch : launches_) {
        launch.run(launch.op, w);
        w.barrier();
      }
    };
  }
  Tensor input(const std::string& name) override { return named(name, Life::input); }
  Tensor output(const std::string& name) override { return named(name, Life::output); }
  void run() override { pool_.run(all_); }
  void trace(const std::function<void(const TracedNode&)>& after) override;
  const Graph& graph() const override { return *graph_; }
  int64_t arena_bytes() const override { return plan_.arena + scratch_bytes_; }

 private:
  struct Launch {
    void (*run)(const void*, Worker);
    const void* op;
  };
  // Programs that came before keep what they have.
  static std::shared_ptr<Block> part_of(Workspace& shared, int64_t bytes) {
    if (!shared.memory || shared.bytes < bytes) {
      shared.bytes = bytes + bytes / 4;   // and for steps that are a little larger
      shared.memory = std::make_shared<Block>(shared.bytes);
    }
    return std::static_pointer_cast<Block>(shared.memory);
  }
  Tensor named(const std::string& name, Life life) const {
    const int v = graph_->find(name);
    check(v >= 0 && graph_->values()[size_t(v)].life == life, "program: no ", life == Life::input ? "input" : "output", " '", name, "'");
    Tensor t = graph_->values()[size_t(v)].whole;
    t.graph = nullptr;
    t.data = arena_->data() + plan_.place[size_t(v)];
    return t;
  }
  std::unique_ptr<Graph> graph_;
  ThreadPool& pool_;
  Plan plan_;
  int64_t scratch_bytes_ = 0;
  std::shared_ptr<Block> arena_, scratch_;   // of so many bytes, or more
  std::vector<Launch> launches_;
  std::function<void(Worker)> all_;
};

// Collects what a node has written.
class Outputs final : public Visitor {
 public:
  std::vector<std::pair<std::string, Tensor>> found;

 private:
  void output(const char* name, Tensor& t, Tensor*) override { found.emplace_back(name, t); }
};

void CpuProgram::trace(const std::function<void(const TracedNode&)>& after) {
  for (size_t i = 0; i < launches_.size(); ++i) {
    pool_.run([&](Worker w) {
      w.scratch = scratch_->data();
      launches_[i].run(launches_[i].op, w);
    });
    Outputs outputs;
    graph_->nodes()[i]->visit(outputs);
    after({int(i), graph_->nodes()[i]->name(), graph_->nodes()[i]->scope, outputs.found});
  }
}

class Cpu final : public Device {
 public:
  Cpu(int threads, bool by_reference) : pool_(threads > 0 ? threads : hardware_threads()), by_reference_(by_reference) {}
  std::string name() const override {
    return join(by_reference_ ? "reference" : "cpu", ", ", pool_.size(), pool_.size() == 1 ? " thread" : " threads",
                by_reference_ ? "" : ", ", by_reference_ ? "" : simd().name);
  }
  bool exact_shapes() const override { return true; }
  std::byte* alloc(int64_t bytes) override { return Block(bytes).release(); }
  void free(std::byte* at, int64_t bytes) override { if (at) munmap(at, size_t(bytes)); }
  void upload(std::byte* to, const void* from, int64_t bytes) override { std::memcpy(to, from, size_t(bytes)); }
  void download(void* to, const std::byte* from, int64_t bytes) override { std::memcpy(to, from, size_t(bytes)); }
  std::unique_ptr<Program> compile(std::unique_ptr<Graph> graph) override {
    return std::make_unique<CpuProgram>(std::move(graph), pool_, by_reference_, nullptr, scratch_);
  }
  std::unique_ptr<Program> compile_in(Workspace& shared, std::unique_ptr<Graph> graph) override {
    return std::make_unique<CpuProgram>(std::move(graph), pool_, by_reference_, &shared, scratch_);
  }

 private:
  ThreadPool pool_;
  Workspace scratch_;
  bool by_reference_;
};

}  // namespace

bool cpu_instructions(std::string_view name) { return force_simd(name); }
std::unique_ptr<Device> cpu(int threads) { return std::make_unique<Cpu>(threads, false); }
std::unique_ptr<Device> reference(int threads) { return std::make_unique<Cpu>(threads, true); }

}  // namespace folio
