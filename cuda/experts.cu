// SPDX-License-Identifier: MIT
// The router and the sum of experts on CUDA. Route: a warp to a token, whose keys lie in shared memory as codes (base/draw.h) that order
// them as the op wants it; the largest is taken k times. Combine: nothing but traffic, threads over rows and columns. ExpertMatmul is in
// matmul_experts.cu.
#include "cuda/rows.cuh"
#include "cuda/table.h"

namespace folio {

namespace {

constexpr int route_warps = 4;   // tokens of a block

struct Router {
  Rows logits;
  const float* bias;      // may be null
  const int32_t* place;   // may be null
  Rows chosen, weight;
  int tokens, experts, k, groups, kept, group_best;
  Scoring scoring;
  bool by_logit, normalise;
  float scale;
};

// What a warp has in shared memory.
struct RouteArrays {
  uint64_t *code, *rank;   // [experts], [groups]
  float* score;            // [experts]
  static __host__ __device__ RouteArrays take(Smem& shared, int experts, int groups, int warp) {
    RouteArrays a;
    a.code = shared.take<uint64_t>(int64_t(route_warps) * experts) + int64_t(warp) * experts;
    a.rank = shared.take<uint64_t>(int64_t(route_warps) * groups) + int64_t(warp) * groups;
    a.score = shared.take<float>(int64_t(route_warps) * experts) + int64_t(warp) * experts;
    return a;
  }
};

// The index of the largest of n codes, which becomes 0. The whole warp calls.
FOLIO_DEVICE int take_largest(uint64_t* code, int n) {
  uint64_t mine = 0;
  for (int i = lane_id(); i < n; i += 32) mine = max(mine, code[i]);
  const int index = token_of(warp_max(mine));
  __syncwarp();
  if (lane_id() == 0) code[index] = 0;
  __syncwarp();
  return index;
}

FOLIO_DEVICE void score_experts(const Router& r, const std::byte* row, float* score) {
  float most = -INFINITY, sum = 0;
  for (int e = lane_id(); e < r.experts; e += 32) {
    const float x = ld_vec<float>(row + e * sizeof(float));
    score[e] = r.scoring == Scoring::sigmoid ? 1 / (1 + expf(-x)) : x;
    most = fmaxf(most, x);
  }
  if (r.scoring == Scoring::sigmoid) return;
  most = warp_max(most);
  for (int e = lane_id(); e < r.experts; e += 32) sum += score[e] = expf(score[e] - most);
  sum = warp_sum(sum);
  for (int e = lane_id(); e < r.experts; e += 32) score[e] /= sum;
}

FOLIO_DEVICE void drop_groups(const Router& r, const RouteArrays& a) {
  const int each = r.experts / r.groups;
  for (int g = lane_id(); g < r.groups; g += 32) {
    uint64_t first = 0, second = 0;
    for (int i = g * each; i < (g + 1) * each; ++i) {
      const uint64_t code = a.code[i];
      second = max(second, min(first, code));
      first = max(first, code);
    }
    a.rank[g] = code_of(r.group_best == 2 ? logit_of(first) + logit_of(second) : logit_of(first), g);
  }
  __syncwarp();
  for (int i = 0; i < r.kept; ++i) take_largest(a.rank, r.groups);
  for (int e = lane_id(); e < r.experts; e += 32)
    if (a.rank[e / each] != 0) a.code[e] = 0;
  __syncwarp();
}

__global__ void __launch_bounds__(32 * route_warps) route_tokens(Router r) {
  const int t = int(blockIdx.x) * route_warps + warp_id();
  Smem shared = Smem::here();
  const RouteArrays a = RouteArrays::take(shared, r.experts, r.groups, warp_id());
  if (t >= r.tokens) return;
  std::byte *const ids = r.chosen.row(t), *const weights = r.weight.row(t);
  if (r.place && ld_vec<int32_t>(r.place + t) < 0) {
    for (int i = lane_id(); i < r.k; i += 32) {
      st_vec(ids + i * sizeof(int32_t), int32_t(-1));
      st_vec(weights + i * sizeof(float), 0.0f);
    }
    return;
  }
  const std::byte* const row = r.logits.row(t);
  score_experts(r, row, a.score);
  for (int e = lane_id(); e < r.experts; e += 32) {   // each lane reads the scores that it has written
    float key = r.by_logit ? ld_vec<float>(row + e * sizeof(float)) : a.score[e];
    if (!r.by_logit && r.bias) key += ld_vec<float>(r.bias + e);
    a.code[e] = code_of(key, e);
  }
  __syncwarp();
  if (r.kept < r.groups) drop_groups(r, a);
  float sum = 0;
  for (int i = 0; i < r.k; ++i) {
    const int e = take_largest(a.code, r.experts);
    if (lane_id() == 0) st_vec(ids + i * sizeof(int32_t), int32_t(e));
    sum += a.score[e];
  }
  __syncwarp();
  if (lane_id() > 0) return;
  for (int i = 0; i < r.k; ++i) {
    const float s = a.score[ld_vec<int32_t>(ids + i * sizeof(int32_t))];
    st_vec(weights + i * sizeof(float), (r.normalise ? s / (sum + 1e-20f) : s) * r.scale);
  }
}

struct Summands {
  Rows y, weight, add, shared, gate;   // add, shared: data may be null
  int k;
};

template <int N> __global__ void combine_rows(Summands s, Rows out, int64_t rows, int64_t cols) {
  for (int64_t t = first_row(); t < rows; t += row_step()) {
    const float share = s.shared.data ? 1 / (1 + expf(-ld_vec<float>(s.gate.row(t)))) : 0.0f;
    for (int64_t c = first_col<N>(); c < cols; c += col_step<N>()) {
      float sum[N] = {}, v[N];
      if (s.add.data) read<N, float>(sum, s.add.row(t), c);
      const auto plus = [&](float factor, const std::byte* row) {
        read<N, float>(v, row, c);
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] = fmaf(factor, v[i], sum[i]);
      };
      if (s.shared.data) plus(share, s.shared.row(t));
      for (int j = 0; j < s.k; ++j) plus(ld_vec<float>(s.weight.row(t) + j * sizeof(float)), s.y.row(t * s.k + j));
      write<N, float>(out.row(t), c, sum);
    }
  }
}

Rows rows_or_none(const Tensor& t) { return t.present() ? rows_of(t) : Rows{}; }

}  // namespace

