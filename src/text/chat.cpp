// SPDX-License-Identifier: MIT
#include "text/chat.h"

#include <algorithm>
#include <cctype>

#include "base/error.h"
#include "text/utf8.h"

namespace folio {

namespace {

// What of a Jinja template tells one from another: its string literals, escapes undone, and its code without white space, all
// quotes made single, so that  {{- "[INST] " + x }}  reads  '[INST] '+x
struct Source {
  explicit Source(std::string_view jinja) {
    bool inside = false;
    for (size_t at = 0; at < jinja.size();) {
      const std::string_view rest = jinja.substr(at);
      if (!inside) {
        if (rest.starts_with("{#")) {
          at = std::min(jinja.size(), jinja.find("#}", at));
          continue;
        }
        inside = rest.starts_with("{{") || rest.starts_with("{%");
        plain += rest[0];
        at += inside ? 2 : 1;
        continue;
      }
      if (rest.starts_with("}}") || rest.starts_with("%}")) {
        inside = false;
        code += ';';
        at += 2;
      } else if (rest[0] == '\'' || rest[0] == '"') {
        at = literal(jinja, at);
      } else {
        if (!std::isspace(uint8_t(rest[0]))) code += rest[0];
        ++at;
      }
    }
  }

  bool has(std::string_view in_code) const { return code.find(in_code) != code.npos; }
  bool marks(std::string_view text) const { return plain.find(text) != plain.npos || find(text) != nullptr; }
  // The first literal that holds `text`, or that begins with it.
  const std::string* find(std::string_view text) const {
    const auto it = std::find_if(literals.begin(), literals.end(), [&](const auto& l) { return l.find(text) != l.npos; });
    return it == literals.end() ? nullptr : &*it;
  }
  const std::string* find_start(std::string_view text) const {
    const auto it = std::find_if(literals.begin(), literals.end(), [&](const auto& l) { return l.starts_with(text); });
    return it == literals.end() ? nullptr : &*it;
  }

  // The literal that `name` is set to, if it is set to one and nothing more.
  std::string set(std::string_view name) const {
    const size_t at = code.find(join("set", name, "='"));
    if (at == code.npos) return {};
    const size_t from = at + 5 + name.size(), to = code.find('\'', from);
    if (to == code.npos || code.compare(to + 1, 1, ";") != 0) return {};
    std::string value = code.substr(from, to - from);
    std::replace(value.begin(), value.end(), inner_quote, '\'');
    return value;
  }

  std::vector<std::string> literals;
  std::string code, plain;

