// SPDX-License-Identifier: MIT
// Text to token ids and back: byte-level BPE (GPT-2 and its children), SentencePiece BPE with byte fallback (Llama 2, also
// llama2.c's tokenizer), SentencePiece unigram. Everything it needs is in a Vocabulary, which tools/lib reads from the weight
// file; this room knows no files.
//
// In the weight file (written by tools/convert.py):
//   tokenizer.bytes   u8  [bytes]  the bytes of all tokens, one after the other: real bytes, never the GPT-2 alphabet and never
//                                  the U+2581 of SentencePiece (it is a space here); control tokens as their text
//   tokenizer.ends    i32 [V]      where each token ends in tokenizer.bytes
//   tokenizer.types   u8  [V]      0 normal, 1 control, 2 added by the user, 3 byte (its one byte), 4 unused, 5 unknown
//   tokenizer.scores  f32 [V]      kinds "spm" and "unigram" only
//   tokenizer.merges  i32 [M,2]    kind "bpe" only: left and right id, best rank first
//   metadata: tokenizer.kind text "bpe" | "spm" | "unigram" · tokenizer.split texts (regular expressions in PCRE2's syntax with
//             UTF and UCP on; each cuts every piece of the text before it into its matches and what lies between; bpe only)
//             tokenizer.bos, .unk, .pad integers (-1: none) · tokenizer.eos integers (ids that end a generation)
//             tokenizer.add_bos, .add_eos, .add_space_prefix, .ignore_merges, .remove_extra_spaces integers 0|1 (absent: 0)
//             tokenizer.strip_left, .strip_right integers, may be absent (ids that swallow the white space beside them)
//             tokenizer.normalize text "none" | "nfc" | "nfkc"
#pragma once
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/token.h"

namespace folio {

enum class TokenType : uint8_t { normal, control, user, byte, unused, unknown };

// What a weight file says about its tokenizer, unchecked: whoever reads the file fills it in, Tokenizer checks it.
struct Vocabulary {
  std::string kind, normalize = "none";
  std::string bytes;
  std::vector<int32_t> ends;    // [V]
  std::vector<uint8_t> types;   // [V] of TokenType
  std::vector<float> scores;    // [V] or empty
  std::vector<int32_t> merges;  // [M,2]
  std::vector<std::string> split;
  int64_t bos = -1, unk = -1, pad = -1;
  std::vector<int64_t> eos;
  bool add_bos = false, add_eos = false;
  bool add_space_prefix = false;  // "bpe": only where the text does not begin with one. Others: always, and again after a special token
  bool ignore_merges = false;     // "bpe": a whole piece that is a token is not merged but taken
  bool clean_spaces = false;      // "spm", "unigram": runs of spaces become one and none stays at either end, after normalisation
  std::vector<int64_t> strip_left, strip_right;  // control and user tokens that swallow the white space beside them

  Token size() const { return Token(ends.size()); }
  std::string_view text(Token id) const {  // only once `ends` has been checked
    const size_t from = id ? size_t(ends[size_t(id) - 1]) : 0;
    return std::string_view(bytes).substr(from, size_t(ends[size_t(id)]) - from);
  }
};

// Immutable, cheap to copy, used by any number of threads at once.
class Tokenizer {
 public:
  // Checks everything, taking nothing in it for granted. Throws Error "tokenizer: ..." on anything wrong.
  explicit Tokenizer(Vocabulary vocabulary);

  // The ids of a text. Bytes that are no UTF-8 are encoded as bytes, so that decode() gives back the same text, unless the
  // vocabulary lacks tokens for some of it (they become unk) or normalises or cleans what it reads.
  //   add_special    puts bos before and eos behind, where the model asks for it
  //   parse_special  reads the text of a control token as that token; false for text that is not to be trusted with it.
  //                  Tokens added by the user are always cut out. Where several fit, the leftmost, then the longest is taken.
  //   continues      the text goes on from one before it, so add_space_prefix puts none at its beginning
  // Throws Error where some byte has no token and there is no unk, or if a split pattern runs away.
  std::vector<Token> encode(std::string_view text, bool add_special = true, bool parse_special = true, bool continues = false) const;

  // The text of a whole sequence: the inverse of encode(), which is why a space that add_space_prefix put at the beginning or
  // behind a special token goes away again. `skip_special` leaves control tokens out and shows U+FFFD for unk.
  // For the tokens of a running answer see TextStream (stream.h).
  std::string decode(std::span<const Token> tokens, bool skip_special = true) const;
  std::string decode(Token id) const { return std::string(text_of(id)); }

  // One token's bytes, of a control token its text. Empty for an id that is not in the vocabulary: a model's output may be
  // padded to more rows than there are tokens.
  std::string_view text_of(Token id) const;
  TokenType type_of(Token id) const;        // unused, if it is not in the vocabulary
  Token find(std::string_view text) const;  // the token of that text, special ones first; −1 if none

  Token size() const;
  Token bos() const;  // −1: none; so for unk and pad
  Token unk() const;
  Token pad() const;
  bool eos(Token id) const;              // does it end a generation?
  std::span<const Token> eos() const;    // all that do
  const Vocabulary& vocabulary() const;  // checked

 private:
  friend class TextStream;
  // The bytes that `id` adds to a text. `fresh`: nothing but special tokens came since the text began or since the last one.
  std::string_view write(Token id, bool skip_special, bool& fresh) const;
  struct Parts;
  std::shared_ptr<const Parts> parts_;
};

}  // namespace folio
