// SPDX-License-Identifier: MIT
// Matmul on CUDA, from sm_80 up. Up to eight tokens (decoding, drafts) stream the weights once, in f32 or int8 dots; more are tiles on
// the tensor cores, f32 weights excepted. Here stands who does what, and how the work is cut.
//
//   matmul.cuh          weights, quantised blocks, the way of a sum into y
//   matmul_tokens.cuh   tokens rounded for the kernels below
//   matmul_few.cuh      few tokens           matmul_many.cuh   many           matmul_e4m3.cuh   many, with weights in F8_E4M3
//   matmul_hopper.cu    many, on sm_90a      matmul_launch.h   what the launchers here and of the experts share
#include "cuda/matmul_e4m3.cuh"
#include "cuda/matmul_few.cuh"
#include "cuda/matmul_launch.h"
#include "cuda/matmul_many.cuh"
#include "cuda/table.h"

namespace folio {

namespace {

// One Matmul as kernels see it.
struct Call {
  const CudaQueue& queue;
  MatmulWeights w;
  MatmulTokens x;
  MatmulOut out;
  bool gate, w_aligned, x_aligned;

  Call(const Matmul& op, const CudaQueue& queue)
      : queue(queue),
        w{op.w.data, op.gate.data, bytes_of(op.w.type, op.w.stride[0]), op.gate.present() ? bytes_of(op.gate.type, op.gate.stride[0]) : 0,
          int(op.w.dim(0)), op.x.cols()},
        x{op.x.at<float>(), op.x.stride[0], int(op.x.dim(0)), op.x.cols()},
        out{of(op.bias), of(op.gate_bias), of(op.add), op.y.at<float>(), op.add.stride[0], op.y.stride[0], int(op.x.dim(0)),
            int(op.w.dim(0)), op.act},
        gate(op.gate.present()), w_aligned(by_vectors(op.w) && by_vectors(op.gate)), x_aligned(by_vectors(op.x)) {}
  static const float* of(const Tensor& t) { return t.present() ? t.at<float>() : nullptr; }
};

// --- Few tokens.

// Rows are split among warps where there are too few for all processors and each is worth it.
template <int Tokens, bool Gate> Launch few_launch(const Call& c, int64_t worth, size_t shared, bool& split) {
  constexpr int features = FewTile<Tokens, Gate>::features;
  split = c.out.features <= 16 * c.queue.processors && c.x.k >= worth;
  return {parts(c.out.features, split ? features : features * few_warps), 32 * few_warps, shared, c.queue.stream};
}
template <class W> void run_few_plain(const Call& c, auto tokens, auto gate) {
  constexpr int n = tokens();
  constexpr bool gated = gate();
  bool split;
  const Launch at = few_launch<n, gated>(c, 64 * W::chunk, 0, split);
  either(c.w_aligned && c.x_aligned, [&](auto all) { launch<few_plain<W, n, gated, all()>>(at, c.w, c.x, c.out, split); });
}
template <class Q> void run_few_quantised(const Call& c, auto tokens, auto gate, auto x) {
  constexpr int n = tokens();
  constexpr bool gated = gate();
  Smem shared;
  FewStages<Q, n, gated>::take(shared);
  bool split;
  const Launch at = few_launch<n, gated>(c, 64 * TokenRecord::blocks, shared.bytes(), split);
  launch<few_quantised<Q, n, gated, decltype(x)>>(at, c.w, x, c.out, split);
}

void run_few(DType type, const Call& c) {
  const auto by_type = [&](auto tokens, auto gate) {
    const ByteTokens bytes = {c.queue.scratch, int(c.w.k / 32), c.x.tokens};
    switch (type) {
      case F16: return run_few_plain<WeightsF16>(c, tokens, gate);
      case BF16: return run_few_plain<WeightsBF16>(c, tokens, gate);
      case Q8_0: return run_few_quantised<BlocksQ8>(c, tokens, gate, bytes);
      case Q4_0: return run_few_quantised<BlocksQ4>(c, tokens, gate, bytes);
      case F8_E4M3:
        return either(c.x_aligned, [&](auto all) { run_few_quantised<BlocksE4m3>(c, tokens, gate, FloatTokens<all()>{c.x}); });
      default: return run_few_plain<WeightsF32>(c, tokens, gate);
    }
  };
  either(c.gate, [&](auto gate) {
    if (c.x.tokens <= 1) by_type(Int<1>(), gate);
    else if (c.x.tokens <= 2) by_type(Int<2>(), gate);
    else if (c.x.tokens <= 4) by_type(Int<4>(), gate);
    else by_type(Int<8>(), gate);
  });
}

// --- Many tokens.

template <class Tile> Launch many_launch(const Call& c, const Smem& shared) {
  return {dim3(parts(c.out.tokens, Tile::tokens), parts(c.out.features, Tile::rows / (c.gate ? 2 : 1))), Tile::threads, shared.bytes(),
          c.queue.stream};
}
// Wide tiles do more with each byte, narrow ones find work for all processors. Calls f with the tile and whether there is a gate.
template <class Wide> void with_tile(const Call& c, auto f) {
  const auto tiles = [&](auto tile) {
    using Tile = decltype(tile);
    return int64_t(parts(c.out.tokens, Tile::tokens)) * parts(int64_t(c.out.features) * (c.gate ? 2 : 1), Tile::rows);
  };
  either(c.gate, [&](auto gate) {
    if (c.out.tokens > 64 && tiles(Wide()) >= c.queue.processors) f(Wide(), gate);
    else if (c.out.tokens > 32 && tiles(MiddleTile()) >= c.queue.processors / 2) f(MiddleTile(), gate);
    else f(NarrowTile(), gate);
  });
}

template <bool Half> void run_many_halves(const Call& c) {
  const Planes planes(c.x.tokens, c.x.k, Half ? 2 : 1);
  float* back = reinterpret_cast<float*>(c.queue.scratch + planes.back);
  const Launch at = {unsigned(c.x.tokens), token_threads, 0, c.queue.stream};
  launch<round_tokens<Half, MatmulTokens>>(at, c.x, planes.pitch, planes.plane, c.queue.scratch, back);
  const RoundedTokens x = {c.queue.scratch, back, planes.pitch, planes.plane};
  if (c.w_aligned && run_hopper(Half ? F16 : BF16, c.w, x, c.out, c.queue)) return;
  with_tile<WideTile>(c, [&](auto tile, auto gate) {
    using Tile = decltype(tile);
    Smem shared;
    HalfStage<Tile, Half>::take(shared);
    launch<many_halves<Tile, Half, gate()>>(many_launch<Tile>(c, shared), c.w, x, c.out, c.w_aligned);
  });
}

template <class Q> void run_many_quantised(const Call& c) {
  with_tile<WideByteTile>(c, [&](auto tile, auto gate) {
    using Tile = decltype(tile);
    Smem shared;
    ByteStages<Tile, Q>::take(shared);
    launch<many_quantised<Tile, Q, gate()>>(many_launch<Tile>(c, shared), c.w, c.queue.scratch, c.out);
  });
}

void run_many_e4m3(const Call& c) {
  const Planes planes(c.x.tokens, c.x.k, 1);
  const Launch at = {unsigned(c.x.tokens), token_threads, 0, c.queue.stream};
  launch<round_tokens<false, MatmulTokens>>(at, c.x, planes.pitch, planes.plane, c.queue.scratch, static_cast<float*>(nullptr));
  const RoundedTokens x = {c.queue.scratch, nullptr, planes.pitch, planes.plane};
  with_tile<WideByteTile>(c, [&](auto tile, auto gate) {
    using Tile = decltype(tile);
    Smem shared;
    E4m3Stages<Tile>::take(shared);
    launch<many_e4m3<Tile, gate()>>(many_launch<Tile>(c, shared), c.w, x, c.out);
  });
}

void run_many_floats(const Call& c) {
  Smem shared;
  FloatTile::take(shared);
  either(c.gate, [&](auto gate) { launch<many_floats<gate()>>(many_launch<FloatTile>(c, shared), c.w, c.x, c.out); });
}

void quantise(const Call& c) {
  const int64_t records = TokenRecord::of(c.x.k);
  if (records == 0) return;
  const Launch at = {unsigned(c.x.tokens * records), token_threads, 0, c.queue.stream};
  either(c.x_aligned, [&](auto all) { launch<quantise_tokens<all(), MatmulTokens>>(at, c.x, int(records), c.queue.scratch); });
}

}  // namespace

// Tokens in the form of the kernels that read them.
int64_t cuda_scratch(const Matmul& op, int) {
  const int64_t tokens = op.x.dim(0), k = op.x.cols();
  if (meets_bytes(op.w.type)) return tokens * TokenRecord::of(k) * TokenRecord::bytes;
  if (op.w.type == F32 || tokens <= most_few_tokens) return 0;
  return Planes(tokens, k, op.w.type == F16 ? 2 : 1).bytes;
}

void run(const Matmul& op, const CudaQueue& queue) {
  if (op.x.dim(0) == 0 || op.w.dim(0) == 0) return;
  const Call c(op, queue);
  if (meets_bytes(op.w.type)) quantise(c);
  if (op.x.dim(0) <= most_few_tokens) return run_few(op.w.type, c);
  switch (op.w.type) {
    case F16: return run_many_halves<true>(c);
    case BF16: return run_many_halves<false>(c);
    case Q8_0: return run_many_quantised<BlocksQ8>(c);
    case Q4_0: return run_many_quantised<BlocksQ4>(c);
    case F8_E4M3: return run_many_e4m3(c);
    default: return run_many_floats(c);
  }
}

}  // namespace folio
