// SPDX-License-Identifier: MIT
// The inner loops of Attend: pointers and numbers only. Implemented in attend_inner.h.
#pragma once
#include <stdint.h>

namespace folio {

struct AttendInner {
};

}  // namespace folio
