// SPDX-License-Identifier: MIT
// The page law, as seen from outside: random scripts of open, reserve, propose, commit and close on several sequences with full and
// windowed rows. A shadow memory plays the device: every proposed token writes a tag where the page table says; before each step
// every row that an op may read must still hold the tag of the token that was committed there, every slab that of the token that filled
// its page.
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "state/cache.h"

namespace folio {
namespace {

struct Rows {
  int window, sinks;
  enum { rows, slabs, chain } keeps = rows;
};

class Shadow {
 public:
  Shadow(const std::vector<Rows>& kinds, const CacheOptions& options, uint64_t seed)
      : device_(cpu(1)), kinds_(kinds), cache_(*device_, spec(kinds), options), rng_(seed) {}

  void run(int actions) {
    for (int i = 0; i < actions; ++i) {
      if (open_.empty() || (int(open_.size()) < cache_.options().sequences && draw(4) == 0)) open_.push_back({cache_.open({}), {}});
      auto& live = open_[size_t(draw(int(open_.size())))];
      if (draw(20) == 0) close(live);
      else step(live);
      invariants();
    }
    while (!open_.empty()) close(open_.front());
    for (int k = 0; k < cache_.memory().kinds; ++k) EXPECT_EQ(cache_.free_pages(k), full_[k]);
  }

  static StateSpec spec(const std::vector<Rows>& kinds) {
    StateSpec spec;
    for (const Rows& rows : kinds)
      if (rows.keeps != Rows::rows) spec.push_back({.slabs = {{.name = "k", .shape = {3, 2}, .chain = rows.keeps == Rows::chain}}});
      else spec.push_back({.rows = {{.name = "k", .type = F32, .shape = {1, 1}, .window = rows.window, .sinks = rows.sinks}}});
    return spec;
  }
  void note_free() {
    for (int k = 0; k < cache_.memory().kinds; ++k) full_[k] = cache_.free_pages(k);
  }

 private:
  struct Live {
    Seq seq;
    std::vector<uint32_t> tags;   // what each committed token wrote
  };
  int draw(int n) { return int(rng_() % uint64_t(n)); }

  std::vector<int32_t> table(const Live& live, int kind) {
    std::vector<int32_t> ids(size_t(cache_.memory().most_pages));
    cache_.table(live.seq, kind, ids.data());
    return ids;
  }
  uint32_t& row(int kind, int32_t page, int64_t pos) { return memory_[{kind, page, int(pos % page_tokens)}]; }

  void step(Live& live) {
    const int n = 1 + draw(draw(3) == 0 ? cache_.options().step_tokens : 9);
    const int certain = draw(3) == 0 ? n : std::max(0, n - 1 - draw(cache_.options().uncertain));
    if (!cache_.reserve(live.seq, n, certain)) {
      EXPECT_TRUE(live.seq.length() + n > cache_.options().context || starved(n)) << "refused although there is room";
      return close(live);
    }
    std::vector<uint32_t> proposed;
    for (int i = 0; i < n; ++i) proposed.push_back(++tag_);
    for (int k = 0; k < int(kinds_.size()); ++k) {
      if (kinds_[size_t(k)].keeps != Rows::rows) {
        fold(live, k, proposed);
        continue;
      }
      const int kind = cache_.memory().layers[size_t(k)].row("k").kind;
      const auto ids = table(live, kind);
      for (int i = 0; i < n; ++i) {
        const int64_t pos = live.seq.length() + i;
        ASSERT_GE(ids[size_t(pos / page_tokens)], 0);
        row(kind, ids[size_t(pos / page_tokens)], pos) = proposed[size_t(i)];
      }
      for (int i = 0; i < n; ++i) readable(live, k, kind, ids, proposed, live.seq.length() + i);
    }
    const int kept = draw(3) == 0 ? std::max(certain, 1 + draw(n)) : n;
    cache_.commit(live.seq, std::vector<Token>(size_t(kept), 7));
    live.tags.insert(live.tags.end(), proposed.begin(), proposed.begin() + kept);
  }

  // The step goes on from the slabs that the law names, and leaves one in each page that it fills and that has one.
  void fold(const Live& live, int layer, const std::vector<uint32_t>& proposed) {
    const int kind = cache_.memory().layers[size_t(layer)].slab("k").kind;
    const auto ids = table(live, kind);
    for (int64_t full = live.seq.length() / page_tokens; full > 0; full &= full - 1) {
      ASSERT_GE(ids[size_t(full - 1)], 0) << "the slab of page " << full - 1 << " was given back";
      ASSERT_EQ(row(kind, ids[size_t(full - 1)], 0), live.tags[size_t(full * page_tokens - 1)]) << "the slab of page " << full - 1 << " was overwritten";
      if (kinds_[size_t(layer)].keeps == Rows::slabs) break;
    }
    for (size_t i = 0; i < proposed.size(); ++i) {
      const int64_t pos = live.seq.length() + int64_t(i);
      if (pos % page_tokens == page_tokens - 1 && ids[size_t(pos / page_tokens)] >= 0) row(kind, ids[size_t(pos / page_tokens)], 0) = proposed[i];
    }
  }

