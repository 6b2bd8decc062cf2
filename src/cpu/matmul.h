// SPDX-License-Identifier: MIT
// A product of some tokens with some rows of weights, by one worker: what Matmul and ExpertMatmul share. MatmulCut says how the product
// is cut up, MatmulRows computes a part of its rows. Weights are never copied as a whole: few tokens (decoding, drafts) read each row
// once, straight from the file; for many, a worker puts some rows at a time into the form that the inner loops like best (a panel in its
// second-level cache) and runs all tokens past them. Which worker computed a result, and beside which others, changes no bit of it
// (simd/matmul.h).
#pragma once
#include <algorithm>

#include "cpu/simd/simd.h"
#include "ops/matmul.h"

namespace folio {

inline const MatmulFormat& matmul_format(DType type) {
  const MatmulInner& m = simd().matmul;
  switch (type) {
    case F16: return m.f16;
    case BF16: return m.bf16;
    case Q8_0: return m.q8_0;
    case Q4_0: return m.q4_0;
    case F8_E4M3: return m.f8_e4m3;
    default: return m.f32;
  }
}

inline int64_t up_to_line(int64_t bytes) { return (bytes + 63) / 64 * 64; }

struct MatmulCut {
  static constexpr int64_t fewest_packed_tokens = 12;       // from here on a panel pays,
  static constexpr int64_t fewest_for_short_rows = 2;       // of rows with less than a block for each lane, which `few` is slow to read
  static constexpr int64_t panel_budget = 512 << 10;        // of a second-level cache of 1 MiB, which tokens pass through too
  static constexpr int64_t most_plain_tokens = 2;           // more are packed, for their places in the cache
  static constexpr int64_t tokens_at_once = 48;             // sums of so many tokens wait in the first-level cache for the rest

  const MatmulFormat& format;
  int64_t tokens, features, k;
  bool packs;            // rows go into panels
  int64_t rows;          // of a part: what one call of the inner loops sees
  int64_t stretch;       // rows in a row for one worker, between two looks at the counter
  int64_t token_bytes;   // of a packed token; 0: plain

  // `all`: features of the whole op, of which these may be one expert's.
  MatmulCut(DType type, int64_t tokens, int64_t features, int64_t k, int64_t all, int workers)
      : format(matmul_format(type)), tokens(tokens), features(features), k(k) {
    const bool short_rows = (type == Q8_0 || type == Q4_0) && k < 16 * format.panel_rows;   // a panel has two registers of rows
    packs = tokens >= (short_rows ? fewest_for_short_rows : fewest_packed_tokens);
    token_bytes = packs ? format.panel_token_bytes(k) : format.plain_tokens && tokens <= most_plain_tokens ? 0 : format.token_bytes(k);
    const int64_t share = all / (4 * workers), step = packs ? format.panel_rows : 4;
    // Many tokens: the part's panels fit the cache. Few: rows stream past, and what is fetched ahead should be the same worker's.
    const int64_t most = packs ? panel_budget / std::max<int64_t>(1, format.panel_bytes(k)) * step : MatmulFormat::most_rows;
    rows = std::clamp<int64_t>(std::min(most, share) / step * step, step, MatmulFormat::most_rows);
    stretch = packs ? rows : std::clamp<int64_t>(all / (8 * workers), rows, std::max(rows, features)) / rows * rows;
  }
  int64_t stretches() const { return (features + stretch - 1) / stretch; }
  int64_t panels_bytes() const { return packs ? up_to_line(format.panel_bytes(k)) * (rows / format.panel_rows) : 0; }   // of a part
};

// Rows of a product with all its tokens, for both matrices of a gated one. Of the op, x is not looked at: tokens lie at `x`, plain or
// packed, and results go to row place[t] of y (null: to row t).
class MatmulRows {
 public:
  MatmulRows(const Matmul& op, const MatmulCut& cut, const uint8_t* x, int64_t x_stride, uint8_t* panel, const int32_t* place = nullptr)
      : op_(op), cut_(cut), x_(x), x_stride_(x_stride), panel_(panel), place_(place) {}

  // The rows of a stretch.
  void run(int64_t stretch) {
    const int64_t from = stretch * cut_.stretch, to = std::min(from + cut_.stretch, cut_.features);
    for (int64_t row = from; row < to; row += cut_.rows) part(row);
  }

 private:
  void part(int64_t first) {
    const int64_t n = std::min(cut_.rows, cut_.features - first), tokens_at_once = MatmulCut::tokens_at_once;
    const bool gated = op_.gate.present();
    pack(op_.w, first, n, panel_);
    if (gated) pack(op_.gate, first, n, panel_ + cut_.panels_bytes());
    for (int64_t t = 0; t < cut_.tokens; t += tokens_at_once) {
      const int64_t tokens = std::min(tokens_at_once, cut_.tokens - t);
      sums(op_.w, first, n, t, tokens, panel_, u_);
      if (gated) sums(op_.gate, first, n, t, tokens, panel_ + cut_.panels_bytes(), gate_);
      for (int64_t i = 0; i < tokens; ++i) finish(first, n, t + i, u_ + i * n, gated ? gate_ + i * n : nullptr);
    }
  }
  void pack(const Tensor& w, int64_t first, int64_t n, uint8_t* to) const {
    if (!cut_.packs) return;
    const int rows = cut_.format.panel_rows;
    for (int64_t i = 0; i < n; i += rows, to += up_to_line(cut_.format.panel_bytes(cut_.k)))
      cut_.format.pack_panel(w.row<const uint8_t>(first + i), bytes_of(w.type, w.stride[0]), int(std::min<int64_t>(rows, n - i)), cut_.k, to);
  }
  void sums(const Tensor& w, int64_t first, int64_t n, int64_t t, int64_t tokens, const uint8_t* panels, float* out) const {
    const bool packs = cut_.packs;
    const MatmulPart part = {.w = packs ? panels : w.row<const uint8_t>(first),
                             .w_stride = packs ? up_to_line(cut_.format.panel_bytes(cut_.k)) : bytes_of(w.type, w.stride[0]),
                             .x = x_ + t * x_stride_, .x_stride = x_stride_, .k = cut_.k, .rows = int(n), .tokens = int(tokens),
                             .out = out, .out_stride = n};
    (packs ? cut_.format.many : cut_.format.few)(part);
  }
  void finish(int64_t first, int64_t n, int64_t t, const float* u, const float* gate) const {
    const int64_t row = place_ ? place_[t] : t;
    auto from = [&](const Tensor& v, int64_t at) { return v.present() ? v.at<const float>() + at * v.stride[0] + first : nullptr; };
    simd().matmul.finish({.u = u, .gate = gate, .bias = from(op_.bias, 0), .gate_bias = from(op_.gate_bias, 0), .add = from(op_.add, row),
                          .y = op_.y.at<float>() + row * op_.y.stride[0] + first, .n = n, .act = int(op_.act)});
  }

  const Matmul& op_;
  const MatmulCut& cut_;
  const uint8_t* x_;
  int64_t x_stride_;
  uint8_t* panel_;
  const int32_t* place_;
  alignas(64) float u_[MatmulCut::tokens_at_once * MatmulFormat::most_rows];
  alignas(64) float gate_[MatmulCut::tokens_at_once * MatmulFormat::most_rows];
};

}  // namespace folio
