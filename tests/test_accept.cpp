// SPDX-License-Identifier: MIT
// The rules by which guesses stand (run/accept.h), on a toy model of three tokens and by every way a round can go: the functions that the
// scheduler calls, asked by a chooser that takes each branch in turn and counts its probability. What is said must be distributed as the
// target says, to the last digits; a rule that is known to be wrong must be seen by the same count. Then the scheduler itself, by
// chi-square.
#include "run/accept.h"

#include <functional>
#include <map>
#include <random>

#include "base/random.h"
#include "changed_model.h"
#include "run/scheduler.h"
#include "tiny_model.h"

namespace folio {
namespace {

using Text = std::vector<Token>;

// Goes every way: run(once) calls once(*this) again and again, each time with other decisions; weight() is the probability of all of them.
class Explorer final : public Chooser {
 public:
  void run(const std::function<void(Explorer&)>& once) {
    do {
      depth_ = 0;
      weight_ = 1;
      once(*this);
    } while (next());
  }
  double weight() const { return weight_; }
  size_t choose(const std::vector<double>& chances) {
    if (depth_ == trail_.size()) trail_.push_back({0, chances.size()});
    const size_t chosen = trail_[depth_++].first;
    weight_ *= chances[chosen];
    return chosen;
  }
  bool happens(double chance) override {
    EXPECT_TRUE(chance >= 0 && chance <= 1) << chance;
    return choose({chance, 1 - chance}) == 0;
  }
  Token draw(const Chances& chances) override {
    std::vector<double> p;
    double sum = 0;
    for (const Chance& c : chances) p.push_back(c.p), sum += c.p;
    EXPECT_NEAR(sum, 1, 1e-12);
    return chances[choose(p)].token;
  }

 private:
  bool next() {
    while (!trail_.empty() && trail_.back().first + 1 == trail_.back().second) trail_.pop_back();
    if (trail_.empty()) return false;
    ++trail_.back().first;
    return true;
  }
  std::vector<std::pair<size_t, size_t>> trail_;   // taken, of so many
  size_t depth_ = 0;
  double weight_ = 1;
};

constexpr int toy_tokens = 3, most_guessed = 3;
constexpr size_t said_at_least = most_guessed + 1;

// A distribution for every text, of probabilities that are multiples of 1/twelve.
constexpr int twelve = 12;
class Toy {
 public:
  explicit Toy(uint64_t seed, bool greedy = false) : seed_(seed), greedy_(greedy) {}
  Chances operator()(const Text& text) const {
    uint64_t key = seed_;
    for (Token t : text) key = key * 31 + uint64_t(t) + 1;
    std::vector<int> parts(toy_tokens, 0);
    for (int i = 0; i < twelve; ++i) {   // all at one token if greedy, else more of them at the first
      const Words4 w = philox(key, greedy_ ? 0 : uint64_t(i), 0);
      ++parts[std::min(w.word[0] % toy_tokens, w.word[1] % toy_tokens)];
    }
    Chances out;
    for (int v = 0; v < toy_tokens; ++v)
      if (parts[size_t(v)] > 0) out.push_back({Token(v), double(parts[size_t(v)]) / twelve});
    return out;
  }

