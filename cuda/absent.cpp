// SPDX-License-Identifier: MIT
// What cuda() is in a build without nvcc.
#include "base/error.h"
#include "graph/device.h"

namespace folio {

std::unique_ptr<Device> cuda(int, int) { fail("cuda: this build has no CUDA: it was made where nvcc was not found. Install the CUDA Toolkit and build again"); }

}  // namespace folio