void run(const Route& op, const CudaQueue& queue) {
  if (op.logits.dim(0) == 0) return;
  const Router r{rows_of(op.logits), op.bias.present() ? op.bias.at<float>() : nullptr,
                 op.place.present() ? op.place.at<int32_t>() : nullptr, rows_of(op.chosen),
                 rows_of(op.weight), int(op.logits.dim(0)), int(op.logits.cols()), op.k, op.groups, op.kept,
                 op.group_best, op.scoring, op.by_logit(), op.normalise, op.scale};
  Smem shared;
  RouteArrays::take(shared, r.experts, r.groups, 0);
  launch<route_tokens>({unsigned((r.tokens + route_warps - 1) / route_warps), 32 * route_warps, shared.bytes(), queue.stream}, r);
}

void run(const Combine& op, const CudaQueue& queue) {
  if (op.out.count() == 0) return;
  const Summands s{rows_of(op.y), rows_of(op.weight), rows_or_none(op.add), rows_or_none(op.shared), rows_or_none(op.gate),
                   int(op.y.dim(1))};
  const int64_t rows = op.out.rows(), cols = op.out.cols();
  if (by_four(op.y) && by_four(op.out) && absent_or_by_four(op.add) && absent_or_by_four(op.shared))
    launch<combine_rows<4>>(over_rows(rows, cols, 4, queue.stream), s, rows_of(op.out), rows, cols);
  else
    launch<combine_rows<1>>(over_rows(rows, cols, 1, queue.stream), s, rows_of(op.out), rows, cols);
}

}  // namespace folio