 private:
  static constexpr char inner_quote = '\1';  // stands in `code` for a quote inside a literal
  size_t literal(std::string_view jinja, size_t at) {
    const char quote = jinja[at++];
    std::string text;
    for (; at < jinja.size() && jinja[at] != quote; ++at) {
      if (jinja[at] != '\\' || at + 1 == jinja.size()) {
        text += jinja[at];
        continue;
      }
      const char c = jinja[++at];
      text += c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c;
    }
    code += '\'';
    for (char c : text) code += c == '\'' ? inner_quote : c;
    code += '\'';
    literals.push_back(std::move(text));
    return std::min(jinja.size(), at + 1);
  }
};

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view space = " \t\n\v\f\r";
  const size_t from = text.find_first_not_of(space);
  return from == text.npos ? std::string_view() : text.substr(from, text.find_last_not_of(space) + 1 - from);
}

void read_chatml(const Source& source, ChatTemplate& style) {
  constexpr std::string_view open = "<|im_start|>system\n", close = "<|im_end|>\n";
  for (const std::string& l : source.literals)
    if (l.starts_with(open) && l.ends_with(close) && style.default_system.empty())
      style.default_system = l.substr(open.size(), l.size() - open.size() - close.size());
  const auto opens = [](const std::string& l) { return l.starts_with("<|im_start|>assistant\n"); };
  const auto last = std::find_if(source.literals.rbegin(), source.literals.rend(), opens);
  if (last != source.literals.rend()) style.generation = *last;
  style.drop_thinking = source.has("split('</think>')");
}

void read_llama3(const Source& source, ChatTemplate& style) {
  const std::string* knowledge = source.find_start("Cutting Knowledge Date: ");
  // The day is the template's own example, also where it would ask for today's: the same prompt is the same text tomorrow.
  if (knowledge) style.dates = join(*knowledge, "Today Date: ", source.set("date_string"), "\n\n");
}

void read_phi3(const Source& source, ChatTemplate& style) {
  const bool lines = source.marks("|>\n") || std::find(source.literals.begin(), source.literals.end(), "\n") != source.literals.end();
  style.line = lines ? "\n" : "";
  style.last = source.has("eos_token") ? "<|endoftext|>" : "";
  if (!source.marks("system") && !source.has("'<|'+message['role']")) style.system = ChatTemplate::refused;
}

void read_inst(const Source& source, ChatTemplate& style) {
  if (const std::string* open = source.find("[INST]"); open && open->find("<<SYS>>") == open->npos) style.open = *open;
  if (const std::string* close = source.find("[/INST]")) style.close = *close;
  const bool strips = source.has("content.strip()"), trims = source.has("message['content']|trim+eos_token");
  style.trim = strips || trims;
  style.before_answer = source.has("' '+message['content']") || source.has("' '+content") ? " " : "";
  style.after_answer = source.has("+' '+eos_token") ? " </s>" : source.has("eos_token+' '") ? "</s> " : "</s>";
  style.bos_each_turn = source.has("bos_token+'[INST]");
  if (style.family == ChatFamily::llama2) return;
  const std::string *own = source.find("[SYSTEM_PROMPT]"), *own_end = source.find("[/SYSTEM_PROMPT]");
  if (own && own_end) {
    style.system = ChatTemplate::own_turn;
    style.open_system = *own;
    style.close_system = *own_end;
    style.default_system = source.set("default_system_message");
  } else {
    style.system = source.has("loop.lastandsystem_message") ? ChatTemplate::last_user
                   : source.has("system_message")           ? ChatTemplate::first_user
                                                            : ChatTemplate::refused;
  }
}

// Families in which user and assistant take turns, the user first, after at most one system message.
void check_turns(const ChatTemplate& style, std::span<const ChatMessage> messages) {
  for (size_t i = 0; i < messages.size(); ++i)
    check(messages[i].role == (i % 2 ? "assistant" : "user"), "chat: message ", i + 1, " after the system message is the ",
          messages[i].role, "'s, but in the ", chat_family_name(style.family), " template user and assistant take turns");
}

std::string render_chatml(const ChatTemplate& style, std::span<const ChatMessage> messages, bool answer) {
  std::string out;
  if (messages[0].role != "system" && !style.default_system.empty()) out = "<|im_start|>system\n" + style.default_system + "<|im_end|>\n";
  for (const ChatMessage& m : messages) {
    std::string_view content = m.content;
    const size_t thought =
        style.drop_thinking && m.role == "assistant" && &m != &messages.back() ? content.rfind("</think>") : content.npos;
    if (thought != content.npos) {
      content.remove_prefix(thought + 8);
      content.remove_prefix(std::min(content.size(), content.find_first_not_of('\n')));
    }
    out += join("<|im_start|>", m.role, "\n", content, "<|im_end|>\n");
  }
  return answer ? out + style.generation : out;
}

std::string render_llama3(const ChatTemplate& style, std::span<const ChatMessage> messages, bool answer) {
  const auto turn = [](std::string_view role, std::string_view before, std::string_view content) {
    return join("<|start_header_id|>", role, "<|end_header_id|>\n\n", before, trimmed(content), "<|eot_id|>");
  };
  std::string out;
  if (!style.dates.empty()) {
    const bool first = messages[0].role == "system";
    out = turn("system", style.dates, first ? messages[0].content : "");
    if (first) messages = messages.subspan(1);
  }
  for (const ChatMessage& m : messages) out += turn(m.role, "", m.content);
  return answer ? out + "<|start_header_id|>assistant<|end_header_id|>\n\n" : out;
}

std::string render_phi3(const ChatTemplate& style, std::span<const ChatMessage> messages, bool answer) {
  std::string out;
  for (const ChatMessage& m : messages) out += join("<|", m.role, "|>", style.line, m.content, "<|end|>", style.line);
  return out + (answer ? "<|assistant|>" + style.line : style.last);
}

// Llama-2 and Mistral: an answer follows the user's turn at once, so there is nothing to open.
std::string render_inst(const ChatTemplate& style, const ChatMessage* system, std::span<const ChatMessage> messages) {
  const auto shown = [&](std::string_view text) { return style.trim ? trimmed(text) : text; };
  const bool llama2 = style.family == ChatFamily::llama2;
  std::string out;
  if (style.system == ChatTemplate::own_turn && (system || !style.default_system.empty()))
    out = style.open_system + (system ? system->content : style.default_system) + style.close_system;
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].role == "assistant") {
      out += style.before_answer + std::string(shown(messages[i].content)) + style.after_answer;
      continue;
    }
    std::string content = messages[i].content;
    const bool here =
        style.system == ChatTemplate::first_user ? i == 0 : style.system == ChatTemplate::last_user && i + 1 == messages.size();
    if (system && here) content = (llama2 ? "<<SYS>>\n" + system->content + "\n<</SYS>>\n\n" : system->content + "\n\n") + content;
    if (style.bos_each_turn && i) out += "<s>";
    out += style.open + (llama2 ? std::string(shown(content)) : content) + style.close;
  }
  return out;
}

