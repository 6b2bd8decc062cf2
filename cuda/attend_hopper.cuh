// SPDX-License-Identifier: MIT
// Attention of prompts on sm_90a over pools of f16 and bf16. What is multiplied, and how exact that is, is attend_mma.cuh's; here the
// warpgroups of a block have roles:
//
//   producer        one warp, to whom TMA brings a page's rows of one key group per stage, in boxes of 64 columns
//   two consumers   64 rows of the unit each: s = q·k from shared memory, o = p·v with the weights p in registers
//
//   order of the stages                  K0  K1 V0  K2 V1 ... Kn Vn−1  Vn
//   first consumer      s0 |softmax 0     |s1 o0|softmax 1     |s2 o1| ...        | | its turn at the tensor cores (after FlashAttention-3,
//   second consumer        |s0|softmax 0        |s1 o0|softmax 1     | ...          arXiv 2407.08608)
//
// So the products of one run under the softmax of the other, and a consumer's own p·v of a page under its softmax of the next. Turns are
// named barriers. Rows of a page that no token wants may hold anything: of keys their logits are thrown away, values are cleared by the
// producer before the consumers hear of them. Only pages at an edge have such rows, or rows that some token must not see.
//
// Up to 128 columns p·v of a page begins at 0 and is added in f32, as in attend_mma; beyond, registers do not suffice.
#pragma once
#include "cuda/attend_mma.cuh"
#include "cuda/lib/hopper.cuh"

