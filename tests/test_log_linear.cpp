// SPDX-License-Identifier: MIT
// LogLinear as a sequence sees it: a text fed in pieces, with drafts that are partly rejected, forked at a page border and resumed
// there has the same bits as in one go; and what comes out is what the definition says, of which neither the kernel nor the
// reference is a copy: one sum over all tokens before, with the level of each.
#include <gtest/gtest.h>

#include <random>

#include "frame.h"
#include "ops/linear.h"
#include "state/spec.h"

namespace folio {
namespace {

struct Shapes {
  bool delta;
  int heads = 2, groups = 1, K = 16, V = 24, levels = 10, most = 12;
  int buckets() const { return delta ? std::max(1, std::min(levels - LogLinear::fine, 4)) : 1; }
};

// What the tokens of a text are: as many rows of each input as the text can be long.
struct Text {
  Tensor q, k, v, g, beta, lambda;
  Text(Inputs& in, const Shapes& s) {
    const int64_t T = s.most * page_tokens;
    q = in.normal({T, s.groups, s.K}), k = in.normal({T, s.groups, s.K}), v = in.normal({T, s.heads, s.V});
    g = in.uniform(-0.1, 0, {T, s.heads}), lambda = in.uniform(0, 2, {T, s.heads, s.levels});
    if (s.delta) beta = in.uniform(0, 1, {T, s.heads});
    for (int64_t i = 0; i < k.rows(); ++i) {
      double sum = 1e-6;
      for (int64_t e = 0; e < s.K; ++e) sum += k.row<float>(i)[e] * k.row<float>(i)[e];
      for (int64_t e = 0; e < s.K; ++e) k.row<float>(i)[e] /= float(std::sqrt(sum));
    }
  }
};

struct Sequence {
  const Text* text;
  int64_t length = 0;
  std::vector<int32_t> rows, slabs;
  std::vector<float> o;   // of the committed tokens
};

// New tokens of a sequence: `tokens` are its own, then `wrong` of another text, which will be rejected.
struct Part {
  Sequence* sequence;
  int64_t tokens, wrong = 0;
  const Text* other = nullptr;
  bool certain = false;   // so that pages in between need no slab
};

// Pools, page ids and steps. Ids are given back as the cache gives them back, and used again.
class World {
 public:
  World(Inputs& in, const Shapes& s, int threads = 3) : in_(in), s_(s), device_(cpu(threads)) {
    constexpr int64_t pages = 40;
    for (int32_t id = pages; id-- > 0;) free_rows_.push_back(id), free_slabs_.push_back(id);
    auto pool = [&](const Shape& shape) {
      Tensor t = in.store().zeros(F32, shape);
      poison(F32, t.data, t.count());
      return t;
    };
    op_.rows_k = pool({pages, page_tokens, s.groups, s.K}), op_.rows_u = pool({pages, page_tokens, s.heads, s.V});
    op_.rows_g = pool({pages, page_tokens, s.heads, 1});
    if (s.delta) op_.rows_w = pool({pages, page_tokens, s.heads, s.K}), op_.rows_x = pool({pages, page_tokens, s.heads, page_tokens});
    op_.S = pool({pages, s.heads, s.buckets() * s.K, s.V});
    if (!s.delta) op_.c = pool({pages, s.heads, 2});
  }
  void step(const std::vector<Part>& parts);
  // What a following step would go on from.
  std::vector<float> memory(const Sequence& q) const;
  // Another sequence that shares all full pages; what the first has of the page after stays its own.
  Sequence fork(const Sequence& q) {
    Sequence two = q;
    two.length = q.length / page_tokens * page_tokens;
    two.rows.resize(size_t(two.length / page_tokens));
    two.slabs.resize(two.rows.size());
    two.o.resize(size_t(two.length * s_.heads * s_.V));
    shared_ = true;
    return two;
  }

