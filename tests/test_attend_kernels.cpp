// SPDX-License-Identifier: MIT
// The CPU's Attend against its reference, on every instruction set, over random steps: several sequences on shuffled pages,
// prompts, drafts and single tokens mixed, padding, windows, sinks of both kinds, softcap, ALiBi, full attention, queries as a view
// of a fused product. And what the kernel promises beyond being right: the same bits for any threads, any batch and any chunking.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "base/threads.h"
#include "cpu/simd/simd.h"
#include "cpu/table.h"

namespace folio {
namespace {

struct Options {
  int heads = 4, groups = 2, width = 16, value_width = 16;
  DType type = F16;
  float softcap = 0;
  int window = 0, sinks = 0;
  bool causal = true, alibi = false, fused = false, learned = false;   // learned: a sink of each head
  bool shared = false;                                                 // values are the keys' first numbers
};

// Some tokens of a sequence: positions from .. from + count - 1. seq -1: padding.
struct Piece { int seq, from, count; };

// Pools and page tables of a few sequences, and a step over them.
class World {
 public:
  World(const Options& options, const std::vector<int>& lengths, uint32_t seed)
      : options_(options), random_(seed), length_(lengths.begin(), lengths.end()) {
    int64_t most = 1, pages = 3;
    for (int n : lengths) {
      most = std::max<int64_t>(most, n / page_tokens + 2);
      pages += n / page_tokens + 1;
    }
    std::vector<int32_t> ids(static_cast<size_t>(pages));
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = int32_t(i);
    std::shuffle(ids.begin(), ids.end(), random_);
    table_.assign(lengths.size() * size_t(most), -1);
    size_t used = 0;
    for (size_t b = 0; b < lengths.size(); ++b)
      for (int64_t p = 0; p * page_tokens < lengths[b]; ++p) table_[b * size_t(most) + size_t(p)] = ids[used++];
    page_ = Tensor::of(I32, {int64_t(lengths.size()), most}, table_.data());
    k_ = pool(pages, options.width, k_bytes_);
    if (options.shared) v_ = k_.columns(0, options.value_width);
    else v_ = pool(pages, options.value_width, v_bytes_);
    slopes_.resize(size_t(options.heads));
    for (int h = 0; h < options.heads; ++h) {
      slopes_[size_t(h)] = std::exp2(-8.0f * float(h + 1) / float(options.heads));
      sink_.push_back(float(h % 5) * 2 - 3);
    }
    forget_unused(lengths);
  }
  // Takes page p of sequence b away.
  void lose(int b, int p) { table_[size_t(b * page_.dim(1) + p)] = -1; }

  struct Result { std::vector<float> o, lse; };

  // The op's outputs for that step. Queries depend on seq, position and head alone, so that steps can be compared.
  Result run(const std::vector<Piece>& pieces, ThreadPool* pool, const std::vector<int>* order = nullptr) {
    std::vector<int32_t> seq, pos;
    for (const Piece& piece : pieces)
      for (int i = 0; i < piece.count; ++i) {
        seq.push_back(piece.seq);
        pos.push_back(piece.from + i);
      }
    if (order) {
      std::vector<int32_t> s = seq, p = pos;
      for (size_t i = 0; i < order->size(); ++i) {
        seq[i] = s[size_t((*order)[i])];
        pos[i] = p[size_t((*order)[i])];
      }
    }
    const int64_t tokens = int64_t(seq.size()), columns = int64_t(options_.heads) * options_.width;
    const int64_t row = columns + (options_.fused ? 24 : 0);
    std::vector<float> q(size_t(tokens * row), std::numeric_limits<float>::quiet_NaN());
    for (int64_t t = 0; t < tokens; ++t) {
      std::mt19937 own(uint32_t(seq[size_t(t)] * 7919 + pos[size_t(t)]));
      std::normal_distribution<float> normal;
      for (int64_t c = 0; c < columns; ++c) q[size_t(t * row + c)] = 2 * normal(own);
    }
    Attend op;
    op.q = Tensor::of(F32, {tokens, row}, q.data()).columns(0, columns).split_last(options_.heads);
    op.k = k_;
    op.v = v_;
    op.page = page_;
    op.seq = Tensor::of(I32, {tokens}, seq.data());
    op.pos = Tensor::of(I32, {tokens}, pos.data());
    if (!options_.causal) op.length = Tensor::of(I32, {int64_t(length_.size())}, length_.data());
    if (options_.alibi) op.slopes = Tensor::of(F32, {options_.heads}, slopes_.data());
    if (options_.learned) op.sink = Tensor::of(F32, {options_.heads}, sink_.data());
    op.scale = 1 / std::sqrt(float(options_.width));
    op.softcap = options_.softcap;
    op.window = options_.window;
    op.sinks = options_.sinks;
    op.causal = options_.causal;
    op.shape();
    Result result;
    result.o.assign(size_t(op.o.count()), std::numeric_limits<float>::quiet_NaN());
    result.lse.assign(size_t(op.lse.count()), std::numeric_limits<float>::quiet_NaN());
    op.o.data = reinterpret_cast<std::byte*>(result.o.data());
    op.lse.data = reinterpret_cast<std::byte*>(result.lse.data());
    if (!pool) {
      op.reference(Worker{});
      return result;
    }
    // Exactly as much as the op asks for, so that the address sanitizer sees a write beyond it.
    struct Aligned { alignas(64) std::byte bytes[64]; };
    std::vector<Aligned> scratch(size_t(folio::scratch(op, pool->size()) + 63) / 64);
    std::memset(static_cast<void*>(scratch.data()), 0xff, scratch.size() * sizeof(Aligned));
    pool->run([&](Worker w) {
      w.scratch = reinterpret_cast<std::byte*>(scratch.data());
      folio::run(op, w);
    });
    return result;
  }
  const Options& options() const { return options_; }

