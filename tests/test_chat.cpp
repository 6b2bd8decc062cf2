// SPDX-License-Identifier: MIT
// Chat templates: what each family's text looks like, worked out by hand from the models' documentation, and how much of it is read
// from the template that a model carries. The templates here are the shortest that have the marks of their family.
#include <gtest/gtest.h>

#include "base/error.h"
#include "text/chat.h"

namespace folio {
namespace {

using Messages = std::vector<ChatMessage>;
const Messages one = {{"user", " Hi \n"}};
const Messages told = {{"system", "Be kind."}, {"user", "Hi"}};
const Messages long_talk = {{"system", "Be kind."}, {"user", "1"}, {"assistant", " 2 "}, {"user", "3"}};

std::string error_of(auto&& work) {
  try {
    work();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(Chat, ChatMl) {
  const ChatTemplate t = ChatFamily::chatml;
  EXPECT_EQ(render_chat(t, one), "<|im_start|>user\n Hi \n<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(render_chat(t, one, false), "<|im_start|>user\n Hi \n<|im_end|>\n");
  EXPECT_EQ(render_chat(t, long_talk),
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\n 2 <|im_end|>\n"
            "<|im_start|>user\n3<|im_end|>\n<|im_start|>assistant\n");
}

TEST(Chat, ChatMlFromATemplate) {
  const ChatTemplate plain = read_chat_template(
      "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}");
  EXPECT_EQ(plain.family, ChatFamily::chatml);
  EXPECT_EQ(render_chat(plain, told), render_chat(ChatFamily::chatml, told));
  // Qwen 2 and 2.5 speak for themselves where nobody gives a system message.
  const ChatTemplate qwen = read_chat_template(
      "{%- if messages[0].role != 'system' %}{{- \"<|im_start|>system\\nYou're Q.<|im_end|>\\n\" }}{% endif %}"
      "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}");
  EXPECT_EQ(render_chat(qwen, {{{"user", "Hi"}}}),
            "<|im_start|>system\nYou're Q.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(render_chat(qwen, told), render_chat(ChatFamily::chatml, told));
  // Qwen 3 forgets what it thought; its thinking-only models are made to begin with a thought.
  const ChatTemplate thinking = read_chat_template(
      "{% for m in messages %}{% set content = m.content.split('</think>')[-1].lstrip('\\n') %}"
      "{{ '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}");
  const Messages thought = {{"user", "1"}, {"assistant", "<think>\nhm\n</think>\n\n2"}, {"user", "</think>3"}};
  EXPECT_EQ(render_chat(thinking, thought),
            "<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n<|im_start|>user\n</think>3<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n");
}

TEST(Chat, Llama2) {
  const ChatTemplate t = ChatFamily::llama2;
  EXPECT_EQ(render_chat(t, one), "[INST] Hi [/INST]");
  EXPECT_EQ(render_chat(t, long_talk), "[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\n1 [/INST] 2 </s><s>[INST] 3 [/INST]");
  const ChatTemplate read = read_chat_template(
      "{% for m in messages %}{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + m['content'] %}{% if m['role'] == 'user' %}"
      "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% else %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% "
      "endfor %}");
  EXPECT_EQ(read.family, ChatFamily::llama2);
  EXPECT_EQ(render_chat(read, long_talk), render_chat(t, long_talk));
}

TEST(Chat, Llama3) {
  const ChatTemplate t = ChatFamily::llama3;
  EXPECT_EQ(render_chat(t, one),
            "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n");
  EXPECT_EQ(render_chat(t, long_talk, false),
            "<|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n1<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n2<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n3<|eot_id|>");
  // 3.1 and later begin with two dates, with or without a system message.
  const ChatTemplate dated = read_chat_template(
      "{%- set date_string = strftime_now(\"%d %b %Y\") %}{#- or else, if it can't: #}{%- set date_string = \"26 Jul 2024\" %}"
      "{{- \"<|start_header_id|>system<|end_header_id|>\\n\\n\" }}{{- \"Cutting Knowledge Date: December 2023\\n\" }}"
      "{{- \"Today Date: \" + date_string + \"\\n\\n\" }}{{- system_message }}{{- \"<|eot_id|>\" }}");
  const std::string head =
      "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";
  EXPECT_EQ(render_chat(dated, one, false), head + "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>");
  EXPECT_EQ(render_chat(dated, told, false), head + "Be kind.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>");
}

TEST(Chat, Phi3) {
  const ChatTemplate t = ChatFamily::phi3;
  EXPECT_EQ(render_chat(t, one), "<|user|>\n Hi \n<|end|>\n<|assistant|>\n");
  EXPECT_EQ(render_chat(t, long_talk),
            "<|system|>\nBe kind.<|end|>\n<|user|>\n1<|end|>\n<|assistant|>\n 2 <|end|>\n<|user|>\n3<|end|>\n<|assistant|>\n");
  EXPECT_EQ(render_chat(t, one, false), "<|user|>\n Hi \n<|end|>\n<|endoftext|>");
  const ChatTemplate phi4_mini = read_chat_template(
      "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}");
  EXPECT_EQ(phi4_mini.family, ChatFamily::phi3);
  EXPECT_EQ(render_chat(phi4_mini, told), "<|system|>Be kind.<|end|><|user|>Hi<|end|><|assistant|>");
  // The first Phi-3-mini passes over system messages in silence; we do not.
  const ChatTemplate mute = read_chat_template(
      "{% if m['role'] == 'user' %}{{ '<|user|>' + '\\n' + m['content'] + '<|end|>' + '\\n' + '<|assistant|>' + '\\n' }}{% endif %}");
  EXPECT_EQ(render_chat(mute, one), render_chat(t, one));
  EXPECT_EQ(error_of([&] { render_chat(mute, told); }), "chat: this model's Phi-3 template takes no system message");
}

ChatTemplate mistral(const std::string& user, const std::string& answer) {
  return read_chat_template("{{ bos_token }}{% for message in messages %}{{ " + user + " }}{{ " + answer + " }}{% endfor %}");
}

TEST(Chat, Mistral) {
  EXPECT_EQ(render_chat(ChatFamily::mistral, long_talk), "[INST] Be kind.\n\n1 [/INST] 2 </s>[INST] 3 [/INST]");
  const Messages talk = {{"user", "1"}, {"assistant", "2 "}, {"user", "3"}};
  const std::string content = "message['content']";
  // 7B v0.1, v0.2 and its later form, Large 2407 and 7B v0.3, Nemo.
  EXPECT_EQ(render_chat(mistral("'[INST] ' + " + content + " + ' [/INST]'", content + " + eos_token + ' '"), talk),
            "[INST] 1 [/INST]2 </s> [INST] 3 [/INST]");
  EXPECT_EQ(render_chat(mistral("'[INST] ' + " + content + " + ' [/INST]'", content + " + eos_token"), talk),
            "[INST] 1 [/INST]2 </s>[INST] 3 [/INST]");
  EXPECT_EQ(
      render_chat(mistral("' [INST] ' + system_message + '\\n\\n' + " + content + " + ' [/INST]'", "' ' + " + content + " + eos_token"),
                  long_talk),
      " [INST] Be kind.\n\n1 [/INST]  2 </s> [INST] 3 [/INST]");
  const std::string last = "\"\" if loop.last and system_message is defined else \"[INST] \" + message[\"content\"] + \"[/INST]\"";
  EXPECT_EQ(render_chat(mistral(last, "\" \" + message[\"content\"]|trim + eos_token"), long_talk),
            "[INST] 1[/INST] 2</s>[INST] Be kind.\n\n3[/INST]");
  EXPECT_EQ(render_chat(mistral("\"[INST]\" + message[\"content\"] + \"[/INST]\"", "message[\"content\"] + eos_token"), talk),
            "[INST]1[/INST]2 </s>[INST]3[/INST]");
  EXPECT_EQ(error_of([&] { render_chat(mistral("'[INST] ' + x + ' [/INST]'", "x + eos_token"), told); }),
            "chat: this model's Mistral template takes no system message");
  // Large 2411 and Small 3 give the system message a turn of its own.
  const ChatTemplate v7 =
      mistral("'[SYSTEM_PROMPT] ' + s + '[/SYSTEM_PROMPT]' + '[INST] ' + " + content + " + '[/INST]'", "' ' + " + content + " + eos_token");
  EXPECT_EQ(render_chat(v7, told), "[SYSTEM_PROMPT] Be kind.[/SYSTEM_PROMPT][INST] Hi[/INST]");
  EXPECT_EQ(render_chat(v7, talk), "[INST] 1[/INST] 2 </s>[INST] 3[/INST]");
  const ChatTemplate small = read_chat_template(
      "{%- set default_system_message = \"I'm 'Small'.\" %}{{- '[SYSTEM_PROMPT]' + s + '[/SYSTEM_PROMPT]' }}{{- '[INST]' + m + '[/INST]' "
      "}}");
  EXPECT_EQ(render_chat(small, {{{"user", "Hi"}}}), "[SYSTEM_PROMPT]I'm 'Small'.[/SYSTEM_PROMPT][INST]Hi[/INST]");
}

TEST(Chat, Gemma) {
  const ChatTemplate t = ChatFamily::gemma;
  EXPECT_EQ(render_chat(t, one), "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n");
  EXPECT_EQ(render_chat(t, long_talk, false),
            "<start_of_turn>user\nBe kind.\n\n1<end_of_turn>\n<start_of_turn>model\n2<end_of_turn>\n<start_of_turn>user\n3<end_of_turn>\n");
  // Gemma 1 and 2 refuse system messages, Gemma 3 puts them before the first turn.
  const std::string body = "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}";
  EXPECT_EQ(render_chat(read_chat_template(body), told), render_chat(t, told));
  EXPECT_EQ(error_of([&] { render_chat(read_chat_template("{{ raise_exception('System role not supported') }}" + body), told); }),
            "chat: this model's Gemma template takes no system message");
}

TEST(Chat, Refusals) {
  EXPECT_EQ(error_of([] { read_chat_template(" \n"); }), "chat: the model has no chat template");
  EXPECT_EQ(
      error_of([] { read_chat_template("{% for m in messages %}\n{{ 'USER: ' + m.content + '\\n' }}{% endfor %} and much more of it"); }),
      "chat: the model's chat template is of none of the families ChatML, Llama-2, Llama-3, Phi-3, Mistral and Gemma; it begins "
      "'{% for m in messages %} {{ 'USER: ' + m.content + '\\n' }}{% ...'");
  // Near relatives of ChatML (Phi-4) and Phi-3 (Zephyr) are not taken for them.
  EXPECT_NE(error_of([] { read_chat_template("{{ '<|im_start|>user<|im_sep|>' + c + '<|im_end|>' }}"); }), "no error");
  EXPECT_NE(error_of([] { read_chat_template("{{ '<|user|>\\n' + c + eos_token }}{{ '<|assistant|>' }}"); }), "no error");
  for (const char* cut : {"{", "{{", "{{'", "{{'\\", "{#", "{{'<|im_start|>", "{%", "{{ \"a' }}"})
    EXPECT_NE(error_of([&] { read_chat_template(cut); }), "no error");
  EXPECT_EQ(error_of([] { render_chat(ChatFamily::chatml, Messages{}); }), "chat: there is no message");
  EXPECT_EQ(error_of([] {
              render_chat(ChatFamily::gemma, Messages{{"system", "x"}});
            }),
            "chat: there is no message after the system message");
  EXPECT_EQ(error_of([] {
              render_chat(ChatFamily::chatml, Messages{{"tool", "x"}});
            }),
            "chat: there is no role 'tool', expected system, user or assistant");
  EXPECT_EQ(error_of([] {
              render_chat(ChatFamily::llama2, Messages{{"user", "x"}, {"user", "y"}});
            }),
            "chat: message 2 after the system message is the user's, but in the Llama-2 template user and assistant take turns");
}

TEST(Chat, Stops) {
  EXPECT_EQ(chat_stops(ChatFamily::llama3)[0], "<|eot_id|>");
  for (int family = 0; family < 6; ++family) {
    EXPECT_FALSE(chat_stops(ChatFamily(family)).empty());
    EXPECT_STRNE(chat_family_name(ChatFamily(family)), "");
  }
}

}  // namespace
}  // namespace folio
