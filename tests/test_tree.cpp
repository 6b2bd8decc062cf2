// SPDX-License-Identifier: MIT
// A cache that remembers against one that forgets everything: random scripts of open, step, commit, keep, close and preempt on texts that
// begin alike. Each row and slab holds the fingerprint of the exact text it was computed from, so a page that is shared wrongly, given back
// too early, written twice, copied to host memory or back wrongly, or left out of the books is found at once.
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "base/file.h"
#include "base/hash.h"
#include "fixtures.h"
#include "state/cache.h"

namespace folio {
namespace {

struct Layer {
  int window = 0, sinks = 0;
  enum { rows, slabs, chain } keeps = rows;
};

StateSpec spec_of(const std::vector<Layer>& layers) {
  StateSpec spec;
  for (const Layer& l : layers)
    if (l.keeps != Layer::rows) spec.push_back({.slabs = {{.name = "k", .shape = {3, 2}, .chain = l.keeps == Layer::chain}}});
    else spec.push_back({.rows = {{.name = "k", .type = F32, .shape = {1, 2}, .window = l.window, .sinks = l.sinks}}});
  return spec;
}

using Text = std::vector<Token>;

class Shadow {
 public:
  Shadow(const std::vector<Layer>& layers, const CacheOptions& options, uint64_t seed)
      : device_(cpu(1)), layers_(layers), cache_(*device_, spec_of(layers), options), rng_(seed) {
    pools_.resize(size_t(cache_.memory().kinds));
    for (const LayerMemory& layer : cache_.memory().layers)
      for (const auto* pools : {&layer.rows, &layer.slabs})
        for (const Pool& pool : *pools) pools_[size_t(pool.kind)] = pool.tensor;
  }

  // Whether memory is never short, so that each text must find the longest prefix that anybody has read.
  bool plenty = false;
  size_t most_live = 5;
  // Adopted and asked tokens of all texts that were opened.
  int64_t adopted = 0, asked = 0;
  int preempted = 0;

  void run(int actions) {
    for (int i = 0; i < actions && !::testing::Test::HasFatalFailure(); ++i) {
      const int what = draw(100);
      if (live_.empty() || (what < 25 && live_.size() < most_live)) open();
      else if (what < 90) step(live_[size_t(draw(int(live_.size())))]);
      else if (what < 93) cache_.keep(live_[size_t(draw(int(live_.size())))].seq);
      else close(size_t(draw(int(live_.size()))));
      books();
    }
    while (!live_.empty()) close(0);
    books();
    for (int k = 0; k < cache_.memory().kinds; ++k) EXPECT_EQ(cache_.available_pages(k), cache_.pages(k));
  }
  Cache& cache() { return cache_; }

 private:
  struct Live {
    Seq seq;
    Text text;         // what it will say
    std::string scope;
  };
  int draw(int n) { return int(rng_() % uint64_t(n)); }
  static uint64_t print(const Text& text, int64_t tokens, const std::string& scope, uint64_t salt = 0) {
    uint64_t h = 1469598103934665603u ^ salt;
    for (char c : scope) h = (h ^ uint64_t(uint8_t(c) + 1000)) * 1099511628211u;
    for (int64_t i = 0; i < tokens; ++i) h = (h ^ uint64_t(uint32_t(text[size_t(i)]))) * 1099511628211u;
    return h | 1;
  }
  std::vector<int32_t> table(const Seq& seq, int kind) const {
    std::vector<int32_t> ids(size_t(cache_.memory().most_pages));
    cache_.table(seq, kind, ids.data());
    return ids;
  }
  int kind_of(size_t layer) const {
    const LayerMemory& m = cache_.memory().layers[layer];
    return layers_[layer].keeps == Layer::rows ? m.row("k").kind : m.slab("k").kind;
  }
  uint64_t& cell(int kind, int32_t page, int64_t pos) {
    const Tensor& pool = pools_[size_t(kind)];
    return *reinterpret_cast<uint64_t*>(pool.data + page * (pool.bytes() / pool.dim(0)) + (pos % page_tokens) * int64_t(sizeof(uint64_t)));
  }

