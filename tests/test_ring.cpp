// SPDX-License-Identifier: MIT
// Attention in pieces against attention at once (the reference in double): every layout, any number of ranks, texts that do not divide,
// ranks without tokens; streamed through little memory; and two ways to do it wrong, which must be far off.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <thread>

#include "models/ring.h"
#include "ops/ops.h"

namespace folio {
namespace {

struct Text {
  Text(const RingShape& shape, int64_t tokens) : shape(shape), tokens(tokens) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<float>& x, int64_t row) {
      x.resize(size_t(tokens * row));
      for (float& number : x) number = normal(random);
    };
    fill(q, shape.heads * shape.head_size), fill(k, shape.groups * shape.head_size), fill(v, shape.groups * shape.value_size);
    o.resize(size_t(tokens * shape.heads * shape.value_size)), lse.resize(size_t(tokens * shape.heads));
  }
  RingTensors all() { return {q, k, v, o, lse}; }
  RingShape shape;
  int64_t tokens;
  std::vector<float> q, k, v, o, lse;
};

// Σ softmax·v over all keys at once.
Text at_once(const Text& text) {
  Text want = text;
  const RingShape& s = text.shape;
  for (int64_t t = 0; t < text.tokens; ++t)
    for (int64_t h = 0; h < s.heads; ++h) {
      const int64_t g = h / (s.heads / s.groups), last = s.causal ? t + 1 : text.tokens;
      const int64_t first = s.window > 0 ? std::max<int64_t>(0, t - s.window + 1) : 0;
      std::vector<double> sum(static_cast<size_t>(s.value_size));
      double total = 0;
      for (int64_t j = first; j < last; ++j) {
        double dot = 0;
        for (int64_t d = 0; d < s.head_size; ++d)
          dot += double(text.q[size_t((t * s.heads + h) * s.head_size + d)]) * text.k[size_t((j * s.groups + g) * s.head_size + d)];
        const double p = std::exp(s.scale * dot);
        total += p;
        for (int64_t d = 0; d < s.value_size; ++d) sum[size_t(d)] += p * text.v[size_t((j * s.groups + g) * s.value_size + d)];
      }
      for (int64_t d = 0; d < s.value_size; ++d) want.o[size_t((t * s.heads + h) * s.value_size + d)] = float(sum[size_t(d)] / total);
      want.lse[size_t(t * s.heads + h)] = float(std::log(total));
    }
  return want;
}

double worst(const std::vector<float>& got, const std::vector<float>& want) {
  double most = 0;
  EXPECT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    const double off = std::fabs(double(got[i]) - want[i]);
    most = off <= most ? most : off;   // NaN stays
  }
  return most;
}

// The rows of a rank's stretches, out of a whole text or back into it.
template <class Float> std::vector<float> part_of(const std::vector<Float>& all, const std::vector<Stretch>& share, int64_t row) {
  std::vector<float> mine;
  for (const Stretch& s : share) mine.insert(mine.end(), all.begin() + s.first * row, all.begin() + (s.first + s.count) * row);
  return mine;
}
void put_back(const std::vector<float>& mine, const std::vector<Stretch>& share, int64_t row, std::vector<float>& all) {
  auto from = mine.begin();
  for (const Stretch& s : share) {
    std::copy_n(from, s.count * row, all.begin() + s.first * row);
    from += s.count * row;
  }
}

// Every rank on a thread of its own.
void run_ring(Text& text, RingLayout layout, int ranks) {
  const RingShape& s = text.shape;
  auto ring = thread_ring(ranks);
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r)
    threads.emplace_back([&, r] {
      const auto share = ring_share(layout, text.tokens, ranks, r);
      const auto q = part_of(text.q, share, s.heads * s.head_size), k = part_of(text.k, share, s.groups * s.head_size),
                 v = part_of(text.v, share, s.groups * s.value_size);
      auto o = part_of(text.o, share, s.heads * s.value_size), lse = part_of(text.lse, share, s.heads);
      const auto device = cpu(1);
      ring_attention(*ring[size_t(r)], *device, s, layout, text.tokens, {q, k, v, o, lse});
      put_back(o, share, s.heads * s.value_size, text.o);
      put_back(lse, share, s.heads, text.lse);
    });
  for (std::thread& thread : threads) thread.join();
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
        Text text(small, tokens);
        const Text want = at_once(text);
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
      Text text(shape, 300);
      const Text want = at_once(text);
      run_ring(text, RingLayout::zigzag, 3);
      EXPECT_LT(worst(text.o, want.o), 1e-5) << window << causal;
      EXPECT_LT(worst(text.lse, want.lse), 1e-5);
    }
}

TEST(Ring, TooManyPagesForTheMemoryAreStreamed) {
  for (bool causal : {false, true}) {
    RingShape shape = small;
    shape.causal = causal;
    Text text(shape, 700);
    const Text want = at_once(text);
    const auto device = cpu(2);
    const RingTimes times = attend_streamed(*device, shape, 700, text.all(), 3 * shape.page_bytes() + 5);   // 4 loads of 3 pages
    EXPECT_EQ(times.bytes_sent, 11 * shape.page_bytes());                                                   // each page once
    EXPECT_LT(worst(text.o, want.o), 1e-5);
    EXPECT_LT(worst(text.lse, want.lse), 1e-5);
  }
}

// The same parts, but their softmaxes averaged; and every key for every query: what a ring must not do.
TEST(Ring, NegativeControls) {
  Text text(small, 256);
  const Text want = at_once(text);
  RingShape unmasked = small;
  unmasked.causal = false;
  Text careless(unmasked, 256);
  run_ring(careless, RingLayout::contiguous, 4);
  EXPECT_GT(worst(careless.o, want.o), 0.5);

  run_ring(text, RingLayout::contiguous, 4);
  EXPECT_LT(worst(text.o, want.o), 1e-5);
  Text last(small, 256);   // the last rank's rounds: attention over each quarter of the keys
  std::vector<float> average(size_t(64 * small.heads * small.value_size));
  for (int64_t quarter = 0; quarter < 4; ++quarter) {
    Text part(unmasked, 64);
    const auto rows = [&](const std::vector<float>& all, int64_t first, int64_t row) {
      return std::vector<float>(all.begin() + first * row, all.begin() + (first + 64) * row);
    };
    part.q = rows(last.q, 192, small.heads * small.head_size), part.k = rows(last.k, 64 * quarter, small.groups * small.head_size);
    part.v = rows(last.v, 64 * quarter, small.groups * small.value_size), part.shape.causal = quarter == 3;
    const Text its = at_once(part);
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
  Text text(small, 10);
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
