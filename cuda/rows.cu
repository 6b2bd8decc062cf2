// SPDX-License-Identifier: MIT
// Ops that move rows, on CUDA. Threads are laid over rows and columns; every thread of a row reads the row's index by itself, which
// the caches turn into one read. An id that names no row reads zeros; a token without a place writes nothing. Tokens that would write
// the same place of the pool are not told apart: a step has none.
#include "cuda/rows.cuh"
#include "cuda/table.h"

namespace folio {

namespace {

// y[i,:] = scale · table[id[i],:]; zeros for ids outside 0 .. known - 1.
template <int N, class T>
__global__ void read_rows(Rows table, const int32_t* id, Rows y, int64_t known, int64_t rows, int64_t cols, float scale) {
  for (int64_t i = first_row(); i < rows; i += row_step()) {
    const int64_t from = ld_vec<int32_t>(id + i);
    const bool there = from >= 0 && from < known;
    const std::byte* const in = table.row(there ? from : 0);
    std::byte* const out = y.row(i);
    for (int64_t c = first_col<N>(); c < cols; c += col_step<N>()) {
      float x[N] = {};
      if (there) read<N, T>(x, in, c);
      if (scale != 1) {
#pragma unroll
        for (int j = 0; j < N; ++j) x[j] *= scale;
      }
      write<N, float>(out, c, x);
    }
  }
}

template <class T> void run_read(const Tensor& table, const Tensor& id, const Tensor& y, float scale, const CudaQueue& queue) {
  if (y.count() == 0) return;
  const int64_t rows = y.rows(), cols = y.cols(), known = table.dim(0);
  const auto* ids = id.at<int32_t>();
  if constexpr (!is_block<T>)  // rows of blocks are whole fours, and y is where the plan has put it
    if (!by_four(table) || !by_four(y))
      return launch<read_rows<1, T>>(over_rows(rows, cols, 1, queue.stream), rows_of(table), ids, rows_of(y), known, rows, cols, scale);
  launch<read_rows<4, T>>(over_rows(rows, cols, 4, queue.stream), rows_of(table), ids, rows_of(y), known, rows, cols, scale);
}

// The page table of Append and whose token stands where.
struct Places {
  const int32_t* page;
  int64_t page_stride;
  const int32_t *seq, *pos;

  // The row of token t in a pool with one row per token; -1 if it has none.
  FOLIO_DEVICE int64_t of(int64_t t) const {
    const int32_t b = ld_vec<int32_t>(seq + t);
    if (b < 0) return -1;
    const int32_t p = ld_vec<int32_t>(pos + t);
    const int32_t id = ld_vec<int32_t>(page + b * page_stride + p / page_tokens);
    return id < 0 ? -1 : id * page_tokens + p % page_tokens;
  }
};

template <int N, class T> __global__ void append_rows(Rows x, Places places, Rows pool, int64_t rows, unsigned groups, int64_t cols) {
  for (int64_t i = first_row(); i < rows; i += row_step()) {
    const unsigned t = unsigned(i) / groups, g = unsigned(i) % groups;
    const int64_t place = places.of(t);
    if (place < 0) continue;
    const std::byte* const in = x.row(i);
    std::byte* const out = pool.row(place * groups + g);
    for (int64_t c = first_col<N>(); c < cols; c += col_step<N>()) {
      float v[N];
      read<N, float>(v, in, c);
      write<N, T>(out, c, v);
    }
  }
}

template <class T> void run_append(const Append& op, const CudaQueue& queue) {
  const Places places{op.page.at<int32_t>(), op.page.stride[0], op.seq.at<int32_t>(), op.pos.at<int32_t>()};
  const Rows x = rows_of(op.x), pool = rows_of(op.pool);
  const int64_t rows = op.x.rows(), cols = op.x.cols();
  const auto groups = unsigned(op.x.dim(1));
  if constexpr (is_block<T>) {
    launch<append_rows<of_lane<T>, T>>(over_rows(rows, cols, of_lane<T>, queue.stream, 32), x, places, pool, rows, groups, cols);
  } else {
    if (by_four(op.x) && by_four(op.pool))
      launch<append_rows<4, T>>(over_rows(rows, cols, 4, queue.stream), x, places, pool, rows, groups, cols);
    else
      launch<append_rows<1, T>>(over_rows(rows, cols, 1, queue.stream), x, places, pool, rows, groups, cols);
  }
}

}  // namespace

void run(const Embed& op, const CudaQueue& queue) {
  with_storage(op.w.type, [&](auto stored) { run_read<decltype(stored)>(op.w, op.token, op.y, op.scale, queue); });
}

void run(const Gather& op, const CudaQueue& queue) { run_read<float>(op.x, op.index, op.y, 1, queue); }

void run(const Append& op, const CudaQueue& queue) {
  if (op.x.count() == 0 || op.page.count() == 0 || op.pool.count() == 0) return;
  with_storage(op.pool.type, [&](auto stored) { run_append<decltype(stored)>(op, queue); });
}

}  // namespace folio
