// SPDX-License-Identifier: MIT
#include "tools/lib/report.h"

#include <cmath>
#include <cstdio>

#include "tools/lib/machine.h"
#include "tools/lib/main.h"

namespace folio {

using Json = nlohmann::ordered_json;

double bytes_read(const OpenModel& model, const Generated& run) {
  const double rows = double(run.steps) * double(run.first_length) + 0.5 * double(run.steps) * double(run.steps + 1);
  return double(run.steps) * double(model.model->weight_bytes()) + rows * double(model.engine->cache().bytes_per_token());
}

static double rate(double n, double seconds) { return n > 0 && seconds > 0 ? n / seconds : 0; }
double prompt_rate(const Generated& run) { return rate(double(run.prompt_tokens), run.prompt_seconds); }
double decode_rate(const Generated& run) { return rate(double(run.steps + run.drafts.accepted), run.decode_seconds); }

static double measured_bandwidth(const OpenModel& model) {
  if (const std::optional<Limits> own = model.device->limits()) return own->read_gbps * 1e9;
  // Not all of a large file: some hundred MB are far more than a cache holds.
  const auto area = model.layers();
  return read_bandwidth(area.first(std::min<size_t>(area.size(), size_t(512) << 20)), model.threads);
}

static std::string per_second(double n) {
  if (n >= 99.95) return with_commas(std::llround(n)) + " tokens/s";
  char text[32];
  std::snprintf(text, sizeof text, "%.1f tokens/s", n);
  return text;
}

std::string statistics_line(const OpenModel& model, const Generated& run, uint64_t seed) {
  const int64_t peak = peak_memory();   // before the bandwidth is measured
  std::string out =
      join("prompt ", with_commas(run.prompt_tokens), run.prompt_tokens == 1 ? " token, " : " tokens, ", per_second(prompt_rate(run)));
  if (run.steps > 0) {
    const double used = rate(bytes_read(model, run), run.decode_seconds), most = measured_bandwidth(model);
    char text[96];
    const double share = most > 0 ? 100 * used / most : 0;
    std::snprintf(text, sizeof text, " · %.1f GB/s, %.*f%% of %.1f", used / 1e9, share < 9.5 ? 1 : 0, share, most / 1e9);
    const int64_t tokens = run.steps + run.drafts.accepted;
    out += join(" · decode ", with_commas(tokens), tokens == 1 ? " token, " : " tokens, ", per_second(decode_rate(run)), text);
  }
  return out + " · peak " + human_bytes(double(peak)) + " · seed " + std::to_string(seed) + " · logits " + hex64(run.logits_hash);
}

static Json scored(const OpenModel& model, Token token, float logprob) {
  Json json{{"token", token}};
  if (model.tokenizer) json["text"] = model.tokenizer->decode(token);
  json["logprob"] = logprob;   // minus infinity becomes null
  return json;
}

static Json timings(const OpenModel& model, const Generated& run) {
  const double used = rate(bytes_read(model, run), run.decode_seconds), most = run.steps > 0 ? measured_bandwidth(model) : 0;
  return {{"load_ms", model.load_seconds * 1e3},
          {"prompt_ms", run.prompt_seconds * 1e3},
          {"prompt_tps", prompt_rate(run)},
          {"decode_steps", run.steps},
          {"decode_ms", run.decode_seconds * 1e3},
          {"decode_tps", decode_rate(run)},
          {"decode_bytes_per_second", used},
          {"bandwidth_bytes_per_second", most},
          {"bandwidth_share", most > 0 ? used / most : 0},
          {"peak_memory_bytes", peak_memory()}};
}

Json report(const OpenModel& model, const Generated& run, std::span<const Token> prompt, uint64_t seed) {
  Json json{{"text", run.text}, {"tokens", run.tokens}, {"prompt_tokens", prompt.size()}, {"prompt_ids", prompt}};
  if (run.logprobs.size() == run.tokens.size() && !run.tokens.empty()) {
    Json& list = json["logprobs"] = Json::array();
    for (size_t i = 0; i < run.tokens.size(); ++i) {
      Json entry = scored(model, run.tokens[i], run.logprobs[i]);
      Json& top = entry["top"] = Json::array();
      for (const TokenLogprob& t : run.likeliest[i]) top.push_back(scored(model, t.token, t.logprob));
      list.push_back(std::move(entry));
    }
  }
  json["finish_reason"] = name(run.finish);
  if (run.drafts.drafted > 0)
    json["drafts"] = {{"rounds", run.drafts.rounds}, {"drafted", run.drafts.drafted}, {"accepted", run.drafts.accepted}};
  json["seed"] = seed;
  json["logits_hash"] = hex64(run.logits_hash);
  json["timings"] = timings(model, run);
  return json;
}

}  // namespace folio