 private:
  Tensor pool(int64_t pages, int width, std::vector<uint32_t>& bytes) {
    Tensor t = Tensor::of(options_.type, {pages, page_tokens, options_.groups, width});
    bytes.resize(size_t(t.bytes() + 3) / 4);
    t.data = reinterpret_cast<std::byte*>(bytes.data());
    std::normal_distribution<float> normal;
    std::vector<float> row(static_cast<size_t>(width));
    for (int64_t i = 0; i < t.rows(); ++i) {
      for (float& x : row) x = normal(random_);
      format(t.type).from_float(row.data(), t.row_bytes(i), width);
    }
    return t;
  }
  // Rows behind the last token may hold anything, so here they hold NaN: nobody may look at them.
  void forget_unused(const std::vector<int>& lengths) {
    for (size_t b = 0; b < lengths.size(); ++b)
      for (int64_t j = lengths[b]; j % page_tokens != 0; ++j) {
        const int64_t at = table_[b * size_t(page_.dim(1)) + size_t(j / page_tokens)] * page_tokens + j % page_tokens;
        for (const Tensor* t : {&k_, &v_})
          std::memset(t->row_bytes(at * options_.groups), 0xff, size_t(bytes_of(t->type, t->cols() * options_.groups)));
      }
  }

  Options options_;
  std::mt19937 random_;
  std::vector<int32_t> length_, table_;
  std::vector<uint32_t> k_bytes_, v_bytes_;
  std::vector<float> slopes_, sink_;
  Tensor page_, k_, v_;
};

void expect_close(const World::Result& got, const World::Result& want, const std::string& what) {
  double worst = 0, worst_lse = 0;
  for (size_t i = 0; i < want.o.size(); ++i) {
    ASSERT_TRUE(std::isfinite(got.o[i])) << what << ": o[" << i << "] is " << got.o[i] << ", should be " << want.o[i];
    worst = std::max(worst, std::abs(double(got.o[i]) - want.o[i]));
  }
  for (size_t i = 0; i < want.lse.size(); ++i) {
    if (std::isinf(want.lse[i])) {
      ASSERT_EQ(got.lse[i], want.lse[i]) << what;
    } else {
      worst_lse = std::max(worst_lse, std::abs(double(got.lse[i]) - want.lse[i]) / std::max(1.0, std::abs(double(want.lse[i]))));
    }
  }
  EXPECT_LT(worst, 1e-5) << what;
  EXPECT_LT(worst_lse, 2e-6) << what;
}

bool same_bits(const float* a, const float* b, size_t n) { return std::memcmp(a, b, n * sizeof(float)) == 0; }

// A step over sequences of these lengths whose last tokens belong to it.
struct Script {
  std::vector<int> lengths;
  std::vector<Piece> pieces;
};

// The reference is slow, so wide heads get fewer tokens.
Script random_script(const Options& options, std::mt19937& random) {
  auto pick = [&](int from, int to) { return std::uniform_int_distribution<int>(from, to)(random); };
  Script script;
  const int sequences = pick(1, 4);
  const bool long_ones = pick(0, 2) == 0;
  for (int b = 0; b < sequences; ++b) {
    const int length = pick(0, 3) == 0 ? pick(1, 20) : pick(1, long_ones ? 700 : 150);
    script.lengths.push_back(length);
    const int affordable = 2 + 8000000 / (options.heads * (options.width + options.value_width) * length);
    const int tokens = std::min({length, pick(0, 2) == 0 ? pick(1, 150) : pick(1, 9), affordable});
    if (pick(0, 4) == 0) script.pieces.push_back({-1, 0, pick(1, 3)});
    if (pick(0, 3) == 0 && tokens > 1) {   // the sequence's tokens in two pieces, the later one first
      script.pieces.push_back({b, length - tokens / 2, tokens / 2});
      script.pieces.push_back({b, length - tokens, tokens - tokens / 2});
    } else {
      script.pieces.push_back({b, length - tokens, tokens});
    }
  }
  return script;
}

Options random_options(std::mt19937& random) {
  auto pick = [&](std::initializer_list<int> of) {
    return *(of.begin() + std::uniform_int_distribution<size_t>(0, of.size() - 1)(random));
  };
  Options o;
  o.groups = pick({1, 2, 3, 4});
  o.heads = o.groups * pick({1, 2, 4, 8});
  o.width = pick({8, 16, 48, 64, 80, 96, 128, 192, 256, 5, 33});
  o.value_width = pick({0, 0, 1}) ? pick({8, 16, 48, 64, 80, 128, 256, 7, 50}) : o.width;
  o.type = DType(pick({F32, F16, BF16}));
  o.softcap = float(pick({0, 0, 5, 50}));
  o.window = pick({0, 0, 1, 7, 64, 100, 300});
  o.sinks = o.window ? pick({0, 1, 4, 70, 300}) : 0;
  o.causal = pick({0, 1, 1, 1}) != 0;
  o.alibi = pick({0, 0, 1}) != 0;
  o.fused = pick({0, 1}) != 0;
  o.learned = pick({0, 1}) != 0;
  o.shared = pick({0, 0, 1}) != 0;
  if (o.shared) o.value_width = std::min(o.value_width, o.width);
  return o;
}

std::string text(const Options& o) {
  return join("heads ", o.heads, ", groups ", o.groups, ", width ", o.width, "/", o.value_width, ", ", format(o.type).name, ", softcap ",
              o.softcap,
              ", window ", o.window, ", sinks ", o.sinks, o.causal ? "" : ", full", o.alibi ? ", alibi" : "", o.fused ? ", fused" : "",
              o.learned ? ", learned sinks" : "", o.shared ? ", shared" : "");
}

// Runs each test body once per instruction set.
class AttendKernels : public testing::Test {
 protected:
  void SetUp() override { before_ = simd().name; }
  void TearDown() override { force_simd(before_); }
  template <class Body> void on_every_set(Body&& body) {
    for (const Simd* set : simd_sets()) {
      ASSERT_TRUE(force_simd(set->name));
      body(set->name);
    }
  }
  ThreadPool one_{1}, two_{2}, three_{3};

