// SPDX-License-Identifier: MIT
#include "run/draft.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace folio {

constexpr double learn = 0.03, learn_drafts = 0.08;   // of a step, of a guess: what it weighs among those before it
constexpr double spread_at_first = 8;   // of tokens a step, that the slope one begins with weighs
constexpr int try_every = 32, try_at_last = 256;   // rounds, when nothing pays; the dearer, the seldomer
constexpr double tries_cost = 0.01;  // of a text's tokens, at most
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
  const size_t from = size_t(std::exchange(states_[size_t(link)].end, int32_t(text_.size()))), n = text_.size();   // the next time, here
  std::vector<Token> tokens;
  for (size_t i = from; from < n && int(tokens.size()) < most; ++i) tokens.push_back(i < n ? text_[i] : tokens[i - n]);
  return tokens;
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
  const double more = tokens - tokens_;
  if (steps_ > 0) seconds = std::min(seconds, 2 * (seconds_ + slope() * std::max(more, 0.0)));
  const double gain = 1 / (steps_ = std::min(steps_ + 1, 1 / learn)), late = seconds - seconds_;
  tokens_ += gain * more, seconds_ += gain * late;
  if (gain == 1 || more * more < 0.05) return;   // nothing is forgotten where nothing is learned
  spread_ += (1 - gain) * more * more - learn * spread_;
  together_ += (1 - gain) * more * late - learn * together_;
}

void StepCost::observe_draft(int tokens, double seconds) {
  if (tokens > 0) draft_ += (draft_ == 0 ? 1 : learn_drafts) * (seconds / tokens - draft_);
}

// Of the line, but for what is not known: then seconds of one more token are a fixed share of those that a token takes in the mean.
double StepCost::slope() const {
  const double lean = unknown_threshold * seconds_ / tokens_;
  return std::max(0.0, (together_ + spread_at_first * lean) / (spread_ + spread_at_first));
}

double StepCost::threshold(int texts) const {
  const double plain = steps_ > 0 ? seconds_ + slope() * (texts - tokens_) : 0;   // of a step without guesses
  return plain > 0 ? std::max((slope() + draft_) * texts / plain, least_threshold) : unknown_threshold;
}

double threshold_for(Accept rule, bool always, const StepCost& cost, int texts) {
  return always ? 0 : rule == Accept::match ? cost.threshold(texts) : unknown_threshold;
}

double Acceptance::rate() const { return (right_ + at_first_ * seen_at_first) / (seen_ + seen_at_first); }

int Acceptance::length(double threshold, int most) {
  int n = 0;
  for (double stands = rate(); n < most && stands >= threshold; stands *= rate()) ++n;
  const auto idle = int(std::clamp<double>(threshold / tries_cost, try_every, try_at_last));   // a try costs as much as threshold tokens
  return ++rounds_ >= idle ? std::max(n, std::min(1, most)) : n;
}

void Acceptance::observe(int drafted, int accepted) {
  rounds_ = 0;
  right_ = fade_ * right_ + accepted;
  seen_ = fade_ * seen_ + accepted + (accepted < drafted);
}

Acceptance Acceptance::usual() {
  Acceptance all;
  all.fade_ = usual_fade;
  return all;
}

}  // namespace folio
