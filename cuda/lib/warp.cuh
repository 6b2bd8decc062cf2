// SPDX-License-Identifier: MIT
// Threads that work together: named barriers, sums and maxima over a warp and a block, and the ticket by which the last block of
// several knows that it is the last. Sums are butterflies: one order of additions, the same bits in every lane and every run.
#pragma once
#include "cuda/lib/launch.cuh"

namespace folio {

inline constexpr unsigned all_lanes = 0xffffffffu;

FOLIO_DEVICE int lane_id() { return int(threadIdx.x % 32); }   // blocks are laid out with x a multiple of 32, or one-dimensional
FOLIO_DEVICE int warp_id() { return int(threadIdx.x / 32); }

// Waits at barrier `id` (1..15; 0 is __syncthreads) for `threads` threads, a multiple of 32; arrive does not wait.
FOLIO_DEVICE void named_barrier_sync(int id, int threads, [[maybe_unused]] Here here = {}) {
  FOLIO_SIM(sim::barrier(id, threads, sim::Vote::none, false, "named_barrier_sync", here);)
  FOLIO_GPU(asm volatile("bar.sync %0, %1;" :: "r"(id), "r"(threads) : "memory");)
}
FOLIO_DEVICE void named_barrier_arrive(int id, int threads, [[maybe_unused]] Here here = {}) {
  FOLIO_SIM(sim::barrier_arrive(id, threads, here);)
  FOLIO_GPU(asm volatile("bar.arrive %0, %1;" :: "r"(id), "r"(threads) : "memory");)
}

// CUDA's shuffles for a source line that is not the caller's own.
template <class T> FOLIO_DEVICE T shuffle_from(T v, int lane, [[maybe_unused]] Here here = {}) {
  FOLIO_SIM(return __shfl_sync(all_lanes, v, lane, 32, here);)
  FOLIO_GPU(return __shfl_sync(all_lanes, v, lane);)
}
template <class T> FOLIO_DEVICE T shuffle_xor(T v, int by, [[maybe_unused]] Here here = {}) {
  FOLIO_SIM(return __shfl_xor_sync(all_lanes, v, by, 32, here);)
  FOLIO_GPU(return __shfl_xor_sync(all_lanes, v, by);)
}

// Over aligned groups of Lanes lanes (2, 4 .. 32); every lane of the warp calls and gets its group's result.
template <int Lanes = 32, class T> FOLIO_DEVICE T warp_sum(T v, Here here = {}) {
#pragma unroll
  for (int by = Lanes / 2; by > 0; by /= 2) v += shuffle_xor(v, by, here);
  return v;
}
template <int Lanes = 32, class T> FOLIO_DEVICE T warp_max(T v, Here here = {}) {
#pragma unroll
  for (int by = Lanes / 2; by > 0; by /= 2) v = max(v, shuffle_xor(v, by, here));
  return v;
}

FOLIO_DEVICE void block_sync([[maybe_unused]] Here here = {}) {
  FOLIO_SIM(__syncthreads(here);)
  FOLIO_GPU(__syncthreads();)
}

// Over a block of up to 1024 threads, whole warps; every thread calls and gets the result. Two barriers.
template <class T> FOLIO_DEVICE T block_sum(T v, Here here = {}) {
  FOLIO_SHARED(T, part, [32]);
  const int warps = int(blockDim.x / 32);
  v = warp_sum(v, here);
  if (lane_id() == 0) part[warp_id()] = v;
  block_sync(here);
  v = warp_sum(lane_id() < warps ? part[lane_id()] : T(0), here);
  block_sync(here);  // the next call may write
  return v;
}
template <class T> FOLIO_DEVICE T block_max(T v, Here here = {}) {
  FOLIO_SHARED(T, part, [32]);
  const int warps = int(blockDim.x / 32);
  v = warp_max(v, here);
  if (lane_id() == 0) part[warp_id()] = v;
  block_sync(here);
  v = warp_max(part[lane_id() < warps ? lane_id() : 0], here);
  block_sync(here);
  return v;
}

// Every thread of `blocks` blocks calls once after its block's writes to global memory; or some threads of each, whose barrier is
// sync(). True in all of them in the block that came last, which then sees what all blocks wrote. *ticket is 0 before the first launch
// and 0 again after it.
template <class Sync> FOLIO_DEVICE bool is_last(unsigned* ticket, unsigned blocks, Sync sync) {
  FOLIO_SHARED(unsigned, last, [1]);
  sync();
  if (threadIdx.x == 0) {
    __threadfence();
    last[0] = atomicInc(ticket, blocks - 1) == blocks - 1;
    __threadfence();
  }
  sync();
  return last[0] != 0;
}
FOLIO_DEVICE bool block_is_last(unsigned* ticket, unsigned blocks, Here here = {}) {
  return is_last(ticket, blocks, [=] { block_sync(here); });
}

}  // namespace folio
