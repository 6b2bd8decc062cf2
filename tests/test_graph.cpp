// SPDX-License-Identifier: MIT
// Graph, plan, device and print. Hundreds of random graphs are planned: no value may lie on bytes that another still needs, and
// the results must be those of a run in which nothing shares anything.
#include <gtest/gtest.h>

#include <span>

#include "cases.h"
#include "compare.h"
#include "cpu/table.h"
#include "graph/plan.h"
#include "graph/print.h"

namespace folio {
namespace {

// Random ops on random values of one graph; equal seeds, equal graphs. Weights belong to `in`.
class RandomGraph {
 public:
  RandomGraph(Inputs& in, uint64_t seed) : graph(std::make_unique<Graph>()), in_(in), random_(seed, 77) {
    tokens_ = 1 + random_.below(5);
    cols_ = 8 << random_.below(3);
    const int64_t inputs = 1 + random_.below(3), nodes = 3 + random_.below(25);
    for (int64_t i = 0; i < inputs; ++i) values_.push_back(graph->input("in" + std::to_string(i), F32, {tokens_, cols_}));
    for (int64_t i = 0; i < nodes; ++i) step();
    int outputs = 0;
    for (const Tensor& t : values_)
      if (graph->values()[size_t(t.value)].life == Life::temp && random_.below(6) == 0) graph->output("out" + std::to_string(outputs++), t);
    const Tensor last = scale(pick(), 3);
    graph->output("last", last);
  }
  std::unique_ptr<Graph> graph;

 private:
  const Tensor& pick() {  // mostly a young one, so that older ones die
    const auto n = int64_t(values_.size());
    return values_[size_t(random_.below(3) ? n - 1 - random_.below(std::min<int64_t>(n, 3)) : random_.below(n))];
  }
  void step() {
    const Tensor x = pick(), y = pick();
    Graph& g = *graph;
    switch (random_.below(9)) {
      case 0:
        return keep(scale(x, 0.5f));
      case 1:
        return keep(add(x, y));
      case 2:
        return keep(add(x, x.slice(random_.below(tokens_), 1).reshape({cols_})));  // b is a row of a itself
      case 3:
        return keep(rms_norm(x, in_.near(1, {cols_}), 1e-6f));
      case 4:
        return keep(g.record(Matmul{.x = x, .w = in_.normal({cols_, cols_}), .add = y}).y);  // y may be x
      case 5: {                                                                              // a gated pair out of one matrix product
        const Tensor wide = matmul(x, in_.normal({2 * cols_, cols_}));
        return keep(glu(wide.columns(0, cols_), wide.columns(cols_, cols_), Act::relu));
      }
      case 6:
        return keep(gather(x, in_.ids(0, tokens_, {tokens_})));
      case 7:
        return keep(activate(x, Act::silu));
      default: {
        const Tensor a = x.split_last(4), b = y.split_last(4);
        const Tensor la = gather(x.columns(0, 4), in_.ids(0, tokens_, {tokens_})),
                     lb = gather(y.columns(0, 4), in_.ids(0, tokens_, {tokens_}));
        const Merge m = g.record(Merge{.a = a, .b = b, .a_lse = la, .b_lse = lb});
        return keep(m.o.merge_last());
      }
    }
  }
  void keep(const Tensor& t) { values_.push_back(t); }
  Inputs& in_;
  Random random_;
  int64_t tokens_, cols_;
  std::vector<Tensor> values_;
};

struct Use {
  int value;
  bool output;
  int over;  // which value's bytes the output may take; -1: none
};

class Uses final : public Visitor {
 public:
  std::vector<Use> found;

