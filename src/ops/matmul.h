// SPDX-License-Identifier: MIT
// The matrix product, with everything that can be done while a result is still in a register: bias, activation, gate, sum.
// A fused MLP is two of these: act(x·gateᵀ) ⊙ (x·upᵀ), then ·downᵀ + residual.
#pragma once
#include <vector>

#include "ops/elementwise.h"

namespace folio {

// u = x·wᵀ + bias;  without gate: y = act(u) + add;  with gate: y = act(x·gateᵀ + gate_bias) ⊙ beside(act, u) + add
struct Matmul {
  static constexpr const char* name = "matmul";
  Tensor x;          // [T, K] f32
  Tensor w;          // [N, K] any format: every row is one output feature
  Tensor bias;       // [N] f32, may be absent
  Tensor gate;       // [N, K] like w, may be absent
  Tensor gate_bias;  // [N] f32, may be absent
  Tensor add;        // [T, N] f32, may be absent
  Act act = Act::none;
  Tensor y;          // [T, N] f32

  void visit(auto& v) {
    v.in("x", x); v.in("w", w); v.in("bias", bias); v.in("gate", gate); v.in("gate_bias", gate_bias); v.in("add", add);
    v.attr("act", int(act));
    v.out("y", y, &add);
  }
  void shape() {
    check(x.type == F32 && x.rank() == 2 && w.rank() == 2 && w.cols() == x.cols() && format(w.type).to_float, "matmul: x is ",
          x.shape.text(), ", w ", format(w.type).name, " ", w.shape.text());
    const Shape features = {w.dim(0)};
    check(!bias.present() || (bias.type == F32 && bias.shape == features), "matmul: w is ", w.shape.text(), ", bias ", bias.shape.text());
    check(!gate.present() || (gate.type == w.type && gate.shape == w.shape), "matmul: w is ", format(w.type).name, " ", w.shape.text(), ", gate ",
          format(gate.type).name, " ", gate.shape.text());
    check(!gate_bias.present() || (gate.present() && gate_bias.type == F32 && gate_bias.shape == features), "matmul: gate_bias is ", gate_bias.shape.text());
    y = Tensor::of(F32, {x.dim(0), w.dim(0)});
    check(!add.present() || (add.type == F32 && add.shape == y.shape), "matmul: y is ", y.shape.text(), ", add ", add.shape.text());
  }
  void reference(Worker worker) const {
    std::vector<float> row(static_cast<size_t>(w.cols()));
    auto product = [&](const Tensor& b, int64_t n, int64_t t) {
      double sum = b.present() ? b.at<float>()[n] : 0;
      for (int64_t k = 0; k < x.cols(); ++k) sum += double(x.row<float>(t)[k]) * row[size_t(k)];
      return float(sum);
    };
    for (int64_t n : worker.share(w.dim(0))) {
      std::vector<float> gated;
      if (gate.present()) {
        format(gate.type).to_float(gate.row_bytes(n), row.data(), gate.cols());
        for (int64_t t = 0; t < x.dim(0); ++t) gated.push_back(activate(act, product(gate_bias, n, t)));
      }
      format(w.type).to_float(w.row_bytes(n), row.data(), w.cols());
      for (int64_t t = 0; t < x.dim(0); ++t) {
        const float u = product(bias, n, t);
        const float v = gate.present() ? gated[size_t(t)] * beside(act, u) : activate(act, u);
        y.row<float>(t)[n] = v + (add.present() ? add.row<float>(t)[n] : 0);
      }
    }
  }
};
inline Tensor matmul(Tensor x, Tensor w) { return x.graph->record(Matmul{.x = x, .w = w}).y; }

}  // namespace folio