std::string render_gemma(const ChatMessage* system, std::span<const ChatMessage> messages, bool answer) {
  std::string out;
  for (const ChatMessage& m : messages) {
    const std::string before = system && &m == &messages.front() ? system->content + "\n\n" : "";
    out += join("<start_of_turn>", m.role == "assistant" ? "model" : "user", "\n", before, trimmed(m.content), "<end_of_turn>\n");
  }
  return answer ? out + "<start_of_turn>model\n" : out;
}

}  // namespace

const char* chat_family_name(ChatFamily family) {
  constexpr const char* names[] = {"ChatML", "Llama-2", "Llama-3", "Phi-3", "Mistral", "Gemma"};
  return names[int(family)];
}

ChatTemplate::ChatTemplate(ChatFamily f) : family(f), system(own_turn) {
  switch (family) {
    case ChatFamily::chatml:
      generation = "<|im_start|>assistant\n";
      break;
    case ChatFamily::phi3:
      line = "\n", last = "<|endoftext|>";
      break;
    case ChatFamily::llama2:
      bos_each_turn = trim = true;
      before_answer = " ", after_answer = " </s>";
      [[fallthrough]];
    case ChatFamily::mistral:
      open = "[INST] ", close = " [/INST]";
      if (after_answer.empty()) after_answer = "</s>";
      [[fallthrough]];
    case ChatFamily::gemma:
      system = first_user;
      break;
    case ChatFamily::llama3:
      break;
  }
}

ChatTemplate read_chat_template(std::string_view jinja) {
  check(!trimmed(jinja).empty(), "chat: the model has no chat template");
  const Source source(jinja);
  const bool chatml = source.marks("<|im_start|>") && source.marks("<|im_end|>") && !source.marks("<|im_sep|>");
  if (chatml) {
    ChatTemplate style(ChatFamily::chatml);
    read_chatml(source, style);
    return style;
  }
  if (source.marks("<|start_header_id|>") && source.marks("<|eot_id|>")) {
    ChatTemplate style(ChatFamily::llama3);
    read_llama3(source, style);
    return style;
  }
  if (source.marks("<start_of_turn>") && source.marks("<end_of_turn>")) {
    ChatTemplate style(ChatFamily::gemma);
    if (source.marks("System role not supported")) style.system = ChatTemplate::refused;
    return style;
  }
  if (source.marks("[INST]") && source.marks("[/INST]")) {
    ChatTemplate style(source.marks("<<SYS>>") ? ChatFamily::llama2 : ChatFamily::mistral);
    read_inst(source, style);
    return style;
  }
  if (source.marks("<|end|>") && source.marks("<|assistant|>")) {
    ChatTemplate style(ChatFamily::phi3);
    read_phi3(source, style);
    return style;
  }
  fail("chat: the model's chat template is of none of the families ChatML, Llama-2, Llama-3, Phi-3, Mistral and Gemma; it begins ",
       shown(trimmed(jinja), 60));
}

std::string render_chat(const ChatTemplate& style, std::span<const ChatMessage> messages, bool answer) {
  for (const ChatMessage& m : messages) {
    check(m.role == "system" || m.role == "user" || m.role == "assistant", "chat: there is no role ", shown(m.role, 40),
          ", expected system, user or assistant");
    check(m.role != "system" || style.system != ChatTemplate::refused, "chat: this model's ", chat_family_name(style.family),
          " template takes no system message");
  }
  check(!messages.empty(), "chat: there is no message");
  if (style.family == ChatFamily::chatml) return render_chatml(style, messages, answer);
  if (style.family == ChatFamily::llama3) return render_llama3(style, messages, answer);
  if (style.family == ChatFamily::phi3) return render_phi3(style, messages, answer);
  const ChatMessage* system = messages[0].role == "system" ? &messages[0] : nullptr;
  if (system) messages = messages.subspan(1);
  check(!messages.empty(), "chat: there is no message after the system message");
  if (style.system != ChatTemplate::own_turn) check_turns(style, messages);
  return style.family == ChatFamily::gemma ? render_gemma(system, messages, answer) : render_inst(style, system, messages);
}

std::vector<std::string> chat_stops(ChatFamily family) {
  switch (family) {
    case ChatFamily::chatml:
      return {"<|im_end|>", "<|endoftext|>"};
    case ChatFamily::llama3:
      return {"<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"};
    case ChatFamily::phi3:
      return {"<|end|>", "<|endoftext|>"};
    case ChatFamily::gemma:
      return {"<end_of_turn>", "<eos>"};
    case ChatFamily::llama2:
    case ChatFamily::mistral:
      return {"</s>"};
  }
  return {};
}

}  // namespace folio
