// SPDX-License-Identifier: MIT
// A Device is where tensors live and ops run. A Program is a planned graph on a device, ready to run again and again.
// Tools reach the devices only through the functions at the end; nothing includes cpu/ or cuda/.
#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"

namespace folio {

// One node of a traced run with its outputs' bytes in host memory; valid during the callback only.
struct TracedNode {
  int index;
  const char* op;
  const std::string& scope;
  const std::vector<std::pair<std::string, Tensor>>& outputs;  // name, contiguous host tensor
};

class Program {
 public:
  virtual ~Program() = default;
  // Host memory of an input, to be written before run(); of an output, valid after run() until the next. Throws if unknown.
  virtual Tensor input(const std::string& name) = 0;
  virtual Tensor output(const std::string& name) = 0;
  virtual void run() = 0;
  // Runs `times` times, one behind the other, and returns the seconds of one run: by the device's own clock where it has one, so that
  // what the host does in between does not count.
  virtual double time(int times) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < times; ++i) run();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / times;
  }
  // Runs node by node and shows each one's outputs.
  virtual void trace(const std::function<void(const TracedNode&)>& after) = 0;
  virtual const Graph& graph() const = 0;
  virtual int64_t arena_bytes() const = 0;
};

// What a device can do at most, measured by loops that do nothing else: 10^9 bytes and 10^9 operations a second, a multiply and an add
// counted as two. 0: it has no such unit, or nobody measured it.
struct Limits {
  double read_gbps = 0, copy_gbps = 0;   // of memory; a copy's bytes are those read and those written
  double fp32_gflops = 0, f16_gflops = 0, bf16_gflops = 0, int8_gops = 0;
};

// Weights that are not kept on a device, but copied to it in every step.
struct Streamed {
  int layers = 0, resident = 0;    // of a model; those whose weights are kept
  int64_t bytes = 0;               // copied in each step
  double bytes_per_second = 0;     // of such a copy, when it was timed
};

// Memory in which programs work one after the other; empty at first, and the device's to fill. See Device::compile_in.
struct Workspace {
  std::shared_ptr<void> memory;
  int64_t bytes = 0;
};

class Device {
 public:
  virtual ~Device() = default;
  virtual std::string name() const = 0;                        // "cpu, 2 threads, avx512"
  virtual bool exact_shapes() const = 0;                       // true: a new step shape is cheap, never pad
  virtual std::optional<Limits> limits() { return {}; }        // measured now, in a moment; none: those of the host (tools/lib/machine.h)
  virtual bool apart() const { return false; }                 // its memory is not the host's: every output has to be copied
  virtual std::byte* alloc(int64_t bytes) = 0;                 // zeroed, aligned to 256; throws Error if there is no room
  virtual void free(std::byte* at, int64_t bytes) = 0;
  virtual void upload(std::byte* to, const void* from, int64_t bytes) = 0;
  virtual void download(void* to, const std::byte* from, int64_t bytes) = 0;
  virtual std::unique_ptr<Program> compile(std::unique_ptr<Graph> graph) = 0;
  // Of what has been compiled so far. All zero where everything is kept.
  virtual Streamed streamed() const { return {}; }
  // compile() for a program whose inputs are all written anew before each run, and whose outputs nobody reads once another one of the
  // workspace has been written to: they may share memory. Steps of a batch are of ever new shapes, and to touch fresh memory for the first
  // time takes a good part of a small step.
  virtual std::unique_ptr<Program> compile_in(Workspace&, std::unique_ptr<Graph> graph) { return compile(std::move(graph)); }
};

// The CPU with that many threads (0: all that this process may use).
std::unique_ptr<Device> cpu(int threads = 0);
// Which of the processor's instruction sets it works with from now on, "plain" for none but C++'s, "" for the one it began with. False if
// there is none of that name here. For comparisons: results differ in the last digits.
bool cpu_instructions(std::string_view name);
// The CPU, every op by its plain reference: slow, and what all else is held against.
std::unique_ptr<Device> reference(int threads = 0);
// The CUDA card of that number. Of a model's layers (scopes "layer.N.…") the first `layers` keep their weights on it, the others' stay
// in host memory and are streamed; by default as many are kept as there is room for. Throws Error if the build or the machine has none.
inline constexpr int layers_that_fit = -1;
std::unique_ptr<Device> cuda(int index = 0, int layers = layers_that_fit);

}  // namespace folio
