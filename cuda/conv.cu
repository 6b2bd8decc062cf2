// SPDX-License-Identifier: MIT
// Convolutions on CUDA, portable tier. A block multiplies a tile of pixels of one phase with a tile of output channels, as a matrix product
// whose inner dimension is taps × input channels; its operands pass through shared memory in steps of 16, and the matrix of all
// neighbourhoods is never stored: each thread works out where its four numbers of the next step lie. A thread holds 4 × 4 sums, each one
// chain of multiply-adds in ascending order of taps and channels, so a result does not depend on its place in a tile. Depthwise and
// transposed convolutions have a thread to some channels of a pixel. The past is replaced by a kernel of its own, behind the others.
#include "cuda/rows.cuh"
#include "cuda/table.h"

namespace folio {

namespace {

// Where the pixels of an image tensor lie: floats from frame to frame, row to row and pixel to pixel.
struct Pixels {
  float* data;   // null: absent
  int64_t frame, row, pixel;
  FOLIO_DEVICE float* at(int n, int i, int j) const { return data + n * frame + i * row + j * pixel; }
};
Pixels pixels_of(const Tensor& t) { return t.present() ? Pixels{t.at<float>(), t.stride[0], t.stride[1], t.stride[2]} : Pixels{}; }

// Weights of a plain format, elements from tap to tap and from input channel to input channel.
struct Weights {
  const std::byte* data;
  DType type;
  int64_t tap, row;
  FOLIO_DEVICE float at(int64_t i) const {
    if (type == F32) return ld_vec<float>(data + i * 4);
    const std::byte* const p = data + i * 2;
    return type == F16 ? to_float(ld_vec<f16>(p)) : to_float(ld_vec<bf16>(p));
  }
};
Weights weights_of(const Tensor& w) { return {w.data, w.type, w.stride[0], w.rank() == 3 ? w.stride[1] : 0}; }

struct Convolution {
  Pixels x, past, y, add;
  Weights w;
  const float* bias;        // null: absent, as window
  const int32_t* window;
  Extent kernel, stride, pad, in, out;   // in, out: frames, rows and columns of x and of a phase's outputs
  int grow, up, channels, features;
  Act act;