  // Every row that the token at `pos` may read holds what its token wrote.
  void readable(const Live& live, int layer, int kind, const std::vector<int32_t>& ids, const std::vector<uint32_t>& proposed, int64_t pos) {
    const Rows& rows = kinds_[size_t(layer)];
    for (int64_t j = 0; j <= pos; ++j) {
      if (rows.window > 0 && j <= pos - rows.window && j >= rows.sinks) continue;
      const int32_t page = ids[size_t(j / page_tokens)];
      ASSERT_GE(page, 0) << "row " << j << " is readable at " << pos << " but its page was given back";
      const uint32_t want = j < live.seq.length() ? live.tags[size_t(j)] : proposed[size_t(j - live.seq.length())];
      ASSERT_EQ(row(kind, page, j), want) << "row " << j << " was overwritten";
    }
  }

  bool starved(int n) {
    for (int k = 0; k < cache_.memory().kinds; ++k)
      if (cache_.free_pages(k) * page_tokens < n + page_tokens) return true;
    return false;
  }

  // No page is in two tables; used and free pages are all there are.
  void invariants() {
    for (int k = 0; k < cache_.memory().kinds; ++k) {
      std::set<int32_t> used;
      for (const Live& live : open_)
        for (int32_t id : table(live, k)) {
          if (id < 0) continue;
          ASSERT_TRUE(used.insert(id).second) << "page " << id << " stands in two tables";
        }
      ASSERT_EQ(int64_t(used.size()) + cache_.free_pages(k), full_[k]);
    }
  }

  void close(Live& live) {
    cache_.close(live.seq);
    std::swap(live, open_.back());
    open_.pop_back();
  }

  std::unique_ptr<Device> device_;
  std::vector<Rows> kinds_;
  Cache cache_;
  std::mt19937_64 rng_;
  std::vector<Live> open_;
  std::map<std::tuple<int, int32_t, int>, uint32_t> memory_;
  std::map<int, int64_t> full_;
  uint32_t tag_ = 0;
};

TEST(Cache, RandomScriptsKeepEveryReadableRow) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE(seed);
    Shadow shadow({{0, 0}, {100, 0}, {64, 4}, {0, 0}, {1, 0}}, {.context = 700, .sequences = 3, .step_tokens = 90}, seed);
    shadow.note_free();
    shadow.run(150);
    if (HasFatalFailure()) return;
  }
}

TEST(Cache, RandomScriptsKeepEverySlabThatIsGoneOnFrom) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE(seed);
    Shadow shadow({{64, 0}, {0, 0, Rows::slabs}, {0, 0, Rows::chain}, {0, 0, Rows::slabs}},
                  {.context = 2000, .sequences = 3, .step_tokens = 300, .uncertain = seed % 2 ? 64 : 150}, seed);
    shadow.note_free();
    shadow.run(200);
    if (HasFatalFailure()) return;
  }
}

TEST(Cache, SlabsAreFewAndUncertainTokensBounded) {
  auto device = cpu(1);
  Cache cache(*device, Shadow::spec({{64, 0}, {0, 0, Rows::slabs}, {0, 0, Rows::chain}}), {.context = 64 * 1024, .step_tokens = 512});
  EXPECT_EQ(cache.free_pages(1), 5);
  EXPECT_EQ(cache.free_pages(2), 5 + 11);
  EXPECT_EQ(cache.memory().layers[1].slab("k").tensor.shape, Shape({5, 3, 2}));
  Seq seq = cache.open({});
  EXPECT_THROW(cache.reserve(seq, 100), Error) << "too many tokens that may be rejected";
  for (int i = 0; i < 128; ++i) {
    ASSERT_TRUE(cache.reserve(seq, 512, 512)) << i;
    cache.commit(seq, std::vector<Token>(512, 1));
  }
  EXPECT_FALSE(cache.reserve(seq, 1, 1));
  cache.close(seq);
  // A long part that is certain and drafts behind it, from every place in a page.
  seq = cache.open({});
  for (int i = 0; i < 200; ++i) {
    const int n = 1 + i * 37 % 448;
    ASSERT_TRUE(cache.reserve(seq, n + 64, n)) << i;
    cache.commit(seq, std::vector<Token>(size_t(n), 1));
  }
  cache.close(seq);
}

TEST(Cache, WindowedLayersShareAKindAndNeedFewerPages) {
  auto device = cpu(1);
  Cache cache(*device, Shadow::spec({{0, 0}, {128, 0}, {128, 0}, {0, 0}}), {.context = 64 * 100, .sequences = 1, .step_tokens = 64});
  EXPECT_EQ(cache.memory().kinds, 2);
  EXPECT_EQ(cache.free_pages(0), 100);
  EXPECT_EQ(cache.free_pages(1), 5);
}

TEST(Cache, RefusesWhatDoesNotFit) {
  auto device = cpu(1);
  Cache cache(*device, Shadow::spec({{0, 0}}), {.context = 100, .sequences = 1, .step_tokens = 64});
  Seq seq = cache.open({});
  EXPECT_FALSE(cache.reserve(seq, 101));
  EXPECT_TRUE(cache.reserve(seq, 100));
  cache.commit(seq, std::vector<Token>(60, 1));
  EXPECT_EQ(seq.length(), 60);
  EXPECT_FALSE(cache.reserve(seq, 41));
  EXPECT_TRUE(cache.reserve(seq, 40));
  Seq other = cache.open({});
  EXPECT_FALSE(cache.reserve(other, 1)) << "both pages are taken";
  cache.close(seq);
  EXPECT_TRUE(cache.reserve(other, 1));
  cache.close(other);
}

TEST(Cache, RefusesSenselessOptions) {
  auto device = cpu(1);
  EXPECT_THROW(Cache(*device, {}, {.context = 0}), Error);
  EXPECT_THROW(Cache(*device, {}, {.context = 10, .sequences = 0}), Error);
}

}  // namespace
}  // namespace folio
