// SPDX-License-Identifier: MIT
// The simulated CUDA runtime. Device memory is one region of the host's that is closed to everybody except running kernels and
// copies, so that host code which follows a device pointer dies there and then. Streams are queues: with late landing nothing runs
// before somebody waits for it, which shows results read too early and sources changed too soon. A captured graph is what was queued,
// each piece with those that it has to wait for, by its stream or by events; a replay takes them in any order that this leaves open.
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <set>
#include <utility>

#include "engine.h"

using folio::sim::config;

namespace {

using Work = std::function<void()>;
using Clock = std::chrono::steady_clock;

constexpr size_t room = size_t(2) << 30, guard = 256;  // bytes of device memory; before and after each block of it
constexpr std::byte guard_byte{0xa5};

}  // namespace

struct CUgraph_st {
  struct Node { Work work; std::set<int> after; };
  std::vector<Node> nodes;
  bool ended = false;            // nothing is captured into it any more
};
struct CUgraphExec_st { std::vector<CUgraph_st::Node> nodes; };

struct CUstream_st {
  bool blocking = true;          // waits for the default stream, and it for this one
  std::deque<Work> queue;
  uint64_t submitted = 0, finished = 0;
  std::shared_ptr<CUgraph_st> capture;
  std::set<int> front;           // nodes of the capture that the next one comes after
  bool origin = false;           // the capture began here
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  bool broken = false;           // the capture
};

struct CUevent_st {
  CUstream_st* stream = nullptr;
  uint64_t position = 0;         // of the stream, when it is reached
  std::shared_ptr<CUgraph_st> capture;
  std::set<int> front;           // nodes of the capture that it comes after
  Clock::time_point time;
};

namespace {

struct Region { size_t bytes; bool host; };

struct Runtime {
  std::byte* device = nullptr;
  std::map<uintptr_t, Region> blocks;   // of device memory and of pinned host memory, by address
  std::vector<CUstream_st*> streams;
  CUstream_st default_stream;
  cudaError_t last_error = cudaSuccess;
  int open = 0;                         // OpenDevices that live
  struct sigaction on_fault_before;
};

Runtime& runtime() {
  static Runtime* const one = new Runtime;
  return *one;
}

void explain_fault(int, siginfo_t* info, void*) {
  const auto* at = static_cast<std::byte*>(info->si_addr);
  const Runtime& r = runtime();
  static constexpr char words[] = "sim: host code follows a pointer to device memory\n";
  if (r.device && at >= r.device && at < r.device + room && write(2, words, sizeof words - 1) < 0) _exit(1);
  sigaction(SIGSEGV, &r.on_fault_before, nullptr);  // the access is tried again, and then dies as it would have without us
}

std::byte* device_memory() {
  Runtime& r = runtime();
  if (r.device) return r.device;
  void* at = mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  folio::check(at != MAP_FAILED, "sim: no address space for device memory");
  struct sigaction action {};
  action.sa_sigaction = explain_fault;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGSEGV, &action, &r.on_fault_before);
  return r.device = static_cast<std::byte*>(at);
}

cudaError_t failed(cudaError_t code) { return runtime().last_error = code; }

CUstream_st& stream_of(cudaStream_t s) { return s ? *s : runtime().default_stream; }

// After a failure nothing that was queued runs any more.
void drop_all() {
  Runtime& r = runtime();
  r.default_stream.queue.clear();
  r.default_stream.finished = r.default_stream.submitted;
  for (CUstream_st* s : r.streams) s->queue.clear(), s->finished = s->submitted;
}

void finish(CUstream_st& s, uint64_t position) {
  while (s.finished < position && !s.queue.empty()) {
    const Work work = std::move(s.queue.front());
    s.queue.pop_front();
    ++s.finished;
    try {
      work();
    } catch (const folio::sim::Failure&) {
      drop_all();
      throw;
    }
  }
}
void finish(CUstream_st& s) { finish(s, s.submitted); }

void finish_all() {
  finish(runtime().default_stream);
  for (CUstream_st* s : runtime().streams) finish(*s);
}

