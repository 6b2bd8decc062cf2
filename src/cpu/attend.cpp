// SPDX-License-Identifier: MIT
#include "cpu/table.h"

namespace folio {

int64_t scratch(const Attend&, int) { return 0; }
void run(const Attend& op, Worker w) { op.reference(w); }

}  // namespace folio
