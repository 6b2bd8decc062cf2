// SPDX-License-Identifier: MIT
#include <cstdlib>

#include "base/error.h"
#include "fuzz.h"
#include "tools/lib/vocabulary.h"
#include "text/stream.h"

namespace folio::fuzz {

static void use(const Tokenizer& t, std::string_view text) {
  for (const bool special : {true, false}) {
    std::vector<Token> ids;
    try {
      ids = t.encode(text, special, special, !special);
    } catch (const Error&) {  // no token for a byte, or a pattern that runs away
      continue;
    }
    for (const Token id : ids)
      if (id < 0 || id >= t.size()) std::abort();
    ids.push_back(-1), ids.push_back(t.size()), ids.push_back(INT32_MAX);
    t.decode(ids, special);
    t.decode(ids, !special);
    TextStream stream(t, {.starts_text = special, .skip_special = special});
    for (const Token id : ids) stream.push(id);
    stream.finish();
  }
}

bool try_tokenizer(std::span<const std::byte> file, std::string* why) {
  try {
    const Weights w("fuzz.folio", file);
    const Tokenizer t(read_vocabulary(w));
    using namespace std::string_view_literals;
    for (const std::string_view text :
         {""sv, " "sv, "Hello, world! It's 2024.\n\n  the end"sv, "Grüße, 世界 🙂 e\u0301"sv,
          "\xff\xc3\0\x80<s>\xed\xa0\x80</s>"sv, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"sv})
      use(t, text);
    std::string own;  // its own tokens, one after the other
    for (Token id = 0; id < t.size() && own.size() < 512; ++id) own += t.text_of(id);
    use(t, own.substr(0, 512));
    if (t.find(own) >= t.size()) std::abort();
    for (const Token id : {-1, 0, t.size() - 1, t.size()}) (void)t.type_of(id), (void)t.eos(id), (void)t.text_of(id);
    return true;
  } catch (const Error& error) {
    if (why) *why = error.what();
    return false;
  }
}

}  // namespace folio::fuzz
