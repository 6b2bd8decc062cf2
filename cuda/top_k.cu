// SPDX-License-Identifier: MIT
// Top-k on CUDA: a block to a row, a radix select and a small sort. Every element gets a code of 64 bits that orders the row as the
// op wants it, no two alike: the float's bits made ascending, then the complement of its index.
//
//   select   finds the smallest code of the k largest: histograms of 11 bits in shared memory, from the top, each over the elements
//            that share the bits found so far. It ends as soon as a bin is wanted whole: after two or three passes over the row
//            unless equal values stand at the border, and then the bits of the index decide by going on.
//   collect  puts the codes from there on into shared memory, in any order: what is collected is settled, and sorted next.
//   sort     bitonic. Values are read again by their index, so that -0 stays -0.
//
// More than 1024 are taken in rounds, each below the one before. k = 1 is one pass with a maximum. NaN comes after -∞, -0 equals 0.
#include "cuda/rows.cuh"
#include "cuda/table.h"

namespace folio {

namespace {

constexpr int round_size = 1024, bins = 2048, digit = 11;

FOLIO_DEVICE uint64_t code_of(float x, int index) {
  const uint32_t bits = __float_as_uint(x == 0 ? 0.0f : x);
  const uint32_t order = x != x ? 0 : bits >> 31 ? ~bits : bits | 0x80000000u;
  return uint64_t(order) << 32 | uint32_t(~index);
}
FOLIO_DEVICE int index_of(uint64_t code) { return int(~uint32_t(code)); }

// Calls f with the code of each element of the calling thread's part. Four reads are under way before the first is used.
template <int N, class F> FOLIO_DEVICE void each_code(const std::byte* row, int64_t cols, F f, Here here = {}) {
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
        for (int j = 0; j < N; ++j) f(code_of(x[r][j], int(from + r * step) + j));
      }
  }
}

// The last lane that with all lanes above it counts `rank` or more. `rank` becomes what is wanted of that lane itself.
FOLIO_DEVICE int pick_lane(int mine, int& rank) {
  int above = mine;  // this lane and all after it
#pragma unroll
  for (int by = 1; by < 32; by *= 2) {
    const int more = __shfl_down_sync(all_lanes, above, by);
    if (lane_id() + by < 32) above += more;
  }
  const int lane = 31 - __clz(int(__ballot_sync(all_lanes, above >= rank)));
  rank -= __shfl_sync(all_lanes, above - mine, lane);
  return lane;
}

struct Place { int bin, rank, count; };  // the bin, how many of it are wanted, how many it has

// Where the element of that rank (1: the last bin's) is. All threads call; `count` is complete.
FOLIO_DEVICE Place find_bin(const int* count, int rank) {
  FOLIO_SHARED(int, group, [32]);  // sums of 64 bins
  FOLIO_SHARED(Place, found, [1]);
  for (int g = warp_id(); g < 32; g += int(blockDim.x / 32)) {
    const int sum = warp_sum(count[g * 64 + lane_id()] + count[g * 64 + 32 + lane_id()]);
    if (lane_id() == 0) group[g] = sum;
  }
  block_sync();
  if (warp_id() == 0) {
    int at = pick_lane(group[lane_id()], rank) * 64 + 32;  // the upper half of the group first
    const int upper = warp_sum(count[at + lane_id()]);
    if (rank > upper) rank -= upper, at -= 32;
    const int bin = at + pick_lane(count[at + lane_id()], rank);
    if (lane_id() == 0) found[0] = {bin, rank, count[bin]};
  }
  block_sync();
  return found[0];
}