// Some stream is recording in a mode that forbids calls which the graph would not contain.
bool capture_forbids() {
  for (CUstream_st* s : runtime().streams)
    if (s->capture && s->mode == cudaStreamCaptureModeGlobal) return s->broken = true;
  return false;
}

cudaError_t submit(cudaStream_t stream, Work work) {
  CUstream_st& s = stream_of(stream);
  if (s.capture) {
    s.capture->nodes.push_back({std::move(work), s.front});
    s.front = {int(s.capture->nodes.size()) - 1};
    return cudaSuccess;
  }
  if (!stream) {
    for (CUstream_st* other : runtime().streams) {
      if (other->capture && other->blocking) {
        other->broken = true;
        return failed(cudaErrorStreamCaptureImplicit);
      }
      if (other->blocking) finish(*other);
    }
  } else if (s.blocking) {
    finish(runtime().default_stream);
  }
  s.queue.push_back(std::move(work));
  ++s.submitted;
  using folio::sim::Landing;
  if (config().landing == Landing::early || (config().landing == Landing::any_time && folio::sim::by_chance())) finish(s);
  return cudaSuccess;
}

// Runs the nodes of a graph, of those that wait for nothing more the first, the last, each in turn, or any.
void replay(const std::vector<CUgraph_st::Node>& nodes) {
  std::vector<size_t> left;
  std::vector<std::vector<int>> followers(nodes.size());
  std::set<int> ready;
  for (size_t n = 0; n < nodes.size(); ++n) {
    left.push_back(nodes[n].after.size());
    for (int before : nodes[n].after) followers[size_t(before)].push_back(int(n));
    if (nodes[n].after.empty()) ready.insert(int(n));
  }
  for (bool last = false; !ready.empty(); last = !last) {
    auto next = ready.begin();
    switch (config().order) {
      case folio::sim::Order::forward: break;
      case folio::sim::Order::reverse: next = std::prev(ready.end()); break;
      case folio::sim::Order::round_robin: next = last ? std::prev(ready.end()) : ready.begin(); break;
      case folio::sim::Order::random: std::advance(next, folio::sim::random_word() % ready.size()); break;
    }
    const int done = *next;
    ready.erase(next);
    nodes[size_t(done)].work();
    for (int n : followers[size_t(done)])
      if (--left[size_t(n)] == 0) ready.insert(n);
  }
}

// Whether every node of that front is among those which the nodes of `last` come after, or one of them.
bool joined(const CUgraph_st& graph, const std::set<int>& front, const std::set<int>& last) {
  std::set<int> before = last;
  for (int n = int(graph.nodes.size()); n-- > 0;)
    if (before.contains(n)) before.insert(graph.nodes[size_t(n)].after.begin(), graph.nodes[size_t(n)].after.end());
  return std::all_of(front.begin(), front.end(), [&](int n) { return before.contains(n); });
}

// The block that [at, at + bytes) lies in; null if in none or not wholly.
const Region* region_of(const void* at, size_t bytes) {
  auto& blocks = runtime().blocks;
  auto it = blocks.upper_bound(uintptr_t(at));
  if (it == blocks.begin()) return nullptr;
  --it;
  return uintptr_t(at) + bytes <= it->first + it->second.bytes ? &it->second : nullptr;
}

// Pinned memory comes in pages, and no page twice.
cudaError_t add_host_block(void* at, size_t bytes) {
  constexpr uintptr_t page = 4096;
  const uintptr_t first = uintptr_t(at) / page, last = (uintptr_t(at) + std::max<size_t>(bytes, 1) - 1) / page;
  for (const auto& [address, region] : runtime().blocks)
    if (region.host && address / page <= last && first <= (address + std::max<size_t>(region.bytes, 1) - 1) / page)
      return failed(cudaErrorHostMemoryAlreadyRegistered);
  runtime().blocks[uintptr_t(at)] = {bytes, true};
  return cudaSuccess;
}

bool in_device(const void* at) {
  const Runtime& r = runtime();
  return r.device && at >= r.device && at < r.device + room;
}

size_t allocated() {
  size_t bytes = 0;
  for (const auto& [at, region] : runtime().blocks) bytes += region.host ? 0 : region.bytes;
  return bytes;
}

