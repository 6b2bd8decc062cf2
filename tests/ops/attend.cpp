// SPDX-License-Identifier: MIT
// Cases of attention over pages and of merging two parts. Pool rows that hold no token of the sequence are NaN: a kernel that lets
// them into a sum, were it with weight zero, is found out.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "cpu/simd/simd.h"
#include "frame.h"
#include "pages.h"

namespace folio {

struct Wish {
  std::vector<int> lengths;
  int fresh = 1, heads = 4, groups = 2, size = 64, width = 64, padding = 0;
  DType type = F32;
  bool shuffle = false;
};

static Attend attention(Inputs& in, const Wish& wish) {
  const Pages text(in, {wish.lengths, wish.fresh, wish.padding, wish.shuffle});
  return {.q = in.normal({text.seq.dim(0), wish.heads, wish.size}),
          .k = text.pool(in, wish.type, wish.groups, wish.size),
          .v = text.pool(in, wish.type, wish.groups, wish.width),
          .page = text.page,
          .seq = text.seq,
          .pos = text.pos,
          .length = in.ints({int64_t(wish.lengths.size())}, {wish.lengths.begin(), wish.lengths.end()}),
          .scale = 1 / std::sqrt(float(wish.size))};
}

// Errors of f32 sums in any order and of a fast exponential: a logit moves by some 1e-6 of Σ|q·k|, a weight by as much of itself,
// and the result by that much of the largest |v|.
static std::vector<Tensor> allowed(Inputs& in, const Attend& op) {
  const int64_t heads = op.q.dim(1), share = heads / op.k.dim(2);
  const std::vector<double> q = elements(op.q), k = elements(op.k), v = elements(op.v);
  Tensor o = in.store().zeros(F32, {op.q.dim(0), heads, op.v.dim(3)}), lse = in.store().zeros(F32, {op.q.dim(0), heads});
  for (int64_t item = 0; item < op.q.rows(); ++item) {
    const int64_t t = item / heads, g = item % heads / share;
    const Attend::Span keys = op.span(t);
    double sum = 1, most = 0;
    for (int64_t j = 0; j < keys.end; ++j) {
      if (j >= keys.sinked && j < keys.first) continue;
      const int64_t id = op.page.row<int32_t>(op.seq.at<int32_t>()[t])[j / page_tokens];
      if (id < 0) continue;
      const int64_t row = (id * page_tokens + j % page_tokens) * op.k.dim(2) + g;
      double dot = 0;
      for (int64_t d = 0; d < op.q.cols(); ++d) dot += std::fabs(q[size_t(item * op.q.cols() + d)] * k[size_t(row * op.k.cols() + d)]);
      sum = std::max(sum, dot * op.scale);
      for (int64_t d = 0; d < op.v.cols(); ++d) most = std::max(most, std::fabs(v[size_t(row * op.v.cols() + d)]));
    }
    lse.at<float>()[item] = float(2e-6 * sum);
    for (int64_t d = 0; d < o.cols(); ++d) o.row<float>(item)[d] = float(4e-6 * sum * most);
  }
  return {o, lse};
}

// One sequence of four keys in page 1, two tokens at places 1 and 3, two heads on one group.
static Attend by_hand(Inputs& in) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> k(2 * 64 * 2, nan), v(2 * 64 * 2, nan);
  const std::vector<float> keys = {1, 0, 0, 1, 1, 1, -1, 0.5f}, rows = {1, 2, 3, 4, -1, 0, 0.5f, 8};
  std::copy(keys.begin(), keys.end(), k.begin() + 128);
  std::copy(rows.begin(), rows.end(), v.begin() + 128);
  return {.q = in.values({2, 2, 2}, {1, 0, 0.5f, -1, 2, 1, -1, 1}),
          .k = in.values({2, 64, 1, 2}, k),
          .v = in.values({2, 64, 1, 2}, v),
          .page = in.ints({1, 2}, {1, -1}),
          .seq = in.ints({2}, {0, 0}),
          .pos = in.ints({2}, {1, 3}),
          .scale = 0.5f};
}

