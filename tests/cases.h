// SPDX-License-Identifier: MIT
// The cases of an op are data. tests/ops/STEM.cpp writes
//   CASES(RmsNorm) {
//     for (int rows : {1, 3, 64}) add({.x = normal({rows, 1000}), .w = near(1, {1000})});
//     known({.x = values({1, 2}, {3, 4}), .w = values({2}, {1, 1}), .eps = 0}, {values({1, 2}, {0.848528f, 1.131371f})});
//   }
// and test_ops.cpp runs each on every device, instruction set, thread count and layout. Inputs come from a seeded stream: the
// case's number and FOLIO_SEED (default 1) give all of them again. An op of ALL_OPS without CASES does not link.
#pragma once
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <numbers>
#include <string>
#include <vector>

#include "base/random.h"
#include "ops/ops.h"

namespace folio {

inline uint64_t base_seed() {
  const char* wish = std::getenv("FOLIO_SEED");
  return wish ? std::strtoull(wish, nullptr, 10) : 1;
}

// A stream of random numbers; equal key and stream, equal numbers.
class Random {
 public:
  explicit Random(uint64_t key, uint64_t stream = 0) : key_(key), stream_(stream) {}
  uint32_t word() { return philox(key_, count_++, stream_).word[0]; }
  double uniform() { return (word() + 0.5) * 0x1p-32; }  // in (0, 1)
  double normal() {
    const double u = uniform(), angle = 2 * std::numbers::pi * uniform();
    return std::sqrt(-2 * std::log(u)) * std::cos(angle);
  }
  int64_t below(int64_t n) { return int64_t(uint64_t(word()) * uint64_t(n) >> 32); }

 private:
  uint64_t key_, stream_, count_ = 0;
};

// Owns the bytes of tensors, each block at a multiple of 64.
class Store {
 public:
  std::byte* bytes(int64_t n) {
    blocks_.emplace_back(static_cast<std::byte*>(std::aligned_alloc(64, size_t((n + 127) / 64 * 64))));
    std::memset(blocks_.back().get(), 0, size_t(n));
    return blocks_.back().get();
  }
  Tensor zeros(DType type, const Shape& shape) { return Tensor::of(type, shape, bytes(bytes_of(type, shape.count()))); }
  Tensor copy(const Tensor& t) {  // contiguous
    Tensor c = zeros(t.type, t.shape);
    for (int64_t i = 0; i < t.rows(); ++i) std::memcpy(c.row_bytes(i), t.row_bytes(i), size_t(bytes_of(t.type, t.cols())));
    return c;
  }

