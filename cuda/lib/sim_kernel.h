// SPDX-License-Identifier: MIT
// CUDA C++ for a compiler that knows none. With FOLIO_CUDA_SIM a kernel is an ordinary function: this header gives it the types,
// the keywords and the built-in functions of CUDA under their own names, and declares what the lib's helpers emulate. Whatever
// needs more than the calling thread is defined in tests/sim (engine, warp, async, wgmma). Shared memory has no keyword here, so a
// raw __shared__ does not compile: FOLIO_SHARED and Smem know poison and red zones.
//
// A thread has no name of its own: the engine sets threadIdx and blockIdx whenever it lets another one run.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct uint3 { unsigned x, y, z; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

// A box of a tensor in device memory, as TMA reads and writes it; 128 bytes like the real one, with contents of our own.
struct alignas(64) CUtensorMap {
  uint64_t made_by_us;                   // guards against a map that nobody filled
  std::byte* base;
  int64_t extent[5], stride[5];          // innermost first; strides in bytes
  uint16_t box[5];                       // elements
  uint8_t rank, element, swizzle;        // bytes of an element; width of the swizzle in bytes, 0 for none
};
static_assert(sizeof(CUtensorMap) == 128);

namespace folio {

// Where in the kernel's source an operation was called: the default argument of every function that can wait or fail.
struct Here {
  const char* file;
  int line;
  constexpr Here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) : file(file), line(line) {}
  operator std::string() const;   // "norm.cu:57"
};

}  // namespace folio

namespace folio::sim {

// Ends the kernel with a message. For the emulation itself.
[[noreturn]] void stop(const char* message, Here here);

// Block barriers. Count 0: all threads of the block. The result of the vote is the same for all.
enum class Vote { none, all, any, count };
int barrier(int id, int count, Vote vote, bool mine, const char* name, Here here);
void barrier_arrive(int id, int count, Here here);
void yield(Here here);    // somebody else runs first, and this thread again only when nobody else can
void preempt(Here here);  // somebody else may run first

// Operations of a warp: every lane of the mask calls, the last to come does the work for all.
enum class Shuffle { index, up, down, exclusive_or };
void shuffle(Shuffle kind, unsigned mask, const void* mine, void* result, size_t bytes, int lane, int width, const char* name, Here here);
unsigned ballot(unsigned mask, bool mine, const char* name, Here here);
void sync_warp(unsigned mask, Here here);
void ldmatrix(uint32_t* fragment, int matrices, bool transposed, const void* row, Here here);
enum class Mma { bf16, f16, tf32, s8 };
void mma(Mma kind, void* d, const uint32_t* a, const uint32_t* b, Here here);  // d: float[4], for s8 int32_t[4]

// Memory. `take` is told of every array that a kernel lays out, `access` of every vector load and store.
std::byte* shared_base();
void take_shared(const void* at, size_t bytes, size_t end, Here here);  // `end`: what the layout has used, red zones not counted
void* static_shared(const void* site, size_t bytes, size_t align);      // one object for each site and block
uint32_t shared_address(const void* at, Here here);                     // as the shared window numbers it
enum class Access { load, store };
void access(const void* at, size_t bytes, Access kind, Here here);      // alignment, bounds, and bytes counted if global

// Asynchronous copies.
void cp_async(void* to, const void* from, int bytes, int valid, Here here);
void cp_async_commit();
void cp_async_wait(int groups_left);
void mbarrier_init(uint64_t* barrier, unsigned count, Here here);
void mbarrier_arrive(uint64_t* barrier, unsigned count, unsigned expect_bytes, Here here);
bool mbarrier_test(uint64_t* barrier, unsigned parity, Here here);
void mbarrier_wait(uint64_t* barrier, unsigned parity, Here here);
void tma_load(void* to, const CUtensorMap* map, uint64_t* barrier, const int* at, int rank, Here here);
void tma_store(const CUtensorMap* map, const void* from, const int* at, int rank, Here here);
void bulk_load(void* to, const void* from, unsigned bytes, uint64_t* barrier, Here here);
void bulk_store(void* to, const void* from, unsigned bytes, Here here);
void bulk_commit();
void bulk_wait(int groups_left);
void fence_async_proxy();
// Fills a map after the driver's rules; false where the driver would refuse.
bool encode_tensor_map(CUtensorMap* map, void* base, int rank, int element_bytes, const int64_t* extent, const int64_t* stride,
                       const int* box, int swizzle_bytes);

// Operations of a warpgroup, 128 threads.
struct Wgmma {
  float* d;
  const uint32_t* a_registers;  // null: A comes from shared memory
  uint64_t a, b;                // descriptors
  int n;
  bool a_mn_major, b_mn_major, half, accumulate;
};
void wgmma(const Wgmma& mine, Here here);
void wgmma_fence(Here here);
void wgmma_commit(Here here);
void wgmma_wait(int groups_left, Here here);

float f16_to_float(uint16_t bits);
uint16_t f16_from_float(float x);

// One read-modify-write. Real atomics, although one thread of the system runs them all: the thread sanitizer learns from them.
template <class T, class F> T atomic_update(T* at, F next, Here here) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  using Word = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  preempt(here);
  Word before = __atomic_load_n(reinterpret_cast<Word*>(at), __ATOMIC_ACQUIRE), after;
  T value;
  do {
    std::memcpy(&value, &before, sizeof value);
    const T changed = next(value);
    std::memcpy(&after, &changed, sizeof changed);
  } while (!__atomic_compare_exchange_n(reinterpret_cast<Word*>(at), &before, after, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE));
  return value;
}
template <class T> using Same = std::type_identity_t<T>;  // takes no part in deduction

