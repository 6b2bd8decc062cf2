// SPDX-License-Identifier: MIT
// Two ways to find a token by its bytes: TextIndex answers "which token is this text", Prefixes "which tokens begin here".
// Both are built once over the vocabulary, which must outlive them, and cost a few bytes a token.
#pragma once
#include <bit>
#include <cstring>
#include <initializer_list>
#include <string_view>
#include <vector>

#include "base/hash.h"
#include "text/tokenizer.h"

namespace folio {

// An open table of ids. Of tokens with the same text the first one added answers.
class TextIndex {
 public:
  // Adds the tokens of these types, one type after the other, each in order of id. Empty tokens are left out.
  TextIndex(const Vocabulary& v, std::initializer_list<TokenType> types) : v_(v), slots_(std::bit_ceil(2 * v.ends.size() + 2), -1) {
    for (TokenType type : types)
      for (Token id = 0; id < v.size(); ++id)
        if (v.types[size_t(id)] == uint8_t(type) && !v.text(id).empty()) {
          Token& slot = slots_[seek(v.text(id))];
          if (slot < 0) slot = id;
        }
  }
  Token find(std::string_view text) const { return slots_[seek(text)]; }  // −1: no such token

 private:
  size_t seek(std::string_view text) const {
    const size_t mask = slots_.size() - 1;
    size_t at = hash64(text.data(), text.size()) & mask;
    while (slots_[at] >= 0 && v_.text(slots_[at]) != text) at = (at + 1) & mask;
    return at;
  }
  const Vocabulary& v_;
  std::vector<Token> slots_;  // a power of two, at most half full
};

// Ids sorted by their bytes: the tokens that begin with a given prefix are one range, narrowed byte by byte.
class Prefixes {
 public:
  Prefixes(const Vocabulary& v, std::initializer_list<TokenType> types);
  bool starts(char byte) const { return first_[uint8_t(byte)] < first_[uint8_t(byte) + 1]; }

  // Calls use(id, bytes) for every token that `text` begins with, shortest first.
  template <class Use>
  void each(std::string_view text, Use&& use) const {
    if (text.empty()) return;
    size_t from = first_[uint8_t(text[0])], to = first_[uint8_t(text[0]) + 1];
    for (size_t depth = 1; from < to; ++depth) {
      if (v_.text(order_[from]).size() == depth) use(order_[from++], depth);
      if (depth == text.size()) return;
      narrow(from, to, depth, uint8_t(text[depth]));
    }
  }

 private:
  // From the tokens that share `depth` bytes (and are longer) to those whose next byte is `byte`.
  void narrow(size_t& from, size_t& to, size_t depth, uint8_t byte) const;
  const Vocabulary& v_;
  std::vector<Token> order_;
  size_t first_[257];  // where in `order_` the tokens of each first byte begin
};

}  // namespace folio