 private:
  struct Free {
    void operator()(std::byte* at) const { std::free(at); }
  };
  std::deque<std::unique_ptr<std::byte, Free>> blocks_;
};

template <class Op>
struct Case {
  Op op;                        // inputs filled, outputs not yet shaped
  std::vector<Tensor> want;     // outputs and changed inputs in visit order, worked out by hand; empty: what the reference gives
  std::vector<Tensor> allowed;  // for each output, errors that a kernel may make beyond the format's tolerance; may be empty
  std::string label;
};

// Fields of an op as text: "x=f32 [3,32] w=f32 [32] eps=1e-06".
template <class Op>
std::string fields_of(Op op) {
  class Fields final : public Visitor {
   public:
    std::string text;

   private:
    void input(const char* name, Tensor& t) override { text += join(name, "=", format(t.type).name, " ", t.shape.text(), " "); }
    void attribute(const char* name, double value) override { text += join(name, "=", value, " "); }
  } fields;
  op.visit(fields);
  return fields.text;
}

// The makers of inputs. A format other than f32 rounds what f32 would hold.
class Inputs {
 public:
  Tensor normal(const Shape& shape, DType type = F32, double scale = 1) {
    return make(shape, type, [&] { return scale * random_.normal(); });
  }
  Tensor uniform(double low, double high, const Shape& shape, DType type = F32) {
    return make(shape, type, [&] { return low + (high - low) * random_.uniform(); });
  }
  Tensor near(double centre, const Shape& shape, DType type = F32) {
    return make(shape, type, [&] { return centre + 0.1 * random_.normal(); });
  }
  Tensor ids(int64_t from, int64_t to, const Shape& shape) {  // from <= id < to
    Tensor t = store_.zeros(I32, shape);
    for (int64_t i = 0; i < t.count(); ++i) t.at<int32_t>()[i] = int32_t(from + random_.below(to - from));
    return t;
  }
  Tensor values(const Shape& shape, const std::vector<float>& numbers, DType type = F32) {
    check(shape.count() == int64_t(numbers.size()), "case: ", numbers.size(), " numbers for ", shape.text());
    size_t next = 0;
    return make(shape, type, [&] { return double(numbers[next++]); });
  }
  Tensor ints(const Shape& shape, const std::vector<int32_t>& numbers) {
    check(shape.count() == int64_t(numbers.size()), "case: ", numbers.size(), " numbers for ", shape.text());
    Tensor t = store_.zeros(I32, shape);
    std::memcpy(t.data, numbers.data(), numbers.size() * sizeof(int32_t));
    return t;
  }
  // A tensor's bytes as they stand in a file.
  Tensor raw(DType type, const Shape& shape, const std::vector<uint8_t>& bytes) {
    Tensor t = store_.zeros(type, shape);
    check(t.bytes() == int64_t(bytes.size()), "case: ", bytes.size(), " bytes for ", shape.text());
    std::memcpy(t.data, bytes.data(), bytes.size());
    return t;
  }
  // Ids 0..n−1 in random order, then cut into rows of `most`: page tables whose pages lie anywhere in the pool.
  Tensor shuffled(const Shape& shape) {
    Tensor t = store_.zeros(I32, shape);
    int32_t* id = t.at<int32_t>();
    for (int64_t i = 0; i < t.count(); ++i) id[i] = int32_t(i);
    for (int64_t i = t.count() - 1; i > 0; --i) std::swap(id[i], id[random_.below(i + 1)]);
    return t;
  }
  Random& random() { return random_; }
  Store& store() { return store_; }

 protected:
  void reseed(uint64_t number) { random_ = Random(base_seed(), number); }

 private:
  template <class Draw>
  Tensor make(const Shape& shape, DType type, Draw draw) {
    Tensor t = store_.zeros(type, shape);
    std::vector<float> row(static_cast<size_t>(t.cols()));
    for (int64_t i = 0; i < t.rows(); ++i) {
      for (float& x : row) x = float(draw());
      format(type).from_float(row.data(), t.row_bytes(i), t.cols());
    }
    return t;
  }
  Store store_;
  Random random_{base_seed()};
};

template <class Op>
class CaseList : public Inputs {
 public:
  CaseList() { fill(); }
  const std::vector<Case<Op>>& all() const { return cases_; }
  // `known`: what must come out. `allowed`: see Case.
  void add(const Op& op, std::vector<Tensor> allowed = {}) { put(op, {}, std::move(allowed)); }
  void known(const Op& op, std::vector<Tensor> want) { put(op, std::move(want), {}); }

 private:
  void fill();
  void put(const Op& op, std::vector<Tensor> want, std::vector<Tensor> allowed) {
    cases_.push_back({op, std::move(want), std::move(allowed),
                      join(Op::name, " case ", cases_.size(), ", FOLIO_SEED=", base_seed(), ": ", fields_of(op))});
    reseed(cases_.size());
  }
  std::vector<Case<Op>> cases_;
};

// Said for every op before its first use, so that a missing one is the linker's business.
#define FOLIO_DECLARE_CASES(OP) \
  template <>                   \
  void CaseList<OP>::fill();
ALL_OPS(FOLIO_DECLARE_CASES)
#undef FOLIO_DECLARE_CASES
#define CASES(OP) \
  template <>     \
  void CaseList<OP>::fill()

}  // namespace folio
