// SPDX-License-Identifier: MIT
// A conversation as it grows: each of the user's messages becomes the tokens that are new in the text. The whole conversation is
// rendered every time (text/chat.h); where that text begins with what the model has already seen, only the rest is read.
#pragma once
#include <span>
#include <string>
#include <vector>

#include "files/weights.h"
#include "text/chat.h"
#include "text/tokenizer.h"

namespace folio {

class Conversation {
 public:
  // Throws Error if the file has no chat template, or one that we do not know.
  Conversation(const Weights& weights, const Tokenizer& tokenizer, const std::string& system);

  struct Turn {
    std::vector<Token> tokens;
    bool anew;                   // they are the whole text: what was read before must be forgotten
  };
  // `text`: all tokens so far, the answer to the turn before included.
  Turn ask(const std::string& message, std::span<const Token> text);
  // What the model said, without what ended it.
  void answered(const std::string& answer);
  // The last turn did not happen.
  void take_back();

  // What ends an answer, beside the tokenizer's end tokens.
  const std::vector<Token>& ends() const { return ends_; }
  const std::vector<std::string>& stops() const { return stops_; }

 private:
  const Tokenizer& tokenizer_;
  ChatTemplate style_;
  std::vector<ChatMessage> messages_;
  std::string seen_, before_;   // the text that the model has seen; and before the last turn
  std::vector<Token> ends_;
  std::vector<std::string> stops_;
};

}  // namespace folio
