// SPDX-License-Identifier: MIT
// ExpertMatmul on CUDA (matmul_experts.cuh): who does what, and how the work is cut. It follows from the shapes alone, so a captured
// launch holds for whatever the router chooses.
//
//   scratch   | pairs in the order of experts | tiles | tokens of the pairs as the kernels want them |
#include "cuda/matmul_experts.cuh"
#include "cuda/matmul_launch.h"
#include "cuda/table.h"

namespace folio {

namespace {

// Pairs of an expert if all had as many: what tiles are chosen for.
int64_t mean_pairs(const ExpertMatmul& op) { return op.chosen.count() / op.w.dim(0); }
int tile_tokens(const ExpertMatmul& op) {
  if (op.w.type == F32) return FloatTile::tokens;
  return mean_pairs(op) > 64 ? WideTile::tokens : mean_pairs(op) > 32 ? MiddleTile::tokens : NarrowTile::tokens;
}
bool few(const ExpertMatmul& op) { return op.x.dim(0) <= most_few_tokens; }

// Where things lie in scratch.
struct PairRoom {
  int64_t tiles, tile_at, tokens_at, bytes;
  explicit PairRoom(const ExpertMatmul& op) {
    const int64_t pairs = op.chosen.count(), k = op.w.cols();
    tiles = few(op) ? 0 : pairs / tile_tokens(op) + op.w.dim(0);
    tile_at = few(op) ? 0 : round_up(pairs * 4, 256);
    tokens_at = tile_at + round_up(tiles * int64_t(sizeof(PairTile)), 256);
    bytes = tokens_at;
    if (meets_bytes(op.w.type)) bytes += pairs * TokenRecord::of(k) * TokenRecord::bytes;
    else if (op.w.type != F32 && !few(op)) bytes += Planes(pairs, k, op.w.type == F16 ? 2 : 1).bytes;
  }
};

// One ExpertMatmul as kernels see it.
struct ExpertCall {
  const CudaQueue& queue;
  Choice choice;
  ExpertWeights w;
  PairTokens x;
  ExpertEnd end;
  bool gate, w_aligned, x_aligned;
  PairRoom room;
  int32_t* pair;
  PairTile* tile;
  std::byte* tokens;

