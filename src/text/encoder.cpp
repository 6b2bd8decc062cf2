// SPDX-License-Identifier: MIT
#include "text/encoder.h"

#include <algorithm>

#include "base/error.h"

namespace folio {

Fallback::Fallback(const Vocabulary& v) : unk_(Token(v.unk)) {
  std::fill_n(bytes_, 256, Token(-1));
  // Byte tokens first; byte-level BPE has ordinary tokens of one byte instead.
  for (TokenType type : {TokenType::byte, TokenType::normal}) {
    if (type == TokenType::normal && v.kind != "bpe") break;
    for (Token id = 0; id < v.size(); ++id)
      if (v.types[size_t(id)] == uint8_t(type) && v.text(id).size() == 1) {
        Token& known = bytes_[uint8_t(v.text(id)[0])];
        if (known < 0) known = id;
      }
  }
}

void Fallback::append(std::string_view symbol, size_t first, std::vector<Token>& out) const {
  const auto missing = std::find_if(symbol.begin(), symbol.end(), [&](char c) { return bytes_[uint8_t(c)] < 0; });
  if (missing == symbol.end()) {
    for (char c : symbol) out.push_back(bytes_[uint8_t(c)]);
    return;
  }
  const char* digit = "0123456789abcdef";
  const auto byte = uint8_t(*missing);
  check(unk_ >= 0, "tokenizer: the vocabulary has no token for byte 0x", digit[byte / 16], digit[byte % 16], " of the text, and no unknown token");
  if (out.size() == first || out.back() != unk_) out.push_back(unk_);
}

}  // namespace folio