 private:
  void input(const char*, Tensor& t) override { found.push_back({t.value, false, -1}); }
  void output(const char*, Tensor& t, Tensor* over) override {
    found.push_back({t.value, true, over && over->present() ? over->value : -1});
  }
};

// Empty if at every node no output lies on bytes that are still needed, other than as a takeover.
std::string overlap(const Graph& graph, const Plan& plan) {
  const auto& values = graph.values();
  const int nodes = int(graph.nodes().size());
  std::vector<std::vector<Use>> uses;
  std::vector<int> born(values.size(), nodes), last(values.size(), -1);
  for (int i = 0; i < nodes; ++i) {
    Uses seen;
    graph.nodes()[size_t(i)]->visit(seen);
    for (const Use& u : seen.found) (u.output ? born : last)[size_t(u.value)] = i;
    uses.push_back(seen.found);
  }
  for (size_t v = 0; v < values.size(); ++v) {
    if (values[v].life == Life::input) born[v] = -1;
    if (values[v].life == Life::input || values[v].life == Life::output) last[v] = nodes;
  }
  auto overlaps = [&](int a, int b) {
    const int64_t pa = plan.place[size_t(a)], pb = plan.place[size_t(b)], na = values[size_t(a)].whole.bytes(),
                  nb = values[size_t(b)].whole.bytes();
    return values[size_t(a)].life != Life::given && values[size_t(b)].life != Life::given && pa < pb + nb && pb < pa + na;
  };
  for (size_t v = 0; v < values.size(); ++v)
    if (values[v].life != Life::given && (plan.place[v] < 0 || plan.place[v] % 256 || plan.place[v] + values[v].whole.bytes() > plan.arena))
      return join("value ", v, " lies outside the arena or unaligned");
  for (int i = 0; i < nodes; ++i)
    for (const Use& out : uses[size_t(i)]) {
      if (!out.output) continue;
      for (int v = 0; v < int(values.size()); ++v) {
        if (v == out.value || !overlaps(v, out.value)) continue;
        const bool sibling = born[size_t(v)] == i, needed = born[size_t(v)] < i && last[size_t(v)] > i;
        if (sibling || needed) return join("node ", i, ": value ", out.value, " lies on value ", v);
        if (born[size_t(v)] >= i || last[size_t(v)] != i) continue;
        const auto reads =
            std::count_if(uses[size_t(i)].begin(), uses[size_t(i)].end(), [&](const Use& u) { return !u.output && u.value == v; });
        if (out.over != v || reads != 1 || plan.place[size_t(v)] != plan.place[size_t(out.value)])
          return join("node ", i, ": value ", out.value, " takes the bytes of ", v, ", which the node reads ", reads, " times");
      }
    }
  return "";
}

void fill_inputs(const Graph& graph, uint64_t seed, const std::function<Tensor(const std::string&)>& input) {
  Random random(seed, 5);
  for (const Value& value : graph.values())
    if (value.life == Life::input)
      for (Tensor t = input(value.name); float& x : std::span(t.at<float>(), size_t(t.count()))) x = float(random.normal());
}

TEST(Plan, RandomGraphs) {
  const auto device = reference(1);
  int64_t arena = 0, unshared = 0;
  for (uint64_t seed = base_seed(); seed < base_seed() + 400; ++seed) {
    SCOPED_TRACE(join("seed ", seed));
    Inputs in, same;
    RandomGraph alone(in, seed), shared(same, seed);
    const Plan plan = make_plan(*shared.graph);
    ASSERT_EQ(overlap(*shared.graph, plan), "") << print_text(*shared.graph, plan);
    arena += plan.arena, unshared += plan.unshared;

    // Every value in a place of its own, poisoned before.
    Plan apart = plan;
    int64_t end = 0;
    for (size_t v = 0; v < apart.place.size(); ++v) {
      if (apart.place[v] < 0) continue;
      apart.place[v] = end;
      end += (alone.graph->values()[v].whole.bytes() + 255) & ~255;
    }
    Store store;
    std::byte* memory = store.bytes(end);
    std::memset(memory, 0xff, size_t(end));  // NaN
    place(*alone.graph, apart, memory);
    auto at = [&](const std::string& name) {
      const int v = alone.graph->find(name);
      Tensor t = alone.graph->values()[size_t(v)].whole;
      t.data = memory + apart.place[size_t(v)];
      return t;
    };
    fill_inputs(*alone.graph, seed, at);
    for (const auto& node : alone.graph->nodes()) cpu_launcher(node->name()).reference(node->op(), Worker{});

    const auto program = device->compile(std::move(shared.graph));
    fill_inputs(program->graph(), seed, [&](const std::string& name) { return program->input(name); });
    for (int round = 0; round < 2; ++round) {  // the inputs must survive the first
      program->run();
      for (const Value& value : program->graph().values())
        if (value.life == Life::output) {
          ASSERT_EQ(bit_difference(program->output(value.name), at(value.name)), "") << value.name << "\n"
                                                                                     << print_text(program->graph(), plan);
        }
    }
  }
  EXPECT_LT(arena * 2, unshared);
}

TEST(Plan, EightResidualBlocks) {
  Graph g;
  Inputs in;
  Tensor x = scale(g.input("x", F32, {4, 256}), 1);
  for (int i = 0; i < 8; ++i) {
    const Tensor h = matmul(rms_norm(x, in.near(1, {256}), 1e-6f), in.normal({512, 256}));
    x = g.record(Matmul{.x = activate(h, Act::relu), .w = in.normal({256, 512}), .add = x}).y;
  }
  g.output("y", x);
  const Plan plan = make_plan(g);
  EXPECT_EQ(overlap(g, plan), "");
  EXPECT_EQ(plan.unshared, 4096 * (2 + 8 * 6));
  EXPECT_LE(plan.arena, 4096 * 5);  // the input, the residual, the norm, and the wide row twice as big
}

// Records `n` and tells whether y lies where x does.
bool taken(Graph& g, const Tensor& x, const Tensor& y) {
  const Plan plan = make_plan(g);
  EXPECT_EQ(overlap(g, plan), "");
  return plan.place[size_t(x.value)] == plan.place[size_t(y.value)];
}

TEST(Plan, TakesOverWhatDies) {
  Graph g;
  const Tensor a = scale(g.input("in", F32, {2, 8}), 1), b = scale(a, 2), c = scale(b, 3);
  g.output("c", c);
  EXPECT_TRUE(taken(g, a, b));
  EXPECT_TRUE(taken(g, a, c));  // a chain ends in one home
}

TEST(Plan, LeavesWhatIsReadLater) {
  Graph g;
  const Tensor a = scale(g.input("in", F32, {2, 8}), 1), b = scale(a, 2), c = add(b, a);
  g.output("c", c);
  EXPECT_FALSE(taken(g, a, b));
  EXPECT_TRUE(taken(g, b, c));
}

TEST(Plan, LeavesInputsOutputsAndViews) {
  Graph g;
  const Tensor in = g.input("in", F32, {2, 8}), a = scale(in, 1), b = scale(a, 2), wide = scale(b, 1), half = scale(wide.columns(0, 4), 3);
  g.output("a", a);
  g.output("half", half);
  EXPECT_FALSE(taken(g, in, a));
  EXPECT_FALSE(taken(g, a, b));
  EXPECT_FALSE(taken(g, wide, half));
}

// The op writes y[t,n] while it still needs x[t,:], which here is the same value as `add`.
TEST(Plan, LeavesAnInputThatIsReadInTwoRoles) {
  Inputs in;
  Graph g;
  const Tensor x = scale(g.input("in", F32, {2, 8}), 1), y = g.record(Matmul{.x = x, .w = in.normal({8, 8}), .add = x}).y;
  g.output("y", y);
  EXPECT_FALSE(taken(g, x, y));
  Graph h;
  const Tensor a = scale(h.input("in", F32, {2, 8}), 1), b = add(a, a.slice(0, 1).reshape({8}));
  h.output("b", b);
  EXPECT_FALSE(taken(h, a, b));
}

// Two outputs that nobody reads, both allowed to take the bytes of x.
struct Twins {
  static constexpr const char* name = "twins";
  Tensor x, y, z;
  void visit(auto& v) { v.in("x", x), v.out("y", y, &x), v.out("z", z, &x); }
  void shape() { y = z = like(x); }
  void reference(Worker) const {}
};

TEST(Plan, OneTakerOnly) {
  Graph g;
  const Tensor x = scale(g.input("in", F32, {2, 8}), 1);
  const Twins twins = g.record(Twins{.x = x});
  EXPECT_FALSE(taken(g, twins.y, twins.z));
}

// The sentence of the Error that `f` throws; "no error" if it does not.
template <class F>
std::string error_of(F f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(Graph, NamesAreOnce) {
  Graph g;
  const Tensor x = g.input("x", F32, {2, 8}), y = scale(x, 2), z = scale(x, 3);
  EXPECT_NE(error_of([&] { g.input("x", F32, {1}); }).find("'x'"), std::string::npos);
  g.output("y", y);
  EXPECT_NE(error_of([&] { g.output("y", z); }).find("'y'"), std::string::npos);
  EXPECT_NE(error_of([&] { g.output("x", z); }).find("'x'"), std::string::npos);
  EXPECT_NE(error_of([&] { g.output("again", y); }), "no error");               // one value, one output
  EXPECT_NE(error_of([&] { g.output("in", x); }), "no error");                  // an input is no result
  EXPECT_NE(error_of([&] { g.output("part", z.columns(0, 4)); }), "no error");  // nor is a part of a value
  EXPECT_EQ(g.find("y"), y.value);
  EXPECT_EQ(g.find("z"), -1);
}

TEST(Graph, RefusesTensorsOfOthers) {
  Graph g, other;
  const Tensor x = g.input("x", F32, {2, 8}), y = other.input("x", F32, {2, 8});
  EXPECT_NE(error_of([&] { add(x, y); }).find("another graph"), std::string::npos);
  EXPECT_NE(error_of([&] { add(x, Tensor::of(F32, {2, 8})); }).find("neither"), std::string::npos);
  EXPECT_NE(error_of([&] { g.output("y", y); }), "no error");
  EXPECT_NE(error_of([&] { add(x, g.input("z", F32, {2, 9})); }).find("[2,9]"), std::string::npos);
}

TEST(Graph, ConstantsAreCopied) {
  auto g = std::make_unique<Graph>();
  std::vector<float> table = {10, 20, 30};
  const Tensor c = g->constant("table", F32, {3}, table.data());
  table.assign(3, -1);
  g->output("y", add(g->input("x", F32, {2, 3}), c));
  const auto device = cpu(1);
  const auto program = device->compile(std::move(g));
  for (float& x : std::span(program->input("x").at<float>(), 6)) x = 1;
  program->run();
  const float* y = program->output("y").at<float>();
  EXPECT_EQ(std::vector<float>(y, y + 6), (std::vector<float>{11, 21, 31, 11, 21, 31}));
}

TEST(Graph, ScopesStayWithTheirNodes) {
  Graph g;
  g.scope("layer.0.mix");
  const Tensor x = scale(g.input("x", F32, {1, 4}), 1);
  g.scope("layer.0.ffn");
  scale(x, 1);
  EXPECT_EQ(g.nodes()[0]->scope, "layer.0.mix");
  EXPECT_EQ(g.nodes()[1]->scope, "layer.0.ffn");
}

TEST(Tensor, ViewsHaveTheRightAddresses) {
  Inputs in;
  const Tensor t = in.normal({6, 12});
  const float* at = t.at<float>();
  EXPECT_EQ(t.columns(3, 4).row<float>(2), at + 2 * 12 + 3);
  EXPECT_EQ(t.slice(2, 3).row<float>(1), at + 3 * 12);
  EXPECT_EQ(t.slice(2, 3).columns(5, 2).offset, (2 * 12 + 5) * 4);
  const Tensor heads = t.columns(4, 8).split_last(2);  // [6, 2, 4]
  EXPECT_EQ(heads.shape.text(), "[6,2,4]");
  EXPECT_EQ(heads.row<float>(5 * 2 + 1), at + 5 * 12 + 4 + 4);
  EXPECT_EQ(heads.merge_last().shape.text(), "[6,8]");
  EXPECT_EQ(heads.merge_last().row<float>(5), at + 5 * 12 + 4);
  EXPECT_EQ(t.reshape({2, 3, 12}).row<float>(1 * 3 + 2), at + 5 * 12);
  EXPECT_EQ(t.columns(4, 8).bytes(), (5 * 12 + 8) * 4);
  EXPECT_TRUE(t.slice(1, 2).contiguous());
  EXPECT_FALSE(t.columns(0, 6).contiguous());
  EXPECT_TRUE(t.slice(1, 1).columns(0, 6).contiguous());  // one row is contiguous whatever its stride
  const Tensor q = in.normal({4, 96}, Q4_0);
  EXPECT_EQ(q.columns(32, 64).row_bytes(3), q.data + 3 * 3 * 18 + 18);
  EXPECT_EQ(q.slice(1, 2).bytes(), 2 * 3 * 18);
}

TEST(Tensor, RefusesViewsOutside) {
  Inputs in;
  const Tensor t = in.normal({6, 12}), q = in.normal({4, 96}, Q8_0);
  EXPECT_NE(error_of([&] { t.columns(8, 5); }), "no error");
  EXPECT_NE(error_of([&] { t.columns(-1, 5); }), "no error");
  EXPECT_NE(error_of([&] { t.slice(6, 1); }), "no error");
  EXPECT_NE(error_of([&] { t.reshape({5, 12}); }), "no error");
  EXPECT_NE(error_of([&] { t.columns(0, 6).reshape({36}); }), "no error");
  EXPECT_NE(error_of([&] { t.split_last(5); }), "no error");
  EXPECT_NE(error_of([&] { t.columns(0, 6).split_last(2).columns(0, 1).merge_last(); }), "no error");
  EXPECT_NE(error_of([&] { q.columns(16, 32); }), "no error");  // not at a block
  EXPECT_NE(error_of([&] { Tensor::of(Q4_0, {2, 33}); }), "no error");
  EXPECT_NE(error_of([&] { Shape({1, 2, 3, 4, 5}); }), "no error");
}

TEST(Device, MemoryAndNames) {
  const auto device = cpu(2);
  EXPECT_NE(device->name().find("2 threads"), std::string::npos);
  EXPECT_NE(reference(1)->name().find("reference"), std::string::npos);
  std::byte* at = device->alloc(1000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(at) % 256, 0u);
  std::vector<uint8_t> there(1000, 7), back(1000, 9);
  device->download(back.data(), at, 1000);
  EXPECT_EQ(back, std::vector<uint8_t>(1000, 0));
  device->upload(at, there.data(), 1000);
  device->download(back.data(), at, 1000);
  EXPECT_EQ(back, there);
  device->free(at, 1000);
  device->free(device->alloc(0), 0);
  EXPECT_NE(error_of([&] { device->alloc(int64_t(1) << 60); }).find("out of memory"), std::string::npos);
}

// x -> norm -> matmul -> + x, with the factor of one node open to tampering.
std::unique_ptr<Graph> small_graph(Inputs& in, float factor) {
  auto g = std::make_unique<Graph>();
  const Tensor x = g->input("x", F32, {2, 8});
  const Tensor w = in.normal({16, 8}, F16), norm = in.near(1, {8});
  g->scope("layer.0.ffn");
  const Tensor wide = matmul(rms_norm(x, norm, 1e-5f), w);
  const Tensor y = glu(wide.columns(0, 8), wide.columns(8, 8), Act::silu);
  g->scope("layer.0.out");
  g->output("y", add(scale(y, factor), x));
  return g;
}

TEST(Program, UnknownNames) {
  Inputs in;
  const auto device = cpu(1);
  const auto program = device->compile(small_graph(in, 1));
  EXPECT_NE(error_of([&] { program->input("z"); }).find("'z'"), std::string::npos);
  EXPECT_NE(error_of([&] { program->input("y"); }), "no error");
  EXPECT_NE(error_of([&] { program->output("x"); }), "no error");
  EXPECT_GT(program->arena_bytes(), 0);
}

TEST(Program, OfAWorkspaceShareMemoryAndNothingElse) {
  Inputs in;
  const auto device = cpu(2);
  Workspace shared;
  const auto alone = device->compile(small_graph(in, 3));
  const auto run = [](Program& program) {
    float* x = program.input("x").at<float>();
    for (int i = 0; i < 16; ++i) x[i] = float(i) / 4 - 2;
    program.run();
    const Tensor y = program.output("y");
    return std::vector<float>(y.at<float>(), y.at<float>() + y.count());
  };
  Inputs again;   // the same numbers as for the one alone
  const auto one = device->compile_in(shared, small_graph(again, 3));
  const auto other = device->compile_in(shared, small_graph(in, -7));
  EXPECT_EQ(one->input("x").data, other->input("x").data);
  EXPECT_NE(one->input("x").data, alone->input("x").data);
  const std::vector<float> expected = run(*alone);
  for (int turn = 0; turn < 2; ++turn) {
    EXPECT_EQ(run(*one), expected);
    EXPECT_NE(run(*other), expected);
  }
  auto larger = std::make_unique<Graph>();   // what came before keeps its own
  larger->output("y", scale(larger->input("x", F32, {64, 1024}), 2));
  const auto more = device->compile_in(shared, std::move(larger));
  EXPECT_NE(more->input("x").data, one->input("x").data);
  EXPECT_EQ(run(*one), expected);
}

TEST(Print, Text) {
  Inputs in;
  const auto g = small_graph(in, 2);
  EXPECT_EQ(print_text(*g, make_plan(*g)), R"(input  #0 f32 [2,8] @0 = 'x'
0  layer.0.ffn  rms_norm(eps=1e-05)  x=#0 f32 [2,8]  w=given f32 [8]  ->  y=#2 f32 [2,8] @256
1  layer.0.ffn  matmul(act=0)  x=#2 f32 [2,8]  w=given f16 [16,8]  ->  y=#4 f32 [2,16] @512
2  layer.0.ffn  glu(act=3)  gate=#4 f32 [2,8] by 16,1  up=#4+32 f32 [2,8] by 16,1  ->  y=#5 f32 [2,8] @256
3  layer.0.out  scale(factor=2)  x=#5 f32 [2,8]  ->  y=#6 f32 [2,8] @256
4  layer.0.out  add  a=#6 f32 [2,8]  b=#0 f32 [2,8]  ->  y=#7 f32 [2,8] @256 = output 'y'
5 nodes, arena 768 bytes; without sharing 1536
)");
}

TEST(Print, Dot) {
  Graph g;
  Inputs in;
  const Tensor x = g.input("x", F32, {2, 8});
  g.scope("a \"quoted\" scope");
  g.output("y", rms_norm(x, in.near(1, {8}), 1e-5f));
  EXPECT_EQ(print_dot(g), R"(digraph folio {
  node [shape=box];
  subgraph cluster_0 {
    label="a \"quoted\" scope";
    n0 [label="0 rms_norm\neps=1e-05"];
  }
  v0 [shape=ellipse, label="x\nf32 [2,8]"];
  v1 [shape=ellipse, style=dashed, label="w\nf32 [8]"];
  v2 [shape=ellipse, label="y\nf32 [2,8]"];
  v0 -> n0 [label="x\n[2,8]"];
  v1 -> n0 [label="w\n[8]"];
  n0 -> v2 [label="y"];
}
)");
}

TEST(Print, Trace) {
  auto g = std::make_unique<Graph>();
  g->output("y", scale(g->input("x", F32, {1, 4}), 2));
  const auto device = cpu(2);
  const auto program = device->compile(std::move(g));
  const std::vector<float> x = {1, -2, std::numeric_limits<float>::infinity(), std::nanf("")}, y = {2, -4};
  std::copy(x.begin(), x.end(), program->input("x").at<float>());
  const std::string text = print_trace(*program);
  EXPECT_EQ(text.find("0  scale.y  f32 [1,4]  hash "), 0u) << text;
  EXPECT_NE(text.find("min -4 max 2 mean -1  nan 1 inf 1"), std::string::npos) << text;
  EXPECT_EQ(print_trace(*program), text);
}

TEST(Print, FirstDifference) {
  const auto fast = cpu(2), plain = reference(1);
  auto compared = [&](float tested, float wanted, float poke) {
    Inputs a, b;
    const auto p = fast->compile(small_graph(a, tested)), q = plain->compile(small_graph(b, wanted));
    fill_inputs(p->graph(), 1, [&](const std::string& name) { return p->input(name); });
    fill_inputs(q->graph(), 1, [&](const std::string& name) { return q->input(name); });
    p->input("x").at<float>()[11] += poke;
    return first_difference(*p, *q, {.atol = 1e-5, .rtol = 1e-5});
  };
  EXPECT_EQ(compared(2, 2, 0), "");
  const std::string planted = compared(2.5f, 2, 0);  // the scale, not the matmul before it nor the sum after it
  EXPECT_EQ(planted.find("node 3, layer.0.out, scale.y f32 [2,8]: 16 of 16 elements differ, the worst at ["), 0u) << planted;
  EXPECT_EQ(compared(2, 2, 1).find("node 0, layer.0.ffn, rms_norm.y"), 0u);
  const std::string nan = compared(2, 2, std::nanf(""));
  EXPECT_NE(nan.find("8 of 16 elements differ, the worst at [1,0]: nan"), std::string::npos) << nan;
}

// Both outputs are sums of many things; what is left where they cancel is judged by the size of its token.
TEST(Print, DifferencesAreJudgedByTheirToken) {
  const auto device = cpu(1);
  const auto made = [&](float small) {
    auto graph = std::make_unique<Graph>();
    graph->output("y", activate(graph->input("x", F32, {2, 2}), Act::none));
    auto program = device->compile(std::move(graph));
    const float x[4] = {100, small, 1, 0};
    std::memcpy(program->input("x").data, x, sizeof x);
    return program;
  };
  const auto one = made(0), other = made(0.05f), far = made(0.5f);
  double worst = 0;
  EXPECT_NE(first_difference(*other, *one, {.rtol = 1e-3}), "");
  EXPECT_EQ(first_difference(*other, *one, {.stol = 1e-3}, &worst), "");
  EXPECT_NEAR(worst, 0.05 / (1e-3 * 100 / std::sqrt(2.0)), 1e-6);
  EXPECT_NE(first_difference(*far, *one, {.stol = 1e-3}).find("1 of 4 elements differ, the worst at [0,1]: 0.5"), std::string::npos);
}

TEST(Print, RefusesGraphsThatDoNotMatch) {
  const auto device = cpu(1);
  Inputs in;
  auto g = std::make_unique<Graph>();
  g->output("y", scale(g->input("x", F32, {1, 4}), 2));
  auto h = std::make_unique<Graph>();
  h->output("y", activate(h->input("x", F32, {1, 4}), Act::relu));
  const auto a = device->compile(std::move(g)), b = device->compile(std::move(h)), c = device->compile(small_graph(in, 1));
  EXPECT_NE(error_of([&] { first_difference(*a, *b, {}); }).find("scale"), std::string::npos);
  EXPECT_NE(error_of([&] { first_difference(*a, *c, {}); }).find("5"), std::string::npos);
}

}  // namespace
}  // namespace folio
