// SPDX-License-Identifier: MIT
#include "tools/lib/chat.h"

#include "base/error.h"

namespace folio {

static std::string chat_template(const Weights& weights) {
  const std::string jinja = weights.text("chat.template", "");
  check(!jinja.empty(), weights.path(), ": this model has no chat template, so it was not trained for --chat; give it text with -p");
  return jinja;
}

Conversation::Conversation(const Weights& weights, const Tokenizer& tokenizer, const std::string& system)
    : tokenizer_(tokenizer), style_(read_chat_template(chat_template(weights))) {
  if (!system.empty()) messages_.push_back({"system", system});
  for (const std::string& text : chat_stops(style_.family)) {
    const Token id = tokenizer.find(text);
    if (id >= 0 && tokenizer.type_of(id) != TokenType::normal) ends_.push_back(id);
    else stops_.push_back(text);
  }
}

Conversation::Turn Conversation::ask(const std::string& message, std::span<const Token> text) {
  messages_.push_back({"user", message});
  const std::string all = render_chat(style_, messages_);
  before_ = seen_;
  Turn turn{{}, text.empty() || seen_.empty() || !all.starts_with(seen_)};
  turn.tokens = turn.anew ? tokenizer_.encode(all) : tokenizer_.encode(std::string_view(all).substr(seen_.size()), false, true, true);
  // The answer's end token, which the model drew itself, is the first thing of the rest.
  if (!turn.anew && !turn.tokens.empty() && !text.empty() && turn.tokens.front() == text.back()) turn.tokens.erase(turn.tokens.begin());
  seen_ = all;
  return turn;
}

void Conversation::answered(const std::string& answer) {
  messages_.push_back({"assistant", answer});
  seen_ += answer;
}

void Conversation::take_back() {
  messages_.pop_back();
  seen_ = before_;
}

}  // namespace folio