  ExpertCall(const ExpertMatmul& op, const CudaQueue& queue)
      : queue(queue),
        choice{op.chosen.at<int32_t>(), op.chosen.stride[0], int(op.chosen.cols()), int(op.w.dim(0)), int(op.chosen.count())},
        w{{op.w.data, op.gate.data, row_bytes(op.w), row_bytes(op.gate), int(op.w.dim(1)), op.w.cols()}, stack_bytes(op.w),
          stack_bytes(op.gate)},
        x{op.x.at<float>(), op.x.stride[0], op.x.rank() == 3 ? op.x.stride[1] : 0, int(op.chosen.cols()), op.x.cols(), nullptr},
        end{{of(op.bias), of(op.gate_bias), nullptr, op.y.at<float>(), 0, op.y.cols(), int(op.chosen.count()), int(op.w.dim(1)), op.act},
            op.bias.stride[0], op.gate_bias.stride[0]},
        gate(op.gate.present()), w_aligned(by_vectors(op.w) && by_vectors(op.gate)), x_aligned(by_vectors(op.x)), room(op),
        pair(reinterpret_cast<int32_t*>(queue.scratch)), tile(reinterpret_cast<PairTile*>(queue.scratch + room.tile_at)),
        tokens(queue.scratch + room.tokens_at) {}
  static const float* of(const Tensor& t) { return t.present() ? t.at<float>() : nullptr; }
  static int64_t row_bytes(const Tensor& t) { return t.present() ? bytes_of(t.type, t.stride[1]) : 0; }
  static int64_t stack_bytes(const Tensor& t) { return t.present() ? bytes_of(t.type, t.stride[0]) : 0; }
};

void quantise(const ExpertCall& c) {
  const int64_t records = TokenRecord::of(c.x.k);
  if (records == 0) return;
  const Launch at = {unsigned(c.choice.pairs * records), token_threads, 0, c.queue.stream};
  either(c.x_aligned, [&](auto all) { launch<quantise_tokens<all(), PairTokens>>(at, c.x, int(records), c.tokens); });
}
template <bool Two> RoundedTokens rounded(const ExpertCall& c) {
  const Planes planes(c.choice.pairs, c.x.k, Two ? 2 : 1);
  float* back = reinterpret_cast<float*>(c.tokens + planes.back);
  const Launch at = {unsigned(c.choice.pairs), token_threads, 0, c.queue.stream};
  launch<round_tokens<Two, PairTokens>>(at, c.x, planes.pitch, planes.plane, c.tokens, back);
  return {c.tokens, back, planes.pitch, planes.plane};
}

// --- Few tokens. Rows are split among warps as in Matmul of all experts of a token, so that a token's sums do not depend on the others.

template <bool Gate> Launch few_launch(const ExpertCall& c, int64_t worth, size_t shared, bool& split) {
  constexpr int features = FewTile<1, Gate>::features;
  const int64_t all = c.w.first.features;
  split = all * c.choice.k <= 16 * c.queue.processors && c.x.k >= worth;
  return {dim3(parts(all, split ? features : features * few_warps), unsigned(c.choice.pairs)), 32 * few_warps, shared, c.queue.stream};
}
template <class W> void run_few_plain(const ExpertCall& c, auto gate) {
  bool split;
  const Launch at = few_launch<gate()>(c, 64 * W::chunk, 0, split);
  either(c.w_aligned && c.x_aligned, [&](auto all) { launch<expert_few<W, gate(), all()>>(at, c.choice, c.w, c.x, c.end, split); });
}
template <class Q> Launch few_blocks_launch(const ExpertCall& c, auto gate, bool& split) {
  Smem shared;
  FewStages<Q, 1, gate()>::take(shared);
  return few_launch<gate()>(c, 64 * TokenRecord::blocks, shared.bytes(), split);
}
template <class Q> void run_few_blocks(const ExpertCall& c, auto gate) {
  bool split;
  const Launch at = few_blocks_launch<Q>(c, gate, split);
  launch<expert_few_blocks<Q, gate()>>(at, c.choice, c.w, c.x, c.tokens, c.end, split);
}

void run_few(DType type, const ExpertCall& c) {
  either(c.gate, [&](auto gate) {
    switch (type) {
      case F16: return run_few_plain<WeightsF16>(c, gate);
      case BF16: return run_few_plain<WeightsBF16>(c, gate);
      case Q8_0: return run_few_blocks<BlocksQ8>(c, gate);
      case Q4_0: return run_few_blocks<BlocksQ4>(c, gate);
      case F8_E4M3: {
        bool split;
        const Launch at = few_blocks_launch<BlocksE4m3>(c, gate, split);
        return either(c.x_aligned, [&](auto all) { launch<expert_few_e4m3<gate(), all()>>(at, c.choice, c.w, c.x, c.end, split); });
      }
      default: return run_few_plain<WeightsF32>(c, gate);
    }
  });
}

// --- Many tokens.

template <class Tile> Launch many_launch(const ExpertCall& c, const Smem& shared) {
  const dim3 grid(unsigned(c.room.tiles), parts(c.w.first.features, Tile::rows / (c.gate ? 2 : 1)));
  return {grid, Tile::threads, shared.bytes(), c.queue.stream};
}
// Calls f with the tile of that many tokens and whether there is a gate.
template <class Wide> void with_tile(const ExpertCall& c, int tokens, auto f) {
  either(c.gate, [&](auto gate) {
    if (tokens == Wide::tokens) f(Wide(), gate);
    else if (tokens == MiddleTile::tokens) f(MiddleTile(), gate);
    else f(NarrowTile(), gate);
  });
}

template <bool Half> void run_many_halves(const ExpertCall& c, int tokens) {
  const RoundedTokens x = rounded<Half>(c);
  with_tile<WideTile>(c, tokens, [&](auto tile, auto gate) {
    using Tile = decltype(tile);
    Smem shared;
    HalfStage<Tile, Half>::take(shared);
    launch<expert_halves<Tile, Half, gate()>>(many_launch<Tile>(c, shared), c.tile, c.pair, c.w, x, c.end, c.w_aligned);
  });
}
template <class Q> void run_many_blocks(const ExpertCall& c, int tokens) {
  quantise(c);
  with_tile<WideByteTile>(c, tokens, [&](auto tile, auto gate) {
    using Tile = decltype(tile);
    Smem shared;
    ByteStages<Tile, Q>::take(shared);
    launch<expert_blocks<Tile, Q, gate()>>(many_launch<Tile>(c, shared), c.tile, c.pair, c.w, c.tokens, c.end);
  });
}
void run_many_e4m3(const ExpertCall& c, int tokens) {
  const RoundedTokens x = rounded<false>(c);
  with_tile<WideByteTile>(c, tokens, [&](auto tile, auto gate) {
    using Tile = decltype(tile);
    Smem shared;
    E4m3Stages<Tile>::take(shared);
    launch<expert_e4m3<Tile, gate()>>(many_launch<Tile>(c, shared), c.tile, c.pair, c.w, x, c.end);
  });
}
void run_many_floats(const ExpertCall& c) {
  Smem shared;
  FloatTile::take(shared);
  either(c.gate, [&](auto gate) { launch<expert_floats<gate()>>(many_launch<FloatTile>(c, shared), c.tile, c.pair, c.w, c.x, c.end); });
}

}  // namespace

int64_t cuda_scratch(const ExpertMatmul& op, int) { return PairRoom(op).bytes; }

void run(const ExpertMatmul& op, const CudaQueue& queue) {
  if (op.chosen.count() == 0 || op.w.dim(1) == 0) return;
  ExpertCall c(op, queue);
  if (few(op)) {
    if (meets_bytes(op.w.type)) quantise(c);
    return run_few(op.w.type, c);
  }
  const int tokens = tile_tokens(op);
  launch<sort_pairs>({unsigned(c.choice.experts), sort_threads, 0, queue.stream}, c.choice, tokens, int(c.room.tiles), c.pair, c.tile);
  launch<clear_pairs>({unsigned(c.choice.pairs), sort_threads, 0, queue.stream}, c.choice, c.end.first);
  c.x.pair = c.pair;
  switch (op.w.type) {
    case F16: return run_many_halves<true>(c, tokens);
    case BF16: return run_many_halves<false>(c, tokens);
    case Q8_0: return run_many_blocks<BlocksQ8>(c, tokens);
    case Q4_0: return run_many_blocks<BlocksQ4>(c, tokens);
    case F8_E4M3: return run_many_e4m3(c, tokens);
    default: return run_many_floats(c);
  }
}

}  // namespace folio
