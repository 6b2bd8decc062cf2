// SPDX-License-Identifier: MIT
// TextStream: the text of a running answer, token by token. A code point may take several tokens; its first bytes wait here for
// the rest, so that what comes out is always whole UTF-8.
#pragma once
#include <string>

#include "text/tokenizer.h"

namespace folio {

struct StreamOptions {
  bool starts_text = false;  // the tokens begin a text, so the space that add_space_prefix put there goes; false: they continue one
  bool skip_special = true;  // as in Tokenizer::decode
  bool raw_bytes = false;    // bytes that are no UTF-8 come out as they are, and not as U+FFFD
};

class TextStream {
 public:
  explicit TextStream(Tokenizer tokenizer, StreamOptions options = {})
      : tokenizer_(std::move(tokenizer)), options_(options), fresh_(options.starts_text) {}

  // The text that has become certain with this token: possibly none.
  std::string push(Token id);
  // What still waits, as U+FFFD or raw. The stream may then go on with another text.
  std::string finish();

 private:
  Tokenizer tokenizer_;
  StreamOptions options_;
  bool fresh_;
  std::string waiting_;  // at most 3 bytes between calls
};

}  // namespace folio
