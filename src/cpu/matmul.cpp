// SPDX-License-Identifier: MIT
#include "cpu/table.h"

namespace folio {

int64_t scratch(const Matmul&, int) { return 0; }
void run(const Matmul& op, Worker w) { op.reference(w); }

}  // namespace folio
