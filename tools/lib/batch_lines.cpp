// SPDX-License-Identifier: MIT
#include "tools/lib/batch_lines.h"

#include "base/error.h"
#include "base/hash.h"

namespace folio {

using nlohmann::json;
using Out = nlohmann::ordered_json;

constexpr int64_t most_choices = 128;

BatchReader::BatchReader(const OpenModel& model, const BatchDefaults& defaults) : model_(model), defaults_(defaults) {
  const std::string jinja = model.weights.text("chat.template", "");
  if (!jinja.empty() && model.tokenizer) chat_ = read_chat_template(jinja);
}

// A field, if it is there and not null; `is` says whether it is what is expected.
template <class Is>
static const json* field(const json& body, const char* name, Is is, const char* expected) {
  const auto it = body.find(name);
  if (it == body.end() || it->is_null()) return nullptr;
  check(is(*it), "'", name, "' is ", it->dump(-1, ' ', true, json::error_handler_t::replace).substr(0, 60), ", expected ", expected);
  return &*it;
}
static bool is_number(const json& j) { return j.is_number(); }
static bool is_integer(const json& j) { return j.is_number_integer(); }
static bool is_text(const json& j) { return j.is_string(); }

static int64_t integer_of(const json& body, const char* name, int64_t absent, int64_t least, int64_t most) {
  const json* at = field(body, name, is_integer, "an integer");
  if (!at) return absent;
  const int64_t n = at->is_number_unsigned() && at->get<uint64_t>() > uint64_t(INT64_MAX) ? INT64_MAX : at->get<int64_t>();
  check(n >= least && n <= most, "'", name, "' is ", n, ", expected ", least, " to ", most);
  return n;
}

static void read_real(const json& body, const char* name, float& to) {
  if (const json* at = field(body, name, is_number, "a number")) to = at->get<float>();
}

static SamplerOptions read_sampling(const json& body, const SamplerOptions& defaults, int64_t vocab) {
  SamplerOptions s = defaults;
  read_real(body, "temperature", s.temperature);
  read_real(body, "top_p", s.top_p);
  read_real(body, "min_p", s.min_p);
  read_real(body, "typical_p", s.typical);
  read_real(body, "repeat_penalty", s.repeat_penalty);
  read_real(body, "presence_penalty", s.presence_penalty);
  read_real(body, "frequency_penalty", s.frequency_penalty);
  s.top_k = int(integer_of(body, "top_k", s.top_k, 0, INT32_MAX));
  if (const json* at = field(body, "seed", is_integer, "an integer")) s.seed = at->get<uint64_t>();
  if (const json* biases = field(body, "logit_bias", [](const json& j) { return j.is_object(); }, "an object"))
    for (const auto& [id, value] : biases->items()) {
      check(value.is_number(), "'logit_bias' of ", id, " is no number");
      s.logit_bias.emplace_back(parse_tokens(id, vocab).at(0), value.get<float>());
    }
  Sampler(s, vocab);   // says what is out of its range
  return s;
}

static std::vector<std::string> read_stops(const json& body) {
  const json* at = field(body, "stop", [](const json& j) { return j.is_string() || j.is_array(); }, "a text or a list of texts");
  if (!at) return {};
  if (at->is_string()) return {at->get<std::string>()};
  std::vector<std::string> stops;
  for (const json& stop : *at) {
    check(stop.is_string(), "'stop' holds something that is no text");
    stops.push_back(stop.get<std::string>());
  }
  return stops;
}

void BatchReader::prompt(BatchLine& line, const json& body) const {
  const auto is_prompt = [](const json& j) { return j.is_string() || j.is_array(); };
  const json* text = field(body, "prompt", is_prompt, "a text or a list of ids");
  const json* messages = field(body, "messages", [](const json& j) { return j.is_array() && !j.empty(); }, "a list of messages");
  check((text != nullptr) != (messages != nullptr), "expected either 'prompt' or 'messages'");
  if (text && text->is_string()) {
    line.prompt = model_.encode(text->get<std::string>());
  } else if (text) {
    for (const json& id : *text) {
      check(id.is_number_integer(), "'prompt' holds something that is no id");
      line.prompt.push_back(Token(std::clamp<int64_t>(id.get<int64_t>(), -1, model_.vocab())));
    }
  } else {
    check(chat_.has_value(), "this model has no chat template; give a 'prompt'");
    std::vector<ChatMessage> all;
    for (const json& message : *messages) {
      check(message.is_object(), "'messages' holds something that is no object");
      const json *role = field(message, "role", is_text, "a text"), *content = field(message, "content", is_text, "a text");
      check(role && content, "a message wants 'role' and 'content'");
      all.push_back({role->get<std::string>(), content->get<std::string>()});
    }
    line.prompt = model_.tokenizer->encode(render_chat(*chat_, all));
    line.chat = true;
  }
  check(!line.prompt.empty(), "the prompt is empty");
}

void BatchReader::fill(BatchLine& line, const json& whole) const {
  check(whole.is_object(), "expected an object, found ", whole.type_name());
  if (const json* id = field(whole, "custom_id", is_text, "a text")) line.custom_id = id->get<std::string>();
  const json* inner = field(whole, "body", [](const json& j) { return j.is_object(); }, "an object");
  line.wrapped = inner != nullptr;
  const json& body = inner ? *inner : whole;
  prompt(line, body);
  const int64_t most = int64_t(1) << 40;
  line.limit = integer_of(body, "max_completion_tokens", integer_of(body, "max_tokens", defaults_.limit, 0, most), 0, most);
  line.stops = body.contains("stop") ? read_stops(body) : defaults_.stops;
  check(line.stops.empty() || model_.tokenizer, "'stop' needs a tokenizer, and this model has none");
  if (!defaults_.ignore_eos) line.ends = model_.ends();
  if (line.chat && !defaults_.ignore_eos)
    for (const std::string& text : chat_stops(chat_->family)) {
      const Token id = model_.tokenizer->find(text);
      if (id >= 0 && model_.tokenizer->type_of(id) != TokenType::normal) line.ends.push_back(id);
      else line.stops.push_back(text);
    }
  const SamplerOptions sampling = read_sampling(body, defaults_.sampling, model_.vocab());
  const int64_t n = integer_of(body, "n", 1, 1, most_choices);
  for (int64_t i = 0; i < n; ++i) {
    line.choices.push_back(sampling);
    const uint64_t key[] = {sampling.seed, uint64_t(i)};
    if (i > 0) line.choices.back().seed = hash64(key, sizeof key);
  }
}

BatchLine BatchReader::read(int64_t index, int64_t number, std::string_view text) const {
  BatchLine line;
  line.index = index;
  line.number = number;
  try {
    fill(line, json::parse(text));
  } catch (const json::exception& error) {
    line.error = "this is no JSON";
    const std::string what = error.what();
    if (const size_t at = what.find("column "); at != std::string::npos) line.error += ": column " + what.substr(at + 7, what.find(':', at) - at - 7);
  } catch (const std::exception& error) {
    line.error = error.what();
  }
  return line;
}

static Out choice(const Reply& reply) { return {{"text", reply.generated.text}, {"finish_reason", name(reply.generated.finish)}}; }

std::string batch_answer(const BatchLine& line, std::span<const Reply> replies) {
  const auto dump = [](const Out& out) { return out.dump(-1, ' ', false, Out::error_handler_t::replace); };
  Out out{{"index", line.index}};
  if (line.custom_id) out["custom_id"] = *line.custom_id;
  std::string error = line.error;
  for (const Reply& reply : replies)
    if (error.empty()) error = reply.error;
  if (!error.empty()) {
    if (line.wrapped) out["response"] = nullptr;
    out["error"] = {{"message", error}};
    return dump(out);
  }
  int64_t drawn = 0;
  for (const Reply& reply : replies) drawn += int64_t(reply.generated.tokens.size());
  const auto prompt = int64_t(line.prompt.size());
  const Out usage{{"prompt_tokens", prompt},
                  {"completion_tokens", drawn},
                  {"total_tokens", prompt + drawn},
                  {"prompt_tokens_details", {{"cached_tokens", replies[0].cached_tokens}}}};
  Out choices = Out::array();
  for (size_t i = 0; i < replies.size(); ++i) {
    Out one{{"index", i}};
    if (line.chat) {
      one["message"] = {{"role", "assistant"}, {"content", replies[i].generated.text}};
      one["finish_reason"] = name(replies[i].generated.finish);
    } else {
      one.update(choice(replies[i]));
    }
    choices.push_back(std::move(one));
  }
  if (line.wrapped) {
    const Out body{{"object", line.chat ? "chat.completion" : "text_completion"}, {"choices", choices}, {"usage", usage}};
    out["response"] = {{"status_code", 200}, {"body", body}};
    out["error"] = nullptr;
  } else {
    if (replies.size() == 1) out.update(choice(replies[0]));
    else out["choices"] = choices;
    out["usage"] = usage;
  }
  return dump(out);
}

}  // namespace folio
