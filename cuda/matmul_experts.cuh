// SPDX-License-Identifier: MIT
// ExpertMatmul: the kernels of Matmul, each with the matrix that a token's slot has chosen. A pair is a token and a slot of it.
//
//   few tokens    a row of blocks for each pair: rows of its expert meet its token alone. An expert that two tokens chose is read twice,
//                 the second time from the second-level cache.
//   many tokens   sort_pairs puts pairs in the order of experts and cuts them into tiles, none with two experts. Its grid is an expert to
//                 a block, and no block waits for another: each counts for itself what stands before its expert. Then tokens are rounded
//                 in that order, and a tile of pairs and rows is what a tile of tokens and rows is in Matmul, but for where it ends and
//                 where results go. The grid is for the most tiles there can be; blocks without a tile are over at once.
//
// How many pairs an expert has is known to the card alone.
#pragma once
#include "cuda/matmul_e4m3.cuh"
#include "cuda/matmul_few.cuh"
#include "cuda/matmul_many.cuh"

namespace folio {

// Which expert each pair has; −1 if its id names none.
struct Choice {
  const int32_t* chosen;
  int64_t stride;       // from token to token, in elements
  int k, experts, pairs;
  FOLIO_DEVICE int operator()(int p) const {
    const int e = ld_vec<int32_t>(chosen + p / k * stride + p % k);
    return e < experts ? max(e, -1) : -1;
  }
};

// Stacks of matrices, and what belongs to each.
struct ExpertWeights {
  MatmulWeights first;             // those of expert 0
  int64_t w_expert, gate_expert;   // from expert to expert, in bytes
  FOLIO_DEVICE MatmulWeights of(int e) const {
    MatmulWeights w = first;
    w.w += e * w_expert;
    if (w.gate) w.gate += e * gate_expert;
    return w;
  }
};
struct ExpertEnd {
  MatmulOut first;                      // of expert 0
  int64_t bias_expert, gate_bias_expert;  // from expert to expert, in elements
  FOLIO_DEVICE MatmulOut of(int e) const {
    MatmulOut out = first;
    if (out.bias) out.bias += e * bias_expert;
    if (out.gate_bias) out.gate_bias += e * gate_bias_expert;
    return out;
  }
};

// The rows of x that pairs have; in the order of `pair`, −1 where there are no more (null: as they are).
struct PairTokens {
  const float* x;
  int64_t token_stride, slot_stride;   // elements; 0 between slots that share a row
  int slots;
  int64_t k;
  const int32_t* pair;
  FOLIO_DEVICE bool has(int i) const { return !pair || ld_vec<int32_t>(pair + i) >= 0; }
  FOLIO_DEVICE const float* row(int i) const {
    const int p = pair ? ld_vec<int32_t>(pair + i) : i;
    return x + p / slots * token_stride + p % slots * slot_stride;
  }
};

// The way of a sum of a sorted pair into y; as MatmulOut, with a place for each.
struct PairOut {
  MatmulOut out;
  const int32_t* pair;
  int tokens, features;   // the first pair of another expert
  template <bool Gate> FOLIO_DEVICE void put(int i, int n, float u, float gate) const {
    if (i < tokens && n < features) out.put_row<Gate>(ld_vec<int32_t>(pair + i), n, u, gate);
  }
};

struct alignas(16) PairTile {
  int expert, first, end, unused;   // expert −1: there is none
};

inline constexpr int sort_threads = 256;

// The sum of what all threads before this one have.
FOLIO_DEVICE int sum_before(int mine) {
  FOLIO_SHARED(int, warp, [32]);
  int upto = mine;
#pragma unroll
  for (int by = 1; by < 32; by *= 2) {
    const int more = __shfl_up_sync(all_lanes, upto, by);
    if (lane_id() >= by) upto += more;
  }
  if (lane_id() == 31) warp[warp_id()] = upto;
  block_sync();
  int before = upto - mine;
  for (int w = 0; w < warp_id(); ++w) before += warp[w];
  return before;
}

// Tiles of `size` pairs: `tiles` = pairs / size + experts places, of which expert e, whose pairs begin at f, has those from f / size + e
// on. It needs no more than up to the next expert's.
static __global__ void __launch_bounds__(sort_threads) sort_pairs(Choice choice, int size, int tiles, int32_t* pair, PairTile* tile) {
  const int e = int(blockIdx.x), each = (choice.pairs + sort_threads - 1) / sort_threads;
  const int from = min(int(threadIdx.x) * each, choice.pairs), to = min(from + each, choice.pairs);
  int lower = 0, mine = 0;
  for (int p = from; p < to; ++p) {
    const int x = choice(p);
    lower += x >= 0 && x < e;
    mine += x == e;
  }
  const int first = block_sum(lower), end = first + block_sum(mine);
  int at = first + sum_before(mine);
  for (int p = from; p < to; ++p)
    if (choice(p) == e) st_vec(pair + at++, int32_t(p));
  const bool last = e + 1 == choice.experts;
  const int begin = first / size + e, behind = last ? tiles : end / size + e + 1;
  for (int i = begin + int(threadIdx.x); i < behind; i += sort_threads) {
    const int f = first + (i - begin) * size;
    st_vec(reinterpret_cast<int4*>(tile + i), f < end ? make_int4(e, f, end, 0) : make_int4(-1, 0, 0, 0));
  }
  for (int i = end + int(threadIdx.x); last && i < choice.pairs; i += sort_threads) st_vec(pair + i, int32_t(-1));
}

// y of a pair that has no expert. A block calls.
FOLIO_DEVICE void clear_pair(const MatmulOut& out, int p) {
  for (int n = int(threadIdx.x); n < out.features; n += int(blockDim.x)) st_vec(out.y + p * out.y_stride + n, 0.0f);
}
static __global__ void __launch_bounds__(sort_threads) clear_pairs(Choice choice, MatmulOut out) {
  if (choice(int(blockIdx.x)) < 0) clear_pair(out, int(blockIdx.x));
}

// --- Few tokens: blockIdx.y is the pair.

// Calls f with the pair's weights, x and out if it has an expert.
template <class F>
FOLIO_DEVICE void with_pair(const Choice& choice, const ExpertWeights& w, const PairTokens& x, const ExpertEnd& end, F f) {
  const int p = int(blockIdx.y), e = choice(p);
  if (e < 0) {
    if (blockIdx.x == 0) clear_pair(end.first, p);
    return;
  }
  MatmulOut out = end.of(e);
  out.y += p * out.y_stride;
  out.tokens = 1;
  f(w.of(e), MatmulTokens{x.row(p), 0, 1, x.k}, out);
}

template <class W, bool Gate, bool Aligned>
__global__ void __launch_bounds__(32 * few_warps) expert_few(Choice choice, ExpertWeights w, PairTokens x, ExpertEnd end, bool split) {
  with_pair(choice, w, x, end, [&](const MatmulWeights& weights, const MatmulTokens& token, const MatmulOut& out) {
    multiply_few<W, 1, Gate, Aligned>(weights, token, out, split);
  });
}
// `records`: of each pair (quantise_tokens).
template <class Q, bool Gate>
__global__ void __launch_bounds__(32 * few_warps)
    expert_few_blocks(Choice choice, ExpertWeights w, PairTokens x, const std::byte* records, ExpertEnd end, bool split) {
  with_pair(choice, w, x, end, [&](const MatmulWeights& weights, const MatmulTokens&, const MatmulOut& out) {
    const ByteTokens token{records + blockIdx.y * (TokenRecord::of(x.k) * TokenRecord::bytes), int(x.k / 32), 1};
    multiply_few_blocks<Q, 1, Gate>(weights, token, out, split);
  });
}
template <bool Gate, bool Aligned>
__global__ void __launch_bounds__(32 * few_warps) expert_few_e4m3(Choice choice, ExpertWeights w, PairTokens x, ExpertEnd end, bool split) {
  with_pair(choice, w, x, end, [&](const MatmulWeights& weights, const MatmulTokens& token, const MatmulOut& out) {
    multiply_few_blocks<BlocksE4m3, 1, Gate>(weights, FloatTokens<Aligned>{token}, out, split);
  });
}

// --- Many tokens: blockIdx.x is a tile's place, blockIdx.y rows.

// Calls f with the tile's weights and out, and its first pair, if there is a tile.
template <class F>
FOLIO_DEVICE void with_tile_of(const PairTile* tiles, const int32_t* pair, const ExpertWeights& w, const ExpertEnd& end, F f) {
  const int4 tile = ld_vec<int4>(tiles + blockIdx.x);
  if (tile.x < 0) return;
  f(w.of(tile.x), PairOut{end.of(tile.x), pair, tile.z, end.first.features}, tile.y);
}

template <class Tile, bool F16, bool Gate>
__global__ void __launch_bounds__(Tile::threads)
    expert_halves(const PairTile* tiles, const int32_t* pair, ExpertWeights w, RoundedTokens x, ExpertEnd end, bool aligned) {
  with_tile_of(tiles, pair, w, end, [&](const MatmulWeights& weights, const PairOut& out, int first) {
    multiply_tile<Tile, F16, Gate>(weights, x, out, first, block_feature<Tile, Gate>(), aligned);
  });
}
template <class Tile, class Q, bool Gate>
__global__ void __launch_bounds__(Tile::threads)
    expert_blocks(const PairTile* tiles, const int32_t* pair, ExpertWeights w, const std::byte* x, ExpertEnd end) {
  with_tile_of(tiles, pair, w, end, [&](const MatmulWeights& weights, const PairOut& out, int first) {
    multiply_tile_of_blocks<Tile, Q, Gate>(weights, x, out, first, block_feature<Tile, Gate>());
  });
}
template <class Tile, bool Gate>
__global__ void __launch_bounds__(Tile::threads)
    expert_e4m3(const PairTile* tiles, const int32_t* pair, ExpertWeights w, RoundedTokens x, ExpertEnd end) {
  with_tile_of(tiles, pair, w, end, [&](const MatmulWeights& weights, const PairOut& out, int first) {
    multiply_tile_of_e4m3<Tile, Gate>(weights, x, out, first, block_feature<Tile, Gate>());
  });
}
template <bool Gate>
__global__ void __launch_bounds__(FloatTile::threads)
    expert_floats(const PairTile* tiles, const int32_t* pair, ExpertWeights w, PairTokens x, ExpertEnd end) {
  with_tile_of(tiles, pair, w, end, [&](const MatmulWeights& weights, const PairOut& out, int first) {
    multiply_tile_of_floats<Gate>(weights, x, out, first, block_feature<FloatTile, Gate>());
  });
}

}  // namespace folio
