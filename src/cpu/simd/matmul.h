// SPDX-License-Identifier: MIT
// The inner loops of Matmul: pointers and numbers only. Implemented in matmul_inner.h.
#pragma once
#include <stdint.h>

namespace folio {

struct MatmulInner {
};

}  // namespace folio
