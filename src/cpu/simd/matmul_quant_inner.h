// SPDX-License-Identifier: MIT
// Matmul of weights in Q8_0 and Q4_0. Tokens are quantised to blocks of 32 bytes with an f32 scale; a block's products are summed
// exactly in integers, then Σ_blocks (w.d · sum) · x.d in f32. A lane holds a block (the end of vec.h), so 8 dot instructions and two
// multiply-adds do 32 products in every lane, and the sums of an output are one register, as in matmul_float_inner.h.
//
// Weights may be stored with an offset that makes them unsigned, as the dot instructions want: Σ (w + c)·x − c·Σ x, and a token's
// c·Σ x is taken off where its sums start. A group, of a token or of a row in a panel:
//
//   eight registers of bytes | token: where its sums start   | token: x.d
//                            | row: w.d                      | row: minus_start(w.d)
#pragma once

namespace folio {
namespace {

constexpr int group_blocks = Vec::lanes;
constexpr int column_bytes = 4 * Vec::lanes;
constexpr int group_bytes = 10 * column_bytes;
constexpr int quant_tokens = 8;                  // of `few` at once
constexpr int64_t quant_near_bytes = 20 << 10;   // of the first-level cache, for what is used again and again

constexpr int64_t groups_of(int64_t k) { return (k / 32 + group_blocks - 1) / group_blocks; }
int64_t quant_bytes(int64_t k) { return groups_of(k) * group_bytes; }

struct Q8 {
  static constexpr int block_bytes = 34, offset = q8_offset;
  static FOLIO_INLINE void columns(const uint8_t* p, Ints* to) { columns_q8(p + 2, block_bytes, to); }
  static FOLIO_INLINE Ints dot(Ints sum, Ints w, Ints x) { return dot_q8(sum, w, x); }
};
struct Q4 {
  static constexpr int block_bytes = 18, offset = 8;
  static FOLIO_INLINE void columns(const uint8_t* p, Ints* to) { columns_q4(p + 2, block_bytes, to); }
  static FOLIO_INLINE Ints dot(Ints sum, Ints w, Ints x) { return dot_q4(sum, w, x); }
};

// One block of 32 numbers: bytes of x·127/max|x|, rounded to even; returns the scale. Infinity and NaN make the scale NaN.
FOLIO_INLINE float quantise_block(const float* x, int8_t* q) {
  Vec most = zero(), odd = zero();
  for (int i = 0; i < 32; i += Vec::lanes) {
    const Vec v = load(x + i);
    most = max(abs(v), most);
    odd = odd + (v - v);
  }
  const float high = highest(most);
  const Vec factor = splat(high > 1e-30f ? 127 / high : 0);
  for (int i = 0; i < 32; i += Vec::lanes) store_i8(q + i, max(splat(-127), min(round(load(x + i) * factor), splat(127))));
  return high / 127 + sum(odd);
}

template <int offset>
void quantise_token(const float* x, int64_t k, uint8_t* to) {
  const int64_t blocks = k / 32;
  for (int64_t g = 0; g < blocks; g += group_blocks, to += group_bytes) {
    int8_t q[group_blocks * 32] = {};
    int32_t start[group_blocks];
    float d[group_blocks];
    for (int b = 0; b < group_blocks; ++b) {
      d[b] = g + b < blocks ? quantise_block(x + 32 * (g + b), q + 32 * b) : 0;
      int32_t all = 0;
      for (int i = 0; i < 32; ++i) all += q[32 * b + i];
      start[b] = dot_start - offset * all;
    }
    Ints column[8];
    columns_of_blocks(reinterpret_cast<const uint8_t*>(q), 32, column);
    for (int j = 0; j < 8; ++j) store_ints(to + j * column_bytes, column[j]);
    store_ints(to + 8 * column_bytes, load_ints(start));
    store(reinterpret_cast<float*>(to + 9 * column_bytes), load(d));
  }
}

struct QuantGroup {
  Ints w[8];
  Vec d, minus;
};

template <class Q>
FOLIO_INLINE void read_group(const uint8_t* p, QuantGroup& to) {
  Q::columns(p, to.w);
  to.d = f16_of_blocks(p, Q::block_bytes);
  to.minus = minus_start(to.d);
}
// The last group of a row, with fewer blocks: the others are 0.
template <class Q>
__attribute__((noinline)) void read_part_of_group(const uint8_t* p, int64_t blocks, QuantGroup& to) {
  uint8_t whole[group_blocks * Q::block_bytes] = {};
  __builtin_memcpy(whole, p, size_t(blocks * Q::block_bytes));
  read_group<Q>(whole, to);
}

template <class Q>
void pack_quant_row(const uint8_t* w, int64_t k, uint8_t* to) {
  const int64_t blocks = k / 32;
  for (int64_t b = 0; b < blocks; b += group_blocks, to += group_bytes) {
    QuantGroup g;
    if (blocks - b >= group_blocks) read_group<Q>(w + b * Q::block_bytes, g);
    else read_part_of_group<Q>(w + b * Q::block_bytes, blocks - b, g);
    for (int j = 0; j < 8; ++j) store_ints(to + j * column_bytes, g.w[j]);
    store(reinterpret_cast<float*>(to + 8 * column_bytes), g.d);
    store(reinterpret_cast<float*>(to + 9 * column_bytes), g.minus);
  }
}

FOLIO_INLINE Vec column_floats(const uint8_t* group, int j) { return load(reinterpret_cast<const float*>(group + j * column_bytes)); }
FOLIO_INLINE Ints column_ints(const uint8_t* group, int j) { return load_ints(group + j * column_bytes); }

// ---- few tokens: a group of a row is put in order in registers and meets all tokens

template <class Q, int T>
FOLIO_INLINE void meet_tokens(const QuantGroup& g, const uint8_t* x, int64_t x_stride, Vec (&sums)[T]) {
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    const uint8_t* token = x + t * x_stride;
    Ints dot = column_ints(token, 8);
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) dot = Q::dot(dot, g.w[j], column_ints(token, j));
    sums[t] = fma(scaled(dot, g.d, g.minus), column_floats(token, 9), sums[t]);
  }
}

