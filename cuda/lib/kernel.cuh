// SPDX-License-Identifier: MIT
// All that a kernel file of the portable tier (sm_80 and up) includes, besides the op it implements. Kernels of the Hopper tier
// include hopper.cuh as well. Outside cuda/lib there is no inline PTX, no <<<>>>, no raw __shared__ and no __CUDA_ARCH__, so that
// every kernel also runs in the simulator (tests/sim), unchanged.
//
//   launch.cuh   launch<kernel>(), Smem, FOLIO_SHARED          number.cuh   bf16, f16, e4m3; fast exp2, rsqrt ...
//   warp.cuh     named barriers, sums over warp and block      copy.cuh     vector loads, flags, cp.async
//   mma.cuh      ldmatrix, mma.sync
#pragma once
#include "cuda/lib/copy.cuh"
#include "cuda/lib/launch.cuh"
#include "cuda/lib/mma.cuh"
#include "cuda/lib/number.cuh"
#include "cuda/lib/warp.cuh"