 private:
  const uint64_t seed_;
  const bool greedy_;
};

// Which token a noise of 0 .. 11 draws: the coupled rule, with integers.
Token by_noise(const Chances& chances, size_t noise) {
  double sum = 0;
  for (const Chance& c : chances)
    if (double(noise) + 0.5 < (sum += c.p) * twelve) return c.token;
  return chances.back().token;
}

enum class How { drawn, looked_up, coupled, stops_early, drops_its_own };

struct Outcome {
  double error = 0;     // largest, of the probability of any text
  double tokens = 0;    // of a round, in the mean
};

// One round behind the empty text, then the target alone until the text is long enough.
Outcome enumerate(Accept rule, const Toy& p, const Toy& q, How how) {
  std::map<Text, double> got;
  Outcome outcome;
  Explorer explorer;
  explorer.run([&](Explorer& e) {
    std::vector<size_t> noise;
    if (how == How::coupled)
      for (size_t i = 0; i < said_at_least; ++i) noise.push_back(e.choose(std::vector<double>(twelve, 1.0 / twelve)));
    Text guesses;
    std::vector<Chances> from, target = {p({})};
    while (guesses.size() < most_guessed) {
      const Chances one = q(guesses);
      const double likeliest = std::max_element(one.begin(), one.end(), [](const Chance& a, const Chance& b) { return a.p < b.p; })->p;
      if (how == How::stops_early && likeliest < 0.6) break;   // it looks at what stands before only
      const Token token = how == How::coupled ? by_noise(one, noise[guesses.size()]) : how == How::looked_up ? one[0].token : e.draw(one);
      const double own = std::find_if(one.begin(), one.end(), [&](const Chance& c) { return c.token == token; })->p;
      if (how == How::drops_its_own && own < 0.4) break;       // forbidden
      guesses.push_back(token);
      target.push_back(p(guesses));
      if (how != How::looked_up) from.push_back(one);
    }
    Text said;
    if (rule == Accept::match) {
      const auto draw = [&](size_t i) { return how == How::coupled ? by_noise(target[i], noise[i]) : e.draw(target[i]); };
      take_while_right(guesses, draw, [&](Token token, size_t) { return said.push_back(token), true; });
    } else {
      said = accept(rule, guesses, target, from, e);
    }
    const size_t in_the_round = said.size();
    while (said.size() < said_at_least) said.push_back(how == How::coupled ? by_noise(p(said), noise[said.size()]) : e.draw(p(said)));
    outcome.tokens += e.weight() * double(in_the_round);
    got[said] += e.weight();
  });
  std::map<Text, double> want;
  explorer.run([&](Explorer& e) {
    Text text;
    while (text.size() < said_at_least) text.push_back(e.draw(p(text)));
    want[text] += e.weight();
  });
  for (const auto& [text, chance] : got) outcome.error = std::max(outcome.error, std::fabs(chance - want[text]));
  for (const auto& [text, chance] : want) outcome.error = std::max(outcome.error, std::fabs(chance - got[text]));
  return outcome;
}

TEST(Accept, EveryRuleSaysWhatTheTargetSays) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    const Toy p(seed), q(seed + 100);
    for (How how : {How::drawn, How::looked_up, How::stops_early})
      for (Accept rule : {Accept::match, Accept::residual, Accept::block})
        EXPECT_LE(enumerate(rule, p, q, how).error, 1e-12) << "rule " << int(rule) << ", guesses " << int(how) << ", model " << seed;
  }
  for (uint64_t seed = 1; seed <= 2; ++seed)
    EXPECT_LE(enumerate(Accept::match, Toy(seed), Toy(seed + 100), How::coupled).error, 1e-12) << seed;
}

// A guess may not be dropped for what it is. The count above has to notice when it is.
TEST(Accept, TheForbiddenRuleIsNoticed) {
  for (Accept rule : {Accept::residual, Accept::block}) {
    double worst = 0;
    for (uint64_t seed = 1; seed <= 8; ++seed)
      worst = std::max(worst, enumerate(rule, Toy(seed), Toy(seed + 100), How::drops_its_own).error);
    EXPECT_GT(worst, 5e-3) << "rule " << int(rule);
  }
}

TEST(Accept, BlockIsNeverWorseThanResidualNorThatThanMatch) {
  double block = 0, residual = 0, coupled = 0, match = 0;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    const Toy p(seed), q(seed + 100);
    const double b = enumerate(Accept::block, p, q, How::drawn).tokens, r = enumerate(Accept::residual, p, q, How::drawn).tokens;
    EXPECT_GE(b, r - 1e-12) << seed;
    EXPECT_GE(r, enumerate(Accept::match, p, q, How::drawn).tokens - 1e-12) << seed;
    block += b, residual += r;
  }
  EXPECT_GT(block, residual * 1.001);
  const Toy p(1), q(101);   // common noise: fewer than by residual, more than by noise of its own
  coupled = enumerate(Accept::match, p, q, How::coupled).tokens, match = enumerate(Accept::match, p, q, How::drawn).tokens;
  EXPECT_LE(coupled, enumerate(Accept::residual, p, q, How::drawn).tokens + 1e-12);
  EXPECT_GT(coupled, match);
}

