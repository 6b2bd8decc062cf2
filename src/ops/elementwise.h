// SPDX-License-Identifier: MIT
// Ops that look at one element at a time: add, multiply, scale, cast, activations and their gated forms. Activations of a model are f32
// between ops; other formats appear in weights and page pools, where Cast and the ops that read them convert.
#pragma once
#include <cmath>
#include <cstring>

#include "base/worker.h"
#include "graph/graph.h"

namespace folio {

// The activation functions, by the names of the weight file.
enum class Act : int { none, relu, relu2, silu, gelu, gelu_tanh, swiglu_oai };

// GELU exact: x·Φ(x) = x/2·(1 + erf(x/√2)); tanh form: x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³))) (arXiv 1606.08415).
// SiLU: x/(1 + e^−x). ReLU²: max(x, 0)² (arXiv 2109.08668). SwiGLU as gpt-oss has it (arXiv 2508.10925): c/(1 + e^−1.702c) of
// c = min(x, 7), and in gated forms beside it not up but clamp(up, −7, 7) + 1.
inline float activate(Act act, float x) {
  switch (act) {
    case Act::none: return x;
    case Act::relu: return x > 0 ? x : 0;
    case Act::relu2: return x > 0 ? x * x : 0;
    case Act::silu: return x / (1 + std::exp(-x));
    case Act::gelu: return 0.5f * x * (1 + std::erf(x * 0.70710678f));
    case Act::gelu_tanh: return 0.5f * x * (1 + std::tanh(0.79788456f * (x + 0.044715f * x * x * x)));
    case Act::swiglu_oai: {
      const float c = x > 7 ? 7 : x;
      return c / (1 + std::exp(-1.702f * c));
    }
  }
  return x;
}
// What a gated form multiplies the activation with: up, or what the activation makes of it.
inline float beside(Act act, float up) { return act == Act::swiglu_oai ? (up > 7 ? 7 : up < -7 ? -7 : up) + 1 : up; }

// y = a + b
struct Add {
  static constexpr const char* name = "add";
  Tensor a;  // [..., C] f32
  Tensor b;  // like a, or [C]: added to every row
  Tensor y;  // like a

  void visit(auto& v) { v.in("a", a); v.in("b", b); v.out("y", y, &a); }
  void shape() {
    check(a.type == F32 && b.type == F32 && b.cols() == a.cols() && (b.rank() == 1 || b.shape == a.shape), "add: a is ",
          a.shape.text(), ", b ", b.shape.text());
    y = like(a);
  }
  void reference(Worker w) const {
    for (int64_t t : w.share(a.rows())) {
      const float *p = a.row<float>(t), *q = b.row<float>(b.rank() == 1 ? 0 : t);
      float* out = y.row<float>(t);
      for (int64_t c = 0; c < a.cols(); ++c) out[c] = p[c] + q[c];
    }
  }
};
inline Tensor add(Tensor a, Tensor b) { return a.graph->record(Add{.a = a, .b = b}).y; }

// y = a ⊙ b
struct Mul {
  static constexpr const char* name = "mul";
  Tensor a;  // [..., C] f32
  Tensor b;  // like a, or [C]: for every row
  Tensor y;  // like a

  void visit(auto& v) { v.in("a", a); v.in("b", b); v.out("y", y, &a); }
  void shape() {
    check(a.type == F32 && b.type == F32 && b.cols() == a.cols() && (b.rank() == 1 || b.shape == a.shape), "mul: a is ",
          a.shape.text(), ", b ", b.shape.text());
    y = like(a);
  }
  void reference(Worker w) const {
    for (int64_t t : w.share(a.rows())) {
      const float *p = a.row<float>(t), *q = b.row<float>(b.rank() == 1 ? 0 : t);
      float* out = y.row<float>(t);
      for (int64_t c = 0; c < a.cols(); ++c) out[c] = p[c] * q[c];
    }
  }
};
inline Tensor mul(Tensor a, Tensor b) { return a.graph->record(Mul{.a = a, .b = b}).y; }

// y = factor · x
struct Scale {
  static constexpr const char* name = "scale";
  Tensor x;  // [..., C] f32
  float factor = 1;
  Tensor y;  // like x

