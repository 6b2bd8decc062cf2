// SPDX-License-Identifier: MIT
// Selection without a sort, by one block: how many, or how much, of a set of distinct codes of 64 bits lies at its upper end. Radix
// from the top: histograms of 11 bits in shared memory, each over the codes that share the bits found so far. It ends as soon as a bin
// is wanted whole or has one member: after two or three passes over the set unless equal values stand at the border, and then the
// lower bits decide by going on. Counts and weights are integers, so the order in which threads come does not matter.
//
// A set is a function: visit(meet) calls meet(code) for the codes of the calling thread's part, select_by_weight's meet(code, weight).
#pragma once
#include "cuda/rows.cuh"

namespace folio {

inline constexpr int select_digit = 11, select_bins = 1 << select_digit;
using Weight = unsigned long long;   // what 64-bit atomics take

// Calls f(x, i) with each element of the calling thread's part of a row. Four reads are under way before the first is used.
template <int N, class F> FOLIO_DEVICE void each_number(const std::byte* row, int64_t cols, F f, Here here = {}) {
  const int64_t step = int64_t(blockDim.x) * N;
  for (int64_t from = int64_t(threadIdx.x) * N; from < cols; from += 4 * step) {
    float x[4][N];
#pragma unroll
    for (int r = 0; r < 4; ++r)
      if (from + r * step < cols) read<N, float>(x[r], row, from + r * step, here);
#pragma unroll
    for (int r = 0; r < 4; ++r)
      if (from + r * step < cols) {
#pragma unroll
        for (int j = 0; j < N; ++j) f(x[r][j], int(from + r * step) + j);
      }
  }
}

// The last lane that with all lanes above it holds `rank` or more. `rank` becomes what is wanted of that lane itself.
template <class W> FOLIO_DEVICE int pick_lane(W mine, W& rank) {
  W above = mine;  // this lane and all after it
#pragma unroll
  for (int by = 1; by < 32; by *= 2) {
    const W more = __shfl_down_sync(all_lanes, above, by);
    if (lane_id() + by < 32) above += more;
  }
  const int lane = 31 - __clz(int(__ballot_sync(all_lanes, above >= rank)));
  rank -= __shfl_sync(all_lanes, above - mine, lane);
  return lane;
}

template <class W> struct FoundBin { W rank, held; int bin; };  // how much of the bin is wanted, how much it holds, which it is

// Where the `rank`-th of what the bins hold lies, counted from the last bin; all together hold that much. All threads call.
template <class W> FOLIO_DEVICE FoundBin<W> find_bin(const W* held, W rank) {
  FOLIO_SHARED(W, group, [32]);  // sums of 64 bins
  FOLIO_SHARED(FoundBin<W>, found, [1]);
  for (int g = warp_id(); g < 32; g += int(blockDim.x / 32)) {
    const W sum = warp_sum(held[g * 64 + lane_id()] + held[g * 64 + 32 + lane_id()]);
    if (lane_id() == 0) group[g] = sum;
  }
  block_sync();
  if (warp_id() == 0) {
    int at = pick_lane(group[lane_id()], rank) * 64 + 32;  // the upper half of the group first
    const W upper = warp_sum(held[at + lane_id()]);
    if (rank > upper) rank -= upper, at -= 32;
    const int bin = at + pick_lane(held[at + lane_id()], rank);
    if (lane_id() == 0) found[0] = {rank, held[bin], bin};
  }
  block_sync();
  return found[0];
}

// One pass of a selection: which bits of a code it looks at, and whether a code has the bits found before.
struct RadixDigit {
  int end, shift;
  uint64_t known;
  FOLIO_DEVICE bool has(uint64_t code) const { return end == 64 || code >> end == known; }
  FOLIO_DEVICE unsigned of(uint64_t code) const { return unsigned(code >> shift) & ((1u << (end - shift)) - 1); }
  FOLIO_DEVICE void next(int bin) {
    known = known << (end - shift) | unsigned(bin);
    end = shift;
    shift = max(0, shift - select_digit);
  }
  FOLIO_DEVICE uint64_t smallest() const { return known << end; }
};

// The `n` largest codes of the set are those from the result on; it has as many. `count`: select_bins of shared memory.
template <class Visit> FOLIO_DEVICE uint64_t select_by_count(int* count, int n, Visit visit) {
  for (RadixDigit digit = {64, 64 - select_digit, 0};;) {
    for (int i = int(threadIdx.x); i < select_bins; i += int(blockDim.x)) count[i] = 0;
    block_sync();
    visit([&](uint64_t code) {
      if (digit.has(code)) atomicAdd(&count[digit.of(code)], 1);
    });
    block_sync();
    const FoundBin<int> place = find_bin(count, n);
    digit.next(place.bin);
    n = place.rank;
    if (place.held == n || digit.end == 0) return digit.smallest();
    block_sync();  // the next round clears what others may still read
  }
}

// The fewest largest codes that weigh `need` together are those from the result on, itself one of them. All weigh that much; `held` and
// `count`: select_bins each.
template <class Visit> FOLIO_DEVICE uint64_t select_by_weight(Weight* held, int* count, Weight need, Visit visit) {
  RadixDigit digit = {64, 64 - select_digit, 0};
  while (true) {
    for (int i = int(threadIdx.x); i < select_bins; i += int(blockDim.x)) held[i] = 0, count[i] = 0;
    block_sync();
    visit([&](uint64_t code, Weight weight) {
      if (!digit.has(code)) return;
      atomicAdd(&held[digit.of(code)], weight);
      atomicAdd(&count[digit.of(code)], 1);
    });
    block_sync();
    const FoundBin<Weight> place = find_bin(held, need);
    const bool alone = count[place.bin] == 1;
    digit.next(place.bin);
    need = place.rank;
    block_sync();
    if (alone || place.held == need || digit.end == 0) break;
  }
  uint64_t complement = 0;  // of the smallest that shares these bits
  visit([&](uint64_t code, Weight) {
    if (digit.has(code)) complement = max(complement, ~code);
  });
  return ~block_max(complement);
}

}  // namespace folio
