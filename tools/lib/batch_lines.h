// SPDX-License-Identifier: MIT
// Lines of `generate --batch`: a request as one JSON object, and its answer. Two forms are read:
//
//   {"prompt": "text" or [ids], "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "n", ...}
//   {"custom_id", "method", "url", "body": {... or "messages": [{"role", "content"}]}}        OpenAI's batch form
//
// and answered in kind: {"index", "text", "finish_reason", "usage"} (with n > 1 "choices" in place of the first two), or {"index",
// "custom_id", "response": {"status_code", "body"}, "error"}. Fields that are not known are left alone, as servers do.
#pragma once
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "run/scheduler.h"
#include "text/chat.h"
#include "tools/lib/model.h"

namespace folio {

// What a line does not say.
struct BatchDefaults {
  SamplerOptions sampling;
  int64_t limit = -1;
  std::vector<std::string> stops;
  bool ignore_eos = false;
};

struct BatchLine {
  int64_t index = 0;                 // of the request, from 0
  int64_t number = 0;                // of the line, from 1
  std::optional<std::string> custom_id;
  bool wrapped = false;              // in OpenAI's form
  bool chat = false;
  std::vector<Token> prompt;
  std::vector<SamplerOptions> choices;   // n of them, with seeds of their own
  int64_t limit = -1;
  std::vector<Token> ends;
  std::vector<std::string> stops;
  std::string error;                 // what is wrong with it; empty: nothing
};

class BatchReader {
 public:
  BatchReader(const OpenModel& model, const BatchDefaults& defaults);
  // Never throws: what is wrong with a line is its own.
  BatchLine read(int64_t index, int64_t number, std::string_view text) const;

 private:
  void fill(BatchLine& line, const nlohmann::json& json) const;
  void prompt(BatchLine& line, const nlohmann::json& body) const;
  const OpenModel& model_;
  const BatchDefaults& defaults_;
  std::optional<ChatTemplate> chat_;
};

// The answer's line, without a newline; `replies`: one for each choice, or one with an error.
std::string batch_answer(const BatchLine& line, std::span<const Reply> replies);

}  // namespace folio