 private:
  int32_t take(std::vector<int32_t>& free) {
    EXPECT_FALSE(free.empty());
    const int32_t id = free.back();
    free.pop_back();
    return id;
  }
  void reserve(Sequence& q, int64_t tokens, int64_t certain) {
    for (int64_t p = q.length / page_tokens; p * page_tokens < q.length + tokens; ++p) {
      if (p == int64_t(q.rows.size())) q.rows.push_back(-1), q.slabs.push_back(-1);
      if (q.rows[size_t(p)] < 0) q.rows[size_t(p)] = take(free_rows_);
      if (q.slabs[size_t(p)] < 0 && slab_wanted(p, (q.length + certain) / page_tokens, !s_.delta)) q.slabs[size_t(p)] = take(free_slabs_);
    }
  }
  void commit(Sequence& q, int64_t tokens) {
    q.length += tokens;
    auto give = [&](std::vector<int32_t>& ids, size_t p, std::vector<int32_t>& free) {
      if (ids[p] >= 0 && !shared_) free.insert(free.begin(), ids[p]);   // forks share ids, which nobody counts here
      ids[p] = -1;
    };
    for (size_t p = 0; p < q.rows.size(); ++p) {
      const bool beyond = int64_t(p) * page_tokens >= q.length;
      if (beyond || int64_t(p + 1) * page_tokens <= q.length) give(q.rows, p, free_rows_);
      if (beyond || !slab_wanted(int64_t(p), q.length / page_tokens, !s_.delta)) give(q.slabs, p, free_slabs_);
    }
    const size_t pages = size_t((q.length + page_tokens - 1) / page_tokens);
    q.rows.resize(pages), q.slabs.resize(pages);
  }
  Inputs& in_;
  const Shapes s_;
  std::unique_ptr<Device> device_;
  LogLinear op_;
  std::vector<int32_t> free_rows_, free_slabs_;
  bool shared_ = false;
};

void World::step(const std::vector<Part>& parts) {
  Store store;
  int64_t T = 1;   // one token of padding
  for (const Part& part : parts) T += part.tokens + part.wrong;
  const auto B = int64_t(parts.size());
  LogLinear op = op_;
  op.page = store.zeros(I32, {B, s_.most}), op.slab = store.zeros(I32, {B, s_.most});
  op.seq = store.zeros(I32, {T}), op.pos = store.zeros(I32, {T});
  Tensor Text::*const fields[] = {&Text::q, &Text::k, &Text::v, &Text::g, &Text::beta, &Text::lambda};
  Tensor LogLinear::*const inputs[] = {&LogLinear::q, &LogLinear::k, &LogLinear::v, &LogLinear::g, &LogLinear::beta, &LogLinear::lambda};
  for (int i = 0; i < 6; ++i) {
    const Tensor& like = parts[0].sequence->text->*fields[i];
    if (!like.present()) continue;
    Shape shape = like.shape;
    shape.dim[0] = T;
    op.*inputs[i] = store.zeros(F32, shape);
  }
  std::fill_n(op.seq.at<int32_t>(), T, -1);
  std::fill_n(op.page.at<int32_t>(), B * s_.most, -1);
  std::fill_n(op.slab.at<int32_t>(), B * s_.most, -1);
  int64_t t = 0;
  for (int64_t b = 0; b < B; ++b) {
    const Part& part = parts[size_t(b)];
    Sequence& q = *part.sequence;
    reserve(q, part.tokens + part.wrong, part.certain ? part.tokens : 0);
    std::copy(q.rows.begin(), q.rows.end(), op.page.row<int32_t>(b));
    std::copy(q.slabs.begin(), q.slabs.end(), op.slab.row<int32_t>(b));
    for (int64_t i = 0; i < part.tokens + part.wrong; ++i, ++t) {
      op.seq.at<int32_t>()[t] = int32_t(b), op.pos.at<int32_t>()[t] = int32_t(q.length + i);
      const Text& from = i < part.tokens ? *q.text : *part.other;
      for (int f = 0; f < 6; ++f) {
        const Tensor& to = op.*inputs[f];
        if (to.present()) std::memcpy(to.slice(t, 1).data, (from.*fields[f]).slice(q.length + i, 1).data, size_t(to.slice(t, 1).bytes()));
      }
    }
  }
  auto graph = std::make_unique<Graph>();
  graph->output("o", graph->record(op).o);
  const auto program = device_->compile(std::move(graph));
  program->run();
  const float* o = program->output("o").at<float>();
  const int64_t width = s_.heads * s_.V;
  for (const Part& part : parts) {
    part.sequence->o.insert(part.sequence->o.end(), o, o + part.tokens * width);
    o += (part.tokens + part.wrong) * width;
    commit(*part.sequence, part.tokens);
  }
  for (int64_t i = 0; i < width; ++i) EXPECT_EQ(o[i], 0) << "padding";
}

std::vector<float> World::memory(const Sequence& q) const {
  std::vector<float> all;
  auto take = [&](const Tensor& pool, int64_t id, int64_t from, int64_t rows) {
    const float* at = pool.slice(id, 1).at<float>();
    all.insert(all.end(), at + from, at + from + rows);
  };
  const int64_t full = q.length / page_tokens, matrix = s_.K * s_.V;
  for (int64_t p = 0; p < full; ++p) {
    if (!slab_wanted(p, full, !s_.delta)) continue;
    const int64_t id = q.slabs[size_t(p)];
    if (!s_.delta) take(op_.c, id, 0, op_.c.dim(1) * 2);
    for (int64_t h = 0; h < s_.heads; ++h)
      for (int m = 0; m < s_.buckets(); ++m)
        if (!s_.delta || (full >> m & 1)) take(op_.S, id, (h * s_.buckets() + m) * matrix, matrix);
  }
  for (const Tensor* pool : {&op_.rows_k, &op_.rows_u, &op_.rows_g, &op_.rows_w, &op_.rows_x})
    if (q.length % page_tokens > 0 && pool->present())
      take(*pool, q.rows[size_t(full)], 0, q.length % page_tokens * pool->dim(2) * pool->dim(3));
  return all;
}

void expect_same(const std::vector<float>& got, const std::vector<float>& want, const char* what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (size_t i = 0; i < want.size(); ++i)
    ASSERT_EQ(std::memcmp(&got[i], &want[i], 4), 0) << what << " " << i << ": " << got[i] << ", expected " << want[i];
}

class LogLinearText : public ::testing::TestWithParam<bool> {
 protected:
  Inputs in_;
  Shapes s_{.delta = GetParam()};
};

TEST_P(LogLinearText, PiecesDraftsForksAndResumesChangeNoBit) {
  const Text text(in_, s_), other(in_, s_), broken(in_, s_);
  for (Tensor Text::*field : {&Text::q, &Text::k, &Text::v, &Text::g, &Text::beta, &Text::lambda})
    if ((broken.*field).present()) poison(F32, (broken.*field).data, (broken.*field).count());
  std::mt19937 rng(5);
  auto draw = [&](int from, int to) { return int64_t(from + int(rng() % unsigned(to - from + 1))); };
  for (int round = 0; round < 6; ++round) {
    const int64_t length = draw(300, int(s_.most) * 64 - 100);
    World whole(in_, s_, 1), cut(in_, s_, 3);
    Sequence once{&text}, pieces{&text}, beside{&other};
    whole.step({{&once, length, 0, nullptr, round % 2 == 0}});
    while (pieces.length < length) {
      const int64_t n = std::min(draw(1, 70), length - pieces.length), wrong = draw(0, 2) == 0 ? draw(1, 90) : 0;
      std::vector<Part> parts = {{&pieces, n, wrong, draw(0, 1) ? &other : &broken, draw(0, 1) == 0}};
      if (beside.length < length && draw(0, 1)) parts.insert(parts.begin(), {&beside, std::min(draw(1, 9), length - beside.length)});
      cut.step(parts);
    }
    expect_same(pieces.o, once.o, "output");
    expect_same(cut.memory(pieces), whole.memory(once), "memory");
    // A fork reads other tokens from the page border on; the first goes on as if nothing had happened.
    Sequence fork = cut.fork(pieces);
    fork.text = &other;
    cut.step({{&fork, 90}, {&pieces, 70}});
    Sequence again{&text};
    World fresh(in_, s_, 2);
    fresh.step({{&again, fork.length - 90}});
    again.text = &other;
    for (int64_t left = 90; left > 0; left -= 30) fresh.step({{&again, 30}});
    expect_same(fork.o, again.o, "a fork's output");
    expect_same(cut.memory(fork), fresh.memory(again), "a fork's memory");
    whole.step({{&once, 70}});
    expect_same(pieces.o, once.o, "output beside a fork");
  }
}

// o_t = Σ_s λ_t[level] A_ts u_s in double, over the whole text.
std::vector<double> by_definition(const Text& text, const Shapes& s, int64_t T, int64_t h) {
  const int64_t group = h / (s.heads / s.groups);
  std::vector<double> b(static_cast<size_t>(T)), X(size_t(T * T)), o(size_t(T * s.V));
  for (int64_t t = 0; t < T; ++t) b[size_t(t)] = text.g.row<float>(t)[h] + (t > 0 ? b[size_t(t - 1)] : 0);
  auto dot = [&](const Tensor& x, int64_t t, int64_t j) {
    double sum = 0;
    for (int64_t i = 0; i < s.K; ++i) sum += double(x.row<float>(t * s.groups + group)[i]) * text.k.row<float>(j * s.groups + group)[i];
    return sum * std::exp(b[size_t(t)] - b[size_t(j)]);
  };
  for (int64_t t = 0; t < T; ++t) {
    double* row = &X[size_t(t * T)];
    row[t] = 1;
    for (int64_t j = 0; s.delta && j < t; ++j) {
      const double L = text.beta.row<float>(t)[h] * dot(text.k, t, j);
      for (int64_t i = 0; i <= j; ++i) row[i] -= L * X[size_t(j * T + i)];
    }
  }
  for (int64_t t = 0; t < T; ++t) {
    std::vector<double> A(static_cast<size_t>(t + 1));
    for (int64_t j = 0; j <= t; ++j) {
      const double P = dot(text.q, t, j);
      for (int64_t i = s.delta ? 0 : j; i <= j; ++i) A[size_t(i)] += P * X[size_t(j * T + i)];
    }
    for (int64_t i = 0; i <= t; ++i) {
      const int level = i == t ? 0 : 1 + int(std::floor(std::log2(double(t ^ i))));
      if (level >= s.levels) continue;
      const double by = A[size_t(i)] * text.lambda.row<float>(t * s.heads + h)[level] * (s.delta ? text.beta.row<float>(i)[h] : 1);
      for (int64_t e = 0; e < s.V; ++e) o[size_t(t * s.V + e)] += by * text.v.row<float>(i * s.heads + h)[e];
    }
  }
  return o;
}

// Also with tables too short for the text: what is older weighs nothing.
TEST_P(LogLinearText, IsWhatTheDefinitionSays) {
  for (int levels : {12, 9, 8, 5}) {
    s_.levels = levels;
    const Text text(in_, s_);
    const int64_t T = 400;
    World world(in_, s_);
    Sequence sequence{&text};
    for (int64_t n : {150, 1, 41, 64, 144}) world.step({{&sequence, n, 0, nullptr, true}});
    ASSERT_EQ(sequence.length, T);
    for (int64_t h = 0; h < s_.heads; ++h) {
      const std::vector<double> want = by_definition(text, s_, T, h);
      double most = 0, worst = 0;
      for (int64_t i = 0; i < T * s_.V; ++i) {
        most = std::max(most, std::fabs(want[size_t(i)]));
        worst = std::max(worst, std::fabs(want[size_t(i)] - sequence.o[size_t((i / s_.V * s_.heads + h) * s_.V + i % s_.V)]));
      }
      EXPECT_LT(worst, 1e-5 * most) << levels << " levels, head " << h;
    }
  }
}

// A table of L levels ends after 2^(L−1) tokens, and there the text begins anew: what follows is as if nothing had been before.
TEST_P(LogLinearText, BeginsAnewWhereTheTableEnds) {
  s_.levels = 8;
  const int64_t reach = LogLinear::reach(s_.levels), T = 2 * reach + 70;
  ASSERT_EQ(reach, 128);
  const Text text(in_, s_);
  Text later = text;
  for (Tensor Text::*field : {&Text::q, &Text::k, &Text::v, &Text::g, &Text::beta, &Text::lambda})
    if ((later.*field).present()) later.*field = (text.*field).slice(reach, T - reach);
  World world(in_, s_);
  Sequence whole{&text}, end{&later};
  for (int64_t n : {int64_t(100), int64_t(60), T - 160}) world.step({{&whole, n, 0, nullptr, true}});
  for (int64_t n : {int64_t(70), T - reach - 70}) world.step({{&end, n, 0, nullptr, true}});
  const size_t behind = size_t(reach * s_.heads * s_.V);
  ASSERT_EQ(whole.o.size(), end.o.size() + behind);
  float most = 0, worst = 0;
  for (size_t i = 0; i < end.o.size(); ++i) {
    most = std::max(most, std::fabs(end.o[i]));
    worst = std::max(worst, std::fabs(end.o[i] - whole.o[behind + i]));
  }
  EXPECT_LT(worst, 1e-5f * most);
}

// With all weights 1 nothing is left of the levels: the base mixer.
TEST_P(LogLinearText, WithWeightsOfOneItIsLinear) {
  s_.levels = 12;
  Text text(in_, s_);
  std::fill_n(text.lambda.at<float>(), text.lambda.count(), 1.0f);
  const int64_t T = 330;
  World world(in_, s_);
  Sequence sequence{&text};
  world.step({{&sequence, T}});
  Store store;
  Linear base{.q = text.q.slice(0, T), .k = text.k.slice(0, T), .v = text.v.slice(0, T), .g = text.g.slice(0, T)};
  if (s_.delta) base.beta = text.beta.slice(0, T);
  base.page = store.zeros(I32, {1, 6}), base.slab = store.zeros(I32, {1, 6});
  base.seq = store.zeros(I32, {T}), base.pos = store.zeros(I32, {T});
  for (int32_t i = 0; i < 6; ++i) base.page.at<int32_t>()[i] = i, base.slab.at<int32_t>()[i] = -1;
  for (int32_t t = 0; t < T; ++t) base.pos.at<int32_t>()[t] = t;
  base.rows_k = store.zeros(F32, {6, page_tokens, s_.groups, s_.K});
  base.rows_u = store.zeros(F32, {6, page_tokens, s_.heads, s_.V});
  base.rows_g = store.zeros(F32, {6, page_tokens, s_.heads, 1}), base.S = store.zeros(F32, {1, s_.heads, s_.K, s_.V});
  base.shape();
  base.o.data = store.bytes(base.o.bytes());
  base.reference(Worker{});
  float most = 0, worst = 0;
  for (int64_t i = 0; i < base.o.count(); ++i) {
    most = std::max(most, std::fabs(base.o.at<float>()[i]));
    worst = std::max(worst, std::fabs(base.o.at<float>()[i] - sequence.o[size_t(i)]));
  }
  EXPECT_LT(worst, 1e-5f * most);
}

INSTANTIATE_TEST_SUITE_P(All, LogLinearText, ::testing::Bool(), [](const auto& info) { return info.param ? "Delta" : "Mamba"; });

}  // namespace
}  // namespace folio
