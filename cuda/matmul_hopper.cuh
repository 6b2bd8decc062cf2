// SPDX-License-Identifier: MIT
// Matmul of many tokens on sm_90a, for weights of f16 and bf16: 128 tokens by 128 or 256 weight rows, in steps of 64 along k. What is
// multiplied and how sums become results is what many_halves does (matmul_many.cuh); here the warpgroups of a block have roles:
//
//   producer        one thread, to whom TMA brings boxes of 64 columns: of tokens, in each plane, and of weight rows; stages ahead
//   two consumers   64 tokens each: wgmma with tokens and rows from shared memory, sums in registers
//
//   full[stage]     all bytes of a step have come             empty[stage]     all warps of both consumers are through with them
//
// Blocks stay and take tile after tile, so the next tile's stages fill while the sums of the last are stored. With a gate half of the
// rows are of w and half of the gate: columns j and rows / 2 + j of the product meet in one thread.
#pragma once
#include "cuda/lib/hopper.cuh"
#include "cuda/matmul_tokens.cuh"

namespace folio {

template <class T, int Rows> struct HopperTile {
  using Number = T;
  static constexpr int tokens = 128, rows = Rows, k = 64, planes = std::is_same_v<T, f16> ? 2 : 1;
  static constexpr int warps = 8, threads = 32 * warps + 128;     // of the consumers; of the block
  static constexpr int token_box = tokens * k, stage = planes * token_box + rows * k, stage_bytes = stage * int(sizeof(T));
  static constexpr int stages = (192 << 10) / stage_bytes;
  static constexpr int half = tokens / 2 * k;                     // a consumer's tokens
  static constexpr Swizzle swizzle = Swizzle::bytes128;

  struct Arrays {
    T* stages;
    float* patches;
    uint64_t *full, *empty;
  };
  static __host__ __device__ Arrays layout(Smem& shared) {
    return {shared.take<T>(stages * stage, 1024), shared.take<float>(warps * patch_floats), shared.take<uint64_t>(stages),
            shared.take<uint64_t>(stages)};
  }
};

// In which order tiles are taken: those of up to 16 times 128 tokens for one group of rows, then for the next. What the blocks of a
// card work on at the same time is thus about as wide as high, and little of it is read from memory twice.
struct TileOrder {
  static constexpr int band = 16;
  int token_tiles, row_tiles;
  __host__ __device__ int count() const { return token_tiles * row_tiles; }
  FOLIO_DEVICE int2 at(int i) const {  // x: which tokens, y: which rows
    const int first = i / (band * row_tiles) * band, high = min(band, token_tiles - first), rest = i - first * row_tiles;
    return make_int2(first + rest % high, rest / high);
  }
};

struct HopperMaps {
  TensorMap x, w, gate;  // [planes, tokens, k], [rows, k] twice
};

template <class Tile, bool Gate>
FOLIO_DEVICE void fetch_tiles(const typename Tile::Arrays& at, const HopperMaps& maps, const TileOrder& order, int steps) {
  Ring<Tile::stages> ring;
  for (int i = int(blockIdx.x); i < order.count(); i += int(gridDim.x)) {
    const int token = order.at(i).x * Tile::tokens, feature = order.at(i).y * (Tile::rows >> Gate);
    for (int step = 0; step < steps; ++step, ring.next()) {
      auto* const stage = at.stages + ring.stage * Tile::stage;
      auto* const rows = stage + Tile::planes * Tile::token_box;
      uint64_t* const full = at.full + ring.stage;
      mbarrier_wait(at.empty + ring.stage, ring.parity ^ 1);
      mbarrier_expect(full, Tile::stage_bytes);
#pragma unroll
      for (int plane = 0; plane < Tile::planes; ++plane)
        tma_load(stage + plane * Tile::token_box, maps.x, full, {step * Tile::k, token, plane});
      tma_load(rows, maps.w, full, {step * Tile::k, feature});
      if constexpr (Gate) tma_load(rows + Tile::rows / 2 * Tile::k, maps.gate, full, {step * Tile::k, feature});
    }
  }
}

// Adds a stage's products; of f16 the small parts of the tokens first. The first stage of a tile does not add to what was there.
template <class Tile>
FOLIO_DEVICE void multiply_stage(const typename Tile::Number* stage, int consumer, bool first, float (&sum)[Tile::rows / 2]) {
  using T = typename Tile::Number;
  const uint64_t tokens = wgmma_descriptor(stage + consumer * Tile::half, 0, 1024, Tile::swizzle);
  const uint64_t rows = wgmma_descriptor(stage + Tile::planes * Tile::token_box, 0, 1024, Tile::swizzle);
#pragma unroll
  for (int k = 0; k < Tile::k; k += 16)
#pragma unroll
    for (int plane = Tile::planes - 1; plane >= 0; --plane)
      wgmma<Major::k, Major::k, T>(sum, wgmma_step(tokens, (plane * Tile::token_box + k) * sizeof(T)), wgmma_step(rows, k * sizeof(T)),
                                   !(first && k == 0 && plane == Tile::planes - 1));
}

// Stores what a warp has: 16 tokens from `token` on. With a gate its sums stand rows / 2 columns after those of w.
template <class Tile, bool Gate>
FOLIO_DEVICE void put_sums(const MatmulOut& out, const float (&sum)[Tile::rows / 2], float* patch, int token, int feature,
                           const float* back) {
  const int g = lane_id() / 4, t = lane_id() % 4;
  float factor[2] = {1, 1};
  if constexpr (Tile::planes == 2)
#pragma unroll
    for (int h = 0; h < 2; ++h) factor[h] = ld_vec<float>(back + min(token + g + 8 * h, out.tokens - 1));
#pragma unroll
  for (int first = 0; first < Tile::rows; first += patch_rows) {
    __syncwarp();
#pragma unroll
    for (int j = 0; j < patch_rows / 8; ++j) {
      const int group = Gate ? first / 16 + j / 2 + j % 2 * (Tile::rows / 16) : first / 8 + j;
#pragma unroll
      for (int h = 0; h < 2; ++h)
        st_vec(patch + (g + 8 * h) * patch_pitch + 8 * j + 2 * t,
               make_float2(sum[4 * group + 2 * h] * factor[h], sum[4 * group + 2 * h + 1] * factor[h]));
    }
    __syncwarp();
    put_patch<Gate>(out, patch, token, feature + (first >> Gate));
  }
}

template <class Tile, bool Gate>
FOLIO_DEVICE void multiply_tiles(const typename Tile::Arrays& at, const MatmulOut& out, const float* back, const TileOrder& order,
                                 int steps, int consumer) {
  Ring<Tile::stages> ring;
  float sum[Tile::rows / 2] = {};
  for (int i = int(blockIdx.x); i < order.count(); i += int(gridDim.x)) {
    int before = 0;  // the stage of the step before: released when its products are there, with this step's under way
    for (int step = 0; step < steps; ++step, ring.next()) {
      mbarrier_wait(at.full + ring.stage, ring.parity);
      wgmma_pin(sum);
      wgmma_fence();
      multiply_stage<Tile>(at.stages + ring.stage * Tile::stage, consumer, step == 0, sum);
      wgmma_commit();
      wgmma_wait<1>();
      if (step > 0 && lane_id() == 0) mbarrier_arrive(at.empty + before);
      before = ring.stage;
    }
    wgmma_wait<0>();
    wgmma_pin(sum);
    if (lane_id() == 0) mbarrier_arrive(at.empty + before);
    put_sums<Tile, Gate>(out, sum, at.patches + warp_id() * patch_floats, order.at(i).x * Tile::tokens + 16 * warp_id(),
                         order.at(i).y * (Tile::rows >> Gate), back);
  }
}

template <class Tile, bool Gate>
__global__ void __launch_bounds__(Tile::threads, 1)
    many_hopper(const __grid_constant__ HopperMaps maps, const float* back, MatmulOut out, TileOrder order, int steps) {
#if FOLIO_SM90
  Smem shared = Smem::here();
  const typename Tile::Arrays at = Tile::layout(shared);
  if (threadIdx.x == 0) {
    for (int i = 0; i < Tile::stages; ++i) mbarrier_init(at.full + i, 1), mbarrier_init(at.empty + i, Tile::warps);
    mbarrier_init_fence();
  }
  block_sync();
  const int group = warpgroup_id();
  if (group == 2) {
    registers_give<40>();
    if (threadIdx.x == Tile::threads - 128) fetch_tiles<Tile, Gate>(at, maps, order, steps);
  } else {
    registers_take<232>();
    multiply_tiles<Tile, Gate>(at, out, back, order, steps, group);
  }
#endif
}

}  // namespace folio
