// SPDX-License-Identifier: MIT
// The page law for mixers that fold: however a text is fed (in one go, in random pieces, with drafts that are rejected, forked at a page
// border, resumed from a slab), its outputs and slabs have the same bits. Through graphs on the CPU device, under every instruction set.
// A token is a number from which all its inputs are drawn, so equal texts are equal vectors; from `broken` on they are NaN.
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "cases.h"
#include "compare.h"
#include "every_set.h"
#include "frame.h"
#include "graph/device.h"
#include "texts.h"

namespace folio {
namespace {

struct Kind {
  const char* name;
  int gates;   // log decays of a token: 0, 1 a head, 2 a channel
  bool delta, normalise;
  int64_t width;   // of the value: 128 is read by whole registers, 40 is not
};
void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }

constexpr int64_t G = 1, H = 2, K = 16, pool_pages = 40;
constexpr int broken = 200000;

// A sequence: which pages hold its rows and its slabs.
struct Live {
  std::vector<int32_t> page, slab;
};

// Some tokens of a sequence, from `pos` on.
struct Ask {
  Live* live;
  int64_t pos;
  Text text;
};

class Mixer {
 public:
  explicit Mixer(const Kind& kind) : kind_(kind), device_(cpu(2)) {
    auto pool = [&](const Shape& shape) {
      const Tensor t = store_.zeros(F32, shape);
      poison(F32, t.data, t.count());
      return t;
    };
    memory_.rows_k = pool({pool_pages, page_tokens, G, K});
    memory_.rows_u = pool({pool_pages, page_tokens, H, kind_.width});
    if (kind.gates > 0) memory_.rows_g = pool({pool_pages, page_tokens, H, kind.gates == 2 ? K : 1});
    memory_.S = pool({pool_pages, H, K, kind_.width});
    if (kind.normalise) memory_.z = pool({pool_pages, H, K});
  }

  // Runs one step, with padding behind it; what each asks for.
  std::vector<Rows> step(const std::vector<Ask>& asks) {
    std::vector<int32_t> seq, pos, page, slab;
    Text ids;
    int64_t most = 1;
    for (const Ask& a : asks) {
      while (int64_t(a.live->page.size()) * page_tokens < a.pos + int64_t(a.text.size()))
        a.live->page.push_back(next_), a.live->slab.push_back(next_++);
      most = std::max(most, int64_t(a.live->page.size()));
    }
    EXPECT_LE(next_, pool_pages);
    for (size_t b = 0; b < asks.size(); ++b) {
      for (size_t i = 0; i < asks[b].text.size(); ++i)
        seq.push_back(int32_t(b)), pos.push_back(int32_t(asks[b].pos + int64_t(i))), ids.push_back(asks[b].text[i]);
      for (int64_t p = 0; p < most; ++p) {
        const bool there = p < int64_t(asks[b].live->page.size());
        page.push_back(there ? asks[b].live->page[size_t(p)] : -1);
        slab.push_back(there ? asks[b].live->slab[size_t(p)] : -1);
      }
    }
    seq.push_back(-1), pos.push_back(0), ids.push_back(0);
    Inputs in;
    const auto T = int64_t(seq.size()), B = int64_t(asks.size());
    Linear op = inputs(in, ids);
    op.page = in.ints({B, most}, page), op.slab = in.ints({B, most}, slab), op.seq = in.ints({T}, seq), op.pos = in.ints({T}, pos);
    auto graph = std::make_unique<Graph>();
    graph->output("o", graph->record(op).o);
    const auto program = device_->compile(std::move(graph));
    program->run();
    const float* o = program->output("o").at<float>();
    std::vector<Rows> results;
    for (const Ask& a : asks) {
      const auto n = int64_t(a.text.size()) * H * kind_.width;
      results.emplace_back(o, o + n);
      o += n;
    }
    return results;
  }
  // The slab of a page, z behind S.
  Rows slab(const Live& live, int64_t p) const {
    const int64_t id = live.slab[size_t(p)];
    const float* S = memory_.S.at<float>() + id * H * K * kind_.width;
    Rows all(S, S + H * K * kind_.width);
    if (kind_.normalise) all.insert(all.end(), memory_.z.at<float>() + id * H * K, memory_.z.at<float>() + (id + 1) * H * K);
    return all;
  }
  // One that goes on behind `pages` full pages of another: `rows` false if only the last slab is left of them.
  static Live follow(const Live& of, int64_t pages, bool rows) {
    Live live{{of.page.begin(), of.page.begin() + pages}, {of.slab.begin(), of.slab.begin() + pages}};
    for (int64_t p = 0; !rows && p < pages; ++p) {
      live.page[size_t(p)] = -1;
      if (p + 1 < pages) live.slab[size_t(p)] = -1;
    }
    return live;
  }

