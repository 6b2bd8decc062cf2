// SPDX-License-Identifier: MIT
// The sampler against distributions made by hand: what each processor leaves over, penalties by their formula, draws against
// softmax by chi-square, and that a draw depends on seed and position and on nothing else.
#include "run/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "base/error.h"

namespace folio {

constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

// All processors off.
static SamplerOptions plain(float temperature = 1) {
  return {.temperature = temperature, .top_k = 0, .top_p = 1, .min_p = 0, .typical = 1, .repeat_penalty = 1};
}

static std::vector<float> logs(std::vector<float> p) {
  for (float& x : p) x = std::log(x);
  return p;
}

static std::vector<Token> left(const SamplerOptions& options, const std::vector<float>& logits, std::vector<Token> text = {}) {
  Sampler sampler(options, int64_t(logits.size()));
  std::vector<Token> ids;
  for (const Candidate& c : sampler.candidates(logits, text)) ids.push_back(c.token);
  std::sort(ids.begin(), ids.end());
  return ids;
}

static float processed(const SamplerOptions& options, const std::vector<float>& logits, std::vector<Token> text, Token token) {
  Sampler sampler(options, int64_t(logits.size()));
  for (const Candidate& c : sampler.candidates(logits, text))
    if (c.token == token) return c.logit;
  return -inf;
}

using Ids = std::vector<Token>;

TEST(Sampler, GreedyTakesTheHighestAndOfEqualsTheFirst) {
  Sampler s({.temperature = 0}, 5);
  EXPECT_EQ(s.pick(std::vector<float>{1, 3, 2, 3, 0}, {}), 1);
  EXPECT_EQ(s.pick(std::vector<float>{nan, -inf, -2, nan, -2}, {}), 2);
  EXPECT_EQ(s.pick(std::vector<float>{0, inf, nan, inf, 9}, {}), 1);
}

TEST(Sampler, WithoutAnyNumberItSaysSo) {
  for (float temperature : {0.f, 1.f})
    for (int k : {0, 2}) {
      SamplerOptions o = plain(temperature);
      o.top_k = k;
      Sampler s(o, 3);
      EXPECT_THROW(s.pick(std::vector<float>{nan, -inf, nan}, {}), Error);
      EXPECT_EQ(s.pick(std::vector<float>{nan, -5, nan}, {}), 1);   // and goes on
      EXPECT_EQ(s.pick(std::vector<float>{nan, -5, inf}, {}), 2);
    }
}

TEST(Sampler, OptionsOutOfRange) {
  auto bad = [](auto set) {
    SamplerOptions o;
    set(o);
    EXPECT_THROW(Sampler(o, 10), Error);
  };
  bad([](auto& o) { o.temperature = -1; });
  bad([](auto& o) { o.temperature = nan; });
  bad([](auto& o) { o.temperature = inf; });
  bad([](auto& o) { o.top_k = -1; });
  bad([](auto& o) { o.top_p = 1.5f; });
  bad([](auto& o) { o.min_p = -0.1f; });
  bad([](auto& o) { o.typical = nan; });
  bad([](auto& o) { o.repeat_penalty = 0; });
  bad([](auto& o) { o.repeat_last_n = -2; });
  bad([](auto& o) { o.frequency_penalty = inf; });
  bad([](auto& o) { o.logit_bias = {{10, 1.f}}; });
  bad([](auto& o) { o.logit_bias = {{-1, 1.f}}; });
  bad([](auto& o) { o.logit_bias = {{1, inf}}; });
  EXPECT_NO_THROW(Sampler({.logit_bias = {{9, -inf}}}, 10));
}

TEST(Sampler, TopK) {
  SamplerOptions o = plain();
  const std::vector<float> logits{1, 5, 3, 5, 2, 3};
  o.top_k = 1; EXPECT_EQ(left(o, logits), Ids({1}));
  o.top_k = 2; EXPECT_EQ(left(o, logits), Ids({1, 3}));
  o.top_k = 3; EXPECT_EQ(left(o, logits), Ids({1, 2, 3}));   // of two equal ones the first
  o.top_k = 99; EXPECT_EQ(left(o, logits), Ids({0, 1, 2, 3, 4, 5}));
  std::vector<float> many(5000);
  for (size_t i = 0; i < many.size(); ++i) many[i] = float((i * 2654435761u) % 997);   // each value about five times
  for (int k : {1, 7, 40, 64, 65, 300, 1249, 1250, 4999}) {
    Ids want(many.size());
    std::iota(want.begin(), want.end(), 0);
    std::stable_sort(want.begin(), want.end(), [&](Token a, Token b) { return many[size_t(a)] > many[size_t(b)]; });
    want.resize(size_t(k));
    std::sort(want.begin(), want.end());
    o.top_k = k; EXPECT_EQ(left(o, many), want) << k;
  }
}

TEST(Sampler, TopP) {
  SamplerOptions o = plain();
  const auto logits = logs({0.05f, 0.4f, 0.1f, 0.25f, 0.2f});
  o.top_p = 0; EXPECT_EQ(left(o, logits), Ids({1}));
  o.top_p = 0.39f; EXPECT_EQ(left(o, logits), Ids({1}));
  o.top_p = 0.41f; EXPECT_EQ(left(o, logits), Ids({1, 3}));
  o.top_p = 0.66f; EXPECT_EQ(left(o, logits), Ids({1, 3, 4}));
  o.top_p = 0.94f; EXPECT_EQ(left(o, logits), Ids({1, 2, 3, 4}));
  o.top_p = 0.96f; EXPECT_EQ(left(o, logits), Ids({0, 1, 2, 3, 4}));
  o.top_k = 2;   // 0.4 and 0.25 become 0.615 and 0.385
  o.top_p = 0.6f; EXPECT_EQ(left(o, logits), Ids({1}));
  o.top_p = 0.63f; EXPECT_EQ(left(o, logits), Ids({1, 3}));
}

TEST(Sampler, TopPOfManyIsTheShortestPrefixOfTheSortedList) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> logits(3000);
  for (float& x : logits) x = 2 * normal(random);
  std::vector<double> p;
  for (float x : logits) p.push_back(std::exp(double(x)));
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  std::sort(p.rbegin(), p.rend());
  for (float top_p : {0.1f, 0.5f, 0.9f, 0.99f, 0.9999f}) {
    size_t want = 0;
    for (double held = 0; held < top_p; ++want) held += p[want] / sum;
    SamplerOptions o = plain();
    o.top_p = top_p;
    const size_t kept = left(o, logits).size();
    EXPECT_NEAR(double(kept), double(want), top_p > 0.999 ? 2 : 0) << top_p;   // sums of single floats at the far end
  }
  SamplerOptions o = plain();
  o.top_p = 0.999f;
  EXPECT_NEAR(double(left(o, std::vector<float>(1000, 2.5f)).size()), 999, 1);   // a flat one loses nobody by rounding
}

