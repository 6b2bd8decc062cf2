// SPDX-License-Identifier: MIT
// Speculation: guesses at the tokens that follow, read in the same step as the last token that is certain. For each place the target draws
// with the noise of that place, as it would have without a guess, and a guess stands as long as it is what was drawn. So the text is the
// same string with any guesses or none (the coupled rule of arXiv 2302.01318's family, called token matching with common noise); guesses
// only save steps. What was guessed wrong is not committed, and nothing has to be taken back (house.md 4.6). Other rules: run/accept.h.
//
// How many are worth guessing is measured: a step's seconds are taken as base + slope · tokens, and the j-th guess stands with
// probability a^j. One more token costs slope (and its guess) and brings a^j tokens, so it pays while a^j > (slope + guess) · B / t(B), of
// a step with B texts that takes t(B). When nothing pays nothing is guessed, but for a try now and then, so seldom that tries cost a
// hundredth of the time at most. Where the text hangs on how many are guessed, by rules other than match, the clock has no say: a fixed
// share must stand.
#pragma once
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "run/accept.h"
#include "run/engine.h"
#include "run/sampler.h"

namespace folio {

class Drafter {
 public:
  virtual ~Drafter() = default;
  // At most `most` tokens that may follow `text`, all tokens so far; none if there is no idea. Texts grow from call to call, or are others.
  virtual std::vector<Token> propose(std::span<const Token> text, int most) = 0;
  // What each of those last proposed was drawn from, until the next call; none: they were looked up, or drawn with the target's own noise.
  virtual std::span<const Chances> chances() const { return {}; }
};

// What followed the longest end of the text where it stood before, if that is at least `least` tokens long; where that reaches the text's
// end itself, what goes round goes on going round. A suffix automaton (Blumer et al. 1985): one step a token, however long the text.
class NgramDrafter final : public Drafter {
 public:
  explicit NgramDrafter(int least = 3) : least_(least) { clear(); }
  std::vector<Token> propose(std::span<const Token> text, int most) override;

 private:
  struct State {
    int32_t length = 0, link = -1;
    int32_t end = 0;                              // where it stood last, as far as was asked: tokens up to there
    std::vector<std::pair<Token, int32_t>> next;  // by token; few
  };
  void clear();
  void extend(Token token);
  int32_t next_of(int32_t state, Token token) const;
  void set_next(int32_t state, Token token, int32_t to);

  const int least_;
  std::vector<State> states_;
  std::vector<Token> text_;
  int32_t last_ = 0;
};

// What other texts that began alike went on with: the cache's tree.
class CacheDrafter final : public Drafter {
 public:
  CacheDrafter(const Cache& cache, std::string scope) : cache_(cache), scope_(std::move(scope)) {}
  std::vector<Token> propose(std::span<const Token> text, int most) override { return cache_.continuation(text, most, scope_); }

 private:
  const Cache& cache_;
  const std::string scope_;
};

// A smaller model of the same vocabulary, which draws with the target's options, and by match with its noise: the likelier they agree.
class ModelDrafter final : public Drafter {
 public:
  // The engine must have room for one more sequence. Options as the target's. Where the smaller model fails, nothing is guessed.
  ModelDrafter(Engine& engine, const SamplerOptions& options, Accept rule = Accept::match);
  ~ModelDrafter() override;
  std::vector<Token> propose(std::span<const Token> text, int most) override;
  std::span<const Chances> chances() const override { return chances_; }

 private:
  Engine& engine_;
  Sampler sampler_;
  const Accept rule_;
  Seq seq_;
  std::vector<Chances> chances_;
};

// The first of some that has an idea.
class Drafters final : public Drafter {
 public:
  explicit Drafters(std::vector<std::unique_ptr<Drafter>> all) : all_(std::move(all)) {}
  std::vector<Token> propose(std::span<const Token> text, int most) override;
  std::span<const Chances> chances() const override { return last_ ? last_->chances() : std::span<const Chances>(); }

 private:
  std::vector<std::unique_ptr<Drafter>> all_;
  const Drafter* last_ = nullptr;   // whose guesses were taken
};

// What steps have cost of late: seconds over tokens, a line through the means. Until steps of several sizes have been seen it leans on a
// slope that is neither steep nor flat, and a step that took far too long, for reasons of the machine's, counts as one that took double.
class StepCost {
 public:
  void observe(int tokens, double seconds);       // a step that read no prompt
  void observe_draft(int tokens, double seconds);
  // The probability from which on one more token pays in a step of so many texts.
  double threshold(int texts) const;

 private:
  double slope() const;
  double steps_ = 0, tokens_ = 0, seconds_ = 0;   // how many are known, up to a limit; means that fade
  double spread_ = 0, together_ = 0;              // of tokens; of tokens and seconds
  double draft_ = 0;
};

// The probability from which on one more guess is made.
double threshold_for(Accept rule, bool always, const StepCost& cost, int texts);

// How often guesses stand, of one text or of all.
class Acceptance {
 public:
  explicit Acceptance(double at_first = 0.5) : at_first_(at_first) {}   // until it is known better
  static Acceptance usual();                       // of all texts: slower to change
  double rate() const;
  int length(double threshold, int most);          // tokens to guess now
  void observe(int drafted, int accepted);

 private:
  double at_first_, fade_ = 0.9;
  double right_ = 0, seen_ = 0;   // guesses that were looked at: those behind a wrong one were not
  int rounds_ = 0;                // since the last guess
};

struct DraftStats {
  int64_t rounds = 0, drafted = 0, accepted = 0;  // rounds: steps with a guess
};

}  // namespace folio
