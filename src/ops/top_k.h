// SPDX-License-Identifier: MIT
// The k largest of a row, largest first, equal values by ascending index.
#pragma once
#include <algorithm>
#include <numeric>
#include <vector>

#include "base/worker.h"
#include "graph/graph.h"

namespace folio {

struct TopK {
  static constexpr const char* name = "top_k";
  Tensor x;      // [T, V] f32
  int k = 1;
  Tensor value;  // [T, k] f32
  Tensor index;  // [T, k] i32

  void visit(auto& v) { v.in("x", x); v.attr("k", k); v.out("value", value); v.out("index", index); }
  void shape() {
    check(x.type == F32 && x.rank() == 2 && k >= 1 && k <= x.cols(), "top_k: x is ", x.shape.text(), ", k ", k);
    value = Tensor::of(F32, {x.dim(0), k});
    index = Tensor::of(I32, {x.dim(0), k});
  }
  void reference(Worker w) const {
    std::vector<int32_t> order(static_cast<size_t>(x.cols()));
    for (int64_t t : w.share(x.dim(0))) {
      const float* row = x.row<float>(t);
      std::iota(order.begin(), order.end(), 0);
      auto before = [row](int32_t a, int32_t b) { return row[a] != row[b] ? row[a] > row[b] : a < b; };
      std::partial_sort(order.begin(), order.begin() + k, order.end(), before);
      for (int i = 0; i < k; ++i) {
        index.row<int32_t>(t)[i] = order[size_t(i)];
        value.row<float>(t)[i] = row[order[size_t(i)]];
      }
    }
  }
};
inline TopK top_k(Tensor x, int k) { return x.graph->record(TopK{.x = x, .k = k}); }

}  // namespace folio
