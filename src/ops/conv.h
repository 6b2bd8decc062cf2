// SPDX-License-Identifier: MIT
// Convolutions over images and clips, channels last: a tensor [N, H, W, C] is N frames, of one clip or each for itself. One op does them
// all; of its kinds
//   2-D              kernel.t = 1
//   causal in time   `causal`: all of pad.t stands in front. With `past`, the frames before the first are those of the run before, and the
//                    op leaves its own last ones there, so a clip may be cut anywhere. A block that sees its own frame and the one
//                    before (TAEHV's MemBlock: a convolution of their channels side by side) is this with kernel.t = 2.
//   grow, up         a layer of 1×1 that makes `grow` frames of one, or a nearest ×2 enlargement, before a convolution: both are linear and
//                    fold into it. Every phase (which of the grown frames, which row and column of an enlarged pixel) is a convolution
//                    of the small image with a kernel of its own and has its own place in the output. Of a 3×3 with padding 1 behind an
//                    enlargement each phase is 2×2, for of three neighbours two are the same pixel: [w₀, w₁ + w₂] in the even rows and,
//                    a pixel further on, [w₀ + w₁, w₂] in the odd ones.
//   bands            a high image may go through in bands of rows: a band has, with pad.h = 0, fewer rows after each convolution, and
//                    `window` zeroes those beyond the image's edge, which the next one would have had as padding.
// Weights lie with taps outermost and output channels innermost, as the inner loops read them.
#pragma once
#include <algorithm>

#include "ops/elementwise.h"

namespace folio {

// A number each for time, height and width.
struct Extent { int t = 1, h = 1, w = 1; };

// y[grow·n + f, up·i + a, up·j + b, :] = act(bias + add + Σ_{t,r,s} in · w[phase (f·up + a)·up + b; tap (t·kernel.h + r)·kernel.w + s])
//   in = x[n·stride.t + t − pad.t, i·stride.h + r + a − pad.h, j·stride.w + s + b − pad.w, :]
// for f < grow, a < up, b < up; x is 0 outside its frames, or in front of them past. Rows of y outside the window are 0.
// With w of rank 2 every channel is for itself (depthwise): · is then ⊙.
struct Conv {
  static constexpr const char* name = "conv";
  Tensor x;        // [N, H, W, Cin] f32
  Tensor w;        // [phases·taps, Cin, Cout], or of a depthwise convolution [phases·taps, C]; f32, f16 or bf16
  Tensor bias;     // [Cout] f32, may be absent
  Tensor add;      // like y, may be absent
  Tensor window;   // [2] i32: first row of y that is inside, and the first behind it that is not; may be absent
  Tensor past;     // [pad.t, H, W, Cin] f32, may be absent; afterwards the last pad.t frames of past and x
  Extent kernel, stride, pad{0, 0, 0};
  bool causal = false;      // pad.t frames in front and none behind
  int grow = 1, up = 1;     // up: 1 or 2
  Act act = Act::none;
  Tensor y;        // [grow·N', up·H', up·W', Cout] f32

  void visit(auto& v) {
    v.in("x", x); v.in("w", w); v.in("bias", bias); v.in("add", add); v.in("window", window); v.inout("past", past);
    v.attr("kernel_t", kernel.t); v.attr("kernel_h", kernel.h); v.attr("kernel_w", kernel.w);
    v.attr("stride_t", stride.t); v.attr("stride_h", stride.h); v.attr("stride_w", stride.w);
    v.attr("pad_t", pad.t); v.attr("pad_h", pad.h); v.attr("pad_w", pad.w);
    v.attr("causal", causal); v.attr("grow", grow); v.attr("up", up); v.attr("act", int(act));
    v.out("y", y, &add);
  }
  bool depthwise() const { return w.rank() == 2; }
  int taps() const { return kernel.t * kernel.h * kernel.w; }
  int phases() const { return grow * up * up; }

