// SPDX-License-Identifier: MIT
// A Graph is a list of recorded ops over values. It is built once per step shape, planned once (graph/plan.h) and run again
// and again by a Device. Ops run in the order in which they were recorded: no scheduler, no reordering, so a graph reads and
// debugs like a loop. All that changes from step to step is an input tensor, never an argument of an op.
//
// An op is a plain struct that shows itself (`visit`), sets its outputs' shapes (`shape`) and has a plain reference:
//   struct Name { static constexpr const char* name; Tensor x; float eps; Tensor y;
//                 void visit(auto& v) { v.in("x", x); v.attr("eps", eps); v.out("y", y); }
//                 void shape() { ... }   void reference(Worker) const { ... } };
#pragma once
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/error.h"
#include "graph/tensor.h"

namespace folio {

// Who owns a value's bytes: nobody here (a weight, a page pool), the plan for the whole life of the program (input, output),
// or the plan between its first and its last use.
enum class Life { given, input, temp, output };

struct Value {
  std::string name;
  Life life;
  Tensor whole;  // of the value's full extent; data is set if given
  bool on_demand = false;   // an output that is brought to the host only if somebody asks for it
};

// Walks the fields of an op. Absent optional tensors are never shown.
class Visitor {
 public:
  virtual ~Visitor() = default;
  void in(const char* name, Tensor& t) { if (t.present()) input(name, t); }
  void inout(const char* name, Tensor& t) { if (t.present()) change(name, t); }
  // `over`: an input whose bytes this output may take if nobody reads them later: the op writes each element after it has read it.
  void out(const char* name, Tensor& t, Tensor* over = nullptr) { if (t.present()) output(name, t, over); }
  void attr(const char* name, double value) { attribute(name, value); }

 protected:
  virtual void input(const char*, Tensor&) {}
  virtual void change(const char* name, Tensor& t) { input(name, t); }   // given memory that the op writes into
  virtual void output(const char*, Tensor&, Tensor*) {}
  virtual void attribute(const char*, double) {}
};

class Node {
 public:
  virtual ~Node() = default;
  virtual const char* name() const = 0;
  virtual void visit(Visitor&) = 0;
  virtual const void* op() const = 0;   // the op itself, for the launcher that a device's table finds by name
  std::string scope;                    // where the model recorded it: "layer.3.mix"
};

template <class Op> class NodeOf final : public Node {
 public:
  explicit NodeOf(const Op& op) : op_(op) {}
  const char* name() const override { return Op::name; }
  void visit(Visitor& v) override { op_.visit(v); }
  const void* op() const override { return &op_; }

 private:
  Op op_;
};

class Graph {
 public:
  Graph() = default;
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  // A tensor that is written before each run.
  Tensor input(const std::string& name, DType type, const Shape& shape);
  // Marks a recorded tensor as a result; its bytes are never reused. It must be a whole value, not a view.
  // `on_demand`: few runs are asked for it, so a device with memory of its own copies it when it is asked, not in every run.
  void output(const std::string& name, const Tensor& t, bool on_demand = false);
  // A small table that the graph keeps for the device, copied from `from` (contiguous).
  Tensor constant(const std::string& name, DType type, const Shape& shape, const void* from);
  // Nodes recorded from here on carry this label in prints and traces.
  void scope(std::string label) { scope_ = std::move(label); }

  // Checks and sets shapes, appends the node, returns the op with its outputs as values of this graph.
  template <class Op> Op record(Op op) {
    op.shape();
    Adopt adopt(*this);
    op.visit(adopt);
    nodes_.push_back(std::make_unique<NodeOf<Op>>(op));
    nodes_.back()->scope = scope_;
    return op;
  }

  const std::vector<Value>& values() const { return values_; }
  const std::vector<std::unique_ptr<Node>>& nodes() const { return nodes_; }
  int find(const std::string& name) const;   // the input or output of that name; -1 if there is none

 private:
  // A tensor without a graph already has its bytes; every output becomes a new value.
  class Adopt final : public Visitor {
   public:
    explicit Adopt(Graph& graph) : graph_(graph) {}

   private:
    void input(const char* name, Tensor& t) override;
    void output(const char* name, Tensor& t, Tensor* over) override;
    Graph& graph_;
  };
  Tensor add(const std::string& name, Life life, Tensor whole);

  std::vector<Value> values_;
  std::vector<std::unique_ptr<Node>> nodes_;
  std::vector<std::unique_ptr<std::byte[]>> constants_;
  std::unordered_map<const std::byte*, int> given_;   // address -> value
  std::string scope_;
};

// An uninitialised tensor of x's type and shape, contiguous: what most ops put out.
inline Tensor like(const Tensor& x) { return Tensor::of(x.type, x.shape); }

}  // namespace folio