TEST(Sampler, MinP) {
  SamplerOptions o = plain();
  const auto logits = logs({0.05f, 0.4f, 0.1f, 0.25f, 0.2f});
  o.min_p = 1; EXPECT_EQ(left(o, logits), Ids({1}));
  o.min_p = 0.6f; EXPECT_EQ(left(o, logits), Ids({1, 3}));
  o.min_p = 0.24f; EXPECT_EQ(left(o, logits), Ids({1, 2, 3, 4}));
  o.min_p = 0.1f; EXPECT_EQ(left(o, logits), Ids({0, 1, 2, 3, 4}));
}

TEST(Sampler, Typical) {
  // Surprises in nats: 0.693 1.386 2.079 2.773 2.773; their mean is 1.300. Distances: 0.607 0.087 0.780 1.473 1.473.
  const auto logits = logs({0.5f, 0.25f, 0.125f, 0.0625f, 0.0625f});
  SamplerOptions o = plain();
  o.typical = 0.2f; EXPECT_EQ(left(o, logits), Ids({1}));
  o.typical = 0.3f; EXPECT_EQ(left(o, logits), Ids({0, 1}));
  o.typical = 0.8f; EXPECT_EQ(left(o, logits), Ids({0, 1, 2}));
  o.typical = 0.9f; EXPECT_EQ(left(o, logits), Ids({0, 1, 2, 3}));   // of two equal ones the first
  o.typical = 0.2f, o.temperature = 0;                               // greedy stays greedy
  EXPECT_EQ(Sampler(o, 5).pick(logits, {}), 0);
}

