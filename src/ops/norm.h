// SPDX-License-Identifier: MIT
// Norms over the last dimension. Sums are in double, so a row's result depends on nothing but the row.
#pragma once
#include <cmath>

#include "base/worker.h"
#include "graph/graph.h"

namespace folio {

// y[t,:] = w ⊙ x[t,:] / sqrt(mean(x[t,:]²) + eps)   (arXiv 1910.07467)
struct RmsNorm {
  static constexpr const char* name = "rms_norm";
  Tensor x;  // [..., C] f32
  Tensor w;  // [C] f32
  float eps = 1e-6f;
  Tensor y;  // like x

  void visit(auto& v) { v.in("x", x); v.in("w", w); v.attr("eps", eps); v.out("y", y, &x); }
  void shape() {
    check(x.type == F32 && w.type == F32 && w.rank() == 1 && w.cols() == x.cols(), "rms_norm: x is ", x.shape.text(), ", w ", w.shape.text());
    y = like(x);
  }
  void reference(Worker worker) const {
    const float* g = w.at<float>();
    const int64_t n = x.cols();
    for (int64_t t : worker.share(x.rows())) {
      const float* in = x.row<float>(t);
      float* out = y.row<float>(t);
      double sum[4] = {};  // four chains: one alone waits for its own adder
      for (int64_t c = 0; c < n; ++c) sum[c & 3] += double(in[c]) * in[c];
      const float scale = float(1 / std::sqrt((sum[0] + sum[1] + sum[2] + sum[3]) / double(n) + eps));
      for (int64_t c = 0; c < n; ++c) out[c] = g[c] * (in[c] * scale);
    }
  }
};
inline Tensor rms_norm(Tensor x, Tensor w, float eps) { return x.graph->record(RmsNorm{.x = x, .w = w, .eps = eps}).y; }

// y[t,:] = w ⊙ (x[t,:] − mean) / sqrt(variance + eps) + b   (arXiv 1607.06450)
struct LayerNorm {
  static constexpr const char* name = "layer_norm";
  Tensor x;  // [..., C] f32
  Tensor w;  // [C] f32
  Tensor b;  // [C] f32, may be absent
  float eps = 1e-5f;
  Tensor y;  // like x

  void visit(auto& v) { v.in("x", x); v.in("w", w); v.in("b", b); v.attr("eps", eps); v.out("y", y, &x); }
  void shape() {
    check(x.type == F32 && w.type == F32 && w.rank() == 1 && w.cols() == x.cols(), "layer_norm: x is ", x.shape.text(), ", w ", w.shape.text());
    check(!b.present() || (b.type == F32 && b.shape == w.shape), "layer_norm: w is ", w.shape.text(), ", b ", b.shape.text());
    y = like(x);
  }
  void reference(Worker worker) const {
    const int64_t n = x.cols();
    for (int64_t t : worker.share(x.rows())) {
      const float* in = x.row<float>(t);
      float* out = y.row<float>(t);
      double sum = 0, square = 0;
      for (int64_t c = 0; c < n; ++c) sum += in[c];
      const double mean = sum / double(n);
      for (int64_t c = 0; c < n; ++c) square += (in[c] - mean) * (in[c] - mean);
      const double scale = 1 / std::sqrt(square / double(n) + eps);
      for (int64_t c = 0; c < n; ++c) out[c] = float((in[c] - mean) * scale) * w.at<float>()[c] + (b.present() ? b.at<float>()[c] : 0);
    }
  }
};
inline Tensor layer_norm(Tensor x, Tensor w, Tensor b, float eps) {
  return x.graph->record(LayerNorm{.x = x, .w = w, .b = b, .eps = eps}).y;
}

// y[t,:] = x[t,:] / sqrt(Σ x[t,:]² + eps)
struct L2Norm {
  static constexpr const char* name = "l2_norm";
  Tensor x;  // [..., C] f32
  float eps = 1e-6f;
  Tensor y;  // like x

  void visit(auto& v) { v.in("x", x); v.attr("eps", eps); v.out("y", y, &x); }
  void shape() { check(x.type == F32, "l2_norm: x is ", format(x.type).name); y = like(x); }
  void reference(Worker worker) const {
    for (int64_t t : worker.share(x.rows())) {
      const float* in = x.row<float>(t);
      float* out = y.row<float>(t);
      double sum[4] = {};
      for (int64_t c = 0; c < x.cols(); ++c) sum[c & 3] += double(in[c]) * in[c];
      const float scale = float(1 / std::sqrt(sum[0] + sum[1] + sum[2] + sum[3] + eps));
      for (int64_t c = 0; c < x.cols(); ++c) out[c] = in[c] * scale;
    }
  }
};
inline Tensor l2_norm(Tensor x, float eps = 1e-6f) { return x.graph->record(L2Norm{.x = x, .eps = eps}).y; }

}  // namespace folio