  // Whole pages of three sorts and then some tokens: many texts begin alike and differ at a border or within a page.
  void open() {
    Live live;
    if (!said_.empty() && draw(5) > 0) {
      const Text& old = said_[said_.size() - 1 - size_t(draw(int(std::min<size_t>(said_.size(), 12))))];
      live.text.assign(old.begin(), old.begin() + draw(int(old.size()) + 1));
    }
    for (int pages = draw(4); pages > 0; --pages) live.text.insert(live.text.end(), size_t(page_tokens), Token(draw(3)));
    for (int i = draw(30); i >= 0; --i) live.text.push_back(Token(draw(3)));
    live.text.resize(std::min<size_t>(live.text.size(), size_t(cache_.options().context)));
    live.scope = draw(8) ? "" : "other";
    live.seq = cache_.open(std::span(live.text).first(live.text.size() - 1), live.scope);
    const int64_t length = live.seq.length();
    ASSERT_EQ(length % page_tokens, 0);
    ASSERT_LT(length, int64_t(live.text.size()));
    ASSERT_TRUE(std::equal(live.seq.text().begin(), live.seq.text().end(), live.text.begin()));
    adopted += length, asked += int64_t(live.text.size());
    int64_t longest = 0;
    while ((longest + 1) * page_tokens < int64_t(live.text.size()) && read_.contains(print(live.text, (longest + 1) * page_tokens, live.scope)))
      ++longest;
    ASSERT_TRUE(!plenty || length == longest * page_tokens) << length << " tokens of " << longest * page_tokens;
    live_.push_back(std::move(live));
  }

  void step(Live& live) {
    const int64_t length = live.seq.length();
    if (length == cache_.options().context) return;
    const int n = int(std::min<int64_t>(cache_.options().context - length, 1 + draw(draw(2) ? cache_.options().step_tokens : 9)));
    const int certain = draw(3) == 0 ? n : std::max(0, n - 1 - draw(cache_.options().uncertain));
    while (int64_t(live.text.size()) < length + n) live.text.push_back(Token(draw(3)));
    if (!cache_.reserve(live.seq, n, certain)) {   // somebody goes, and comes back another time
      ++preempted;
      return close(size_t(draw(int(live_.size()))));
    }
    const int kept = std::max(certain, 1 + draw(n));
    Text proposed = live.text;
    for (int64_t i = length + kept; i < length + n; ++i) proposed[size_t(i)] += 3 + draw(3);   // wrong drafts
    for (size_t l = 0; l < layers_.size(); ++l) {
      if (layers_[l].keeps == Layer::rows) rows(live, l, proposed, n);
      else slabs(live, l, proposed, n);
      if (::testing::Test::HasFatalFailure()) return;
    }
    cache_.commit(live.seq, std::span(live.text).subspan(size_t(length), size_t(kept)));
    for (int64_t end = page_tokens; end <= length + kept; end += page_tokens) read_.insert(print(live.text, end, live.scope));
  }

  void rows(const Live& live, size_t layer, const Text& proposed, int n) {
    const int kind = kind_of(layer);
    const auto ids = table(live.seq, kind);
    const int64_t length = live.seq.length();
    const auto shared = shared_pages(kind);
    for (int64_t pos = length; pos < length + n; ++pos) {
      const int32_t id = ids[size_t(pos / page_tokens)];
      ASSERT_GE(id, 0);
      ASSERT_EQ(shared.at(id), 1) << "a page that others read is written";
      cell(kind, id, pos) = print(proposed, pos + 1, live.scope);
    }
    const Layer& l = layers_[layer];
    for (int64_t pos : {length, length + n - 1})   // the first and the last see all that any of them sees
      for (int64_t j = 0; j <= pos; ++j) {
        if (l.window > 0 && j <= pos - l.window && j >= l.sinks) continue;
        const int32_t id = ids[size_t(j / page_tokens)];
        ASSERT_GE(id, 0) << "row " << j << " is read at " << pos << ", but its page is not there";
        ASSERT_EQ(cell(kind, id, j), print(proposed, j + 1, live.scope)) << "row " << j << " is of another text";
      }
  }