// Blocks from..to of one row.
template <class Q, int T>
FOLIO_INLINE void quant_row(const uint8_t* w, const uint8_t* x, int64_t x_stride, int64_t from, int64_t to, int64_t ahead, Vec* all) {
  Vec sums[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) sums[t] = from == 0 ? zero() : all[t];
  QuantGroup g;
  const uint8_t* p = w + from * Q::block_bytes;
  x += from / group_blocks * group_bytes;
  int64_t b = from;
  for (; b + group_blocks <= to; b += group_blocks, p += group_blocks * Q::block_bytes, x += group_bytes) {
    for (int line = 0; line < group_blocks * Q::block_bytes; line += 64) prefetch(p + ahead + line);
    read_group<Q>(p, g);
    meet_tokens<Q, T>(g, x, x_stride, sums);
  }
  if (b < to) {
    read_part_of_group<Q>(p, to - b, g);
    meet_tokens<Q, T>(g, x, x_stride, sums);
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) all[t] = sums[t];
}

// Eight rows at a time, so that their sums and, of the tokens, what `cut` lets through stay in the first-level cache.
template <class Q, int T>
__attribute__((noinline)) void quant_rows(const MatmulPart& p, const uint8_t* x, float* out) {
  constexpr int rows = 8;
  constexpr int64_t near = quant_near_bytes / group_bytes / T, cut = (near < 1 ? 1 : near) * group_blocks;
  constexpr int64_t ahead = 2048;
  const int64_t blocks = p.k / 32;
  Vec sums[rows * T];
  for (Vec& s : sums) s = zero();
  for (int first = 0; first < p.rows; first += rows) {
    const int n = p.rows - first < rows ? p.rows - first : rows;
    const uint8_t* w = p.w + first * p.w_stride;
    for (int64_t b = 0; b < blocks; b += cut)
      for (int r = 0; r < n; ++r)
        quant_row<Q, T>(w + r * p.w_stride, x, p.x_stride, b, b + cut < blocks ? b + cut : blocks, ahead, sums + r * T);
    for (int t = 0; t < T; ++t)
      for (int r = 0; r < n; ++r) out[t * p.out_stride + first + r] = sum(sums[r * T + t]);
  }
}

template <class Q>
void quant_few(const MatmulPart& p) {
  for (int t = 0, n; t < p.tokens; t += n) {
    n = p.tokens - t < quant_tokens ? p.tokens - t : quant_tokens;
    const uint8_t* x = p.x + t * p.x_stride;
    float* out = p.out + t * p.out_stride;
    switch (n) {
      case 1: quant_rows<Q, 1>(p, x, out); break;
      case 2: quant_rows<Q, 2>(p, x, out); break;
      case 3: quant_rows<Q, 3>(p, x, out); break;
      case 4: quant_rows<Q, 4>(p, x, out); break;
      case 5: quant_rows<Q, 5>(p, x, out); break;
      case 6: quant_rows<Q, 6>(p, x, out); break;
      case 7: quant_rows<Q, 7>(p, x, out); break;
      case 8: quant_rows<Q, 8>(p, x, out); break;
    }
  }
}