// Of the codes below `below`, n are as large as the result or larger.
template <int N> FOLIO_DEVICE uint64_t select_codes(const std::byte* row, int64_t cols, uint64_t below, int n) {
  FOLIO_SHARED(int, count, [bins]);
  uint64_t known = 0;  // the bits found so far, from bit `end` on
  for (int end = 64, shift = 64 - digit;; end = shift, shift = max(0, shift - digit)) {
    for (int i = int(threadIdx.x); i < bins; i += int(blockDim.x)) count[i] = 0;
    block_sync();
    each_code<N>(row, cols, [&](uint64_t code) {
      if (code < below && (end == 64 || code >> end == known)) atomicAdd(&count[code >> shift & ((1u << (end - shift)) - 1)], 1);
    });
    block_sync();
    const Place place = find_bin(count, n);
    known = known << (end - shift) | unsigned(place.bin);
    n = place.rank;
    if (place.count == n || shift == 0) return known << shift;
    block_sync();  // the next round clears what others may still read
  }
}

// Descending. `size` is a power of two.
FOLIO_DEVICE void sort_codes(uint64_t* code, int size) {
  for (int run = 2; run <= size; run *= 2)
    for (int by = run / 2; by > 0; by /= 2) {
      for (int i = int(threadIdx.x); i < size / 2; i += int(blockDim.x)) {
        const int first = 2 * i - (i & (by - 1)), second = first + by;
        const uint64_t a = code[first], b = code[second];
        if ((a < b) == ((first & run) == 0)) code[first] = b, code[second] = a;
      }
      block_sync();
    }
}

FOLIO_DEVICE void write_element(const std::byte* row, uint64_t code, std::byte* value, std::byte* index, int i) {
  const int at = index_of(code);
  st_vec(value + i * int64_t(sizeof(float)), ld_vec<float>(row + at * int64_t(sizeof(float))));
  st_vec(index + i * int64_t(sizeof(int32_t)), int32_t(at));
}

template <int N> __global__ void __launch_bounds__(1024) top_k_rows(Rows x, int64_t cols, int k, Rows value, Rows index) {
  FOLIO_SHARED(uint64_t, list, [round_size]);
  FOLIO_SHARED(int, listed, [1]);
  const std::byte* const row = x.row(blockIdx.x);
  uint64_t below = ~uint64_t(0);
  for (int done = 0; done < k; done += round_size) {
    const int n = min(round_size, k - done);
    int size = 1;
    while (size < n) size *= 2;
    if (threadIdx.x == 0) listed[0] = 0;
    for (int i = n + int(threadIdx.x); i < size; i += int(blockDim.x)) list[i] = 0;  // below every code
    const uint64_t from = select_codes<N>(row, cols, below, n);
    each_code<N>(row, cols, [&](uint64_t code) {
      if (code >= from && code < below) list[atomicAdd(&listed[0], 1)] = code;
    });
    block_sync();
    sort_codes(list, size);
    for (int i = int(threadIdx.x); i < n; i += int(blockDim.x))
      write_element(row, list[i], value.row(blockIdx.x), index.row(blockIdx.x), done + i);
    block_sync();
    below = from;
  }
}

template <int N> __global__ void __launch_bounds__(1024) largest_of_rows(Rows x, int64_t cols, Rows value, Rows index) {
  const std::byte* const row = x.row(blockIdx.x);
  uint64_t best = 0;
  each_code<N>(row, cols, [&](uint64_t code) { best = max(best, code); });
  best = block_max(best);
  if (threadIdx.x == 0) write_element(row, best, value.row(blockIdx.x), index.row(blockIdx.x), 0);
}

template <int N> void run_rows(const TopK& op, const CudaQueue& queue) {
  const int64_t cols = op.x.cols();
  const unsigned threads = cols > 4096 ? 1024 : 256;
  const Launch at{dim3(unsigned(op.x.dim(0))), dim3(threads), 0, queue.stream};
  if (op.k == 1) launch<largest_of_rows<N>>(at, rows_of(op.x), cols, rows_of(op.value), rows_of(op.index));
  else launch<top_k_rows<N>>(at, rows_of(op.x), cols, op.k, rows_of(op.value), rows_of(op.index));
}

}  // namespace

void run(const TopK& op, const CudaQueue& queue) {
  if (op.x.dim(0) == 0) return;
  by_four(op.x) ? run_rows<4>(op, queue) : run_rows<1>(op, queue);
}

}  // namespace folio
