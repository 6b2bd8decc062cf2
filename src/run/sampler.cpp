// SPDX-License-Identifier: MIT
#include "run/sampler.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "base/draw.h"
#include "base/error.h"

namespace folio {

constexpr float lowest = -std::numeric_limits<float>::infinity();

static bool higher(const Candidate& a, const Candidate& b) { return a.logit > b.logit || (a.logit == b.logit && a.token < b.token); }

[[noreturn]] static void fail_without_numbers() {
  fail("sampler: no logit is a finite number: the weights are damaged, or a bias forbids every token");
}

static void check_options(const SamplerOptions& o, int64_t vocab) {
  auto within = [](float x, float low, float high) { return x >= low && x <= high; };   // false for NaN
  const float most = std::numeric_limits<float>::max();
  check(within(o.temperature, 0, most), "temperature ", o.temperature, ": expected 0 or more");
  check(o.top_k >= 0, "top-k ", o.top_k, ": expected 0 (off) or more");
  check(within(o.top_p, 0, 1), "top-p ", o.top_p, ": expected 0 to 1");
  check(within(o.min_p, 0, 1), "min-p ", o.min_p, ": expected 0 to 1");
  check(within(o.typical, 0, 1), "typical ", o.typical, ": expected 0 to 1");
  check(within(o.repeat_penalty, 1e-3f, 1e3f), "repeat penalty ", o.repeat_penalty, ": expected 0.001 to 1000");
  check(o.repeat_last_n >= -1, "repeat-last-n ", o.repeat_last_n, ": expected -1 (all), 0 (none) or more");
  check(within(o.presence_penalty, -most, most), "presence penalty ", o.presence_penalty, ": expected a finite number");
  check(within(o.frequency_penalty, -most, most), "frequency penalty ", o.frequency_penalty, ": expected a finite number");
  for (const auto& [token, bias] : o.logit_bias) {
    check(token >= 0 && token < vocab, "logit bias of token ", token, ": the vocabulary has ", vocab, " tokens");
    check(bias < std::numeric_limits<float>::infinity(), "logit bias of token ", token, ": ", bias, " is not finite");
  }
}

Sampler::Sampler(const SamplerOptions& options, int64_t vocab) : options_(options) {
  check(vocab > 0, "sampler: an empty vocabulary");
  check_options(options, vocab);
  numbers_ = {options.temperature, options.repeat_penalty, options.presence_penalty, options.frequency_penalty,
              options.typical,     options.top_p,          options.min_p};
  // Biases of the same token stay in their order.
  std::stable_sort(options_.logit_bias.begin(), options_.logit_bias.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  work_.resize(size_t(vocab));
  counts_.resize(size_t(vocab));
  noise_.resize(std::min<size_t>(size_t(vocab), 4096));
  candidates_.reserve(size_t(vocab));
}

bool Sampler::penalises() const {
  return options_.repeat_last_n != 0 && (options_.repeat_penalty != 1 || options_.presence_penalty != 0 || options_.frequency_penalty != 0);
}

// Calls f(token, how often) for each token of the window, in the order in which they came last.
template <class F> void Sampler::each_seen(std::span<const Token> text, F f) {
  const size_t back = options_.repeat_last_n < 0 ? text.size() : std::min(text.size(), size_t(options_.repeat_last_n));
  const auto window = text.last(back);
  for (Token t : window) ++counts_[size_t(t)];
  for (Token t : window)
    if (const int32_t count = std::exchange(counts_[size_t(t)], 0); count > 0) f(t, count);
}

// Penalties and bias, and only numbers or minus infinity left.
std::span<const float> Sampler::process(std::span<const float> logits, std::span<const Token> text) {
  assert(logits.size() == work_.size());
  std::transform(logits.begin(), logits.end(), work_.begin(), [](float x) { return usable(x); });   // it must be inlined: no pointer to it
  if (penalises()) each_seen(text, [&](Token t, int32_t times) { work_[size_t(t)] = penalised(work_[size_t(t)], times, numbers_); });
  for (const auto& [token, bias] : options_.logit_bias) work_[size_t(token)] = biased(work_[size_t(token)], bias);
  return work_;
}

// The first of the highest. Maxima side by side, for one alone is a chain of instructions that wait for one another.
Token Sampler::greedy(std::span<const float> logits) const {
  constexpr size_t lanes = 16;
  float high[lanes];
  std::fill_n(high, lanes, lowest);
  for (size_t i = 0; i + lanes <= logits.size(); i += lanes)
    for (size_t l = 0; l < lanes; ++l) high[l] = logits[i + l] > high[l] ? logits[i + l] : high[l];
  float best = *std::max_element(high, high + lanes);
  for (size_t i = logits.size() / lanes * lanes; i < logits.size(); ++i) best = std::max(best, logits[i]);
  if (best == lowest) fail_without_numbers();
  return Token(std::find(logits.begin(), logits.end(), best) - logits.begin());
}

Token Sampler::pick(std::span<const float> logits, std::span<const Token> text) {
  const SamplerOptions& o = options_;
  if (o.temperature == 0) return greedy(process(logits, text));
  const bool all = o.top_k == 0 && o.typical >= 1 && o.top_p >= 1 && o.min_p <= 0;
  if (all) return draw_from_all(process(logits, text), text.size());
  candidates(logits, text);
  const float highest = highest_left();
  uint64_t best = 0;
  for (const Candidate& c : candidates_) {
    const float noise = gumbel(o.seed, text.size(), uint32_t(c.token));
    best = std::max(best, code_of(draw_of(c.logit, highest, o.temperature, noise), c.token));
  }
  return token_of(best);
}

// Without a cut every token takes part: no list, noise for a block at a time.
Token Sampler::draw_from_all(std::span<const float> logits, uint64_t position) {
  const float highest = logits[size_t(greedy(logits))];
  float best = lowest;
  Token token = -1;
  for (size_t from = 0; from < logits.size(); from += noise_.size()) {
    const size_t n = std::min(noise_.size(), logits.size() - from);
    gumbel_row(options_.seed, position, uint32_t(from), int(n), noise_.data());
    for (size_t i = 0; i < n; ++i) {
      const float value = draw_of(logits[from + i], highest, options_.temperature, noise_[i]);
      if (value > best) best = value, token = Token(from + i);
    }
  }
  return token;
}

std::span<const Candidate> Sampler::candidates(std::span<const float> logits, std::span<const Token> text) {
  keep_top_k(process(logits, text));
  if (candidates_.empty()) fail_without_numbers();
  if (options_.typical < 1) keep_typical();
  if (options_.top_p < 1) keep_top_p();
  if (options_.min_p > 0) keep_min_p();
  return candidates_;
}

Chances Sampler::chances(std::span<const float> logits, std::span<const Token> text) {
  if (options_.temperature == 0) return {{greedy(process(logits, text)), 1}};
  candidates(logits, text);
  const float highest = highest_left();
  uint64_t whole = 0;
  for (Candidate& c : candidates_) whole += c.mass = mass_of(divided(highest - c.logit, options_.temperature));
  Chances out;
  out.reserve(candidates_.size());
  for (const Candidate& c : candidates_)
    if (c.mass > 0) out.push_back({c.token, double(c.mass) / double(whole)});
  std::sort(out.begin(), out.end(), [](const Chance& a, const Chance& b) { return a.token < b.token; });
  return out;
}

// Collects up to four times k tokens that beat the k-th best so far, then throws out all but k of them: one pass over the
// vocabulary whatever k is, and no sort. Tokens come in ascending order, so one that equals the k-th best has lost to it.
void Sampler::keep_top_k(std::span<const float> logits) {
  const size_t k = options_.top_k == 0 ? logits.size() : std::min(size_t(options_.top_k), logits.size());
  const size_t room = k >= logits.size() / 4 ? logits.size() : std::max<size_t>(4 * k, 64);
  float beat = lowest;
  candidates_.clear();
  auto cut = [&] {
    if (candidates_.size() <= k) return;
    std::nth_element(candidates_.begin(), candidates_.begin() + int64_t(k) - 1, candidates_.end(), higher);
    candidates_.resize(k);
    beat = candidates_.back().logit;
  };
  for (size_t v = 0; v < logits.size(); ++v) {
    if (!(logits[v] > beat)) continue;
    candidates_.push_back({Token(v), logits[v]});
    if (candidates_.size() == room) cut();
  }
  cut();
}

float Sampler::highest_left() const {
  float highest = lowest;
  for (const Candidate& c : candidates_) highest = std::max(highest, c.logit);
  return highest;
}

// Weighs what is left. Returns the sum.
uint64_t Sampler::weigh() {
  const float highest = highest_left();
  uint64_t whole = 0;
  for (Candidate& c : candidates_) whole += c.mass = mass_of(highest - c.logit);
  return whole;
}

// Keeps the fewest candidates, first in the order `before`, that weigh as much as is needed. Sorts no more than it must: the first 64,
// then as many again, and so on.
template <class Before> static void keep_mass(std::vector<Candidate>& list, uint64_t need, Before before) {
  uint64_t held = 0;
  for (size_t from = 0, n = 64; from < list.size(); from += n, n = from) {
    const auto begin = list.begin() + int64_t(from);
    const auto end = list.begin() + int64_t(std::min(from + n, list.size()));
    if (end != list.end()) std::nth_element(begin, end, list.end(), before);
    std::sort(begin, end, before);
    for (auto c = begin; c != end; ++c) {
      held += c->mass;
      if (held >= need) return list.resize(size_t(c - list.begin()) + 1);
    }
  }
}

void Sampler::keep_typical() {
  const uint64_t whole = weigh();
  const float highest = highest_left();
  uint64_t moments = 0;
  for (const Candidate& c : candidates_) moments += moment_of(highest - c.logit, c.mass);
  const float mean = mean_of(moments, whole);
  for (Candidate& c : candidates_) c.nearness = nearness_of(highest - c.logit, mean, c.token);
  keep_mass(candidates_, need_of(options_.typical, whole), [](const Candidate& a, const Candidate& b) { return a.nearness > b.nearness; });
}

void Sampler::keep_top_p() {
  const uint64_t whole = weigh(), need = need_of(options_.top_p, whole);
  // Tokens that all together weigh less than what may be left out cannot be needed.
  const uint64_t least = (whole - need) / candidates_.size();
  std::erase_if(candidates_, [&](const Candidate& c) { return c.mass < least; });
  keep_mass(candidates_, need, higher);
}

void Sampler::keep_min_p() {
  const float least = least_of(highest_left(), options_.min_p);
  std::erase_if(candidates_, [&](const Candidate& c) { return c.logit < least; });
}

std::optional<DrawShape> Sampler::draw_shape(int64_t context) const {
  const int64_t window = options_.repeat_last_n < 0 ? context : std::min<int64_t>(options_.repeat_last_n, context);
  const int64_t seen = penalises() ? std::min(window, int64_t(work_.size())) : 0;
  if (seen > most_to_copy || options_.logit_bias.size() > size_t(most_to_copy)) return std::nullopt;
  return DrawShape{int(seen), int(options_.logit_bias.size())};
}

void Sampler::write(const DrawInputs& in, int row, std::span<const Token> text) {
  const uint64_t position = text.size();
  const DrawPlace place = {options_.top_k, uint32_t(options_.seed), uint32_t(options_.seed >> 32), uint32_t(position), uint32_t(position >> 32)};
  std::memcpy(in.options.row<float>(row), &numbers_, sizeof numbers_);
  std::memcpy(in.place.row<int32_t>(row), &place, sizeof place);
  if (in.seen.present()) {
    int32_t *pair = in.seen.row<int32_t>(row * in.seen.dim(1)), *const end = pair + 2 * in.seen.dim(1);
    if (penalises())
      each_seen(text, [&](Token t, int32_t times) {
        *pair++ = t;
        *pair++ = times;
      });
    std::fill(pair, end, -1);
  }
  if (!in.bias.present()) return;
  int32_t *token = in.biased.row<int32_t>(row), *const end = token + in.biased.cols();
  float* bias = in.bias.row<float>(row);
  for (const auto& [t, b] : options_.logit_bias) *token++ = t, *bias++ = b;
  std::fill(token, end, -1);
}

Logprobs::Logprobs(std::span<const float> logits) : logits_(logits) {
  float highest = lowest;
  for (float x : logits) highest = std::max(highest, usable(x));
  double sum = 0;
  for (float x : logits) sum += std::exp(double(usable(x)) - highest);
  normaliser_ = highest + std::log(sum);
}

float Logprobs::of(Token token) const { return float(usable(logits_[size_t(token)]) - normaliser_); }

void Logprobs::top(int n, std::vector<TokenLogprob>& out) const {
  // A short list that stays sorted: n is small, and few tokens enter it.
  const size_t most = std::min(size_t(n), logits_.size());
  out.clear();
  for (size_t v = 0; v < logits_.size() && most > 0; ++v) {
    const float logit = usable(logits_[v]);
    if (out.size() == most && !(logit > out.back().logprob)) continue;
    if (out.size() == most) out.pop_back();
    auto at = std::find_if(out.begin(), out.end(), [&](const TokenLogprob& t) { return logit > t.logprob; });
    out.insert(at, {Token(v), logit});
  }
  for (TokenLogprob& t : out) t.logprob = float(t.logprob - normaliser_);
}

}  // namespace folio
