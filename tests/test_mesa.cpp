// SPDX-License-Identifier: MIT
// Mesa under the page law, on every instruction set: a text fed in random pieces, with drafts that are partly rejected, beside another
// sequence that shares its first pages, gives the same bits as in one go: results, rounds of the solver, slabs. H stays symmetric,
// and numbers that are no numbers end the solver.
#include <gtest/gtest.h>

#include <random>

#include "cpu/simd/simd.h"
#include "frame.h"

namespace folio {
namespace {

constexpr int64_t H = 2;

struct Text {
  Tensor q, k, v, g, beta;   // [tokens, H, ...]
};

Text random_text(Inputs& in, int64_t tokens, int64_t K, int64_t V) {
  Text text{in.normal({tokens, H, K}), in.normal({tokens, H, K}), in.normal({tokens, H, V}), in.uniform(-0.2, 0, {tokens, H}),
            in.uniform(0, 1, {tokens, H})};
  for (const Tensor& t : {text.q, text.k})
    for (int64_t i = 0; i < t.rows(); ++i) {
      double square = 1e-6;
      for (int64_t c = 0; c < t.cols(); ++c) square += double(t.row<float>(i)[c]) * t.row<float>(i)[c];
      for (int64_t c = 0; c < t.cols(); ++c) t.row<float>(i)[c] /= float(std::sqrt(square));
    }
  return text;
}

// A token of a step: token `pos` of a text, in a sequence; −1: padding.
struct Item {
  int seq;
  int64_t pos;
  const Text* text;
};

// Pools and page tables of two sequences, and steps upon them.
class World {
 public:
  World(int64_t pages, int64_t K, int64_t V) {
    auto pool = [&](const Shape& shape) {
      Tensor t = in_.store().zeros(F32, shape);
      poison(F32, t.data, t.count());
      return t;
    };
    op.rows_k = pool({2 * pages, page_tokens, H, K}), op.rows_v = pool({2 * pages, page_tokens, H, V});
    op.rows_g = pool({2 * pages, page_tokens, H, 1}), op.rows_beta = pool({2 * pages, page_tokens, H, 1});
    op.Hkk = pool({2 * pages, H, K, K}), op.Hkv = pool({2 * pages, H, K, V});
    op.lambda = in_.uniform(0.25, 1, {H, K});   // the same in every world
    op.page = in_.shuffled({2, pages}), op.slab = in_.shuffled({2, pages});
  }
  // Sequence 1 goes on from sequence 0's first pages.
  void fork(int64_t pages) {
    for (const Tensor& table : {op.page, op.slab}) std::copy_n(table.row<int32_t>(0), pages, table.row<int32_t>(1));
  }
  // Runs a step; o and iterations of its tokens are in `results` until the next.
  void step(const std::vector<Item>& items, Device& device) {
    Inputs in;
    const auto T = int64_t(items.size());
    Mesa m = op;
    const Text& some = *items.front().text;
    m.q = in.store().zeros(F32, {T, H, some.q.cols()}), m.k = in.store().zeros(F32, m.q.shape);
    m.v = in.store().zeros(F32, {T, H, some.v.cols()}), m.g = in.store().zeros(F32, {T, H}), m.beta = in.store().zeros(F32, {T, H});
    m.seq = in.store().zeros(I32, {T}), m.pos = in.store().zeros(I32, {T});
    for (int64_t t = 0; t < T; ++t) {
      const Item& item = items[size_t(t)];
      m.seq.at<int32_t>()[t] = item.seq, m.pos.at<int32_t>()[t] = int32_t(item.pos);
      auto take = [&](const Tensor& to, const Tensor& from) {
        std::copy_n(from.at<float>() + item.pos * from.stride[0], from.stride[0], to.at<float>() + t * to.stride[0]);
      };
      take(m.q, item.text->q), take(m.k, item.text->k), take(m.v, item.text->v), take(m.g, item.text->g), take(m.beta, item.text->beta);
    }
    auto graph = std::make_unique<Graph>();
    m = graph->record(m);
    graph->output("o", m.o), graph->output("iterations", m.iterations);
    const auto program = device.compile(std::move(graph));
    program->run();
    o = in_.store().copy(program->output("o")), iterations = in_.store().copy(program->output("iterations"));
  }
  std::vector<float> slab(int seq, int64_t page) const {
    std::vector<float> all;
    const int64_t id = op.slab.row<int32_t>(seq)[page];
    for (const Tensor& pool : {op.Hkk, op.Hkv}) {
      const float* from = pool.slice(id, 1).at<float>();
      all.insert(all.end(), from, from + pool.stride[0]);
    }
    return all;
  }
  Mesa op;
  Tensor o, iterations;

