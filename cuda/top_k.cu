// SPDX-License-Identifier: MIT
// Top-k on CUDA: a block to a row, a radix select and a small sort. Every element has a code of 64 bits that orders the row as the
// op wants it, no two alike (base/draw.h: the float's bits made ascending, then the complement of its index).
//
//   select   finds the smallest code of the k largest (select.cuh): two or three passes over the row.
//   collect  puts the codes from there on into shared memory, in any order: what is collected is settled, and sorted next.
//   sort     bitonic. Values are read again by their index, so that -0 stays -0.
//
// More than 1024 are taken in rounds, each below the one before. k = 1 is one pass with a maximum. NaN comes after -∞, -0 equals 0.
#include "cuda/select.cuh"
#include "cuda/table.h"

namespace folio {

namespace {

constexpr int round_size = 1024;

// Of the codes below `below`, n are as large as the result or larger.
template <int N> FOLIO_DEVICE uint64_t select_codes(const std::byte* row, int64_t cols, uint64_t below, int n) {
  FOLIO_SHARED(int, count, [select_bins]);
  return select_by_count(count, n, [&](auto meet) {
    each_number<N>(row, cols, [&](float x, int i) {
      if (const uint64_t code = code_of(x, i); code < below) meet(code);
    });
  });
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
  const int at = token_of(code);
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
    each_number<N>(row, cols, [&](float x, int i) {
      const uint64_t code = code_of(x, i);
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
  each_number<N>(row, cols, [&](float x, int i) { best = max(best, code_of(x, i)); });
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
