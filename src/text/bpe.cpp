// SPDX-License-Identifier: MIT
// Byte-level BPE, as GPT-2 has it: the text is cut into pieces by the split patterns; within a piece every byte is a symbol, and
// the pair that was learned first merges first. What is not UTF-8 the patterns never see: such bytes are pieces of their own.
#include <bit>

#include "base/error.h"
#include "text/encoder.h"
#include "text/index.h"
#include "text/merge.h"
#include "text/split.h"
#include "text/utf8.h"

namespace folio {

namespace {

// (left, right) → rank and result, in an open table at most half full.
class PairTable {
 public:
  explicit PairTable(size_t pairs) : slots_(std::bit_ceil(2 * pairs + 2)) {}

  void add(Token left, Token right, int32_t rank, Token id) {
    Slot& slot = slots_[seek(key(left, right))];
    if (slot.id < 0) slot = {key(left, right), rank, id};  // the better of two ranks came first
  }
  PairMerge find(Token left, Token right) const {
    if (left < 0 || right < 0) return {0, -1};
    const Slot& slot = slots_[seek(key(left, right))];
    return {double(slot.rank), slot.id};
  }

 private:
  struct Slot {
    uint64_t key = 0;
    int32_t rank = 0;
    Token id = -1;
  };
  static uint64_t key(Token left, Token right) { return uint64_t(uint32_t(left)) << 32 | uint32_t(right); }
  size_t seek(uint64_t key) const {
    const size_t mask = slots_.size() - 1;
    // Fibonacci hashing: the high half of a product with 2^64 / golden ratio.
    size_t at = ((key ^ key >> 32) * 0x9e3779b97f4a7c15u >> 32) & mask;
    while (slots_[at].id >= 0 && slots_[at].key != key) at = (at + 1) & mask;
    return at;
  }
  std::vector<Slot> slots_;
};

class Bpe : public Encoder {
 public:
  explicit Bpe(const Vocabulary& v)
      : v_(v),
        tokens_(v, {TokenType::normal, TokenType::byte, TokenType::user, TokenType::control, TokenType::unused, TokenType::unknown}),
        pairs_(v.merges.size() / 2),
        fallback_(v),
        split_(v.split) {
    std::string whole;
    for (size_t m = 0; m < v.merges.size() / 2; ++m) {
      const Token left = v.merges[2 * m], right = v.merges[2 * m + 1];
      check(left >= 0 && left < v.size() && right >= 0 && right < v.size(), "tokenizer: merge ", m, " is of tokens ", left, " and ", right,
            ", the vocabulary has ", v.size());
      whole.assign(v.text(left)).append(v.text(right));
      const Token id = tokens_.find(whole);
      check(id >= 0, "tokenizer: merge ", m, " of tokens ", left, " and ", right, " makes a text that is no token");
      pairs_.add(left, right, int32_t(m), id);
    }
  }

  void encode(std::string_view text, std::vector<Token>& out) const override {
    const size_t first = out.size();
    WordCache cache(text, Token(v_.unk), out);
    std::vector<uint32_t> ends;
    Merger merger;
    const auto piece = [&](std::string_view word) { encode_piece(word, first, merger, out); };
    for (bool valid = true; !text.empty(); valid = !valid) {
      const std::string_view run = text.substr(0, utf8_run(text, valid));
      text.remove_prefix(run.size());
      if (valid) split_.cut(run, ends);
      else ends.assign(1, uint32_t(run.size()));
      size_t from = 0;
      for (uint32_t to : ends) {
        if (to > from) cache.append(run.substr(from, to - from), piece);
        from = to;
      }
    }
  }

 private:
  void encode_piece(std::string_view piece, size_t first, Merger& merger, std::vector<Token>& out) const {
    if (v_.ignore_merges) {
      const Token whole = tokens_.find(piece);
      if (whole >= 0) return out.push_back(whole);
    }
    merger.clear();
    for (size_t i = 0; i < piece.size(); ++i) merger.add(uint32_t(i), 1, fallback_.byte(uint8_t(piece[i])));
    merger.run([&](const Symbol& left, const Symbol& right) { return pairs_.find(left.id, right.id); });
    for (int32_t i = 0; i >= 0; i = merger.symbols[size_t(i)].next) {
      const Symbol& symbol = merger.symbols[size_t(i)];
      if (symbol.id >= 0) out.push_back(symbol.id);
      else fallback_.append(piece.substr(symbol.from, symbol.size), first, out);
    }
  }

  const Vocabulary& v_;
  TextIndex tokens_;
  PairTable pairs_;
  Fallback fallback_;
  Split split_;
};

}  // namespace

std::unique_ptr<Encoder> make_bpe(const Vocabulary& v) { return std::make_unique<Bpe>(v); }

}  // namespace folio
