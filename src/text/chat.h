// SPDX-License-Identifier: MIT
// Chat: a conversation as the one text that a model was trained to continue. Models carry a template in the Jinja language; we
// do not run it. We recognise the six families in use by their markers, read from the template's string literals the few things
// in which members of a family differ, and refuse all others by name.
//
// The text never begins with the bos token: the tokenizer adds that. It is to be encoded with parse_special.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace folio {

struct ChatMessage {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

enum class ChatFamily { chatml, llama2, llama3, phi3, mistral, gemma };
const char* chat_family_name(ChatFamily family);

// A family, and how one model writes it.
struct ChatTemplate {
  ChatTemplate(ChatFamily family = ChatFamily::chatml);  // in its best known form

  ChatFamily family;
  enum { refused, own_turn, first_user, last_user } system;  // where the system message goes
  std::string default_system;                                // ChatML, Mistral: where the conversation has none; empty: none
  std::string generation;                                    // ChatML: what opens the answer
  bool drop_thinking = false;                                // ChatML: past answers lose what stands before </think>
  std::string dates;                                         // Llama-3.1 and later: lines before the system message; empty: none
  std::string line;                                          // Phi-3: behind a role
  std::string last;                                          // Phi-3: behind the last turn, if no answer is to follow
  bool bos_each_turn = false;                                // Llama-2
  bool trim = false;                                         // Llama-2, Mistral (answers)
  std::string open, close;                                   // Llama-2, Mistral: around what the user says
  std::string open_system, close_system;                     // Mistral: around the system message's own turn
  std::string before_answer, after_answer;                   // Llama-2, Mistral
};

// Reads a model's Jinja template. Throws Error, naming the families and the template's beginning, if it is of none of them.
ChatTemplate read_chat_template(std::string_view jinja);

// The whole conversation; with `answer` it ends where the assistant's next words begin. Throws Error on a role, or an order of
// roles, that the model's own template refuses, or if there is no message.
std::string render_chat(const ChatTemplate& style, std::span<const ChatMessage> messages, bool answer = true);

// Texts that end an answer, beside the tokenizer's eos. In most models each is a control token.
std::vector<std::string> chat_stops(ChatFamily family);

}  // namespace folio
