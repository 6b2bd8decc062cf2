// SPDX-License-Identifier: MIT
// Whether a product of many tokens goes to the Hopper tier, in which tiles, and its tensor maps. The maps hold addresses: weights and
// scratch have theirs before anything is captured, so a captured launch never needs an update.
#include "cuda/matmul_hopper.cuh"
#include "cuda/table.h"

namespace folio {

namespace {

int parts(int64_t n, int64_t size) { return int((n + size - 1) / size); }

template <class Tile> TileOrder order_of(const MatmulOut& out, bool gate) {
  return {parts(out.tokens, Tile::tokens), parts(out.features, Tile::rows >> gate)};
}

template <class Tile> void run_tiles(const MatmulWeights& w, const RoundedTokens& x, const MatmulOut& out, const CudaQueue& queue) {
  using T = typename Tile::Number;
  const bool gate = w.gate != nullptr;
  const auto rows = [&](const std::byte* at, int64_t stride) {
    return tensor_map(reinterpret_cast<const T*>(at), {w.k, out.features}, {stride}, {Tile::k, Tile::rows >> gate}, Tile::swizzle);
  };
  HopperMaps maps;
  maps.x = tensor_map(reinterpret_cast<const T*>(x.planes), {x.pitch, out.tokens, Tile::planes}, {2 * x.pitch, x.plane},
                      {Tile::k, Tile::tokens, 1}, Tile::swizzle);
  maps.w = rows(w.w, w.w_stride);
  maps.gate = gate ? rows(w.gate, w.gate_stride) : maps.w;
  Smem shared;
  Tile::layout(shared);
  const TileOrder order = order_of<Tile>(out, gate);
  const Launch at = {unsigned(std::min(order.count(), queue.processors)), Tile::threads, shared.bytes(), queue.stream};
  const int steps = parts(w.k, Tile::k);
  if (gate) launch<many_hopper<Tile, true>>(at, maps, x.back, out, order, steps);
  else launch<many_hopper<Tile, false>>(at, maps, x.back, out, order, steps);
}

template <class T> bool run_halves(const MatmulWeights& w, const RoundedTokens& x, const MatmulOut& out, const CudaQueue& queue) {
  const bool gate = w.gate != nullptr;
  if (order_of<HopperTile<T, 256>>(out, gate).count() >= queue.processors) run_tiles<HopperTile<T, 256>>(w, x, out, queue);
  else if (order_of<HopperTile<T, 128>>(out, gate).count() >= queue.processors / 2) run_tiles<HopperTile<T, 128>>(w, x, out, queue);
  else return false;  // smaller tiles occupy more processors
  return true;
}

}  // namespace

bool run_hopper(DType type, const MatmulWeights& w, const RoundedTokens& x, const MatmulOut& out, const CudaQueue& queue) {
  if (!queue.hopper || out.tokens <= 64 || w.k == 0) return false;
  return type == F16 ? run_halves<f16>(w, x, out, queue) : run_halves<bf16>(w, x, out, queue);
}

}  // namespace folio
