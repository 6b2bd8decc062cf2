// SPDX-License-Identifier: MIT
// Latent attention under the page law, in both orders of work and under every instruction set: however a text is fed (in one go, in random
// pieces, with drafts that are rejected, forked, resumed), its outputs have the same bits, and both orders agree. Then the mixer in whole
// models: what must not be forgotten (negative controls), rows of q8_0, bad input.
#include <random>

#include "cases.h"
#include "changed_model.h"
#include "compare.h"
#include "every_set.h"
#include "fixtures.h"
#include "graph/device.h"
#include "texts.h"

namespace folio {
namespace {

constexpr int64_t H = 3, R = 32, dn = 12, dr = 32, dv = 20, pool_pages = 40;
using Pages = std::vector<int32_t>;

// Some tokens of a sequence, from `pos` on.
struct Ask {
  Pages* pages;
  int64_t pos;
  Text text;
};

// A token is a number from which all its inputs are drawn, so equal texts are equal vectors.
class World {
 public:
  World(DType rows, bool expand) : expand_(expand), device_(cpu(2)) {
    latent_ = store_.zeros(rows, {pool_pages, page_tokens, 1, R + dr});
    std::memset(latent_.data, 0xff, size_t(latent_.bytes()));   // NaN
    Inputs in;
    k_up_ = store_.copy(in.normal({H, dn, R}, F16, 0.2)), v_up_ = store_.copy(in.normal({H, dv, R}, F16, 0.2));
  }

  // Runs one step, with padding behind it: leaves the rows, then asks.
  std::vector<Rows> step(const std::vector<Ask>& asks) {
    std::vector<int32_t> seq, pos, page;
    Text ids;
    int64_t most = 1;
    for (const Ask& a : asks) {
      while (int64_t(a.pages->size()) * page_tokens < a.pos + int64_t(a.text.size())) a.pages->push_back(next_++);
      most = std::max(most, int64_t(a.pages->size()));
    }
    EXPECT_LE(next_, pool_pages);
    for (size_t b = 0; b < asks.size(); ++b) {
      for (size_t i = 0; i < asks[b].text.size(); ++i)
        seq.push_back(int32_t(b)), pos.push_back(int32_t(asks[b].pos + int64_t(i))), ids.push_back(asks[b].text[i]);
      for (int64_t p = 0; p < most; ++p) page.push_back(p < int64_t(asks[b].pages->size()) ? (*asks[b].pages)[size_t(p)] : -1);
    }
    seq.push_back(-1), pos.push_back(0), ids.push_back(0);
    Inputs in;
    const auto T = int64_t(seq.size());
    const Tensor q = in.store().zeros(F32, {T, H, dn + dr}), row = in.store().zeros(F32, {T, 1, R + dr});
    for (int64_t t = 0; t < T; ++t) {
      Random random(uint64_t(ids[size_t(t)]), 7);
      for (int64_t i = 0; i < H * (dn + dr); ++i) q.at<float>()[t * H * (dn + dr) + i] = float(random.normal());
      for (int64_t i = 0; i < R + dr; ++i) row.at<float>()[t * (R + dr) + i] = float(random.normal());
    }
    auto graph = std::make_unique<Graph>();
    const Tensor pages = in.ints({int64_t(asks.size()), most}, page), whose = in.ints({T}, seq), where = in.ints({T}, pos);
    graph->record(Append{.x = row, .page = pages, .seq = whose, .pos = where, .pool = latent_});
    const Mla op{.q = q.columns(0, dn), .q_rope = q.columns(dn, dr), .latent = latent_, .page = pages, .seq = whose, .pos = where,
                 .k_up = k_up_, .v_up = v_up_, .scale = 0.15f, .expand = expand_};
    graph->output("o", graph->record(op).o);
    const auto program = device_->compile(std::move(graph));
    program->run();
    const float* o = program->output("o").at<float>();
    std::vector<Rows> results;
    for (const Ask& a : asks) {
      results.emplace_back(o, o + int64_t(a.text.size()) * H * dv);
      o += int64_t(a.text.size()) * H * dv;
    }
    return results;
  }

