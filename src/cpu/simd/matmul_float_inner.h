// SPDX-License-Identifier: MIT
// Matmul of weights in f32, f16, bf16 and F8_E4M3. For few tokens lanes run along K and rows come straight from the file: the sum of an
// output is one register, to which K's steps are added in order, and whose lanes are added at the end, in ascending order. For many
// tokens rows are widened and turned into panels (matmul_panel_inner.h), with the same sums.
//
//   f32, f16, bf16      in f32, activations as they are
//   F8_E4M3             the same with d·q in f32, rounded as the reference rounds it
//   bf16 on avx512_bf16 by vdpbf16ps, activations rounded to bf16
#pragma once

namespace folio {
namespace {

// What a tile multiplies: how a step of a row of weights and of a token is read, and how their product joins a sum. A part is `part`
// numbers of a row, some steps long: at(row, k) says where it begins, after bytes(k), and holds what its steps share; `i` counts from
// there.
template <class Row>
struct Widened {
  using Number = typename Row::Number;
  using Token = float;
  static constexpr int step = Vec::lanes, part = step;
  static constexpr int64_t bytes(int64_t k) { return k * int64_t(sizeof(Number)); }
  static FOLIO_INLINE const Number* at(const uint8_t* row, int64_t k) { return reinterpret_cast<const Number*>(row) + k; }
  static FOLIO_INLINE Vec weight(const Number* p, int i) { return Row::load(p + i); }
  static FOLIO_INLINE Vec weight_n(const Number* p, int n) { return Row::load_n(p, n); }
  static FOLIO_INLINE Vec token(const float* p) { return load(p); }
  static FOLIO_INLINE Vec token_n(const float* p, int n) { return load_n(p, n); }
  static FOLIO_INLINE Vec join(Vec sum, Vec w, Vec x) { return fma(w, x, sum); }
  // A step's units as they stand in a panel or in a token of one.
  static FOLIO_INLINE Vec units(const Number* p, int i) { return Row::load(p + i); }
  static FOLIO_INLINE Vec units_n(const Number* p, int n) { return Row::load_n(p, n); }
  static FOLIO_INLINE Vec join_units(Vec sum, Vec w, Vec x) { return fma(w, x, sum); }
  static FOLIO_INLINE void pack(const float* x, int64_t n, float* to) {
    int64_t i = 0;
    for (; i + Vec::lanes <= n; i += Vec::lanes) store(to + i, load(x + i));
    if (i < n) store_n(to + i, load_n(x + i, int(n - i)), int(n - i));
  }
};

// A part is a block. K is a multiple of it, so no row ends within one.
struct E4m3Blocks : Widened<F32Row> {
  struct Block {
    const uint8_t* q;
    Vec d;   // times 2^8, which load_e4m3 leaves out: a float wherever 448·d is one
  };
  static constexpr int part = 64, block_bytes = 68;
  static constexpr int64_t bytes(int64_t k) { return k / part * block_bytes; }
  // A NaN among the numbers makes the scale NaN: no sum that they join is anything else, and no step has to look.
  static FOLIO_INLINE Block at(const uint8_t* row, int64_t k) {
    const uint8_t* block = row + bytes(k);
    return {block + 4, any_nan_e4m3(block + 4) ? splat(__builtin_nanf("")) : splat_at(block) * splat(256)};
  }
  static FOLIO_INLINE Vec weight(const Block& b, int i) { return load_e4m3(b.q + i) * b.d; }
  static FOLIO_INLINE Vec units(const Block& b, int i) { return weight(b, i); }
};

#ifdef FOLIO_BF16_DOT
struct Paired {
  using Number = uint16_t;
  using Token = uint16_t;
  static constexpr int step = Pairs::numbers, part = step;
  static constexpr int64_t bytes(int64_t k) { return 2 * k; }
  static FOLIO_INLINE const uint16_t* at(const uint8_t* row, int64_t k) { return reinterpret_cast<const uint16_t*>(row) + k; }
  static FOLIO_INLINE Pairs weight(const uint16_t* p, int i) { return load_pairs(p + i); }
  static FOLIO_INLINE Pairs weight_n(const uint16_t* p, int n) { return load_pairs_n(p, n); }
  static FOLIO_INLINE Pairs token(const uint16_t* p) { return load_pairs(p); }
  static FOLIO_INLINE Pairs token_n(const uint16_t* p, int n) { return load_pairs_n(p, n); }
  static FOLIO_INLINE Vec join(Vec sum, Pairs w, Pairs x) { return dot_pairs(sum, w, x); }
  static FOLIO_INLINE Vec units(const uint16_t* p, int i) { return load(reinterpret_cast<const float*>(p + i)); }
  static FOLIO_INLINE Vec units_n(const uint16_t* p, int n) { return vec_of(load_pairs_n(p, n)); }
  static FOLIO_INLINE Vec join_units(Vec sum, Vec w, Vec x) { return dot_pairs(sum, pairs_of(w), pairs_of(x)); }
  static FOLIO_INLINE void pack(const float* x, int64_t n, uint16_t* to) {
    int64_t i = 0;
    for (; i + Vec::lanes <= n; i += Vec::lanes) store_bf16(to + i, load(x + i));
    if (i < n) store_bf16_n(to + i, load_n(x + i, int(n - i)), int(n - i));
  }
};
#endif

// Sums that a tile keeps in registers: all but those that its weights and a token take.
#if FOLIO_SET == FOLIO_SET_avx2 || FOLIO_SET == FOLIO_SET_plain
constexpr int tile_rows = 2, narrow_rows = 1, panel_vectors = 2, panel_tile_tokens = FOLIO_SET == FOLIO_SET_avx2 ? 6 : 4;
#else
constexpr int tile_rows = 4, narrow_rows = 3, panel_vectors = 4, panel_tile_tokens = 6;
#endif
constexpr int few_tokens = 8;                    // 7 and 8 with narrow_rows
// Bytes of a token that a tile takes at a time: tokens, and the rows that pass by, share a first-level cache of 32 KiB or more,
// whose places repeat every 4 KiB. Rows of spread_bytes lie half of that apart.
constexpr int64_t cut_bytes(int tokens) { return tokens <= 2 ? 8192 : tokens <= 4 ? 4096 : 2048; }
int64_t spread_bytes(int64_t bytes) { return bytes <= 2048 ? (bytes + 63) / 64 * 64 : (bytes + 2047) / 4096 * 4096 + 2048; }

struct FloatTile {
  const uint8_t* w;
  int64_t w_stride;
  const uint8_t* x;
  int64_t x_stride;
  int64_t from, to;        // of K
  int64_t ahead;           // bytes from here to the weights that the next tile wants
  Vec* sums;               // [R][T], read unless from == 0
};

template <class P, int R, int T, class Load, class LoadToken>
FOLIO_INLINE void float_step(Vec (&sums)[R][T], const Load& weight, const LoadToken& token) {
  decltype(weight(0)) w[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) w[r] = weight(r);
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    const auto x = held(token(t));
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sums[r][t] = P::join(sums[r][t], w[r], x);
  }
}

template <class P, int R, int T>
__attribute__((noinline)) void float_tile(const FloatTile& a) {
  using Token = typename P::Token;
  Vec sums[R][T];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) sums[r][t] = a.from == 0 ? zero() : a.sums[r * T + t];
  auto row = [&](int r) { return a.w + r * a.w_stride; };
  auto tokens = [&](int t) { return reinterpret_cast<const Token*>(a.x + t * a.x_stride); };
  const int64_t ahead = a.ahead;
  int64_t k = a.from;
  for (; k + P::part <= a.to; k += P::part) {
    decltype(P::at(a.w, k)) part[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      part[r] = P::at(row(r), k);
      prefetch(row(r) + P::bytes(k) + ahead);
    }
#pragma GCC unroll 4
    for (int i = 0; i < P::part; i += P::step)
      float_step<P, R, T>(sums, [&](int r) { return P::weight(part[r], i); }, [&](int t) { return P::token(tokens(t) + k + i); });
  }
  if constexpr (P::part == P::step)
    if (const int rest = int(a.to - k); rest > 0)
      float_step<P, R, T>(sums, [&](int r) { return P::weight_n(P::at(row(r), k), rest); },
                          [&](int t) { return P::token_n(tokens(t) + k, rest); });
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) a.sums[r * T + t] = sums[r][t];
}

