// SPDX-License-Identifier: MIT
// Counter-based noise: Philox against the known answers that Random123 publishes, our logarithm against double precision, and
// the fast row against single draws.
#include "base/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace folio {

static std::vector<uint32_t> words(uint64_t key, uint64_t low, uint64_t high) {
  const Words4 w = philox(key, low, high);
  return {w.word, w.word + 4};
}

TEST(Random, PhiloxKnownAnswers) {
  EXPECT_EQ(words(0, 0, 0), (std::vector<uint32_t>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(words(~0ull, ~0ull, ~0ull), (std::vector<uint32_t>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  // Counter and key are the first hexadecimal digits of pi.
  EXPECT_EQ(words(0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e),
            (std::vector<uint32_t>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Random, LogarithmIsWithinTwoUnitsInTheLastPlace) {
  double worst = 0;
  for (uint32_t u = 0x00800000; u < 0x7f800000; u += 40009) {
    const double exact = std::log(double(float_of(u)));
    if (exact != 0) worst = std::max(worst, std::fabs(log_of(float_of(u)) - exact) / std::fabs(exact));
  }
  EXPECT_LT(worst, 0x1p-23);
  EXPECT_EQ(log_of(1), 0);
}

TEST(Random, GumbelFollowsItsDefinitionAtBothEnds) {
  auto exact = [](uint32_t x) {   // in double, 1 - u is exact
    const double w = x + 0.5;
    return -std::log(x >> 31 ? -std::log1p((w - 0x1p32) * 0x1p-32) : -std::log(w * 0x1p-32));
  };
  double worst = 0;
  auto test = [&](uint32_t x) {
    const double want = exact(x);
    worst = std::max(worst, std::fabs(gumbel_of(x) - want) / std::max(1.0, std::fabs(want)));
  };
  for (uint32_t i = 0; i < 100000; ++i) test(i), test(~i), test(0x7fffffffu - i), test(0x80000000u + i), test(i * 42949u);
  EXPECT_LT(worst, 3e-7);
  EXPECT_NEAR(gumbel_of(0), -std::log(33 * std::log(2.0)), 1e-6);
  EXPECT_NEAR(gumbel_of(~0u), 33 * std::log(2.0), 1e-5);
  for (uint32_t i = 1; i < 4000; ++i) EXPECT_GE(gumbel_of(i << 20), gumbel_of((i - 1) << 20));
}

TEST(Random, GumbelHasItsMeanAndVariance) {
  std::vector<float> g(1 << 20);
  gumbel_row(42, 7, 0, int(g.size()), g.data());
  double sum = 0, square = 0;
  for (float x : g) sum += x, square += double(x) * x;
  const double n = double(g.size()), mean = sum / n;
  EXPECT_NEAR(mean, 0.5772157, 4 * 1.2825 / std::sqrt(n));
  EXPECT_NEAR(square / n - mean * mean, 1.6449341, 0.02);
}

TEST(Random, RowsGiveTheBitsOfSingleDraws) {
  for (int n : {0, 1, 4, 63, 256, 257, 1003}) {
    std::vector<float> row(size_t(n) + 1, -1);
    gumbel_row(0x123456789abcdefull, 1ull << 33, 400, n, row.data());
    for (int i = 0; i < n; ++i)
      ASSERT_EQ(bits_of(row[size_t(i)]), bits_of(gumbel(0x123456789abcdefull, 1ull << 33, 400 + uint32_t(i)))) << i;
    EXPECT_EQ(row[size_t(n)], -1) << "wrote behind its end";
  }
}

TEST(Random, NormalsFollowTheirDefinition) {
  double worst = 0;
  for (uint32_t i = 0; i < 200000; ++i) {
    const uint32_t first = i < 512 ? i : i * 2654435761u, second = i < 16 ? i << 28 : i * 40503u * 977u;
    const double radius = std::sqrt(-2 * std::log(((first >> 9) + 0.5) * 0x1p-23)), angle = second * (M_PI * 0x1p-31);
    const Normals2 pair = normals_of(first, second);
    worst = std::max({worst, std::fabs(pair.first - radius * std::cos(angle)), std::fabs(pair.second - radius * std::sin(angle))});
  }
  EXPECT_LT(worst, 2e-6);
}

TEST(Random, NormalsHaveTheirMoments) {
  constexpr int n = 1 << 20;
  double sum = 0, square = 0, cube = 0, fourth = 0, neighbours = 0, before = 0;
  for (int i = 0; i < n; ++i) {
    const double x = normal(42, uint64_t(i));
    sum += x, square += x * x, cube += x * x * x, fourth += x * x * x * x, neighbours += x * before;
    before = x;
  }
  EXPECT_NEAR(sum / n, 0, 4 / std::sqrt(n));
  EXPECT_NEAR(square / n, 1, 4 * std::sqrt(2.0 / n));
  EXPECT_NEAR(cube / n, 0, 4 * std::sqrt(15.0 / n));
  EXPECT_NEAR(fourth / n, 3, 4 * std::sqrt(96.0 / n));
  EXPECT_NEAR(neighbours / n, 0, 4 / std::sqrt(n));
}

TEST(Random, NoiseIsPinned) {   // the same on every machine, for ever: texts depend on it
  EXPECT_EQ(bits_of(gumbel(0, 0, 0)), 1034794559u);
  EXPECT_EQ(bits_of(gumbel(1, 2, 3)), 1075860921u);
  EXPECT_EQ(bits_of(gumbel(~0ull, 100000, 151935)), 1042547377u);
}

}  // namespace folio
