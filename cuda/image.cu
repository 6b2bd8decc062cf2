// SPDX-License-Identifier: MIT
// Enlarging, trading channels for pixels, and group norm on CUDA. The first three only move numbers: a thread writes elements of y and
// works out where they come from. A frame's group belongs to one block, which reads it three times; its sums are in double.
#include "cuda/rows.cuh"
#include "cuda/table.h"

namespace folio {

namespace {

// How y's elements lie in x; p: the factor.
struct Enlarged {
  unsigned p;
  FOLIO_DEVICE void source(unsigned row, unsigned col, int64_t c, unsigned& x_row, unsigned& x_col, int64_t& x_c) const {
    x_row = row / p, x_col = col / p, x_c = c;
  }
};
struct Shuffled {
  unsigned p;
  FOLIO_DEVICE void source(unsigned row, unsigned col, int64_t c, unsigned& x_row, unsigned& x_col, int64_t& x_c) const {
    x_row = row / p, x_col = col / p, x_c = (c * p + row % p) * p + col % p;
  }
};
struct Unshuffled {
  unsigned p;
  FOLIO_DEVICE void source(unsigned row, unsigned col, int64_t c, unsigned& x_row, unsigned& x_col, int64_t& x_c) const {
    const unsigned at = unsigned(c % (p * p));
    x_row = row * p + at / p, x_col = col * p + at % p, x_c = c / (p * p);
  }
};

// Rows of pixels are counted through all frames: a frame's are a multiple of p.
template <class How> __global__ void move_pixels(How how, Rows x, Rows y, unsigned x_width, unsigned width, int64_t rows, int64_t cols) {
  for (int64_t i = first_row(); i < rows; i += row_step())
    for (int64_t c = first_col<1>(); c < cols; c += col_step<1>()) {
      unsigned row, col;
      int64_t from;
      how.source(unsigned(i) / width, unsigned(i) % width, c, row, col, from);
      const float v = ld_vec<float>(x.row(int64_t(row) * x_width + col) + from * 4);
      st_vec(y.row(i) + c * 4, v);
    }
}

template <class How, class Op> void move(const Op& op, const CudaQueue& queue) {
  launch<move_pixels<How>>(over_rows(op.y.rows(), op.y.cols(), 1, queue.stream), How{unsigned(op.factor)}, rows_of(op.x), rows_of(op.y),
                           unsigned(op.x.dim(2)), unsigned(op.y.dim(2)), op.y.rows(), op.y.cols());
}

// `b` may be null. width: channels of a group.
__global__ void group_norm_groups(Rows x, const float* w, const float* b, Rows y, int pixels, int width, int groups, float eps) {
  const int64_t first = int64_t(blockIdx.x) / groups * pixels, count = int64_t(pixels) * width;
  const int from = int(blockIdx.x) % groups * width;
  auto each = [&](auto f) {
    for (int64_t e = threadIdx.x; e < count; e += blockDim.x) f(first + e / width, from + int(e % width));
  };
  auto in = [&](int64_t pixel, int c) { return ld_vec<float>(x.row(pixel) + int64_t(c) * 4); };
  double sum = 0, square = 0;
  each([&](int64_t pixel, int c) { sum += in(pixel, c); });
  const double mean = block_sum(sum) / double(count);
  each([&](int64_t pixel, int c) { square += (in(pixel, c) - mean) * (in(pixel, c) - mean); });
  const double scale = 1 / sqrt(block_sum(square) / double(count) + eps);
  each([&](int64_t pixel, int c) {
    const float v = float((in(pixel, c) - mean) * scale) * ld_vec<float>(w + c) + (b ? ld_vec<float>(b + c) : 0.0f);
    st_vec(y.row(pixel) + int64_t(c) * 4, v);
  });
}

}  // namespace

void run(const Upsample& op, const CudaQueue& queue) {
  if (op.y.count() > 0) move<Enlarged>(op, queue);
}
void run(const PixelShuffle& op, const CudaQueue& queue) {
  if (op.y.count() > 0) move<Shuffled>(op, queue);
}
void run(const PixelUnshuffle& op, const CudaQueue& queue) {
  if (op.y.count() > 0) move<Unshuffled>(op, queue);
}

void run(const GroupNorm& op, const CudaQueue& queue) {
  if (op.x.count() == 0) return;
  const int pixels = int(op.x.dim(1) * op.x.dim(2));
  launch<group_norm_groups>({dim3(unsigned(op.x.dim(0) * op.groups)), dim3(256), 0, queue.stream}, rows_of(op.x), op.w.at<const float>(),
                            op.b.at<const float>(), rows_of(op.y), pixels, int(op.x.cols()) / op.groups, op.groups, op.eps);
}

}  // namespace folio