static void known_numbers(CaseList<Attend>& list) {
  auto put = [&](const Attend& op, const std::vector<float>& o, const std::vector<float>& lse) {
    list.known(op, {list.values({2, 2, 2}, o), list.values({2, 2}, lse)});
  };
  Attend op = by_hand(list);
  put(op, {1.75508134f, 2.75508134f, 1.6416426f, 2.6416426f, 0.366797372f, 1.69620015f, 1.04447716f, 4.60587976f},
      {0.974076984f, 0.636871006f, 2.23227622f, 1.68124718f});
  op.causal = false, op.length = list.ints({1}, {4});
  put(op, {0.673589597f, 2.47751921f, 0.80225036f, 3.00572553f, 0.366797372f, 1.69620015f, 1.04447716f, 4.60587976f},
      {1.59004573f, 1.18658883f, 2.23227622f, 1.68124718f});
  op = by_hand(list), op.window = 2;
  put(op, {1.75508134f, 2.75508134f, 1.6416426f, 2.6416426f, -0.856975803f, 0.762795719f, 0.0187680488f, 5.43342959f},
      {0.974076984f, 0.636871006f, 1.60020656f, 1.13687101f});
  op.sinks = 1;
  put(op, {1.75508134f, 2.75508134f, 1.6416426f, 2.6416426f, -0.199055891f, 1.20113279f, 0.178602172f, 4.87415387f},
      {0.974076984f, 0.636871006f, 2.03762132f, 1.31467232f});
  op = by_hand(list), op.softcap = 0.75f;
  put(op, {1.78487049f, 2.78487049f, 1.6733166f, 2.6733166f, 0.785475046f, 2.38794543f, 1.04254032f, 4.36050032f},
      {0.93538373f, 0.651599594f, 1.80732333f, 1.60231031f});
  op = by_hand(list), op.slopes = list.values({2}, {0.5f, 0.25f});
  put(op, {2, 3, 1.75508134f, 2.75508134f, -0.0127110816f, 1.6845153f, 0.852688533f, 5.14285942f},
      {0.693147181f, 0.474076984f, 1.4824473f, 1.43086267f});
  op.window = 3, op.softcap = 2;
  put(op, {2.00508129f, 3.00508129f, 1.76047356f, 2.76047356f, -0.0354057698f, 1.94155418f, 0.842345159f, 5.3299438f},
      {0.688078753f, 0.477123784f, 1.178397f, 1.33930354f});
  op = by_hand(list), op.seq = list.ints({2}, {-1, 0}), op.page = list.ints({1, 2}, {-1, -1});  // padding, and a sequence without a page
  const float none = -std::numeric_limits<float>::infinity();
  put(op, std::vector<float>(8, 0.0f), std::vector<float>(4, none));
}

// A logit for each head that has no value: o is smaller, lse larger; one that is far below the keys' or −∞ changes nothing.
static void known_sinks(CaseList<Attend>& list) {
  const float none = -std::numeric_limits<float>::infinity();
  auto put = [&](Attend op, const std::vector<float>& sink, const std::vector<float>& o, const std::vector<float>& lse) {
    op.sink = list.values({2}, sink);
    list.known(op, {list.values({2, 2, 2}, o), list.values({2, 2}, lse)});
  };
  Attend op = by_hand(list);
  put(op, {0.5f, -1}, {1.08174134f, 1.69808961f, 1.37423335f, 2.21134207f, 0.311668953f, 1.44126693f, 0.977537638f, 4.31069341f},
      {1.45802009f, 0.814672325f, 2.39514422f, 1.7474821f});
  put(op, {40, -40}, {1.97494148e-17f, 3.10021211e-17f, 1.6416426f, 2.6416426f, 1.45248676e-17f, 6.71681001e-17f, 1.04447716f, 4.60587976f},
      {40, 0.636871006f, 40, 1.68124718f});
  op.window = 2, op.sinks = 1;
  put(op, {3, none}, {0.204480887f, 0.320988813f, 1.6416426f, 2.6416426f, -0.0550194855f, 0.331995741f, 0.178602172f, 4.87415387f},
      {3.12387296f, 0.636871006f, 3.32351956f, 1.31467232f});
  op = by_hand(list), op.window = 3, op.softcap = 2, op.slopes = list.values({2}, {0.5f, 0.25f});
  put(op, {-0.25f, 2}, {1.44107481f, 2.15978622f, 0.315192322f, 0.494230694f, -0.0285601147f, 1.56615745f, 0.286888592f, 1.81528921f},
      {1.01837413f, 2.19727891f, 1.39326064f, 2.41639944f});
  op = by_hand(list), op.seq = list.ints({2}, {-1, 0}), op.page = list.ints({1, 2}, {-1, -1});  // padding has no sink, no keys have one
  put(op, {0.5f, none}, std::vector<float>(8, 0.0f), {none, none, 0.5f, none});
}

