// SPDX-License-Identifier: MIT
// SentencePiece BPE: every code point is a symbol, and of all neighbours whose text together is a token the pair with the
// highest score merges first. What stays without a token becomes byte tokens. llama2.c's tokenizer is the same.
#include <unordered_map>

#include "text/encoder.h"
#include "text/index.h"
#include "text/merge.h"
#include "text/utf8.h"
#include "text/word_bounds.h"

namespace folio {

namespace {

class Spm : public Encoder {
 public:
  explicit Spm(const Vocabulary& v) : v_(v), tokens_(v, {TokenType::normal, TokenType::user, TokenType::unused}), fallback_(v), words_(v) {}

  void encode(std::string_view text, std::vector<Token>& out) const override {
    const size_t first = out.size();
    WordCache cache(text, Token(v_.unk), out);
    Merger merger;
    words_.each(text, [&](std::string_view word) { cache.append(word, [&](std::string_view w) { encode_word(w, first, merger, out); }); });
  }

 private:
  using Halves = std::unordered_map<Token, uint32_t>;  // of an unused token: how many bytes its left half had

  void encode_word(std::string_view word, size_t first, Merger& merger, std::vector<Token>& out) const {
    merger.clear();
    Halves halves;
    for (size_t at = 0; at < word.size();) {
      const uint32_t size = read_utf8(word.substr(at)).size;
      merger.add(uint32_t(at), size, tokens_.find(word.substr(at, size)));
      at += size;
    }
    merger.run([&](const Symbol& left, const Symbol& right) -> PairMerge {
      const Token id = tokens_.find(word.substr(left.from, left.size + right.size));
      if (id < 0) return {0, -1};
      if (unused(id)) halves[id] = left.size;
      return {-double(v_.scores[size_t(id)]), id};
    });
    for (int32_t i = 0; i >= 0; i = merger.symbols[size_t(i)].next) {
      const Symbol& symbol = merger.symbols[size_t(i)];
      write(word.substr(symbol.from, symbol.size), symbol.id, halves, first, out);
    }
  }

  // An unused token helps others to merge but is not written: it falls apart into the halves that it came from.
  void write(std::string_view text, Token id, const Halves& halves, size_t first, std::vector<Token>& out) const {
    if (id < 0) return fallback_.append(text, first, out);
    const auto half = unused(id) ? halves.find(id) : halves.end();
    if (half == halves.end()) return out.push_back(id);
    std::vector<std::string_view> rest{text.substr(half->second), text.substr(0, half->second)};
    while (!rest.empty()) {  // a stack, for halves may nest as deep as a token has code points
      const std::string_view part = rest.back();
      rest.pop_back();
      const Token part_id = tokens_.find(part);
      const auto deeper = part_id >= 0 && unused(part_id) ? halves.find(part_id) : halves.end();
      if (deeper == halves.end()) {
        write(part, part_id, {}, first, out);
        continue;
      }
      rest.push_back(part.substr(deeper->second));
      rest.push_back(part.substr(0, deeper->second));
    }
  }

  bool unused(Token id) const { return v_.types[size_t(id)] == uint8_t(TokenType::unused); }

  const Vocabulary& v_;
  TextIndex tokens_;
  Fallback fallback_;
  WordBounds words_;
};

}  // namespace

std::unique_ptr<Encoder> make_spm(const Vocabulary& v) { return std::make_unique<Spm>(v); }

}  // namespace folio