// ---- many tokens: tiles over a panel

#if FOLIO_SET == FOLIO_SET_avx2 || FOLIO_SET == FOLIO_SET_plain
constexpr int quant_tile_rows = 2, quant_tile_tokens = 2;
#else
constexpr int quant_tile_rows = 4, quant_tile_tokens = 3;   // 12 sums of integers, 12 of floats, 8 registers for the rest
#endif

// `all` holds sums from one cut of K to the next; out is written after the last.
template <class Q, int R, int T>
__attribute__((noinline)) void quant_tile(const uint8_t* w, int64_t w_stride, const uint8_t* x, int64_t x_stride, int64_t groups, bool goes_on,
                                          Vec* all, float* out, int64_t out_stride) {
  Vec sums[R][T];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) sums[r][t] = goes_on ? all[r * T + t] : zero();
  for (int64_t g = 0; g < groups; ++g, w += group_bytes, x += group_bytes) {
    Ints dots[R][T];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      dots[0][t] = column_ints(x + t * x_stride, 8);
#pragma GCC unroll 8
      for (int r = 1; r < R; ++r) dots[r][t] = dots[0][t];
    }
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      Ints token[T];
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) token[t] = column_ints(x + t * x_stride, j);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Ints row = column_ints(w + r * w_stride, j);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) dots[r][t] = Q::dot(dots[r][t], row, token[t]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vec d = column_floats(w + r * w_stride, 8), minus = column_floats(w + r * w_stride, 9);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) sums[r][t] = fma(scaled(dots[r][t], d, minus), column_floats(x + t * x_stride, 9), sums[r][t]);
    }
  }
  if (!out) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) all[r * T + t] = sums[r][t];
    return;
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    float* o = out + t * out_stride;
    if constexpr (R == 4) {
      store_four_sums(o, sums[0][t], sums[1][t], sums[2][t], sums[3][t]);
    } else {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) o[r] = sum(sums[r][t]);
    }
  }
}

// The rows of a tile stay in the first-level cache while all tokens pass by; where K is too long for that, some of it at a time.
template <class Q, int R>
void quant_tokens_of(const MatmulPart& p, int r) {
  constexpr int n = quant_tile_tokens, most = 64;
  constexpr int64_t cut = quant_near_bytes / 2 / (R * group_bytes) > 0 ? quant_near_bytes / 2 / (R * group_bytes) : 1;
  const int64_t groups = groups_of(p.k);
  Vec all[R * most];
  for (int first = 0; first < p.tokens; first += most) {
    const int last = p.tokens - first < most ? p.tokens : first + most;
    for (int64_t g = 0; g < groups; g += cut) {
      const int64_t some = groups - g < cut ? groups - g : cut;
      const uint8_t *w = p.w + r * p.w_stride + g * group_bytes, *x = p.x + g * group_bytes;
      float* out = g + some == groups ? p.out + r : nullptr;
      int t = first;
      for (; t + n <= last; t += n)
        quant_tile<Q, R, n>(w, p.w_stride, x + t * p.x_stride, p.x_stride, some, g > 0, all + (t - first) * R, out ? out + t * p.out_stride : out, p.out_stride);
      for (; t < last; ++t)
        quant_tile<Q, R, 1>(w, p.w_stride, x + t * p.x_stride, p.x_stride, some, g > 0, all + (t - first) * R, out ? out + t * p.out_stride : out, p.out_stride);
    }
  }
}

template <class Q>
void quant_many(const MatmulPart& p) {
  int r = 0;
  for (; r + quant_tile_rows <= p.rows; r += quant_tile_rows) quant_tokens_of<Q, quant_tile_rows>(p, r);
  for (; r < p.rows; ++r) quant_tokens_of<Q, 1>(p, r);
}

constexpr MatmulFormat matmul_q8_0 = {false, quant_bytes, quantise_token<Q8::offset>, quant_bytes, pack_quant_row<Q8>, quant_few<Q8>, quant_many<Q8>};
constexpr MatmulFormat matmul_q4_0 = {false, quant_bytes, quantise_token<Q4::offset>, quant_bytes, pack_quant_row<Q4>, quant_few<Q4>, quant_many<Q4>};

}  // namespace
}  // namespace folio
