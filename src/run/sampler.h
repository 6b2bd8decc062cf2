// SPDX-License-Identifier: MIT
// Which token follows. The logits pass through these processors in this order, each of which may be off:
//
//   penalties     of the last `repeat_last_n` tokens: logit / repeat_penalty if positive, else · repeat_penalty; then
//                 - presence_penalty - count · frequency_penalty
//   bias          + logit_bias of single tokens; after the penalties, so that what a person sets is final
//   top-k         the k highest
//   typical       the smallest set of tokens whose surprise is nearest to the mean surprise and that holds this probability
//   top-p         the smallest set of the likeliest tokens that holds this probability
//   min-p         at least this fraction of the likeliest one's probability
//   temperature   the differences of logits are divided by it
//
// and the token is argmax(logit' + gumbel(seed, position, token)), ties to the lowest id: a draw from softmax(logit') that
// depends on nothing but the logits, the text before, the seed and the position. Temperature 0 is the plain argmax after
// penalties and bias. Probabilities are those of the tokens that the processor before left over, at temperature 1.
//
// A NaN counts as minus infinity. Nothing is allocated after construction, but by chances(). Every number here comes from base/draw.h, so
// the same token is drawn by the op Sample on whatever device it runs, for which a Sampler writes the inputs.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/token.h"
#include "run/draw.h"

namespace folio {

struct SamplerOptions {
  float temperature = 0.8f;        // 0: greedy
  int top_k = 40;                  // 0: off
  float top_p = 0.95f;             // 1: off
  float min_p = 0.05f;             // 0: off
  float typical = 1;               // 1: off
  float repeat_penalty = 1;        // 1: off
  int repeat_last_n = 64;          // tokens that the penalties look back; -1: all
  float presence_penalty = 0;
  float frequency_penalty = 0;
  std::vector<std::pair<Token, float>> logit_bias;   // -infinity forbids a token
  uint64_t seed = 0;
};

struct Candidate {
  Token token;
  float logit;                        // processed; before the temperature
  uint64_t mass = 0, nearness = 0;    // see base/draw.h; for the processors
};

// A token that may be drawn, and how likely it is.
struct Chance {
  Token token;
  double p;
};
using Chances = std::vector<Chance>;  // by ascending id; their sum is 1 but for rounding

struct TokenLogprob {
  Token token;
  float logprob;
};

class Sampler {
 public:
  // Throws Error for an option out of its range.
  Sampler(const SamplerOptions& options, int64_t vocab);

  // The token that follows `text`, all tokens so far; it will stand at place text.size(). For a draft, ask again for each of its
  // places: what comes out is what would have come out without a draft. Throws Error if no logit is a number.
  Token pick(std::span<const float> logits, std::span<const Token> text);

  // What pick() draws from: the tokens that the processors leave over, in no order. Valid until the next call.
  std::span<const Candidate> candidates(std::span<const float> logits, std::span<const Token> text);

  // The distribution of pick(), for rules that weigh one against another (run/accept.h): softmax of what candidates() leaves over, divided
  // by the temperature; all on one token where that is 0. Probabilities are masses of base/draw.h, so they are the same on every machine.
  Chances chances(std::span<const float> logits, std::span<const Token> text);

  // The sizes of what a device must be told to draw in this sampler's place, in a context of so many tokens. None if that would be
  // about as much as the logits it saves: a window or biases of more than 4096 tokens.
  std::optional<DrawShape> draw_shape(int64_t context) const;
  // Writes row `row` of these inputs, whose shape is draw_shape's or larger: what Sample draws then is pick(logits, text).
  void write(const DrawInputs& inputs, int row, std::span<const Token> text);

  const SamplerOptions& options() const { return options_; }

 private:
  static constexpr int64_t most_to_copy = 4096;
  bool penalises() const;
  template <class F> void each_seen(std::span<const Token> text, F f);
  std::span<const float> process(std::span<const float> logits, std::span<const Token> text);
  Token greedy(std::span<const float> logits) const;
  Token draw_from_all(std::span<const float> logits, uint64_t position);
  void keep_top_k(std::span<const float> logits);
  void keep_typical();
  void keep_top_p();
  void keep_min_p();
  float highest_left() const;
  uint64_t weigh();

  SamplerOptions options_;
  DrawOptions numbers_;                 // of them, as the rule reads them
  std::vector<float> work_;             // processed logits
  std::vector<float> noise_;
  std::vector<int32_t> counts_;         // of each token in the window; zero between calls
  std::vector<Candidate> candidates_;
};

// Log-probabilities under softmax(logits), the distribution of the model before any processor. They remember the normaliser of
// one row, so that the chosen token and the likeliest ones cost one pass.
class Logprobs {
 public:
  explicit Logprobs(std::span<const float> logits);
  float of(Token token) const;
  // The n likeliest tokens, likeliest first, into `out`.
  void top(int n, std::vector<TokenLogprob>& out) const;

 private:
  std::span<const float> logits_;
  double normaliser_;   // log sum exp
};

}  // namespace folio
