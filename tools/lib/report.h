// SPDX-License-Identifier: MIT
// What generate says about a run when it is over: one line for people, one JSON object for programs.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "run/generate.h"
#include "tools/lib/model.h"

namespace folio {

// Bytes that the steps after the prompt have read: all weights once a step, and the rows of the tokens before.
double bytes_read(const OpenModel& model, const Generated& run);

// Tokens a second; 0 where nothing was measured.
double prompt_rate(const Generated& run);
double decode_rate(const Generated& run);

// "prompt 12 tokens, 1,234 tokens/s · decode 99 tokens, 56.7 tokens/s · 12.3 GB/s, 85% of 14.5 · peak 1.2 GB · seed 42 ·
// logits 0123456789abcdef" on one line. Decoding counts steps: the first new token came with the prompt.
// Bandwidth is what the same threads reach when they do nothing but read the same weights; measuring it takes some 50 ms.
std::string statistics_line(const OpenModel& model, const Generated& run, uint64_t seed);

// {"text", "tokens", "prompt_tokens", "prompt_ids", "logprobs"?, "finish_reason", "stop"?, "seed", "logits_hash", "timings"}
nlohmann::ordered_json report(const OpenModel& model, const Generated& run, std::span<const Token> prompt, uint64_t seed);

}  // namespace folio
