// SPDX-License-Identifier: MIT
// SentencePiece unigram: of all ways to cut a word into tokens the one with the highest sum of scores, by Viterbi's algorithm.
// A code point without a token of its own may pass as unknown at a score below every token's.
//   best[j] = max over tokens t = word[i..j) of best[i] + score(t);  of equal sums the longest token wins, as there
#include <algorithm>
#include <limits>

#include "text/encoder.h"
#include "text/index.h"
#include "text/utf8.h"
#include "text/word_bounds.h"

namespace folio {

namespace {

class Unigram : public Encoder {
 public:
  explicit Unigram(const Vocabulary& v) : v_(v), tokens_(v, {TokenType::normal, TokenType::user}), fallback_(v), words_(v) {
    bool any = false;
    for (size_t id = 0; id < v.scores.size(); ++id)
      if (v.types[id] == uint8_t(TokenType::normal)) least_ = any ? std::min(least_, v.scores[id]) : v.scores[id], any = true;
  }

  void encode(std::string_view text, std::vector<Token>& out) const override {
    const size_t first = out.size();
    WordCache cache(text, Token(v_.unk), out);
    std::vector<Step> path;
    words_.each(text, [&](std::string_view word) { cache.append(word, [&](std::string_view w) { encode_word(w, first, path, out); }); });
  }

 private:
  struct Step {  // the best way to get to a byte
    double sum = -std::numeric_limits<double>::infinity();
    uint32_t from = 0;
    Token id = -1;
  };

  void encode_word(std::string_view word, size_t first, std::vector<Step>& path, std::vector<Token>& out) const {
    path.assign(word.size() + 1, {});
    path[0].sum = 0;
    for (size_t at = 0; at < word.size();) {
      const uint32_t size = read_utf8(word.substr(at)).size;
      const auto reach = [&](size_t to, double score, Token id) {
        const double sum = path[at].sum + score;
        if (sum > path[to].sum) path[to] = {sum, uint32_t(at), id};
      };
      bool known = false;
      tokens_.each(word.substr(at), [&](Token id, size_t bytes) {
        reach(at + bytes, v_.scores[size_t(id)], id);
        known |= bytes == size;
      });
      if (!known) reach(at + size, least_ - unknown_penalty, -1);
      at += size;
    }
    // Back along the path, then written forwards.
    std::vector<size_t> stops;
    for (size_t at = word.size(); at; at = path[at].from) stops.push_back(at);
    for (size_t i = stops.size(); i--;) {
      const Step& step = path[stops[i]];
      if (step.id >= 0) out.push_back(step.id);
      else fallback_.append(word.substr(step.from, stops[i] - step.from), first, out);
    }
  }

  static constexpr double unknown_penalty = 10;  // SentencePiece's
  const Vocabulary& v_;
  Prefixes tokens_;
  Fallback fallback_;
  WordBounds words_;
  float least_ = 0;  // the lowest score of a token
};

}  // namespace

std::unique_ptr<Encoder> make_unigram(const Vocabulary& v) { return std::make_unique<Unigram>(v); }

}  // namespace folio
