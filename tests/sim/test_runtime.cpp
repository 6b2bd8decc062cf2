// SPDX-License-Identifier: MIT
// The simulated CUDA runtime: memory with guards that host code cannot touch, streams whose work waits for somebody to wait for it,
// events, capture and replay.
#include <gtest/gtest.h>

#include "cuda/lib/buffer.h"
#include "cuda/lib/kernel.cuh"
#include "sanitizers.h"
#include "sim.h"

namespace folio {
namespace {

using sim::Config, sim::Landing, sim::Use;

__global__ void add(float* x, float what, int n) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) x[i] += what;
}

void add_to(float* x, float what, int n, cudaStream_t stream) { launch<add>({unsigned(n + 63) / 64, 64, 0, stream}, x, what, n); }

struct Stream {
  cudaStream_t handle;
  explicit Stream(unsigned flags = cudaStreamNonBlocking) { cudaStreamCreateWithFlags(&handle, flags); }
  ~Stream() { cudaStreamDestroy(handle); }
  operator cudaStream_t() const { return handle; }
};

const Config late{.landing = Landing::late}, early{.landing = Landing::early};

TEST(Memory, FreshIsPoisonAndAlignedAndApart) {
  std::vector<void*> blocks;
  for (size_t bytes : {1u, 100u, 4096u, 70000u}) {
    void* at = nullptr;
    ASSERT_EQ(cudaMalloc(&at, bytes), cudaSuccess);
    EXPECT_EQ(uintptr_t(at) % 256, 0u);
    std::vector<unsigned char> read(bytes);
    ASSERT_EQ(cudaMemcpy(read.data(), at, bytes, cudaMemcpyDeviceToHost), cudaSuccess);
    EXPECT_EQ(read, std::vector<unsigned char>(bytes, 0xff));
    blocks.push_back(at);
  }
  EXPECT_EQ(sim::device_allocations(), blocks.size());
  cudaFree(blocks[1]);
  void* again = nullptr;
  ASSERT_EQ(cudaMalloc(&again, 64), cudaSuccess);
  EXPECT_EQ(again, blocks[1]);  // the gap is used
  blocks[1] = again;
  for (void* at : blocks) EXPECT_EQ(cudaFree(at), cudaSuccess);
  EXPECT_EQ(sim::device_allocations(), 0u);
  EXPECT_EQ(cudaFree(nullptr), cudaSuccess);
  EXPECT_EQ(cudaFree(&blocks), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMalloc(&again, size_t(1) << 40), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST(Memory, CopiesCheckTheirSidesAndBounds) {
  Buffer<float> x(16);
  std::vector<float> host(32, 1);
  EXPECT_EQ(cudaMemcpy(host.data(), x.data(), 64, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(x.data(), host.data(), 128, cudaMemcpyHostToDevice), cudaErrorInvalidValue);  // past the end
  EXPECT_EQ(cudaMemset(host.data(), 0, 4), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(x.data(), host.data(), 64, cudaMemcpyDefault), cudaSuccess);
  EXPECT_THROW(cuda_check(cudaErrorInvalidValue, "a copy"), Error);
  cudaGetLastError();
}

TEST(Memory, HostCodeCannotTouchIt) {
  Buffer<float> x(std::vector<float>(4, 1));
  if (FOLIO_TSAN) GTEST_SKIP() << "the thread sanitizer handles the fault";
  EXPECT_DEATH(x.data()[0] = 2, "host code follows a pointer to device memory");
}

TEST(Launch, RefusesWhatIsNoLaunch) {
  Buffer<float> x(64);
  EXPECT_THROW(launch<add>({0, 64, 0, nullptr}, x.data(), 1.0f, 64), Error);
  EXPECT_THROW(launch<add>({1, 1025, 0, nullptr}, x.data(), 1.0f, 64), Error);
  EXPECT_THROW(launch<add>({1, 64, 232449, nullptr}, x.data(), 1.0f, 64), Error);
  const Use use(Config{.compute_capability = 80});
  EXPECT_THROW(launch<add>({1, 64, 166913, nullptr}, x.data(), 1.0f, 64), Error);
  cudaDeviceProp properties;
  ASSERT_EQ(cudaGetDeviceProperties(&properties, 0), cudaSuccess);
  EXPECT_EQ(properties.major, 8);
  EXPECT_EQ(properties.sharedMemPerBlockOptin, 166912u);
}

TEST(Streams, WorkWaitsUntilSomebodyWaits) {
  const Use use(late);
  const Stream stream;
  Buffer<float> x(std::vector<float>(100, 1));
  std::vector<float> read(100, -1);
  add_to(x.data(), 2, 100, stream);
  cudaMemcpyAsync(read.data(), x.data(), 400, cudaMemcpyDeviceToHost, stream);
  EXPECT_EQ(read[0], -1);  // too early
  EXPECT_EQ(cudaStreamQuery(stream), cudaErrorNotReady);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(read, std::vector<float>(100, 3));
  EXPECT_EQ(cudaStreamQuery(stream), cudaSuccess);
}

TEST(Streams, EarlyLandingRunsAtOnce) {
  const Use use(early);
  const Stream stream;
  Buffer<float> x(std::vector<float>(100, 1));
  std::vector<float> read(100, -1);
  cudaMemcpyAsync(read.data(), x.data(), 400, cudaMemcpyDeviceToHost, stream);
  EXPECT_EQ(read[0], 1);
}

TEST(Streams, ASourceChangedTooSoonIsCopiedChanged) {
  const Use use(late);
  const Stream stream;
  Buffer<float> x(4);
  std::vector<float> host(4, 1);
  cudaMemcpyAsync(x.data(), host.data(), 16, cudaMemcpyHostToDevice, stream);
  host.assign(4, 2);
  cudaStreamSynchronize(stream);
  EXPECT_EQ(x.read(), host);
}

TEST(Streams, TheDefaultStreamWaitsForBlockingOnesOnly) {
  const Use use(late);
  const Stream blocking(cudaStreamDefault), free;
  Buffer<float> x(std::vector<float>(8, 0)), y(std::vector<float>(8, 0));
  add_to(x.data(), 1, 8, blocking);
  add_to(y.data(), 1, 8, free);
  EXPECT_EQ(x.read(), std::vector<float>(8, 1));
  EXPECT_EQ(y.read(), std::vector<float>(8, 0));
  cudaDeviceSynchronize();
  EXPECT_EQ(y.read(), std::vector<float>(8, 1));
}

TEST(Streams, EventsOrderThem) {
  for (const Config& way : sim::schedules()) {
    const Use use(way);
    const Stream first, second;
    cudaEvent_t done, end;
    cudaEventCreateWithFlags(&done, cudaEventDefault);
    cudaEventCreateWithFlags(&end, cudaEventDefault);
    Buffer<float> x(std::vector<float>(64, 1)), y(64);
    add_to(x.data(), 1, 64, first);
    cudaEventRecord(done, first);
    add_to(x.data(), 10, 64, first);  // after the event: need not have happened
    cudaStreamWaitEvent(second, done);
    cudaMemcpyAsync(y.data(), x.data(), 256, cudaMemcpyDeviceToDevice, second);
    cudaEventRecord(end, second);
    EXPECT_EQ(cudaEventSynchronize(end), cudaSuccess);
    const float seen = y.read()[0];
    EXPECT_TRUE(seen == 2 || (seen == 12 && way.landing != Landing::late)) << seen;
    float milliseconds = -1;
    EXPECT_EQ(cudaEventElapsedTime(&milliseconds, done, end), cudaSuccess);
    EXPECT_GE(milliseconds, 0);
    cudaEventDestroy(done);
    cudaEventDestroy(end);
  }
}

TEST(Graphs, ReplayRunsWhatWasQueuedWithItsArguments) {
  const Stream stream;
  Buffer<float> x(std::vector<float>(70, 0));
  float* pinned = nullptr;
  ASSERT_EQ(cudaHostAlloc(&pinned, 280, cudaHostAllocDefault), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
  float what = 2;
  cudaMemcpyAsync(x.data(), pinned, 280, cudaMemcpyHostToDevice, stream);
  add_to(x.data(), what, 70, stream);
  what = 100;  // the launch has its own
  add_to(x.data(), 1, 70, stream);
  cudaMemcpyAsync(pinned, x.data(), 280, cudaMemcpyDeviceToHost, stream);
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph), cudaSuccess);
  cudaGraphDestroy(graph);
  EXPECT_EQ(x.read()[0], 0);  // capturing runs nothing
  for (int i = 0; i < 70; ++i) pinned[i] = float(i);
  for (int replay = 1; replay <= 3; ++replay) {
    ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    for (int i = 0; i < 70; ++i) EXPECT_EQ(pinned[i], float(i + 3 * replay));
  }
  cudaGraphExecDestroy(exec);
  cudaFreeHost(pinned);
}

TEST(Graphs, OtherStreamsJoinACapture) {
  const Stream one, two;
  cudaEvent_t fork, join_back;
  cudaEventCreateWithFlags(&fork, cudaEventDisableTiming);
  cudaEventCreateWithFlags(&join_back, cudaEventDisableTiming);
  Buffer<float> x(std::vector<float>(8, 0));
  cudaStreamBeginCapture(one, cudaStreamCaptureModeThreadLocal);
  add_to(x.data(), 1, 8, one);
  cudaEventRecord(fork, one);
  cudaStreamWaitEvent(two, fork);
  add_to(x.data(), 10, 8, two);
  cudaEventRecord(join_back, two);
  cudaStreamWaitEvent(one, join_back);
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  ASSERT_EQ(cudaStreamEndCapture(one, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph), cudaSuccess);
  cudaGraphLaunch(exec, two);  // two records no more
  cudaStreamSynchronize(two);
  EXPECT_EQ(x.read(), std::vector<float>(8, 11));
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaEventDestroy(fork);
  cudaEventDestroy(join_back);
}

__global__ void accumulate(float* sum, const float* x, int n) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) sum[i] += x[i];
}

