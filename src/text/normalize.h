// SPDX-License-Identifier: MIT
// Unicode normalisation, for tokenizers that were trained on normalised text. Bytes that are no UTF-8 stay as they are.
#pragma once
#include <string>
#include <string_view>

namespace folio {

// NFC, or NFKC if `compatible`.
std::string normalize(std::string_view text, bool compatible);

}  // namespace folio