TEST(Accept, GreedyRulesAreOne) {
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    const Toy p(seed % 5, true), q(seed, true);
    const double want = enumerate(Accept::match, p, q, How::drawn).tokens;
    for (Accept rule : {Accept::residual, Accept::block})
      for (How how : {How::drawn, How::looked_up}) {
        const Outcome got = enumerate(rule, p, q, how);
        EXPECT_EQ(got.tokens, want);
        EXPECT_EQ(got.error, 0);
      }
  }
  EXPECT_EQ(accept_for(Accept::block, {.temperature = 0}), Accept::match);
  EXPECT_EQ(accept_for(Accept::block, {.temperature = 1}), Accept::block);
  EXPECT_EQ(accept_of("residual"), Accept::residual);
  EXPECT_THROW(accept_of("typical"), Error);
}

TEST(Accept, NoiseOfRoundsAndStreamsIsItsOwn) {
  std::map<double, int> seen;
  int heads = 0;
  std::vector<int> drawn(3);
  for (uint64_t seed : {1, 2})
    for (size_t start = 0; start < 500; ++start)
      for (auto stream : {RoundNoise::guesses, RoundNoise::decisions}) {
        RoundNoise noise(seed, start, stream), same(seed, start, stream);
        for (int i = 0; i < 10; ++i) {
          const bool happened = noise.happens(0.3);
          EXPECT_EQ(happened, same.happens(0.3));
          heads += happened;
        }
        ++drawn[size_t(noise.draw({{0, 0.5}, {1, 0.125}, {2, 0.375}}))];
        EXPECT_TRUE(noise.happens(1));
        EXPECT_FALSE(noise.happens(0));
      }
  EXPECT_NEAR(heads, 6000, 4 * std::sqrt(20000 * 0.3 * 0.7));
  EXPECT_NEAR(drawn[0], 1000, 4 * std::sqrt(2000 * 0.25));
  EXPECT_NEAR(drawn[1], 250, 4 * std::sqrt(2000 * 0.125 * 0.875));
}

TEST(Accept, TheSamplersDistributionIsSoftmaxOfWhatIsLeft) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> logits(300);
  for (float& x : logits) x = 4 * normal(random);
  const Text text = {5, 6, 7};
  for (const SamplerOptions& o : {SamplerOptions{.temperature = 0.7f, .top_k = 0, .top_p = 1, .min_p = 0},
                                  SamplerOptions{.temperature = 1.5f, .repeat_penalty = 1.3f},
                                  SamplerOptions{.temperature = 2, .top_k = 7, .top_p = 0.8f, .logit_bias = {{9, 3.f}}}}) {
    Sampler sampler(o, 300);
    std::map<Token, double> want;
    double highest = -1e9, sum = 0;
    for (const Candidate& c : sampler.candidates(logits, text)) want[c.token] = c.logit, highest = std::max(highest, double(c.logit));
    for (auto& [token, x] : want) sum += x = std::exp((x - highest) / o.temperature);
    const Chances got = sampler.chances(logits, text);
    double whole = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_TRUE(i == 0 || got[i - 1].token < got[i].token);
      EXPECT_NEAR(got[i].p, want.at(got[i].token) / sum, 1e-6);
      whole += got[i].p;
    }
    EXPECT_NEAR(whole, 1, 1e-12);
    EXPECT_TRUE(o.top_k == 0 || got.size() == want.size());   // of all tokens the least likely weigh nothing
  }
  const Chances greedy = Sampler({.temperature = 0}, 300).chances(logits, text);
  ASSERT_EQ(greedy.size(), 1u);
  EXPECT_EQ(greedy[0].token, argmax(logits));
}

// Guesses the token that is last in the list, whatever it is; looked up, so to speak.
class Stubborn final : public Drafter {
 public:
  std::vector<Token> propose(std::span<const Token> text, int most) override { return Text(size_t(most), Token(text.back() % 7)); }
};

