// SPDX-License-Identifier: MIT
#include "graph/print.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <map>

#include "base/hash.h"

namespace folio {

namespace {

std::string number(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", x);
  return text;
}

// "f32 [4,32]", and of a strided view the strides: "f32 [4,16] by 32,1".
std::string kind(const Tensor& t) {
  std::string text = join(format(t.type).name, " ", t.shape.text());
  if (!t.contiguous()) {
    text += " by ";
    for (int d = 0; d < t.rank(); ++d) text += (d ? "," : "") + std::to_string(t.stride[d]);
  }
  return text;
}

// What a node's line says about its fields.
class Line final : public Visitor {
 public:
  Line(const Graph& graph, const Plan& plan) : graph_(graph), plan_(plan) {}
  std::string inputs, outputs, attributes;

 private:
  std::string value(const char* name, const Tensor& t, bool placed) const {
    const Life life = graph_.values()[size_t(t.value)].life;
    std::string text = std::string("  ") + name + "=";
    text += life == Life::given ? "given" : "#" + std::to_string(t.value);
    if (t.offset > 0) text += "+" + std::to_string(t.offset);
    text += " " + kind(t);
    if (placed) text += " @" + std::to_string(plan_.place[size_t(t.value)]);
    return text;
  }
  void input(const char* name, Tensor& t) override { inputs += value(name, t, false); }
  void change(const char* name, Tensor& t) override { inputs += value(name, t, false) + " (changed)"; }
  void output(const char* name, Tensor& t, Tensor*) override {
    outputs += value(name, t, true);
    const Value& v = graph_.values()[size_t(t.value)];
    if (v.life == Life::output) outputs += " = output '" + v.name + "'";
  }
  void attribute(const char* name, double value) override { attributes += join(attributes.empty() ? "" : " ", name, "=", number(value)); }
  const Graph& graph_;
  const Plan& plan_;
};

// A dot string.
std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (c == '\n') out += "\\n";
    else out += c;
  }
  return out + "\"";
}

// Edges into and out of one node; tells which node made each value.
class Edges final : public Visitor {
 public:
  explicit Edges(const Graph& graph) : maker_(graph.values().size(), -1), graph_(graph) {}
  std::string text, label;
  std::map<std::string, std::string> ends;  // of values that no node makes or that leave the graph: their dot id and line
  int now = 0;

 private:
  std::string end(const Tensor& t, const std::string& name) {
    const Life life = graph_.values()[size_t(t.value)].life;
    const std::string id = "v" + std::to_string(t.value);
    ends[id] =
        join("  ", id, " [shape=ellipse", life == Life::given ? ", style=dashed" : "", ", label=", quoted(name + "\n" + kind(t)), "];\n");
    return id;
  }
  void input(const char* name, Tensor& t) override {
    const int from = maker_[size_t(t.value)];
    const Value& value = graph_.values()[size_t(t.value)];
    const std::string source = from >= 0 ? "n" + std::to_string(from) : end(value.whole, value.name);
    text += join("  ", source, " -> n", now, " [label=", quoted(join(name, "\n", t.shape.text())), "];\n");
  }
  void output(const char* name, Tensor& t, Tensor*) override {
    maker_[size_t(t.value)] = now;
    const Value& value = graph_.values()[size_t(t.value)];
    if (value.life == Life::output) text += join("  n", now, " -> ", end(t, value.name), " [label=", quoted(name), "];\n");
  }
  void attribute(const char* name, double value) override { label += join("\n", name, "=", number(value)); }
  std::vector<int> maker_;
  const Graph& graph_;
};

// The elements of row i as double, whatever the format.
std::vector<double> row_of(const Tensor& t, int64_t i) {
  const auto n = size_t(t.cols());
  std::vector<double> row(n);
  if (t.type == I32) std::copy_n(t.row<int32_t>(i), n, row.begin());
  else if (t.type == U8) std::copy_n(t.row<uint8_t>(i), n, row.begin());
  else {
    std::vector<float> floats(n);
    format(t.type).to_float(t.row_bytes(i), floats.data(), t.cols());
    std::copy(floats.begin(), floats.end(), row.begin());
  }
  return row;
}

// " hash 0123456789abcdef  min -1 max 2 mean 0.5  nan 0 inf 0" of a contiguous tensor.
std::string checksum(const Tensor& t) {
  double least = std::numeric_limits<double>::infinity(), most = -least, sum = 0;
  int64_t nans = 0, infinities = 0, finite = 0;
  for (int64_t i = 0; i < t.rows() && t.count() > 0; ++i)
    for (double x : row_of(t, i)) {
      if (std::isnan(x)) ++nans;
      else if (std::isinf(x)) ++infinities;
      else {
        least = std::min(least, x), most = std::max(most, x), sum += x;
        ++finite;
      }
    }
  char hash[17];
  std::snprintf(hash, sizeof hash, "%016llx", static_cast<unsigned long long>(hash64(t.data, size_t(t.bytes()))));
  std::string text = join("  hash ", hash);
  if (finite > 0) text += join("  min ", number(least), " max ", number(most), " mean ", number(sum / double(finite)));
  if (nans + infinities > 0) text += join("  nan ", nans, " inf ", infinities);
  return text;
}

std::string coordinates(const Shape& shape, int64_t i) {
  std::string text;
  for (int d = shape.rank - 1; d >= 0; --d) {
    text = std::to_string(i % shape[d]) + (text.empty() ? "" : ",") + text;
    i /= shape[d];
  }
  return "[" + text + "]";
}

