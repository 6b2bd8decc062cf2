// SPDX-License-Identifier: MIT
// Attention in pieces against attention at once (the reference in double): every layout, any number of ranks, texts that do not divide,
// ranks without tokens; streamed through little memory; and two ways to do it wrong, which must be far off.
#include <gtest/gtest.h>

#include "base/larger.h"
#include "tools/lib/ring_run.h"

namespace folio {
namespace {

// Every row in one go.
RingText at_once(const RingText& text) {
  RingText want = text;
  const int64_t H = text.shape.heads, width = text.shape.value_size;
  for (int64_t t = 0; t < text.tokens; ++t)
    for (int64_t h = 0; h < H; ++h) {
      const ExactRow row = exact_row(text, t, h);
      std::copy(row.o.begin(), row.o.end(), want.o.begin() + (t * H + h) * width);
      want.lse[size_t(t * H + h)] = float(row.lse);
    }
  return want;
}

double worst(const std::vector<float>& got, const std::vector<float>& want) {
  EXPECT_EQ(got.size(), want.size());
  return worst_of(got.data(), want.data(), std::min(got.size(), want.size()));
}

constexpr RingShape small{.heads = 4, .groups = 2, .head_size = 16, .value_size = 24, .scale = 0.25f};

TEST(Ring, EveryTokenBelongsToOneRank) {
  for (RingLayout layout : {RingLayout::contiguous, RingLayout::zigzag})
    for (int ranks : {1, 2, 3, 4, 8})
      for (int64_t tokens : {0, 1, 5, 64, 129, 1000}) {
        std::vector<int> owners(static_cast<size_t>(tokens));
        for (int r = 0; r < ranks; ++r)
          for (const Stretch& s : ring_share(layout, tokens, ranks, r))
            for (int64_t i = s.first; i < s.first + s.count; ++i) ++owners[size_t(i)];
        EXPECT_EQ(owners, std::vector<int>(size_t(tokens), 1)) << tokens << " tokens, " << ranks << " ranks";
      }
}

TEST(Ring, EqualsAttentionAtOnce) {
  for (RingLayout layout : {RingLayout::contiguous, RingLayout::zigzag})
    for (int64_t tokens : {1, 3, 7, 64, 200, 261})   // fewer than ranks: some have nothing
      for (int ranks : {1, 2, 4}) {
        RingText text = RingText::random(small, tokens);
        const RingText want = at_once(text);
        run_ring(text, layout, ranks);
        EXPECT_LT(worst(text.o, want.o), 1e-5) << tokens << " tokens, " << ranks << " ranks";
        EXPECT_LT(worst(text.lse, want.lse), 1e-5);
      }
}

TEST(Ring, FullAttentionAndWindows) {
  for (int window : {0, 50})
    for (bool causal : {false, true}) {
      if (!causal && window > 0) continue;
      RingShape shape = small;
      shape.causal = causal, shape.window = window;
      RingText text = RingText::random(shape, 300);
      const RingText want = at_once(text);
      run_ring(text, RingLayout::zigzag, 3);
      EXPECT_LT(worst(text.o, want.o), 1e-5) << window << causal;
      EXPECT_LT(worst(text.lse, want.lse), 1e-5);
    }
}

TEST(Ring, TooManyPagesForTheMemoryAreStreamed) {
  for (bool causal : {false, true}) {
    RingShape shape = small;
    shape.causal = causal;
    RingText text = RingText::random(shape, 700);
    const RingText want = at_once(text);
    const auto device = cpu(2);
    const RingTimes times = attend_streamed(*device, shape, 700, text.all(), 3 * shape.page_bytes() + 5);   // 4 loads of 3 pages
    EXPECT_EQ(times.bytes_sent, 11 * shape.page_bytes());                                                   // each page once
    EXPECT_LT(worst(text.o, want.o), 1e-5);
    EXPECT_LT(worst(text.lse, want.lse), 1e-5);
  }
}

// The same parts, but their softmaxes averaged; and every key for every query: what a ring must not do.
TEST(Ring, NegativeControls) {
  RingText text = RingText::random(small, 256);
  const RingText want = at_once(text);
  RingShape unmasked = small;
  unmasked.causal = false;
  RingText careless = RingText::random(unmasked, 256);
  run_ring(careless, RingLayout::contiguous, 4);
  EXPECT_GT(worst(careless.o, want.o), 0.5);

  run_ring(text, RingLayout::contiguous, 4);
  EXPECT_LT(worst(text.o, want.o), 1e-5);
  RingText last = RingText::random(small, 256);   // the last rank's rounds: attention over each quarter of the keys
  std::vector<float> average(size_t(64 * small.heads * small.value_size));
  for (int64_t quarter = 0; quarter < 4; ++quarter) {
    RingText part = RingText::random(unmasked, 64);
    const auto rows = [&](const std::vector<float>& all, int64_t first, int64_t row) {
      return std::vector<float>(all.begin() + first * row, all.begin() + (first + 64) * row);
    };
    part.q = rows(last.q, 192, small.heads * small.head_size), part.k = rows(last.k, 64 * quarter, small.groups * small.head_size);
    part.v = rows(last.v, 64 * quarter, small.groups * small.value_size), part.shape.causal = quarter == 3;
    const RingText its = at_once(part);
    for (size_t i = 0; i < average.size(); ++i) average[i] += its.o[i] / 4;
  }
  const std::vector<float> right(want.o.end() - int64_t(average.size()), want.o.end());
  EXPECT_GT(worst(average, right), 0.1);
}

TEST(Ring, WhatIsWrongIsSaid) {
  const auto message = [](auto&& wrong) -> std::string {
    try {
      wrong();
    } catch (const Error& e) {
      return e.what();
    }
    return "nothing was thrown";
  };
  const auto device = cpu(1);
  RingText text = RingText::random(small, 10);
  EXPECT_EQ(message([&] { attend_streamed(*device, small, 10, text.all(), 100); }),
            "ring: 100 bytes for keys and values, but one page of 64 tokens takes 20480");
  EXPECT_EQ(message([&] { attend_streamed(*device, small, 11, text.all(), 1 << 20); }),
            "ring: q has 640 numbers, expected 11 tokens of 64");
  RingShape odd = small;
  odd.groups = 3;
  EXPECT_EQ(message([&] { attend_streamed(*device, odd, 10, text.all(), 1 << 20); }), "ring: 4 heads cannot share 3 key groups");
  auto ring = thread_ring(2, 0.05);
  std::byte byte{};
  EXPECT_EQ(message([&] { ring[0]->receive({&byte, 1}); }), "ring: rank 0 waited 0.05 s to receive from rank 1");
  ring[1].reset();
  EXPECT_EQ(message([&] { ring[0]->receive({&byte, 1}); }), "ring: rank 0 cannot receive from rank 1, which has left the ring");
}

}  // namespace
}  // namespace folio
