// SPDX-License-Identifier: MIT
// The rule of drawing: its own arithmetic against double precision and pinned to the bit, and that the host's sampler and the op Sample
// draw the same token from the same logits, whatever the options.
#include "base/draw.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "run/sampler.h"
#include "ops/sample.h"

namespace folio {
namespace {

constexpr float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();

TEST(Draw, MassIsTheExponential) {
  EXPECT_EQ(mass_of(0), uint64_t(1) << 40);
  EXPECT_EQ(mass_of(28.5f), 0u);
  EXPECT_EQ(mass_of(inf), 0u);
  EXPECT_EQ(mass_of(nan), 0u);
  uint64_t before = mass_of(0);
  for (float below = 0; below < 29; below += 1.37e-4f) {
    const uint64_t mass = mass_of(below);
    const double want = 0x1p40 * std::exp(-double(below));
    EXPECT_NEAR(double(mass), want, 1 + want * (2e-8 + 8e-8 * below)) << below;
    EXPECT_LE(mass, before) << below;
    before = mass;
  }
}

TEST(Draw, CodesOrderAsTheRuleWants) {
  const std::vector<float> rising{-inf, -3e38f, -1, -1e-40f, 0, 1e-40f, 1, 3e38f};
  for (size_t i = 1; i < rising.size(); ++i) EXPECT_LT(code_of(rising[i - 1], 0), code_of(rising[i], 1 << 20)) << i;
  EXPECT_GT(code_of(1, 3), code_of(1, 4));
  EXPECT_EQ(code_of(-0.0f, 3), code_of(0, 3));
  EXPECT_LT(code_of(nan, 0), code_of(-inf, 1 << 30));
  EXPECT_LT(code_of(-nan, 0), code_of(-inf, 1 << 30));
  EXPECT_LT(code_of(-inf, 0), lowest_code);
  EXPECT_GE(code_of(-FLT_MAX, INT32_MAX), lowest_code);
  for (float x : rising) EXPECT_EQ(logit_of(code_of(x, 7)), x);
  EXPECT_EQ(token_of(code_of(-2, 151935)), 151935);
}

TEST(Draw, IsPinned) {   // the same on every machine, for ever: texts depend on it
  EXPECT_EQ(mass_of(0.1f), 994879256320u);
  EXPECT_EQ(mass_of(7.25f), 780845317u);
  EXPECT_EQ(moment_of(1.5f, mass_of(1.5f)), 368001330336u);
  EXPECT_EQ(bits_of(penalised(0.7f, 3, {.repeat_penalty = 1.1f, .presence_penalty = 0.3f, .frequency_penalty = 0.07f})), 0x3e016576u);
  EXPECT_EQ(bits_of(penalised(-0.7f, 3, {.repeat_penalty = 1.1f, .presence_penalty = 0.3f, .frequency_penalty = 0.07f})), 0xbfa3d70bu);
  EXPECT_EQ(bits_of(least_of(1.25f, 0.05f)), 0xbfdf7428u);
}

// One row by the op, on the reference device, its inputs written by the sampler.
Token by_op(Sampler& sampler, std::vector<float>& logits, std::span<const Token> text, int64_t context) {
  const std::optional<DrawShape> shape = sampler.draw_shape(context);
  EXPECT_TRUE(shape.has_value());
  Graph graph;
  DrawInputs in(graph, 1, *shape);
  std::vector<std::vector<int32_t>> memory;
  for (Tensor* t : {&in.options, &in.place, &in.seen, &in.biased, &in.bias}) {
    if (!t->present()) continue;
    memory.emplace_back(size_t(t->count()));
    *t = Tensor::of(t->type, t->shape, memory.back().data());
  }
  sampler.write(in, 0, text);
  Token token = -2;
  Sample op{.logits = Tensor::of(F32, {1, int64_t(logits.size())}, logits.data()), .options = in.options, .place = in.place, .seen = in.seen,
            .biased = in.biased, .bias = in.bias};
  op.shape();
  op.token.data = reinterpret_cast<std::byte*>(&token);
  op.reference(Worker{});
  return token;
}

// Options of every kind, each processor on or off.
SamplerOptions some_options(std::mt19937& random, int64_t vocab) {
  auto chance = [&](double p) { return std::uniform_real_distribution<double>()(random) < p; };
  auto uniform = [&](float low, float high) { return std::uniform_real_distribution<float>(low, high)(random); };
  SamplerOptions o = {.temperature = chance(0.1) ? 0 : uniform(0.1f, 2.5f), .top_k = 0, .top_p = 1, .min_p = 0, .typical = 1, .seed = random()};
  if (chance(0.5)) o.top_k = int(1 + random() % size_t(2 * vocab));
  if (chance(0.5)) o.top_p = uniform(0, 1);
  if (chance(0.4)) o.min_p = uniform(0, 0.5f);
  if (chance(0.3)) o.typical = uniform(0.05f, 1);
  if (chance(0.5)) o.repeat_penalty = uniform(0.8f, 1.5f), o.presence_penalty = uniform(-0.5f, 1), o.frequency_penalty = uniform(0, 0.3f);
  o.repeat_last_n = chance(0.3) ? -1 : int(random() % 80);
  for (size_t n = chance(0.4) ? random() % 6 : 0; n > 0; --n) o.logit_bias.push_back({Token(random() % size_t(vocab)), chance(0.2) ? -inf : uniform(-3, 3)});
  return o;
}

TEST(Draw, TheSamplerAndTheOpDrawTheSame) {
  std::mt19937 random(20);
  std::normal_distribution<float> normal;
  for (int round = 0; round < 3000; ++round) {
    const int64_t vocab = 1 + int64_t(random() % 400), length = int64_t(random() % 100);
    const SamplerOptions options = some_options(random, vocab);
    std::vector<float> logits(static_cast<size_t>(vocab));
    const float scale = float(1 << random() % 6) / 4;
    const bool ties = random() % 4 == 0;
    for (float& x : logits) x = ties ? std::round(normal(random) * scale) : normal(random) * scale;
    for (size_t n = random() % 3; n > 0; --n) logits[random() % logits.size()] = random() % 2 ? nan : -inf;
    std::vector<Token> text;
    for (int64_t i = 0; i < length; ++i) text.push_back(Token(random() % size_t(vocab)));
    Sampler sampler(options, vocab);
    Token want = -1;
    try {
      want = sampler.pick(logits, text);
    } catch (const Error&) {   // no number is left
    }
    ASSERT_EQ(by_op(sampler, logits, text, 128), want) << "round " << round;
  }
}

TEST(Draw, WhatADeviceMustBeTold) {
  auto shape = [](const SamplerOptions& o, int64_t context) { return Sampler(o, 10000).draw_shape(context); };
  EXPECT_EQ(shape({}, 512), (DrawShape{0, 0}));
  EXPECT_EQ(shape({.repeat_penalty = 1.1f}, 512), (DrawShape{64, 0}));
  EXPECT_EQ(shape({.repeat_penalty = 1.1f}, 20), (DrawShape{20, 0}));
  EXPECT_EQ(shape({.repeat_last_n = 0, .presence_penalty = 1}, 512), (DrawShape{0, 0}));
  EXPECT_EQ(shape({.repeat_last_n = -1, .frequency_penalty = 1, .logit_bias = {{3, 1.f}, {4, 1.f}}}, 4096), (DrawShape{4096, 2}));
  EXPECT_EQ(shape({.repeat_last_n = -1, .frequency_penalty = 1}, 4097), std::nullopt);
  SamplerOptions many;
  for (Token t = 0; t < 5000; ++t) many.logit_bias.push_back({t, 1.f});
  EXPECT_EQ(shape(many, 512), std::nullopt);
}

}  // namespace
}  // namespace folio
