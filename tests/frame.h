// SPDX-License-Identifier: MIT
// What test_ops does with a case: it puts the inputs into memory of its own (packed, or as strided views between poison), runs
// the op as a graph of one node through the door that everybody uses, and looks whether only the outputs have changed.
#pragma once
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "cases.h"
#include "compare.h"
#include "graph/device.h"
#include "graph/plan.h"

namespace folio {

// Collects the fields of an op. Outputs are there only after shape().
class Fields final : public Visitor {
 public:
  struct Output {
    std::string name;
    Tensor* tensor;
    Tensor* over;
  };
  std::vector<std::pair<std::string, Tensor*>> inputs, changed;
  std::vector<Output> outputs;

 private:
  void input(const char* name, Tensor& t) override { inputs.emplace_back(name, &t); }
  void change(const char* name, Tensor& t) override { changed.emplace_back(name, &t); }
  void output(const char* name, Tensor& t, Tensor* over) override { outputs.push_back({name, &t, over}); }
};

template <class Op>
Fields fields(Op& op) {
  Fields f;
  op.visit(f);
  return f;
}

// Fills memory with what shows when it is read as data: NaN, NaN scales, ids far out of range.
inline void poison(DType type, std::byte* at, int64_t elements) {
  auto fill = [at](auto pattern, int64_t n) {
    for (int64_t i = 0; i < n; ++i) std::memcpy(at + i * int64_t(sizeof pattern), &pattern, sizeof pattern);
  };
  switch (type) {
    case F32:
      return fill(uint32_t(0x7fc00000), elements);
    case F16:
      return fill(uint16_t(0x7e00), elements);
    case BF16:
      return fill(uint16_t(0x7fc0), elements);
    case I32:
      return fill(int32_t(0x40000000), elements);
    case U8:
      return fill(uint8_t(0xa5), elements);
    case Q8_0: {
      BlockQ8_0 block{0x7e00, {}};
      std::memset(block.q, 0x5a, sizeof block.q);
      return fill(block, elements / 32);
    }
    case Q4_0: {
      BlockQ4_0 block{0x7e00, {}};
      std::memset(block.q, 0x5a, sizeof block.q);
      return fill(block, elements / 32);
    }
    case F8_E4M3: {
      BlockF8_E4M3 block{std::numeric_limits<float>::quiet_NaN(), {}};
      std::memset(block.q, 0x5a, sizeof block.q);
      return fill(block, elements / 64);
    }
  }
}

// A tensor's copy in a poisoned buffer of its own, at any element, and what the buffer held before the run.
class Placed {
 public:
  // `gaps`: 0 packed, 1 between the slices of the first dimension, 2 between those of every dimension but the last.
  Placed(const Tensor& t, int gaps, Random& random) {
    const int64_t block = format(t.type).block;
    view_ = t;
    for (int d = t.rank() - 2; d >= 0; --d) {
      view_.stride[d] = view_.stride[d + 1] * t.dim(d + 1);
      if (gaps == 2 || (gaps == 1 && d == 0)) view_.stride[d] += (1 + random.below(7)) * block;
    }
    if (t.rank() > 0) view_.stride[t.rank() - 1] = 1;
    const int64_t before = random.below(16) * block, after = 64 * block;
    const int64_t room = before + (view_.rank() > 1 ? view_.stride[0] * t.dim(0) : t.count()) + after;
    bytes_ = bytes_of(t.type, room);
    data_ = store_.bytes(bytes_);
    poison(t.type, data_, room);
    view_.data = data_ + bytes_of(t.type, before);
    for (int64_t i = 0; i < t.rows(); ++i) std::memcpy(view_.row_bytes(i), t.row_bytes(i), row_bytes());
    first_.assign(data_, data_ + bytes_);
  }
  const Tensor& view() const { return view_; }
  void reset() { std::memcpy(data_, first_.data(), first_.size()); }
  bool untouched() const { return std::memcmp(data_, first_.data(), first_.size()) == 0; }
  // Whether nothing outside the view has changed.
  bool tidy() const {
    std::vector<std::byte> now(data_, data_ + bytes_);
    for (int64_t i = 0; i < view_.rows(); ++i) {
      const auto at = size_t(view_.row_bytes(i) - data_);
      std::memcpy(&now[at], &first_[at], row_bytes());
    }
    return now == first_;
  }

