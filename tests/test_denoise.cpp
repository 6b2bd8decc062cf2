// SPDX-License-Identifier: MIT
// The sampler on a flow whose path is known: data of a normal distribution with mean μ and deviation s. Then x_t has mean (1 − t)·μ and
// variance (1 − t)²s² + t², the velocity is linear in x, and noise z goes to μ + s·z.
#include "run/denoise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

#include "base/error.h"
#include "base/random.h"

namespace folio {
namespace {

constexpr double mean = 0.7, deviation = 0.4;

double velocity_at(double x, double t) {
  const double a = 1 - t, variance = a * a * deviation * deviation + t * t, z = (x - a * mean) / variance;
  return t * z - (mean + a * deviation * deviation * z);
}

// Largest error over some noises, and evaluations of v.
struct Outcome {
  double error = 0;
  int calls = 0;
};

Outcome run(DenoiseOptions options) {
  std::vector<float> x(64);
  fill_noise(x, 5);
  const std::vector<float> noise = x;
  Outcome out;
  const bool done = denoise(x, options, [&](std::span<const float> at, double t, std::span<float> with, std::span<float> without) {
    ++out.calls;
    EXPECT_TRUE(without.empty());
    for (size_t i = 0; i < at.size(); ++i) with[i] = float(velocity_at(at[i], t));
  });
  EXPECT_TRUE(done);
  for (size_t i = 0; i < x.size(); ++i) out.error = std::max(out.error, std::fabs(x[i] - (mean + deviation * noise[i])));
  return out;
}

TEST(Denoise, EverySolverConvergesWithItsOrder) {
  const struct { Solver solver; double low, high; int calls; double most; } orders[] = {   // what halving the steps divides the error by
      {Solver::euler, 1.9, 2.1, 96, 0.04}, {Solver::heun, 3.7, 4.4, 191, 0.004}, {Solver::dpmpp2m, 3.0, 4.4, 96, 0.008},
      {Solver::unipc, 3.6, 4.6, 96, 0.004}};
  for (const auto& order : orders) {
    const Outcome coarse = run({.solver = order.solver, .steps = 96}), fine = run({.solver = order.solver, .steps = 192});
    const std::string label = name_of(order.solver) + ": " + std::to_string(coarse.error) + " and " + std::to_string(fine.error);
    EXPECT_EQ(coarse.calls, order.calls) << label;
    EXPECT_GT(coarse.error / fine.error, order.low) << label;
    EXPECT_LT(coarse.error / fine.error, order.high) << label;
    EXPECT_LT(run({.solver = order.solver, .steps = 96, .shift = 3}).error, order.most) << label;
  }
}

TEST(Denoise, OneStepIsThePredictionOfTheFirst) {   // every solver's only step goes from noise to the data's mean
  for (Solver solver : {Solver::euler, Solver::heun, Solver::dpmpp2m, Solver::unipc}) {
    std::vector<float> x = {0.5f};
    denoise(x, {.solver = solver, .steps = 1}, [](auto at, double t, auto with, auto) { with[0] = float(velocity_at(at[0], t)); });
    EXPECT_NEAR(x[0], mean, 1e-6) << name_of(solver);
  }
}

TEST(Denoise, GuidanceGoesBeyondThePromptWithinItsTimes) {
  std::vector<float> x = {1, 2};
  std::vector<double> guided;
  auto velocity = [&](std::span<const float>, double t, std::span<float> with, std::span<float> without) {
    with[0] = 1, with[1] = 3;
    if (without.empty()) return;
    guided.push_back(t);
    without[0] = 2, without[1] = 1;
  };
  denoise(x, {.steps = 4, .guidance = 3, .guide_from = 0.25, .guide_to = 0.75}, velocity);
  EXPECT_EQ(guided, (std::vector<double>{0.75, 0.5}));
  EXPECT_FLOAT_EQ(x[0], 1 - 0.25f * (1 + 1 + 2 * (2 - 3)));   // v = 2 + 3·(1 − 2) = −1 where it is guided
  EXPECT_FLOAT_EQ(x[1], 2 - 0.25f * (3 + 3 + 2 * 7));         // 1 + 3·(3 − 1) = 7
}

TEST(Denoise, HeldNumbersStayToTheLastBit) {
  for (Solver solver : {Solver::euler, Solver::heun, Solver::dpmpp2m, Solver::unipc}) {
    std::vector<float> x = {1, 0.1f, 0.2f, -1, 0.3f};
    auto velocity = [](std::span<const float> at, double t, std::span<float> with, std::span<float>) {
      for (size_t i = 0; i < at.size(); ++i) with[i] = i % 3 ? NAN : float(velocity_at(at[i], t));
    };
    denoise(x, {.solver = solver, .steps = 7, .held = {{1, 2}, {4, 1}}}, velocity);
    EXPECT_EQ((std::vector<float>{x[1], x[2], x[4]}), (std::vector<float>{0.1f, 0.2f, 0.3f})) << name_of(solver);
    EXPECT_NEAR(x[0] - x[3], 2 * deviation, 0.2) << name_of(solver);
  }
  std::vector<float> x(4);
  EXPECT_THROW(denoise(x, {.held = {{3, 2}}}, [](auto, double, auto, auto) {}), Error);
}

TEST(Denoise, ProgressSeesTheStepsAndMayStop) {
  std::vector<float> x = {1};
  std::vector<int> seen;
  auto velocity = [](auto, double, std::span<float> with, auto) { with[0] = 2; };
  const bool done = denoise(x, {.steps = 10}, velocity, [&](const DenoiseStep& step) {
    seen.push_back(step.done);
    EXPECT_EQ(step.steps, 10);
    EXPECT_NEAR(step.t, 1 - step.done / 10.0, 1e-12);
    EXPECT_NEAR(step.clean[0], -1, 1e-6);   // the path is a line
    return step.done < 3;
  });
  EXPECT_FALSE(done);
  EXPECT_EQ(seen, (std::vector<int>{1, 2, 3}));
  EXPECT_FLOAT_EQ(x[0], 0.4f);
}

TEST(Denoise, TimesFallFromOneToZero) {
  EXPECT_EQ(denoise_times(2, 1), (std::vector<double>{1, 0.5, 0}));
  EXPECT_EQ(denoise_times(2, 3), (std::vector<double>{1, 0.75, 0}));   // 3·½ / (1 + 2·½)
  EXPECT_THROW(denoise_times(0, 1), Error);
  EXPECT_THROW(denoise_times(4, 0), Error);
  EXPECT_THROW(denoise_times(4, NAN), Error);
  EXPECT_EQ(parse_solver("unipc"), Solver::unipc);
  try {
    parse_solver("ddim");
    FAIL() << "took a name that is none";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "denoise: there is no sampler 'ddim'; known are: euler, heun, dpmpp2m, unipc");
  }
}

TEST(Denoise, NoiseIsPinned) {   // the same on every machine, for ever: clips depend on it; a part of it is the same numbers
  std::vector<float> x(1001);
  fill_noise(x, 42);
  for (size_t i : {size_t(0), size_t(1), size_t(2), size_t(3), size_t(1000)}) EXPECT_EQ(bits_of(x[i]), bits_of(normal(42, i)));
  EXPECT_EQ(std::set<float>(x.begin(), x.end()).size(), x.size());
  EXPECT_EQ((std::vector<uint32_t>{bits_of(x[0]), bits_of(x[1]), bits_of(x[2]), bits_of(x[3])}),
            (std::vector<uint32_t>{1056929205, 3194082116, 3210928026, 1063914710}));
}

}  // namespace
}  // namespace folio