// All rows of a part with T tokens. K is cut so that the tokens stay in the first-level cache while rows pass by.
template <class P, int R, int T>
void float_rows(const MatmulPart& p, const uint8_t* x, float* out) {
  Vec sums[MatmulFormat::most_rows * T];
  constexpr int64_t cut = cut_bytes(T) / int64_t(sizeof(typename P::Token));
  for (int64_t k = 0; k < p.k; k += cut) {
    FloatTile tile = {p.w, p.w_stride, x, p.x_stride, k, k + cut < p.k ? k + cut : p.k, R * p.w_stride, sums};
    int r = 0;
    for (; r + R <= p.rows; r += R) {
      tile.w = p.w + r * p.w_stride;
      tile.sums = sums + r * T;
      float_tile<P, R, T>(tile);
    }
    for (; r < p.rows; ++r) {
      tile.w = p.w + r * p.w_stride;
      tile.sums = sums + r * T;
      float_tile<P, 1, T>(tile);
    }
  }
  if (p.k == 0)
    for (Vec& s : sums) s = zero();
  for (int t = 0; t < T; ++t) store_sums(out + t * p.out_stride, sums + t, T, p.rows);
}

// 7 and 8 tokens in one go: reading a row twice would cost more than narrower tiles.
template <class P>
void float_few(const MatmulPart& p) {
  for (int t = 0, n; t < p.tokens; t += n) {
    n = p.tokens - t < few_tokens ? p.tokens - t : few_tokens;
    const uint8_t* x = p.x + t * p.x_stride;
    float* out = p.out + t * p.out_stride;
    switch (n) {
      case 1: float_rows<P, tile_rows, 1>(p, x, out); break;
      case 2: float_rows<P, tile_rows, 2>(p, x, out); break;
      case 3: float_rows<P, tile_rows, 3>(p, x, out); break;
      case 4: float_rows<P, tile_rows, 4>(p, x, out); break;
      case 5: float_rows<P, tile_rows, 5>(p, x, out); break;
      case 6: float_rows<P, tile_rows, 6>(p, x, out); break;
      case 7: float_rows<P, narrow_rows, 7>(p, x, out); break;
      case 8: float_rows<P, narrow_rows, 8>(p, x, out); break;
    }
  }
}

