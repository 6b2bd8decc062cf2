// SPDX-License-Identifier: MIT
// Kernels with one planted bug each. Every one must be caught: by a report of the simulator, by NaN in the result, by results that
// differ between schedules, or by a sanitizer, which then ends the process. This guards the simulator itself.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "cuda/lib/buffer.h"
#include "cuda/lib/hopper.cuh"
#include "cuda/lib/kernel.cuh"
#include "sanitizers.h"
#include "sim.h"

namespace folio {
namespace {

using sim::Config, sim::Failure, sim::Use, sim::schedules;

constexpr int threads = 128;

__global__ void read_without_barrier(const float* x, float* y) {
  FOLIO_SHARED(float, s, [threads]);
  const unsigned t = threadIdx.x;
  s[t] = x[t];
  y[t] = s[(t + 33) % threads];
}

__global__ void overwrite_before_all_have_read(const float* x, float* y) {
  FOLIO_SHARED(float, s, [threads]);
  const unsigned t = threadIdx.x;
  s[t] = x[t];
  __syncthreads();
  const float v = s[threads - 1 - t];
  s[t] = v * 2;
  __syncthreads();
  y[t] = s[t];
}

__global__ void barrier_in_two_branches(const float* x, float* y) {
  FOLIO_SHARED(float, s, [threads]);
  const unsigned t = threadIdx.x;
  s[t] = x[t];
  if (t < 64) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  y[t] = s[threads - 1 - t];
}

__global__ void barrier_of_half_the_block(const float* x, float* y) {
  if (threadIdx.x < 64) __syncthreads();
  y[threadIdx.x] = x[threadIdx.x];
}

__global__ void sum_of_one_too_many(const float* x, float* y) {
  FOLIO_SHARED(float, s, [threads + 1]);
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  float sum = 0;
  for (int i = 0; i <= threads; ++i) sum += s[i];
  y[threadIdx.x] = sum;
}

__global__ void copy_without_wait(const float* x, float* y) {
  float* s = Smem::here().take<float>(4 * threads);
  cp_async(s + 4 * threadIdx.x, x + 4 * threadIdx.x);
  cp_async_commit();
  __syncthreads();
  y[threadIdx.x] = s[4 * threadIdx.x + 1];
}

__global__ void copy_without_barrier(const float* x, float* y) {
  float* s = Smem::here().take<float>(4 * threads);
  cp_async(s + 4 * threadIdx.x, x + 4 * threadIdx.x);
  cp_async_commit();
  cp_async_wait<0>();
  y[threadIdx.x] = s[4 * ((threadIdx.x + 64) % threads) + 1];
}

__global__ void copy_waits_for_the_wrong_group(const float* x, float* y) {
  float* s = Smem::here().take<float>(8 * threads);
  for (int i = 0; i < 2; ++i) {
    cp_async(s + 4 * (i * threads + threadIdx.x), x + 4 * threadIdx.x);
    cp_async_commit();
  }
  cp_async_wait<1>();  // the second group is still under way
  y[threadIdx.x] = s[4 * (threads + threadIdx.x)];
}

__global__ void full_mask_in_a_branch(const float* x, float* y) {
  float v = x[threadIdx.x];
  if (threadIdx.x % 2 == 0) v += __shfl_xor_sync(all_lanes, v, 2);
  y[threadIdx.x] = v;
}

__global__ void full_mask_in_two_branches(const float* x, float* y) {
  float v = x[threadIdx.x];
  if (threadIdx.x % 2 == 0) {
    v += __shfl_xor_sync(all_lanes, v, 2);
  } else {
    v -= __shfl_xor_sync(all_lanes, v, 2);
  }
  y[threadIdx.x] = v;
}

__global__ void shuffle_from_outside_the_mask(const float* x, float* y) {
  float v = x[threadIdx.x];
  if (threadIdx.x % 32 < 16) v += __shfl_down_sync(0xffffu, v, 8);
  y[threadIdx.x] = v;
}

__global__ void misaligned_vector(const float* x, float* y) {
  const auto v = threadIdx.x < 8 ? ld_vec<float4>(x + threadIdx.x * 4 + 1) : float4{};
  y[threadIdx.x] = v.x;
}

__global__ void layout_larger_than_the_launch(const float* x, float* y) {
  float* s = Smem::here().take<float>(4096);
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = s[threads - 1 - threadIdx.x];
}

__global__ void phase_that_never_ends(const float* x, float* y) {
  uint64_t* b = Smem::here().take<uint64_t>(1);
  if (threadIdx.x == 0) mbarrier_init(b, threads);
  __syncthreads();
  mbarrier_arrive(b);
  mbarrier_wait(b, 0);
  mbarrier_wait(b, 1);
  y[threadIdx.x] = x[threadIdx.x];
}

__global__ void barrier_never_initialised(const float* x, float* y) {
  uint64_t* b = Smem::here().take<uint64_t>(1);
  mbarrier_arrive(b);
  y[threadIdx.x] = x[threadIdx.x];
}

__global__ void vector_past_the_end(const float* x, float* y) {
  y[threadIdx.x] = ld_vec<float4>(x + 4 * (threadIdx.x + 1)).x;
}

__global__ void store_past_the_end(const float* x, float* y) { y[threadIdx.x + 1] = x[threadIdx.x]; }

__global__ void past_a_shared_array(const float* x, float* y) {
  Smem shared = Smem::here();
  float* a = shared.take<float>(threads);
  float* b = shared.take<float>(threads);
  a[threadIdx.x] = x[threadIdx.x];
  b[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = a[threadIdx.x + 1] + b[threadIdx.x];
}

__global__ void past_a_global_array(const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x * 5]; }

__global__ void index_past_a_constant_array(const float* x, float* y) {
  float v[4];
  for (int i = 0; i < 4; ++i) v[i] = x[i];
  y[threadIdx.x] = v[threadIdx.x / 25];
}

__global__ void lost_update_between_blocks(const float*, float* y) {
  if (threadIdx.x == 0) y[0] = y[0] + 1;
}

__global__ void grid_barrier(const float* x, float* y) {  // wants all blocks resident, and is not given them
  auto* count = reinterpret_cast<unsigned*>(y);
  if (threadIdx.x == 0) {
    atomicAdd(count, 1u);
    while (load_acquire(count) < gridDim.x) __nanosleep(20);
  }
  __syncthreads();
  y[threadIdx.x] = x[threadIdx.x];
}

// A tile by bulk copies in two stages of which the producer refills one too early: it does not wait until the consumers are done.
__global__ void stage_refilled_too_early(const float* x, float* y) {
  Smem shared = Smem::here();
  float* stage = shared.take<float>(threads, 128);
  uint64_t* full = shared.take<uint64_t>(1);
  if (threadIdx.x == 0) {
    mbarrier_init(full, 1);
    mbarrier_init_fence();
  }
  __syncthreads();
  float sum = 0;
  for (unsigned i = 0; i < 4; ++i) {
    if (threadIdx.x == 0) {
      mbarrier_expect(full, threads * 4);
      bulk_load(stage, x + i * threads, threads * 4, full);
    }
    mbarrier_wait(full, i % 2);
    sum += stage[threadIdx.x] * float(i + 1);
  }
  y[threadIdx.x] = sum;
}

// C = A·Bᵀ of ones, 64x64x16. Bugs 1: reads before the wait; 2: no fence before wgmma; 3: no fence between stores and wgmma.
template <int Bug> __global__ void product(const float* x, float* y) {
  Smem shared = Smem::here();
  bf16* tile = shared.take<bf16>(64 * 16, 1024);
  for (int i = int(threadIdx.x); i < 64 * 16; i += threads) tile[i] = to_bf16(x[i % 512]);
  if constexpr (Bug != 3) fence_async_proxy();
  __syncthreads();
  float d[32];
  for (float& v : d) v = 0;
  if constexpr (Bug != 2) wgmma_fence();
  const uint64_t at = wgmma_descriptor(tile, 0, 256, Swizzle::bytes32);
  wgmma(d, at, at, true);
  wgmma_commit();
  if constexpr (Bug != 1) wgmma_wait<0>();
  float sum = 0;
  for (float v : d) sum += v;
  if constexpr (Bug == 1) wgmma_wait<0>();
  y[threadIdx.x] = sum;
}

using Kernel = void (*)(const float*, float*);

// What shows that something is wrong with a kernel; empty if nothing does.
std::string symptom(Kernel kernel, unsigned blocks, size_t shared) {
  std::vector<float> x(512), first;
  for (size_t i = 0; i < x.size(); ++i) x[i] = float(i * i % 97) + 0.5f;
  for (const Config& way : schedules()) {
    const Use use(way);
    const Buffer<float> in(x);
    Buffer<float> out(threads);
    cuda_check(cudaMemset(out.data(), 0, threads * sizeof(float)), "memset");
    try {
      const float* from = in.data();
      float* to = out.data();
      sim::launch("planted", blocks, threads, shared, nullptr, [=] { kernel(from, to); });
      cuda_check(cudaGetLastError(), "launch");
      const auto now = out.read();
      for (float v : now)
        if (std::isnan(v)) return "NaN in the result";
      if (!first.empty() && std::memcmp(first.data(), now.data(), now.size() * 4) != 0) return "results differ between schedules";
      first = now;
    } catch (const Failure& failure) {
      return failure.what();
    }
  }
  return "";
}

#define EXPECT_SYMPTOM(kernel, shared, words)                                              \
  do {                                                                                     \
    const std::string found = symptom(kernel, 1, shared);                                  \
    EXPECT_NE(found.find(words), std::string::npos) << "instead: '" << found << "'";       \
  } while (0)

// Under a sanitizer the process that runs the kernel dies with a report, before or instead of the symptom.
#define EXPECT_REPORT(kernel, blocks, shared, words) \
  EXPECT_EXIT({ symptom(kernel, blocks, shared); std::exit(0); }, [](int status) { return status != 0; }, words)

// A race: NaN, or a difference between schedules, and a report with the line under the thread sanitizer.
#define EXPECT_RACE(kernel, shared, words)                                              \
  do {                                                                                  \
    if (FOLIO_TSAN) EXPECT_REPORT(kernel, 1, shared, "data race");                       \
    else EXPECT_SYMPTOM(kernel, shared, words);                                         \
  } while (0)

TEST(PlantedBugs, ReadWithoutBarrier) { EXPECT_RACE(read_without_barrier, 0, "NaN"); }
TEST(PlantedBugs, OverwriteBeforeAllHaveRead) { EXPECT_RACE(overwrite_before_all_have_read, 0, "differ between schedules"); }
TEST(PlantedBugs, CopyWithoutBarrier) { EXPECT_RACE(copy_without_barrier, 4096, "NaN"); }

TEST(PlantedBugs, SumOfOneTooMany) { EXPECT_SYMPTOM(sum_of_one_too_many, 0, "NaN"); }
TEST(PlantedBugs, CopyWithoutWait) { EXPECT_SYMPTOM(copy_without_wait, 2048, "NaN"); }
TEST(PlantedBugs, CopyWaitsForTheWrongGroup) { EXPECT_SYMPTOM(copy_waits_for_the_wrong_group, 4096, "NaN"); }

TEST(PlantedBugs, BarrierInTwoBranches) {
  EXPECT_SYMPTOM(barrier_in_two_branches, 0, "divergent barrier: __syncthreads at test_planted_bugs.cpp:");
}
TEST(PlantedBugs, BarrierOfHalfTheBlock) { EXPECT_SYMPTOM(barrier_of_half_the_block, 0, "64 of the block have exited"); }
TEST(PlantedBugs, FullMaskInABranch) { EXPECT_SYMPTOM(full_mask_in_a_branch, 0, "exits while others need it in __shfl_xor_sync"); }
TEST(PlantedBugs, FullMaskInTwoBranches) { EXPECT_SYMPTOM(full_mask_in_two_branches, 0, "divergent warp"); }
TEST(PlantedBugs, ShuffleFromOutsideTheMask) { EXPECT_SYMPTOM(shuffle_from_outside_the_mask, 0, "which is not in the mask"); }
TEST(PlantedBugs, MisalignedVector) { EXPECT_SYMPTOM(misaligned_vector, 0, "misaligned"); }
TEST(PlantedBugs, LayoutLargerThanTheLaunch) { EXPECT_SYMPTOM(layout_larger_than_the_launch, 1024, "needs 16384 bytes"); }
TEST(PlantedBugs, PhaseThatNeverEnds) {
  EXPECT_SYMPTOM(phase_that_never_ends, 1024, "128 threads (first 0, last 127) wait in mbarrier_wait at test_planted_bugs.cpp:");
}
TEST(PlantedBugs, BarrierNeverInitialised) { EXPECT_SYMPTOM(barrier_never_initialised, 1024, "not initialised"); }
TEST(PlantedBugs, VectorPastTheEnd) { EXPECT_SYMPTOM(vector_past_the_end, 0, "outside every block of device memory"); }
TEST(PlantedBugs, GridBarrierWithoutAllBlocks) {
  const std::string found = symptom(grid_barrier, 3, 0);
  EXPECT_NE(found.find("deadlock"), std::string::npos) << found;
  EXPECT_NE(found.find("1 threads (first 0, last 0) wait in __nanosleep"), std::string::npos) << found;
}
TEST(PlantedBugs, StageRefilledTooEarly) {
  if (FOLIO_TSAN) EXPECT_REPORT(stage_refilled_too_early, 1, 1024, "data race|NaN");
  else EXPECT_NE(symptom(stage_refilled_too_early, 1, 1024), "");
}
TEST(PlantedBugs, AccumulatorsReadBeforeTheWait) { EXPECT_SYMPTOM(product<1>, 8192, "differ between schedules"); }
TEST(PlantedBugs, NoFenceBeforeWgmma) { EXPECT_SYMPTOM(product<2>, 8192, "without wgmma_fence"); }

TEST(PlantedBugs, StorePastTheEnd) {
  if (FOLIO_ASAN) EXPECT_REPORT(store_past_the_end, 1, 0, "AddressSanitizer");
  else EXPECT_SYMPTOM(store_past_the_end, 0, "written past its ends");
}
TEST(PlantedBugs, PastASharedArray) {
  if (FOLIO_ASAN) EXPECT_REPORT(past_a_shared_array, 1, 4096, "AddressSanitizer");
  else EXPECT_SYMPTOM(past_a_shared_array, 4096, "NaN");
}
TEST(PlantedBugs, PastAGlobalArray) {
  if (!FOLIO_ASAN) GTEST_SKIP() << "seen by the address sanitizer only: sim.asan";
  EXPECT_REPORT(past_a_global_array, 1, 0, "AddressSanitizer");
}
TEST(PlantedBugs, IndexPastAConstantArray) {
  if (!FOLIO_ASAN) GTEST_SKIP() << "seen by the undefined-behaviour sanitizer only: sim.asan";
  EXPECT_REPORT(index_past_a_constant_array, 1, 0, "runtime error: index|AddressSanitizer");
}
TEST(PlantedBugs, LostUpdateBetweenBlocks) {
  if (!FOLIO_TSAN) GTEST_SKIP() << "seen by the thread sanitizer only: sim.tsan";
  EXPECT_REPORT(lost_update_between_blocks, 2, 0, "data race");
}
TEST(PlantedBugs, NoFenceBetweenStoresAndWgmma) {
  if (!FOLIO_TSAN) GTEST_SKIP() << "seen by the thread sanitizer only: sim.tsan";
  EXPECT_REPORT(product<3>, 1, 8192, "data race");
}

// The same with nothing planted: no symptom, and no report of a sanitizer.
TEST(PlantedBugs, NoneInACorrectKernel) { EXPECT_EQ(symptom(product<0>, 1, 8192), ""); }

}  // namespace
}  // namespace folio
