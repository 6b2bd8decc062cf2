// SPDX-License-Identifier: MIT
// Conv's inner loops, three of them:
//
//   wide       lanes along output channels. A tile of pixels × two registers of sums; each number of the input is spread over a register
//              and meets two of weights. The panel of weights stays in the first-level cache while the chunk's tiles pass.
//   row        for 3 or 8 output channels, of which a register would stay empty: lanes along the image's row, over planes of the input, a
//              weight spread over a register. A tap further right is the same plane, read one number further on.
//   depthwise  lanes along channels, taps one after the other.
//
// Each output is one chain of multiply-adds that begins with bias and add and takes taps and channels in ascending order. So its bits do
// not depend on tiles, chunks or blocks, nor on how a clip or an image was cut.
#pragma once
#include "cpu/simd/conv.h"
#include "cpu/simd/transpose.h"

namespace folio {
namespace {

// A tile in registers: pixels × two vectors; for few channels as many sums.
#if FOLIO_SET == FOLIO_SET_avx512 || FOLIO_SET == FOLIO_SET_neon
constexpr int conv_pixels = 12;
#else
constexpr int conv_pixels = 6;
#endif
constexpr int conv_sums = 2 * conv_pixels, conv_panel = 2 * Vec::lanes;
constexpr int conv_thin = Vec::lanes / 2;

FOLIO_INLINE Vec conv_load(const float* p, int n) { return n >= Vec::lanes ? load(p) : n > 0 ? load_n(p, n) : zero(); }
FOLIO_INLINE void conv_store(float* p, Vec a, int n) {
  if (n >= Vec::lanes) store(p, a);
  else if (n > 0) store_n(p, a, n);
}

// f(sum, pixel, channel of its first lane, how many of its lanes count) for pixels p < count <= P.
template <int P, int V, class F>
FOLIO_INLINE void conv_each(const ConvOut& o, int count, Vec (&sum)[P][V], F f) {
  auto all = [&](bool whole) __attribute__((always_inline)) {
    FOLIO_UNROLL
    for (int p = 0; p < P; ++p)
      if (p < count) {
        FOLIO_UNROLL
        for (int v = 0; v < V; ++v) f(sum[p][v], p, v * Vec::lanes, whole ? Vec::lanes : o.width - v * Vec::lanes);
      }
  };
  if (o.width >= V * Vec::lanes) all(true);
  else all(false);
}
// What the sums of pixels from `col` on begin with, and where they go.
template <int P, int V>
FOLIO_INLINE void conv_begin(const ConvOut& o, int row, int col, int count, Vec (&sum)[P][V]) {
  if (!o.begins) {
    const float* const y = o.y + row * o.y_row + col * o.y_pixel;
    conv_each(o, count, sum, [&](Vec& s, int p, int c, int n) { s = conv_load(y + p * o.y_pixel + c, n); });
    return;
  }
  Vec bias[V];
  for (int v = 0; v < V; ++v) bias[v] = o.bias ? conv_load(o.bias + v * Vec::lanes, o.width - v * Vec::lanes) : zero();
  FOLIO_UNROLL
  for (int p = 0; p < P; ++p)
    FOLIO_UNROLL
    for (int v = 0; v < V; ++v) sum[p][v] = bias[v];
  if (!o.add) return;
  const float* const add = o.add + row * o.add_row + col * o.add_pixel;
  conv_each(o, count, sum, [&](Vec& s, int p, int c, int n) { s += conv_load(add + p * o.add_pixel + c, n); });
}
template <int P, int V>
FOLIO_INLINE void conv_end(const ConvOut& o, int row, int col, int count, Vec (&sum)[P][V]) {
  if (o.ends && o.relu)
    FOLIO_UNROLL
    for (int p = 0; p < P; ++p)
      FOLIO_UNROLL
      for (int v = 0; v < V; ++v) sum[p][v] = max(sum[p][v], zero());
  float* const y = o.y + row * o.y_row + col * o.y_pixel;
  conv_each(o, count, sum, [&](Vec& s, int p, int c, int n) { conv_store(y + p * o.y_pixel + c, s, n); });
}

template <int P, int V>
void conv_tile(const ConvBlock& a, int row, int col) {
  Vec sum[P][V];
  conv_begin(a.out, row, col, P, sum);
  const float* w = a.w;
  const int64_t step = a.step;
  for (int i = 0; i < a.count; ++i) {
    const ConvPiece& piece = a.pieces[i];
    constexpr int three = 3;   // pixels to an address: base, base + step and base + 2·step are one register less each
    const float* x[(P + 2) / three];
    FOLIO_UNROLL
    for (int g = 0; g < (P + 2) / three; ++g) x[g] = piece.x + row * piece.row + (col + g * three) * step;
    for (int k = 0; k < piece.count; ++k, w += conv_panel) {
      Vec by[V];
      FOLIO_UNROLL
      for (int v = 0; v < V; ++v) by[v] = held(load(w + v * Vec::lanes));
      FOLIO_UNROLL
      for (int p = 0; p < P; ++p) {
        const Vec in = held(splat(x[p / three][p % three * step + k]));
        FOLIO_UNROLL
        for (int v = 0; v < V; ++v) sum[p][v] = fma(in, by[v], sum[p][v]);
      }
    }
  }
  conv_end(a.out, row, col, P, sum);
}

template <int V, int P = conv_pixels>
FOLIO_INLINE void conv_tile_of(int pixels, const ConvBlock& a, int row, int col) {
  if (pixels == P) conv_tile<P, V>(a, row, col);
  else if constexpr (P > 1) conv_tile_of<V, P - 1>(pixels, a, row, col);
}

template <int V>
void conv_wide_of(const ConvBlock& a) {
  const int tiles = (a.out.cols + conv_pixels - 1) / conv_pixels;   // of nearly one size
  for (int row = 0; row < a.out.rows; ++row)
    for (int i = 0; i < tiles; ++i) {
      const int from = a.out.cols * i / tiles, to = a.out.cols * (i + 1) / tiles;
      conv_tile_of<V>(to - from, a, row, from);
    }
}
void conv_wide(const ConvBlock& a) {
  if (a.out.width > Vec::lanes) conv_wide_of<2>(a);
  else conv_wide_of<1>(a);
}

void conv_depthwise(const ConvBlock& a) {
  constexpr int P = 8;
  for (int row = 0; row < a.out.rows; ++row)
    for (int c = 0; c < a.out.width; c += Vec::lanes) {
      ConvOut o = a.out;   // of one register
      o.width = o.width - c < Vec::lanes ? o.width - c : Vec::lanes;
      o.y += c, o.add += o.add ? c : 0, o.bias += o.bias ? c : 0;
      for (int col = 0; col < o.cols; col += P) {
        const int pixels = o.cols - col < P ? o.cols - col : P;
        Vec sum[P][1];
        conv_begin(o, row, col, pixels, sum);
        const float* w = a.w + c;
        for (int i = 0; i < a.count; ++i) {
          const float* x = a.pieces[i].x + row * a.pieces[i].row + col * a.step + c;
          for (int k = 0; k < a.pieces[i].count; ++k, w += a.w_row, x += a.channel) {
            const Vec by = conv_load(w, o.width);
            FOLIO_UNROLL
            for (int p = 0; p < P; ++p)
              if (p < pixels) sum[p][0] = fma(conv_load(x + p * a.step, o.width), by, sum[p][0]);
          }
        }
        conv_end(o, row, col, pixels, sum);
      }
    }
}

// C output channels of X registers of pixels.
template <int C, int X>
void conv_planes_tile(const ConvRow& a) {
  constexpr int lanes = Vec::lanes;
  const ConvOut& o = a.out;
  alignas(64) float turned[C][X * lanes];
  Vec sum[C][X];
  FOLIO_UNROLL
  for (int c = 0; c < C; ++c) {
    const Vec bias = splat(o.bias && c < o.width ? o.bias[c] : 0);
    for (int i = 0; o.add && c < o.width && i < o.cols; ++i) turned[c][i] = o.add[i * o.add_pixel + c];
    FOLIO_UNROLL
    for (int v = 0; v < X; ++v) sum[c][v] = o.add && c < o.width ? bias + conv_load(turned[c] + v * lanes, o.cols - v * lanes) : bias;
  }
  for (int t = a.from; t < a.to; ++t)
    for (int tap = 0; tap < a.height * a.width; ++tap) {
      const float* x = a.x + t * a.frame + a.rows[tap / a.width] + tap % a.width;
      const float* w = a.w + int64_t(t * a.height * a.width + tap) * a.channels * C;
      for (int k = 0; k < a.channels; ++k, x += a.plane, w += C) {
        Vec few[C < X ? C : X];   // of weights and pixels the fewer stay
        FOLIO_UNROLL
        for (int i = 0; i < (C < X ? C : X); ++i) few[i] = C < X ? held(splat(w[i])) : held(load(x + i * lanes));
        FOLIO_UNROLL
        for (int i = 0; i < (C < X ? X : C); ++i) {
          const Vec one = C < X ? held(load(x + i * lanes)) : held(splat(w[i]));
          FOLIO_UNROLL
          for (int j = 0; j < (C < X ? C : X); ++j) {
            Vec& s = C < X ? sum[j][i] : sum[i][j];
            s = fma(one, few[j], s);
          }
        }
      }
    }
  if (o.relu)
    FOLIO_UNROLL
    for (int c = 0; c < C; ++c)
      FOLIO_UNROLL
      for (int v = 0; v < X; ++v) sum[c][v] = max(sum[c][v], zero());
  if constexpr (C % 4 == 0) {
    if (o.cols == X * lanes && o.width == C) {
      FOLIO_UNROLL
      for (int v = 0; v < X; ++v)
        FOLIO_UNROLL
        for (int c = 0; c < C; c += 4) {
          Vec a[4] = {sum[c][v], sum[c + 1][v], sum[c + 2][v], sum[c + 3][v]};
          turn_quads(a);
          FOLIO_UNROLL
          for (int p = 0; p < 4; ++p) store_quads(o.y + (v * lanes + p) * o.y_pixel + c, 4 * o.y_pixel, a[p]);
        }
      return;
    }
  }
  FOLIO_UNROLL
  for (int c = 0; c < C; ++c)
    FOLIO_UNROLL
    for (int v = 0; v < X; ++v) store(turned[c] + v * lanes, sum[c][v]);
  for (int i = 0; i < o.cols; ++i)
    for (int c = 0; c < o.width; ++c) o.y[i * o.y_pixel + c] = turned[c][i];
}

template <int C, int X = conv_sums / C>
FOLIO_INLINE void conv_planes_of(const ConvRow& a) {
  if constexpr (X > 1) {
    if (a.out.cols <= (X - 1) * Vec::lanes) return conv_planes_of<C, X - 1>(a);
  }
  conv_planes_tile<C, X>(a);
}
constexpr int conv_lot(int channels) { return channels <= 3 ? 3 : channels <= 4 ? 4 : 8; }
constexpr int conv_across(int lot) { return conv_sums / lot * Vec::lanes; }

void conv_row(const ConvRow& a) {
  if (a.lot == 3) conv_planes_of<3>(a);
  else if (a.lot == 4) conv_planes_of<4>(a);
  else conv_planes_of<8>(a);
}

template <class Row>
void conv_pack_of(const void* w, int64_t stride, int rows, int width, float* panel) {
  const auto* from = static_cast<const typename Row::Number*>(w);
  for (int i = 0; i < rows; ++i, from += stride, panel += conv_panel)
    FOLIO_UNROLL
    for (int c = 0; c < conv_panel; c += Vec::lanes) {
      const int n = width - c;
      store(panel + c, n >= Vec::lanes ? Row::load(from + c) : n > 0 ? Row::load_n(from + c, n) : zero());
    }
}
void conv_pack(const void* w, int kind, int64_t stride, int rows, int width, float* panel) {
  if (kind == 0) conv_pack_of<F32Row>(w, stride, rows, width, panel);
  else if (kind == 1) conv_pack_of<F16Row>(w, stride, rows, width, panel);
  else conv_pack_of<Bf16Row>(w, stride, rows, width, panel);
}

void conv_planes(const float* x, int64_t stride, int count, int channels, float* to, int64_t plane) {
  constexpr int lanes = Vec::lanes;
  for (int i = 0; i < count; i += lanes) {
    for (int p = i + 2 * lanes; p < i + 3 * lanes && p < count; ++p)   // each register takes from many lines: none may be waited for
      for (int c = 0; c < channels; c += 16) prefetch(x + p * stride + c);
    for (int c = 0; c < channels; c += 4) {
      if (count - i >= lanes && channels - c >= 4) {
        Vec a[4];   // four channels of pixels 0 4 8 .., of 1 5 9 .. and so on
        FOLIO_UNROLL
        for (int p = 0; p < 4; ++p) a[p] = load_quads(x + (i + p) * stride + c, 4 * stride);
        turn_quads(a);
        FOLIO_UNROLL
        for (int k = 0; k < 4; ++k) store(to + (c + k) * plane + i, a[k]);
        continue;
      }
      for (int k = c; k < channels && k < c + 4; ++k)
        for (int p = i; p < count && p < i + lanes; ++p) to[k * plane + p] = x[p * stride + k];
    }
  }
}

constexpr ConvInner conv_inner = {conv_panel, conv_thin, conv_lot, conv_across, conv_wide, conv_depthwise, conv_row, conv_pack,
                                  conv_planes};

}  // namespace
}  // namespace folio