template <class T> T shuffled(Shuffle kind, unsigned mask, T mine, int lane, int width, const char* name, Here here) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "CUDA shuffles numbers of 4 and 8 bytes");
  T result;
  shuffle(kind, mask, &mine, &result, sizeof(T), lane, width, name, here);
  return result;
}

}  // namespace folio::sim

// The built-in functions of CUDA C++ that kernels here use, with its names.
inline void __syncthreads(folio::Here here = {}) { folio::sim::barrier(0, 0, folio::sim::Vote::none, false, "__syncthreads", here); }
inline int __syncthreads_and(int p, folio::Here here = {}) {
  return folio::sim::barrier(0, 0, folio::sim::Vote::all, p != 0, "__syncthreads_and", here);
}
inline int __syncthreads_or(int p, folio::Here here = {}) {
  return folio::sim::barrier(0, 0, folio::sim::Vote::any, p != 0, "__syncthreads_or", here);
}
inline int __syncthreads_count(int p, folio::Here here = {}) {
  return folio::sim::barrier(0, 0, folio::sim::Vote::count, p != 0, "__syncthreads_count", here);
}
inline void __syncwarp(unsigned mask = ~0u, folio::Here here = {}) { folio::sim::sync_warp(mask, here); }
template <class T> T __shfl_sync(unsigned mask, T v, int lane, int width = 32, folio::Here here = {}) {
  return folio::sim::shuffled(folio::sim::Shuffle::index, mask, v, lane, width, "__shfl_sync", here);
}
template <class T> T __shfl_up_sync(unsigned mask, T v, int by, int width = 32, folio::Here here = {}) {
  return folio::sim::shuffled(folio::sim::Shuffle::up, mask, v, by, width, "__shfl_up_sync", here);
}
template <class T> T __shfl_down_sync(unsigned mask, T v, int by, int width = 32, folio::Here here = {}) {
  return folio::sim::shuffled(folio::sim::Shuffle::down, mask, v, by, width, "__shfl_down_sync", here);
}
template <class T> T __shfl_xor_sync(unsigned mask, T v, int by, int width = 32, folio::Here here = {}) {
  return folio::sim::shuffled(folio::sim::Shuffle::exclusive_or, mask, v, by, width, "__shfl_xor_sync", here);
}
inline unsigned __ballot_sync(unsigned mask, int p, folio::Here here = {}) {
  return folio::sim::ballot(mask, p != 0, "__ballot_sync", here);
}
inline int __any_sync(unsigned mask, int p, folio::Here here = {}) {
  return folio::sim::ballot(mask, p != 0, "__any_sync", here) != 0;
}
inline int __all_sync(unsigned mask, int p, folio::Here here = {}) {
  return folio::sim::ballot(mask, p != 0, "__all_sync", here) == mask;
}
inline void __nanosleep(unsigned, folio::Here here = {}) { folio::sim::yield(here); }
inline void __threadfence() {}  // everything here is in order already; what must be ordered is seen by the atomics beside the fence
inline void __threadfence_block() {}

template <class T> T atomicAdd(T* at, folio::sim::Same<T> v, folio::Here here = {}) {
  return folio::sim::atomic_update(at, [=](T old) { return T(old + v); }, here);
}
template <class T> T atomicMax(T* at, folio::sim::Same<T> v, folio::Here here = {}) {
  return folio::sim::atomic_update(at, [=](T old) { return std::max(old, v); }, here);
}
template <class T> T atomicMin(T* at, folio::sim::Same<T> v, folio::Here here = {}) {
  return folio::sim::atomic_update(at, [=](T old) { return std::min(old, v); }, here);
}
template <class T> T atomicOr(T* at, folio::sim::Same<T> v, folio::Here here = {}) {
  return folio::sim::atomic_update(at, [=](T old) { return T(old | v); }, here);
}
template <class T> T atomicExch(T* at, folio::sim::Same<T> v, folio::Here here = {}) {
  return folio::sim::atomic_update(at, [=](T) { return v; }, here);
}
template <class T> T atomicCAS(T* at, folio::sim::Same<T> compare, folio::sim::Same<T> v, folio::Here here = {}) {
  return folio::sim::atomic_update(at, [=](T old) { return old == compare ? v : old; }, here);
}
inline unsigned atomicInc(unsigned* at, unsigned most, folio::Here here = {}) {
  return folio::sim::atomic_update(at, [=](unsigned old) { return old >= most ? 0u : old + 1; }, here);
}

inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline float __uint_as_float(unsigned bits) { float x; std::memcpy(&x, &bits, 4); return x; }
inline unsigned __float_as_uint(float x) { unsigned bits; std::memcpy(&bits, &x, 4); return bits; }
inline float __int_as_float(int bits) { return __uint_as_float(unsigned(bits)); }
inline int __float_as_int(float x) { return int(__float_as_uint(x)); }
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; ++i) c += int(int8_t(unsigned(a) >> 8 * i)) * int(int8_t(unsigned(b) >> 8 * i));
  return c;
}
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned select) {
  const uint64_t bytes = uint64_t(high) << 32 | low;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) result |= unsigned(bytes >> 8 * (select >> 4 * i & 7) & 0xff) << 8 * i;
  return result;
}
using std::max;
using std::min;
