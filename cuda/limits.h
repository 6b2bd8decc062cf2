// SPDX-License-Identifier: MIT
// The yardsticks of a card, measured: see cuda/limits.cu.
#pragma once
#include "cuda/lib/runtime.h"
#include "graph/device.h"

namespace folio {

// Takes some 0.1 s and, for a moment, as much of the card's free memory as its second-level cache holds 16 times, but no more than half.
// Throws Error if the runtime fails.
Limits measure_limits(const cudaDeviceProp& card, cudaStream_t stream);

}  // namespace folio