// Breaks the rule: guesses that it drew are dropped for their own probability.
class Forgetful final : public Drafter {
 public:
  explicit Forgetful(std::unique_ptr<Drafter> other) : other_(std::move(other)) {}
  std::vector<Token> propose(std::span<const Token> text, int most) override {
    Text all = other_->propose(text, most);
    for (size_t i = 0; i < all.size(); ++i)
      for (const Chance& c : other_->chances()[i])
        if (c.token == all[i] && c.p < 0.4) return all.resize(i), all;
    return all;
  }
  std::span<const Chances> chances() const override { return other_->chances(); }

 private:
  std::unique_ptr<Drafter> other_;
};

struct Drawing {
  const int draws = 4000, length = 4;
  const Text prompt = {3, 1, 4, 1, 5};
  SamplerOptions sampling{.temperature = 1.3f, .top_k = 3, .top_p = 1, .min_p = 0, .repeat_penalty = 1.2f};
  const std::string file = write_tiny_model((scratch_dir() / "drawn.folio").string(), {.random = true, .context = 64});
  Loaded target{file, cpu(1)};
  Changed small{file, index_of("layer.1.ffn.down.weight")};   // like the target, but not the same
  size_t index_of(const std::string& name) const {
    const auto& all = target.weights.tensors();
    return size_t(std::find_if(all.begin(), all.end(), [&](const auto& t) { return t.name == name; }) - all.begin());
  }

  // The probability of each answer.
  std::map<Text, double> exact() {
    std::map<Text, double> all = {{{}, 1}};
    Sampler sampler(sampling, target.model->vocab());
    for (int i = 0; i < length; ++i) {
      std::map<Text, double> longer;
      for (const auto& [answer, chance] : all) {
        Text text = prompt, more = answer;
        text.insert(text.end(), answer.begin(), answer.end());
        Engine engine(*target.model, *target.device, {.context = 64});
        Seq seq = engine.cache().open({});
        const Tensor logits = engine.read(seq, text);
        more.push_back(0);
        for (const Chance& c : sampler.chances({logits.row<float>(0), size_t(logits.cols())}, text)) {
          more.back() = c.token;
          longer[more] = chance * c.p;
        }
        engine.cache().close(seq);
      }
      all = std::move(longer);
    }
    return all;
  }
  using Make = std::function<std::unique_ptr<Drafter>(Engine&, const SamplerOptions&)>;
  std::map<Text, int> drawn(Accept rule, const Make& make, DraftStats& stats) {
    Engine engine(*target.model, *target.device, {.context = 64, .sequences = 16});
    Engine guessing(*small.model, *target.device, {.context = 64, .sequences = 64});
    const auto drafter = [&](const Request& r) { return make(guessing, r.sampling); };
    std::map<Text, int> seen;
    Scheduler scheduler(engine, {.running = 16, .drafter = drafter, .most_drafts = 3, .always_draft = true, .accept = rule},
                        [&](int64_t, const Reply& reply) { ++seen[reply.generated.tokens]; });
    GenerateOptions options;
    options.limit = length;
    for (int asked = 0; asked < draws || scheduler.running() > 0;) {
      for (; asked < draws && scheduler.waiting() < 16; ++asked) {
        sampling.seed = uint64_t(asked);
        scheduler.add({prompt, sampling, options, ""});
      }
      scheduler.step();
    }
    stats = scheduler.stats().drafts;
    return seen;
  }
};

// Standard deviations by which chi-square is above its mean (Wilson and Hilferty); cells of less than five are one.
double deviations(const std::map<Text, double>& want, const std::map<Text, int>& got, int draws) {
  double chi = 0, rest_want = 0, rest_got = draws;
  int cells = 0;
  for (const auto& [text, chance] : want) {
    const double expected = chance * draws;
    if (expected < 5) {
      rest_want += expected;
      continue;
    }
    const auto at = got.find(text);
    const double seen = at == got.end() ? 0 : at->second;
    chi += (seen - expected) * (seen - expected) / expected;
    rest_got -= seen;
    ++cells;
  }
  if (rest_want >= 5) chi += (rest_got - rest_want) * (rest_got - rest_want) / rest_want, ++cells;
  const double df = cells - 1, k = 2 / (9 * df);
  return (std::cbrt(chi / df) - (1 - k)) / std::sqrt(k);
}