// Whether nobody wrote past an end of a block; what was written is said once.
void check_guards() {
  const folio::sim::OpenDevice open;
  for (const auto& [address, region] : runtime().blocks) {
    if (region.host) continue;
    auto* begin = reinterpret_cast<std::byte*>(address);
    bool good = true;
    for (std::byte* at : {begin - guard, begin + region.bytes}) {
      folio::sim::allow(at, guard);
      good &= std::all_of(at, at + guard, [](std::byte b) { return b == guard_byte; });
      std::memset(at, int(guard_byte), guard);
      folio::sim::forbid(at, guard);
    }
    if (!good) throw folio::sim::Failure(folio::join("device memory: a block of ", region.bytes, " bytes was written past its ends"));
  }
}

// Which side each end of a copy is on must be what `kind` says.
bool valid_copy(const void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const bool to_device = in_device(to), from_device = in_device(from);
  if ((to_device && !region_of(to, bytes)) || (from_device && !region_of(from, bytes))) return false;
  switch (kind) {
    case cudaMemcpyHostToHost: return !to_device && !from_device;
    case cudaMemcpyHostToDevice: return to_device && !from_device;
    case cudaMemcpyDeviceToHost: return !to_device && from_device;
    case cudaMemcpyDeviceToDevice: return to_device && from_device;
    case cudaMemcpyDefault: return true;
  }
  return false;
}

cudaError_t wait_for(CUstream_st& s, uint64_t position) {
  if (s.capture || capture_forbids()) {
    s.broken = true;
    return failed(cudaErrorStreamCaptureUnsupported);
  }
  ++folio::sim::stats().syncs;
  finish(s, position);
  check_guards();
  return cudaSuccess;
}

// Asking makes progress, so that a loop that polls comes to its end.
cudaError_t ask(CUstream_st& s, uint64_t position) {
  if (s.finished >= position) return cudaSuccess;
  finish(s, s.finished + 1);
  return cudaErrorNotReady;
}

}  // namespace

namespace folio::sim {

OpenDevice::OpenDevice() {
  if (runtime().open++ == 0) mprotect(device_memory(), room, PROT_READ | PROT_WRITE);
}
OpenDevice::~OpenDevice() {
  if (--runtime().open == 0) mprotect(device_memory(), room, PROT_NONE);
}

size_t device_allocations() {
  size_t n = 0;
  for (const auto& [at, region] : runtime().blocks) n += !region.host;
  return n;
}

size_t device_bytes() { return allocated(); }

void check_global(const void* at, size_t bytes, const char* what, Here here) {
  if (region_of(at, bytes)) return;
  refuse(what, " of ", bytes, " bytes at ", here,
         in_device(at) ? " lies outside every block of device memory" : " is not in memory that the device sees");
}

void launch(const char* kernel, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, std::function<void()> body) {
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  const size_t most = config().compute_capability >= 90 ? largest_shared_sm90 : largest_shared_sm80;
  if (threads == 0 || threads > 1024 || block.z > 64 || grid.x == 0 || grid.x > 0x7fffffffu || grid.y == 0 || grid.y > 65535 ||
      grid.z == 0 || grid.z > 65535 || shared_bytes > most) {
    failed(cudaErrorInvalidConfiguration);
    return;
  }
  std::string name = kernel;  // what the compiler calls the function of which the kernel is a template argument
  if (const size_t at = name.find("kernel = "); at != name.npos) name = name.substr(at + 9, name.size() - at - 10);
  if (config().instead_of_running) return config().instead_of_running(name, unsigned(threads), shared_bytes);
  submit(stream, [=, body = std::move(body)] { run_grid(name, grid, block, shared_bytes, body); });
}

}  // namespace folio::sim

cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : failed(cudaErrorInvalidValue); }
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  if (device != 0) return failed(cudaErrorInvalidValue);
  *p = {"simulator", config().compute_capability / 10, config().compute_capability % 10, config().multiprocessors, 1024, 4 << 20, config().memory,
        48 << 10, config().compute_capability >= 90 ? folio::sim::largest_shared_sm90 : folio::sim::largest_shared_sm80};
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = config().memory;
  *free = *total - std::min(*total, allocated());
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  if (capture_forbids()) return failed(cudaErrorStreamCaptureUnsupported);
  ++folio::sim::stats().syncs;
  finish_all();
  check_guards();
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return std::exchange(runtime().last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return runtime().last_error; }
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInvalidResourceHandle: return "invalid resource handle";
    case cudaErrorNotReady: return "device not ready";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    case cudaErrorHostMemoryAlreadyRegistered: return "part or all of the requested memory range is already mapped";
    case cudaErrorNotSupported: return "operation not supported";
    case cudaErrorStreamCaptureUnmatched: return "capture was not ended in the stream in which it began";
    case cudaErrorStreamCaptureUnjoined: return "capturing stream has unjoined work";
    case cudaErrorStreamCaptureIsolation: return "dependency created on uncaptured work in another stream";
    case cudaErrorCapturedEvent: return "operation not permitted on an event last recorded in a capturing stream";
    case cudaErrorStreamCaptureImplicit: return "operation would make the legacy stream depend on a capturing blocking stream";
  }
  return "unrecognized error code";
}

cudaError_t cudaMalloc(void** at, size_t bytes) {
  Runtime& r = runtime();
  if (capture_forbids()) return failed(cudaErrorStreamCaptureUnsupported);
  std::byte* begin = device_memory() + guard;
  for (const auto& [address, region] : r.blocks) {  // the first gap that is wide enough
    if (region.host) continue;
    if (begin + bytes + guard <= reinterpret_cast<std::byte*>(address) - guard) break;
    begin = reinterpret_cast<std::byte*>((address + region.bytes + 3 * guard - 1) / guard * guard);
  }
  if (bytes > config().memory || allocated() + bytes > config().memory || begin + bytes + guard > r.device + room) return failed(cudaErrorMemoryAllocation);
  const folio::sim::OpenDevice open;
  folio::sim::allow(begin - guard, bytes + 2 * guard);
  std::memset(begin, 0xff, bytes);
  std::memset(begin - guard, int(guard_byte), guard);
  std::memset(begin + bytes, int(guard_byte), guard);
  folio::sim::forbid(begin - guard, guard);
  folio::sim::forbid(begin + bytes, guard);
  r.blocks[uintptr_t(begin)] = {bytes, false};
  *at = begin;
  return cudaSuccess;
}
cudaError_t cudaFree(void* at) {
  if (!at) return cudaSuccess;
  const auto found = runtime().blocks.find(uintptr_t(at));
  if (found == runtime().blocks.end() || found->second.host) return failed(cudaErrorInvalidValue);
  if (cudaDeviceSynchronize() != cudaSuccess) return runtime().last_error;
  folio::sim::forbid(at, found->second.bytes);
  runtime().blocks.erase(found);
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** at, size_t bytes, unsigned) {
  *at = std::aligned_alloc(4096, (std::max<size_t>(bytes, 1) + 4095) / 4096 * 4096);
  return *at ? add_host_block(*at, bytes) : failed(cudaErrorMemoryAllocation);
}
cudaError_t cudaFreeHost(void* at) {
  finish_all();
  const cudaError_t code = at ? cudaHostUnregister(at) : cudaSuccess;
  if (code == cudaSuccess) std::free(at);
  return code;
}
cudaError_t cudaHostRegister(void* at, size_t bytes, unsigned) {
  if (!config().registers_host_memory) return failed(cudaErrorNotSupported);
  return add_host_block(at, bytes);
}
cudaError_t cudaHostUnregister(void* at) { return runtime().blocks.erase(uintptr_t(at)) ? cudaSuccess : failed(cudaErrorInvalidValue); }

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (!valid_copy(to, from, bytes, kind)) return failed(cudaErrorInvalidValue);
  // A graph may run when the host is elsewhere: what it copies from and to must be pinned.
  CUstream_st& s = stream_of(stream);
  if (s.capture && !(region_of(to, bytes) && region_of(from, bytes))) return s.broken = true, failed(cudaErrorStreamCaptureUnsupported);
  return submit(stream, [=] {
    const folio::sim::OpenDevice open;
    std::memmove(to, from, bytes);
    folio::sim::Stats& stats = folio::sim::stats();
    if (in_device(to) && !in_device(from)) ++stats.copies_to_device, stats.bytes_to_device += bytes;
    if (!in_device(to) && in_device(from)) ++stats.copies_to_host, stats.bytes_to_host += bytes;
  });
}
cudaError_t cudaMemsetAsync(void* at, int value, size_t bytes, cudaStream_t stream) {
  if (!in_device(at) || !region_of(at, bytes)) return failed(cudaErrorInvalidValue);
  return submit(stream, [=] {
    const folio::sim::OpenDevice open;
    std::memset(at, value, bytes);
  });
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t code = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  return code == cudaSuccess ? wait_for(runtime().default_stream, runtime().default_stream.submitted) : code;
}
cudaError_t cudaMemset(void* at, int value, size_t bytes) { return cudaMemsetAsync(at, value, bytes, nullptr); }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  runtime().streams.push_back(*stream = new CUstream_st);
  (*stream)->blocking = flags != cudaStreamNonBlocking;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  finish(*stream);
  std::erase(runtime().streams, stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return wait_for(stream_of(stream), stream_of(stream).submitted); }
