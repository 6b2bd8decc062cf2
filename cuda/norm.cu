// SPDX-License-Identifier: MIT
// Norms on CUDA. A row belongs to one warp if it is short and to one block if it is long; how many threads share a row depends on
// its length alone, and sums are butterflies in double, so a row's result does not depend on what else is in the batch. A row is read
// again for every pass: by then it is in the L1 cache, and a thread only overwrites what it alone reads, so y may lie over x.
#include "cuda/rows.cuh"
#include "cuda/table.h"

namespace folio {

namespace {

constexpr int warp_cols = 512;  // up to here a warp takes the row

// The sum over all threads that share a row: a block of them (Wide) or a warp.
template <bool Wide> FOLIO_DEVICE double row_sum(double v, Here here = {}) {
  if constexpr (Wide) return block_sum(v, here);
  else return warp_sum(v, here);
}

// Calls f(c, elements from c on) for the calling thread's part of a row.
template <int N, class F> FOLIO_DEVICE void each_part(const std::byte* row, int cols, F f, Here here = {}) {
  for (int c = int(threadIdx.x) * N; c < cols; c += int(blockDim.x) * N) {
    float x[N];
    read<N, float>(x, row, c, here);
    f(c, x);
  }
}

template <int N, bool Wide> __global__ void rms_norm_rows(Rows x, const std::byte* w, Rows y, int64_t rows, int cols, float eps) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
  if (i >= rows) return;
  const std::byte* const in = x.row(i);
  std::byte* const out = y.row(i);
  double sum = 0;
  each_part<N>(in, cols, [&](int, const float(&v)[N]) {
#pragma unroll
    for (int j = 0; j < N; ++j) sum += double(v[j]) * v[j];
  });
  const float scale = float(1 / sqrt(row_sum<Wide>(sum) / cols + eps));
  each_part<N>(in, cols, [&](int c, float(&v)[N]) {
    float g[N];
    read<N, float>(g, w, c);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] = g[j] * (v[j] * scale);
    write<N, float>(out, c, v);
  });
}

template <int N, bool Wide> __global__ void l2_norm_rows(Rows x, Rows y, int64_t rows, int cols, float eps) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
  if (i >= rows) return;
  const std::byte* const in = x.row(i);
  std::byte* const out = y.row(i);
  double sum = 0;
  each_part<N>(in, cols, [&](int, const float(&v)[N]) {
#pragma unroll
    for (int j = 0; j < N; ++j) sum += double(v[j]) * v[j];
  });
  const float scale = float(1 / sqrt(row_sum<Wide>(sum) + eps));
  each_part<N>(in, cols, [&](int c, float(&v)[N]) {
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] *= scale;
    write<N, float>(out, c, v);
  });
}

// `b` may be null.
template <int N, bool Wide>
__global__ void layer_norm_rows(Rows x, const std::byte* w, const std::byte* b, Rows y, int64_t rows, int cols, float eps) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
  if (i >= rows) return;
  const std::byte* const in = x.row(i);
  std::byte* const out = y.row(i);
  double sum = 0, square = 0;
  each_part<N>(in, cols, [&](int, const float(&v)[N]) {
#pragma unroll
    for (int j = 0; j < N; ++j) sum += v[j];
  });
  const double mean = row_sum<Wide>(sum) / cols;
  each_part<N>(in, cols, [&](int, const float(&v)[N]) {
#pragma unroll
    for (int j = 0; j < N; ++j) square += (v[j] - mean) * (v[j] - mean);
  });
  const double scale = 1 / sqrt(row_sum<Wide>(square) / cols + eps);
  each_part<N>(in, cols, [&](int c, float(&v)[N]) {
    float g[N], shift[N] = {};
    read<N, float>(g, w, c);
    if (b) read<N, float>(shift, b, c);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] = float((v[j] - mean) * scale) * g[j] + shift[j];
    write<N, float>(out, c, v);
  });
}

// Eight warps with a row each, or a block that has two to four parts of four elements for each of its threads.
Launch over_norm_rows(int64_t rows, int64_t cols, cudaStream_t stream) {
  if (cols <= warp_cols) return {dim3(unsigned((rows + 7) / 8)), dim3(32, 8), 0, stream};
  return {dim3(unsigned(rows)), dim3(unsigned(std::min<int64_t>(1024, int64_t(std::bit_floor(uint64_t(cols)) / 8)))), 0, stream};
}

// Calls f with N and whether rows are wide, as constants.
template <class F> void with_shape(bool four, int64_t cols, F f) {
  using One = std::integral_constant<int, 1>;
  using Four = std::integral_constant<int, 4>;
  if (cols <= warp_cols) four ? f(Four{}, std::false_type{}) : f(One{}, std::false_type{});
  else four ? f(Four{}, std::true_type{}) : f(One{}, std::true_type{});
}

}  // namespace

void run(const RmsNorm& op, const CudaQueue& queue) {
  const int64_t rows = op.x.rows(), cols = op.x.cols();
  if (op.x.count() == 0) return;
  with_shape(by_four(op.x) && by_four(op.w) && by_four(op.y), cols, [&](auto n, auto wide) {
    launch<rms_norm_rows<n(), wide()>>(over_norm_rows(rows, cols, queue.stream), rows_of(op.x), op.w.data, rows_of(op.y), rows, int(cols),
                                       op.eps);
  });
}

void run(const LayerNorm& op, const CudaQueue& queue) {
  const int64_t rows = op.x.rows(), cols = op.x.cols();
  if (op.x.count() == 0) return;
  const bool four = by_four(op.x) && by_four(op.w) && by_four(op.y) && (!op.b.present() || by_four(op.b));
  with_shape(four, cols, [&](auto n, auto wide) {
    launch<layer_norm_rows<n(), wide()>>(over_norm_rows(rows, cols, queue.stream), rows_of(op.x), op.w.data,
                                         op.b.present() ? op.b.data : nullptr, rows_of(op.y), rows, int(cols), op.eps);
  });
}

void run(const L2Norm& op, const CudaQueue& queue) {
  const int64_t rows = op.x.rows(), cols = op.x.cols();
  if (op.x.count() == 0) return;
  with_shape(by_four(op.x) && by_four(op.y), cols, [&](auto n, auto wide) {
    launch<l2_norm_rows<n(), wide()>>(over_norm_rows(rows, cols, queue.stream), rows_of(op.x), rows_of(op.y), rows, int(cols), op.eps);
  });
}

}  // namespace folio
