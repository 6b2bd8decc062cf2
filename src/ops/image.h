// SPDX-License-Identifier: MIT
// What image models do between their convolutions: enlarge, trade channels for pixels and back, and normalise over whole frames. Images and
// clips are [N, H, W, C], channels last.
#pragma once
#include <cmath>
#include <cstring>

#include "base/worker.h"
#include "graph/graph.h"

namespace folio {

// y[n, i, j, :] = x[n, i / factor, j / factor, :]: every pixel becomes a square of itself
struct Upsample {
  static constexpr const char* name = "upsample";
  Tensor x;  // [N, H, W, C] f32
  int factor = 2;
  Tensor y;  // [N, factor·H, factor·W, C] f32

  void visit(auto& v) { v.in("x", x); v.attr("factor", factor); v.out("y", y); }
  void shape() {
    check(x.type == F32 && x.rank() == 4 && factor >= 1, "upsample: x is ", format(x.type).name, " ", x.shape.text(), ", factor ", factor);
    y = Tensor::of(F32, {x.dim(0), factor * x.dim(1), factor * x.dim(2), x.cols()});
  }
  void reference(Worker w) const {
    for (int64_t i : w.share(y.rows())) {
      const int64_t row = i / y.dim(2) / factor, col = i % y.dim(2) / factor;   // frames follow one another: a row of any of them
      std::memcpy(y.row_bytes(i), x.row_bytes(row * x.dim(2) + col), size_t(x.cols()) * sizeof(float));
    }
  }
};
inline Tensor upsample(Tensor x, int factor = 2) { return x.graph->record(Upsample{.x = x, .factor = factor}).y; }

// y[n, i·p + a, j·p + b, c] = x[n, i, j, c·p² + a·p + b]   for p = factor (arXiv 1609.05158; PyTorch's order of channels)
struct PixelShuffle {
  static constexpr const char* name = "pixel_shuffle";
  Tensor x;  // [N, H, W, C·p²] f32
  int factor = 2;
  Tensor y;  // [N, p·H, p·W, C] f32

  void visit(auto& v) { v.in("x", x); v.attr("factor", factor); v.out("y", y); }
  void shape() {
    check(x.type == F32 && x.rank() == 4 && factor >= 1 && x.cols() % (factor * factor) == 0, "pixel_shuffle: x is ",
          format(x.type).name, " ", x.shape.text(), ", factor ", factor);
    y = Tensor::of(F32, {x.dim(0), factor * x.dim(1), factor * x.dim(2), x.cols() / (factor * factor)});
  }
  void reference(Worker w) const {
    const int64_t p = factor;
    for (int64_t i : w.share(y.rows())) {
      const int64_t row = i / y.dim(2), col = i % y.dim(2);
      const float* in = x.row<float>(row / p * x.dim(2) + col / p) + row % p * p + col % p;
      for (int64_t c = 0; c < y.cols(); ++c) y.row<float>(i)[c] = in[c * p * p];
    }
  }
};
inline Tensor pixel_shuffle(Tensor x, int factor) { return x.graph->record(PixelShuffle{.x = x, .factor = factor}).y; }

// y[n, i, j, c·p² + a·p + b] = x[n, i·p + a, j·p + b, c]   for p = factor: the inverse
struct PixelUnshuffle {
  static constexpr const char* name = "pixel_unshuffle";
  Tensor x;  // [N, p·H, p·W, C] f32
  int factor = 2;
  Tensor y;  // [N, H, W, C·p²] f32

  void visit(auto& v) { v.in("x", x); v.attr("factor", factor); v.out("y", y); }
  void shape() {
    check(x.type == F32 && x.rank() == 4 && factor >= 1 && x.dim(1) % factor == 0 && x.dim(2) % factor == 0, "pixel_unshuffle: x is ",
          format(x.type).name, " ", x.shape.text(), ", factor ", factor);
    y = Tensor::of(F32, {x.dim(0), x.dim(1) / factor, x.dim(2) / factor, x.cols() * factor * factor});
  }
  void reference(Worker w) const {
    const int64_t p = factor;
    for (int64_t i : w.share(y.rows())) {
      const int64_t row = i / y.dim(2), col = i % y.dim(2);
      for (int64_t a = 0; a < p * p; ++a) {
        const float* in = x.row<float>((row * p + a / p) * x.dim(2) + col * p + a % p);
        for (int64_t c = 0; c < x.cols(); ++c) y.row<float>(i)[c * p * p + a] = in[c];
      }
    }
  }
};
inline Tensor pixel_unshuffle(Tensor x, int factor) { return x.graph->record(PixelUnshuffle{.x = x, .factor = factor}).y; }

// y = w ⊙ (x − mean) / sqrt(variance + eps) + b, with mean and variance of each frame's groups of C / groups neighbouring channels,
// over all its pixels (arXiv 1803.08494)
struct GroupNorm {
  static constexpr const char* name = "group_norm";
  Tensor x;  // [N, H, W, C] f32
  Tensor w;  // [C] f32
  Tensor b;  // [C] f32, may be absent
  int groups = 1;
  float eps = 1e-5f;
  Tensor y;  // like x

  void visit(auto& v) { v.in("x", x); v.in("w", w); v.in("b", b); v.attr("groups", groups); v.attr("eps", eps); v.out("y", y, &x); }
  void shape() {
    check(x.type == F32 && x.rank() == 4 && groups >= 1 && x.cols() % groups == 0, "group_norm: x is ", format(x.type).name, " ",
          x.shape.text(), ", groups ", groups);
    check(w.type == F32 && w.shape == Shape{x.cols()} && (!b.present() || (b.type == F32 && b.shape == w.shape)), "group_norm: x is ",
          x.shape.text(), ", w ", w.shape.text(), ", b ", b.shape.text());
    y = like(x);
  }
  void reference(Worker worker) const {
    const int64_t pixels = x.dim(1) * x.dim(2), width = x.cols() / groups;
    for (int64_t i : worker.share(x.dim(0) * groups)) {
      const int64_t first = i / groups * pixels, from = i % groups * width;
      auto mean = [&](auto f) {   // of f(element) over the group
        double sum = 0;
        for (int64_t p = 0; p < pixels; ++p)
          for (int64_t c = 0; c < width; ++c) sum += f(double(x.row<float>(first + p)[from + c]));
        return sum / double(pixels * width);
      };
      const double middle = mean([](double v) { return v; });
      const double scale = 1 / std::sqrt(mean([&](double v) { return (v - middle) * (v - middle); }) + eps);
      for (int64_t p = 0; p < pixels; ++p) {
        const float* in = x.row<float>(first + p);
        float* out = y.row<float>(first + p);
        for (int64_t c = from; c < from + width; ++c)
          out[c] = float((in[c] - middle) * scale) * w.at<float>()[c] + (b.present() ? b.at<float>()[c] : 0);
      }
    }
  }
};
inline Tensor group_norm(Tensor x, Tensor w, Tensor b, int groups, float eps) {
  return x.graph->record(GroupNorm{.x = x, .w = w, .b = b, .groups = groups, .eps = eps}).y;
}

}  // namespace folio