// Prompts of more rows than a tile has, that begin and end within pages; every shape that kernels have; and all options, some together.
static void prompts(CaseList<Attend>& list, DType type) {
  auto put = [&](const Attend& op) { list.add(op, allowed(list, op)); };
  for (const auto& [size, width] : {std::pair{64, 64}, {80, 80}, {128, 128}, {136, 72}, {192, 192}, {32, 16}})
    put(attention(list, {.lengths = {150}, .fresh = 75, .heads = 2, .groups = 1, .size = size, .width = width, .type = type}));
  put(attention(list, {.lengths = {90, 160, 67}, .fresh = 80, .heads = 6, .groups = 2, .size = 16, .width = 16, .padding = 5, .type = type}));
  put(attention(list, {.lengths = {390}, .fresh = 130, .heads = 1, .groups = 1, .type = type}));
  Wish wish = {.lengths = {200}, .fresh = 140, .heads = 2, .groups = 2, .size = 32, .width = 32, .padding = 3, .type = type};
  Attend op = attention(list, wish);
  op.window = 70, op.sinks = 5;
  put(op);
  op.softcap = 1.5f, op.slopes = list.uniform(0.01, 0.5, {2});
  put(op);
  op = attention(list, wish);
  op.causal = false;
  put(op);
  op = attention(list, wish);
  op.page.row<int32_t>(0)[1] = -1;
  put(op);
  put(attention(list, {.lengths = {30, 70}, .fresh = 35, .heads = 2, .groups = 1, .size = 16, .width = 16, .type = type, .shuffle = true}));
}

// Learned sinks of every size, with all that changes how the keys are cut up: windows, first tokens, groups, parts, prompts, padding.
static void learned_sinks(CaseList<Attend>& list, DType type) {
  auto put = [&](Attend op) {
    const float none = -std::numeric_limits<float>::infinity();
    op.sink = list.normal({op.q.dim(1)}, F32, 2);
    if (op.q.dim(1) > 2) op.sink.at<float>()[0] = none, op.sink.at<float>()[1] = 12, op.sink.at<float>()[2] = -1000;
    list.add(op, allowed(list, op));
  };
  for (int length : {1, 65, 200}) put(attention(list, {.lengths = {length}, .type = type}));
  put(attention(list, {.lengths = {1000}, .size = 16, .width = 16, .type = type}));   // in parts
  put(attention(list, {.lengths = {700, 5, 300}, .heads = 8, .groups = 1, .size = 16, .width = 16, .padding = 1, .type = type}));
  put(attention(list, {.lengths = {40, 90}, .fresh = 8, .padding = 3, .type = type, .shuffle = true}));
  put(attention(list, {.lengths = {70}, .fresh = 4, .heads = 3, .groups = 3, .size = 5, .width = 7, .type = type}));
  Attend op = attention(list, {.lengths = {170, 3}, .fresh = 9, .padding = 1, .type = type});
  op.window = 64, op.sinks = 4;
  put(op);
  op.softcap = 1.5f, op.slopes = list.uniform(0.01, 0.5, {4});
  put(op);
  op = attention(list, {.lengths = {190}, .fresh = 4, .type = type});
  for (int i : {0, 1, 2}) op.page.row<int32_t>(0)[i] = -1;   // nothing but the sink
  put(op);
  put(attention(list, {.lengths = {90, 160, 67}, .fresh = 80, .heads = 6, .groups = 2, .size = 16, .width = 16, .padding = 5, .type = type}));
  put(attention(list, {.lengths = {390}, .fresh = 130, .heads = 1, .groups = 1, .type = type}));
  put(attention(list, {.lengths = {150}, .fresh = 75, .heads = 2, .groups = 1, .size = 136, .width = 72, .type = type}));
  op = attention(list, {.lengths = {200}, .fresh = 140, .heads = 2, .groups = 2, .size = 32, .width = 32, .padding = 3, .type = type});
  op.window = 70;
  put(op);
}

