// SPDX-License-Identifier: MIT
// What sm_90a has over sm_80: mbarriers that count bytes, TMA (boxes of a tensor copied by a unit beside the threads), wgmma (matrix
// products of 128 threads that read shared memory through descriptors) and registers handed from warp to warp. Bodies of kernels
// that use them stand in `#if FOLIO_SM90`; for other chips these functions trap.
//
// Three orders must be kept, and only the first is one that every schedule shows:
//   data      arrive and wait on mbarriers; wgmma_wait before accumulators are read or operands overwritten
//   proxies   ordinary stores to shared memory reach TMA and wgmma only after fence_async_proxy() by the writer, then a barrier
//   registers wgmma_fence() before the first wgmma on registers that were written; all A fragments filled before that fence
#pragma once
#ifndef FOLIO_CUDA_SIM
#include <cuda.h>
#endif

#include <initializer_list>

#include "cuda/lib/copy.cuh"
#include "cuda/lib/number.cuh"
#include "cuda/lib/warp.cuh"
#ifndef FOLIO_CUDA_SIM
#include "cuda/lib/wgmma.cuh"
#endif

#if FOLIO_SM90
#define FOLIO_GPU90(...) FOLIO_GPU(__VA_ARGS__)
#else
#define FOLIO_GPU90(...) FOLIO_GPU(__trap();)
#endif

namespace folio {

// mbarriers: 8 bytes of shared memory. A phase ends when `count` arrivals and all expected bytes have come; phases alternate in parity
// from 0. Waiting for parity 1 on a fresh barrier returns at once.
FOLIO_DEVICE void mbarrier_init([[maybe_unused]] uint64_t* barrier, [[maybe_unused]] unsigned count, [[maybe_unused]] Here here = {}) {
  FOLIO_SIM(sim::mbarrier_init(barrier, count, here);)
  FOLIO_GPU90(asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(shared_address(barrier)), "r"(count) : "memory");)
}
// After the inits and before the barrier that shows them to the block: TMA, too, sees the barriers initialised.
FOLIO_DEVICE void mbarrier_init_fence() { FOLIO_GPU90(asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");) }
FOLIO_DEVICE void mbarrier_arrive([[maybe_unused]] uint64_t* barrier, [[maybe_unused]] Here here = {}) {
  FOLIO_SIM(sim::mbarrier_arrive(barrier, 1, 0, here);)
  FOLIO_GPU90(asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(shared_address(barrier)) : "memory");)
}
// One arrival that also says how many bytes of copies this phase waits for.
FOLIO_DEVICE void mbarrier_expect([[maybe_unused]] uint64_t* barrier, [[maybe_unused]] unsigned bytes, [[maybe_unused]] Here here = {}) {
  FOLIO_SIM(sim::mbarrier_arrive(barrier, 1, bytes, here);)
  FOLIO_GPU90(asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                           :: "r"(shared_address(barrier)), "r"(bytes) : "memory");)
}
// Whether the phase of that parity is over.
FOLIO_DEVICE bool mbarrier_test([[maybe_unused]] uint64_t* barrier, [[maybe_unused]] unsigned parity, [[maybe_unused]] Here here = {}) {
  unsigned done = 0;
  FOLIO_SIM(done = sim::mbarrier_test(barrier, parity, here);)
  FOLIO_GPU90(asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                           : "=r"(done) : "r"(shared_address(barrier)), "r"(parity) : "memory");)
  return done != 0;
}
FOLIO_DEVICE void mbarrier_wait(uint64_t* barrier, unsigned parity, [[maybe_unused]] Here here = {}) {
  FOLIO_SIM(sim::mbarrier_wait(barrier, parity, here);)
  FOLIO_GPU(while (!mbarrier_test(barrier, parity)) {})
}

// A place in a ring of stages between one who fills and others who use, with two mbarriers each. `full` is waited for with `parity`,
// `empty`, which nobody has arrived at when the stage is filled for the first time, with `parity ^ 1`.
template <int Stages> struct Ring {
  int stage = 0;
  unsigned parity = 0;
  FOLIO_DEVICE void next() {
    if (++stage < Stages) return;
    stage = 0;
    parity ^= 1;
  }
};

// Makes the calling thread's earlier stores to shared memory visible to TMA and wgmma.
FOLIO_DEVICE void fence_async_proxy() {
  FOLIO_SIM(sim::fence_async_proxy();)
  FOLIO_GPU90(asm volatile("fence.proxy.async.shared::cta;" ::: "memory");)
}

// Which warpgroup of the block this is. All lanes of a warp get it from one, so that the compiler knows it to be the same for all.
FOLIO_DEVICE int warpgroup_id(Here here = {}) { return shuffle_from(int(threadIdx.x / 128), 0, here); }

