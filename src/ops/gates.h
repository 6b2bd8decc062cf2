// SPDX-License-Identifier: MIT
// What recurrent mixers put before and behind their memory: gates of all kinds (decays, write strengths, step sizes, level weights)
// are one function of an affine input; and a factor a row.
#pragma once
#include <cmath>
#include <limits>

#include "base/worker.h"
#include "graph/graph.h"

namespace folio {

// sigmoid 1/(1 + e^−x); softplus log(1 + e^x); elu1 = elu(x) + 1, positive (arXiv 2006.16236).
enum class GateKind : int { sigmoid, softplus, elu1 };

inline float gate_function(GateKind kind, float x) {
  switch (kind) {
    case GateKind::sigmoid: return 1 / (1 + std::exp(-x));
    case GateKind::softplus: return x > 20 ? x : std::log1p(std::exp(x));
    case GateKind::elu1: return x > 0 ? x + 1 : std::exp(x);
  }
  return x;
}

// y = rate ⊙ clamp(f(sign · (weight ⊙ x + bias)), low, high) · factor
//   β = sigmoid(x) (factor 2: eigenvalues down to −1) · Δ = clamp(softplus(x + bias)) · log decay of Mamba-2 and gated DeltaNet:
//   rate −e^A, softplus(x + bias) · log sigmoid(x)/16 of GLA: sign −1, softplus, factor −1/16 · λ of log-linear: softplus(L ⊙ x)
struct Gate {
  static constexpr const char* name = "gate";
  Tensor x;                    // [..., C] f32
  Tensor weight, bias, rate;   // [C] f32 each, may be absent
  GateKind kind = GateKind::sigmoid;
  float sign = 1, factor = 1;
  float low = -std::numeric_limits<float>::infinity(), high = std::numeric_limits<float>::infinity();
  Tensor y;                    // like x

  void visit(auto& v) {
    v.in("x", x); v.in("weight", weight); v.in("bias", bias); v.in("rate", rate); v.attr("kind", int(kind)); v.attr("sign", sign);
    v.attr("factor", factor); v.attr("low", low); v.attr("high", high); v.out("y", y, &x);
  }
  void shape() {
    for (const Tensor* t : {&weight, &bias, &rate})
      check(!t->present() || (t->type == F32 && t->shape == Shape{x.cols()}), "gate: x is ", x.shape.text(), ", a row of it ", t->shape.text());
    check(x.type == F32 && low <= high, "gate: x is ", format(x.type).name, ", limits ", low, " to ", high);
    y = like(x);
  }
  void reference(Worker worker) const {
    const float *w = weight.present() ? weight.at<float>() : nullptr, *b = bias.present() ? bias.at<float>() : nullptr;
    const float* r = rate.present() ? rate.at<float>() : nullptr;
    for (int64_t t : worker.share(x.rows())) {
      const float* in = x.row<float>(t);
      float* out = y.row<float>(t);
      for (int64_t c = 0; c < x.cols(); ++c) {
        const float f = gate_function(kind, sign * ((w ? w[c] : 1) * in[c] + (b ? b[c] : 0)));
        out[c] = (r ? r[c] : 1) * (f < low ? low : f > high ? high : f) * factor;
      }
    }
  }
};
inline Tensor gate(Tensor x, GateKind kind, float factor = 1) { return x.graph->record(Gate{.x = x, .kind = kind, .factor = factor}).y; }

// y[t,h,:] = s[t,h] · x[t,h,:]
struct ScaleRows {
  static constexpr const char* name = "scale_rows";
  Tensor x;  // [T, H, C] f32
  Tensor s;  // [T, H] f32
  Tensor y;  // like x

  void visit(auto& v) { v.in("x", x); v.in("s", s); v.out("y", y, &x); }
  void shape() {
    check(x.type == F32 && s.type == F32 && x.rank() == 3 && s.shape == Shape({x.dim(0), x.dim(1)}), "scale_rows: x is ", x.shape.text(), ", s ",
          s.shape.text());
    y = like(x);
  }
  void reference(Worker w) const {
    for (int64_t i : w.share(x.rows())) {
      const float factor = s.row<float>(i / x.dim(1))[i % x.dim(1)], *in = x.row<float>(i);
      float* out = y.row<float>(i);
      for (int64_t c = 0; c < x.cols(); ++c) out[c] = factor * in[c];
    }
  }
};
inline Tensor scale_rows(Tensor x, Tensor s) { return x.graph->record(ScaleRows{.x = x, .s = s}).y; }

}  // namespace folio
