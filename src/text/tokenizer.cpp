// SPDX-License-Identifier: MIT
// What all kinds share: the check of a vocabulary, special tokens cut out of the text, and the way back.
#include "text/tokenizer.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "text/encoder.h"
#include "text/index.h"
#include "text/normalize.h"
#include "text/utf8.h"

namespace folio {

namespace {

constexpr std::string_view white_space = " \t\n\v\f\r";
constexpr std::string_view replacement = "\xef\xbf\xbd";  // U+FFFD

void check_tokens(const Vocabulary& v) {
  const size_t V = v.ends.size();
  check(V > 0, "tokenizer: the vocabulary is empty");
  check(V < (1u << 30), "tokenizer: ", V, " tokens, expected less than 2^30");
  check(v.types.size() == V, "tokenizer: ", v.types.size(), " types for ", V, " tokens");
  int64_t from = 0;
  for (size_t id = 0; id < V; ++id) {
    const int64_t end = v.ends[id];
    check(end >= from && end <= int64_t(v.bytes.size()), "tokenizer: token ", id, " ends at byte ", end, ", expected ", from, " to ",
          v.bytes.size());
    check(v.types[id] <= uint8_t(TokenType::unknown), "tokenizer: token ", id, " has type ", int(v.types[id]), ", expected 0 to 5");
    check(v.types[id] != uint8_t(TokenType::byte) || end - from == 1, "tokenizer: byte token ", id, " has ", end - from,
          " bytes, expected 1");
    from = end;
  }
  check(from == int64_t(v.bytes.size()), "tokenizer: the tokens end at byte ", from, " of ", v.bytes.size());
}

void check_ids(const Vocabulary& v) {
  const auto inside = [&](const char* name, int64_t id, int64_t least) {
    check(id >= least && id < v.size(), "tokenizer: ", name, " is token ", id, ", the vocabulary has ", v.size());
  };
  inside("bos", v.bos, -1);
  inside("unk", v.unk, -1);
  inside("pad", v.pad, -1);
  for (int64_t id : v.eos) inside("eos", id, 0);
  for (int64_t id : v.strip_left) inside("strip_left", id, 0);
  for (int64_t id : v.strip_right) inside("strip_right", id, 0);
  check(!v.add_bos || v.bos >= 0, "tokenizer: add_bos is set, but there is no bos");
  check(!v.add_eos || !v.eos.empty(), "tokenizer: add_eos is set, but there is no eos");
}

void check_kind(const Vocabulary& v) {
  const bool bpe = v.kind == "bpe";
  check(bpe || v.kind == "spm" || v.kind == "unigram", "tokenizer: kind ", shown(v.kind, 40), " is unknown, expected bpe, spm or unigram");
  check(v.normalize == "none" || v.normalize == "nfc" || v.normalize == "nfkc", "tokenizer: normalisation ", shown(v.normalize, 40),
        " is unknown, expected none, nfc or nfkc");
  check(v.merges.size() % 2 == 0, "tokenizer: the merges are ", v.merges.size(), " ids, expected pairs");
  check(bpe || v.merges.empty(), "tokenizer: kind ", v.kind, " has merges, expected none");
  check(bpe || v.split.empty(), "tokenizer: kind ", v.kind, " has split patterns, expected none");
  const size_t scores = bpe ? 0 : v.ends.size();
  check(v.scores.size() == scores, "tokenizer: ", v.scores.size(), " scores for kind ", v.kind, ", expected ", scores);
  for (size_t id = 0; id < scores; ++id) check(std::isfinite(v.scores[id]), "tokenizer: the score of token ", id, " is not finite");
}

// Runs of spaces become one, and none is left at either end.
std::string clean(std::string_view text) {
  std::string out;
  for (char c : text)
    if (c != ' ' || (!out.empty() && out.back() != ' ')) out += c;
  if (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

}  // namespace

struct Tokenizer::Parts {
  explicit Parts(Vocabulary vocabulary)
      : v((check_tokens(vocabulary), check_ids(vocabulary), check_kind(vocabulary), std::move(vocabulary))),
        special(v, {TokenType::control, TokenType::user, TokenType::unknown}),
        named(v, {TokenType::control, TokenType::user, TokenType::unknown, TokenType::normal, TokenType::byte, TokenType::unused}),
        encoder(v.kind == "bpe"   ? make_bpe(v)
                : v.kind == "spm" ? make_spm(v)
                                  : make_unigram(v)),
        sides(size_t(v.size())) {
    for (int64_t id : v.eos) eos.push_back(Token(id));
    for (int64_t id : v.strip_left) sides[size_t(id)] |= 1;
    for (int64_t id : v.strip_right) sides[size_t(id)] |= 2;
  }

  TokenType type(Token id) const { return TokenType(v.types[size_t(id)]); }
  bool spaced() const { return v.add_space_prefix && v.kind != "bpe"; }

  // Appends the ids of text between special tokens; `fresh`: nothing but such a token, or nothing at all, stands before it.
  void plain(std::string_view text, bool fresh, std::vector<Token>& out) const {
    if (text.empty()) return;
    std::string changed;
    const auto change = [&](std::string next) { text = changed = std::move(next); };
    if (v.normalize != "none") change(normalize(text, v.normalize == "nfkc"));
    if (v.clean_spaces && v.kind != "bpe") change(clean(text));
    if (text.empty()) return;
    if (v.add_space_prefix && fresh && (v.kind != "bpe" || text[0] != ' ')) change(" " + std::string(text));
    check(text.size() < 1u << 31, "tokenizer: a text of ", text.size(), " bytes, expected less than 2 GiB");
    encoder->encode(text, out);
  }

  Vocabulary v;
  Prefixes special;
  TextIndex named;
  std::unique_ptr<Encoder> encoder;
  std::vector<uint8_t> sides;  // [V] white space that the token swallows: 1 before it, 2 behind it
  std::vector<Token> eos;
};

Tokenizer::Tokenizer(Vocabulary vocabulary) : parts_(std::make_shared<const Parts>(std::move(vocabulary))) {}

std::vector<Token> Tokenizer::encode(std::string_view text, bool add_special, bool parse_special, bool continues) const {
  const Parts& p = *parts_;
  std::vector<Token> out;
  if (add_special && p.v.add_bos) out.push_back(bos());
  size_t done = 0;
  for (size_t at = 0; at < text.size();) {
    Token found = -1;
    size_t size = 1;
    if (p.special.starts(text[at]))
      p.special.each(text.substr(at), [&](Token id, size_t bytes) {
        if (parse_special || p.type(id) == TokenType::user) found = id, size = bytes;
      });
    if (found < 0) {
      ++at;
      continue;
    }
    std::string_view before = text.substr(done, at - done);
    if (p.sides[size_t(found)] & 1) before = before.substr(0, before.find_last_not_of(white_space) + 1);
    p.plain(before, done || !continues, out);
    out.push_back(found);
    at += size;
    if (p.sides[size_t(found)] & 2) at = std::min(text.size(), text.find_first_not_of(white_space, at));
    done = at;
  }
  p.plain(text.substr(done), done || !continues, out);
  if (add_special && p.v.add_eos) out.push_back(p.eos[0]);
  return out;
}

std::string_view Tokenizer::write(Token id, bool skip_special, bool& fresh) const {
  const Parts& p = *parts_;
  if (id < 0 || id >= size()) return {};
  std::string_view text = p.v.text(id);
  switch (p.type(id)) {
    case TokenType::control:
      fresh = true;
      return skip_special ? std::string_view() : text;
    case TokenType::user:
      fresh = true;
      return text;
    case TokenType::unknown:
      fresh = false;
      return skip_special ? replacement : text;
    default:
      break;
  }
  if (fresh && p.spaced() && text.starts_with(' ')) text.remove_prefix(1);
  fresh = false;
  return text;
}

std::string Tokenizer::decode(std::span<const Token> tokens, bool skip_special) const {
  std::string out;
  bool fresh = true;
  for (Token id : tokens) out += write(id, skip_special, fresh);
  return out;
}

std::string_view Tokenizer::text_of(Token id) const { return id < 0 || id >= size() ? std::string_view() : parts_->v.text(id); }
TokenType Tokenizer::type_of(Token id) const { return id < 0 || id >= size() ? TokenType::unused : parts_->type(id); }
Token Tokenizer::find(std::string_view text) const { return text.empty() ? -1 : parts_->named.find(text); }

Token Tokenizer::size() const { return parts_->v.size(); }
Token Tokenizer::bos() const { return Token(parts_->v.bos); }
Token Tokenizer::unk() const { return Token(parts_->v.unk); }
Token Tokenizer::pad() const { return Token(parts_->v.pad); }
bool Tokenizer::eos(Token id) const { return std::find(parts_->eos.begin(), parts_->eos.end(), id) != parts_->eos.end(); }
std::span<const Token> Tokenizer::eos() const { return parts_->eos; }
const Vocabulary& Tokenizer::vocabulary() const { return parts_->v; }

}  // namespace folio
