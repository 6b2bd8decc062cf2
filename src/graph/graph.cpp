// SPDX-License-Identifier: MIT
#include "graph/graph.h"

#include <cstring>

namespace folio {

Tensor Graph::add(const std::string& name, Life life, Tensor whole) {
  whole.graph = this;
  whole.value = int(values_.size());
  whole.offset = 0;
  values_.push_back({name, life, whole});
  return whole;
}

Tensor Graph::input(const std::string& name, DType type, const Shape& shape) {
  check(find(name) < 0, "graph: two inputs or outputs are called '", name, "'");
  return add(name, Life::input, Tensor::of(type, shape));
}

void Graph::output(const std::string& name, const Tensor& t, bool on_demand) {
  check(t.graph == this, "graph: output '", name, "' was not recorded on this graph");
  Value& value = values_[size_t(t.value)];
  check(value.life == Life::temp && t.offset == 0 && t.bytes() == value.whole.bytes(), "graph: output '", name, "' must be a whole recorded value");
  check(find(name) < 0, "graph: two inputs or outputs are called '", name, "'");
  value.life = Life::output;
  value.on_demand = on_demand;
  value.name = name;
  value.whole = t;
}

Tensor Graph::constant(const std::string& name, DType type, const Shape& shape, const void* from) {
  Tensor t = Tensor::of(type, shape);
  constants_.push_back(std::make_unique<std::byte[]>(size_t(t.bytes())));
  t.data = constants_.back().get();
  std::memcpy(t.data, from, size_t(t.bytes()));
  return add(name, Life::given, t);
}

int Graph::find(const std::string& name) const {
  for (size_t i = 0; i < values_.size(); ++i)
    if ((values_[i].life == Life::input || values_[i].life == Life::output) && values_[i].name == name) return int(i);
  return -1;
}

void Graph::Adopt::input(const char* name, Tensor& t) {
  if (t.graph) {
    check(t.graph == &graph_, "graph: '", name, "' was recorded on another graph");
    return;
  }
  check(t.data != nullptr, "graph: '", name, "' has neither a graph nor bytes");
  const auto [at, added] = graph_.given_.try_emplace(t.data, int(graph_.values_.size()));
  const std::byte* data = t.data;
  if (added) {
    t = graph_.add(name, Life::given, t);
  } else {
    t.graph = &graph_;
    t.value = at->second;
    t.offset = 0;
  }
  t.data = const_cast<std::byte*>(data);
}

void Graph::Adopt::output(const char* name, Tensor& t, Tensor*) { t = graph_.add(name, Life::temp, t); }

}  // namespace folio