 private:
  const char* before_ = nullptr;
};

TEST_F(AttendKernels, EqualTheReferenceOnRandomSteps) {
  for (uint32_t seed = 0; seed < 60 && !HasFailure(); ++seed) {
    std::mt19937 random(seed);
    const Options options = random_options(random);
    const Script script = random_script(options, random);
    World world(options, script.lengths, seed);
    const World::Result want = world.run(script.pieces, nullptr);
    on_every_set([&](const char* set) {
      const std::string what = join("seed ", seed, ", ", set, ", ", text(options));
      const World::Result got = world.run(script.pieces, &two_);
      expect_close(got, want, what);
      for (ThreadPool* pool : {&one_, &three_}) {
        const World::Result other = world.run(script.pieces, pool);
        EXPECT_TRUE(same_bits(other.o.data(), got.o.data(), got.o.size())) << what << ", " << pool->size() << " workers";
        EXPECT_TRUE(same_bits(other.lse.data(), got.lse.data(), got.lse.size())) << what << ", " << pool->size() << " workers";
      }
    });
  }
}

// A sequence's tokens in one step, token by token, in drafts, in shuffled order and beside other sequences: the same bits.
TEST_F(AttendKernels, ATokensResultDependsOnItsOwnKeysAlone) {
  for (uint32_t seed = 0; seed < 8 && !HasFailure(); ++seed) {
    std::mt19937 random(seed + 1000);
    Options options = random_options(random);
    options.fused = false;
    const int length = 530 + int(seed) * 7, tokens = seed % 2 ? 40 : 130;
    World world(options, {length, 700, 90}, seed);
    on_every_set([&](const char* set) {
      const std::string what = join("seed ", seed, ", ", set, ", ", text(options));
      const World::Result whole = world.run({{0, length - tokens, tokens}}, &two_);
      const size_t row = whole.o.size() / size_t(tokens), heads = whole.lse.size() / size_t(tokens);
      auto expect_same = [&](const World::Result& got, int at, int from, int count, const std::string& how) {
        EXPECT_TRUE(same_bits(&got.o[size_t(at) * row], &whole.o[size_t(from) * row], size_t(count) * row)) << what << ", " << how;
        EXPECT_TRUE(same_bits(&got.lse[size_t(at) * heads], &whole.lse[size_t(from) * heads], size_t(count) * heads))
            << what << ", " << how;
      };
      for (int i = 0; i < tokens; i += 13) expect_same(world.run({{0, length - tokens + i, 1}}, &two_), 0, i, 1, "alone");
      for (int i = 0; i + 7 <= tokens; i += 31) expect_same(world.run({{0, length - tokens + i, 7}}, &three_), 0, i, 7, "a draft");
      const std::vector<Piece> batch = {{1, 660, 40}, {2, 89, 1}, {-1, 0, 2}, {0, length - 5, 5}, {1, 0, 30}};
      expect_same(world.run(batch, &three_), 43, tokens - 5, 5, "in a batch");
      std::vector<int> order(static_cast<size_t>(tokens));
      for (size_t i = 0; i < order.size(); ++i) order[i] = int(i);
      std::shuffle(order.begin(), order.end(), random);
      const World::Result shuffled = world.run({{0, length - tokens, tokens}}, &two_, &order);
      for (size_t i = 0; i < order.size(); ++i) expect_same(shuffled, int(i), order[i], 1, "shuffled");
    });
  }
}

// Enough parts that the slots fill and several rounds are needed.
TEST_F(AttendKernels, SplitsLongTextsInRounds) {
  Options options{.heads = 32, .groups = 2, .width = 64, .value_width = 256, .type = BF16, .learned = true};
  World world(options, {9000, 64}, 5);
  on_every_set([&](const char* set) {
    const World::Result alone = world.run({{0, 8996, 4}, {1, 63, 1}}, &one_);
    for (ThreadPool* pool : {&two_, &three_}) {
      const World::Result got = world.run({{0, 8996, 4}, {1, 63, 1}}, pool);
      EXPECT_TRUE(same_bits(got.o.data(), alone.o.data(), got.o.size())) << set;
      EXPECT_TRUE(same_bits(got.lse.data(), alone.lse.data(), got.lse.size())) << set;
    }
  });
  expect_close(world.run({{0, 8999, 1}}, &two_), world.run({{0, 8999, 1}}, nullptr), "one token of 9000");
}

TEST_F(AttendKernels, SkipsPagesThatAreNotThere) {
  for (bool causal : {true, false}) {
    Options options{.heads = 4, .groups = 1, .causal = causal};
    World world(options, {600, 64}, 3);
    for (int p : {0, 3, 4, 5, 6, 7}) world.lose(0, p);
    world.lose(1, 0);
    on_every_set([&](const char* set) {
      const std::vector<Piece> step = {{0, 500, 100}, {1, 10, 2}, {-1, 0, 1}};
      const World::Result got = world.run(step, &two_);
      expect_close(got, world.run(step, nullptr), set);
      EXPECT_EQ(got.o.back(), 0);
      EXPECT_EQ(got.lse.back(), -std::numeric_limits<float>::infinity());
    });
  }
}

TEST_F(AttendKernels, HandsNotANumberOn) {
  Options options{.heads = 2, .groups = 1};
  World world(options, {100}, 3);   // keys 100 to 127 are NaN
  on_every_set([&](const char* set) {
    const World::Result got = world.run({{0, 98, 3}}, &two_);
    EXPECT_TRUE(std::isfinite(got.lse[0])) << set;
    EXPECT_TRUE(std::isnan(got.lse[4])) << set;
  });
}

TEST_F(AttendKernels, AsksForLittleScratch) {
  Attend op;
  op.q = Tensor::of(F32, {1, 32, 128});
  op.k = op.v = Tensor::of(F16, {2048, 64, 8, 128});
  op.page = Tensor::of(I32, {1, 2048});   // 128 K tokens
  op.seq = op.pos = Tensor::of(I32, {1});
  op.shape();
  EXPECT_LT(scratch(op, 2), 6 << 20);
  op.q = Tensor::of(F32, {512, 32, 128});
  op.seq = op.pos = Tensor::of(I32, {512});
  op.shape();
  EXPECT_LT(scratch(op, 2), 8 << 20);
}

}  // namespace
}  // namespace folio