 private:
  Linear inputs(Inputs& in, const Text& ids) const {
    const auto T = int64_t(ids.size());
    Linear op = memory_;
    op.scale = 0.25f;
    op.q = in.store().zeros(F32, {T, G, K}), op.k = in.store().zeros(F32, {T, G, K}), op.v = in.store().zeros(F32, {T, H, kind_.width});
    if (kind_.gates == 1) op.g = in.store().zeros(F32, {T, H});
    if (kind_.gates == 2) op.g = in.store().zeros(F32, {T, H, K});
    if (kind_.delta) op.beta = in.store().zeros(F32, {T, H});
    for (int64_t t = 0; t < T; ++t) {
      Random random(uint64_t(ids[size_t(t)]), 5);
      auto fill = [&](const Tensor& x, auto draw) {
        const int64_t each = x.present() ? x.count() / T : 0;
        for (int64_t i = 0; i < each; ++i)
          x.at<float>()[t * each + i] = ids[size_t(t)] < broken ? float(draw()) : std::numeric_limits<float>::quiet_NaN();
      };
      auto feature = [&] { return kind_.normalise ? std::fabs(random.normal()) : 0.25 * random.normal(); };
      fill(op.q, feature), fill(op.k, feature), fill(op.v, [&] { return random.normal(); });
      fill(op.g, [&] { return -0.2 * random.uniform(); }), fill(op.beta, [&] { return 2 * random.uniform(); });
    }
    return op;
  }
  Kind kind_;
  std::unique_ptr<Device> device_;
  Store store_;
  Linear memory_;   // the pools alone
  int32_t next_ = 0;
};

// What a text gives in one step of its own.
struct Whole {
  Rows o;
  std::vector<Rows> slabs;
};
Whole in_one_go(const Kind& kind, const Text& text) {
  Mixer mixer(kind);
  Live live;
  Whole whole{mixer.step({{&live, 0, text}})[0], {}};
  for (size_t p = 0; p < text.size() / page_tokens; ++p) whole.slabs.push_back(mixer.slab(live, int64_t(p)));
  return whole;
}
void expect_whole(const Mixer& mixer, const Live& live, const Rows& o, const Whole& want, size_t first_page = 0) {
  ASSERT_TRUE(same(o, want.o)) << "outputs differ";
  for (float x : o) ASSERT_TRUE(std::isfinite(x));
  for (size_t p = first_page; p < want.slabs.size(); ++p)
    ASSERT_TRUE(same(mixer.slab(live, int64_t(p)), want.slabs[p])) << "slab of page " << p;
}

class Recurrent : public ::testing::TestWithParam<Kind> {};

TEST_P(Recurrent, PiecesGiveTheBitsOfOneGo) {
  with_every_set([&] {
    const Text a = text_of(1, 300), b = text_of(2, 135);
    const Whole want_a = in_one_go(GetParam(), a), want_b = in_one_go(GetParam(), b);
    std::mt19937 random{3};
    Mixer mixer(GetParam());
    Live live_a, live_b;
    Rows got_a, got_b;
    for (size_t at_a = 0, at_b = 0; at_a < a.size() || at_b < b.size();) {
      auto length = [&] { return 1 + random() % (random() % 2 ? 70 : 3); };
      const Text part_a = part_of(a, at_a, length()), part_b = part_of(b, at_b, length());
      const auto got = mixer.step({{&live_a, int64_t(at_a), part_a}, {&live_b, int64_t(at_b), part_b}});
      got_a.insert(got_a.end(), got[0].begin(), got[0].end()), got_b.insert(got_b.end(), got[1].begin(), got[1].end());
      at_a += part_a.size(), at_b += part_b.size();
    }
    expect_whole(mixer, live_a, got_a, want_a);
    expect_whole(mixer, live_b, got_b, want_b);
  });
}

TEST_P(Recurrent, RejectedDraftsLeaveNoTrace) {
  with_every_set([&] {
    const Text text = text_of(4, 210);
    const Whole want = in_one_go(GetParam(), text);
    std::mt19937 random{5};
    Mixer mixer(GetParam());
    Live live;
    Rows got;
    for (size_t at = 0; at < text.size();) {
      Text proposed = part_of(text, at, 1 + random() % 12);
      const size_t kept = proposed.size();
      for (size_t i = random() % 70; i > 0; --i)   // wrong, also over a page's border, and now and then no numbers at all
        proposed.push_back(int((random() % 4 ? 100000 : broken) + random() % 1000));
      const Rows o = mixer.step({{&live, int64_t(at), proposed}})[0];
      got.insert(got.end(), o.begin(), o.begin() + ptrdiff_t(kept * H * size_t(GetParam().width)));
      at += kept;
    }
    expect_whole(mixer, live, got, want);
  });
}

TEST_P(Recurrent, AForkAndAResumedTextGoOnAlike) {
  with_every_set([&] {
    const Text a = text_of(6, 200);
    Text b = a;
    for (size_t i = 128; i < b.size(); ++i) b[i] += 1;
    const Whole want_a = in_one_go(GetParam(), a), want_b = in_one_go(GetParam(), b);
    for (bool rows : {true, false}) {   // a fork shares rows and slabs; what is resumed has the slab alone
      Mixer mixer(GetParam());
      Live first;
      Rows got_a = mixer.step({{&first, 0, part_of(a, 0, 128)}})[0], got_b = got_a;
      Live second = Mixer::follow(first, 2, rows);
      for (size_t at = 128; at < a.size(); at += 9) {
        const auto got = mixer.step({{&first, int64_t(at), part_of(a, at, 9)}, {&second, int64_t(at), part_of(b, at, 9)}});
        got_a.insert(got_a.end(), got[0].begin(), got[0].end()), got_b.insert(got_b.end(), got[1].begin(), got[1].end());
      }
      expect_whole(mixer, first, got_a, want_a);
      expect_whole(mixer, second, got_b, want_b, 1);
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Linear, Recurrent,
                         ::testing::Values(Kind{"linear_attention", 0, false, true, 40}, Kind{"simple_gla", 1, false, false, 128},
                                           Kind{"gla", 2, false, false, 40}, Kind{"delta", 0, true, false, 128}, Kind{"gated_delta", 1, true, false, 128},
                                           Kind{"kda", 2, true, false, 128}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace folio