cudaError_t cudaStreamQuery(cudaStream_t stream) { return ask(stream_of(stream), stream_of(stream).submitted); }
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  CUstream_st& s = stream_of(stream);
  if (event->capture) {
    if (event->capture->ended) return failed(cudaErrorCapturedEvent);
    if (s.capture && s.capture != event->capture) return s.broken = true, failed(cudaErrorStreamCaptureIsolation);
    if (!s.capture) s.capture = event->capture, s.front.clear(), s.origin = s.broken = false;   // the stream joins the capture
    s.front.insert(event->front.begin(), event->front.end());
    return cudaSuccess;
  }
  if (s.capture) return s.broken = true, failed(cudaErrorStreamCaptureIsolation);   // the graph would wait for what is not in it
  return submit(stream, [from = event->stream, position = event->position] {
    if (from) finish(*from, position);
  });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return *event = new CUevent_st, cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  finish_all();
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  CUstream_st& s = stream_of(stream);
  event->capture = s.capture;
  event->front = s.front;
  if (s.capture) return cudaSuccess;
  event->stream = &s;
  event->position = s.submitted + 1;
  return submit(stream, [event] { event->time = Clock::now(); });
}
cudaError_t cudaEventQuery(cudaEvent_t event) { return event->stream ? ask(*event->stream, event->position) : cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t event) { return event->stream ? wait_for(*event->stream, event->position) : cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  for (const CUevent_st* e : {from, to})
    if (!e->stream || e->stream->finished < e->position) return failed(cudaErrorNotReady);
  *milliseconds = std::chrono::duration<float, std::milli>(to->time - from->time).count();
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  if (!stream || stream->capture) return failed(cudaErrorStreamCaptureUnsupported);
  finish(*stream);
  stream->capture = std::make_shared<CUgraph_st>();
  stream->front.clear();
  stream->origin = true;
  stream->mode = mode;
  stream->broken = false;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (!stream || !stream->capture) return failed(cudaErrorInvalidValue);
  if (!stream->origin) return failed(cudaErrorStreamCaptureUnmatched);
  const auto captured = stream->capture;
  bool all_joined = true, broken = false;
  for (CUstream_st* s : runtime().streams)
    if (s->capture == captured) {
      all_joined = all_joined && joined(*captured, s->front, stream->front);
      broken = broken || s->broken;
      s->capture = nullptr;
      s->origin = false;
    }
  captured->ended = true;
  *graph = nullptr;
  if (broken) return failed(cudaErrorStreamCaptureInvalidated);
  if (!all_joined) return failed(cudaErrorStreamCaptureUnjoined);
  *graph = new CUgraph_st(*captured);
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  return *exec = new CUgraphExec_st{graph->nodes}, cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  return submit(stream, [nodes = exec->nodes] { replay(nodes); });
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