  void slabs(const Live& live, size_t layer, const Text& proposed, int n) {
    const int kind = kind_of(layer);
    const auto ids = table(live.seq, kind);
    const int64_t length = live.seq.length();
    for (int64_t full = length / page_tokens; full > 0; full &= full - 1) {
      ASSERT_GE(ids[size_t(full - 1)], 0) << "the slab of page " << full - 1 << " is not there";
      ASSERT_EQ(cell(kind, ids[size_t(full - 1)], 0), print(proposed, full * page_tokens, live.scope, 9)) << "a slab of another text";
      if (layers_[layer].keeps == Layer::slabs) break;
    }
    for (int64_t pos = length; pos < length + n; ++pos) {
      const int32_t id = ids[size_t(pos / page_tokens)];
      if (pos % page_tokens == page_tokens - 1 && id >= 0) cell(kind, id, 0) = print(proposed, pos + 1, live.scope, 9);
    }
  }

  // In how many tables each page of a kind stands.
  std::map<int32_t, int> shared_pages(int kind) const {
    std::map<int32_t, int> tables;
    for (const Live& live : live_)
      for (int32_t id : table(live.seq, kind)) tables[id] += id >= 0;
    return tables;
  }

  // Free pages, the tree's and those of sequences alone are all there are.
  void books() {
    for (int k = 0; k < cache_.memory().kinds; ++k) {
      std::set<int32_t> own;
      for (const Live& live : live_) {
        const auto ids = table(live.seq, k);
        for (auto p = size_t(live.seq.length() / page_tokens); p < ids.size(); ++p) {
          if (ids[p] < 0) continue;
          ASSERT_TRUE(own.insert(ids[p]).second) << "two sequences write page " << ids[p];
        }
      }
      ASSERT_EQ(cache_.free_pages(k) + cache_.remembered_pages(k) + int64_t(own.size()), cache_.pages(k)) << "kind " << k;
    }
    ASSERT_LE(cache_.host_bytes(), cache_.options().host_bytes);
  }

  void close(size_t i) {
    said_.push_back({live_[i].seq.text().begin(), live_[i].seq.text().end()});
    cache_.close(live_[i].seq);
    live_.erase(live_.begin() + ptrdiff_t(i));
  }

