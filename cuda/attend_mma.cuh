// SPDX-License-Identifier: MIT
// Attention on tensor cores (mma.sync, sm_80 and up) over pools of f16 and bf16, as exact as f32 arithmetic. Keys and values are
// multiplied as they are; the queries and the softmax's weights, which are f32, as sums of 16-bit terms:
//
//   pools   q·k                      p·v                 what is lost
//   f16     2 terms, 22 bits of q    2 terms             2^-22; q is brought near 2^10 first, p to 2^12 and less: nothing underflows
//   bf16    3 terms, all of q        2 terms, 16 bits    2^-17 of a weight, without a lean
//
// So two or three instructions stand where one would do if 16 bits were enough. Products of one block of keys are summed by the tensor
// core, which truncates; blocks are joined by f32 additions, which round: a long text adds no lean. (Not so above 192 columns: there
// the tensor core adds to the sums of the blocks before.)
//
// RowWarps · KeyWarps warps: each has 16 rows of the unit, and of every block of Step keys its own Step / KeyWarps, with a softmax of
// its own; finish() folds those. A prompt's units have many rows, decoding has few rows and many warps on the keys. Blocks come by
// cp.async, the next one while this one is worked on. Rows in shared memory are padded by 16 bytes: ldmatrix meets no bank conflict.
#pragma once
#include <type_traits>

#include "cuda/attend_plan.cuh"

namespace folio::attention::mma {

template <class T, int D, int W, int RowWarps, int KeyWarps, int Step> struct MmaShape {
  using Number = T;
  static constexpr bool half = std::is_same_v<T, f16>;
  static constexpr int size = D, width = W, key_warps = KeyWarps, rows = 16 * RowWarps, threads = 32 * RowWarps * KeyWarps, crew = threads;
  static constexpr int step = Step, own = Step / KeyWarps, terms = half ? 2 : 3;
  static constexpr int k_pitch = D + 8, v_pitch = W + 8, stage = Step * (k_pitch + v_pitch), sums_pitch = W + 4;
  static constexpr bool fresh = W <= 192;        // sums of a block begin at 0; beyond, registers do not suffice
  static constexpr float lift = half ? 12 : 0;   // weights are 2^lift at most
  static_assert(D % 16 == 0 && W % 16 == 0 && own % 16 == 0 && page_rows % Step == 0);
  static_assert(int64_t(KeyWarps) * rows * (sums_pitch + 2) * 4 <= 2 * stage * 2, "the sums lie where the keys were");

  struct Arrays {
    T *q, *keys;      // [terms, rows, k_pitch], [2, stage]
    int4* limit;      // [rows]
    float2* factor;   // [rows]  what a dot product is multiplied with, and the slope
  };
  __host__ __device__ static Arrays layout(Smem& smem) {
    return {smem.take<T>(terms * rows * k_pitch), smem.take<T>(2 * stage), smem.take<int4>(rows), smem.take<float2>(rows)};
  }
  FOLIO_DEVICE static T* query(const Arrays& at, int term, int row, int d) { return at.q + (term * rows + row) * k_pitch + d; }
};

template <class S> FOLIO_DEVICE uint32_t pack(float low, float high) {
  if constexpr (S::half) return pack_f16(low, high);
  else return pack_bf16(low, high);
}
template <class S> FOLIO_DEVICE float2 unpack(uint32_t pair) {
  if constexpr (S::half) return unpack_f16(pair);
  else return unpack_bf16(pair);
}
template <class S> FOLIO_DEVICE void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t b[2] = {b0, b1};
  if constexpr (S::half) mma_f16(d, a, b);
  else mma_bf16(d, a, b);
}

// The power of two that brings `most` to 2^10 .. 2^11, within what f16 holds; 1 for 0, infinity and NaN.
FOLIO_DEVICE float lift_of(float most) {
  const int exponent = int(__float_as_uint(most) >> 23);
  return exponent == 0 || exponent >= 255 ? 1.0f : __uint_as_float(uint32_t(min(264 - exponent, 227)) << 23);
}

