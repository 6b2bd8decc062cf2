// SPDX-License-Identifier: MIT
// What a denoiser does with its time: the time as sines and cosines, and adaptive layer norm (adaLN, arXiv 2212.09748), by which what is
// made of time and caption scales, shifts and gates every layer. All tokens of a clip share a few rows of such numbers; each token says by
// an index which one is its own, so that a clean frame in a noisy clip has a time of its own.
#pragma once
#include <algorithm>
#include <cmath>

#include "base/worker.h"
#include "graph/graph.h"

namespace folio {

// y[t,:] = n(x[t,:]) ⊙ (1 + scale[r,:]) + shift[r,:] with r = index[t], n(x) = (x − mean)/sqrt(variance + eps), or x itself without `norm`.
// A token with a negative index is padding: it puts out 0.
struct Modulate {
  static constexpr const char* name = "modulate";
  Tensor x;             // [T, C] f32
  Tensor scale, shift;  // [R, C] f32
  Tensor index;         // [T] i32
  bool norm = true;
  float eps = 1e-5f;
  Tensor y;             // like x

  void visit(auto& v) {
    v.in("x", x); v.in("scale", scale); v.in("shift", shift); v.in("index", index); v.attr("norm", norm); v.attr("eps", eps);
    v.out("y", y, &x);
  }
  void shape() {
    check(x.type == F32 && x.rank() == 2 && scale.type == F32 && scale.rank() == 2 && scale.cols() == x.cols() && shift.type == F32 &&
          shift.shape == scale.shape, "modulate: x is ", x.shape.text(), ", scale ", scale.shape.text(), ", shift ", shift.shape.text());
    check(index.type == I32 && index.shape == Shape{x.dim(0)}, "modulate: x is ", x.shape.text(), ", index ", index.shape.text());
    y = like(x);
  }
  void reference(Worker worker) const {
    const int64_t n = x.cols();
    for (int64_t t : worker.share(x.dim(0))) {
      const float* in = x.row<float>(t);
      float* out = y.row<float>(t);
      const int32_t r = index.at<int32_t>()[t];
      if (r < 0 || r >= scale.dim(0)) {
        std::fill_n(out, n, 0.0f);
        continue;
      }
      double mean = 0, factor = 1;
      if (norm) {
        double sum[4] = {}, square[4] = {};   // four chains: one alone waits for its own adder
        for (int64_t c = 0; c < n; ++c) sum[c & 3] += in[c];
        mean = (sum[0] + sum[1] + sum[2] + sum[3]) / double(n);
        for (int64_t c = 0; c < n; ++c) square[c & 3] += (in[c] - mean) * (in[c] - mean);
        factor = 1 / std::sqrt((square[0] + square[1] + square[2] + square[3]) / double(n) + eps);
      }
      const float *a = scale.row<float>(r), *b = shift.row<float>(r);
      for (int64_t c = 0; c < n; ++c) out[c] = float((in[c] - mean) * factor) * (1 + a[c]) + b[c];
    }
  }
};

// y[t,:] = x[t,:] + gate[r,:] ⊙ z[t,:] with r = index[t]; a negative index leaves x as it is.
struct GatedAdd {
  static constexpr const char* name = "gated_add";
  Tensor x, z;   // [T, C] f32
  Tensor gate;   // [R, C] f32
  Tensor index;  // [T] i32
  Tensor y;      // like x

  void visit(auto& v) { v.in("x", x); v.in("z", z); v.in("gate", gate); v.in("index", index); v.out("y", y, &x); }
  void shape() {
    check(x.type == F32 && x.rank() == 2 && z.type == F32 && z.shape == x.shape && gate.type == F32 && gate.rank() == 2 &&
          gate.cols() == x.cols(), "gated_add: x is ", x.shape.text(), ", z ", z.shape.text(), ", gate ", gate.shape.text());
    check(index.type == I32 && index.shape == Shape{x.dim(0)}, "gated_add: x is ", x.shape.text(), ", index ", index.shape.text());
    y = like(x);
  }
  void reference(Worker worker) const {
    for (int64_t t : worker.share(x.dim(0))) {
      const float *in = x.row<float>(t), *more = z.row<float>(t);
      float* out = y.row<float>(t);
      const int32_t r = index.at<int32_t>()[t];
      const float* by = r >= 0 && r < gate.dim(0) ? gate.row<float>(r) : nullptr;
      for (int64_t c = 0; c < x.cols(); ++c) out[c] = by ? in[c] + by[c] * more[c] : in[c];
    }
  }
};

// y[i,:] = [cos a₀ … cos a_{D/2−1}, sin a₀ …] with a_j = scale · t[i] · period^(−j/(D/2 − gap)); `sine_first`: the sines in front.
struct TimestepEmbed {
  static constexpr const char* name = "timestep_embed";
  Tensor t;             // [R] f32
  int dim = 128;        // D, even
  double scale = 1000, period = 10000;
  int gap = 0;          // 1: the last angle is scale·t/period
  bool sine_first = false;
  Tensor y;             // [R, D] f32

  void visit(auto& v) {
    v.in("t", t); v.attr("dim", dim); v.attr("scale", scale); v.attr("period", period); v.attr("gap", gap);
    v.attr("sine_first", sine_first);
    v.out("y", y);
  }
  void shape() {
    check(t.type == F32 && t.rank() == 1 && dim >= 2 && dim % 2 == 0 && period > 0 && gap >= 0 && gap < dim / 2, "timestep_embed: t is ",
          t.shape.text(), ", dim ", dim, ", period ", period, ", gap ", gap);
    y = Tensor::of(F32, {t.dim(0), dim});
  }
  void reference(Worker worker) const {
    const int half = dim / 2;
    for (int64_t i : worker.share(t.dim(0) * half)) {
      const int64_t r = i / half, j = i % half;
      const double angle = scale * t.at<float>()[r] * std::pow(period, -double(j) / (half - gap));
      y.row<float>(r)[j + (sine_first ? half : 0)] = float(std::cos(angle));
      y.row<float>(r)[j + (sine_first ? 0 : half)] = float(std::sin(angle));
    }
  }
};

}  // namespace folio