CASES(Attend) {
  known_numbers(*this);
  auto put = [this](const Attend& op) { add(op, allowed(*this, op)); };
  for (DType type : {F32, F16, BF16}) {
    for (int length : {1, 2, 63, 64, 65, 200}) put(attention(*this, {.lengths = {length}, .type = type}));  // decoding
    put(attention(*this, {.lengths = {1000}, .size = 16, .width = 16, .type = type}));                      // far on
    for (int fresh : {7, 65, 130})
      put(attention(*this, {.lengths = {130}, .fresh = fresh, .heads = 2, .groups = 1, .size = 32, .width = 32, .type = type}));
    put(attention(*this, {.lengths = {5, 64, 1, 129}, .fresh = 3, .padding = 2, .type = type}));  // a batch
    put(attention(*this, {.lengths = {40, 90}, .fresh = 8, .padding = 3, .type = type, .shuffle = true}));
    put(attention(*this, {.lengths = {70}, .fresh = 5, .heads = 4, .groups = 4, .size = 32, .width = 32, .type = type}));    // MHA
    put(attention(*this, {.lengths = {70}, .fresh = 5, .heads = 6, .groups = 1, .size = 128, .width = 128, .type = type}));  // MQA
    put(attention(*this, {.lengths = {70}, .fresh = 4, .heads = 3, .groups = 3, .size = 5, .width = 7, .type = type}));      // odd sizes
    put(attention(*this, {.lengths = {70}, .fresh = 4, .heads = 2, .groups = 1, .size = 96, .width = 40, .type = type}));
    put(attention(*this, {.lengths = {300}, .heads = 14, .groups = 2, .type = type}));  // 7 heads on a group
    Attend op = attention(*this, {.lengths = {150, 20}, .fresh = 20, .type = type});
    op.causal = false;
    put(op);
    for (int window : {1, 16, 64, 100})
      for (int sinks : {0, 4}) {
        op = attention(*this, {.lengths = {170, 3}, .fresh = 9, .padding = 1, .type = type});
        op.window = window, op.sinks = sinks;
        put(op);
      }
    op = attention(*this, {.lengths = {90}, .fresh = 90, .heads = 2, .groups = 1, .size = 32, .width = 32, .type = type});
    op.window = 16, op.sinks = 4;  // from the beginning: the first tokens have no sinks beside their window
    put(op);
    op = attention(*this, {.lengths = {100}, .fresh = 10, .type = type});
    op.softcap = 1.5f;
    put(op);
    op.window = 30, op.sinks = 2, op.slopes = uniform(0.01, 0.5, {4}), op.length = Tensor();
    put(op);
    op = attention(*this, {.lengths = {130}, .fresh = 2, .type = type});
    op.q = normal({2, 4, 64}, F32, 30);  // sharp: weights of one key
    put(op);
    op = attention(*this, {.lengths = {190}, .fresh = 4, .type = type});
    op.page.row<int32_t>(0)[1] = -1;  // a page that is gone
    put(op);
    put(attention(*this, {.lengths = {9}, .padding = 70, .type = type}));  // hardly anything to do
    static constexpr int sizes[][2] = {{80, 80}, {96, 96}, {128, 128}, {192, 128}, {192, 192}, {256, 256}};
    for (const auto& [size, width] : sizes)
      for (int fresh : {1, 20})
        put(attention(*this, {.lengths = {70}, .fresh = fresh, .heads = 2, .groups = 1, .size = size, .width = width, .type = type}));
    prompts(*this, type);
  }
  known_sinks(*this);
  for (DType type : {F32, F16, BF16}) learned_sinks(*this, type);
}