 private:
  bool expand_;
  std::unique_ptr<Device> device_;
  Store store_;
  Tensor latent_, k_up_, v_up_;
  int32_t next_ = 0;
};

void expect_same(const Rows& a, const Rows& b) {
  for (float x : a) ASSERT_TRUE(std::isfinite(x));
  ASSERT_TRUE(same(a, b)) << "off by " << worst_difference(a, b);
}

struct Kind {
  DType rows;
  bool expand;
};
class PagedMla : public ::testing::TestWithParam<Kind> {
 protected:
  static World world() { return World(GetParam().rows, GetParam().expand); }
  static Rows in_one_go(const Text& text) {
    Pages pages;
    return world().step({{&pages, 0, text}})[0];
  }
};

TEST_P(PagedMla, PiecesGiveTheBitsOfOneGo) {
  with_every_set([&] {
    const Text a = text_of(1, 700), b = text_of(2, 135);   // more than a span of Attend's keys
    std::mt19937 random{3};
    World w = world();
    Pages pages_a, pages_b;
    Rows got_a, got_b;
    for (size_t at_a = 0, at_b = 0; at_a < a.size() || at_b < b.size();) {
      auto length = [&] { return 1 + random() % (random() % 2 ? 200 : 3); };
      const Text part_a = part_of(a, at_a, length()), part_b = part_of(b, at_b, length());
      const auto got = w.step({{&pages_a, int64_t(at_a), part_a}, {&pages_b, int64_t(at_b), part_b}});
      add(got_a, got[0]), add(got_b, got[1]);
      at_a += part_a.size(), at_b += part_b.size();
    }
    expect_same(got_a, in_one_go(a));
    expect_same(got_b, in_one_go(b));
  });
}

TEST_P(PagedMla, RejectedDraftsLeaveNoTrace) {
  with_every_set([&] {
    const Text text = text_of(4, 210);
    std::mt19937 random{5};
    World w = world();
    Pages pages;
    Rows got;
    for (size_t at = 0; at < text.size();) {
      Text proposed = part_of(text, at, 1 + random() % 12);
      const size_t kept = proposed.size();
      for (size_t i = random() % 70; i > 0; --i) proposed.push_back(int(100000 + random() % 1000));   // wrong, also over a page's border
      const Rows o = w.step({{&pages, int64_t(at), proposed}})[0];
      got.insert(got.end(), o.begin(), o.begin() + ptrdiff_t(kept * H * dv));
      at += kept;
    }
    expect_same(got, in_one_go(text));
  });
}

// Two sequences share the pages up to a border and differ behind it; one of them was left and is taken up again.
TEST_P(PagedMla, AForkAndAResumedTextGoOnAlike) {
  with_every_set([&] {
    const Text a = text_of(6, 200);
    Text b = a;
    for (size_t i = 128; i < b.size(); ++i) b[i] += 1;
    World w = world();
    Pages first;
    Rows got_a = w.step({{&first, 0, part_of(a, 0, 140)}})[0], got_b(got_a.begin(), got_a.begin() + 128 * H * dv);
    Pages second(first.begin(), first.begin() + 2);
    for (size_t at = 128; at < 146; at += 9) add(got_b, w.step({{&second, int64_t(at), part_of(b, at, 9)}})[0]);
    for (size_t at = 0; 140 + at < a.size(); at += 9) {
      std::vector<Ask> asks = {{&first, int64_t(140 + at), part_of(a, 140 + at, 9)}};
      const bool more = 146 + at < b.size();
      if (more) asks.push_back({&second, int64_t(146 + at), part_of(b, 146 + at, 9)});
      const auto got = w.step(asks);
      add(got_a, got[0]);
      if (more) add(got_b, got[1]);
    }
    expect_same(got_a, in_one_go(a));
    expect_same(got_b, in_one_go(b));
  });
}

INSTANTIATE_TEST_SUITE_P(All, PagedMla,
                         ::testing::Values(Kind{F32, false}, Kind{F32, true}, Kind{F16, false}, Kind{F16, true}, Kind{Q8_0, false},
                                           Kind{Q8_0, true}),
                         [](const auto& info) {
                           return std::string(format(info.param.rows).name) + (info.param.expand ? "_expanded" : "_absorbed");
                         });

TEST(Mla, BothOrdersAgree) {
  const Text text = text_of(8, 300);
  for (DType rows : {F32, F16, BF16, Q8_0}) {
    World absorbed(rows, false), expanded(rows, true);
    Pages one, other;
    EXPECT_LT(worst_difference(absorbed.step({{&one, 0, text}})[0], expanded.step({{&other, 0, text}})[0]), 1e-5f) << format(rows).name;
  }
}

// Rows of 8 bits against rows of 32: as near as an eight-bit number is to what it stands for.
TEST(Mla, RowsOfEightBitsAreNearly) {
  const Text text = text_of(9, 300);
  World whole(F32, false), eight(Q8_0, false), sixteen(F16, false);
  Pages a, b, c;
  const Rows want = whole.step({{&a, 0, text}})[0];
  EXPECT_LT(rms_difference(eight.step({{&b, 0, text}})[0], want), 2e-2);
  EXPECT_LT(rms_difference(sixteen.step({{&c, 0, text}})[0], want), 1e-3);
}

TEST(Mla, ExpandsWhereThatIsLessWork) {
  EXPECT_EQ(Mla::crossover(512, 128, 128), 171);   // DeepSeek-V2 and V3
  EXPECT_EQ(Mla::crossover(64, 64, 64), std::numeric_limits<int64_t>::max());
  for (const auto& [R_, n, v] : {std::array<int64_t, 3>{512, 128, 128}, {32, 16, 12}, {100, 3, 40}}) {
    auto work = [&](int64_t tokens, bool expand) {   // both times 2, without dr
      return tokens * (expand ? n + v : 2 * R_) + (expand ? R_ * (n + v) : 0);
    };
    const int64_t at = Mla::crossover(R_, n, v);
    EXPECT_LE(work(at, true), work(at, false));
    EXPECT_GT(work(at - 1, true), work(at - 1, false));
  }
}

std::string error_of(const std::function<void()>& what) {
  try {
    what();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}
bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// What the tests of the goldens would not see if it did not matter: mscale squared in the scale, interleaved pairs, YaRN's frequencies.
TEST(LatentAttention, MissesWithoutWhatMatters) {
  const fs::path dir = source_dir() / "tests/golden/hf/deepseek_v2";
  const std::string file = convert(dir, "mla-controls");
  const auto prompt = read_numbers<int32_t>(dir / "prompt.i32");
  const auto want = read_numbers<float>(dir / "logits_prompt.f32");
  auto off = [&](const std::string& key, const MetaValue& value) {
    return worst_difference(logits_of(*Changed(file, key, value).model, prompt, F32), want);
  };
  EXPECT_LT(off("name", std::string("the same")), 1e-4f);
  EXPECT_GT(off("mixer.0.scale", std::string("-")), 1e-2f);
  EXPECT_GT(off("mixer.0.rope", std::string("half")), 1e-2f);
  EXPECT_GT(off("mixer.0.rope", std::string("none")), 1e-2f);
  EXPECT_GT(off("mixer.0.rope_scaling", std::string("none")), 1e-2f);
  EXPECT_GT(off("mixer.0.norm_eps", 1e-1), 1e-2f);
}

// With the option nothing hangs on how a prompt is cut; without it the two orders of work differ in their last digits.
TEST(LatentAttention, DeterministicStepsGiveTheSameBits) {
  const fs::path dir = source_dir() / "tests/golden/hf/deepseek_v3";
  Loaded loaded(convert(dir, "mla-deterministic"));
  const auto prompt = read_numbers<int32_t>(dir / "prompt.i32");
  auto logits = [&](int chunk, bool deterministic) {
    Engine engine(*loaded.model, *loaded.device, {.context = 256, .chunk = 64, .deterministic = deterministic});
    Seq seq = engine.cache().open({});
    return all_logits(engine, seq, prompt, chunk);
  };
  const Rows want = logits(1, true);
  for (int chunk : {7, 40, 64}) EXPECT_TRUE(same(logits(chunk, true), want)) << chunk;
  EXPECT_FALSE(same(logits(64, false), want)) << "the prompt is too short to be expanded";
  EXPECT_LT(worst_difference(logits(64, false), want), 1e-4f);
}

TEST(LatentAttention, CachesOneLatentRowATokenAndLayer) {
  const std::string file = convert(source_dir() / "tests/golden/hf/deepseek_v3", "mla-state");
  Loaded loaded(file);
  const StateSpec state = loaded.model->state(F16);
  ASSERT_EQ(state.size(), 2u);
  for (const LayerSpec& layer : state) {
    ASSERT_EQ(layer.rows.size(), 1u);
    EXPECT_TRUE(layer.slabs.empty());
    EXPECT_EQ(layer.rows[0].shape, (Shape{1, 40}));
    EXPECT_EQ(layer.rows[0].type, F16);
  }
}

TEST(LatentAttention, TakesRowsOfEightBitsWhereTheyAreWholeBlocks) {
  const fs::path dir = source_dir() / "tests/golden/hf/deepseek_v3_fp8";
  Loaded loaded(convert(dir, "mla-eight", "--type f32"));
  const auto prompt = read_numbers<int32_t>(dir / "prompt.i32");
  const auto want = logits_of(*loaded.model, prompt, F32);
  for (int chunk : {1, 64}) EXPECT_LT(rms_difference(logits_of(*loaded.model, prompt, Q8_0, chunk), want), 3e-2) << chunk;
  Loaded narrow(convert(source_dir() / "tests/golden/hf/deepseek_v2", "mla-narrow"));
  EXPECT_TRUE(contains(error_of([&] { narrow.model->state(Q8_0); }), "not whole blocks of q8_0"));
  Loaded plain(convert(source_dir() / "tests/golden/hf/llama", "mla-llama"));
  EXPECT_TRUE(contains(error_of([&] { plain.model->state(Q8_0); }), "q8_0"));
}

TEST(LatentAttention, RefusesWhatDoesNotFit) {
  const std::string file = convert(source_dir() / "tests/golden/hf/deepseek_v3", "mla-bad");
  auto error = [&](const std::string& key, const MetaValue& value) { return error_of([&] { Changed(file, key, value); }); };
  EXPECT_TRUE(contains(error("mixer.0.heads", int64_t(3)), "mix.q_up.weight"));
  EXPECT_TRUE(contains(error("mixer.0.heads", int64_t(0)), "'mixer.0.heads' is 0"));
  EXPECT_TRUE(contains(error("mixer.0.rank", int64_t(16)), "mix.in.weight"));
  EXPECT_TRUE(contains(error("mixer.0.value_size", int64_t(1) << 40), "mixer.0.value_size"));
  EXPECT_TRUE(contains(error("mixer.0.q_rank", int64_t(-1)), "q_rank' is -1"));
  EXPECT_TRUE(contains(error("mixer.0.rope", std::string("spiral")), "rope 'spiral'"));
  EXPECT_TRUE(contains(error("mixer.0.rope_dims", int64_t(4)), "must turn all 8 numbers"));
  EXPECT_TRUE(contains(error("mixer.0.rope_scaling", std::string("ntk")), "rope scaling 'ntk'"));
  EXPECT_TRUE(contains(error("mixer.0.kind", std::string("mlb")), "known are: attention, mla"));
}

}  // namespace
}  // namespace folio