  void shape() {
    check(x.type == F32 && x.rank() == 4 && (w.type == F32 || w.type == F16 || w.type == BF16) && (w.rank() == 2 || w.rank() == 3) &&
          w.dim(1) == x.cols(), "conv: x is ", x.shape.text(), ", w ", format(w.type).name, " ", w.shape.text());
    check(std::min({kernel.t, kernel.h, kernel.w, stride.t, stride.h, stride.w, grow}) >= 1 && std::min({pad.t, pad.h, pad.w}) >= 0 &&
          (up == 1 || up == 2) && w.dim(0) == phases() * taps(), "conv: w is ", w.shape.text(), " for ", phases(), " phases of ",
          kernel.t, "x", kernel.h, "x", kernel.w, " taps");
    auto steps = [](int64_t n, int64_t taps, int64_t stride) { return n < taps ? 0 : (n - taps) / stride + 1; };
    y = Tensor::of(F32, {grow * steps(x.dim(0) + (causal ? 1 : 2) * pad.t, kernel.t, stride.t),
                         up * steps(x.dim(1) + 2 * pad.h, kernel.h + up - 1, stride.h),
                         up * steps(x.dim(2) + 2 * pad.w, kernel.w + up - 1, stride.w), w.cols()});
    check(y.count() > 0, "conv: x is ", x.shape.text(), ", smaller than a kernel of ", kernel.t, "x", kernel.h, "x", kernel.w);
    check(!bias.present() || (bias.type == F32 && bias.shape == Shape{w.cols()}), "conv: w is ", w.shape.text(), ", bias ",
          bias.shape.text());
    check(!add.present() || (add.type == F32 && add.shape == y.shape), "conv: y is ", y.shape.text(), ", add ", add.shape.text());
    check(!window.present() || (window.type == I32 && window.shape == Shape{2}), "conv: window is ", window.shape.text());
    check(!past.present() || (causal && past.type == F32 && past.shape == Shape{pad.t, x.dim(1), x.dim(2), x.cols()}), "conv: x is ",
          x.shape.text(), " with ", pad.t, causal ? " causal" : "", " frames of padding, past ", past.shape.text());
  }

  // An input pixel, its frame counted from the first of x; null: a zero.
  float* pixel(int64_t n, int64_t row, int64_t col) const {
    if (row < 0 || row >= x.dim(1) || col < 0 || col >= x.dim(2) || n >= x.dim(0)) return nullptr;
    if (n >= 0) return x.at<float>() + n * x.stride[0] + row * x.stride[1] + col * x.stride[2];
    return past.present() ? past.at<float>() + (n + pad.t) * past.stride[0] + row * past.stride[1] + col * past.stride[2] : nullptr;
  }
  bool inside(int64_t row) const { return !window.present() || (row >= window.at<int32_t>()[0] && row < window.at<int32_t>()[1]); }

  void reference(Worker worker) const {
    for (int64_t i : worker.share(y.rows()))
      one_pixel(i / (y.dim(1) * y.dim(2)), i / y.dim(2) % y.dim(1), i % y.dim(2), y.row<float>(i), i);
    if (!past.present()) return;
    worker.barrier();
    remember(worker);
  }
  // The last frames of past and x become the past. A pixel's frames are one worker's, the earliest first.
  void remember(Worker worker) const {
    for (int64_t i : worker.share(x.dim(1) * x.dim(2)))
      for (int64_t n = 0; n < pad.t; ++n) {
        const int64_t row = i / x.dim(2), col = i % x.dim(2);
        std::copy_n(pixel(x.dim(0) - pad.t + n, row, col), x.cols(), pixel(n - pad.t, row, col));
      }
  }

 private:
  void one_pixel(int64_t n, int64_t row, int64_t col, float* out, int64_t i) const {
    const int64_t phase = (n % grow * up + row % up) * up + col % up;
    constexpr int64_t most = 64;   // channels at a time
    for (int64_t c = 0; c < w.cols(); c += most) {
      const int64_t count = std::min(most, w.cols() - c);
      double sum[most];
      for (int64_t o = 0; o < count; ++o)
        sum[o] = (bias.present() ? bias.at<float>()[c + o] : 0) + (add.present() ? double(add.row<float>(i)[c + o]) : 0);
      for (int tap = 0; tap < taps(); ++tap) {
        const int t = tap / (kernel.h * kernel.w), r = tap / kernel.w % kernel.h, s = tap % kernel.w;
        const float* in = pixel(n / grow * stride.t + t - pad.t, row / up * stride.h + r + row % up - pad.h,
                                col / up * stride.w + s + col % up - pad.w);
        for (int64_t k = 0; in && k < (depthwise() ? 1 : w.dim(1)); ++k) {
          float weight[most];
          const int64_t at = phase * taps() + tap;
          format(w.type).to_float(w.row_bytes(depthwise() ? at : at * w.dim(1) + k) + bytes_of(w.type, c), weight, count);
          for (int64_t o = 0; o < count; ++o) sum[o] += double(in[depthwise() ? c + o : k]) * weight[o];
        }
      }
      for (int64_t o = 0; o < count; ++o) out[c + o] = inside(row) ? activate(act, float(sum[o])) : 0;
    }
  }
};

// The transpose of a convolution of that stride and padding: for all n, i, j and taps t, r, s, where that is in y,
// y[n·stride.t + t − pad.t, i·stride.h + r − pad.h, j·stride.w + s − pad.w, :] += x[n, i, j, :] · w[(t·kernel.h + r)·kernel.w + s]
// and then y = act(bias + y).
struct ConvTranspose {
  static constexpr const char* name = "conv_transpose";
  Tensor x;       // [N, H, W, Cin] f32
  Tensor w;       // [taps, Cin, Cout] f32, f16 or bf16
  Tensor bias;    // [Cout] f32, may be absent
  Extent kernel, stride, pad{0, 0, 0};
  Act act = Act::none;
  Tensor y;       // [(N − 1)·stride.t − 2·pad.t + kernel.t, and so on, Cout] f32

