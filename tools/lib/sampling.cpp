// SPDX-License-Identifier: MIT
#include "tools/lib/sampling.h"

#include <charconv>
#include <cmath>
#include <random>

#include "base/error.h"

namespace folio {

void add_sampling_flags(CLI::App& app, SamplingFlags& flags) {
  SamplerOptions& o = flags.options;
  const std::string group = "How the next token is chosen (in this order)";
  auto add = [&](const char* name, auto& value, const char* what) {
    app.add_option(name, value, what)->capture_default_str()->group(group);
  };
  add("--repeat-penalty", o.repeat_penalty, "Divide positive logits of repeated tokens by this, multiply negative ones; 1: off");
  add("--presence-penalty", o.presence_penalty, "Take this off the logit of a repeated token");
  add("--frequency-penalty", o.frequency_penalty, "and this once for each time it was there");
  add("--repeat-last-n", o.repeat_last_n, "Tokens that the three look back; -1: all");
  app.add_option("--logit-bias", flags.biases,
                 "Add to the logit of one token: ID+X or ID-X, as in 15043+1; ID-inf forbids it. May be repeated")
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->group(group);
  add("--top-k", o.top_k, "Keep the k likeliest; 0: all");
  add("--typical", o.typical, "Keep the set nearest to the mean surprise that holds this probability; 1: off");
  add("--top-p", o.top_p, "Keep the smallest set of the likeliest that holds this probability; 1: off");
  add("--min-p", o.min_p, "Keep what has at least this fraction of the likeliest one's probability; 0: off");
  add("--temp,--temperature", o.temperature, "Divide the differences of logits by this; 0: always take the likeliest");
  add("-s,--seed", flags.seed, "Seed of the noise; the same seed gives the same text; -1: another one each time (it is printed)");
}

std::pair<Token, float> parse_bias(const std::string& text) {
  const char *at = text.data(), *end = at + text.size();
  Token token = 0;
  float bias = 0;
  const auto [after, error] = std::from_chars(at, end, token);
  bool good = error == std::errc() && token >= 0 && end - after >= 2;
  if (good) {
    const char* number = *after == '+' || *after == '=' || *after == ':' ? after + 1 : after;   // a minus is the number's own
    const auto [last, wrong] = std::from_chars(number, end, bias);
    good = (number != after || *after == '-') && wrong == std::errc() && last == end && !std::isnan(bias);
  }
  check(good, "--logit-bias: '", text, "' is not ID+X or ID-X, as in 15043+1");
  return {token, bias};
}

SamplerOptions sampler_options(const SamplingFlags& flags) {
  SamplerOptions options = flags.options;
  for (const std::string& text : flags.biases) options.logit_bias.push_back(parse_bias(text));
  if (flags.seed == "-1") {
    std::random_device random;
    options.seed = random();   // 32 bits: short enough to be typed again
    return options;
  }
  const char *at = flags.seed.data(), *end = at + flags.seed.size();
  const auto [after, error] = std::from_chars(at, end, options.seed);
  check(error == std::errc() && after == end && at != end, "--seed: '", flags.seed, "' is not a number from 0 to 2^64 - 1, nor -1");
  return options;
}

}  // namespace folio