// Writes the unit's queries as terms, zeros for rows that are none, and what its rows see.
template <class S> FOLIO_DEVICE void take_queries(const Args& a, const Unit& unit, const typename S::Arrays& at) {
  constexpr int pairs = (S::size + 63) / 64;
  for (int row = warp_id(); row < S::rows; row += S::crew / 32) {
    const bool real = unit.real(a, row);
    const float* q = a.q + unit.token(a, row) * a.q_token + unit.head_of(a, row) * a.q_head;
    float2 x[pairs];
    float most = 0;
#pragma unroll
    for (int i = 0; i < pairs; ++i) {
      const int d = 64 * i + 2 * lane_id();
      x[i] = real && d < a.size ? make_float2(ld_vec<float>(q + d), ld_vec<float>(q + d + 1)) : make_float2(0, 0);
      most = max(most, max(fabsf(x[i].x), fabsf(x[i].y)));
    }
    const float lift = S::half ? lift_of(warp_max(most)) : 1.0f;
#pragma unroll
    for (int i = 0; i < pairs; ++i) {
      const int d = 64 * i + 2 * lane_id();
      x[i] = make_float2(x[i].x * lift, x[i].y * lift);
#pragma unroll
      for (int term = 0; term < S::terms; ++term) {
        const uint32_t word = pack<S>(x[i].x, x[i].y);
        if (d < S::size) st_vec(S::query(at, term, row, d), word);
        const float2 taken = unpack<S>(word);
        x[i] = make_float2(x[i].x - taken.x, x[i].y - taken.y);
      }
    }
    if (lane_id() == 0) {   // rows that are none see all, so that they never call for a mask
      at.limit[row] = real ? limits_of(a, unit.token(a, row)) : make_int4(0, 0, 1 << 30, 0);
      at.factor[row] = make_float2(a.scale * (a.softcap > 0 ? 1 : log2_e) / lift,
                                   real && a.slopes ? a.slopes[unit.head_of(a, row)] * log2_e : 0);
    }
  }
}

// Begins to copy the keys and values of a block into a stage; zeros for what is not there or nobody sees.
template <class S> FOLIO_DEVICE void load_block(const Args& a, const Unit& unit, int start, int64_t id, typename S::Number* stage) {
  using T = typename S::Number;
  const int64_t page = max(id, int64_t(0));
  const T* k = static_cast<const T*>(a.k) + page * a.k_page + unit.group * a.k_group + start % page_rows * a.k_row;
  const T* v = static_cast<const T*>(a.v) + page * a.v_page + unit.group * a.v_group + start % page_rows * a.v_row;
#pragma unroll 4
  for (int i = int(threadIdx.x); i < S::step * (S::size / 8); i += S::threads) {
    const int row = i / (S::size / 8), d = i % (S::size / 8) * 8;
    cp_async<16>(stage + row * S::k_pitch + d, k + row * a.k_row + d, id >= 0 && d < a.size && wanted_by_some(unit.tile, start + row));
  }
  stage += S::step * S::k_pitch;
#pragma unroll 4
  for (int i = int(threadIdx.x); i < S::step * (S::width / 8); i += S::threads) {
    const int row = i / (S::width / 8), d = i % (S::width / 8) * 8;
    cp_async<16>(stage + row * S::v_pitch + d, v + row * a.v_row + d, id >= 0 && d < a.width && wanted_by_some(unit.tile, start + row));
  }
  cp_async_commit();
}

// What a warp carries from block to block: of its rows g and g + 8 (g = lane / 4) the columns of fragment D of mma.
template <class S> struct Sums {
  float o[S::width / 8][4], m[2], l[2];
};

// s = q·k of the warp's 16 rows and its own keys.
template <class S>
FOLIO_DEVICE void products(const typename S::Number* q, const typename S::Number* keys, float (&s)[S::own / 8][4]) {
  const int lane = lane_id();
#pragma unroll
  for (int n = 0; n < S::own / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) s[n][i] = 0;
#pragma unroll
  for (int d = 0; d < S::size; d += 16) {
    uint32_t x[S::terms][4];
#pragma unroll
    for (int term = 0; term < S::terms; ++term)
      ldmatrix(x[term], q + (term * S::rows + lane % 16) * S::k_pitch + d + lane / 16 * 8);
#pragma unroll
    for (int n = 0; n < S::own / 16; ++n) {
      uint32_t k[4];
      ldmatrix(k, keys + (n * 16 + lane / 16 * 8 + lane % 8) * S::k_pitch + d + lane / 8 % 2 * 8);
#pragma unroll
      for (int term = S::terms - 1; term >= 0; --term) {
        multiply<S>(s[2 * n], x[term], k[0], k[1]);
        multiply<S>(s[2 * n + 1], x[term], k[2], k[3]);
      }
    }
  }
}

