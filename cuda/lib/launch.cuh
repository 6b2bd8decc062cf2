// SPDX-License-Identifier: MIT
// How a kernel is launched and how it lays out its shared memory. Every launch of the house goes through launch<kernel>(), every
// array in shared memory through Smem (sizes known at launch) or FOLIO_SHARED (small, constant). Also the two macros that let one
// source mean PTX under nvcc and a call of the simulator elsewhere.
#pragma once
#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>

#include "cuda/lib/runtime.h"

#ifdef FOLIO_CUDA_SIM
#define FOLIO_SIM(...) __VA_ARGS__
#define FOLIO_GPU(...)
#define FOLIO_SM90 1
#else
#define FOLIO_SIM(...)
#define FOLIO_GPU(...) __VA_ARGS__
// For sm_90a: TMA, mbarriers that count bytes, wgmma, setmaxnreg. Also where nvcc only reads device code, compiling for the host.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)
#define FOLIO_SM90 1
#else
#define FOLIO_SM90 0
#endif
#endif
#define FOLIO_DEVICE __device__ __forceinline__

namespace folio {

#ifndef FOLIO_CUDA_SIM
struct Here {};  // the simulator's reports name source lines; on the chip there is nothing to carry
#endif

// Where a kernel runs: blocks, threads of a block, bytes of dynamic shared memory, stream.
struct Launch {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};

#ifdef FOLIO_CUDA_SIM
template <class... P> std::tuple<std::decay_t<P>...> parameters_of(void (*)(P...));

// A text that contains "kernel = NAME]", for reports.
template <auto kernel> const char* kernel_name() { return __PRETTY_FUNCTION__; }
#endif

// Launches `kernel`, with arguments converted and copied as in a call: launch<rms_norm<64>>({grid, block, bytes, stream}, x, y, n).
// Allows the kernel as much shared memory as the device has. Throws Error if the runtime refuses.
template <auto kernel, class... Args> void launch(const Launch& at, const Args&... args) {
#ifdef FOLIO_CUDA_SIM
  const decltype(parameters_of(kernel)) copies{args...};
  sim::launch(kernel_name<kernel>(), at.grid, at.block, at.shared, at.stream, [copies] { std::apply(kernel, copies); });
#else
  if (at.shared > 48 << 10)
    cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(at.shared)), "shared memory of a kernel");
  kernel<<<at.grid, at.block, at.shared, at.stream>>>(args...);
#endif
  cuda_check(cudaGetLastError(), "launch");
}

// Hands out dynamic shared memory, array after array. The layout of a kernel is one function that takes all its arrays from an Smem;
// the kernel calls it with Smem::here(), the launcher with an empty Smem, of which only bytes() matters.
class Smem {
 public:
  __host__ __device__ Smem() : base_(nullptr) {}
  FOLIO_DEVICE static Smem here() {
    Smem s;
#ifdef FOLIO_CUDA_SIM
    s.base_ = sim::shared_base();
#else
    extern __shared__ __align__(1024) unsigned char folio_shared_memory[];
    s.base_ = folio_shared_memory;
#endif
    return s;
  }
  // n elements, aligned to `align` bytes (a power of two up to 1024; tiles of TMA and wgmma want 1024).
  template <class T> __host__ __device__ T* take(int64_t n, int align = 16, [[maybe_unused]] Here from = {}) {
    const auto bytes = uint32_t(n * int64_t(sizeof(T)));
    used_ = round_up(used_, align) + bytes;
    at_ = round_up(at_, align);
#ifdef FOLIO_CUDA_SIM
    T* const array = base_ ? reinterpret_cast<T*>(base_ + at_) : nullptr;
    if (base_) sim::take_shared(array, bytes, used_, from);
    at_ += bytes + 64;  // a red zone; never counted as used
#else
    T* const array = reinterpret_cast<T*>(base_ + at_);
    at_ += bytes;
#endif
    return array;
  }
  __host__ __device__ size_t bytes() const { return used_; }  // what the launch must give

 private:
  __host__ __device__ static uint32_t round_up(uint32_t n, int to) { return (n + uint32_t(to) - 1) / uint32_t(to) * uint32_t(to); }
#ifdef FOLIO_CUDA_SIM
  std::byte* base_;
#else
  unsigned char* base_;
#endif
  uint32_t at_ = 0, used_ = 0;
};

}  // namespace folio

// A small array in shared memory, inside a kernel or a device function: FOLIO_SHARED(float, part, [32]);
#ifdef FOLIO_CUDA_SIM
#define FOLIO_SHARED(T, name, dims)    \
  using name##_type = T dims;          \
  static const char name##_site = 0;   \
  name##_type& name = *static_cast<name##_type*>(folio::sim::static_shared(&name##_site, sizeof(name##_type), alignof(name##_type)))
#else
#define FOLIO_SHARED(T, name, dims) __shared__ T name dims
#endif
