// SPDX-License-Identifier: MIT
// How fast a card reads and copies memory, and how fast its arithmetic units run when operands never leave registers (on Hopper's
// wgmma: shared memory). No kernel of ours can beat these loops, which is what makes them yardsticks; a vendor's data sheet promises
// more, for it does not know what clock the card runs at. Operands are random: multipliers that see zeros draw less power and run faster.
#include "cuda/limits.h"

#include <algorithm>
#include <functional>

#include "cuda/lib/buffer.h"
#include "cuda/lib/event.h"
#include "cuda/lib/hopper.cuh"
#include "cuda/lib/kernel.cuh"

namespace folio {

namespace {

constexpr int threads = 256;

// A word that looks random.
FOLIO_DEVICE uint32_t scrambled(uint32_t n) {
  n = (n ^ n >> 16) * 0x7feb352du;
  n = (n ^ n >> 15) * 0x846ca68bu;
  return n ^ n >> 16;
}
// Two 16-bit numbers, read as bf16 between 0.5 and 1, as f16 between 1.75 and 2, of either sign.
FOLIO_DEVICE uint32_t scrambled_pair(uint32_t n) { return (scrambled(n) & 0x807f807fu) | 0x3f003f00u; }

// --- Memory.

__global__ void __launch_bounds__(threads) fill_all(uint4* to, int64_t n) {
  for (int64_t i = blockIdx.x * threads + threadIdx.x; i < n; i += int64_t(gridDim.x) * threads) {
    const auto w = uint32_t(4 * i);
    st_vec(to + i, make_uint4(scrambled(w), scrambled(w + 1), scrambled(w + 2), scrambled(w + 3)));
  }
}

// Four loads of each thread are under way at once. Nobody needs the sum; it is stored as good as `never`, which no compiler can know.
__global__ void __launch_bounds__(threads) read_all(const uint4* from, int64_t n, uint32_t* never) {
  const int64_t step = int64_t(gridDim.x) * threads;
  uint32_t sum = 0;
  for (int64_t i = blockIdx.x * threads + threadIdx.x; i + 3 * step < n; i += 4 * step) {
    uint4 v[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = ld_stream<uint4>(from + i + j * step);
#pragma unroll
    for (int j = 0; j < 4; ++j) sum ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  if (sum == 0x9e3779b9u) st_vec(never, sum);
}

__global__ void __launch_bounds__(threads) copy_all(const uint4* from, uint4* to, int64_t n) {
  const int64_t step = int64_t(gridDim.x) * threads;
  for (int64_t i = blockIdx.x * threads + threadIdx.x; i + 3 * step < n; i += 4 * step) {
    uint4 v[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = ld_stream<uint4>(from + i + j * step);
#pragma unroll
    for (int j = 0; j < 4; ++j) st_vec(to + i + j * step, v[j]);
  }
}

// --- Arithmetic. `steps` times what a warp (a warpgroup) does at once; `never` as above.

enum class Loop { fp32, f16, bf16, int8 };

constexpr int chains = 8;        // independent sums of a thread: enough to hide an instruction's latency
constexpr int fma_chains = 16;

__global__ void __launch_bounds__(threads) fma_loop(int steps, float factor, float summand, uint32_t* never) {
  float sum[fma_chains];
#pragma unroll
  for (int j = 0; j < fma_chains; ++j) sum[j] = float(threadIdx.x + unsigned(j));
#pragma unroll 4
  for (int i = 0; i < steps; ++i)
#pragma unroll
    for (int j = 0; j < fma_chains; ++j) sum[j] = fmaf(sum[j], factor, summand);
  float all = 0;
#pragma unroll
  for (int j = 0; j < fma_chains; ++j) all += sum[j];
  if (all == -1) st_vec(never, 1u);
}

template <Loop L> __global__ void __launch_bounds__(threads) mma_loop(int steps, uint32_t* never) {
  using Sum = std::conditional_t<L == Loop::int8, int32_t, float>;
  Sum sum[chains][4] = {};
  uint32_t a[4], b[chains][2];
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = scrambled_pair(threadIdx.x * 4 + unsigned(i));
#pragma unroll
  for (int j = 0; j < chains; ++j)
#pragma unroll
    for (int i = 0; i < 2; ++i) b[j][i] = scrambled_pair(4096 + threadIdx.x * 2 * chains + unsigned(2 * j + i));
  for (int i = 0; i < steps; ++i)
#pragma unroll
    for (int j = 0; j < chains; ++j) {
      if constexpr (L == Loop::int8) mma_s8(sum[j], a, b[j]);
      else if constexpr (L == Loop::f16) mma_f16(sum[j], a, b[j]);
      else mma_bf16(sum[j], a, b[j]);
    }
  Sum all = 0;
#pragma unroll
  for (int j = 0; j < chains; ++j) all += sum[j][0] + sum[j][1] + sum[j][2] + sum[j][3];
  if (all == Sum(-1)) st_vec(never, 1u);
}

// Two warpgroups, each 64 rows of its own against the same 256 columns, 64 deep: as a product of large matrices does it.
constexpr int wide = 256, deep = 64, groups = 2;
struct WgmmaTiles {
  uint32_t *a, *b;   // [groups · 64, deep], [wide, deep] pairs of 16-bit numbers, swizzled, which random numbers do not mind
  __host__ __device__ static WgmmaTiles take(Smem& shared) {
    return {shared.take<uint32_t>(groups * 64 * deep / 2, 1024), shared.take<uint32_t>(wide * deep / 2, 1024)};
  }
};
template <class T>
__global__ void __launch_bounds__(128 * groups, 1) wgmma_loop([[maybe_unused]] int steps, [[maybe_unused]] uint32_t* never) {
#if FOLIO_SM90
  Smem shared = Smem::here();
  const WgmmaTiles tiles = WgmmaTiles::take(shared);
  for (int i = int(threadIdx.x); i < groups * 64 * deep / 2; i += 128 * groups) tiles.a[i] = scrambled_pair(uint32_t(i));
  for (int i = int(threadIdx.x); i < wide * deep / 2; i += 128 * groups) tiles.b[i] = scrambled_pair(uint32_t(i) + 65536);
  fence_async_proxy();
  __syncthreads();
  const uint32_t* a = tiles.a + threadIdx.x / 128 * 64 * deep / 2;
  float sum[wide / 2] = {};
  for (int i = 0; i < steps; ++i) {
    wgmma_pin(sum);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < deep / 16; ++k)
      wgmma<Major::k, Major::k, T>(sum, wgmma_descriptor(a + k * 8, 16, 1024, Swizzle::bytes128),
                                   wgmma_descriptor(tiles.b + k * 8, 16, 1024, Swizzle::bytes128), true);
    wgmma_commit();
    wgmma_wait<1>();
  }
  wgmma_wait<0>();
  wgmma_pin(sum);
  float all = 0;
#pragma unroll
  for (float x : sum) all += x;
  if (all == -1) st_vec(never, 1u);
#endif
}

// --- Measuring.

class Meter {
 public:
  Meter(const cudaDeviceProp& card, cudaStream_t stream) : card_(card), stream_(stream), never_(1) {}

  void memory(Limits& limits) {
    size_t free = 0, total = 0;
    cuda_check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    const int64_t bytes = std::min<int64_t>(int64_t(free / 2), std::max<int64_t>(card_.l2CacheSize, 1 << 20) * 16) & ~int64_t(4095);
    if (bytes <= 2 * card_.l2CacheSize) return;   // what fits into the cache says nothing about memory
    const int64_t n = bytes / 16;
    Buffer<uint4> area(n);
    uint4* const all = area.data();
    const Launch at = {unsigned(card_.multiProcessorCount * 8), threads, 0, stream_};
    launch<fill_all>(at, all, n);
    limits.read_gbps = double(bytes) / best([&] { launch<read_all>(at, all, n, never_.data()); }) / 1e9;
    limits.copy_gbps = double(bytes) / best([&] { launch<copy_all>(at, all, all + n / 2, n / 2); }) / 1e9;
  }
  // 10^9 operations a second, in each launch as many steps as take a millisecond or so.
  double fma() {
    const unsigned blocks = unsigned(card_.multiProcessorCount * 4);
    return rate(double(blocks) * threads * fma_chains * 2,
                [&](int steps) { launch<fma_loop>({blocks, threads, 0, stream_}, steps, 0.999f, 1e-3f, never_.data()); });
  }
  template <Loop L> double mma() {
    const unsigned blocks = unsigned(card_.multiProcessorCount * 2);
    const double depth = L == Loop::int8 ? 32 : 16;
    return rate(double(blocks) * (threads / 32) * chains * 16 * 8 * depth * 2,
                [&](int steps) { launch<mma_loop<L>>({blocks, threads, 0, stream_}, steps, never_.data()); });
  }
  template <class T> double wgmma() {
    if (card_.major != 9) return 0;
    const unsigned blocks = unsigned(card_.multiProcessorCount);
    Smem shared;
    WgmmaTiles::take(shared);
    const Launch at = {blocks, 128 * groups, shared.bytes(), stream_};
    return rate(double(blocks) * groups * 64 * wide * deep * 2, [&](int steps) { launch<wgmma_loop<T>>(at, steps, never_.data()); });
  }

 private:
  double once(const std::function<void()>& work) {
    start_.record(stream_);
    work();
    end_.record(stream_);
    return end_.seconds_since(start_);
  }
  // The shortest of several runs, after one that loads the module.
  double best(const std::function<void()>& work) {
    once(work);
    double shortest = once(work);
    for (double spent = shortest; spent < 0.01;) {
      const double now = once(work);
      shortest = std::min(shortest, now);
      spent += now;
    }
    return shortest;
  }
  double rate(double operations_of_step, const std::function<void(int)>& work) {
    int steps = 8;
    work(steps);
    while (once([&] { work(steps); }) < 1e-3 && steps < 1 << 20) steps *= 2;
    return operations_of_step * steps / best([&] { work(steps); }) / 1e9;
  }

  const cudaDeviceProp& card_;
  cudaStream_t stream_;
  Buffer<uint32_t> never_;
  Event start_, end_;
};

}  // namespace

Limits measure_limits(const cudaDeviceProp& card, cudaStream_t stream) {
  Meter meter(card, stream);
  Limits limits;
  meter.memory(limits);
  limits.fp32_gflops = meter.fma();
  limits.f16_gflops = std::max(meter.mma<Loop::f16>(), meter.wgmma<f16>());
  limits.bf16_gflops = std::max(meter.mma<Loop::bf16>(), meter.wgmma<bf16>());
  limits.int8_gops = meter.mma<Loop::int8>();
  return limits;
}

}  // namespace folio