struct Event {
  cudaEvent_t handle;
  Event() { cudaEventCreateWithFlags(&handle, cudaEventDisableTiming); }
  ~Event() { cudaEventDestroy(handle); }
  operator cudaEvent_t() const { return handle; }
};

// Sums six blocks of host memory by way of two places on the device, to which a second stream copies them; with those waits.
float sum_by_two_places(bool wait_for_copy, bool wait_for_use, bool captured) {
  constexpr int n = 64, blocks = 6;
  const Stream nodes, copies;
  Buffer<float> sum(std::vector<float>(n, 0)), place(std::vector<float>(2 * n, 0));
  float* host = nullptr;
  cudaHostAlloc(&host, n * blocks * sizeof(float), cudaHostAllocDefault);
  for (int b = 0; b < blocks; ++b) std::fill_n(host + b * n, n, float(1 << b));
  const Event begun;
  Event copied[blocks], used[blocks];
  auto copy = [&](int b) {
    if (b >= blocks) return;
    if (b >= 2 && wait_for_use) cudaStreamWaitEvent(copies, used[b - 2]);
    cudaMemcpyAsync(place.data() + b % 2 * n, host + b * n, n * sizeof(float), cudaMemcpyHostToDevice, copies);
    cudaEventRecord(copied[b], copies);
  };
  if (captured) cudaStreamBeginCapture(nodes, cudaStreamCaptureModeThreadLocal);
  cudaEventRecord(begun, nodes);
  cudaStreamWaitEvent(copies, begun);
  copy(0), copy(1);
  for (int b = 0; b < blocks; ++b) {
    if (wait_for_copy || b + 1 == blocks) cudaStreamWaitEvent(nodes, copied[b]);
    launch<accumulate>({1, n, 0, nodes}, sum.data(), static_cast<const float*>(place.data()) + b % 2 * n, n);
    cudaEventRecord(used[b], nodes);
    copy(b + 2);
  }
  if (captured) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    EXPECT_EQ(cudaStreamEndCapture(nodes, &graph), cudaSuccess);
    EXPECT_EQ(cudaGraphInstantiate(&exec, graph), cudaSuccess);
    cudaGraphLaunch(exec, nodes);
    cudaStreamSynchronize(nodes);
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
  }
  cudaStreamSynchronize(nodes);
  const float result = sum.read()[n - 1];
  cudaFreeHost(host);
  return result;
}

