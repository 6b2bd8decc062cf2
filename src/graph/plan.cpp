// SPDX-License-Identifier: MIT
#include "graph/plan.h"

#include <algorithm>

namespace folio {

namespace {

// First and last node that touch each value, and which value's bytes each output may take over.
class Lives final : public Visitor {
 public:
  explicit Lives(const Graph& graph)
      : born(graph.values().size(), int(graph.nodes().size())), dies(graph.values().size(), -1), twice(graph.values().size(), -1), graph_(graph) {
    for (size_t v = 0; v < graph.values().size(); ++v) home.push_back(int(v));
    for (now = 0; now < int(graph.nodes().size()); ++now) graph.nodes()[size_t(now)]->visit(*this);
    for (size_t v = 0; v < graph.values().size(); ++v) {
      const Life life = graph.values()[v].life;
      if (life == Life::input) born[v] = -1;
      if (life == Life::input || life == Life::output) dies[v] = int(graph.nodes().size());
    }
  }
  std::vector<int> born, dies, home;
  std::vector<int> twice;  // the last node that reads the value through two fields: it may still need one when it writes the other
  struct Takeover { int out, over, at; };
  std::vector<Takeover> takeovers;
  int now = 0;

 private:
  void input(const char*, Tensor& t) override {
    if (dies[size_t(t.value)] == now) twice[size_t(t.value)] = now;
    dies[size_t(t.value)] = now;
  }
  void output(const char*, Tensor& t, Tensor* over) override {
    born[size_t(t.value)] = std::min(born[size_t(t.value)], now);
    dies[size_t(t.value)] = std::max(dies[size_t(t.value)], now);
    if (over && over->present() && whole(*over) && t.bytes() == over->bytes()) takeovers.push_back({t.value, over->value, now});
  }
  bool whole(const Tensor& t) const {
    const Value& value = graph_.values()[size_t(t.value)];
    return value.life == Life::temp && t.offset == 0 && t.contiguous() && t.bytes() == value.whole.bytes();
  }
  const Graph& graph_;
};

int64_t padded(int64_t bytes) { return (bytes + 255) & ~int64_t(255); }

}  // namespace

Plan make_plan(const Graph& graph) {
  const auto& values = graph.values();
  Lives lives(graph);
  std::vector<int> taken(values.size(), -1);  // by an output of which node: an unread one dies at once, yet two may not share
  for (const auto& t : lives.takeovers) {     // in order of execution, so a chain of takeovers ends in one home
    const int home = lives.home[size_t(t.over)];
    if (lives.dies[size_t(home)] != t.at || values[size_t(home)].life != Life::temp) continue;
    if (lives.twice[size_t(t.over)] == t.at || taken[size_t(home)] == t.at) continue;
    taken[size_t(home)] = t.at;
    lives.home[size_t(t.out)] = home;
    lives.dies[size_t(home)] = lives.dies[size_t(t.out)];
  }

  Plan plan;
  std::vector<int> order;
  for (int v = 0; v < int(values.size()); ++v) {
    if (values[size_t(v)].life == Life::given) continue;
    plan.unshared += padded(values[size_t(v)].whole.bytes());
    if (lives.home[size_t(v)] == v) order.push_back(v);
  }
  auto size = [&](int v) { return padded(values[size_t(v)].whole.bytes()); };
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return size(a) > size(b); });

  plan.place.assign(values.size(), -1);
  std::vector<int> placed;  // sorted by offset
  for (int v : order) {     // biggest first, into the lowest gap that is free for its whole life
    int64_t at = 0;
    for (int u : placed) {
      if (lives.born[size_t(u)] > lives.dies[size_t(v)] || lives.dies[size_t(u)] < lives.born[size_t(v)]) continue;
      if (plan.place[size_t(u)] >= at + size(v)) break;
      at = std::max(at, plan.place[size_t(u)] + size(u));
    }
    plan.place[size_t(v)] = at;
    plan.arena = std::max(plan.arena, at + size(v));
    placed.insert(std::upper_bound(placed.begin(), placed.end(), v,
                                   [&](int a, int b) { return plan.place[size_t(a)] < plan.place[size_t(b)]; }), v);
  }
  for (size_t v = 0; v < values.size(); ++v)
    if (values[v].life != Life::given) plan.place[v] = plan.place[size_t(lives.home[v])];
  return plan;
}

void place(const Graph& graph, const Plan& plan, std::byte* arena, const std::vector<std::byte*>& given) {
  class Bind final : public Visitor {
   public:
    explicit Bind(const std::vector<std::byte*>& at) : at_(at) {}

   private:
    void input(const char*, Tensor& t) override { t.data = at_[size_t(t.value)] + t.offset; }
    void output(const char*, Tensor& t, Tensor*) override { t.data = at_[size_t(t.value)] + t.offset; }
    const std::vector<std::byte*>& at_;
  };
  std::vector<std::byte*> at;
  for (size_t v = 0; v < graph.values().size(); ++v) {
    const Value& value = graph.values()[v];
    at.push_back(value.life != Life::given ? arena + plan.place[v] : given.empty() ? value.whole.data : given[v]);
  }
  Bind binder(at);
  for (const auto& node : graph.nodes()) node->visit(binder);
}

}  // namespace folio