  // The pixel of x, or of the past, at these places; null: a zero.
  FOLIO_DEVICE float* input(int n, int i, int j) const {
    if (i < 0 || i >= in.h || j < 0 || j >= in.w || n >= in.t) return nullptr;
    if (n >= 0) return x.at(n, i, j);
    return past.data ? past.at(n + pad.t, i, j) : nullptr;
  }
  FOLIO_DEVICE bool inside(int row) const { return !window || (row >= ld_vec<int32_t>(window) && row < ld_vec<int32_t>(window + 1)); }
  // Writes a result, given its sum; n, i, j count pixels of y.
  FOLIO_DEVICE void put(int n, int i, int j, int c, float sum) const {
    if (bias) sum += ld_vec<float>(bias + c);
    if (add.data) sum += ld_vec<float>(add.at(n, i, j) + c);
    st_vec(y.at(n, i, j) + c, inside(i) ? activated(act, sum) : 0.0f);
  }
};

// One pixel of a phase: the corner of what its taps read, and where its result goes.
struct Corner {
  int n, i, j, to_n, to_i, to_j;
  FOLIO_DEVICE Corner(const Convolution& c, int pixel, int phase) {
    const int n0 = pixel / (c.out.h * c.out.w), i0 = pixel / c.out.w % c.out.h, j0 = pixel % c.out.w;
    const int f = phase / (c.up * c.up), a = phase / c.up % c.up, b = phase % c.up;
    n = n0 * c.stride.t - c.pad.t, i = i0 * c.stride.h + a - c.pad.h, j = j0 * c.stride.w + b - c.pad.w;
    to_n = n0 * c.grow + f, to_i = i0 * c.up + a, to_j = j0 * c.up + b;
  }
};

constexpr int conv_threads = 256, conv_depth = 16;

// Features: output channels of a tile, which has 4096 results. N: input channels read at once.
template <int Features, int N> __global__ void __launch_bounds__(conv_threads) conv_tiles(Convolution c, int pixels) {
  constexpr int wide = 4096 / Features, turns = wide * conv_depth / 4 / conv_threads;   // a thread fetches 4 numbers in each
  FOLIO_SHARED(float, a, [conv_depth][wide + 4]);
  FOLIO_SHARED(float, b, [conv_depth][Features]);
  const int thread = int(threadIdx.x), phase = int(blockIdx.z), first = int(blockIdx.x) * wide, feature = int(blockIdx.y) * Features;
  const int taps = c.kernel.t * c.kernel.h * c.kernel.w, depth = taps * c.channels;
  // Numbers k .. k + 3 of the inner dimension for the thread's pixels.
  auto fetch = [&](int k, int turn) {
    const int mine = thread / 4 + turn * conv_threads / 4;
    const bool there = first + mine < pixels;
    const Corner at(c, there ? first + mine : 0, phase);
    float v[4] = {};
#pragma unroll
    for (int q = 0; q < 4; q += N) {
      const int tap = (k + q) / c.channels, r = tap / c.kernel.w;
      const float* const in = there && k + q < depth
                                  ? c.input(at.n + r / c.kernel.h, at.i + r % c.kernel.h, at.j + tap % c.kernel.w) : nullptr;
      if (!in) continue;
      float part[N];
      read<N, float>(part, reinterpret_cast<const std::byte*>(in), (k + q) % c.channels);
#pragma unroll
      for (int e = 0; e < N; ++e) v[q + e] = part[e];
    }
#pragma unroll
    for (int q = 0; q < 4; ++q) st_vec(&a[thread % 4 * 4 + q][mine], v[q]);
  };
  float sum[4][4] = {};
  const int across = thread % (Features / 4) * 4, down = thread / (Features / 4) * 4;
  for (int k = 0; k < depth; k += conv_depth) {
#pragma unroll
    for (int turn = 0; turn < turns; ++turn) fetch(k + thread % 4 * 4, turn);
    for (int i = thread; i < conv_depth * Features; i += conv_threads) {
      const int row = k + i / Features, f = feature + i % Features;
      const int64_t at = int64_t(phase * taps + row / c.channels) * c.w.tap + row % c.channels * c.w.row + f;
      st_vec(&b[i / Features][i % Features], row < depth && f < c.features ? c.w.at(at) : 0.0f);
    }
    block_sync();
#pragma unroll
    for (int step = 0; step < conv_depth; ++step) {
      const float4 p = ld_vec<float4>(&a[step][down]), q = ld_vec<float4>(&b[step][across]);
      const float in[4] = {p.x, p.y, p.z, p.w}, by[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[i][j] += in[i] * by[j];
    }
    block_sync();
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (first + down + i >= pixels) break;
    const Corner at(c, first + down + i, phase);
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (feature + across + j < c.features) c.put(at.to_n, at.to_i, at.to_j, feature + across + j, sum[i][j]);
  }
}

// Every channel for itself: a thread to one of a pixel.
__global__ void conv_depthwise(Convolution c, int pixels) {
  const int phases = c.grow * c.up * c.up, taps = c.kernel.t * c.kernel.h * c.kernel.w;
  for (int64_t i = first_row(); i < int64_t(pixels) * phases; i += row_step()) {
    const int phase = int(i / pixels);
    const Corner at(c, int(i % pixels), phase);
    for (int64_t k = first_col<1>(); k < c.channels; k += col_step<1>()) {
      float sum = 0;
      for (int tap = 0; tap < taps; ++tap) {
        const int r = tap / c.kernel.w;
        const float* const in = c.input(at.n + r / c.kernel.h, at.i + r % c.kernel.h, at.j + tap % c.kernel.w);
        if (in) sum += ld_vec<float>(in + k) * c.w.at((phase * taps + tap) * c.w.tap + k);
      }
      c.put(at.to_n, at.to_i, at.to_j, int(k), sum);
    }
  }
}

// The last pad.t frames of past and x become the past: a thread to a channel of a pixel, the earliest frame first.
__global__ void conv_remember(Convolution c) {
  for (int64_t i = first_row(); i < int64_t(c.in.h) * c.in.w; i += row_step())
    for (int64_t k = first_col<1>(); k < c.channels; k += col_step<1>())
      for (int n = 0; n < c.pad.t; ++n) {
        const int row = int(i / c.in.w), col = int(i % c.in.w);
        st_vec(c.past.at(n, row, col) + k, ld_vec<float>(c.input(c.in.t - c.pad.t + n, row, col) + k));
      }
}

struct Transposed {
  Pixels x, y;
  Weights w;
  const float* bias;   // null: absent
  Extent kernel, stride, pad, in, out;
  int channels, features;
  Act act;

  // Which of x's places meets a tap at place `to` of y; -1: none.
  static FOLIO_DEVICE int source(int to, int tap, int stride, int pad, int n) {
    const int at = to + pad - tap;
    return at >= 0 && at % stride == 0 && at / stride < n ? at / stride : -1;
  }
};

__global__ void conv_transposed(Transposed c) {
  for (int64_t i = first_row(); i < int64_t(c.out.t) * c.out.h * c.out.w; i += row_step()) {
    const int frame = int(i / (c.out.h * c.out.w)), row = int(i / c.out.w % c.out.h), col = int(i % c.out.w);
    for (int64_t f = first_col<1>(); f < c.features; f += col_step<1>()) {
      float sum = c.bias ? ld_vec<float>(c.bias + f) : 0;
      for (int tap = 0; tap < c.kernel.t * c.kernel.h * c.kernel.w; ++tap) {
        const int r = tap / c.kernel.w;
        const int n = c.source(frame, r / c.kernel.h, c.stride.t, c.pad.t, c.in.t);
        const int h = c.source(row, r % c.kernel.h, c.stride.h, c.pad.h, c.in.h);
        const int w = c.source(col, tap % c.kernel.w, c.stride.w, c.pad.w, c.in.w);
        if (n < 0 || h < 0 || w < 0) continue;
        const float* const in = c.x.at(n, h, w);
        for (int k = 0; k < c.channels; ++k) sum += ld_vec<float>(in + k) * c.w.at(tap * c.w.tap + k * c.w.row + f);
      }
      st_vec(c.y.at(frame, row, col) + f, activated(c.act, sum));
    }
  }
}

Extent extent_of(const Tensor& t) { return {int(t.dim(0)), int(t.dim(1)), int(t.dim(2))}; }

template <int Features> void launch_tiles(const Convolution& c, int pixels, int phases, bool four, cudaStream_t stream) {
  constexpr int wide = 4096 / Features;
  const Launch at{dim3(unsigned((pixels + wide - 1) / wide), unsigned((c.features + Features - 1) / Features), unsigned(phases)),
                  dim3(conv_threads), 0, stream};
  if (four) launch<conv_tiles<Features, 4>>(at, c, pixels);
  else launch<conv_tiles<Features, 1>>(at, c, pixels);
}

}  // namespace

void run(const Conv& op, const CudaQueue& queue) {
  check(op.y.rows() <= INT32_MAX && op.x.rows() <= INT32_MAX, "conv: the CUDA kernel counts pixels to 2^31, y is ", op.y.shape.text());
  const Extent out{int(op.y.dim(0)) / op.grow, int(op.y.dim(1)) / op.up, int(op.y.dim(2)) / op.up};
  const Convolution c{pixels_of(op.x), pixels_of(op.past), pixels_of(op.y), pixels_of(op.add), weights_of(op.w), op.bias.at<const float>(),
                      op.window.at<const int32_t>(), op.kernel, op.stride, op.pad, extent_of(op.x), out, op.grow, op.up, int(op.x.cols()),
                      int(op.y.cols()), op.act};
  const int pixels = out.t * out.h * out.w;
  const bool four = by_four(op.x) && absent_or_by_four(op.past);
  if (op.depthwise()) launch<conv_depthwise>(over_rows(int64_t(pixels) * op.phases(), c.channels, 1, queue.stream), c, pixels);
  else if (c.features <= 16) launch_tiles<16>(c, pixels, op.phases(), four, queue.stream);
  else launch_tiles<64>(c, pixels, op.phases(), four, queue.stream);
  if (op.past.present()) launch<conv_remember>(over_rows(int64_t(c.in.h) * c.in.w, c.channels, 1, queue.stream), c);
}

void run(const ConvTranspose& op, const CudaQueue& queue) {
  check(op.y.rows() <= INT32_MAX && op.x.rows() <= INT32_MAX, "conv_transpose: the CUDA kernel counts pixels to 2^31, y is ",
        op.y.shape.text());
  const Transposed c{pixels_of(op.x), pixels_of(op.y), weights_of(op.w), op.bias.at<const float>(), op.kernel, op.stride, op.pad,
                     extent_of(op.x), extent_of(op.y), int(op.x.cols()), int(op.y.cols()), op.act};
  launch<conv_transposed>(over_rows(op.y.rows(), c.features, 1, queue.stream), c);
}

}  // namespace folio