// Dot products of the keys from `start` on become logits in powers of two, −∞ for what a row does not see.
template <class S>
FOLIO_DEVICE void logits(const Args& a, const typename S::Arrays& at, int row, int start, float (&s)[S::own / 8][4]) {
  const int t = lane_id() % 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int4 limit = at.limit[row + 8 * h];
    const float2 factor = at.factor[row + 8 * h];
    if (a.softcap > 0) {
#pragma unroll
      for (int n = 0; n < S::own / 4; ++n) {
        float& x = s[n / 2][2 * h + n % 2];
        x = a.softcap * log2_e * tanhf(x * factor.x / a.softcap);
      }
    } else {
#pragma unroll
      for (int n = 0; n < S::own / 4; ++n) s[n / 2][2 * h + n % 2] *= factor.x;
    }
    const bool all = limit.y <= start && start + S::own <= limit.z;
    if (all && factor.y == 0) continue;
#pragma unroll
    for (int n = 0; n < S::own / 4; ++n) {
      const int key = start + n / 2 * 8 + 2 * t + n % 2;
      float& x = s[n / 2][2 * h + n % 2];
      x = all || sees(limit, key) ? x - factor.y * float(limit.w - key) : nothing;
    }
  }
}

// Logits become weights; `turn` is by how much older sums shrink.
template <class S> FOLIO_DEVICE void weigh(float (&s)[S::own / 8][4], Sums<S>& sums, float (&turn)[2]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float most = sums.m[h], sum = 0;
#pragma unroll
    for (int n = 0; n < S::own / 4; ++n) most = max(most, s[n / 2][2 * h + n % 2]);
    most = warp_max<4>(most);
    const float base = most == nothing ? 0 : most;
#pragma unroll
    for (int n = 0; n < S::own / 4; ++n) {
      float& x = s[n / 2][2 * h + n % 2];
      x = exp2_fast(x - base + S::lift);
      sum += x;
    }
    turn[h] = exp2_fast(sums.m[h] - base);
    sums.m[h] = most;
    sums.l[h] = sums.l[h] * turn[h] + sum;   // of this lane's keys
  }
}

// Weights as a high and a low term, in fragments of 16 keys: fragment D of two neighbouring 8 keys is fragment A of 16.
template <class S> struct Weights {
  uint32_t high[S::own / 16][4], low[S::own / 16][4];
};
template <class S> FOLIO_DEVICE void split(const float (&s)[S::own / 8][4], Weights<S>& p) {
#pragma unroll
  for (int n = 0; n < S::own / 4; ++n) {
    const float x = s[n / 2][n % 2 * 2], y = s[n / 2][n % 2 * 2 + 1];
    p.high[n / 4][n % 4] = pack<S>(x, y);
    const float2 taken = unpack<S>(p.high[n / 4][n % 4]);
    p.low[n / 4][n % 4] = pack<S>(x - taken.x, y - taken.y);
  }
}

// Adds p·v.
template <class S>
FOLIO_DEVICE void add_values(const float (&s)[S::own / 8][4], const typename S::Number* values, const float (&turn)[2], Sums<S>& sums) {
  const int lane = lane_id();
  Weights<S> p;
  split<S>(s, p);
#pragma unroll
  for (int d = 0; d < S::width / 16; ++d) {
    float part[2][4];
#pragma unroll
    for (int i = 0; i < 8; ++i) part[i / 4][i % 4] = S::fresh ? 0 : sums.o[2 * d + i / 4][i % 4] * turn[i % 4 / 2];
#pragma unroll
    for (int n = 0; n < S::own / 16; ++n) {
      uint32_t v[4];
      ldmatrix_transposed(v, values + (n * 16 + lane % 16) * S::v_pitch + d * 16 + lane / 16 * 8);
      multiply<S>(part[0], p.low[n], v[0], v[1]);
      multiply<S>(part[1], p.low[n], v[2], v[3]);
      multiply<S>(part[0], p.high[n], v[0], v[1]);
      multiply<S>(part[1], p.high[n], v[2], v[3]);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float& o = sums.o[2 * d + i / 4][i % 4];
      o = S::fresh ? o * turn[i % 4 / 2] + part[i / 4][i % 4] : part[i / 4][i % 4];
    }
  }
}

