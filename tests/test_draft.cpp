// SPDX-License-Identifier: MIT
// How many tokens are worth guessing: a few at first, none soon when they are wrong, many when they are right, and a try now and then.
#include <gtest/gtest.h>

#include "run/draft.h"

namespace folio {
namespace {

constexpr double cheap = 0.1, dear = 0.4;   // probabilities from which on a guess pays

TEST(Acceptance, BeginsWithAFew) {
  EXPECT_EQ(Acceptance().length(dear, 16), 1);
  EXPECT_EQ(Acceptance().length(cheap, 16), 3);
  EXPECT_EQ(Acceptance().length(cheap, 2), 2);
  EXPECT_EQ(Acceptance().length(0, 16), 16);   // whether it pays or not
  EXPECT_EQ(Acceptance(0.01).length(cheap, 16), 0);
  EXPECT_EQ(Acceptance(0.99).length(cheap, 16), 16);
}

TEST(Acceptance, WrongGuessesEndSoonAndAreTriedNowAndThen) {
  for (const double pays : {cheap, dear}) {
    Acceptance text;
    int wrong = 0, tries = 0;
    for (int round = 1; round <= 320; ++round) {
      const int n = text.length(pays, 16);
      if (n > 0) text.observe(n, 0);
      (round < 32 ? wrong : tries) += n;
    }
    EXPECT_LE(wrong, pays == dear ? 1 : 8) << pays;
    EXPECT_EQ(tries, 10) << pays;
  }
}

TEST(Acceptance, RightGuessesGrow) {
  Acceptance text(0.02);   // after texts whose guesses were wrong
  EXPECT_EQ(text.length(dear, 16), 0);
  text.observe(1, 1);      // a try
  EXPECT_GE(text.length(dear, 16), 1);
  int rounds = 0;
  for (int n = 0; (n = text.length(dear, 16)) < 16; ++rounds) text.observe(n, n);
  EXPECT_LE(rounds, 6);
  text.observe(16, 3);     // one wrong does not undo it
  EXPECT_GT(text.rate(), 0.8);
}

TEST(Acceptance, AllTextsAreSlowerToChange) {
  Acceptance one, all = Acceptance::usual();
  for (int i = 0; i < 40; ++i) one.observe(1, 0), all.observe(1, 0);
  EXPECT_LT(all.rate(), one.rate());   // more was seen of it
  one.observe(4, 4), all.observe(4, 4);
  EXPECT_GT(one.rate(), all.rate());
}

TEST(StepCost, ThresholdIsWhatATokenCosts) {
  StepCost cost;
  const double unknown = cost.threshold(1);
  EXPECT_TRUE(unknown > 0 && unknown < 0.5);
  for (int i = 0; i < 40; ++i) cost.observe(1 + i % 4, 0.008 + 0.002 * (1 + i % 4));   // 8 ms a step and 2 a token
  EXPECT_NEAR(cost.threshold(1), 0.002 / 0.010, 1e-6);
  EXPECT_NEAR(cost.threshold(4), 4 * 0.002 / 0.016, 1e-6);
  cost.observe_draft(2, 0.002);   // a guess takes 1 ms more
  EXPECT_NEAR(cost.threshold(1), 0.003 / 0.010, 1e-6);
  StepCost flat;                  // tokens for nothing: still not every guess
  for (int i = 0; i < 40; ++i) flat.observe(1 + i % 4, 0.01);
  EXPECT_GT(flat.threshold(1), 0.05);
}

}  // namespace
}  // namespace folio
