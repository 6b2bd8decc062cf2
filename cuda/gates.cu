// SPDX-License-Identifier: MIT
// Gates and factors of rows on CUDA: nothing but traffic, so threads lie over rows and columns, four elements to a thread where
// addresses allow it. A thread reads what it overwrites before it writes.
#include "cuda/rows.cuh"
#include "cuda/table.h"

namespace folio {

namespace {

FOLIO_DEVICE float gated(GateKind kind, float x) {
  switch (kind) {
    case GateKind::sigmoid: return 1 / (1 + expf(-x));
    case GateKind::softplus: return x > 20 ? x : log1pf(expf(x));
    case GateKind::elu1: return x > 0 ? x + 1 : expf(x);
  }
  return x;
}

struct GateRow {
  const std::byte *weight, *bias, *rate;   // may be null
  GateKind kind;
  float sign, factor, low, high;
};

template <int N> FOLIO_DEVICE void read_or(float (&x)[N], const std::byte* row, int64_t c, float otherwise) {
  if (row) {
    read<N, float>(x, row, c);
    return;
  }
#pragma unroll
  for (int j = 0; j < N; ++j) x[j] = otherwise;
}

template <int N> __global__ void gate_rows(GateRow g, Rows x, Rows y, int64_t rows, int64_t cols) {
  for (int64_t i = first_row(); i < rows; i += row_step()) {
    const std::byte* const in = x.row(i);
    std::byte* const out = y.row(i);
    for (int64_t c = first_col<N>(); c < cols; c += col_step<N>()) {
      float v[N], w[N], b[N], r[N];
      read<N, float>(v, in, c);
      read_or<N>(w, g.weight, c, 1);
      read_or<N>(b, g.bias, c, 0);
      read_or<N>(r, g.rate, c, 1);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const float f = gated(g.kind, g.sign * (w[j] * v[j] + b[j]));
        v[j] = r[j] * (f < g.low ? g.low : f > g.high ? g.high : f) * g.factor;
      }
      write<N, float>(out, c, v);
    }
  }
}

template <int N> __global__ void scale_each_row(Rows x, Rows s, Rows y, int64_t rows, unsigned heads, int64_t cols) {
  for (int64_t i = first_row(); i < rows; i += row_step()) {
    const float factor = ld_vec<float>(s.row(unsigned(i) / heads) + unsigned(i) % heads * sizeof(float));
    const std::byte* const in = x.row(i);
    std::byte* const out = y.row(i);
    for (int64_t c = first_col<N>(); c < cols; c += col_step<N>()) {
      float v[N];
      read<N, float>(v, in, c);
#pragma unroll
      for (int j = 0; j < N; ++j) v[j] *= factor;
      write<N, float>(out, c, v);
    }
  }
}

}  // namespace

void run(const Gate& op, const CudaQueue& queue) {
  if (op.x.count() == 0) return;
  const GateRow g{op.weight.data, op.bias.data, op.rate.data, op.kind, op.sign, op.factor, op.low, op.high};
  const int64_t rows = op.x.rows(), cols = op.x.cols();
  if (by_four(op.x) && by_four(op.y) && absent_or_by_four(op.weight) && absent_or_by_four(op.bias) && absent_or_by_four(op.rate))
    launch<gate_rows<4>>(over_rows(rows, cols, 4, queue.stream), g, rows_of(op.x), rows_of(op.y), rows, cols);
  else
    launch<gate_rows<1>>(over_rows(rows, cols, 1, queue.stream), g, rows_of(op.x), rows_of(op.y), rows, cols);
}

void run(const ScaleRows& op, const CudaQueue& queue) {
  if (op.x.count() == 0) return;
  const int64_t rows = op.x.rows(), cols = op.x.cols();
  const auto heads = unsigned(op.x.dim(1));
  if (by_four(op.x) && by_four(op.y))
    launch<scale_each_row<4>>(over_rows(rows, cols, 4, queue.stream), rows_of(op.x), rows_of(op.s), rows_of(op.y), rows, heads, cols);
  else
    launch<scale_each_row<1>>(over_rows(rows, cols, 1, queue.stream), rows_of(op.x), rows_of(op.s), rows_of(op.y), rows, heads, cols);
}

}  // namespace folio