  std::unique_ptr<Device> device_;
  std::vector<Layer> layers_;
  Cache cache_;
  std::mt19937_64 rng_;
  std::vector<Tensor> pools_;   // of each kind, the last
  std::vector<Live> live_;
  std::vector<Text> said_;
  std::set<uint64_t> read_;   // every prefix of whole pages that anybody has committed
};

const std::vector<std::vector<Layer>> models = {
    {{}},                                                                    // attention
    {{}, {.window = 100}, {.window = 64, .sinks = 4}, {}},                   // windows and sinks
    {{}, {.window = 64}, {.keeps = Layer::slabs}},                           // a hybrid
    {{.window = 64}, {.keeps = Layer::slabs}},                               // folded alone
    {{.window = 64}, {.window = 3}, {.keeps = Layer::chain}, {.keeps = Layer::slabs}},   // log-linear
};

TEST(RadixCache, RemembersWhatOneThatForgetsWouldCompute) {
  for (size_t m = 0; m < models.size(); ++m)
    for (Evict policy : {Evict::lru, Evict::lfu, Evict::fifo, Evict::cost})
      for (int sequences : {2, 6}) {   // of up to five that are open: memory is short, or there is some to spare
        SCOPED_TRACE(testing::Message() << "model " << m << ", policy " << int(policy) << ", room for " << sequences);
        Shadow shadow(models[m], {.context = 900, .sequences = sequences, .step_tokens = 200, .uncertain = 70, .remember = true, .evict = policy},
                      17 * m + uint64_t(policy));
        shadow.run(400);
        if (HasFatalFailure()) return;
        EXPECT_GT(shadow.adopted, 0) << "of " << shadow.asked;
        EXPECT_TRUE(shadow.preempted > 0 || sequences == 6 || m >= 3) << "memory was never short";
      }
}

TEST(RadixCache, FindsTheLongestPrefixWhereNothingHasToGo) {
  Shadow shadow(models[0], {.context = 900, .sequences = 300, .step_tokens = 200, .remember = true}, 5);
  shadow.plenty = true;
  shadow.run(1500);
  EXPECT_EQ(shadow.preempted, 0);
  EXPECT_GT(shadow.adopted, shadow.asked / 4);
}

TEST(RadixCache, HostMemoryGivesBackWhatThePoolsLost) {
  for (size_t m = 0; m < models.size(); ++m) {
    int64_t back = 0;
    for (Evict policy : {Evict::lru, Evict::cost})
      for (int64_t host_bytes : {int64_t(20000), int64_t(1) << 30}) {   // short itself, and plenty
        SCOPED_TRACE(testing::Message() << "model " << m << ", policy " << int(policy) << ", host memory " << host_bytes);
        Shadow shadow(models[m], {.context = 900, .sequences = 2, .step_tokens = 200, .uncertain = 70, .remember = true, .host_bytes = host_bytes,
                                  .evict = policy}, 29 * m + uint64_t(policy));
        shadow.run(m < 3 ? 400 : 1500);
        if (HasFatalFailure()) return;
        EXPECT_GT(shadow.cache().host_bytes(), 0);
        back += shadow.cache().brought_back();
      }
    EXPECT_GT(back, 0) << "model " << m;
  }
}

TEST(RadixCache, WithHostMemoryThePoolsOfOneTextRememberAll) {
  Shadow shadow(models[0], {.context = 900, .sequences = 1, .step_tokens = 200, .remember = true, .host_bytes = int64_t(1) << 30}, 6);
  shadow.plenty = true, shadow.most_live = 1;
  shadow.run(3000);
  EXPECT_EQ(shadow.preempted, 0);
  EXPECT_GT(shadow.cache().brought_back(), 100);
  EXPECT_THROW(Shadow(models[0], {.context = 900, .remember = true, .host_bytes = 100}, 1), Error) << "not one page";
}

// A sequence that reads a whole text.
Seq read(Cache& cache, const Text& text, int chunk = 128) {
  Seq seq = cache.open(std::span(text).first(text.size() - 1));
  while (seq.length() < int64_t(text.size())) {
    const int n = int(std::min<int64_t>(chunk, int64_t(text.size()) - seq.length()));
    EXPECT_TRUE(cache.reserve(seq, n, n));
    cache.commit(seq, std::span(text).subspan(size_t(seq.length()), size_t(n)));
  }
  return seq;
}
Text text_of(int64_t tokens, Token first = 0) {
  Text text;
  for (int64_t i = 0; i < tokens; ++i) text.push_back(Token(first + i * 7 % 1000));
  return text;
}

TEST(RadixCache, SharesWholePagesAndLeavesATokenToRead) {
  const auto device = cpu(1);
  Cache cache(*device, spec_of({{}}), {.context = 1024, .sequences = 2, .step_tokens = 128, .remember = true});
  const Text text = text_of(640);
  Seq first = read(cache, text);
  EXPECT_EQ(cache.remembered_pages(0), 10);
  Seq second = cache.open(std::span(text).first(639));
  EXPECT_EQ(second.length(), 9 * 64) << "the last page is full, but not its text";
  Text other = text;
  other[300] = 5000;
  Seq third = cache.open(other);
  EXPECT_EQ(third.length(), 4 * 64);
  EXPECT_EQ(cache.free_pages(0), cache.pages(0) - 10) << "adopting takes no page";
  Seq fourth = cache.open(text, "somebody else");
  EXPECT_EQ(fourth.length(), 0);
  for (Seq* seq : {&first, &second, &third, &fourth}) cache.close(*seq);
  EXPECT_EQ(cache.remembered_pages(0), 10);
}

TEST(RadixCache, TwoThatReadTheSameKeepOnePage) {
  const auto device = cpu(1);
  Cache cache(*device, spec_of({{}}), {.context = 1024, .sequences = 2, .step_tokens = 128, .remember = true});
  const Text text = text_of(256);
  Seq a = cache.open({}), b = cache.open({});
  for (Seq* seq : {&a, &b})
    for (int at = 0; at < 256; at += 128) {
      ASSERT_TRUE(cache.reserve(*seq, 128, 128));
      cache.commit(*seq, std::span(text).subspan(size_t(at), 128));
    }
  EXPECT_EQ(cache.remembered_pages(0), 4);
  EXPECT_EQ(cache.free_pages(0), cache.pages(0) - 4);
  cache.close(a), cache.close(b);
}

// Which of three texts goes when room is wanted for a fourth.
TEST(RadixCache, PoliciesLetDifferentTextsGo) {
  const std::map<Evict, int> gone = {{Evict::lru, 1}, {Evict::lfu, 2}, {Evict::fifo, 0}, {Evict::cost, 1}};
  for (const auto& [policy, which] : gone) {
    const auto device = cpu(1);
    Cache cache(*device, spec_of({{}}), {.context = 64 * 13, .step_tokens = 64 * 13, .remember = true, .evict = policy});
    const std::vector<Text> texts = {text_of(256, 0), text_of(256, 2000), text_of(256, 4000)};
    auto use = [&](int i) {
      Seq seq = read(cache, texts[size_t(i)]);
      cache.close(seq);
    };
    use(0), use(1), use(2);
    use(0), use(0), use(1), use(1), use(0), use(2);   // used least: the third; longest ago: the second
    Seq fourth = read(cache, text_of(128, 6000));     // one page is free, one has to go
    for (int i = 0; i < 3; ++i) {
      Seq seq = cache.open(texts[size_t(i)]);
      EXPECT_EQ(seq.length(), i == which ? 192 : 256) << "policy " << int(policy) << ", text " << i;
      cache.close(seq);
    }
    cache.close(fourth);
  }
  EXPECT_EQ(evict_policy("lfu"), Evict::lfu);
  EXPECT_THROW(evict_policy("random"), Error);
}

// Where a second text began to differ, a third can go on, though nobody stopped there when it was read.
TEST(RadixCache, SlabsStayWhereTextsEndedAndBeganToDiffer) {
  const auto device = cpu(1);
  const auto spec = spec_of({{}, {.window = 64}, {.keeps = Layer::slabs}});
  Cache cache(*device, spec, {.context = 4096, .sequences = 2, .step_tokens = 512, .remember = true});
  Text a = text_of(1500), b = a, c = a;
  for (size_t i = 700; i < a.size(); ++i) b[i] += 1000, c[i] += 2000;
  Seq seq = read(cache, a, 512);
  cache.keep(seq);
  cache.close(seq);
  seq = cache.open(a);
  EXPECT_EQ(seq.length(), 1472) << "where it ended";
  cache.close(seq);
  seq = cache.open(b);
  EXPECT_EQ(seq.length(), 512) << "the last border of a step before they differ";
  cache.close(seq);
  seq = read(cache, b, 512);
  cache.close(seq);
  seq = cache.open(c);
  EXPECT_EQ(seq.length(), 640) << "the last page that they share";
  cache.close(seq);
}

TEST(RadixCache, ALimitInBytesIsKept) {
  const auto device = cpu(1);
  const auto spec = spec_of({{}, {.window = 64}, {.keeps = Layer::slabs}});
  Cache small(*device, spec, {.context = 4096, .sequences = 4, .step_tokens = 64, .bytes = 100000, .remember = true});
  EXPECT_LE(small.bytes(), 100000);
  EXPECT_GT(small.bytes(), 100000 - 2 * 64 * 8 * 2);
  EXPECT_THROW(Cache(*device, spec, {.context = 4096, .sequences = 4, .step_tokens = 64, .bytes = 1000, .remember = true}), Error);
}

// What each page holds, so that one can see it come back.
void fill(Cache& cache, const Seq& seq, int32_t salt) {
  for (const LayerMemory& layer : cache.memory().layers)
    for (const auto* pools : {&layer.rows, &layer.slabs})
      for (const Pool& pool : *pools) {
        std::vector<int32_t> ids(size_t(cache.memory().most_pages));
        cache.table(seq, pool.kind, ids.data());
        const int64_t each = pool.tensor.bytes() / pool.tensor.dim(0);
        for (size_t p = 0; p < ids.size(); ++p)
          if (ids[p] >= 0) std::memset(pool.tensor.data + ids[p] * each, int(salt + 3 * int32_t(p)) & 255, size_t(each));
      }
}

const std::vector<Layer> hybrid = {{}, {.window = 64}, {.keeps = Layer::slabs}, {}};
const CacheOptions for_files = {.context = 1024, .sequences = 2, .step_tokens = 64, .remember = true};

std::string saved(const std::string& name) {
  const auto device = cpu(1);
  Cache cache(*device, spec_of(hybrid), for_files);
  Seq seq = cache.open({}, "one");
  const Text text = text_of(300);
  while (seq.length() < 300) {
    const int n = int(std::min<int64_t>(64, 300 - seq.length()));
    EXPECT_TRUE(cache.reserve(seq, n, n));
    fill(cache, seq, 5);
    cache.commit(seq, std::span(text).subspan(size_t(seq.length()), size_t(n)));
  }
  cache.close(seq);
  const std::string path = (scratch_dir() / name).string();
  cache.save(path, 77);
  return path;
}

TEST(CacheFile, ComesBackAsItWas) {
  const std::string path = saved("tree.kv");
  const auto device = cpu(1);
  Cache cache(*device, spec_of(hybrid), for_files);
  EXPECT_EQ(cache.restore(path, 77), 256);
  EXPECT_EQ(cache.restore(path, 77), 0) << "it is there already";
  Seq other = cache.open(text_of(300));
  EXPECT_EQ(other.length(), 0) << "another scope";
  Seq seq = cache.open(text_of(300), "one");
  EXPECT_EQ(seq.length(), 256);
  const Tensor rows = cache.memory().layers[3].row("k").tensor, slabs = cache.memory().layers[2].slab("k").tensor;
  std::vector<int32_t> ids(size_t(cache.memory().most_pages));
  cache.table(seq, cache.memory().layers[3].row("k").kind, ids.data());
  for (int p = 0; p < 4; ++p) EXPECT_EQ(uint8_t(rows.data[ids[size_t(p)] * (rows.bytes() / rows.dim(0)) + 17]), 5 + 3 * p);
  cache.table(seq, cache.memory().layers[2].slab("k").kind, ids.data());
  EXPECT_EQ(uint8_t(slabs.data[ids[3] * (slabs.bytes() / slabs.dim(0))]), 5 + 3 * 3);
  cache.close(seq), cache.close(other);
  Cache small(*device, spec_of(hybrid), {.context = 128, .sequences = 1, .step_tokens = 64, .remember = true});
  EXPECT_EQ(small.restore(path, 77), 128) << "as much as there is room for";
}

TEST(CacheFile, HoldsWhatIsInHostMemoryToo) {
  const std::string path = (scratch_dir() / "tiers.kv").string();
  const CacheOptions options = {.context = 1024, .step_tokens = 64, .remember = true, .host_bytes = 1 << 24};
  const std::vector<Layer> layers = {{}, {}};
  const auto device = cpu(1);
  Cache cache(*device, spec_of(layers), options);
  for (Token first : {0, 2000, 4000}) {   // 13 pages each, of 16 that the pools have
    Seq seq = cache.open({});
    const Text text = text_of(832, first);
    while (seq.length() < 832) {
      ASSERT_TRUE(cache.reserve(seq, 64, 64));
      fill(cache, seq, first / 1000);
      cache.commit(seq, std::span(text).subspan(size_t(seq.length()), 64));
    }
    cache.close(seq);
  }
  EXPECT_EQ(cache.brought_back(), 0);
  cache.save(path, 7);
  Cache both(*device, spec_of(layers), options), pools(*device, spec_of(layers), for_files);
  EXPECT_EQ(both.restore(path, 7), 3 * 832);
  EXPECT_EQ(pools.restore(path, 7), 32 * 64) << "as much as there is room for";
  for (Token first : {0, 2000, 4000, 0}) {
    Seq seq = both.open(text_of(832, first));
    EXPECT_EQ(seq.length(), 832);
    const Tensor rows = both.memory().layers[1].row("k").tensor;
    std::vector<int32_t> ids(size_t(both.memory().most_pages));
    both.table(seq, 0, ids.data());
    for (int p = 0; p < 13; ++p) EXPECT_EQ(uint8_t(rows.data[ids[size_t(p)] * (rows.bytes() / rows.dim(0)) + 30]), first / 1000 + 3 * p);
    both.close(seq);
  }
}

TEST(CacheFile, ForeignAndDamagedOnesAreRefused) {
  const std::string path = saved("good.kv"), bad = path + ".bad", good = read_file(path);
  const auto device = cpu(1);
  auto refused = [&](const std::string& bytes, uint64_t fingerprint, const std::vector<Layer>& layers = hybrid) {
    FileWriter out(bad);
    out.write(bytes);
    out.commit();
    Cache cache(*device, spec_of(layers), for_files);
    try {
      cache.restore(bad, fingerprint);
    } catch (const Error&) {
      for (int k = 0; k < cache.memory().kinds; ++k) EXPECT_EQ(cache.available_pages(k), cache.pages(k));
      return true;
    }
    return false;
  };
  EXPECT_FALSE(refused(good, 77));
  EXPECT_TRUE(refused(good, 78)) << "another model";
  EXPECT_TRUE(refused(good, 77, {{}}));
  EXPECT_TRUE(refused(good, 77, {{}, {.window = 64}, {.keeps = Layer::slabs}})) << "a layer less";
  for (size_t n : {size_t(0), size_t(7), size_t(40), good.size() / 2, good.size() - 1})
    EXPECT_TRUE(n == 0 || refused(good.substr(0, n), 77)) << n;   // MappedFile refuses the empty one
  for (size_t i = 0; i < good.size(); i += 1 + i / 9) {
    std::string flipped = good;
    flipped[i] = char(flipped[i] ^ 16);
    EXPECT_TRUE(refused(flipped, 77)) << "byte " << i;
  }
  // Numbers that lie, under a hash that does not.
  for (size_t at = 32; at < 200; at += 4) {
    std::string forged = good;
    const uint32_t much = 0x7fffffff;
    std::memcpy(&forged[at], &much, 4);
    const uint64_t hash = hash64(&forged[48], forged.size() - 48);
    std::memcpy(&forged[24], &hash, 8);
    refused(forged, 77);   // or harmless: nothing falls
  }
}

}  // namespace
}  // namespace folio
