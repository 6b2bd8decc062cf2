// SPDX-License-Identifier: MIT
#include "run/accept.h"

#include <algorithm>

#include "base/error.h"
#include "base/random.h"

namespace folio {

Accept accept_of(std::string_view name) {
  if (name == "match") return Accept::match;
  if (name == "residual") return Accept::residual;
  if (name == "block") return Accept::block;
  fail("acceptance '", name, "', expected match, residual or block");
}

// Gumbel noise of token v counts with v/4 in the upper half (base/random.h), which never reaches the highest bit.
double RoundNoise::uniform() {
  const Words4 w = philox(seed_, start_, uint64_t(1) << 63 | uint64_t(stream_) << 32 | asked_++);
  return double((uint64_t(w.word[0]) << 32 | w.word[1]) >> 11) * 0x1p-53;
}

Token RoundNoise::draw(const Chances& chances) {
  double left = uniform();
  for (const Chance& c : chances)
    if ((left -= c.p) < 0) return c.token;
  return chances.back().token;   // the sum was a little less than 1
}

static double chance_of(const Chances& chances, Token token) {
  const auto at = std::lower_bound(chances.begin(), chances.end(), token, [](const Chance& c, Token t) { return c.token < t; });
  return at != chances.end() && at->token == token ? at->p : 0;
}

// max(0, scale · p − q), not normalised.
static Chances beyond(const Chances& p, double scale, const Chances& q) {
  Chances rest;
  for (const Chance& c : p)
    if (const double more = scale * c.p - chance_of(q, c.token); more > 0) rest.push_back({c.token, more});
  return rest;
}

static double sum_of(const Chances& chances) {
  double sum = 0;
  for (const Chance& c : chances) sum += c.p;
  return sum;
}

static Token draw_beyond(const Chances& p, double scale, const Chances& q, Chooser& noise) {
  Chances rest = beyond(p, scale, q);
  const double sum = sum_of(rest);
  if (!(sum > 0)) return noise.draw(p);   // by rounding only
  for (Chance& c : rest) c.p /= sum;
  return noise.draw(rest);
}

namespace {

// A round as the rules see it.
struct Round {
  std::span<const Token> guesses;
  std::span<const Chances> p, q;
  // What guess i (from 0) was drawn from, and p/q of it.
  Chances from(size_t i) const { return q.empty() ? Chances{{guesses[i], 1}} : q[i]; }
  double ratio(size_t i) const { return chance_of(p[i], guesses[i]) / (q.empty() ? 1 : chance_of(q[i], guesses[i])); }
  // The first `right` guesses and what follows them, if it was drawn from max(0, scale · p − q).
  std::vector<Token> said(size_t right, double scale, Chooser& noise) const {
    std::vector<Token> out(guesses.begin(), guesses.begin() + ptrdiff_t(right));
    out.push_back(right == guesses.size() ? noise.draw(p[right]) : draw_beyond(p[right], scale, from(right), noise));
    return out;
  }
};

}  // namespace

static std::vector<Token> residual(const Round& round, Chooser& noise) {
  size_t right = 0;
  while (right < round.guesses.size() && noise.happens(std::min(1.0, round.ratio(right)))) ++right;
  return round.said(right, 1, noise);
}

static std::vector<Token> block(const Round& round, Chooser& noise) {
  const size_t n = round.guesses.size();
  std::vector<double> pi = {1};
  for (size_t i = 0; i < n; ++i) pi.push_back(std::min(1.0, pi[i] * round.ratio(i)));
  size_t right = n;
  for (; right > 0; --right) {   // the last that holds, so from behind
    double holds = pi[right];
    if (right < n) {
      const double z = sum_of(beyond(round.p[right], pi[right], round.from(right))), all = z + (1 - pi[right]);
      holds = all > 0 ? z / all : 1;
    }
    if (noise.happens(holds)) break;
  }
  return round.said(right, pi[right], noise);
}

std::vector<Token> accept(Accept rule, std::span<const Token> guesses, std::span<const Chances> p, std::span<const Chances> q,
                          Chooser& noise) {
  check(p.size() == guesses.size() + 1 && (q.empty() || q.size() == guesses.size()), "accept: ", guesses.size(), " guesses, but ", p.size(),
        " and ", q.size(), " distributions");
  const Round round{guesses, p, q};
  return rule == Accept::block ? block(round, noise) : residual(round, noise);
}

std::vector<Token> accept(Accept rule, Sampler& sampler, std::span<const Token> text, std::span<const Token> guesses,
                          std::span<const Chances> q, const Tensor& logits, int64_t row) {
  std::vector<Token> all(text.begin(), text.end());
  std::vector<Chances> p;
  for (size_t i = 0; i <= guesses.size(); ++i) {
    p.push_back(sampler.chances({logits.row<float>(row + int64_t(i)), size_t(logits.cols())}, all));
    if (i < guesses.size()) all.push_back(guesses[i]);
  }
  RoundNoise noise(sampler.options().seed, text.size(), RoundNoise::decisions);
  return accept(rule, guesses, p, q, noise);
}

}  // namespace folio
