// SPDX-License-Identifier: MIT
// A token id: an index into a model's vocabulary. Every room that moves tokens speaks of them by this name.
#pragma once
#include <cstdint>

namespace folio {

using Token = int32_t;

}  // namespace folio