namespace folio::attention::hopper {

template <class T, int D, int W> struct HopperShape {
  using Number = T;
  static constexpr bool half = std::is_same_v<T, f16>, fresh = W <= 128;
  static constexpr int size = D, width = W, consumer_rows = 64, rows = 2 * consumer_rows, crew = 256, threads = crew + 128;
  static constexpr int step = page_rows, own = step, terms = half ? 2 : 3, sums_pitch = W;
  static constexpr float lift = half ? 12 : 0;  // weights are 2^lift at most
  static constexpr int columns = 64, box = columns * step, k_boxes = (D + 63) / 64, v_boxes = (W + 63) / 64;
  static constexpr int stage = box * (k_boxes > v_boxes ? k_boxes : v_boxes), q_numbers = terms * k_boxes * rows * columns;
  static constexpr int room = ((220 << 10) / 2 - q_numbers) / stage, stages = room < 6 ? room : 6;
  static constexpr int many = W > 96 ? 240 : 232, few = 504 - 2 * many;  // registers: 3 · 168 go round, wide sums leave the producer 24
  static constexpr Swizzle swizzle = Swizzle::bytes128;
  static_assert(D % 16 == 0 && W % 8 == 0 && stages >= 3);

  struct Arrays {
    T *q, *keys;      // [terms, k_boxes, rows, columns] swizzled, [stages, stage]
    int4* limit;      // [rows]
    float2* factor;   // [rows]
    uint64_t *full, *empty, *loaded;  // [stages] twice; of values that are to be cleared
  };
  __host__ __device__ static Arrays layout(Smem& smem) {
    return {smem.take<T>(q_numbers, 1024),    smem.take<T>(stages * stage, 1024), smem.take<int4>(rows), smem.take<float2>(rows),
            smem.take<uint64_t>(stages), smem.take<uint64_t>(stages),        smem.take<uint64_t>(1)};
  }
  FOLIO_DEVICE static T* query(const Arrays& at, int term, int row, int d) {
    return at.q + swizzled128(uint32_t(((term * k_boxes + d / columns) * rows + row) * columns + d % columns) * 2) / 2;
  }
};

struct PoolMaps {
  TensorMap k, v;  // [N, 64, G, D]
};

// The blocks of a unit that have a page, one after the other.
struct Blocks {
  int b, end, start = 0, page = 0;
  FOLIO_DEVICE explicit Blocks(const Unit& unit) : b(unit.first_block()), end(b + unit.blocks()) {}
  FOLIO_DEVICE bool next(const Args& a, const Unit& unit) {
    while (b < end) {
      start = first_key(unit.tile, page_rows, b++);
      page = unit.page_id(a, start);
      if (page >= 0) return true;
    }
    return false;
  }
};

// --- The producer: the first lane of a warp, and all of them where values are cleared.

template <class S> struct Producer {
  const typename S::Arrays& at;
  Ring<S::stages> ring;
  unsigned loads = 0;  // parity of `loaded`

  // Begins to copy a page's rows of the group into the ring's stage.
  template <int Boxes> FOLIO_DEVICE void load(const TensorMap& map, int group, int page, uint64_t* barrier) {
    if (lane_id() > 0) return;
    mbarrier_wait(at.empty + ring.stage, ring.parity ^ 1);
    mbarrier_expect(barrier, Boxes * S::box * 2);
#pragma unroll
    for (int i = 0; i < Boxes; ++i) tma_load(at.keys + ring.stage * S::stage + i * S::box, map, barrier, {i * S::columns, group, 0, page});
  }
  FOLIO_DEVICE void keys(const TensorMap& map, const Unit& unit, int page) {
    load<S::k_boxes>(map, unit.group, page, at.full + ring.stage);
    ring.next();
  }
  FOLIO_DEVICE void values(const TensorMap& map, const Unit& unit, int page, int start) {
    const bool whole = start + S::step <= unit.tile.sink || (start >= unit.tile.low && start + S::step <= unit.tile.high);
    load<S::v_boxes>(map, unit.group, page, whole ? at.full + ring.stage : at.loaded);
    if (!whole) {
      mbarrier_wait(at.loaded, loads);
      loads ^= 1;
      typename S::Number* const rows = at.keys + ring.stage * S::stage;
      for (int i = lane_id(); i < S::v_boxes * S::box / 8; i += 32)  // eight times 16 bytes make a row of a box, however swizzled
        if (!wanted_by_some(unit.tile, start + i / 8 % S::step)) st_vec(rows + 8 * i, make_uint4(0, 0, 0, 0));
      fence_async_proxy();
      __syncwarp();
      if (lane_id() == 0) mbarrier_arrive(at.full + ring.stage);
    }
    ring.next();
  }
};

template <class S> FOLIO_DEVICE void bring_pages(const Args& a, const PoolMaps& maps, const typename S::Arrays& at, int units, Unit& unit) {
  Producer<S> producer{at, {}};
  for (int i = int(blockIdx.x); i < units; i += int(gridDim.x)) {
    __syncwarp();
    if (lane_id() == 0) unit = unit_at(a, units, i);
    __syncwarp();
    Blocks blocks(unit);
    int page = -1, start = 0;  // of the block before, whose values come after the keys of this one
    while (blocks.next(a, unit)) {
      producer.keys(maps.k, unit, blocks.page);
      if (page >= 0) producer.values(maps.v, unit, page, start);
      page = blocks.page;
      start = blocks.start;
    }
    if (page >= 0) producer.values(maps.v, unit, page, start);
  }
}

// --- The consumers.

FOLIO_DEVICE void crew_sync() { named_barrier_sync(3, 256); }
// The turns at the tensor cores: each consumer has a barrier, at which the other arrives when it has issued its products.
FOLIO_DEVICE void take_turn(int me) { named_barrier_sync(1 + me, 256); }
FOLIO_DEVICE void give_turn(int me) { named_barrier_arrive(2 - me, 256); }

template <class S> struct Consumer {
  using T = typename S::Number;
  static constexpr int numbers = S::width / 2;
  const Args& a;
  const Unit& unit;
  const typename S::Arrays& at;
  const int me, row;                    // row: the thread's first
  Ring<S::stages> ring;                 // where it is among the stages
  mma::Sums<S> sums;
  mma::Weights<S> p;
  float s[S::own / 8][4], part[S::fresh ? numbers : 1], turn[2];

  FOLIO_DEVICE float (&scores())[S::own / 2] { return reinterpret_cast<float(&)[S::own / 2]>(s); }
  FOLIO_DEVICE float (&product())[numbers] {  // where p·v goes
    if constexpr (S::fresh) return part;
    else return reinterpret_cast<float(&)[numbers]>(sums.o);
  }
  FOLIO_DEVICE void wait_full() const { mbarrier_wait(at.full + ring.stage, ring.parity); }
  FOLIO_DEVICE void release(int stage) const {
    if (lane_id() == 0) mbarrier_arrive(at.empty + stage);
  }

  // s = q·k of the page in the ring's stage; small terms of q first.
  FOLIO_DEVICE void issue_scores() {
    constexpr unsigned k_box = S::box * 2, q_box = S::rows * S::columns * 2;
    const uint64_t q = wgmma_descriptor(at.q + me * S::consumer_rows * S::columns, 0, 1024, S::swizzle);
    const uint64_t k = wgmma_descriptor(at.keys + ring.stage * S::stage, 0, 1024, S::swizzle);
    wgmma_pin(scores());
    wgmma_fence();
#pragma unroll
    for (int d = 0; d < S::size; d += 16)
#pragma unroll
      for (int term = S::terms - 1; term >= 0; --term)
        wgmma<Major::k, Major::k, T>(scores(), wgmma_step(q, (term * S::k_boxes + d / S::columns) * q_box + d % S::columns * 2),
                                     wgmma_step(k, d / S::columns * k_box + d % S::columns * 2), d > 0 || term < S::terms - 1);
    wgmma_commit();
  }
  // p·v of the page in the ring's stage, by itself or added to the sums.
  FOLIO_DEVICE void issue_values() {
    const uint64_t v = wgmma_descriptor(at.keys + ring.stage * S::stage, S::box * 2, 1024, S::swizzle);
    wgmma_pin(product());
    wgmma_fence();
#pragma unroll
    for (int n = 0; n < S::own / 16; ++n) {
      wgmma<Major::mn, T>(product(), p.low[n], wgmma_step(v, n * 16 * S::columns * 2), !S::fresh || n > 0);
      wgmma<Major::mn, T>(product(), p.high[n], wgmma_step(v, n * 16 * S::columns * 2), true);
    }
    wgmma_commit();
  }
  // The sums of the pages before shrink as the maximum has grown, and what p·v was by itself is added.
  FOLIO_DEVICE void shrink() {
#pragma unroll
    for (int i = 0; i < numbers; ++i) {
      float& o = sums.o[i / 4][i % 4];
      o *= turn[i % 4 / 2];
      if constexpr (S::fresh) o += part[i];
    }
  }

  FOLIO_DEVICE void first_page(int start) {
    wait_full();
    take_turn(me);
    issue_scores();
    give_turn(me);
    wgmma_wait<0>();
    wgmma_pin(scores());
    release(ring.stage);
    ring.next();
    mma::logits<S>(a, at, row, start, s);
    mma::weigh<S>(s, sums, turn);
    mma::split<S>(s, p);
  }
  // Scores of the page at `start`, and p·v of the page before.
  FOLIO_DEVICE void next_page(int start) {
    const int keys = ring.stage;
    wait_full();
    take_turn(me);
    issue_scores();
    ring.next();
    wait_full();
    issue_values();
    give_turn(me);
    wgmma_wait<1>();
    wgmma_pin(scores());
    release(keys);
    float next[2];
    mma::logits<S>(a, at, row, start, s);
    mma::weigh<S>(s, sums, next);
    wgmma_wait<0>();
    wgmma_pin(product());
    release(ring.stage);
    ring.next();
    if constexpr (S::fresh) shrink();
    turn[0] = next[0], turn[1] = next[1];
    if constexpr (!S::fresh) shrink();
    mma::split<S>(s, p);
  }
  FOLIO_DEVICE void last_values() {
    wait_full();
    take_turn(me);
    issue_values();
    give_turn(me);
    wgmma_wait<0>();
    wgmma_pin(product());
    release(ring.stage);
    ring.next();
    if constexpr (S::fresh) shrink();
  }
  FOLIO_DEVICE void walk() {
    sums = {};
    sums.m[0] = sums.m[1] = nothing;
    Blocks blocks(unit);
    if (!blocks.next(a, unit)) return;
    first_page(blocks.start);
    while (blocks.next(a, unit)) next_page(blocks.start);
    last_values();
  }

  // Writes results, or sums of a part of the keys to its slot.
  FOLIO_DEVICE void put(float* slot) const {
    const int column = lane_id() % 4 * 2;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int r = row + 8 * h;
      float sum = warp_sum<4>(sums.l[h]), most = sums.m[h] == nothing ? nothing : sums.m[h] - S::lift;
      if (!unit.real(a, r)) continue;
      const int64_t t = unit.token(a, r), head = unit.head_of(a, r);
      const float turn = slot ? 1 : join_sink(a, unit, head, most, sum);
      float* const o = slot ? slot + r * S::sums_pitch : a.o + t * a.o_token + head * a.o_head;
#pragma unroll
      for (int n = 0; n < S::width / 4; ++n) {
        const int d = n / 2 * 8 + column + n % 2;
        const float x = sums.o[n / 2][2 * h + n % 2];
        if (d < a.width) st_vec(o + d, slot ? x : sum == 0 ? 0.0f : x * turn / sum);
      }
      if (column > 0) continue;
      if (slot) st_vec(slot + sums_m(a) + r, most), st_vec(slot + sums_l(a) + r, sum);
      else st_vec(a.lse + t * a.lse_token + head, sum == 0 ? nothing : most * ln_2 + logf(sum));
    }
  }
};

