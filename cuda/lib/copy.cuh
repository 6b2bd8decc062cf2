// SPDX-License-Identifier: MIT
// Memory: vector loads and stores, flags between blocks, and cp.async, by which sm_80 copies from global to shared memory while the
// thread goes on. In the simulator every access here is checked for alignment and bounds, and bytes from and to global memory are
// counted, so that a test can hold a kernel's traffic against the op's formula.
#pragma once
#include "cuda/lib/launch.cuh"

namespace folio {

// The address of something in shared memory, as PTX instructions take it.
FOLIO_DEVICE uint32_t shared_address(const void* at, [[maybe_unused]] Here here = {}) {
  FOLIO_SIM(return sim::shared_address(at, here);)
  FOLIO_GPU(return uint32_t(__cvta_generic_to_shared(at));)
}

// Reads a V (uint4, float2, uint32_t ...) from global or shared memory; `at` is aligned to its size.
template <class V> FOLIO_DEVICE V ld_vec(const void* at, [[maybe_unused]] Here here = {}) {
  static_assert(alignof(V) == sizeof(V), "a vector is aligned to its size");
#ifdef FOLIO_CUDA_SIM
  sim::access(at, sizeof(V), sim::Access::load, here);
  V v;
  std::memcpy(&v, at, sizeof v);
  return v;
#else
  return *static_cast<const V*>(at);
#endif
}
template <class V> FOLIO_DEVICE void st_vec(void* at, V v, [[maybe_unused]] Here here = {}) {
  static_assert(alignof(V) == sizeof(V), "a vector is aligned to its size");
#ifdef FOLIO_CUDA_SIM
  sim::access(at, sizeof(V), sim::Access::store, here);
  std::memcpy(at, &v, sizeof v);
#else
  *static_cast<V*>(at) = v;
#endif
}

// As ld_vec, for global memory that nobody writes while the kernel runs and that this kernel reads once: it does not enter L1.
template <class V> FOLIO_DEVICE V ld_stream(const void* at, [[maybe_unused]] Here here = {}) {
  static_assert(sizeof(V) == 4 || sizeof(V) == 8 || sizeof(V) == 16);
#ifdef FOLIO_CUDA_SIM
  return ld_vec<V>(at, here);
#else
  uint32_t w[sizeof(V) / 4];
  if constexpr (sizeof(V) == 16)
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3]) : "l"(at));
  else if constexpr (sizeof(V) == 8)
    asm("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(w[0]), "=r"(w[1]) : "l"(at));
  else
    asm("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(w[0]) : "l"(at));
  V v;
  memcpy(&v, w, sizeof v);
  return v;
#endif
}

// A flag between blocks: what was written before a store_release is seen after a load_acquire that reads its value.
FOLIO_DEVICE unsigned load_acquire(const unsigned* at, [[maybe_unused]] Here here = {}) {
#ifdef FOLIO_CUDA_SIM
  sim::preempt(here);
  return __atomic_load_n(at, __ATOMIC_ACQUIRE);
#else
  unsigned v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(at) : "memory");
  return v;
#endif
}
FOLIO_DEVICE void store_release(unsigned* at, unsigned v, [[maybe_unused]] Here here = {}) {
#ifdef FOLIO_CUDA_SIM
  __atomic_store_n(at, v, __ATOMIC_RELEASE);
  sim::preempt(here);
#else
  asm volatile("st.release.gpu.global.u32 [%0], %1;" :: "l"(at), "r"(v) : "memory");
#endif
}

// Copies Bytes (4, 8 or 16; both ends aligned to it) from global to shared memory, some time before the wait for its group. Of the
// source only the first `valid` bytes are read, the rest of the destination becomes zero; with valid = 0 `from` may be anything.
template <int Bytes = 16> FOLIO_DEVICE void cp_async_part(void* to, const void* from, int valid, [[maybe_unused]] Here here = {}) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
#ifdef FOLIO_CUDA_SIM
  sim::cp_async(to, from, Bytes, valid, here);
#else
  if constexpr (Bytes == 16)
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" :: "r"(shared_address(to)), "l"(from), "r"(valid) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" :: "r"(shared_address(to)), "l"(from), "n"(Bytes), "r"(valid) : "memory");
#endif
}
// The same, all or (unless `take`) zeros.
template <int Bytes = 16> FOLIO_DEVICE void cp_async(void* to, const void* from, bool take = true, Here here = {}) {
  cp_async_part<Bytes>(to, from, take ? Bytes : 0, here);
}
// Closes the calling thread's group of copies; waits until at most GroupsLeft of its groups are under way. Other threads see the
// copied bytes after a barrier that follows the wait.
FOLIO_DEVICE void cp_async_commit() {
  FOLIO_SIM(sim::cp_async_commit();)
  FOLIO_GPU(asm volatile("cp.async.commit_group;" ::: "memory");)
}
template <int GroupsLeft> FOLIO_DEVICE void cp_async_wait() {
  FOLIO_SIM(sim::cp_async_wait(GroupsLeft);)
  FOLIO_GPU(asm volatile("cp.async.wait_group %0;" :: "n"(GroupsLeft) : "memory");)
}

}  // namespace folio