  void visit(auto& v) { v.in("x", x); v.attr("factor", factor); v.out("y", y, &x); }
  void shape() { check(x.type == F32, "scale: x is ", format(x.type).name); y = like(x); }
  void reference(Worker w) const {
    for (int64_t t : w.share(x.rows()))
      for (int64_t c = 0; c < x.cols(); ++c) y.row<float>(t)[c] = factor * x.row<float>(t)[c];
  }
};
inline Tensor scale(Tensor x, float factor) { return x.graph->record(Scale{.x = x, .factor = factor}).y; }

// y = x in another format; to or from f32
struct Cast {
  static constexpr const char* name = "cast";
  Tensor x;  // [..., C]
  DType to = F32;
  Tensor y;  // [..., C] in format `to`

  void visit(auto& v) { v.in("x", x); v.attr("to", to); v.out("y", y); }
  void shape() {
    check((x.type == F32 || to == F32) && format(x.type).to_float && format(to).from_float, "cast: from ", format(x.type).name,
          " to ", format(to).name, "; one of them must be f32");
    y = Tensor::of(to, x.shape);
  }
  void reference(Worker w) const {
    for (int64_t t : w.share(x.rows())) {
      if (to == F32) format(x.type).to_float(x.row_bytes(t), y.row<float>(t), x.cols());
      else format(to).from_float(x.row<float>(t), y.row_bytes(t), x.cols());
    }
  }
};
inline Tensor cast(Tensor x, DType to) { return x.graph->record(Cast{.x = x, .to = to}).y; }

// y = act(x)
struct Activate {
  static constexpr const char* name = "activate";
  Tensor x;  // [..., C] f32
  Act act = Act::none;
  Tensor y;  // like x

  void visit(auto& v) { v.in("x", x); v.attr("act", int(act)); v.out("y", y, &x); }
  void shape() { check(x.type == F32, "activate: x is ", format(x.type).name); y = like(x); }
  void reference(Worker w) const {
    for (int64_t t : w.share(x.rows()))
      for (int64_t c = 0; c < x.cols(); ++c) y.row<float>(t)[c] = activate(act, x.row<float>(t)[c]);
  }
};
inline Tensor activate(Tensor x, Act act) { return x.graph->record(Activate{.x = x, .act = act}).y; }

// y = act(gate) ⊙ up: SwiGLU, GeGLU, ReGLU by their activation (arXiv 2002.05202), up as beside() has it. Matmul does the same in its
// epilogue.
struct Glu {
  static constexpr const char* name = "glu";
  Tensor gate, up;  // [..., F] f32
  Act act = Act::silu;
  Tensor y;         // like gate

  void visit(auto& v) { v.in("gate", gate); v.in("up", up); v.attr("act", int(act)); v.out("y", y, &gate); }
  void shape() {
    check(gate.type == F32 && up.type == F32 && gate.shape == up.shape, "glu: gate is ", gate.shape.text(), ", up ", up.shape.text());
    y = like(gate);
  }
  void reference(Worker w) const {
    for (int64_t t : w.share(gate.rows()))
      for (int64_t c = 0; c < gate.cols(); ++c)
        y.row<float>(t)[c] = activate(act, gate.row<float>(t)[c]) * beside(act, up.row<float>(t)[c]);
  }
};
inline Tensor glu(Tensor gate, Tensor up, Act act) { return gate.graph->record(Glu{.gate = gate, .up = up, .act = act}).y; }

// y = cap · tanh(x / cap)   (Gemma 2, arXiv 2408.00118)
struct Softcap {
  static constexpr const char* name = "softcap";
  Tensor x;  // [..., C] f32
  float cap = 1;
  Tensor y;  // like x

  void visit(auto& v) { v.in("x", x); v.attr("cap", cap); v.out("y", y, &x); }
  void shape() { check(x.type == F32 && cap > 0, "softcap: x is ", format(x.type).name, ", cap ", cap); y = like(x); }
  void reference(Worker w) const {
    for (int64_t t : w.share(x.rows()))
      for (int64_t c = 0; c < x.cols(); ++c) y.row<float>(t)[c] = cap * std::tanh(x.row<float>(t)[c] / cap);
  }
};
inline Tensor softcap(Tensor x, float cap) { return x.graph->record(Softcap{.x = x, .cap = cap}).y; }

}  // namespace folio
