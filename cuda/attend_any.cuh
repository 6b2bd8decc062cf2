// SPDX-License-Identifier: MIT
// Attention in f32 arithmetic: any head size, any stride, pools of any type. Keys and values pass through one tile of shared memory,
// 32 keys by 64 columns, whatever the head size; the outputs, too, are summed in shared memory. 128 threads are 16 by 8: thread (y, x)
// has the rows y, y + 16 ... of the unit, of logits the keys x, x + 8, x + 16, x + 24, of a tile of values the columns 8x .. 8x + 7.
#pragma once
#include <type_traits>

#include "cuda/attend_plan.cuh"
#include "graph/dtype.h"

namespace folio::attention::any {

// Where element i of a pool or of a row begins, or the block that it is in; and the number that stands there.
template <class T> FOLIO_DEVICE const T* element(const void* at, int64_t i) {
  return static_cast<const T*>(at) + (std::is_same_v<T, BlockQ8_0> ? i / 32 : i);
}
template <class T> FOLIO_DEVICE float number(const T* row, int i) {
  if constexpr (std::is_same_v<T, BlockQ8_0>) {
    const auto* block = reinterpret_cast<const std::byte*>(row + i / 32);
    return to_float(ld_vec<f16>(block)) * float(ld_vec<int8_t>(block + 2 + i % 32));
  } else {
    return to_float(ld_vec<T>(row + i));
  }
}

template <class T, int Rows> struct AnyShape {
  static constexpr int rows = Rows, own = Rows / 16, threads = 128, step = 32, columns = 64;
  static constexpr int pitch = columns + 4, weight_pitch = step + 4;   // four more: rows begin in different banks

  struct Arrays {
    float *q, *tile, *weight, *sums;
    int4* limit;
    int q_pitch;
  };
  __host__ __device__ static Arrays layout(Smem& smem, int size, int width) {
    Arrays at;
    at.q_pitch = (size + columns - 1) / columns * columns + 4;
    at.q = smem.take<float>(int64_t(rows) * at.q_pitch);
    at.tile = smem.take<float>(step * pitch);
    at.weight = smem.take<float>(rows * weight_pitch);
    at.sums = smem.take<float>(int64_t(rows) * (width + 2));
    at.limit = smem.take<int4>(rows);
    return at;
  }
};

// Columns from .. from + 63 of the keys start .. start + 31, as floats; zeros for what is not there or nobody sees.
template <class S, class T>
FOLIO_DEVICE void load_columns(const Tile& tile, const T* page, int64_t stride, int start, int from, int size, bool vectors, float* to) {
  if (sizeof(T) == 4 && vectors) {
    for (int i = int(threadIdx.x); i < S::step * S::columns / 4; i += S::threads) {
      const int row = i / (S::columns / 4), column = i % (S::columns / 4) * 4, d = from + column;
      const bool take = d < size && wanted_by_some(tile, start + row);
      const float4 x = take ? ld_vec<float4>(page + (start % page_rows + row) * stride + d) : make_float4(0, 0, 0, 0);
      st_vec(to + row * S::pitch + column, x);
    }
    return;
  }
  for (int i = int(threadIdx.x); i < S::step * S::columns; i += S::threads) {
    const int row = i / S::columns, column = i % S::columns, d = from + column;
    const bool take = d < size && wanted_by_some(tile, start + row);
    to[row * S::pitch + column] = take ? number(element<T>(page, (start % page_rows + row) * stride), d) : 0;
  }
}

template <class S> FOLIO_DEVICE void take_queries(const Args& a, const Unit& unit, const typename S::Arrays& at) {
  for (int row = warp_id(); row < S::rows; row += S::threads / 32) {
    const bool real = unit.real(a, row);
    const float* q = a.q + unit.token(a, row) * a.q_token + unit.head_of(a, row) * a.q_head;
    for (int d = lane_id(); d < at.q_pitch; d += 32) at.q[row * at.q_pitch + d] = real && d < a.size ? ld_vec<float>(q + d) : 0;
    if (lane_id() == 0) at.limit[row] = real ? limits_of(a, unit.token(a, row)) : make_int4(0, 0, 0, 0);
  }
  for (int i = int(threadIdx.x); i < S::rows * a.width; i += S::threads) at.sums[i] = 0;
}

// Adds q·k over the columns in the tile.
template <class S> FOLIO_DEVICE void add_products(const typename S::Arrays& at, int from, float (&dot)[S::own][4]) {
  const int y = int(threadIdx.x) / 8, x = int(threadIdx.x) % 8;
#pragma unroll 4
  for (int d = 0; d < S::columns; d += 4) {
    float4 q[S::own];
#pragma unroll
    for (int i = 0; i < S::own; ++i) q[i] = ld_vec<float4>(at.q + (y + 16 * i) * at.q_pitch + from + d);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float4 k = ld_vec<float4>(at.tile + (x + 8 * j) * S::pitch + d);
#pragma unroll
      for (int i = 0; i < S::own; ++i) dot[i][j] += q[i].x * k.x + q[i].y * k.y + q[i].z * k.z + q[i].w * k.w;
    }
  }
}