TEST(Graphs, AMissingWaitChangesTheResult) {
  for (const bool captured : {false, true}) {
    int wrong_without_copied = 0, wrong_without_used = 0;
    for (const Config& way : sim::schedules()) {
      SCOPED_TRACE(sim::describe(way));
      const Use use(way);
      EXPECT_EQ(sum_by_two_places(true, true, captured), 63);
      wrong_without_copied += sum_by_two_places(false, true, captured) != 63;
      wrong_without_used += sum_by_two_places(true, false, captured) != 63;
    }
    EXPECT_GT(wrong_without_copied, 0) << captured;
    EXPECT_GT(wrong_without_used, 0) << captured;
  }
}

TEST(Graphs, ACaptureKnowsItsStreamsAndItsMemory) {
  const Stream one, two;
  const Event fork, outside;
  Buffer<float> x(std::vector<float>(8, 0));
  std::vector<float> pageable(8);
  cudaGraph_t graph;
  cudaStreamBeginCapture(one, cudaStreamCaptureModeThreadLocal);
  cudaEventRecord(fork, one);
  cudaStreamWaitEvent(two, fork);
  add_to(x.data(), 1, 8, two);
  EXPECT_EQ(cudaStreamEndCapture(two, &graph), cudaErrorStreamCaptureUnmatched);
  EXPECT_EQ(cudaStreamEndCapture(one, &graph), cudaErrorStreamCaptureUnjoined);   // nobody waits for two
  EXPECT_EQ(cudaStreamWaitEvent(two, fork), cudaErrorCapturedEvent);
  cudaEventRecord(outside, two);
  cudaStreamBeginCapture(one, cudaStreamCaptureModeThreadLocal);
  EXPECT_EQ(cudaStreamWaitEvent(one, outside), cudaErrorStreamCaptureIsolation);
  EXPECT_EQ(cudaStreamEndCapture(one, &graph), cudaErrorStreamCaptureInvalidated);
  cudaStreamBeginCapture(one, cudaStreamCaptureModeThreadLocal);
  EXPECT_EQ(cudaMemcpyAsync(x.data(), pageable.data(), 32, cudaMemcpyHostToDevice, one), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(cudaStreamEndCapture(one, &graph), cudaErrorStreamCaptureInvalidated);
  cudaGetLastError();
}

TEST(Memory, HostPagesAreRegisteredOnce) {
  auto* pages = static_cast<std::byte*>(std::aligned_alloc(4096, 4 * 4096));
  EXPECT_EQ(cudaHostRegister(pages, 5000, cudaHostRegisterDefault), cudaSuccess);   // two pages
  EXPECT_EQ(cudaHostRegister(pages + 8000, 100, cudaHostRegisterDefault), cudaErrorHostMemoryAlreadyRegistered);
  EXPECT_EQ(cudaHostRegister(pages + 8192, 100, cudaHostRegisterDefault), cudaSuccess);
  EXPECT_EQ(cudaHostUnregister(pages), cudaSuccess);
  EXPECT_EQ(cudaHostRegister(pages, 4096, cudaHostRegisterReadOnly), cudaSuccess);
  EXPECT_EQ(cudaHostUnregister(pages), cudaSuccess);
  EXPECT_EQ(cudaHostUnregister(pages + 8192), cudaSuccess);
  const Use use(Config{.registers_host_memory = false});
  EXPECT_EQ(cudaHostRegister(pages, 4096, cudaHostRegisterDefault), cudaErrorNotSupported);
  cudaGetLastError();
  std::free(pages);
}

TEST(Memory, TheDeviceHasAsMuchAsItIsSaidToHave) {
  const Use use(Config{.memory = 1 << 20});
  size_t free = 0, total = 0;
  ASSERT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
  EXPECT_EQ(total, size_t(1) << 20);
  void *some = nullptr, *more = nullptr;
  ASSERT_EQ(cudaMalloc(&some, free / 2 + 1), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&more, free / 2), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaFree(some), cudaSuccess);
}

TEST(Graphs, WhatWouldNotBeInTheGraphBreaksTheCapture) {
  const Stream stream;
  cudaGraph_t graph;
  void* at = nullptr;
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
  EXPECT_EQ(cudaMalloc(&at, 4), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
  const Stream blocking(cudaStreamDefault);
  cudaStreamBeginCapture(blocking, cudaStreamCaptureModeThreadLocal);
  EXPECT_EQ(cudaMalloc(&at, 4), cudaSuccess);
  EXPECT_EQ(cudaMemsetAsync(at, 0, 4, nullptr), cudaErrorStreamCaptureImplicit);
  EXPECT_EQ(cudaStreamEndCapture(blocking, &graph), cudaErrorStreamCaptureInvalidated);
  EXPECT_EQ(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeGlobal), cudaErrorStreamCaptureUnsupported);
  cudaFree(at);
  cudaGetLastError();
}

}  // namespace
}  // namespace folio
