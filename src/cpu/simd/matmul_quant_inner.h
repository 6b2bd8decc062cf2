// SPDX-License-Identifier: MIT
// Matmul of weights in Q8_0 and Q4_0. Tokens are quantised to blocks of 32 bytes with an f32 scale; a block's products are summed
// exactly in integers, then Σ_blocks (w.d · sum) · x.d in f32.
//
// Weights may be stored with an offset that makes them unsigned, as the dot instructions want: Σ (w + c)·x − c·Σ x, and a token's
// c·Σ x is taken off where its sums start.
//
// Few tokens: a lane holds a block (the end of vec.h), so 8 dot instructions and two multiply-adds do 32 products in every lane, and
// the sums of an output are one register. A token lies in groups of `lanes` blocks:
//
//   eight registers of bytes | where its sums start | x.d
//
// Many tokens (matmul_panel_inner.h): a lane holds the same block of another row.
//
//   token | 32 bytes | where its sums start | x.d          panel | 8 × bytes of all rows | w.d | minus_start(w.d)
#pragma once

namespace folio {
namespace {

constexpr int group_blocks = Vec::lanes;
constexpr int column_bytes = 4 * Vec::lanes;
constexpr int group_bytes = 10 * column_bytes;
constexpr int quant_tokens = 8;                  // of `few` at once
constexpr int64_t quant_near_bytes = 20 << 10;   // of the first-level cache, for what is used again and again

int64_t quant_token_bytes(int64_t k) { return groups_of(k / 32) * group_bytes; }

struct Q8 {
  static constexpr int block_bytes = 34, offset = q8_offset;
  static FOLIO_INLINE void columns(const uint8_t* p, int64_t stride, Ints* to) { columns_q8(p + 2, size_t(stride), to); }
  static FOLIO_INLINE Ints dot(Ints sum, Ints w, Ints x) { return dot_q8(sum, w, x); }
};
struct Q4 {
  static constexpr int block_bytes = 18, offset = 8;
  static FOLIO_INLINE void columns(const uint8_t* p, int64_t stride, Ints* to) { columns_q4(p + 2, size_t(stride), to); }
  static FOLIO_INLINE Ints dot(Ints sum, Ints w, Ints x) { return dot_q4(sum, w, x); }
};

// Blocks of 32 numbers: bytes of x·127/max|x|, rounded to even. Infinity and NaN make the scale NaN. A register of blocks at a time,
// turned, for a maximum or a sum over the lanes of each alone is a chain of instructions that wait for one another.
template <int offset>
FOLIO_INLINE void quantise_blocks(const float* x, int blocks, int8_t* q, int32_t* start, float* d) {
  constexpr int lanes = Vec::lanes;
  Vec a[lanes];
  for (int b = 0; b < lanes; ++b) {
    a[b] = zero();
    for (int i = 0; b < blocks && i < 32; i += lanes) a[b] = max(abs(load(x + 32 * b + i)), a[b]);
  }
  transpose(a);
  Vec high = a[0];
  for (int i = 1; i < lanes; ++i) high = max(a[i], high);
  float factor[lanes];
  store(factor, select(less(splat(1e-30f), high), splat(127) / high, zero()));
  for (int b = 0; b < lanes; ++b) {
    a[b] = zero();
    for (int i = 0; i < 32; i += lanes) {
      const Vec v = b < blocks ? round(load(x + 32 * b + i) * splat(factor[b])) : zero();
      a[b] += v;
      store_i8(q + 32 * b + i, max(splat(-127), min(v, splat(127))));
    }
  }
  transpose(a);
  Vec total = a[0];   // exact, or NaN if a number of the block is
  for (int i = 1; i < lanes; ++i) total += a[i];
  store(d, high / splat(127) + (total - total));
  int32_t sum[lanes];
  store_ints(sum, ints_of(select(is_nan(total), zero(), total)));
  for (int b = 0; b < lanes; ++b) start[b] = dot_start - offset * sum[b];
}

template <int offset>
void quantise_token(const float* x, int64_t k, uint8_t* to) {
  const int64_t blocks = k / 32;
  for (int64_t g = 0; g < blocks; g += group_blocks, to += group_bytes) {
    int8_t q[group_blocks * 32];
    int32_t start[group_blocks];
    float d[group_blocks];
    quantise_blocks<offset>(x + 32 * g, int(blocks - g < group_blocks ? blocks - g : group_blocks), q, start, d);
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

// A block in every lane, `stride` bytes apart.
template <class Q>
FOLIO_INLINE void read_group(const uint8_t* p, int64_t stride, QuantGroup& to) {
  Q::columns(p, stride, to.w);
  to.d = f16_of_blocks(p, size_t(stride));
  to.minus = minus_start(to.d);
}
// With fewer blocks, the others are 0.
template <class Q>
__attribute__((noinline)) void read_part_of_group(const uint8_t* p, int64_t stride, int64_t blocks, QuantGroup& to) {
  uint8_t whole[group_blocks * Q::block_bytes] = {};
  for (int64_t b = 0; b < blocks; ++b) __builtin_memcpy(whole + b * Q::block_bytes, p + b * stride, size_t(Q::block_bytes));
  read_group<Q>(whole, Q::block_bytes, to);
}

FOLIO_INLINE Vec column_floats(const uint8_t* group, int j) { return load(reinterpret_cast<const float*>(group + j * column_bytes)); }
FOLIO_INLINE Ints column_ints(const uint8_t* group, int j) { return load_ints(group + j * column_bytes); }

// ---- few tokens: a group of a row is put in order in registers and meets all tokens

// Token beside token, for the instructions of one sum wait for one another. With one or two tokens there are two sums each, which changes
// nothing: they are exact.
template <class Q, int T>
FOLIO_INLINE void meet_tokens(const QuantGroup& g, const uint8_t* x, int64_t x_stride, Vec (&sums)[T]) {
  constexpr int chains = T <= 2 ? 2 : 1;
  Ints dots[T][chains] = {};
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) dots[t][0] = column_ints(x + t * x_stride, 8);
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j)
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) dots[t][j % chains] = Q::dot(dots[t][j % chains], g.w[j], column_ints(x + t * x_stride, j));
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    const Ints dot = chains == 2 ? dots[t][0] + dots[t][chains - 1] : dots[t][0];
    sums[t] = fma(scaled(dot, g.d, g.minus), column_floats(x + t * x_stride, 9), sums[t]);
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
    read_group<Q>(p, Q::block_bytes, g);
    meet_tokens<Q, T>(g, x, x_stride, sums);
  }
  if (b < to) {
    read_part_of_group<Q>(p, Q::block_bytes, to - b, g);
    meet_tokens<Q, T>(g, x, x_stride, sums);
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) all[t] = sums[t];
}

