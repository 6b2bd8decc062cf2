// SPDX-License-Identifier: MIT
// What is looked up in the text, and how many tokens are worth guessing: a few at first, none soon when they are wrong, many when they are
// right, and a try now and then, the seldomer the dearer.
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
    EXPECT_EQ(tries, pays == dear ? 7 : 9) << pays;
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

TEST(Acceptance, DearTriesAreSeldom) {
  for (const double pays : {0.5, 1.0, 2.0}) {
    Acceptance text(0.01);
    int tries = 0;
    for (int round = 0; round < 2000; ++round)
      if (const int n = text.length(pays, 16)) text.observe(n, 0), tries += n;
    EXPECT_LE(tries * pays, 0.01 * 2000) << pays;
    EXPECT_GE(tries, 2000 / 256 - 1);
  }
}

TEST(Acceptance, ATryWaitsForAnIdea) {
  Acceptance text(0.01);
  for (int round = 1; round < 32; ++round) EXPECT_EQ(text.length(cheap, 16), 0);
  for (int round = 32; round < 40; ++round) EXPECT_EQ(text.length(cheap, 16), 1);   // nobody guessed so far
  text.observe(1, 0);
  EXPECT_EQ(text.length(cheap, 16), 0);
}

TEST(StepCost, ThresholdIsWhatATokenCosts) {
  StepCost cost;
  const double unknown = cost.threshold(1);
  EXPECT_TRUE(unknown > 0 && unknown < 0.5);
  for (int i = 0; i < 80; ++i) cost.observe(1 + i % 8, 0.008 + 0.002 * (1 + i % 8));   // 8 ms a step and 2 a token
  EXPECT_NEAR(cost.threshold(1), 0.002 / 0.010, 0.01);
  EXPECT_NEAR(cost.threshold(4), 4 * 0.002 / 0.016, 0.02);
  const double without = cost.threshold(1);
  cost.observe_draft(2, 0.002);   // a guess takes 1 ms more
  EXPECT_NEAR(cost.threshold(1), without + 0.001 / 0.010, 0.005);
  StepCost flat;                  // tokens for nothing: still not every guess
  for (int i = 0; i < 40; ++i) flat.observe(1 + i % 8, 0.01);
  EXPECT_GT(flat.threshold(1), 0.05);
  EXPECT_LT(flat.threshold(1), 0.15);
  StepCost steep;                 // eight texts, whose steps take twice as long with a guess each
  for (int i = 0; i < 40; ++i) steep.observe(i % 4 ? 8 : 16, i % 4 ? 0.01 : 0.02);
  EXPECT_NEAR(steep.threshold(8), 1, 0.05);
}

TEST(StepCost, OneLateStepIsNotWhatATokenCosts) {
  StepCost cost;
  for (int i = 0; i < 4; ++i) cost.observe(1, 0.002);
  cost.observe(2, 0.02);          // the first with a guess: it was recorded, and the machine did something else
  EXPECT_LT(cost.threshold(1), 0.6);
  for (int i = 0; i < 20; ++i) cost.observe(1 + 16 * (i % 2), 0.002 + 0.0001 * 16 * (i % 2));
  const double before = cost.threshold(1);
  cost.observe(17, 0.2);
  EXPECT_LT(cost.threshold(1), 0.3);
  EXPECT_NEAR(before, 0.1, 0.03);
}

TEST(StepCost, WhatWasLearnedStays) {
  StepCost cost;
  for (int i = 0; i < 40; ++i) cost.observe(i % 4 ? 8 : 16, i % 4 ? 0.01 : 0.02);
  const double known = cost.threshold(8);
  for (int i = 0; i < 500; ++i) cost.observe(8, 0.01);   // nobody guesses
  EXPECT_NEAR(cost.threshold(8), known, 0.1);
}

std::vector<Token> guessed(std::vector<Token> text, int most, int least = 2) { return NgramDrafter(least).propose(text, most); }

TEST(NgramDrafter, SaysWhatFollowedTheLongestEnd) {
  EXPECT_EQ(guessed({1, 2, 3, 4, 9, 1, 2}, 2), (std::vector<Token>{3, 4}));
  EXPECT_EQ(guessed({1, 2, 3, 4, 9, 1, 2}, 9, 3), (std::vector<Token>{}));
  EXPECT_EQ(guessed({1, 2, 3, 4, 5}, 9, 1), (std::vector<Token>{}));
  EXPECT_EQ(guessed({5, 1, 2, 3, 7, 1, 2, 8, 5, 1, 2}, 1), (std::vector<Token>{3})) << "the longest";
}

TEST(NgramDrafter, GoesRoundWithTheText) {
  EXPECT_EQ(guessed({7, 1, 2, 1, 2, 1, 2}, 5), (std::vector<Token>{1, 2, 1, 2, 1}));
  EXPECT_EQ(guessed({1, 2, 3, 4, 9, 1, 2}, 8), (std::vector<Token>{3, 4, 9, 1, 2, 3, 4, 9}));
  EXPECT_EQ(guessed({4, 4, 4, 4}, 16), std::vector<Token>(16, 4));
}

TEST(NgramDrafter, FollowsATextThatGrowsOrIsAnother) {
  NgramDrafter drafter(2);
  std::vector<Token> text = {1, 2, 3};
  EXPECT_TRUE(drafter.propose(text, 4).empty());
  text.insert(text.end(), {8, 1, 2});
  EXPECT_EQ(drafter.propose(text, 1), (std::vector<Token>{3}));
  text.insert(text.end(), {5, 1, 2});
  EXPECT_EQ(drafter.propose(text, 1), (std::vector<Token>{5})) << "where it stood last";
  drafter.propose(text, 4);
  EXPECT_TRUE(drafter.propose({text.begin(), 3}, 4).empty());
}

}  // namespace
}  // namespace folio