template <class S> FOLIO_DEVICE void attend_units(const Args& a, const typename S::Arrays& at, int me, int units, Unit& unit) {
  Consumer<S> consumer{a, unit, at, me, warp_id() * 16 + lane_id() / 4};
  if (me == 1) give_turn(me);  // the first one begins
  for (int i = int(blockIdx.x); i < units; i += int(gridDim.x)) {
    crew_sync();  // all are through with the unit before
    if (threadIdx.x == 0) unit = unit_at(a, units, i);
    crew_sync();
    mma::take_queries<S>(a, unit, at);
    fence_async_proxy();
    crew_sync();
    consumer.walk();
    if (unit.tile.parts == 1) {
      consumer.put(nullptr);
    } else {
      float* const slots = a.slots + (int64_t(unit.tile.slot) * a.slices + unit.slice) * a.slot_floats;
      const int64_t next = a.slices * a.slot_floats;
      consumer.put(slots + unit.part * next);
      if (is_last(a.tickets + unit.tile.ticket * a.slices + unit.slice, unsigned(unit.tile.parts), crew_sync))
        fold(a, unit, slots, next, unit.tile.parts, nullptr, S::crew);
    }
  }
  if (me == 0) take_turn(me);  // the turn that was given last
}

template <class S>
static __global__ void __launch_bounds__(S::threads, 1) attend_hopper(const Args a, const __grid_constant__ PoolMaps maps) {
#if FOLIO_SM90
  Smem smem = Smem::here();
  const typename S::Arrays at = S::layout(smem);
  FOLIO_SHARED(Unit, at_work, [2]);  // the consumers', the producer's
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::stages; ++i) mbarrier_init(at.full + i, 1), mbarrier_init(at.empty + i, S::crew / 32);
    mbarrier_init(at.loaded, 1);
    mbarrier_init_fence();
  }
  block_sync();
  const int units = *a.units, group = warpgroup_id();
  if (group == 2) {
    registers_give<S::few>();
    if (warp_id() == S::crew / 32) bring_pages<S>(a, maps, at, units, at_work[1]);
  } else {
    registers_take<S::many>();
    attend_units<S>(a, at, group, units, at_work[0]);
  }
#endif
}

}  // namespace folio::attention::hopper
