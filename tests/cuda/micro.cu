// SPDX-License-Identifier: MIT
// One kernel for each instruction that tests/cuda/cubin.py must know, under its name: LDG_128 has exactly such loads of global memory.
// tests/cuda/gate.py reads this object, too, and fails unless it finds in each kernel what the name says: so a new nvcc that encodes
// an instruction otherwise is noticed before it hides what kernels do. The kernel `nothing` must have none of them.
#include "cuda/lib/hopper.cuh"
#include "cuda/lib/kernel.cuh"

using namespace folio;

template <class V> FOLIO_DEVICE unsigned folded(V v) {
  unsigned sum = 0;
  for (unsigned i = 0; i < sizeof(V) / 4; ++i) sum ^= reinterpret_cast<const unsigned*>(&v)[i];
  return sum;
}

#define MICRO extern "C" __global__ void
MICRO nothing() {}
MICRO LDG_8(const uint8_t* x, unsigned* y) { y[threadIdx.x] = ld_vec<uint8_t>(x + threadIdx.x); }
MICRO LDG_16(const uint16_t* x, unsigned* y) { y[threadIdx.x] = ld_vec<uint16_t>(x + threadIdx.x); }
MICRO LDG_32(const unsigned* x, unsigned* y) { y[threadIdx.x] = ld_vec<unsigned>(x + threadIdx.x); }
MICRO LDG_64(const uint2* x, unsigned* y) { y[threadIdx.x] = folded(ld_vec<uint2>(x + threadIdx.x)); }
MICRO LDG_128(const uint4* x, unsigned* y) { y[threadIdx.x] = folded(ld_stream<uint4>(x + threadIdx.x)); }
MICRO STG_8(uint8_t* y) { st_vec(y + threadIdx.x, uint8_t(threadIdx.x)); }
MICRO STG_16(uint16_t* y) { st_vec(y + threadIdx.x, uint16_t(threadIdx.x)); }
MICRO STG_32(unsigned* y) { st_vec(y + threadIdx.x, threadIdx.x); }
MICRO STG_64(uint2* y) { st_vec(y + threadIdx.x, make_uint2(threadIdx.x, 1)); }
MICRO STG_128(uint4* y) { st_vec(y + threadIdx.x, make_uint4(threadIdx.x, 1, 2, 3)); }

template <class V> FOLIO_DEVICE void through_shared(const V* x, V* y) {
  V* s = Smem::here().take<V>(128);
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = s[127 - threadIdx.x];
}
MICRO LDS_32(const unsigned* x, unsigned* y) { through_shared(x, y); }
MICRO LDS_64(const uint2* x, uint2* y) { through_shared(x, y); }
MICRO LDS_128(const uint4* x, uint4* y) { through_shared(x, y); }
MICRO STS_32(const unsigned* x, unsigned* y) { through_shared(x, y); }
MICRO STS_64(const uint2* x, uint2* y) { through_shared(x, y); }
MICRO STS_128(const uint4* x, uint4* y) { through_shared(x, y); }
MICRO BAR(const unsigned* x, unsigned* y) { through_shared(x, y); }

FOLIO_DEVICE void in_local_memory(const int* x, int* y, int n) {
  int v[64];
  for (int i = 0; i < 64; ++i) v[i] = y[i * 3];
  for (int i = 0; i < n; ++i) v[x[i] & 63] += 1;
  y[n] = v[x[n] & 63];
}
MICRO LDL(const int* x, int* y, int n) { in_local_memory(x, y, n); }
MICRO STL(const int* x, int* y, int n) { in_local_memory(x, y, n); }

