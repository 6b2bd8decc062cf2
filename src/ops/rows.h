// SPDX-License-Identifier: MIT
// Ops that move rows: out of a table, out of the step, into the pages of a sequence. A negative index is padding: it reads
// zeros and writes nothing.
#pragma once
#include <cstring>

#include "base/worker.h"
#include "graph/graph.h"

namespace folio {



// y[t,:] = scale · w[token[t],:]
struct Embed {
  static constexpr const char* name = "embed";
  Tensor token;  // [T] i32
  Tensor w;      // [V, C] any format
  float scale = 1;
  Tensor y;      // [T, C] f32

  void visit(auto& v) { v.in("token", token); v.in("w", w); v.attr("scale", scale); v.out("y", y); }
  void shape() {
    check(token.type == I32 && token.rank() == 1 && w.rank() == 2 && format(w.type).to_float, "embed: token is ", token.shape.text(), ", w ", w.shape.text());
    y = Tensor::of(F32, {token.dim(0), w.cols()});
  }
  void reference(Worker worker) const {
    for (int64_t t : worker.share(y.rows())) {
      float* out = y.row<float>(t);
      const int32_t id = token.at<int32_t>()[t];
      if (id < 0 || id >= w.dim(0)) std::memset(out, 0, size_t(y.cols()) * sizeof(float));
      else format(w.type).to_float(w.row_bytes(id), out, w.cols());
      if (scale != 1)
        for (int64_t c = 0; c < y.cols(); ++c) out[c] *= scale;
    }
  }
};
inline Tensor embed(Tensor token, Tensor w, float scale = 1) { return token.graph->record(Embed{.token = token, .w = w, .scale = scale}).y; }

// y[i,:] = x[index[i],:]
struct Gather {
  static constexpr const char* name = "gather";
  Tensor x;      // [T, C] f32
  Tensor index;  // [W] i32
  Tensor y;      // [W, C] f32

  void visit(auto& v) { v.in("x", x); v.in("index", index); v.out("y", y); }
  void shape() {
    check(x.type == F32 && x.rank() == 2 && index.type == I32 && index.rank() == 1, "gather: x is ", x.shape.text(), ", index ", index.shape.text());
    y = Tensor::of(F32, {index.dim(0), x.cols()});
  }
  void reference(Worker worker) const {
    for (int64_t i : worker.share(y.rows())) {
      const int32_t t = index.at<int32_t>()[i];
      if (t < 0 || t >= x.dim(0)) std::memset(y.row_bytes(i), 0, size_t(y.cols()) * sizeof(float));
      else std::memcpy(y.row_bytes(i), x.row_bytes(t), size_t(y.cols()) * sizeof(float));
    }
  }
};
inline Tensor gather(Tensor x, Tensor index) { return x.graph->record(Gather{.x = x, .index = index}).y; }

// pool[page[seq[t], pos[t] / 64], pos[t] % 64] = x[t]: every token leaves its row in its place; nothing else is written.
struct Append {
  static constexpr const char* name = "append";
  Tensor x;         // [T, G, D] f32
  Tensor page;      // [B, most] i32   page ids of each sequence
  Tensor seq, pos;  // [T] i32         whose token, and where
  Tensor pool;      // [N, 64, G, D]   any format

  void visit(auto& v) { v.in("x", x); v.in("page", page); v.in("seq", seq); v.in("pos", pos); v.inout("pool", pool); }
  void shape() {
    check(x.type == F32 && x.rank() == 3 && pool.rank() == 4 && pool.dim(1) == page_tokens && pool.dim(2) == x.dim(1) &&
          pool.dim(3) == x.dim(2) && format(pool.type).from_float, "append: x is ", x.shape.text(), ", pool ", pool.shape.text());
    check(page.type == I32 && page.rank() == 2 && seq.type == I32 && seq.shape == pos.shape && seq.dim(0) == x.dim(0),
          "append: page is ", page.shape.text(), ", seq ", seq.shape.text(), ", pos ", pos.shape.text());
  }
  void reference(Worker worker) const {
    for (int64_t t : worker.share(x.dim(0))) {
      const int32_t b = seq.at<int32_t>()[t], p = pos.at<int32_t>()[t];
      if (b < 0) continue;
      const int32_t id = page.row<int32_t>(b)[p / page_tokens];
      if (id < 0) continue;
      for (int64_t g = 0; g < x.dim(1); ++g)
        format(pool.type).from_float(x.row<float>(t * x.dim(1) + g), pool.row_bytes((id * page_tokens + p % page_tokens) * x.dim(1) + g), x.cols());
    }
  }
};

}  // namespace folio