// Some rows at a time, so that their sums and, of the tokens, what `cut` lets through stay in the first-level cache.
template <class Q, int T>
__attribute__((noinline)) void quant_rows(const MatmulPart& p, const uint8_t* x, float* out) {
  constexpr int rows = 16;
  constexpr int64_t near = quant_near_bytes / group_bytes / T, cut = (near < 1 ? 1 : near) * group_blocks;
  const int64_t blocks = p.k / 32, ahead = blocks > cut ? 2 * p.w_stride : 3072;   // a cut takes row after row
  Vec sums[rows * T];
  for (Vec& s : sums) s = zero();
  for (int first = 0; first < p.rows; first += rows) {
    const int n = p.rows - first < rows ? p.rows - first : rows;
    const uint8_t* w = p.w + first * p.w_stride;
    for (int64_t b = 0; b < blocks; b += cut)
      for (int r = 0; r < n; ++r)
        quant_row<Q, T>(w + r * p.w_stride, x, p.x_stride, b, b + cut < blocks ? b + cut : blocks, ahead, sums + r * T);
    for (int t = 0; t < T; ++t) store_sums(out + t * p.out_stride + first, sums + t, T, n);
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

// ---- many tokens

template <class Q>
struct QuantPanel {
#if FOLIO_SET == FOLIO_SET_avx2 || FOLIO_SET == FOLIO_SET_plain
  static constexpr int tile_tokens = 2;
#else
  static constexpr int tile_tokens = 6;          // 12 sums of integers, 12 of floats, 8 registers for the rest
#endif
  static constexpr int vectors = 2, rows = vectors * Vec::lanes;
  static constexpr int64_t panel_unit = 40 * rows, token_unit = 40;
  static constexpr int64_t units(int64_t k) { return k / 32; }

  template <int T>
  static FOLIO_INLINE void step(const uint8_t* panel, const uint8_t* x, int64_t x_stride, Vec (&sums)[vectors][T]) {
    auto column = [&](int j, int r) { return panel + (j * vectors + r) * column_bytes; };
    Ints dots[vectors][T];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t)
#pragma GCC unroll 4
      for (int r = 0; r < vectors; ++r) dots[r][t] = splat_ints(x + t * x_stride + 32);
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      Ints w[vectors];
#pragma GCC unroll 4
      for (int r = 0; r < vectors; ++r) w[r] = load_ints(column(j, r));
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) {
        const Ints four = splat_ints(x + t * x_stride + 4 * j);
#pragma GCC unroll 4
        for (int r = 0; r < vectors; ++r) dots[r][t] = Q::dot(dots[r][t], w[r], four);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < vectors; ++r) {
      const Vec d = load(reinterpret_cast<const float*>(column(8, r))), minus = load(reinterpret_cast<const float*>(column(9, r)));
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) sums[r][t] = fma(scaled(dots[r][t], d, minus), splat_at(x + t * x_stride + 36), sums[r][t]);
    }
  }
  template <int T>
  static __attribute__((noinline)) void tile(const PanelTile& a) {
    for (int64_t l = 0; l < a.lanes; ++l) {
      Vec sums[vectors][T];
      begin_sums(a, sums);
      const uint8_t *panel = a.panel + l * a.lane_bytes, *x = a.x + l * a.units * token_unit, *next = a.next + l * a.units * token_unit;
      for (int64_t u = 0; u < a.units; ++u, panel += panel_unit, x += token_unit, next += token_unit) {
#pragma GCC unroll 16
        for (int t = 0; t < T; ++t) prefetch(next + t * a.x_stride);
        step<T>(panel, x, a.x_stride, sums);
      }
      keep_sums(a, sums);
    }
  }

  static void pack_rows(const uint8_t* w, int64_t stride, int present, int64_t k, uint8_t* to) {
    const int64_t blocks = units(k), lanes = lanes_of(blocks);
    for (int r = 0; r < vectors; ++r) {
      const int some = present - r * Vec::lanes;
      for (int64_t first = 0, g = 0; first < blocks; first += lanes, ++g)
        for (int64_t l = 0; l < lanes; ++l) {
          QuantGroup group;
          const uint8_t* from = w + r * Vec::lanes * stride + (first + l) * Q::block_bytes;
          if (first + l < blocks && some >= Vec::lanes) read_group<Q>(from, stride, group);
          else read_part_of_group<Q>(from, stride, first + l < blocks ? some : 0, group);
          uint8_t* unit = to + l * panel_lane_bytes<QuantPanel>(k) + g * panel_unit + r * column_bytes;
          for (int j = 0; j < 8; ++j) store_ints(unit + j * vectors * column_bytes, group.w[j]);
          store(reinterpret_cast<float*>(unit + 8 * vectors * column_bytes), group.d);
          store(reinterpret_cast<float*>(unit + 9 * vectors * column_bytes), group.minus);
        }
    }
  }
  static void pack_token(const float* x, int64_t k, uint8_t* to) {
    const int64_t blocks = units(k), lanes = lanes_of(blocks), groups = groups_of(blocks);
    for (int64_t first = 0, g = 0; first < blocks; first += lanes, ++g) {
      int8_t q[group_blocks * 32];
      int32_t start[group_blocks];
      float d[group_blocks];
      quantise_blocks<Q::offset>(x + 32 * first, int(blocks - first < lanes ? blocks - first : lanes), q, start, d);
      for (int64_t l = 0; l < lanes; ++l) {
        uint8_t* unit = to + (l * groups + g) * token_unit;
        __builtin_memcpy(unit, q + 32 * l, 32);
        __builtin_memcpy(unit + 32, start + l, 4);
        __builtin_memcpy(unit + 36, d + l, 4);
      }
    }
  }
};

template <class Q>
constexpr MatmulFormat quant_format() {
  using Panel = QuantPanel<Q>;
  return {false, quant_token_bytes, quantise_token<Q::offset>, quant_few<Q>, Panel::rows, panel_token_bytes<Panel>, Panel::pack_token,
          panel_bytes<Panel>, Panel::pack_rows, panel_many<Panel>};
}
constexpr MatmulFormat matmul_q8_0 = quant_format<Q8>(), matmul_q4_0 = quant_format<Q4>();

}  // namespace
}  // namespace folio
