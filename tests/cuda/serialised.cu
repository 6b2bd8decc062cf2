// SPDX-License-Identifier: MIT
// A kernel that must not compile: it reads accumulators between two wgmma that add to them, so the assembler lets one wait for the other
// and remarks upon it (C7514). The test cuda.remarks makes sure that remarks.sh turns that into an error.
#include "cuda/lib/hopper.cuh"

namespace folio {

__global__ void serialised([[maybe_unused]] float* y) {
#if FOLIO_SM90
  const bf16* tile = Smem::here().take<bf16>(64 * 64, 1024);
  const uint64_t at = wgmma_descriptor(tile, 0, 1024, Swizzle::bytes128);
  float d[32] = {};
  wgmma_fence();
  wgmma(d, at, at, true);
  y[threadIdx.x] = d[3];
  wgmma(d, at, at, true);
  wgmma_commit();
  wgmma_wait<0>();
  y[threadIdx.x] += d[0];
#endif
}

}  // namespace folio