CASES(Merge) {
  const float none = -std::numeric_limits<float>::infinity();
  // Equal weights; three to one (log 3); only b; only a; none at all.
  known({.a = values({1, 5, 2}, {1, 2, 4, 8, 9, 9, 5, 6, 9, 9}),
         .b = values({1, 5, 2}, {3, 6, 8, 0, 7, 8, 9, 9, 9, 9}),
         .a_lse = values({1, 5}, {2, 1.09861229f, none, -3, none}),
         .b_lse = values({1, 5}, {2, 0, 5, none, none})},
        {values({1, 5, 2}, {2, 4, 5, 6, 7, 8, 5, 6, 0, 0}), values({1, 5}, {2.69314718f, 1.38629436f, 5, -3, none})});
  known({.a = values({1, 1, 1}, {1}), .b = values({1, 1, 1}, {2}), .a_lse = values({1, 1}, {1e4f}), .b_lse = values({1, 1}, {-1e4f})},
        {values({1, 1, 1}, {1}), values({1, 1}, {1e4f})});
  for (int64_t tokens : {1, 7, 66})
    for (int64_t size : {1, 64}) {
      const Tensor a_lse = normal({tokens, 3}, F32, 4), b_lse = normal({tokens, 3}, F32, 4);
      for (int64_t i = 0; i < a_lse.count(); i += 5) a_lse.at<float>()[i] = none;
      add({.a = normal({tokens, 3, size}), .b = normal({tokens, 3, size}), .a_lse = a_lse, .b_lse = b_lse});
    }
}

// Attention over the pages left of `cut` and over the others, merged, is attention over all. The first part has the sinks of all heads.
static void expect_parts_make_the_whole(Device& device, DType type, int cut) {
  Inputs in;
  Attend whole = attention(in, {.lengths = {190, 70}, .fresh = 9, .type = type}), right = whole;
  if (cut % 2) whole.sink = in.normal({4}, F32, 3);
  Attend left = whole;
  left.page = in.store().copy(whole.page), right.page = in.store().copy(whole.page);
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t i = 0; i < whole.page.cols(); ++i) (i < cut ? right : left).page.row<int32_t>(b)[i] = -1;
  auto graph = std::make_unique<Graph>();
  const Attend all = graph->record(whole), l = graph->record(left), r = graph->record(right);
  const Merge merged = graph->record(Merge{.a = l.o, .b = r.o, .a_lse = l.lse, .b_lse = r.lse});
  graph->output("o", all.o), graph->output("lse", all.lse);
  graph->output("merged", merged.o), graph->output("merged_lse", merged.lse);
  const auto program = device.compile(std::move(graph));
  program->run();
  EXPECT_EQ(difference(program->output("merged"), program->output("o"), {4e-6, 1e-5}), "") << format(type).name << " " << cut;
  EXPECT_EQ(difference(program->output("merged_lse"), program->output("lse"), {4e-6, 1e-5}), "") << format(type).name << " " << cut;
}

TEST(AttendMerge, PartsMakeTheWhole) {
  const std::string before = simd().name;
  const auto kernels = cpu(2), plain = reference(2);
  for (DType type : {F32, F16, BF16})
    for (int cut : {0, 1, 2, 3}) {
      if (type == F32) expect_parts_make_the_whole(*plain, type, cut);
      for (const Simd* set : simd_sets()) {
        force_simd(set->name);
        expect_parts_make_the_whole(*kernels, type, cut);
      }
    }
  force_simd(before);
}

}  // namespace folio
