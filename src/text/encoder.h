// SPDX-License-Identifier: MIT
// Encoder: how one kind of tokenizer turns plain text, free of special tokens, into ids; bpe.cpp, spm.cpp and unigram.cpp each
// hold one. Also the two things they share: what becomes of text that has no token, and a memory of words met before.
#pragma once
#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

#include "base/hash.h"
#include "text/tokenizer.h"

namespace folio {

class Encoder {
 public:
  virtual ~Encoder() = default;
  virtual void encode(std::string_view text, std::vector<Token>& out) const = 0;  // appends
};

// The encoder of a checked vocabulary, which must outlive it. They throw if it cannot serve that kind.
std::unique_ptr<Encoder> make_bpe(const Vocabulary&);
std::unique_ptr<Encoder> make_spm(const Vocabulary&);
std::unique_ptr<Encoder> make_unigram(const Vocabulary&);

// Tokens for a symbol that the vocabulary does not hold: its bytes, if each has a token, or else unk.
class Fallback {
 public:
  explicit Fallback(const Vocabulary& v);
  Token byte(uint8_t value) const { return bytes_[value]; }  // −1: none

  // Appends them. Neighbouring unknown symbols become one unk, as in SentencePiece; those before `first` are another text's.
  void append(std::string_view symbol, size_t first, std::vector<Token>& out) const;

 private:
  Token bytes_[256], unk_;
};

// Remembers where in `out` the tokens of a word stand, to copy them when the word comes again. It lives for one text, so it
// needs neither lock nor bound; short texts go without.
class WordCache {
 public:
  WordCache(std::string_view text, Token unk, std::vector<Token>& out)
      : out_(out), unk_(unk), entries_(text.size() < 1024 ? 0 : std::bit_floor(std::min<size_t>(text.size() / 16, 65536))) {}

  // Appends the tokens of `word`, a part of the text, by calling encode() unless they are known.
  template <class Encode>
  void append(std::string_view word, Encode&& encode) {
    if (entries_.empty() || word.size() > 48) return encode(word);
    Entry& entry = entries_[hash64(word.data(), word.size()) % entries_.size()];  // a new word takes an old one's place
    const size_t from = out_.size();
    if (entry.size == word.size() && std::memcmp(entry.word, word.data(), word.size()) == 0) {
      out_.resize(from + entry.count);
      std::memcpy(out_.data() + from, out_.data() + entry.from, entry.count * sizeof(Token));
      return;
    }
    encode(word);
    for (size_t i = from ? from - 1 : 0; i < out_.size(); ++i)
      if (out_[i] == unk_) return;  // it may have melted into the unk before it, or the next into this one: not this word's own
    entry = {word.data(), uint32_t(word.size()), uint32_t(out_.size() - from), from};
  }

 private:
  struct Entry {
    const char* word = nullptr;
    uint32_t size = 0, count = 0;
    size_t from = 0;
  };
  std::vector<Token>& out_;
  Token unk_;
  std::vector<Entry> entries_;
};

}  // namespace folio
