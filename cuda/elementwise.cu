// SPDX-License-Identifier: MIT
// Add, multiply, scale, cast, activations and their gated forms on CUDA: one kernel, which reads one or two tensors, applies a function to each
// element and writes one. Nothing but memory traffic counts here: tensors without gaps are taken as one long row, four elements to a
// thread where addresses allow it, and a thread reads what it overwrites before it writes, so that outputs may lie over inputs.
// Casting to a quantised format lays warps over the rows, a block to each, because its scale depends on all of it.
#include "cuda/rows.cuh"
#include "cuda/table.h"

namespace folio {

namespace {

struct Sum {
  static constexpr int inputs = 2;
  FOLIO_DEVICE float operator()(float a, float b) const { return a + b; }
};
struct Product {
  static constexpr int inputs = 2;
  FOLIO_DEVICE float operator()(float a, float b) const { return a * b; }
};
struct Scaled {
  static constexpr int inputs = 1;
  float factor;
  FOLIO_DEVICE float operator()(float x, float) const { return factor * x; }
};
struct Same {
  static constexpr int inputs = 1;
  FOLIO_DEVICE float operator()(float x, float) const { return x; }
};
struct Activated {
  static constexpr int inputs = 1;
  Act act;
  FOLIO_DEVICE float operator()(float x, float) const { return activated(act, x); }
};
struct Gated {
  static constexpr int inputs = 2;
  Act act;
  FOLIO_DEVICE float operator()(float gate, float up) const { return activated(act, gate) * beside_activated(act, up); }
};
struct Capped {
  static constexpr int inputs = 1;
  float cap;
  FOLIO_DEVICE float operator()(float x, float) const { return cap * tanhf(x / cap); }
};

// y = f(a, b), where b is read only if f has two inputs.
template <class F, int N, class From, class To> __global__ void each_element(F f, Rows a, Rows b, Rows y, int64_t rows, int64_t cols) {
  for (int64_t i = first_row(); i < rows; i += row_step()) {
    const std::byte *p = a.row(i), *q = F::inputs == 2 ? b.row(i) : nullptr;
    std::byte* const out = y.row(i);
    for (int64_t c = first_col<N>(); c < cols; c += col_step<N>()) {
      float u[N], v[N] = {};
      read<N, From>(u, p, c);
      if constexpr (F::inputs == 2) read<N, float>(v, q, c);
#pragma unroll
      for (int j = 0; j < N; ++j) u[j] = f(u[j], v[j]);
      write<N, To>(out, c, u);
    }
  }
}

template <class F, class From = float, class To = float>
void run_each(const F& f, Tensor a, Tensor b, Tensor y, const CudaQueue& queue) {
  if (y.count() == 0) return;
  if (a.contiguous() && y.contiguous() && (F::inputs == 1 || (b.contiguous() && b.shape == a.shape)))
    for (Tensor* t : {&a, &b, &y})
      if (t->present()) *t = t->reshape({t->count()});
  const Rows p = rows_of(a), q = F::inputs == 2 ? rows_of(b) : Rows{}, out = rows_of(y);
  const int64_t rows = y.rows(), cols = y.cols();
  if constexpr (is_block<To>) {
    constexpr int n = of_lane<To>;
    launch<each_element<F, n, From, To>>(over_rows(rows, cols, n, queue.stream, 32), f, p, q, out, rows, cols);
  } else {
    if constexpr (!is_block<From>)  // rows of blocks are whole fours, and y is where the plan has put it
      if (!by_four(a) || !by_four(y) || (F::inputs == 2 && !by_four(b)))
        return launch<each_element<F, 1, From, To>>(over_rows(rows, cols, 1, queue.stream), f, p, q, out, rows, cols);
    launch<each_element<F, 4, From, To>>(over_rows(rows, cols, 4, queue.stream), f, p, q, out, rows, cols);
  }
}

}  // namespace

void run(const Add& op, const CudaQueue& queue) { run_each(Sum{}, op.a, op.b, op.y, queue); }
void run(const Mul& op, const CudaQueue& queue) { run_each(Product{}, op.a, op.b, op.y, queue); }
void run(const Scale& op, const CudaQueue& queue) { run_each(Scaled{op.factor}, op.x, {}, op.y, queue); }
void run(const Activate& op, const CudaQueue& queue) { run_each(Activated{op.act}, op.x, {}, op.y, queue); }
void run(const Glu& op, const CudaQueue& queue) { run_each(Gated{op.act}, op.gate, op.up, op.y, queue); }
void run(const Softcap& op, const CudaQueue& queue) { run_each(Capped{op.cap}, op.x, {}, op.y, queue); }

void run(const Cast& op, const CudaQueue& queue) {
  if (op.to == F32)
    with_storage(op.x.type, [&](auto from) { run_each<Same, decltype(from), float>({}, op.x, {}, op.y, queue); });
  else
    with_storage(op.to, [&](auto to) { run_each<Same, float, decltype(to)>({}, op.x, {}, op.y, queue); });
}

}  // namespace folio