TEST(Accept, TheSchedulerDrawsWhatTheTargetSays) {
  Drawing d;
  const auto want = d.exact();
  double sum = 0;
  for (const auto& [text, chance] : want) sum += chance;
  ASSERT_NEAR(sum, 1, 1e-9);
  ASSERT_EQ(want.size(), 81u);
  constexpr double p_of_1e_4 = 3.72;
  DraftStats by[3];
  for (Accept rule : {Accept::match, Accept::residual, Accept::block}) {
    const auto model = [&](Engine& e, const SamplerOptions& s) { return std::make_unique<ModelDrafter>(e, s, rule); };
    EXPECT_LT(deviations(want, d.drawn(rule, model, by[int(rule)]), d.draws), p_of_1e_4) << int(rule);
    EXPECT_GT(by[int(rule)].accepted, d.draws / 20);
    EXPECT_LT(by[int(rule)].accepted, by[int(rule)].drafted);
    DraftStats stats;
    const auto stubborn = [](Engine&, const SamplerOptions&) { return std::make_unique<Stubborn>(); };
    EXPECT_LT(deviations(want, d.drawn(rule, stubborn, stats), d.draws), p_of_1e_4) << int(rule);
  }
  EXPECT_GT(by[1].accepted, by[0].accepted);
  const auto forgetful = [](Engine& e, const SamplerOptions& s) {
    return std::make_unique<Forgetful>(std::make_unique<ModelDrafter>(e, s, Accept::residual));
  };
  EXPECT_GT(deviations(want, d.drawn(Accept::residual, forgetful, by[0]), d.draws), 2 * p_of_1e_4) << "a wrong rule goes unseen";
}

// The same seed and flags give the same text, also where the clock says something else each time.
TEST(Accept, ATextIsAFunctionOfPromptSeedAndFlags) {
  Drawing d;
  d.sampling.seed = 77;
  for (Accept rule : {Accept::residual, Accept::block}) {
    Text first;
    for (int run = 0; run < 4; ++run) {
      Engine engine(*d.target.model, *d.target.device, {.context = 64}), guessing(*d.small.model, *d.target.device, {.context = 64});
      Sampler sampler(d.sampling, d.target.model->vocab());
      ModelDrafter drafter(guessing, d.sampling, rule);
      GenerateOptions options;
      options.limit = 50;
      options.drafter = &drafter;
      options.accept = rule;
      const Generated done = Generator(engine, sampler).run(d.prompt, options);
      EXPECT_EQ(done.tokens.size(), 50u);
      EXPECT_GT(done.drafts.accepted, 0);
      if (run == 0) first = done.tokens;
      EXPECT_EQ(done.tokens, first);
    }
  }
}

// Nor does it hang on how many guesses the others want of a step.
TEST(Accept, ATextDoesNotHangOnItsMates) {
  Drawing d;
  for (Accept rule : {Accept::residual, Accept::block}) {
    Text alone;
    for (int mates : {0, 7}) {
      Engine engine(*d.target.model, *d.target.device, {.context = 64, .sequences = 8});
      Engine guessing(*d.small.model, *d.target.device, {.context = 64, .sequences = 8});
      const auto drafter = [&](const Request& r) { return std::make_unique<ModelDrafter>(guessing, r.sampling, rule); };
      Text last;
      const SchedulerOptions scheduling{.step_tokens = 40, .running = 8, .drafter = drafter, .most_drafts = 16, .always_draft = true,
                                        .accept = rule};
      Scheduler scheduler(engine, scheduling, [&](int64_t id, const Reply& reply) {
        if (id == mates) last = reply.generated.tokens;
      });
      GenerateOptions options;
      options.limit = 50;
      for (int i = 0; i <= mates; ++i) {
        d.sampling.seed = i == mates ? 77 : uint64_t(i);
        d.sampling.temperature = i < mates && i % 2 ? 0 : 1;   // mates of both kinds
        scheduler.add({d.prompt, d.sampling, options, ""});
      }
      while (scheduler.step()) {}
      EXPECT_GT(scheduler.stats().drafts.accepted, 0);
      if (mates == 0) alone = last;
      EXPECT_EQ(last.size(), 50u);
      EXPECT_EQ(last, alone) << int(rule);
    }
  }
}

}  // namespace
}  // namespace folio