// A warpgroup takes registers or gives them back, to N per thread (24 .. 256, a multiple of 8). All its 128 threads call.
template <int N> FOLIO_DEVICE void registers_take() { FOLIO_GPU90(asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(N));) }
template <int N> FOLIO_DEVICE void registers_give() { FOLIO_GPU90(asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(N));) }

// --- TMA. One thread issues. A kernel takes maps as `const __grid_constant__ TensorMap`.

using TensorMap = CUtensorMap;
enum class Swizzle { none = 0, bytes128 = 1, bytes64 = 2, bytes32 = 3 };  // as a wgmma descriptor numbers them
__host__ __device__ constexpr int width_of(Swizzle s) { return s == Swizzle::none ? 0 : 256 >> int(s); }

// Copies the box of `map` at element `at` (one to five coordinates, innermost first; what lies outside the tensor becomes zero) into
// `to`, aligned to the swizzle's pattern: 1024, 512 or 256 bytes for 128, 64 or 32; 128 without. `barrier` counts the whole box's bytes.
template <int Rank>
FOLIO_DEVICE void tma_load([[maybe_unused]] void* to, [[maybe_unused]] const TensorMap& map, [[maybe_unused]] uint64_t* barrier,
                           [[maybe_unused]] const int (&at)[Rank], [[maybe_unused]] Here here = {}) {
  static_assert(Rank >= 1 && Rank <= 5);
#ifdef FOLIO_CUDA_SIM
  sim::tma_load(to, &map, barrier, at, Rank, here);
#elif FOLIO_SM90
#define FOLIO_TMA(RANK, NAMES, ...)                                                                                                  \
  asm volatile("cp.async.bulk.tensor." #RANK "d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {" NAMES         \
               "}], [%2];" :: "r"(shared_address(to)), "l"(&map), "r"(shared_address(barrier)), __VA_ARGS__ : "memory")
  if constexpr (Rank == 1) FOLIO_TMA(1, "%3", "r"(at[0]));
  else if constexpr (Rank == 2) FOLIO_TMA(2, "%3, %4", "r"(at[0]), "r"(at[1]));
  else if constexpr (Rank == 3) FOLIO_TMA(3, "%3, %4, %5", "r"(at[0]), "r"(at[1]), "r"(at[2]));
  else if constexpr (Rank == 4) FOLIO_TMA(4, "%3, %4, %5, %6", "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]));
  else if constexpr (Rank == 5) FOLIO_TMA(5, "%3, %4, %5, %6, %7", "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4]));
#undef FOLIO_TMA
#else
  __trap();
#endif
}

// Writes the box from shared memory to where `map` and `at` say; what lies outside the tensor is left out. It belongs to the calling
// thread's open bulk group. Ordinary stores to `from` need fence_async_proxy() and a barrier before.
template <int Rank>
FOLIO_DEVICE void tma_store([[maybe_unused]] const TensorMap& map, [[maybe_unused]] const void* from,
                            [[maybe_unused]] const int (&at)[Rank], [[maybe_unused]] Here here = {}) {
  static_assert(Rank >= 1 && Rank <= 5);
#ifdef FOLIO_CUDA_SIM
  sim::tma_store(&map, from, at, Rank, here);
#elif FOLIO_SM90
#define FOLIO_TMA(RANK, NAMES, ...)                                                                                                  \
  asm volatile("cp.async.bulk.tensor." #RANK "d.global.shared::cta.tile.bulk_group [%0, {" NAMES "}], [%1];"                         \
               :: "l"(&map), "r"(shared_address(from)), __VA_ARGS__ : "memory")
  if constexpr (Rank == 1) FOLIO_TMA(1, "%2", "r"(at[0]));
  else if constexpr (Rank == 2) FOLIO_TMA(2, "%2, %3", "r"(at[0]), "r"(at[1]));
  else if constexpr (Rank == 3) FOLIO_TMA(3, "%2, %3, %4", "r"(at[0]), "r"(at[1]), "r"(at[2]));
  else if constexpr (Rank == 4) FOLIO_TMA(4, "%2, %3, %4, %5", "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]));
  else if constexpr (Rank == 5) FOLIO_TMA(5, "%2, %3, %4, %5, %6", "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4]));
#undef FOLIO_TMA
#else
  __trap();
#endif
}

// The same without a map: `bytes` in a row, a multiple of 16, both ends aligned to 16.
FOLIO_DEVICE void bulk_load([[maybe_unused]] void* to, [[maybe_unused]] const void* from, [[maybe_unused]] unsigned bytes,
                            [[maybe_unused]] uint64_t* barrier, [[maybe_unused]] Here here = {}) {
  FOLIO_SIM(sim::bulk_load(to, from, bytes, barrier, here);)
  FOLIO_GPU90(asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                           :: "r"(shared_address(to)), "l"(from), "r"(bytes), "r"(shared_address(barrier)) : "memory");)
}
FOLIO_DEVICE void bulk_store([[maybe_unused]] void* to, [[maybe_unused]] const void* from, [[maybe_unused]] unsigned bytes,
                             [[maybe_unused]] Here here = {}) {
  FOLIO_SIM(sim::bulk_store(to, from, bytes, here);)
  FOLIO_GPU90(asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;"
                           :: "l"(to), "r"(shared_address(from)), "r"(bytes) : "memory");)
}
// Closes the calling thread's group of bulk stores; waits until at most GroupsLeft groups still have to read their source.
FOLIO_DEVICE void bulk_commit() {
  FOLIO_SIM(sim::bulk_commit();)
  FOLIO_GPU90(asm volatile("cp.async.bulk.commit_group;" ::: "memory");)
}
template <int GroupsLeft> FOLIO_DEVICE void bulk_wait_read() {
  FOLIO_SIM(sim::bulk_wait(GroupsLeft);)
  FOLIO_GPU90(asm volatile("cp.async.bulk.wait_group.read %0;" :: "n"(GroupsLeft) : "memory");)
}

// --- wgmma. All 128 threads of an aligned warpgroup call together. Accumulators of D[64, N], N = 8, 16 .. 256: with w the warp of the
// warpgroup, g = lane / 4 and t = lane % 4, d[i] is row 16 w + g + 8 (i / 2 % 2), column 8 (i / 4) + 2t + i % 2. A in registers: the
// fragment of mma, rows 16 w and on.

enum class Major { k, mn };  // which dimension of an operand is contiguous in shared memory

// A descriptor of a tile at `at` (aligned to 16 bytes). With the swizzle's width S in bytes:
//   K-major, swizzled     rows of S bytes, `stride` = bytes between groups of 8 rows (8 S); `leading` unused
//   MN-major, swizzled    S/2 rows wide; `leading` = bytes to the next S/2 rows, `stride` = bytes to the next 8 of k (8 S)
//   without a swizzle     8x8 tiles of 128 bytes; K-major: `leading` to the next 8 of k, `stride` to the next 8 rows; MN-major:
//                         `leading` to the next 8 of k, `stride` to the next 8 rows
// A step of 16 in k moves `at`: K-major by 32 bytes within the swizzle, MN-major by 16 S bytes.
FOLIO_DEVICE uint64_t wgmma_descriptor(const void* at, unsigned leading, unsigned stride, Swizzle swizzle, Here here = {}) {
  FOLIO_SIM(if (shared_address(at, here) > 0x3ffffu) sim::stop("an operand beyond the 256 KB that a descriptor can name", here);)
  uint64_t d = uint64_t(leading >> 4) << 16 | uint64_t(stride >> 4) << 32 | uint64_t(swizzle) << 62;
  d |= (shared_address(at, here) & 0x3ffffu) >> 4;
  FOLIO_GPU(asm volatile("" : "+l"(d));)  // made anew where it stands: else a loop keeps those of all its steps in registers
  return d;
}

// Of the same tile `bytes` further on.
FOLIO_DEVICE uint64_t wgmma_step(uint64_t descriptor, unsigned bytes) { return descriptor + (bytes >> 4); }

// Where byte `offset` of a tile is that TMA or wgmma swizzles by 128 bytes; the tile begins at a multiple of 1024.
FOLIO_DEVICE uint32_t swizzled128(uint32_t offset) { return offset ^ (offset >> 3 & 0x70u); }

// Before the first wgmma, and again whenever other instructions have written accumulators or fragments.
FOLIO_DEVICE void wgmma_fence([[maybe_unused]] Here here = {}) {
  FOLIO_SIM(sim::wgmma_fence(here);)
  FOLIO_GPU90(asm volatile("wgmma.fence.sync.aligned;" ::: "memory");)
}
FOLIO_DEVICE void wgmma_commit([[maybe_unused]] Here here = {}) {
  FOLIO_SIM(sim::wgmma_commit(here);)
  FOLIO_GPU90(asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");)
}
template <int GroupsLeft> FOLIO_DEVICE void wgmma_wait([[maybe_unused]] Here here = {}) {
  FOLIO_SIM(sim::wgmma_wait(GroupsLeft, here);)
  FOLIO_GPU90(asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(GroupsLeft) : "memory");)
}
// Keeps the compiler from moving accumulators across the fence before and the wait after; call it at both.
template <int R> FOLIO_DEVICE void wgmma_pin([[maybe_unused]] float (&d)[R]) {
#ifndef FOLIO_CUDA_SIM
#pragma unroll
  for (int i = 0; i < R; ++i) asm volatile("" : "+f"(d[i]) :: "memory");
#endif
}

// d[64, N] = A[64, 16] B[16, N], plus d if `add`. T is bf16 or f16; A and B as their descriptors say.
template <Major MajorA = Major::k, Major MajorB = Major::k, class T = bf16, int R>
FOLIO_DEVICE void wgmma([[maybe_unused]] float (&d)[R], [[maybe_unused]] uint64_t a, [[maybe_unused]] uint64_t b,
                        [[maybe_unused]] bool add, [[maybe_unused]] Here here = {}) {
  static_assert(R % 4 == 0 && R <= 128 && (std::is_same_v<T, bf16> || std::is_same_v<T, f16>));
  constexpr bool half = std::is_same_v<T, f16>, ta = MajorA == Major::mn, tb = MajorB == Major::mn;
  FOLIO_SIM(sim::wgmma({d, nullptr, a, b, 2 * R, ta, tb, half, add}, here);)
  FOLIO_GPU90((WgmmaPtx<2 * R, half, ta, tb>::run(d, a, b, int(add)));)
}
// The same with A in registers.
template <Major MajorB = Major::k, class T = bf16, int R>
FOLIO_DEVICE void wgmma([[maybe_unused]] float (&d)[R], [[maybe_unused]] const uint32_t (&a)[4], [[maybe_unused]] uint64_t b,
                        [[maybe_unused]] bool add, [[maybe_unused]] Here here = {}) {
  static_assert(R % 4 == 0 && R <= 128 && (std::is_same_v<T, bf16> || std::is_same_v<T, f16>));
  constexpr bool half = std::is_same_v<T, f16>, tb = MajorB == Major::mn;
  FOLIO_SIM(sim::wgmma({d, a, 0, b, 2 * R, false, tb, half, add}, here);)
  FOLIO_GPU90((WgmmaPtx<2 * R, half, false, tb>::run(d, a, b, int(add)));)
}

// --- Host.

// Describes boxes of `box` elements of a tensor T[extent] in device memory, dimensions innermost first, one to five of them; strides
// in bytes from the second dimension on. T is bf16, f16, float or uint8_t. The inner side is as wide as the swizzle, or any multiple of
// 16 bytes without one. Throws Error where the driver refuses: base aligned to 16, strides multiples of 16, sides of 1 to 256.
template <class T>
TensorMap tensor_map(const T* base, std::initializer_list<int64_t> extent, std::initializer_list<int64_t> strides,
                     std::initializer_list<int> box, Swizzle swizzle) {
  const auto rank = int(extent.size());
  check(rank >= 1 && rank <= 5 && int(strides.size()) == rank - 1 && int(box.size()) == rank, "tensor map: ranks differ");
  check(swizzle == Swizzle::none || box.begin()[0] * int(sizeof(T)) == width_of(swizzle),
        "tensor map: the box is not as wide as the swizzle");
  TensorMap map{};
#ifdef FOLIO_CUDA_SIM
  const bool good = sim::encode_tensor_map(&map, const_cast<T*>(base), rank, sizeof(T), extent.begin(), strides.begin(), box.begin(),
                                           width_of(swizzle));
#else
  // The driver's function by way of the runtime, so that nothing links the driver.
  static const auto encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult how;
    cuda_check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &how), "tensor maps");
    check(found != nullptr, "cuda: this driver has no tensor maps");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);
  }();
  constexpr CUtensorMapDataType type = std::is_same_v<T, bf16>  ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                       : std::is_same_v<T, f16> ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                       : std::is_same_v<T, float> ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                                                                  : CU_TENSOR_MAP_DATA_TYPE_UINT8;
  constexpr CUtensorMapSwizzle swizzles[] = {CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_SWIZZLE_64B,
                                             CU_TENSOR_MAP_SWIZZLE_32B};
  cuuint64_t sizes[5], steps[5];
  cuuint32_t sides[5], ones[5] = {1, 1, 1, 1, 1};
  for (int i = 0; i < rank; ++i) {
    sizes[i] = cuuint64_t(extent.begin()[i]);
    sides[i] = cuuint32_t(box.begin()[i]);
    if (i > 0) steps[i - 1] = cuuint64_t(strides.begin()[i - 1]);
  }
  const bool good = encode(&map, type, cuuint32_t(rank), const_cast<T*>(base), sizes, steps, sides, ones,
                           CU_TENSOR_MAP_INTERLEAVE_NONE, swizzles[int(swizzle)], CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                           CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
#endif
  check(good, "tensor map: the driver refuses this box");
  return map;
}

}  // namespace folio
