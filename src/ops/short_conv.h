// SPDX-License-Identifier: MIT
// The short causal convolution that stands before most recurrent mixers: each channel sees itself and its W − 1 predecessors. Under
// the page law its memory is its input, as rows of the pages, readable W − 1 tokens back.
#pragma once
#include "ops/elementwise.h"
#include "ops/runs.h"

namespace folio {

// y[t,c] = act(bias[c] + Σ_i w[i,c] · x[t − W + 1 + i, c])       over the tokens of t's own sequence, 0 before its first
// and rows[page of t, row of t] = x[t]. Padding (seq −1) puts out 0.
struct ShortConv {
  static constexpr const char* name = "short_conv";
  Tensor x;         // [T, C] f32
  Tensor w;         // [W, C] f32: the newest token meets the last row
  Tensor bias;      // [C] f32, may be absent
  Tensor page;      // [B, most] i32
  Tensor seq, pos;  // [T] i32
  Tensor rows;      // [N, 64, 1, C] f32   pool
  Act act = Act::none;
  Tensor y;         // [T, C] f32

  void visit(auto& v) {
    v.in("x", x); v.in("w", w); v.in("bias", bias); v.in("page", page); v.in("seq", seq); v.in("pos", pos); v.inout("rows", rows);
    v.attr("act", int(act)); v.out("y", y);
  }
  void shape() {
    check(x.type == F32 && x.rank() == 2 && w.type == F32 && w.rank() == 2 && w.cols() == x.cols() && w.dim(0) >= 1 && w.dim(0) <= page_tokens &&
          (!bias.present() || (bias.type == F32 && bias.shape == Shape{x.cols()})), "short_conv: x is ", x.shape.text(), ", w ", w.shape.text());
    check(rows.type == F32 && rows.shape == Shape({rows.dim(0), page_tokens, 1, x.cols()}), "short_conv: x is ", x.shape.text(), ", rows ", rows.shape.text());
    check(page.type == I32 && page.rank() == 2 && seq.type == I32 && seq.shape == Shape{x.dim(0)} && pos.type == I32 && pos.shape == seq.shape,
          "short_conv: page is ", page.shape.text(), ", seq ", seq.shape.text(), ", pos ", pos.shape.text());
    y = Tensor::of(F32, x.shape);
  }

  // The input `back` tokens before t; null before the sequence's first. A run's tokens stand side by side in the step.
  const float* input(int64_t t, int64_t back) const {
    const int32_t *s = seq.at<int32_t>(), *p = pos.at<int32_t>();
    if (p[t] < back) return nullptr;
    if (t >= back && s[t - back] == s[t] && p[t - back] == p[t] - back) return x.row<float>(t - back);
    return place(s[t], p[t] - back);
  }
  float* place(int64_t b, int64_t p) const { return rows.row<float>(int64_t(page.row<int32_t>(b)[p / page_tokens]) * page_tokens + p % page_tokens); }

  void reference(Worker worker) const {
    const int64_t width = w.dim(0), cols = x.cols();
    for (int64_t t : worker.share(x.dim(0))) {
      float* out = y.row<float>(t);
      const int64_t b = seq.at<int32_t>()[t];
      if (b < 0) {
        std::fill_n(out, cols, 0.0f);
        continue;
      }
      for (int64_t c = 0; c < cols; ++c) out[c] = bias.present() ? bias.at<float>()[c] : 0;
      for (int64_t i = 0; i < width; ++i) {
        const float *in = input(t, width - 1 - i), *tap = w.row<float>(i);
        for (int64_t c = 0; in && c < cols; ++c) out[c] += tap[c] * in[c];
      }
      for (int64_t c = 0; act != Act::none && c < cols; ++c) out[c] = activate(act, out[c]);
      std::copy_n(x.row<float>(t), cols, place(b, pos.at<int32_t>()[t]));
    }
  }
};

}  // namespace folio
