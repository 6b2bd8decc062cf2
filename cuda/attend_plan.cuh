// SPDX-License-Identifier: MIT
// What all attention kernels share: how the work is cut up, on the device, and how sums over parts of the keys become the result.
//
//   tokens of the step   a a a a a a a | b | c | − −       tile    neighbours of one sequence, up to `tile_tokens` (− padding)
//   keys of a tile       [sinks)   [low ........ high)     block   `step` keys at a multiple of `step`; those without keys are left out
//                         0 0 0     1 1 1 2 2 2 3 3 3      part    consecutive blocks of a tile, all parts of it about equal
//
// A unit is one part of one tile for up to `share` heads of one key group: `rows` rows (token, head) that read the same keys. Grids
// are known from the shapes; how many units there are and which keys each reads, make_plan() finds out from seq, pos and length.
// A tile is split where its blocks are more than a fair share of all, total · fair: so less than 2 / fair parts of a slice need a slot,
// however long the texts. The block that finishes the last part of a tile folds all of them, in ascending order: the same bits in every run.
#pragma once
#include "cuda/lib/kernel.cuh"

namespace folio::attention {

inline constexpr int page_rows = 64;          // tokens of a page
inline constexpr int plan_threads = 256;
inline constexpr float nothing = -INFINITY;
inline constexpr float log2_e = 1.44269504f, ln_2 = 0.693147181f;

struct Tile {
  int first, count, seq;      // tokens of the step
  int sink, low, high;        // keys that some token sees are in [0, sink) and [low, high)
  int blocks, unit, parts;    // its units are unit .. unit + parts − 1, for each slice of heads
  int slot, ticket;           // of a split tile
};

// The op and its plan, as kernels see them. Strides are in elements.
struct Args {
  const float* q;
  const void *k, *v;
  const int *page, *seq, *pos, *length;
  const float *slopes, *sink;
  float *o, *lse;
  int64_t q_token, q_head, k_page, k_row, k_group, v_page, v_row, v_group, page_seq, o_token, o_head, lse_token;
  float scale, softcap;
  int window, sinks;
  bool causal, vectors;             // vectors: the pools allow 16-byte loads
  int tokens, heads, size, width;   // heads of a group
  int capacity;                     // keys that a sequence's pages can hold
  int share, chunks, slices;        // heads of a unit, units that a group's heads need, chunks · groups
  int rows, pitch, tile_tokens;     // pitch: floats from row to row of the sums in shared memory and in slots
  int step, least;                  // least: blocks of a part at the least
  float fair;                       // share of all blocks that a part may have, rounded up
  int64_t slot_floats;
  int* units;                       // [1] how many, of each slice
  int* unit_tile;                   // [units] whose it is
  Tile* tiles;
  unsigned* tickets;                // [split tiles, slices]
  float* slots;                     // [slots, slices, slot_floats]
};

// Keys of a token: x sinks, y first, z end, w its position.
FOLIO_DEVICE int4 limits_of(const Args& a, int t) {
  const int b = a.seq[t];
  if (b < 0) return make_int4(0, 0, 0, 0);
  const int p = a.pos[t], end = max(0, min(a.causal ? p + 1 : a.length[b], a.capacity));
  const int first = a.window > 0 ? min(max(0, p - a.window + 1), end) : 0;
  return make_int4(min(a.window > 0 ? a.sinks : 0, first), first, end, p);
}
FOLIO_DEVICE bool sees(int4 limits, int key) { return key < limits.x || (key >= limits.y && key < limits.z); }

// Blocks 0 .. sink_blocks − 1 hold sinks; those from low_block on the rest.
FOLIO_DEVICE int sink_blocks(const Tile& tile, int step) { return (tile.sink + step - 1) / step; }
FOLIO_DEVICE int low_block(const Tile& tile, int step) { return max(tile.low / step, sink_blocks(tile, step)); }
FOLIO_DEVICE int first_key(const Tile& tile, int step, int i) {
  const int sinks = sink_blocks(tile, step);
  return (i < sinks ? i : low_block(tile, step) + i - sinks) * step;
}
// Other rows of a page may hold anything, NaN for one: they are never read.
FOLIO_DEVICE bool wanted_by_some(const Tile& tile, int key) { return key < tile.sink || (key >= tile.low && key < tile.high); }

// Inclusive scan over the block; `total` is the last thread's. Every thread calls.
template <class F> FOLIO_DEVICE int block_scan(int v, int& total, F join) {
  FOLIO_SHARED(int, part, [32]);
  for (int by = 1; by < 32; by *= 2) {
    const int other = __shfl_up_sync(all_lanes, v, by);
    if (lane_id() >= by) v = join(v, other);
  }
  if (lane_id() == 31) part[warp_id()] = v;
  block_sync();
  total = part[0];
  for (int w = 1; w < int(blockDim.x / 32); ++w) {
    if (w == warp_id()) v = join(v, total);
    total = join(total, part[w]);
  }
  block_sync();
  return v;
}
FOLIO_DEVICE int scan_sum(int v, int& total) { return block_scan(v, total, [](int x, int y) { return x + y; }); }
FOLIO_DEVICE int scan_max(int v, int& total) { return block_scan(v, total, [](int x, int y) { return max(x, y); }); }

// Writes where tiles begin; returns their number.
FOLIO_DEVICE int cut_tiles(const Args& a) {
  int begin = 0, count = 0;
  for (int base = 0; base < a.tokens; base += plan_threads) {
    const int t = base + int(threadIdx.x);
    const bool in = t < a.tokens, starts = in && (t == 0 || a.seq[t] != a.seq[t - 1]);
    int last, heads;
    const int mine = max(begin, scan_max(starts ? t : 0, last));
    const bool head = in && (t - mine) % a.tile_tokens == 0;
    const int at = count + scan_sum(head, heads) - 1;
    if (head) a.tiles[at].first = t;
    begin = max(begin, last);
    count += heads;
  }
  block_sync();
  return count;
}

FOLIO_DEVICE void measure(const Args& a, int i, int tiles) {
  Tile tile = {};
  tile.first = a.tiles[i].first;
  tile.count = (i + 1 < tiles ? a.tiles[i + 1].first : a.tokens) - tile.first;
  tile.seq = a.seq[tile.first];
  tile.low = a.capacity;
  for (int t = tile.first; t < tile.first + tile.count; ++t) {
    const int4 keys = limits_of(a, t);
    tile.sink = max(tile.sink, keys.x);
    tile.low = min(tile.low, keys.y);
    tile.high = max(tile.high, keys.z);
  }
  const int last = (tile.high + a.step - 1) / a.step;
  tile.blocks = tile.seq < 0 ? 0 : sink_blocks(tile, a.step) + max(0, last - low_block(tile, a.step));
  a.tiles[i].count = tile.count;
  a.tiles[i].seq = tile.seq;
  a.tiles[i].sink = tile.sink;
  a.tiles[i].low = tile.low;
  a.tiles[i].high = tile.high;
  a.tiles[i].blocks = tile.blocks;
}

// One block of plan_threads.
[[maybe_unused]] static __global__ void __launch_bounds__(plan_threads) make_plan(const Args a) {
  const int me = int(threadIdx.x), tiles = cut_tiles(a);
  int64_t total = 0;
  for (int i = me; i < tiles; i += plan_threads) {
    measure(a, i, tiles);
    total += a.tiles[i].blocks;
  }
  total = block_sum(total);
  const int fair = max(a.least, int(float(total) * a.fair) + 1);
  int units = 0, slots = 0, tickets = 0;
  for (int base = 0; base < tiles; base += plan_threads) {
    const int i = base + me, parts = i < tiles ? max(1, (a.tiles[i].blocks + fair - 1) / fair) : 0;
    int more_units, more_slots, more_tickets;
    const int unit = units + scan_sum(parts, more_units) - parts;
    const int slot = slots + scan_sum(parts > 1 ? parts : 0, more_slots) - parts;
    const int ticket = tickets + scan_sum(parts > 1, more_tickets) - 1;
    if (i < tiles) {
      a.tiles[i].unit = unit;
      a.tiles[i].parts = parts;
      a.tiles[i].slot = slot;
      a.tiles[i].ticket = ticket;
      for (int p = 0; p < parts; ++p) a.unit_tile[unit + p] = i;
    }
    units += more_units;
    slots += more_slots;
    tickets += more_tickets;
  }
  for (int i = me; i < tickets * a.slices; i += plan_threads) a.tickets[i] = 0;
  if (me == 0) *a.units = units;
}

// A unit at work: its tile, its place among the tile's parts and among the heads.
struct Unit {
  Tile tile;
  int part, slice, group, head;   // head: the first, within the group
  FOLIO_DEVICE bool real(const Args& a, int row) const { return row < tile.count * a.share && head + row % a.share < a.heads; }
  FOLIO_DEVICE int token(const Args& a, int row) const { return tile.first + row / a.share; }
  FOLIO_DEVICE int head_of(const Args& a, int row) const { return group * a.heads + head + row % a.share; }
  FOLIO_DEVICE int first_block() const { return part * (tile.blocks / tile.parts) + min(part, tile.blocks % tile.parts); }
  FOLIO_DEVICE int blocks() const { return tile.blocks / tile.parts + (part < tile.blocks % tile.parts); }
  FOLIO_DEVICE int page_id(const Args& a, int key) const { return a.page[int64_t(tile.seq) * a.page_seq + key / page_rows]; }
};
// The last come first: of a prompt they have the most keys.
FOLIO_DEVICE Unit unit_at(const Args& a, int units, int i) {
  const int number = units - 1 - i, slice = int(blockIdx.y);
  const Tile tile = a.tiles[a.unit_tile[number]];
  return {tile, number - tile.unit, slice, slice / a.chunks, slice % a.chunks * a.share};
}

// Sums over keys: o[rows, pitch], m[rows], l[rows]. o = Σ 2^(x − m) v and l = Σ 2^(x − m), where x is the logit in powers of two.
FOLIO_DEVICE int64_t sums_m(const Args& a) { return int64_t(a.rows) * a.pitch; }
FOLIO_DEVICE int64_t sums_l(const Args& a) { return int64_t(a.rows) * (a.pitch + 1); }
FOLIO_DEVICE int64_t sums_floats(const Args& a) { return int64_t(a.rows) * (a.pitch + 2); }

// The sink's logit joins a row's sum over all of its keys, so once however they were split. Returns by what the values shrink.
FOLIO_DEVICE float join_sink(const Args& a, const Unit& unit, int64_t head, float& most, float& sum) {
  if (!a.sink || unit.tile.seq < 0) return 1;
  const float was = most, sink = ld_vec<float>(a.sink + head) * log2_e;
  most = max(was, sink);
  if (most == nothing) return 1;
  const float turn = exp2_fast(was - most);
  sum = sum * turn + exp2_fast(sink - most);
  return turn;
}

// Joins `count` sums that lie `apart` floats from each other; writes sums again, or (without `to`) the op's outputs. The block's first
// `crew` threads call.
FOLIO_DEVICE void fold(const Args& a, const Unit& unit, const float* sums, int64_t apart, int count, float* to, int crew) {
  const int numbers = unit.tile.count * a.share * a.width;
  for (int i = int(threadIdx.x); i < numbers; i += crew) {
    const int row = i / a.width, d = i % a.width;
    if (!unit.real(a, row)) continue;
    const float *o = sums + row * a.pitch + d, *m = sums + sums_m(a) + row, *l = sums + sums_l(a) + row;
    float most = nothing, x = 0, sum = 0;
    for (int p = 0; p < count; ++p) most = max(most, ld_vec<float>(m + p * apart));
    const float base = most == nothing ? 0 : most;
    for (int p = 0; p < count; ++p) {
      const float weight = exp2_fast(ld_vec<float>(m + p * apart) - base);
      sum += weight * ld_vec<float>(l + p * apart);
      x += weight * ld_vec<float>(o + p * apart);
    }
    if (to) {
      st_vec(to + row * a.pitch + d, x);
      if (d == 0) st_vec(to + sums_m(a) + row, most), st_vec(to + sums_l(a) + row, sum);
    } else {
      const int64_t t = unit.token(a, row), h = unit.head_of(a, row);
      const float turn = join_sink(a, unit, h, most, sum);
      st_vec(a.o + t * a.o_token + h * a.o_head + d, sum == 0 ? 0.0f : x * turn / sum);   // 0 without keys; NaN goes on to the output
      if (d == 0) st_vec(a.lse + t * a.lse_token + h, sum == 0 ? nothing : most * ln_2 + logf(sum));
    }
  }
}

// What a block does with the `count` sums in shared memory that its warps have left there, once they are written.
FOLIO_DEVICE void finish(const Args& a, const Unit& unit, const float* sums, int count) {
  block_sync();
  if (unit.tile.parts == 1) {
    fold(a, unit, sums, sums_floats(a), count, nullptr, int(blockDim.x));
  } else {
    float* slots = a.slots + (int64_t(unit.tile.slot) * a.slices + unit.slice) * a.slot_floats;
    const int64_t next = a.slices * a.slot_floats;
    fold(a, unit, sums, sums_floats(a), count, slots + unit.part * next, int(blockDim.x));
    if (block_is_last(a.tickets + unit.tile.ticket * a.slices + unit.slice, unsigned(unit.tile.parts)))
      fold(a, unit, slots, next, unit.tile.parts, nullptr, int(blockDim.x));
  }
  block_sync();   // the next unit writes to shared memory
}

}  // namespace folio::attention
