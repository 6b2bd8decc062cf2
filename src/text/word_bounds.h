// SPDX-License-Identifier: MIT
// WordBounds: where a text may be cut without changing what SentencePiece makes of it. If no token holds a space behind another
// character ("ab c"), none reaches across the beginning of a word, so each word can be encoded alone, and found in a cache.
#pragma once
#include <string_view>

#include "text/tokenizer.h"

namespace folio {

class WordBounds {
 public:
  explicit WordBounds(const Vocabulary& v) {
    for (Token id = 0; id < v.size(); ++id) {
      const auto type = TokenType(v.types[size_t(id)]);
      if (type != TokenType::normal && type != TokenType::user && type != TokenType::unused) continue;
      const std::string_view text = v.text(id);
      if (text.size() && next(text) < text.size()) apart_ = false;
    }
  }

  // Calls use() with the words of `text` in order: spaces, and what follows them up to the next space.
  template <class Use>
  void each(std::string_view text, Use&& use) const {
    while (!text.empty()) {
      const size_t end = apart_ ? next(text) : text.size();
      use(text.substr(0, end));
      text.remove_prefix(end);
    }
  }

 private:
  // Where the second word begins.
  static size_t next(std::string_view text) {
    const size_t letter = text.find_first_not_of(' ');
    return letter == text.npos ? text.size() : std::min(text.size(), text.find(' ', letter));
  }
  bool apart_ = true;
};

}  // namespace folio