TEST(Sampler, TemperatureComesAfterTheCuts) {
  SamplerOptions o = plain(100);   // would flatten everything
  o.top_p = 0.5f;
  EXPECT_EQ(left(o, logs({0.6f, 0.2f, 0.2f})), Ids({0}));
}

TEST(Sampler, Penalties) {
  const std::vector<float> logits{2, -2, 3, 4, 0};
  const Ids text{3, 0, 1, 0};
  SamplerOptions o = plain();
  o.repeat_penalty = 1.25f, o.presence_penalty = 0.5f, o.frequency_penalty = 0.125f;
  EXPECT_FLOAT_EQ(processed(o, logits, text, 0), 2 / 1.25f - 0.5f - 2 * 0.125f);
  EXPECT_FLOAT_EQ(processed(o, logits, text, 1), -2 * 1.25f - 0.5f - 0.125f);
  EXPECT_FLOAT_EQ(processed(o, logits, text, 2), 3);
  EXPECT_FLOAT_EQ(processed(o, logits, text, 3), 4 / 1.25f - 0.5f - 0.125f);
  o.repeat_last_n = 2;   // 1 0
  EXPECT_FLOAT_EQ(processed(o, logits, text, 3), 4);
  EXPECT_FLOAT_EQ(processed(o, logits, text, 0), 2 / 1.25f - 0.5f - 0.125f);
  o.repeat_last_n = 0;
  EXPECT_FLOAT_EQ(processed(o, logits, text, 0), 2);
  o.repeat_last_n = -1;
  EXPECT_FLOAT_EQ(processed(o, logits, Ids(100, 3), 3), 4 / 1.25f - 0.5f - 100 * 0.125f);
  EXPECT_FLOAT_EQ(processed(o, logits, {}, 3), 4);
}

TEST(Sampler, PenaltiesLeaveNothingBehind) {
  SamplerOptions o = plain(0);
  o.presence_penalty = 10;
  Sampler s(o, 3);
  const std::vector<float> logits{3, 2, 1};
  EXPECT_EQ(s.pick(logits, Ids{0}), 1);
  EXPECT_EQ(s.pick(logits, Ids{0, 1}), 2);
  EXPECT_EQ(s.pick(logits, Ids{1}), 0);
}

TEST(Sampler, Bias) {
  SamplerOptions o = plain(0);
  o.logit_bias = {{2, 5.f}};
  EXPECT_EQ(Sampler(o, 4).pick(std::vector<float>{3, 2, 1, 0}, {}), 2);
  o.logit_bias = {{0, -inf}, {1, -inf}};
  EXPECT_EQ(Sampler(o, 4).pick(std::vector<float>{3, 2, 1, 0}, {}), 2);
  o.temperature = 1;
  EXPECT_EQ(left(o, {3, 2, 1, 0}), Ids({2, 3}));
  o.repeat_penalty = 2, o.logit_bias = {{0, 1.f}};   // the bias is not divided
  EXPECT_FLOAT_EQ(processed(o, {3, 2, 1, 0}, {0}, 0), 2.5f);
}

