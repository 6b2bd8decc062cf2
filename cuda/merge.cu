// SPDX-License-Identifier: MIT
// Merge on CUDA: a warp to each row of a head. The two weights add up to one, e^(a - most) and e^(b - most) over their sum, so no
// exponential is larger than one however large the logarithms are. All lanes read both logarithms before one of them writes the
// result, which may lie over the first.
#include "cuda/rows.cuh"
#include "cuda/table.h"

namespace folio {

namespace {

template <int N>
__global__ void merge_rows(Rows a, Rows a_lse, Rows b, Rows b_lse, Rows o, Rows lse, int64_t rows, unsigned heads, int64_t cols) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
  if (i >= rows) return;
  const unsigned t = unsigned(i) / heads, h = unsigned(i) % heads;
  const int64_t at = h * int64_t(sizeof(float));
  const float la = ld_vec<float>(a_lse.row(t) + at), lb = ld_vec<float>(b_lse.row(t) + at);
  const float most = fmaxf(la, lb);
  const bool some = most > -INFINITY;
  const float ea = some ? expf(la - most) : 0, eb = some ? expf(lb - most) : 0, sum = ea + eb;
  const float pa = some ? ea / sum : 0, pb = some ? eb / sum : 0;
  const std::byte *p = a.row(i), *q = b.row(i);
  std::byte* const out = o.row(i);
  for (int64_t c = int64_t(threadIdx.x) * N; c < cols; c += 32 * N) {
    float u[N], v[N];
    read<N, float>(u, p, c);
    read<N, float>(v, q, c);
#pragma unroll
    for (int j = 0; j < N; ++j) u[j] = pa * u[j] + pb * v[j];
    write<N, float>(out, c, u);
  }
  __syncwarp();
  if (threadIdx.x == 0) st_vec(lse.row(t) + at, some ? most + logf(sum) : -INFINITY);
}

}  // namespace

void run(const Merge& op, const CudaQueue& queue) {
  const int64_t rows = op.a.rows(), cols = op.a.cols();
  if (rows == 0) return;
  const Launch at{dim3(unsigned((rows + 7) / 8)), dim3(32, 8), 0, queue.stream};
  const Rows a = rows_of(op.a), b = rows_of(op.b), o = rows_of(op.o);
  const Rows a_lse = rows_of(op.a_lse), b_lse = rows_of(op.b_lse), lse = rows_of(op.lse);
  const auto heads = unsigned(op.a.dim(1));
  if (by_four(op.a) && by_four(op.b) && by_four(op.o)) launch<merge_rows<4>>(at, a, a_lse, b, b_lse, o, lse, rows, heads, cols);
  else launch<merge_rows<1>>(at, a, a_lse, b, b_lse, o, lse, rows, heads, cols);
}

}  // namespace folio
