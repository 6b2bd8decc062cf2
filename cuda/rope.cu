// SPDX-License-Identifier: MIT
// Rotary embedding on CUDA. A block takes a token and some of its heads; a thread keeps the sine and cosine of one pair of dimensions
// and turns that pair in one head after the other. The angle, up to a million radians and more, is brought to within π/4 of zero in
// double; from there float functions are as good as the rounding of their results. A pair is read by the thread that writes it, so y
// may lie over x.
#include "cuda/rows.cuh"
#include "cuda/table.h"

namespace folio {

namespace {

struct Turn { float cosine, sine; };

FOLIO_DEVICE Turn turn_of(double angle, float factor) {
  const double quarters = rint(angle * 0.63661977236758134);                  // 2/π
  double rest = fma(-quarters, 1.5707963267948966, angle);                    // π/2, in two parts
  rest = fma(-quarters, 6.123233995736766e-17, rest);
  const float c = cosf(float(rest)) * factor, s = sinf(float(rest)) * factor;
  switch (int64_t(quarters) & 3) {
    case 0: return {c, s};
    case 1: return {-s, c};
    case 2: return {-c, -s};
    default: return {s, -c};
  }
}

struct Pairs {
  const int32_t* pos;
  const float* freq;
  int count;       // pairs of a head; dimensions from 2·count on are copied
  bool half;
  float factor;
};

// Vec: adjacent pairs are read and written as one float2.
template <bool Vec> __global__ void turn_pairs(Rows x, Pairs pairs, Rows y, int heads, int cols) {
  const int64_t t = blockIdx.x;
  const int first_head = int(blockIdx.y * blockDim.y + threadIdx.y), step = int(gridDim.y * blockDim.y);
  const double pos = ld_vec<int32_t>(pairs.pos + t);
  for (int i = int(threadIdx.x); i < pairs.count; i += int(blockDim.x)) {
    const Turn turn = turn_of(pos * ld_vec<float>(pairs.freq + i), pairs.factor);
    const int first = pairs.half ? i : 2 * i, second = pairs.half ? i + pairs.count : 2 * i + 1;
    for (int h = first_head; h < heads; h += step) {
      const auto* in = reinterpret_cast<const float*>(x.row(t * heads + h));
      auto* out = reinterpret_cast<float*>(y.row(t * heads + h));
      float2 v;
      if constexpr (Vec) v = ld_vec<float2>(in + first);
      else v = make_float2(ld_vec<float>(in + first), ld_vec<float>(in + second));
      const float2 turned = make_float2(v.x * turn.cosine - v.y * turn.sine, v.x * turn.sine + v.y * turn.cosine);
      if constexpr (Vec) st_vec(out + first, turned);
      else st_vec(out + first, turned.x), st_vec(out + second, turned.y);
    }
  }
  for (int h = first_head; h < heads; h += step)
    for (int c = 2 * pairs.count + int(threadIdx.x); c < cols; c += int(blockDim.x)) {
      const int64_t at = c * int64_t(sizeof(float));
      st_vec(y.row(t * heads + h) + at, ld_vec<float>(x.row(t * heads + h) + at));
    }
}

}  // namespace

void run(const Rope& op, const CudaQueue& queue) {
  if (op.x.count() == 0) return;
  const int64_t tokens = op.x.dim(0), heads = op.x.dim(1);
  const Pairs pairs{op.pos.at<int32_t>(), op.freq.at<float>(), int(op.freq.dim(0)), op.half, op.factor};
  const unsigned across = unsigned(std::bit_ceil(uint64_t(std::clamp<int64_t>(pairs.count, 32, 256)))), down = 256 / across;
  // Few tokens are spread over the card by their heads; of many, a thread takes several heads and finds its angle once for them.
  const int64_t all = std::min<int64_t>((heads + down - 1) / down, 65535);
  const auto split = unsigned(std::clamp<int64_t>(8 * int64_t(queue.processors) / tokens, 1, all));
  const Launch at{dim3(unsigned(tokens), split), dim3(across, down), 0, queue.stream};
  if (!op.half && aligned(op.x, 8) && aligned(op.y, 8))
    launch<turn_pairs<true>>(at, rows_of(op.x), pairs, rows_of(op.y), int(heads), int(op.x.cols()));
  else
    launch<turn_pairs<false>>(at, rows_of(op.x), pairs, rows_of(op.y), int(heads), int(op.x.cols()));
}

}  // namespace folio