// Chi-square of n draws against p; degrees of freedom k - 1 have that mean and variance 2(k - 1).
static double chi_square(const SamplerOptions& options, const std::vector<float>& logits, const std::vector<double>& p, int n) {
  Sampler s(options, int64_t(logits.size()));
  std::vector<int> count(p.size());
  const Ids text(size_t(n), 0);
  for (int i = 0; i < n; ++i) ++count[size_t(s.pick(logits, std::span(text).first(size_t(i))))];
  double sum = 0;
  for (size_t v = 0; v < p.size(); ++v)
    if (p[v] > 0) sum += (count[v] - n * p[v]) * (count[v] - n * p[v]) / (n * p[v]);
    else if (count[v]) return inf;
  return sum;
}

static std::vector<double> softmax(const std::vector<float>& logits, double temperature) {
  std::vector<double> p;
  for (float x : logits) p.push_back(std::exp(x / temperature));
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= sum;
  return p;
}

TEST(Sampler, DrawsFollowSoftmax) {
  const std::vector<float> logits{1, 0.5f, -1, 2, 0, -3, 1.5f, 0.25f, -0.5f, 1};
  for (uint64_t seed : {1ull, 0xffffffffffffffffull}) {
    for (float t : {0.5f, 1.f, 2.f}) {
      SamplerOptions o = plain(t);
      o.seed = seed;
      EXPECT_LT(chi_square(o, logits, softmax(logits, t), 200000), 9 + 4 * std::sqrt(18)) << "all, T " << t;
      if (t != 1) continue;
      o.top_k = 100;   // the way over the list of candidates
      EXPECT_LT(chi_square(o, logits, softmax(logits, t), 200000), 9 + 4 * std::sqrt(18)) << "list, T " << t;
    }
  }
  SamplerOptions o = plain();
  o.top_k = 3, o.seed = 5;
  std::vector<float> kept(10, -inf);
  for (size_t v : {3u, 6u, 0u}) kept[v] = logits[v];
  EXPECT_LT(chi_square(o, logits, softmax(kept, 1), 200000), 2 + 4 * 2);
}

TEST(Sampler, SeedAndPositionDecideAndNothingElse) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> logits(10000);
  for (float& x : logits) x = normal(random);
  SamplerOptions o = plain();
  o.seed = 11;
  Sampler forward(o, 10000), backward(o, 10000);
  const Ids text(300, 0);
  std::vector<Token> a, b;
  for (size_t i = 0; i < 300; ++i) a.push_back(forward.pick(logits, std::span(text).first(i)));
  for (size_t i = 300; i-- > 0;) b.push_back(backward.pick(logits, std::span(text).first(i)));
  std::reverse(b.begin(), b.end());
  EXPECT_EQ(a, b);
  SamplerOptions list = o;
  list.top_k = 10000;   // another way to the same draw
  Sampler by_list(list, 10000);
  for (size_t i = 0; i < 300; ++i) EXPECT_EQ(by_list.pick(logits, std::span(text).first(i)), a[i]);
  o.seed = 12;
  Sampler other(o, 10000);
  int equal = 0;
  for (size_t i = 0; i < 300; ++i) equal += other.pick(logits, std::span(text).first(i)) == a[i];
  EXPECT_LT(equal, 10);
}

TEST(Sampler, Logprobs) {
  const std::vector<float> logits{0, std::log(2.f), std::log(4.f), std::log(1.f), -inf};
  Logprobs l(logits);
  EXPECT_NEAR(l.of(2), std::log(0.5), 1e-6);
  EXPECT_NEAR(l.of(0), std::log(0.125), 1e-6);
  EXPECT_EQ(l.of(4), -inf);
  std::vector<TokenLogprob> top;
  l.top(3, top);
  ASSERT_EQ(top.size(), 3u);
  EXPECT_EQ(top[0].token, 2); EXPECT_EQ(top[1].token, 1); EXPECT_EQ(top[2].token, 0);
  EXPECT_NEAR(top[1].logprob, std::log(0.25), 1e-6);
  l.top(0, top); EXPECT_TRUE(top.empty());
  l.top(100, top); EXPECT_EQ(top.size(), 5u);
  EXPECT_TRUE(std::isfinite(Logprobs(std::vector<float>{1e30f, -1e30f, nan}).of(0)));
}

}  // namespace folio