template <class P>
int64_t float_token_bytes(int64_t k) { return spread_bytes(k * int64_t(sizeof(typename P::Token))); }
template <class P>
void pack_float_token(const float* x, int64_t k, uint8_t* to) { P::pack(x, k, reinterpret_cast<typename P::Token*>(to)); }

// ---- many tokens

template <class P>
struct FloatPanel {
  static constexpr int vectors = panel_vectors, rows = vectors * Vec::lanes, tile_tokens = panel_tile_tokens;
  static constexpr int unit_numbers = P::step / Vec::lanes;
  static constexpr int64_t panel_unit = 4 * rows, token_unit = 4;
  static constexpr int64_t units(int64_t k) { return (k + unit_numbers - 1) / unit_numbers; }

  template <int T>
  static FOLIO_INLINE void step(const uint8_t* panel, const uint8_t* x, int64_t x_stride, Vec (&sums)[vectors][T]) {
    Vec w[vectors];
#pragma GCC unroll 4
    for (int r = 0; r < vectors; ++r) w[r] = load(reinterpret_cast<const float*>(panel) + r * Vec::lanes);
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      const Vec number = splat_at(x + t * x_stride);
#pragma GCC unroll 4
      for (int r = 0; r < vectors; ++r) sums[r][t] = P::join_units(sums[r][t], w[r], number);
    }
  }
  template <int T>
  static __attribute__((noinline)) void tile(const PanelTile& a) {
    constexpr int line = 16, quarter = line / 4;                      // units of a token in a line of the cache
    for (int64_t l = 0; l < a.lanes; ++l) {
      Vec sums[vectors][T];
      begin_sums(a, sums);
      const uint8_t *panel = a.panel + l * a.lane_bytes, *x = a.x + l * a.units * token_unit, *next = a.next + l * a.units * token_unit;
      int64_t u = 0;
      for (; u + line <= a.units; u += line, next += line * token_unit) {
        const uint8_t* soon = next;
        for (int q = 0; q < line; q += quarter) {
#pragma GCC unroll 4
          for (int t = 0; t < (T + 3) / 4; ++t, soon += a.x_stride) prefetch(soon);
          for (int i = 0; i < quarter; ++i, panel += panel_unit, x += token_unit) step<T>(panel, x, a.x_stride, sums);
        }
      }
      for (; u < a.units; ++u, panel += panel_unit, x += token_unit) step<T>(panel, x, a.x_stride, sums);
      keep_sums(a, sums);
    }
  }

  // `lanes` steps of every token or row at a time become `lanes` units of every lane.
  static void pack_rows(const uint8_t* w, int64_t stride, int rows, int64_t k, uint8_t* to) {
    for (int first = 0; first < FloatPanel::rows; first += Vec::lanes)
      for (int64_t at = 0; at < k; at += P::part) {
        decltype(P::at(w, k)) part[Vec::lanes];
        for (int r = 0; r < Vec::lanes && first + r < rows; ++r) part[r] = P::at(w + (first + r) * stride, at);
        for (int i = 0; i < P::part; i += P::step) {
          Vec a[Vec::lanes];
          for (int r = 0; r < Vec::lanes; ++r) a[r] = first + r < rows ? units_of(part[r], i, k - at) : zero();
          transpose(a);
          uint8_t* unit = to + (at + i) / P::step * panel_unit + first * 4;
          for (int64_t l = 0; l < lanes_of(units(k)); ++l, unit += panel_lane_bytes<FloatPanel>(k))
            store(reinterpret_cast<float*>(unit), a[l]);
        }
      }
  }
  // Those of a step, where `left` numbers begin with the part.
  template <class Part>
  static FOLIO_INLINE Vec units_of(const Part& part, int i, int64_t left) {
    if constexpr (P::part == P::step)
      if (left < P::step) return P::units_n(part, int(left));
    return P::units(part, i);
  }
  static void pack_token(const float* x, int64_t k, uint8_t* to) {
    using Token = typename P::Token;
    const int64_t groups = groups_of(units(k));
    for (int64_t g = 0; g < groups; g += Vec::lanes) {
      Vec a[Vec::lanes];
      for (int i = 0; i < Vec::lanes; ++i) {
        const int64_t at = (g + i) * P::step, left = k - at;
        Token step[P::step] = {};
        if (left > 0) P::pack(x + at, left < P::step ? left : P::step, step);
        a[i] = load(reinterpret_cast<const float*>(step));
      }
      transpose(a);
      const int some = groups - g < Vec::lanes ? int(groups - g) : Vec::lanes;
      for (int64_t l = 0; l < lanes_of(units(k)); ++l) store_n(reinterpret_cast<float*>(to) + l * groups + g, a[l], some);
    }
  }
};

template <class P>
constexpr MatmulFormat float_format(bool plain_tokens) {
  using Panel = FloatPanel<P>;
  return {plain_tokens, float_token_bytes<P>, pack_float_token<P>, float_few<P>, Panel::rows, panel_token_bytes<Panel>, Panel::pack_token,
          panel_bytes<Panel>, Panel::pack_rows, panel_many<Panel>};
}

constexpr MatmulFormat matmul_f32 = float_format<Widened<F32Row>>(true);
constexpr MatmulFormat matmul_f16 = float_format<Widened<F16Row>>(true);
constexpr MatmulFormat matmul_f8 = float_format<E4m3Blocks>(true);
#ifdef FOLIO_BF16_DOT
constexpr MatmulFormat matmul_bf16 = float_format<Paired>(false);
#else
constexpr MatmulFormat matmul_bf16 = float_format<Widened<Bf16Row>>(true);
#endif

}  // namespace
}  // namespace folio
