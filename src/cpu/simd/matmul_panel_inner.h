// SPDX-License-Identifier: MIT
// Matmul of many tokens: the walk that all formats share. Rows of weights are put into panels whose lanes run along the rows, so a
// token's number is spread over a register and meets a panel's rows at once: a register of weights serves all tokens of a tile and
// no sum is added across lanes. `few` has its lanes along K and adds them in ascending order at the end; to give the same bits,
// `many` takes K lane by lane:
//
//   unit s of K belongs to lane s mod lanes of `few`, and there to group s div lanes
//   panel    [lane][group] of units of all rows, side by side          token    [lane][group] of units
//   sum of an output = ((0 + lane 0) + lane 1) + ...                   lane = Σ over its groups, in order
//
// A unit is what an instruction or a scale holds together: a float, a pair of bf16, a block of 32 bytes. The panel passes in chunks
// that stay in the first-level cache while all tokens pass by; tokens come from the second-level cache.
#pragma once
#include "cpu/simd/matmul.h"
#include "cpu/simd/transpose.h"

namespace folio {
namespace {

constexpr int64_t chunk_bytes = 16 << 10;        // of a panel, in a first-level cache of 32 KiB or more
constexpr int most_tokens = 48;                  // of one call: their sums stay near, too

constexpr int64_t groups_of(int64_t units) { return (units + Vec::lanes - 1) / Vec::lanes; }
// Lanes that hold anything at all.
constexpr int64_t lanes_of(int64_t units) { return units < Vec::lanes ? units : Vec::lanes; }

// A tile: as many sums as registers allow, [R][T].
struct PanelTile {
  const uint8_t* panel;    // where the chunk starts
  const uint8_t* x;        // where it starts in the first token
  int64_t x_stride;        // bytes
  int64_t units;           // of a chunk within one lane
  int64_t lanes;           // whole lanes in the chunk, of `units` units each; 1 if it is part of a lane
  int64_t lane_bytes;      // of the panel
  const uint8_t* next;     // what the next tile wants of its first token, to be fetched meanwhile
  Vec *lane, *total;       // sums within the lane; of all lanes
  bool begins, ends;       // the lane, with this chunk
};

// What T tokens' sums are in a lane goes to the total, or waits for the lane's next chunk.
template <int R, int T>
FOLIO_INLINE void keep_sums(const PanelTile& a, const Vec (&sums)[R][T]) {
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t)
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const int i = t * R + r;
      if (a.ends) a.total[i] += sums[r][t];
      else a.lane[i] = sums[r][t];
    }
}
template <int R, int T>
FOLIO_INLINE void begin_sums(const PanelTile& a, Vec (&sums)[R][T]) {
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t)
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) sums[r][t] = a.begins ? zero() : a.lane[t * R + r];
}

// F: a format in panels.
//   vectors (R), rows (R · lanes), units(k), panel_unit (bytes of `rows` units), token_unit (bytes), tile_tokens, tile<T>(PanelTile)
template <class F>
constexpr int64_t panel_lane_bytes(int64_t k) { return groups_of(F::units(k)) * F::panel_unit + 64; }   // 64: lanes apart in the cache
template <class F>
int64_t panel_bytes(int64_t k) { return lanes_of(F::units(k)) * panel_lane_bytes<F>(k); }
template <class F>
int64_t panel_token_bytes(int64_t k) {
  const int64_t bytes = (lanes_of(F::units(k)) * groups_of(F::units(k)) * F::token_unit + 63) / 64 * 64;
  return bytes <= 2048 ? bytes : (bytes - 512 + 4095) / 4096 * 4096 + 512;   // neighbours apart in a cache that repeats every 4 KiB
}

template <class F>
FOLIO_INLINE int panel_next(int left) { return left >= F::tile_tokens ? F::tile_tokens : left >= 4 ? 4 : left >= 2 ? 2 : 1; }

template <class F>
FOLIO_INLINE void panel_tile(int tokens, const PanelTile& tile) {
  switch (tokens) {
    case 1: F::template tile<1>(tile); break;
    case 2: F::template tile<2>(tile); break;
    case 4: F::template tile<4 <= F::tile_tokens ? 4 : 1>(tile); break;
    default: F::template tile<F::tile_tokens>(tile); break;
  }
}

// One panel with up to most_tokens tokens.
template <class F>
void panel_tokens(const MatmulPart& p, const uint8_t* panel, const uint8_t* x, int tokens, int rows, float* out) {
  const int64_t units = F::units(p.k), groups = groups_of(units), lanes = lanes_of(units);
  const int64_t chunk = chunk_bytes / F::panel_unit, some = groups < chunk ? groups : chunk;
  const int64_t at_once = groups < chunk ? chunk / groups : 1;
  Vec lane[most_tokens * F::vectors], total[most_tokens * F::vectors];
  for (int i = 0; i < tokens * F::vectors; ++i) total[i] = zero();
  for (int64_t l = 0; l < lanes; l += at_once)
    for (int64_t g = 0; g < groups; g += some)
      for (int t = 0, n; t < tokens; t += n) {
        n = panel_next<F>(tokens - t);
        const int64_t last = g + some < groups ? g + some : groups, now = l + at_once < lanes ? at_once : lanes - l;
        const uint8_t* here = x + (l * groups + g) * F::token_unit;
        const uint8_t* next = t + n < tokens ? here + (t + n) * p.x_stride : here + now * (last - g) * F::token_unit;
        panel_tile<F>(n, {panel + l * panel_lane_bytes<F>(p.k) + g * F::panel_unit, here + t * p.x_stride, p.x_stride, last - g, now,
                          panel_lane_bytes<F>(p.k), next, lane + t * F::vectors, total + t * F::vectors, g == 0, last == groups});
      }
  for (int t = 0; t < tokens; ++t)
    for (int r = 0, left = rows; left > 0; ++r, left -= Vec::lanes) {
      float* to = out + t * p.out_stride + r * Vec::lanes;
      if (left >= Vec::lanes) store(to, total[t * F::vectors + r]);
      else store_n(to, total[t * F::vectors + r], left);
    }
}

template <class F>
void panel_many(const MatmulPart& p) {
  for (int r = 0; r < p.rows; r += F::rows)
    for (int t = 0; t < p.tokens; t += most_tokens)
      panel_tokens<F>(p, p.w + r / F::rows * p.w_stride, p.x + t * p.x_stride, p.tokens - t < most_tokens ? p.tokens - t : most_tokens,
                      p.rows - r < F::rows ? p.rows - r : F::rows, p.out + t * p.out_stride + r);
}

}  // namespace
}  // namespace folio
