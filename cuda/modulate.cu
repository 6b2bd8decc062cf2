// SPDX-License-Identifier: MIT
// Adaptive layer norm, gated residuals and timestep embeddings on CUDA. A token's row belongs to a warp, whose sums are butterflies in
// double, so that its result hangs on the row alone; it is read again for every pass, from the L1 cache by then, and a thread overwrites
// only what it alone reads, so y may lie over x.
#include <cmath>

#include "cuda/rows.cuh"
#include "cuda/table.h"

namespace folio {

namespace {

constexpr unsigned modulate_warps = 4;

struct Modulation {
  Rows x, scale, shift, y;
  const int32_t* index;
  int64_t tokens;
  int cols, known;
  float eps;
  bool norm;
};

template <int N> __global__ void modulate_rows(Modulation a) {
  const int64_t t = int64_t(blockIdx.x) * modulate_warps + threadIdx.y;
  if (t >= a.tokens) return;
  const int32_t r = ld_vec<int32_t>(a.index + t);
  const bool there = r >= 0 && r < a.known;
  const std::byte* const in = a.x.row(t);
  double mean = 0, factor = 1;
  if (there && a.norm) {
    double sum = 0, square = 0;
    for (int c = lane_id() * N; c < a.cols; c += 32 * N) {
      float x[N];
      read<N, float>(x, in, c);
#pragma unroll
      for (int j = 0; j < N; ++j) sum += x[j];
    }
    mean = warp_sum(sum) / a.cols;
    for (int c = lane_id() * N; c < a.cols; c += 32 * N) {
      float x[N];
      read<N, float>(x, in, c);
#pragma unroll
      for (int j = 0; j < N; ++j) square += (x[j] - mean) * (x[j] - mean);
    }
    factor = 1 / sqrt(warp_sum(square) / a.cols + a.eps);
  }
  for (int c = lane_id() * N; c < a.cols; c += 32 * N) {
    float x[N] = {}, by[N], to[N];
    if (there) {
      read<N, float>(x, in, c);
      read<N, float>(by, a.scale.row(r), c);
      read<N, float>(to, a.shift.row(r), c);
#pragma unroll
      for (int j = 0; j < N; ++j) x[j] = float((x[j] - mean) * factor) * (1 + by[j]) + to[j];
    }
    write<N, float>(a.y.row(t), c, x);
  }
}

template <int N>
__global__ void gated_add_rows(Rows x, Rows z, Rows gate, const int32_t* index, Rows y, int64_t rows, int64_t cols, int64_t known) {
  for (int64_t t = first_row(); t < rows; t += row_step()) {
    const int32_t r = ld_vec<int32_t>(index + t);
    for (int64_t c = first_col<N>(); c < cols; c += col_step<N>()) {
      float sum[N];
      read<N, float>(sum, x.row(t), c);
      if (r >= 0 && r < known) {
        float more[N], by[N];
        read<N, float>(more, z.row(t), c);
        read<N, float>(by, gate.row(r), c);
#pragma unroll
        for (int j = 0; j < N; ++j) sum[j] += by[j] * more[j];
      }
      write<N, float>(y.row(t), c, sum);
    }
  }
}

// Few numbers, once a step. The angle is brought to within π/4 of zero in double; from there float functions do.
__global__ void timestep_embed(const float* t, Rows y, int half, double scale, double step, bool sine_first) {
  auto* const out = reinterpret_cast<float*>(y.row(blockIdx.x));
  for (int j = int(threadIdx.x); j < half; j += int(blockDim.x)) {
    const double angle = scale * ld_vec<float>(t + blockIdx.x) * exp(step * j), quarters = rint(angle * 0.63661977236758134);   // 2/π
    // π/2 in two parts
    const double rest = fma(-quarters, 6.123233995736766e-17, fma(-quarters, 1.5707963267948966, angle));
    const float c = cosf(float(rest)), s = sinf(float(rest));
    const int quarter = int(int64_t(quarters) & 3);
    const float cosine = quarter % 2 ? s : c, sine = quarter % 2 ? c : s;
    st_vec(out + j + (sine_first ? half : 0), quarter == 1 || quarter == 2 ? -cosine : cosine);
    st_vec(out + j + (sine_first ? 0 : half), quarter >= 2 ? -sine : sine);
  }
}

}  // namespace

void run(const Modulate& op, const CudaQueue& queue) {
  if (op.x.count() == 0) return;
  const Modulation a{rows_of(op.x), rows_of(op.scale), rows_of(op.shift), rows_of(op.y), op.index.at<int32_t>(), op.x.dim(0),
                     int(op.x.cols()), int(op.scale.dim(0)), op.eps, op.norm};
  const Launch grid{dim3(unsigned((a.tokens + modulate_warps - 1) / modulate_warps)), dim3(32, modulate_warps), 0, queue.stream};
  if (by_four(op.x) && by_four(op.scale) && by_four(op.shift) && by_four(op.y)) launch<modulate_rows<4>>(grid, a);
  else launch<modulate_rows<1>>(grid, a);
}

void run(const GatedAdd& op, const CudaQueue& queue) {
  if (op.x.count() == 0) return;
  const Rows x = rows_of(op.x), z = rows_of(op.z), gate = rows_of(op.gate), y = rows_of(op.y);
  const int64_t rows = op.x.dim(0), cols = op.x.cols(), known = op.gate.dim(0);
  const auto* index = op.index.at<int32_t>();
  if (by_four(op.x) && by_four(op.z) && by_four(op.gate) && by_four(op.y))
    launch<gated_add_rows<4>>(over_rows(rows, cols, 4, queue.stream), x, z, gate, index, y, rows, cols, known);
  else
    launch<gated_add_rows<1>>(over_rows(rows, cols, 1, queue.stream), x, z, gate, index, y, rows, cols, known);
}

void run(const TimestepEmbed& op, const CudaQueue& queue) {
  if (op.y.count() == 0) return;
  launch<timestep_embed>({dim3(unsigned(op.y.dim(0))), dim3(64), 0, queue.stream}, op.t.at<float>(), rows_of(op.y), op.dim / 2,
                         op.scale, -std::log(op.period) / (op.dim / 2 - op.gap), op.sine_first);
}

}  // namespace folio