// RMS of the finite elements with the same first index as row i.
double rms_around(const Tensor& t, int64_t i) {
  const int64_t rows = t.rank() > 1 ? t.rows() / t.dim(0) : t.rows();
  double sum = 0, n = 0;
  for (int64_t r = i / rows * rows; r < i / rows * rows + rows; ++r)
    for (double x : row_of(t, r))
      if (std::isfinite(x)) sum += x * x, ++n;
  return n > 0 ? std::sqrt(sum / n) : 0;
}

// "12 of 64 elements differ, the worst ..." or nothing; *most becomes at least the largest difference as a share of what is allowed.
std::string compare(const Tensor& got, const Tensor& want, const NodeTolerance& tolerance, double* most) {
  int64_t wrong = 0, at = 0;
  double worst = 0, a = 0, b = 0, rms = 0;
  for (int64_t i = 0; i < want.rows() && want.count() > 0; ++i) {
    const std::vector<double> p = row_of(got, i), q = row_of(want, i);
    if (tolerance.stol > 0 && (want.rank() < 2 || i % (want.rows() / want.dim(0)) == 0)) rms = rms_around(want, i);
    for (size_t c = 0; c < q.size(); ++c) {
      double share = 0;  // the error over what is allowed
      const double may = tolerance.atol + tolerance.rtol * std::fabs(q[c]) + tolerance.stol * rms;
      if (p[c] == q[c] || (std::isnan(p[c]) && std::isnan(q[c]))) continue;
      if (std::isfinite(p[c]) && std::isfinite(q[c])) share = std::fabs(p[c] - q[c]) / may;
      else share = std::numeric_limits<double>::infinity();
      if (most) *most = std::max(*most, share);
      if (!(share > 1)) continue;
      ++wrong;
      if (share > worst) worst = share, at = i * want.cols() + int64_t(c), a = p[c], b = q[c];
    }
  }
  if (wrong == 0) return "";
  return join(wrong, " of ", want.count(), " elements differ, the worst at ", coordinates(want.shape, at), ": ", number(a),
              ", the reference has ", number(b));
}

}  // namespace

std::string print_text(const Graph& graph, const Plan& plan) {
  std::string text;
  for (size_t v = 0; v < graph.values().size(); ++v) {
    const Value& value = graph.values()[v];
    if (value.life == Life::input) text += join("input  #", v, " ", kind(value.whole), " @", plan.place[v], " = '", value.name, "'\n");
  }
  for (size_t i = 0; i < graph.nodes().size(); ++i) {
    Node& node = *graph.nodes()[i];
    Line line(graph, plan);
    node.visit(line);
    text += join(i, "  ", node.scope.empty() ? "" : node.scope + "  ", node.name());
    if (!line.attributes.empty()) text += "(" + line.attributes + ")";
    text += line.inputs + (line.outputs.empty() ? "" : "  ->" + line.outputs) + "\n";
  }
  return text + join(graph.nodes().size(), " nodes, arena ", plan.arena, " bytes; without sharing ", plan.unshared, "\n");
}

std::string print_dot(const Graph& graph) {
  Edges edges(graph);
  std::string boxes, open;
  auto close = [&] { boxes += open.empty() ? "" : "  }\n"; };
  int clusters = 0;
  for (; edges.now < int(graph.nodes().size()); ++edges.now) {
    Node& node = *graph.nodes()[size_t(edges.now)];
    if (node.scope != open) {
      close();
      open = node.scope;
      if (!open.empty()) boxes += join("  subgraph cluster_", clusters++, " {\n    label=", quoted(open), ";\n");
    }
    edges.label.clear();
    node.visit(edges);
    boxes += join("    n", edges.now, " [label=", quoted(join(edges.now, " ", node.name(), edges.label)), "];\n");
  }
  close();
  std::string text = "digraph folio {\n  node [shape=box];\n" + boxes;
  for (const auto& [id, line] : edges.ends) text += line;
  return text + edges.text + "}\n";
}

std::string print_trace(Program& program) {
  std::string text;
  program.trace([&](const TracedNode& node) {
    for (const auto& [name, t] : node.outputs)
      text += join(node.index, "  ", node.scope.empty() ? "" : node.scope + "  ", node.op, ".", name, "  ", kind(t), checksum(t), "\n");
  });
  return text;
}

std::string first_difference(Program& tested, Program& reference, const NodeTolerance& tolerance, double* worst) {
  const auto &a = tested.graph().nodes(), &b = reference.graph().nodes();
  check(a.size() == b.size(), "compare: one program has ", a.size(), " nodes, the other ", b.size());
  for (size_t i = 0; i < a.size(); ++i)
    check(std::strcmp(a[i]->name(), b[i]->name()) == 0, "compare: node ", i, " is ", a[i]->name(), " in one program, ", b[i]->name(),
          " in the other");

  struct Kept {
    Tensor t;
    std::vector<std::byte> bytes;
  };
  std::vector<std::vector<Kept>> kept(b.size());
  reference.trace([&](const TracedNode& node) {
    for (const auto& [name, t] : node.outputs) kept[size_t(node.index)].push_back({t, {t.data, t.data + t.bytes()}});
  });
  std::string found;
  tested.trace([&](const TracedNode& node) {
    if (!found.empty()) return;
    auto& wanted = kept[size_t(node.index)];
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      const auto& [name, got] = node.outputs[i];
      Tensor want = wanted[i].t;
      want.data = wanted[i].bytes.data();
      std::string what;
      if (got.type == want.type && got.shape == want.shape) what = compare(got, want, tolerance, worst);
      else what = join("is ", kind(got), ", the reference has ", kind(want));
      if (what.empty()) continue;
      found = join("node ", node.index, node.scope.empty() ? "" : ", " + node.scope, ", ", node.op, ".", name, " ", kind(got), ": ", what);
      return;
    }
    wanted.clear();  // compared: not needed any more
    wanted.shrink_to_fit();
  });
  return found;
}

}  // namespace folio