template <int Bytes> FOLIO_DEVICE void copied(const unsigned* x, unsigned* y) {
  unsigned* s = Smem::here().take<unsigned>(512);
  cp_async<Bytes>(s + threadIdx.x * (Bytes / 4), x + threadIdx.x * (Bytes / 4));
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}
MICRO LDGSTS_32(const unsigned* x, unsigned* y) { copied<4>(x, y); }
MICRO LDGSTS_64(const unsigned* x, unsigned* y) { copied<8>(x, y); }
MICRO LDGSTS_128(const unsigned* x, unsigned* y) { copied<16>(x, y); }
MICRO LDSM(unsigned* y) {
  uint32_t tile[4];
  ldmatrix(tile, Smem::here().take<uint16_t>(256) + threadIdx.x * 8);
  y[threadIdx.x] = tile[0] ^ tile[1] ^ tile[2] ^ tile[3];
}
MICRO HMMA(const uint32_t* x, float* y) {
  float d[4] = {};
  const uint32_t a[4] = {x[0], x[1], x[2], x[3]}, b[2] = {x[4], x[5]};
  mma_bf16(d, a, b);
  y[threadIdx.x] = d[0] + d[1] + d[2] + d[3];
}
MICRO IMMA(const uint32_t* x, int* y) {
  int32_t d[4] = {};
  const uint32_t a[4] = {x[0], x[1], x[2], x[3]}, b[2] = {x[4], x[5]};
  mma_s8(d, a, b);
  y[threadIdx.x] = d[0] + d[1] + d[2] + d[3];
}
MICRO IDP(const int* x, int* y) { y[threadIdx.x] = __dp4a(x[0], x[1], x[2]); }
MICRO FFMA(const float* x, float* y) { y[threadIdx.x] = fmaf(x[0], x[1], x[2]); }
MICRO DFMA(const double* x, double* y) { y[threadIdx.x] = fma(x[0], x[1], x[2]); }
MICRO MUFU(float* y) { y[threadIdx.x] = exp2_fast(y[threadIdx.x]); }
MICRO SHFL(unsigned* y) { y[threadIdx.x] = shuffle_xor(y[threadIdx.x], 1); }
MICRO RED(unsigned* y) { atomicAdd(y, 1u); }
MICRO ATOMG(unsigned* y) { y[threadIdx.x] = atomicInc(y, 3u); }

#if FOLIO_SM90
MICRO HGMMA(float* y) {
  bf16* tile = Smem::here().take<bf16>(64 * 64, 1024);
  float d[32] = {};
  const uint64_t at = wgmma_descriptor(tile, 0, 1024, Swizzle::bytes128);
  wgmma_fence();
  wgmma(d, at, at, true);
  wgmma_commit();
  wgmma_wait<0>();
  for (int i = 0; i < 32; ++i) y[i * 128 + threadIdx.x] = d[i];
}
FOLIO_DEVICE uint64_t* ready_barrier(Smem& shared) {
  uint64_t* full = shared.take<uint64_t>(1);
  if (threadIdx.x == 0) {
    mbarrier_init(full, 1);
    mbarrier_init_fence();
    mbarrier_expect(full, 1024);
  }
  __syncthreads();
  return full;
}
MICRO UTMALDG(const __grid_constant__ TensorMap map, float* y) {
  Smem shared = Smem::here();
  float* tile = shared.take<float>(256, 1024);
  uint64_t* full = ready_barrier(shared);
  if (threadIdx.x == 0) tma_load(tile, map, full, {0, 0});
  mbarrier_wait(full, 0);
  y[threadIdx.x] = tile[threadIdx.x];
}
MICRO UTMASTG(const __grid_constant__ TensorMap map) {
  if (threadIdx.x == 0) {
    tma_store(map, Smem::here().take<float>(256, 1024), {0, 0});
    bulk_commit();
    bulk_wait_read<0>();
  }
}
MICRO UBLKCP(const float* x, float* y) {
  Smem shared = Smem::here();
  float* tile = shared.take<float>(256, 1024);
  uint64_t* full = ready_barrier(shared);
  if (threadIdx.x == 0) bulk_load(tile, x, 1024, full);
  mbarrier_wait(full, 0);
  y[threadIdx.x] = tile[threadIdx.x];
}
MICRO SYNCS(float* y) {
  Smem shared = Smem::here();
  mbarrier_wait(ready_barrier(shared), 0);
  y[threadIdx.x] = 1;
}
#endif
