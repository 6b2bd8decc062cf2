// SPDX-License-Identifier: MIT
#include "run/draft.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace folio {

constexpr double fade = 0.97;        // of what was measured, a step
constexpr double learn = 0.08;       // of what a guess costs, a guess
constexpr int try_every = 32;        // rounds, when nothing pays
constexpr double unknown_threshold = 0.3, least_threshold = 0.1;   // what hardly ever stands brings too little to measure its cost by
constexpr double seen_at_first = 1;   // guesses that the first estimate weighs
constexpr double usual_fade = 0.98;   // of what was seen of all texts, a round

void NgramDrafter::clear() {
  states_.assign(1, {});
  text_.clear();
  last_ = 0;
}

int32_t NgramDrafter::next_of(int32_t state, Token token) const {
  for (const auto& [t, to] : states_[size_t(state)].next)
    if (t == token) return to;
  return -1;
}

void NgramDrafter::set_next(int32_t state, Token token, int32_t to) {
  for (auto& [t, at] : states_[size_t(state)].next)
    if (t == token) {
      at = to;
      return;
    }
  states_[size_t(state)].next.emplace_back(token, to);
}

void NgramDrafter::extend(Token token) {
  text_.push_back(token);
  const auto now = int32_t(states_.size());
  states_.push_back({states_[size_t(last_)].length + 1, -1, int32_t(text_.size()), {}});
  int32_t p = last_;
  for (; p >= 0 && next_of(p, token) < 0; p = states_[size_t(p)].link) set_next(p, token, now);
  if (p < 0) {
    states_[size_t(now)].link = 0;
  } else if (const int32_t q = next_of(p, token); states_[size_t(q)].length == states_[size_t(p)].length + 1) {
    states_[size_t(now)].link = q;
  } else {
    const auto clone = int32_t(states_.size());
    State copy = states_[size_t(q)];
    copy.length = states_[size_t(p)].length + 1;
    states_.push_back(std::move(copy));
    for (; p >= 0 && next_of(p, token) == q; p = states_[size_t(p)].link) set_next(p, token, clone);
    states_[size_t(q)].link = states_[size_t(now)].link = clone;
  }
  last_ = now;
}

std::vector<Token> NgramDrafter::propose(std::span<const Token> text, int most) {
  if (text.size() < text_.size() || !std::equal(text_.begin(), text_.end(), text.begin())) clear();
  for (size_t i = text_.size(); i < text.size(); ++i) extend(text[i]);
  // The longest end that stood somewhere before is what the last state links to.
  const int32_t link = states_[size_t(last_)].link;
  if (link <= 0 || states_[size_t(link)].length < least_) return {};
  State& before = states_[size_t(link)];
  const auto from = size_t(before.end), to = std::min(text_.size(), from + size_t(most));
  before.end = int32_t(text_.size());   // the next time this place is the nearest
  return {text_.begin() + ptrdiff_t(from), text_.begin() + ptrdiff_t(to)};
}

ModelDrafter::ModelDrafter(Engine& engine, const SamplerOptions& options, Accept rule)
    : engine_(engine), sampler_(options, engine.model().vocab()), rule_(accept_for(rule, options)), seq_(engine.cache().open({})) {}

ModelDrafter::~ModelDrafter() { engine_.cache().close(seq_); }

std::vector<Token> ModelDrafter::propose(std::span<const Token> text, int most) {
  Cache& cache = engine_.cache();
  const auto known = seq_.text();
  if (known.size() >= text.size() || !std::equal(known.begin(), known.end(), text.begin())) {
    cache.close(seq_);
    seq_ = cache.open(text.first(text.size() - 1));
  }
  std::vector<Token> all(text.begin(), text.end());
  RoundNoise noise(sampler_.options().seed, text.size(), RoundNoise::guesses);
  chances_.clear();
  // All but the last token are certain and stay; each guess reads those before it once more, in one step.
  while (seq_.length() + 1 < int64_t(text.size())) {
    const int64_t n = std::min<int64_t>(engine_.chunk(), int64_t(text.size()) - 1 - seq_.length());
    const auto part = text.subspan(size_t(seq_.length()), size_t(n));
    if (!cache.reserve(seq_, int(n), int(n))) return {};
    const Work work{&seq_, part, 0};
    engine_.step({&work, 1});
    cache.commit(seq_, part);
  }
  while (int(all.size() - text.size()) < most && int64_t(all.size()) < engine_.context()) {
    const auto part = std::span<const Token>(all).subspan(size_t(seq_.length()));
    if (!cache.reserve(seq_, int(part.size()), 0)) break;
    const Work work{&seq_, part, 1};
    const Tensor logits = engine_.step({&work, 1});
    try {
      const std::span<const float> scores(logits.row<float>(0), size_t(logits.cols()));
      if (rule_ != Accept::match) chances_.push_back(sampler_.chances(scores, all));
      all.push_back(rule_ == Accept::match ? sampler_.pick(scores, all) : noise.draw(chances_.back()));
    } catch (const Error&) {   // no logit is a number: that model's trouble, not the text's
      break;
    }
  }
  cache.commit(seq_, {});
  return {all.begin() + ptrdiff_t(text.size()), all.end()};
}

std::vector<Token> Drafters::propose(std::span<const Token> text, int most) {
  std::vector<Token> best;
  last_ = nullptr;
  for (const auto& one : all_) {
    std::vector<Token> tokens = one->propose(text, most);
    if (!best.empty() || tokens.empty()) continue;   // the others hear of the text as well
    best = std::move(tokens);
    last_ = one.get();
  }
  return best;
}

void StepCost::observe(int tokens, double seconds) {
  const double n = tokens;
  weight_ = fade * weight_ + 1, n_ = fade * n_ + n, t_ = fade * t_ + seconds, nn_ = fade * nn_ + n * n, nt_ = fade * nt_ + n * seconds;
  const double spread = nn_ / weight_ - (n_ / weight_) * (n_ / weight_);
  if (spread > 0.05) slope_ = std::max(0.0, (nt_ / weight_ - n_ / weight_ * (t_ / weight_)) / spread);   // else the last one known
}

void StepCost::observe_draft(int tokens, double seconds) {
  if (tokens > 0) draft_ += (draft_ == 0 ? 1 : learn) * (seconds / tokens - draft_);
}

double StepCost::threshold(int texts) const {
  if (weight_ < 4) return unknown_threshold;
  const double plain = t_ / weight_ - slope_ * (n_ / weight_ - texts);   // of a step without guesses
  return plain > 0 ? std::clamp((slope_ + draft_) * texts / plain, least_threshold, 1.0) : unknown_threshold;
}

double threshold_for(Accept rule, bool always, const StepCost& cost, int texts) {
  return always ? 0 : rule == Accept::match ? cost.threshold(texts) : unknown_threshold;
}

double Acceptance::rate() const { return (right_ + at_first_ * seen_at_first) / (seen_ + seen_at_first); }

int Acceptance::length(double threshold, int most) {
  int n = 0;
  for (double stands = rate(); n < most && stands >= threshold; stands *= rate()) ++n;
  if (++rounds_ % try_every == 0) n = std::max(n, std::min(1, most));
  return n;
}

void Acceptance::observe(int drafted, int accepted) {
  right_ = fade_ * right_ + accepted;
  seen_ = fade_ * seen_ + accepted + (accepted < drafted);
}

Acceptance Acceptance::usual() {
  Acceptance all;
  all.fade_ = usual_fade;
  return all;
}

}  // namespace folio