 private:
  size_t row_bytes() const { return size_t(bytes_of(view_.type, view_.cols())); }
  Store store_;
  Tensor view_;
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
  std::vector<std::byte> first_;
};

enum class Layout { packed, strided };

// An op whose inputs lie in memory of their own.
template <class Op>
class Instance {
 public:
  Instance(const Op& from, Layout layout, uint64_t seed) : op(from) {
    Random random(seed, 1000);
    place(fields(op).inputs, layout, random, inputs_);
    place(fields(op).changed, layout, random, changed_);
  }
  void reset() {
    for (auto& p : changed_) p->reset();
  }
  std::vector<Tensor> changed() const {
    std::vector<Tensor> all;
    for (const auto& p : changed_) all.push_back(p->view());
    return all;
  }
  std::string damage() const {
    for (const auto& p : inputs_)
      if (!p->untouched()) return "an input was written to";
    for (const auto& p : changed_)
      if (!p->tidy()) return "something beside a changed tensor was written to";
    return "";
  }
  Op op;

 private:
  using Kept = std::vector<std::unique_ptr<Placed>>;
  void place(const std::vector<std::pair<std::string, Tensor*>>& tensors, Layout layout, Random& random, Kept& kept) {
    for (const auto& [name, t] : tensors) {
      const Tensor original = *t;
      for (int gaps = layout == Layout::packed ? 0 : 2; gaps >= 0; --gaps) {
        auto placed = std::make_unique<Placed>(original, gaps, random);
        *t = placed->view();
        if (gaps > 0 && !accepted()) continue;
        kept.push_back(std::move(placed));
        break;
      }
    }
  }
  bool accepted() const {  // some tensors must be contiguous: their op's shape() says so
    try {
      Op copy = op;
      copy.shape();
      return true;
    } catch (const Error&) {
      return false;
    }
  }
  Kept inputs_, changed_;
};

// What an op gave: outputs and changed inputs, contiguous.
struct Results {
  Store store;
  std::vector<Tensor> tensors;
  std::vector<std::string> names;
  void keep(const std::string& name, const Tensor& t) {
    tensors.push_back(store.copy(t));
    names.push_back(name);
  }
};

// The plain reference by itself: one worker, no graph, outputs full of poison before.
template <class Op>
void run_plain(Instance<Op>& in, Results& results) {
  Op op = in.op;
  op.shape();
  const Fields f = fields(op);
  for (const auto& out : f.outputs) {
    out.tensor->data = results.store.bytes(out.tensor->bytes());
    poison(out.tensor->type, out.tensor->data, out.tensor->count());
  }
  in.reset();
  op.reference(Worker{});
  for (const auto& out : f.outputs) results.keep(out.name, *out.tensor);
  for (const auto& [name, t] : f.changed) results.keep(name, *t);
}

template <class Op>
bool may_take_over(Op op) {
  op.shape();
  for (const auto& out : fields(op).outputs)
    if (out.over && out.over->present()) return true;
  return false;
}

// Within the format's tolerance and what the case allows beyond it: a complaint, or an empty string. *worst: the largest error of an
// element, as a multiple of what is allowed.
template <class Op>
std::string judge(const Case<Op>& c, const Results& got, const std::vector<Tensor>& want, double* worst = nullptr) {
  if (got.tensors.size() != want.size()) return join(got.tensors.size(), " results, expected ", want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    double largest = 0, ratio = 0;
    for (double x : elements(want[i])) largest = std::isfinite(x) ? std::max(largest, std::fabs(x)) : largest;
    const Tensor* extra = i < c.allowed.size() && c.allowed[i].present() ? &c.allowed[i] : nullptr;
    const std::string wrong = difference(got.tensors[i], want[i], tolerance_of(want[i].type, largest), extra, &ratio);
    if (worst) *worst = std::max(*worst, ratio);
    if (!wrong.empty()) return got.names[i] + ": " + wrong;
  }
  return "";
}

// Operations of a case, about.
template <class Op>
int64_t operations_of(const Case<Op>& c) {
  Op op = c.op;
  op.shape();
  int64_t elements = 0;
  const Fields f = fields(op);
  for (const auto& [name, t] : f.inputs) elements = std::max(elements, t->count());
  for (const auto& out : f.outputs) elements = std::max(elements, out.tensor->count());
  if constexpr (std::is_same_v<Op, Matmul>) return op.y.count() * op.x.cols() * (op.gate.present() ? 2 : 1);
  if constexpr (std::is_same_v<Op, ExpertMatmul>) return op.y.count() * op.x.cols() * (op.gate.present() ? 2 : 1);
  if constexpr (std::is_same_v<Op, Attend>) return op.o.count() * op.page.dim(1) * page_tokens;
  if constexpr (std::is_same_v<Op, Linear> || std::is_same_v<Op, LogLinear>) return op.o.count() * op.q.cols() * 8;
  if constexpr (std::is_same_v<Op, Mla>) return op.q.rows() * op.latent.cols() * (op.page.dim(1) * page_tokens + op.q.cols() + op.v_up.dim(1));
  if constexpr (std::is_same_v<Op, Mesa>) return op.o.count() * op.q.cols() * 40;
  if constexpr (std::is_same_v<Op, Conv>) return op.y.count() * op.taps() * (op.depthwise() ? 1 : op.x.cols());
  if constexpr (std::is_same_v<Op, ConvTranspose>) return op.y.count() * op.w.dim(0) * op.x.cols();
  return elements;
}

// Through Graph, Plan and Device, `rounds` times, which must give the same bits; the last time node by node (Program::trace) if
// `eager`. With `takeover`, inputs whose bytes an output may take are made temporary values first, so that the output takes them.
// Gives a complaint, or an empty string.
template <class Op>
std::string run_graph(Device& device, Instance<Op>& in, bool takeover, int rounds, Results& results, bool eager = false) {
  auto graph = std::make_unique<Graph>();
  Op op = in.op;
  int taken = 0;
  if (takeover) {
    op.shape();
    for (const auto& out : fields(op).outputs) {
      if (!out.over || !out.over->present()) continue;
      *out.over = graph->record(Scale{.x = *out.over, .factor = 1}).y;
      ++taken;
    }
  }
  op = graph->record(op);
  const Fields f = fields(op);
  for (const auto& out : f.outputs) graph->output(out.name, *out.tensor);
  const Plan plan = make_plan(*graph);
  for (const auto& out : f.outputs)
    if (takeover && out.over && out.over->present() && plan.place[size_t(out.tensor->value)] != plan.place[size_t(out.over->value)])
      return out.name + " did not take over the bytes it may have";
  std::unique_ptr<Program> program = device.compile(std::move(graph));
  for (int round = 0; round < rounds + eager; ++round) {
    in.reset();
    std::vector<Tensor> now;
    Store traced;
    if (round < rounds) {
      program->run();
      for (const auto& out : f.outputs) now.push_back(program->output(out.name));
    } else {
      program->trace([&](const TracedNode& node) {
        now.clear();   // the op is the last node
        for (const auto& [name, t] : node.outputs) now.push_back(traced.copy(t));
      });
    }
    for (const Tensor& t : in.changed()) now.push_back(t);
    const size_t outputs = f.outputs.size();
    for (size_t i = 0; i < now.size(); ++i) {
      const std::string name = i < outputs ? f.outputs[i].name : "changed";
      if (round == 0) {
        results.keep(name, now[i]);
        continue;
      }
      const std::string differs = bit_difference(now[i], results.tensors[i]);
      if (!differs.empty()) return join(round < rounds ? "a later run's " : "the eager run's ", name, ": ", differs);
    }
    if (const std::string text = in.damage(); !text.empty()) return text;
  }
  return "";
}

}  // namespace folio
