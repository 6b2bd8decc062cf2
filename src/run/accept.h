// SPDX-License-Identifier: MIT
// Which guesses stand. Behind a text stand the guesses x_1 .. x_n; q_i is what x_i was drawn from, p_i what the target would draw the
// token behind i guesses from, after all processors and with the guesses before it in the text. Whatever the rule, what is said is
// distributed as if nobody had guessed.
//
//   match      the target draws with the noise of the place, and x_i stands if it is what was drawn. What is said is the same string as
//              without guesses, whatever they are (run/draft.h). The default.
//   residual   x_i stands with probability min(1, p/q) of it; the first that does not is replaced by a draw from max(0, p − q), and behind
//              the last a token is drawn from p (arXiv 2211.17192, 2302.01318). More stand than by match, and the string is another one.
//   block      as many stand as all of them together make likely: π_0 = 1, π_i = min(1, π_(i−1) · p/q of x_i); x_1 .. x_t stand for the
//              last t that holds with probability h_t = Z/(Z + 1 − π_t), Z = Σ max(0, π_t p − q), and h_n = π_n; then a draw from
//              max(0, π_t p − q), or behind the last from p (arXiv 2403.10444). Never fewer in the mean than by residual.
//
// A guess that was not drawn but looked up has q = 1 for itself: it stands with its p, and is left out of what replaces it. At
// temperature 0 the three are the same.
//
// Residual and block are exact only because (1) no noise serves twice: guesses, decisions and the tokens that replace them are drawn by
// streams of their own, new in every round, and (2) nobody drops a guess for what it is; how many there are is settled before they are
// drawn. They sum in double, where nothing that can be drawn underflows.
#pragma once
#include <span>
#include <string_view>
#include <vector>

#include "graph/tensor.h"
#include "run/sampler.h"

namespace folio {

enum class Accept { match, residual, block };
Accept accept_of(std::string_view name);   // throws Error for a name that is not known

// The rule for a text: at temperature 0 there is only one.
inline Accept accept_for(Accept asked, const SamplerOptions& options) { return options.temperature == 0 ? Accept::match : asked; }

// Who decides.
class Chooser {
 public:
  virtual ~Chooser() = default;
  virtual bool happens(double chance) = 0;            // with that probability
  virtual Token draw(const Chances& chances) = 0;     // sum 1
};

// The noise of a round, which begins behind `start` tokens: a function of the seed, the place and how often it was asked. Its counters are
// none of those that Sampler::pick() draws with, nor those of another round or stream.
class RoundNoise final : public Chooser {
 public:
  enum Stream : uint32_t { guesses, decisions };
  RoundNoise(uint64_t seed, size_t start, Stream stream) : seed_(seed), start_(start), stream_(stream) {}
  bool happens(double chance) override { return uniform() < chance; }
  Token draw(const Chances& chances) override;

 private:
  double uniform();   // 0 <= u < 1
  const uint64_t seed_, start_;
  const Stream stream_;
  uint32_t asked_ = 0;
};

// The guesses that stand and one token more, by residual or block. `p`: one for each guess and one for behind the last; `q`: one for each
// guess, or none: they were looked up.
std::vector<Token> accept(Accept rule, std::span<const Token> guesses, std::span<const Chances> p, std::span<const Chances> q,
                          Chooser& noise);

// The same behind a text, with the sampler's distributions and the round's noise; rows `row` and on of the logits are those behind the text
// and behind each guess. Throws Error where no logit is a number.
std::vector<Token> accept(Accept rule, Sampler& sampler, std::span<const Token> text, std::span<const Token> guesses,
                          std::span<const Chances> q, const Tensor& logits, int64_t row);

// By match: takes draw(0), draw(1), ..., each behind one guess more, until one is not what was guessed or take(token, i) says that the text
// ends. How many guesses were right, without one that ended the text.
template <class Draw, class Take>
size_t take_while_right(std::span<const Token> guesses, Draw draw, Take take) {
  for (size_t right = 0;; ++right) {
    const Token token = draw(right);
    if (!take(token, right) || right == guesses.size() || guesses[right] != token) return right;
  }
}

}  // namespace folio
