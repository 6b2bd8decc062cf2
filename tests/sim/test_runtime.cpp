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