  void visit(auto& v) {
    v.in("x", x); v.in("w", w); v.in("bias", bias);
    v.attr("kernel_t", kernel.t); v.attr("kernel_h", kernel.h); v.attr("kernel_w", kernel.w);
    v.attr("stride_t", stride.t); v.attr("stride_h", stride.h); v.attr("stride_w", stride.w);
    v.attr("pad_t", pad.t); v.attr("pad_h", pad.h); v.attr("pad_w", pad.w); v.attr("act", int(act));
    v.out("y", y);
  }
  void shape() {
    check(x.type == F32 && x.rank() == 4 && (w.type == F32 || w.type == F16 || w.type == BF16) && w.rank() == 3 && w.dim(1) == x.cols(),
          "conv_transpose: x is ", x.shape.text(), ", w ", format(w.type).name, " ", w.shape.text());
    check(std::min({kernel.t, kernel.h, kernel.w, stride.t, stride.h, stride.w}) >= 1 && std::min({pad.t, pad.h, pad.w}) >= 0 &&
          w.dim(0) == kernel.t * kernel.h * kernel.w, "conv_transpose: w is ", w.shape.text(), " for ", kernel.t, "x", kernel.h, "x",
          kernel.w, " taps");
    auto size = [](int64_t n, int taps, int stride, int pad) { return n == 0 ? 0 : (n - 1) * stride - 2 * pad + taps; };
    const int64_t frames = size(x.dim(0), kernel.t, stride.t, pad.t), height = size(x.dim(1), kernel.h, stride.h, pad.h),
                  width = size(x.dim(2), kernel.w, stride.w, pad.w);
    check(std::min({frames, height, width}) > 0, "conv_transpose: x is ", x.shape.text(), ", less than its padding");
    y = Tensor::of(F32, {frames, height, width, w.cols()});
    check(!bias.present() || (bias.type == F32 && bias.shape == Shape{w.cols()}), "conv_transpose: w is ", w.shape.text(), ", bias ",
          bias.shape.text());
  }
  // Which of x's n places meets tap `tap` at place `to` of y; −1: none.
  static int64_t source(int64_t to, int tap, int stride, int pad, int64_t n) {
    const int64_t at = to + pad - tap;
    return at >= 0 && at % stride == 0 && at / stride < n ? at / stride : -1;
  }
  void reference(Worker worker) const {
    constexpr int64_t most = 64;   // channels at a time
    for (int64_t i : worker.share(y.rows()))
      for (int64_t c = 0; c < w.cols(); c += most) {
        const int64_t count = std::min(most, w.cols() - c);
        double sum[most];
        for (int64_t o = 0; o < count; ++o) sum[o] = bias.present() ? bias.at<float>()[c + o] : 0;
        for (int tap = 0; tap < int(w.dim(0)); ++tap) {
          const int64_t n = source(i / (y.dim(1) * y.dim(2)), tap / (kernel.h * kernel.w), stride.t, pad.t, x.dim(0));
          const int64_t row = source(i / y.dim(2) % y.dim(1), tap / kernel.w % kernel.h, stride.h, pad.h, x.dim(1));
          const int64_t col = source(i % y.dim(2), tap % kernel.w, stride.w, pad.w, x.dim(2));
          for (int64_t k = 0; n >= 0 && row >= 0 && col >= 0 && k < w.dim(1); ++k) {
            float weight[most];
            format(w.type).to_float(w.row_bytes(tap * w.dim(1) + k) + bytes_of(w.type, c), weight, count);
            const double in = x.row<float>((n * x.dim(1) + row) * x.dim(2) + col)[k];
            for (int64_t o = 0; o < count; ++o) sum[o] += in * weight[o];
          }
        }
        for (int64_t o = 0; o < count; ++o) y.row<float>(i)[c + o] = activate(act, float(sum[o]));
      }
  }
};

}  // namespace folio