// The unit's blocks, one after the other.
template <class S> FOLIO_DEVICE void walk(const Args& a, const Unit& unit, const typename S::Arrays& at, Sums<S>& sums) {
  const int row = warp_id() / S::key_warps * 16, own = warp_id() % S::key_warps * S::own;
  int b = unit.first_block(), start = 0, id = -1;
  const int end = b + unit.blocks();
  if (b < end) {
    start = first_key(unit.tile, S::step, b);
    id = unit.page_id(a, start);
    load_block<S>(a, unit, start, id, at.keys);
  }
  for (int turn_of = 0; b < end; ++b, turn_of ^= 1) {
    const typename S::Number* stage = at.keys + turn_of * S::stage;
    int next_start = 0, next_id = -1;
    if (b + 1 < end) {
      next_start = first_key(unit.tile, S::step, b + 1);
      next_id = unit.page_id(a, next_start);
      load_block<S>(a, unit, next_start, next_id, at.keys + (turn_of ^ 1) * S::stage);
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    block_sync();
    if (id >= 0) {
      float s[S::own / 8][4], turn[2];
      products<S>(at.q + row * S::k_pitch, stage + own * S::k_pitch, s);
      logits<S>(a, at, row + lane_id() / 4, start + own, s);
      weigh<S>(s, sums, turn);
      add_values<S>(s, stage + S::step * S::k_pitch + own * S::v_pitch, turn, sums);
    }
    block_sync();   // before the next but one arrives in this stage
    start = next_start;
    id = next_id;
  }
}

// Leaves the warp's sums in shared memory, in the layout of fold().
template <class S> FOLIO_DEVICE void put_down(const Sums<S>& sums, float* to) {
  constexpr int m = S::rows * S::sums_pitch, l = m + S::rows;
  to += warp_id() % S::key_warps * (l + S::rows);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = warp_id() / S::key_warps * 16 + lane_id() / 4 + 8 * h;
    const float sum = warp_sum<4>(sums.l[h]);
    if (lane_id() % 4 == 0) {
      to[m + row] = sums.m[h] == nothing ? nothing : sums.m[h] - S::lift;
      to[l + row] = sum;
    }
#pragma unroll
    for (int n = 0; n < S::width / 8; ++n)
      st_vec(to + row * S::sums_pitch + n * 8 + lane_id() % 4 * 2, make_float2(sums.o[n][2 * h], sums.o[n][2 * h + 1]));
  }
}

template <class S> static __global__ void __launch_bounds__(S::threads, S::size <= 128 ? 2 : 1) attend_mma(const Args a) {
  Smem smem = Smem::here();
  const typename S::Arrays at = S::layout(smem);
  FOLIO_SHARED(Unit, at_work, [1]);   // there, because registers are short
  const Unit& unit = at_work[0];
  const int units = *a.units;
  for (int i = int(blockIdx.x); i < units; i += int(gridDim.x)) {
    if (threadIdx.x == 0) at_work[0] = unit_at(a, units, i);
    block_sync();
    Sums<S> sums;
#pragma unroll
    for (int n = 0; n < S::width / 2; ++n) sums.o[n / 4][n % 4] = 0;
    sums.m[0] = sums.m[1] = nothing;
    sums.l[0] = sums.l[1] = 0;
    take_queries<S>(a, unit, at);   // the first barrier of walk() shows them to all warps
    walk<S>(a, unit, at, sums);
    float* left = reinterpret_cast<float*>(at.keys);
    put_down<S>(sums, left);
    finish(a, unit, left, S::key_warps);
  }
}

}  // namespace folio::attention::mma
