// SPDX-License-Identifier: MIT
// A Tensor names a value: its type, its shape and, once planned, where it lives. It is a handle, copied freely.
// Shapes read outermost first, as in PyTorch; the last dimension is contiguous, the others may be strided. Views cost nothing.
//
// Letters for shapes, here and everywhere:  T tokens  B sequences  C channels  H heads  G key groups  D head size
//                                           F ffn width  V vocabulary  P page  N pages  E experts
#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "graph/dtype.h"

namespace folio {

inline constexpr int64_t page_tokens = 64;   // P: tokens of a page, the same for every mixer (house.md 4.6)

class Graph;

// Up to four dimensions, outermost first.
struct Shape {
  int rank = 0;
  int64_t dim[4] = {};

  Shape() = default;
  Shape(std::initializer_list<int64_t> dims);
  bool operator==(const Shape& other) const;
  int64_t operator[](int i) const { return dim[i]; }
  int64_t count() const;  // elements; 1 for rank 0
  std::string text() const;  // "[4096,4096]"
};

struct Tensor {
  DType type = F32;
  Shape shape;
  int64_t stride[4] = {};      // in elements; the last is 1
  Graph* graph = nullptr;      // where ops on it are recorded; null: it already has its bytes (a weight, a page pool)
  int value = -1;              // which value of the graph
  int64_t offset = 0;          // of this view inside the value, in bytes
  std::byte* data = nullptr;   // set by the plan, or given

  // A contiguous tensor of that shape; `data` may be given.
  static Tensor of(DType type, const Shape& shape, void* data = nullptr);

  bool present() const { return shape.rank > 0; }   // an optional tensor that was not passed has rank 0
  int rank() const { return shape.rank; }
  int64_t dim(int i) const { return shape.dim[i]; }
  int64_t cols() const { return shape.dim[shape.rank - 1]; }
  int64_t rows() const;        // product of all dimensions but the last
  int64_t count() const { return shape.count(); }
  int64_t bytes() const;       // from the first byte to the last, gaps of a strided view included
  bool contiguous() const;

  // Views. They record nothing.
  Tensor columns(int64_t from, int64_t n) const;    // of the last dimension; from and n multiples of the format's block
  Tensor slice(int64_t from, int64_t n) const;      // of the first dimension
  Tensor reshape(const Shape& to) const;            // of a contiguous tensor
  // [T, n·D] -> [T, n, D], also of a strided view of columns.
  Tensor split_last(int64_t n) const;
  Tensor merge_last() const;                        // the inverse: [T, n, D] -> [T, n·D]

  // The bytes of row i, counting rows over all outer dimensions.
  std::byte* row_bytes(int64_t i) const;
  template <class T> T* row(int64_t i) const { return reinterpret_cast<T*>(row_bytes(i)); }
  template <class T> T* at() const { return reinterpret_cast<T*>(data); }
};

}  // namespace folio
