// SPDX-License-Identifier: MIT
// Mla on the card, always in the absorbed order, which gives the numbers of the expanded one, too, and costs more only in long prompts:
//
//   absorb       q' = [q·k_up | q_rope] into scratch        four tokens of a head to a block, whose four warps share the rows of k_up
//   Attend       over the latents (attend_any: keys R + dr wide, values their first R numbers; keys split among multiprocessors)
//   bring_up     o = v_up · what came out                   a warp to a row of v_up and four tokens
//
// In f32 arithmetic throughout. Sums are taken in an order that shapes alone decide.
#include <algorithm>

#include "cuda/rows.cuh"
#include "cuda/table.h"

namespace folio {

namespace {

constexpr int tile = 4, warps = 4;   // tokens of a block; warps of a block

int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct AbsorbArgs {
  const float *q, *q_rope;
  Rows k_up;
  float* to;                          // [T, H, width]
  int64_t q_token, q_head, rope_token, rope_head;
  int tokens, heads, nope, rope, rank, width;
};

// The rotated part goes with the first columns. threads: how many copy.
FOLIO_DEVICE void copy_rope(const AbsorbArgs& a, int first, int h, int threads) {
  for (int i = int(threadIdx.x); i < tile * a.rope; i += threads) {
    const int t = first + i / a.rope, d = i % a.rope;
    if (t >= a.tokens) continue;
    st_vec(a.to + (int64_t(t) * a.heads + h) * a.width + a.rank + d, ld_vec<float>(a.q_rope + t * a.rope_token + h * a.rope_head + d));
  }
}

// Grid: tokens by four, heads, columns by 32·N. A warp takes every fourth row of k_up; their sums are joined in order.
template <int N, class T> __global__ void __launch_bounds__(32 * warps) absorb(AbsorbArgs a) {
  FOLIO_SHARED(float, part, [warps][tile][32 * N]);
  const int first = int(blockIdx.x) * tile, h = int(blockIdx.y), column = int(blockIdx.z) * 32 * N + lane_id() * N;
  float sum[tile][N] = {};
  for (int d = warp_id(); d < a.nope && column < a.rank; d += warps) {
    float w[N];
    read<N, T>(w, a.k_up.row(int64_t(h) * a.nope + d), column);
#pragma unroll
    for (int t = 0; t < tile; ++t) {
      const float q = ld_vec<float>(a.q + min(first + t, a.tokens - 1) * a.q_token + h * a.q_head + d);
#pragma unroll
      for (int n = 0; n < N; ++n) sum[t][n] += q * w[n];
    }
  }
#pragma unroll
  for (int t = 0; t < tile; ++t)
#pragma unroll
    for (int n = 0; n < N; ++n) part[warp_id()][t][lane_id() * N + n] = sum[t][n];
  block_sync();
  for (int i = int(threadIdx.x); i < tile * 32 * N; i += 32 * warps) {
    const int t = i / (32 * N), n = i % (32 * N), c = int(blockIdx.z) * 32 * N + n;
    if (first + t >= a.tokens || c >= a.rank) continue;
    float all = 0;
#pragma unroll
    for (int w = 0; w < warps; ++w) all += part[w][t][n];
    st_vec(a.to + (int64_t(first + t) * a.heads + h) * a.width + c, all);
  }
  if (blockIdx.z == 0) copy_rope(a, first, h, 32 * warps);
}

struct BringUpArgs {
  const float* from;                  // [T, H, rank]
  Rows v_up;
  float* o;
  int64_t o_token, o_head;
  int tokens, heads, value, rank;
};

// Grid: rows of v_up by four, heads, tokens by four.
template <int N, class T> __global__ void __launch_bounds__(32 * warps) bring_up(BringUpArgs a) {
  const int e = int(blockIdx.x) * warps + warp_id(), h = int(blockIdx.y), first = int(blockIdx.z) * tile;
  if (e >= a.value) return;
  const std::byte* const row = a.v_up.row(int64_t(h) * a.value + e);
  float sum[tile] = {};
  for (int c = lane_id() * N; c < a.rank; c += 32 * N) {
    float w[N];
    read<N, T>(w, row, c);
#pragma unroll
    for (int t = 0; t < tile; ++t) {
      const float* const x = a.from + (int64_t(min(first + t, a.tokens - 1)) * a.heads + h) * a.rank + c;
#pragma unroll
      for (int n = 0; n < N; ++n) sum[t] += ld_vec<float>(x + n) * w[n];
    }
  }
#pragma unroll
  for (int t = 0; t < tile; ++t) {
    const float all = warp_sum(sum[t]);
    if (lane_id() == t && first + t < a.tokens) st_vec(a.o + (first + t) * a.o_token + h * a.o_head + e, all);
  }
}

// Scratch: queries, results, then Attend's.
struct Layout {
  int64_t query, result, at_result, at_attend;
  explicit Layout(const Mla& op)
      : query(op.latent.dim(3)), result(op.rank()), at_result(up(op.q.rows() * query * 4, 256)),
        at_attend(up(at_result + op.q.rows() * result * 4, 256)) {}
};

Attend attention(const Mla& op, const Layout& at, std::byte* scratch) {
  Attend a;
  a.q = Tensor::of(F32, {op.q.dim(0), op.q.dim(1), at.query}, scratch);
  a.o = Tensor::of(F32, {op.q.dim(0), op.q.dim(1), at.result}, scratch ? scratch + at.at_result : nullptr);
  a.k = a.v = op.latent;
  a.v.shape.dim[3] = at.result;
  a.page = op.page;
  a.seq = op.seq;
  a.pos = op.pos;
  a.lse = op.lse;
  a.scale = op.scale;
  return a;
}

unsigned blocks(int64_t n, int64_t each) { return unsigned((n + each - 1) / each); }

}  // namespace

int64_t cuda_scratch(const Mla& op, int processors) {
  const Layout at(op);
  return at.at_attend + cuda_scratch(attention(op, at, nullptr), processors);
}

void run(const Mla& op, const CudaQueue& queue) {
  if (op.q.dim(0) == 0 || op.q.dim(1) == 0) return;
  const Layout at(op);
  const Attend attend = attention(op, at, queue.scratch);
  const int tokens = int(op.q.dim(0)), heads = int(op.q.dim(1)), rank = int(op.rank()), value = int(op.v_up.dim(1));
  const AbsorbArgs down{.q = op.q.at<float>(), .q_rope = op.q_rope.at<float>(), .k_up = rows_of(op.k_up), .to = attend.q.at<float>(),
                        .q_token = op.q.stride[0], .q_head = op.q.stride[1], .rope_token = op.q_rope.stride[0],
                        .rope_head = op.q_rope.stride[1], .tokens = tokens, .heads = heads, .nope = int(op.q.cols()), .rope = int(op.q_rope.cols()), .rank = rank,
                        .width = int(at.query)};
  const BringUpArgs last{.from = attend.o.at<float>(), .v_up = rows_of(op.v_up), .o = op.o.at<float>(), .o_token = op.o.stride[0],
                         .o_head = op.o.stride[1], .tokens = tokens, .heads = heads, .value = value, .rank = rank};
  with_storage(op.k_up.type, [&](auto stored) {
    using T = decltype(stored);
    auto grid = [&](int64_t columns) { return dim3(blocks(tokens, tile), unsigned(heads), blocks(rank, columns)); };
    if (by_four(op.k_up)) launch<absorb<4, T>>({grid(128), dim3(32 * warps), 0, queue.stream}, down);
    else if constexpr (!is_block<T>) launch<absorb<1, T>>({grid(32), dim3(32 * warps), 0, queue.stream}, down);
  });
  CudaQueue rest = queue;
  rest.scratch += at.at_attend;
  run(attend, rest);
  with_storage(op.v_up.type, [&](auto stored) {
    using T = decltype(stored);
    const dim3 grid(blocks(value, warps), unsigned(heads), blocks(tokens, tile));
    if (by_four(op.v_up)) launch<bring_up<4, T>>({grid, dim3(32 * warps), 0, queue.stream}, last);
    else if constexpr (!is_block<T>) launch<bring_up<1, T>>({grid, dim3(32 * warps), 0, queue.stream}, last);
  });
}

}  // namespace folio