// The logit in powers of two.
FOLIO_DEVICE float logit(const Args& a, float dot, float slope, int distance) {
  float x = dot * a.scale;
  if (a.softcap > 0) x = a.softcap * tanhf(x / a.softcap);
  return (x - slope * float(distance)) * log2_e;
}

// Turns dot products into weights, and keeps the running maximum and sum. Leaves in `turn` by how much older sums shrink.
template <class S>
FOLIO_DEVICE void weigh(const Args& a, const Unit& unit, const typename S::Arrays& at, int start, float (&dot)[S::own][4],
                        float (&m)[S::own], float (&l)[S::own], float (&turn)[S::own]) {
  const int y = int(threadIdx.x) / 8, x = int(threadIdx.x) % 8;
#pragma unroll
  for (int i = 0; i < S::own; ++i) {
    const int row = y + 16 * i;
    const int4 limit = at.limit[row];
    const float slope = a.slopes && unit.real(a, row) ? a.slopes[unit.head_of(a, row)] : 0;
    float most = m[i], sum = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int key = start + x + 8 * j;
      dot[i][j] = sees(limit, key) ? logit(a, dot[i][j], slope, limit.w - key) : nothing;
      most = max(most, dot[i][j]);
    }
    most = warp_max<8>(most);
    const float base = most == nothing ? 0 : most;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float p = exp2_fast(dot[i][j] - base);
      at.weight[row * S::weight_pitch + x + 8 * j] = p;
      sum += p;
    }
    turn[i] = exp2_fast(m[i] - base);
    m[i] = most;
    l[i] = l[i] * turn[i] + warp_sum<8>(sum);
  }
}

// Adds the weighted values of the columns in the tile to the sums.
template <class S> FOLIO_DEVICE void add_values(const Args& a, const typename S::Arrays& at, int from, const float (&turn)[S::own]) {
  const int y = int(threadIdx.x) / 8, x = int(threadIdx.x) % 8;
  float sum[S::own][8] = {};
#pragma unroll 4
  for (int key = 0; key < S::step; ++key) {
    const float4 low = ld_vec<float4>(at.tile + key * S::pitch + 8 * x), high = ld_vec<float4>(at.tile + key * S::pitch + 8 * x + 4);
    const float v[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int i = 0; i < S::own; ++i) {
      const float p = at.weight[(y + 16 * i) * S::weight_pitch + key];
#pragma unroll
      for (int c = 0; c < 8; ++c) sum[i][c] += p * v[c];
    }
  }
#pragma unroll
  for (int i = 0; i < S::own; ++i)
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      const int d = from + 8 * x + c;
      if (d >= a.width) continue;
      float& o = at.sums[(y + 16 * i) * a.width + d];
      o = o * turn[i] + sum[i][c];
    }
}

// One block of keys, whose page's rows of the group begin at k and v.
template <class S, class T>
FOLIO_DEVICE void one_block(const Args& a, const Unit& unit, const typename S::Arrays& at, int start, const T* k, const T* v,
                            float (&m)[S::own], float (&l)[S::own]) {
  float dot[S::own][4] = {}, turn[S::own];
  for (int from = 0; from < a.size; from += S::columns) {
    load_columns<S>(unit.tile, k, a.k_row, start, from, a.size, a.vectors, at.tile);
    block_sync();
    add_products<S>(at, from, dot);
    block_sync();
  }
  weigh<S>(a, unit, at, start, dot, m, l, turn);
  for (int from = 0; from < a.width; from += S::columns) {
    load_columns<S>(unit.tile, v, a.v_row, start, from, a.width, a.vectors, at.tile);
    block_sync();
    add_values<S>(a, at, from, turn);
    block_sync();
  }
}

template <class T, int Rows> static __global__ void __launch_bounds__(128, Rows == 16 ? 4 : 2) attend_any(const Args a) {
  using S = AnyShape<T, Rows>;
  Smem smem = Smem::here();
  const typename S::Arrays at = S::layout(smem, a.size, a.width);
  FOLIO_SHARED(Unit, at_work, [1]);   // there, because registers are short
  const Unit& unit = at_work[0];
  const int units = *a.units;
  for (int i = int(blockIdx.x); i < units; i += int(gridDim.x)) {
    if (threadIdx.x == 0) at_work[0] = unit_at(a, units, i);
    block_sync();
    float m[S::own], l[S::own] = {};
#pragma unroll
    for (int r = 0; r < S::own; ++r) m[r] = nothing;
    take_queries<S>(a, unit, at);
    block_sync();
    const int from = unit.first_block(), count = unit.blocks();
    for (int b = from; b < from + count; ++b) {
      const int start = first_key(unit.tile, S::step, b);
      const int64_t id = unit.page_id(a, start);
      if (id < 0) continue;
      one_block<S>(a, unit, at, start, element<T>(a.k, id * a.k_page + unit.group * a.k_group),
                   element<T>(a.v, id * a.v_page + unit.group * a.v_group), m, l);
    }
    if (threadIdx.x % 8 == 0)
#pragma unroll
      for (int r = 0; r < S::own; ++r) {
        const int row = int(threadIdx.x) / 8 + 16 * r;
        at.sums[sums_m(a) + row] = m[r];
        at.sums[sums_l(a) + row] = l[r];
      }
    finish(a, unit, at.sums, 1);
  }
}

}  // namespace folio::attention::any