 private:
  Inputs in_;
};

std::vector<Item> items_of(int seq, int64_t from, int64_t count, const Text& text) {
  std::vector<Item> items;
  for (int64_t i = 0; i < count; ++i) items.push_back({seq, from + i, &text});
  return items;
}

bool same(const Tensor& a, int64_t i, const Tensor& b, int64_t j) {
  return std::memcmp(a.at<float>() + i * a.stride[0], b.at<float>() + j * b.stride[0], size_t(a.stride[0]) * sizeof(float)) == 0;
}

// Feeds two texts that agree up to a page border, in random pieces with drafts from `wrong`, and compares with each in one go.
void feed(uint64_t seed, int64_t K, int64_t V, const Mesa& options) {
  constexpr int64_t tokens = 260, pages = 5, shared = 2;
  const auto alone = cpu(1), team = cpu(3);
  Inputs in;
  in.random() = Random(seed);
  Text texts[2] = {random_text(in, tokens, K, V), random_text(in, tokens, K, V)};
  const Text wrong = random_text(in, tokens + 80, K, V);
  for (const Tensor& t : {wrong.q, wrong.k, wrong.v, wrong.g, wrong.beta})   // every third is no number
    for (int64_t i = 0; i < t.dim(0); i += 3) poison(F32, t.slice(i, 1).data, t.stride[0]);
  World whole(pages, K, V), parts(pages, K, V);
  for (World* w : {&whole, &parts}) w->op.tolerance = options.tolerance, w->op.mode = options.mode;
  whole.step(items_of(0, 0, tokens, texts[0]), *alone);
  const Tensor o = whole.o, rounds = whole.iterations;
  parts.fork(shared);
  std::mt19937_64 rng(seed);
  auto draw = [&](int64_t n) { return int64_t(rng() % uint64_t(n)); };
  auto check_bits = [&](int64_t pos, int64_t t) {
    ASSERT_TRUE(same(parts.o, t, o, pos)) << "o of token " << pos << ", seed " << seed;
    ASSERT_TRUE(same(parts.iterations, t, rounds, pos)) << "iterations of token " << pos << ", seed " << seed;
  };
  std::vector<std::pair<int64_t, Tensor>> second;   // what sequence 1 gave: from position .. on
  for (int64_t done[2] = {0, shared * page_tokens}; done[0] < tokens || done[1] < tokens;) {
    std::vector<Item> items;
    int64_t first[2], kept[2];
    for (int s = int(draw(2)), turn = 0; turn < 2; ++turn, s = 1 - s) {
      const int64_t most = draw(3) == 0 ? 70 : 4, drafts = draw(2) * draw(8), room = pages * page_tokens - done[s];
      kept[s] = s == 1 && done[0] < shared * page_tokens ? 0 : std::min(1 + draw(most), tokens - done[s]);
      first[s] = int64_t(items.size());
      if (kept[s] == 0) continue;
      for (const Item& item : items_of(s, done[s], kept[s], texts[s])) items.push_back(item);
      for (const Item& item : items_of(s, done[s] + kept[s], std::min(drafts, room - kept[s]), wrong)) items.push_back(item);
    }
    for (int64_t i = draw(3); i > 0; --i) items.push_back({-1, 0, &wrong});
    parts.step(items, draw(2) ? *alone : *team);
    for (int64_t i = 0; i < kept[0]; ++i) ASSERT_NO_FATAL_FAILURE(check_bits(done[0] + i, first[0] + i));
    for (int64_t i = 0; i < kept[1]; ++i) second.emplace_back(done[1] + i, parts.o.slice(first[1] + i, 1));
    for (size_t i = size_t(items.size()); i > 0 && items[i - 1].seq < 0; --i)
      for (int64_t e = 0; e < H * V; ++e) ASSERT_EQ(parts.o.slice(int64_t(i) - 1, 1).at<float>()[e], 0);
    for (int s : {0, 1}) done[s] += kept[s];
  }
  for (int64_t p = 0; p < tokens / page_tokens; ++p) EXPECT_EQ(whole.slab(0, p), parts.slab(0, p)) << "slab of page " << p;
  // Sequence 1 in one go: what it shares, then its own.
  std::vector<Item> items = items_of(1, 0, shared * page_tokens, texts[0]);
  for (const Item& item : items_of(1, shared * page_tokens, tokens - shared * page_tokens, texts[1])) items.push_back(item);
  whole.step(items, *team);
  for (const auto& [pos, row] : second) ASSERT_TRUE(same(row, 0, whole.o, pos)) << "o of the fork's token " << pos << ", seed " << seed;
  for (int64_t p = 0; p < tokens / page_tokens; ++p) EXPECT_EQ(whole.slab(1, p), parts.slab(1, p)) << "slab of the fork's page " << p;
}

class Sets : public ::testing::TestWithParam<const Simd*> {
 protected:
  void SetUp() override { ASSERT_TRUE(force_simd(GetParam()->name)); }
  void TearDown() override { force_simd(simd_sets().front()->name); }
};
INSTANTIATE_TEST_SUITE_P(Mesa, Sets, ::testing::ValuesIn(simd_sets()), [](const auto& info) { return std::string(info.param->name); });

TEST_P(Sets, AnyPiecesGiveTheSameBits) {
  for (uint64_t seed = 1; seed <= 6 && !HasFatalFailure(); ++seed) feed(seed, 20, 12, {});
  for (int mode : {1, 2, 3}) feed(7, 16, 32, {.mode = mode});
  feed(8, 64, 64, {.tolerance = 1e-6f});
}

TEST_P(Sets, CovarianceStaysSymmetric) {
  Inputs in;
  const Text text = random_text(in, 192, 37, 5);
  World world(3, 37, 5);
  world.step(items_of(0, 0, 192, text), *cpu(2));
  for (int64_t p = 0; p < 3; ++p)
    for (int64_t h = 0; h < H; ++h)
      for (int64_t i = 0; i < 37; ++i)
        for (int64_t j = 0; j < i; ++j) {
          const int64_t id = world.op.slab.row<int32_t>(0)[p];
          ASSERT_EQ(Mesa::slab_row(world.op.Hkk, id, h, i)[j], Mesa::slab_row(world.op.Hkk, id, h, j)[i]);
        }
}

TEST_P(Sets, WhatIsNoNumberEndsTheSolver) {
  Inputs in;
  Text text = random_text(in, 70, 16, 16);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  text.q.row<float>(2 * 66)[3] = nan;                                        // a query: its token alone
  for (int64_t c = 0; c < 16; ++c) text.q.row<float>(2 * 67)[c] = 0;         // nothing asked
  text.k.row<float>(2 * 68 + 1)[0] = std::numeric_limits<float>::infinity();   // a key: its token and those behind it, of its head
  World world(2, 16, 16);
  for (int64_t pos = 0; pos < 70; ++pos) {
    world.step(items_of(0, pos, 1, text), *cpu(1));
    for (int64_t h = 0; h < H; ++h) {
      const float* o = world.o.row<float>(h);
      const bool bad = (pos == 66 && h == 0) || (pos >= 68 && h == 1);
      EXPECT_EQ(std::isfinite(o[0]), !bad) << pos << " " << h;
      EXPECT_LE(world.iterations.row<int32_t>(0)[h], 30);
      for (int64_t e = 0; pos == 67 && h == 0 && e < 16; ++e) EXPECT_EQ(o[e], 0);
    }
  }
}

}  // namespace
}  // namespace folio
