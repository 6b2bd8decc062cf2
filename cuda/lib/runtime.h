// SPDX-License-Identifier: MIT
// The CUDA runtime: NVIDIA's under nvcc and for host code that links it, the simulated one with FOLIO_CUDA_SIM. And the one way in
// which its errors are reported.
#pragma once
#ifdef FOLIO_CUDA_SIM
#include "cuda/lib/sim_runtime.h"
#else
#include <cuda_runtime.h>
#endif

#include "base/error.h"

namespace folio {

// Throws Error("cuda: WHAT: the runtime's sentence") unless the call succeeded, and forgets the runtime's last error.
inline void cuda_check(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return;
  cudaGetLastError();
  fail("cuda: ", what, ": ", cudaGetErrorString(code));
}

}  // namespace folio
