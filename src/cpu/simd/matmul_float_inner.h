// SPDX-License-Identifier: MIT
// Matmul of weights in f32, f16 and bf16. Lanes run along K: the sum of an output is one register, to which K's steps are added
// in order, and whose lanes are added at the end. So nothing needs to be transposed, rows come straight from the file, and one
// tile serves one token as well as many: its sums do not depend on how rows, tokens and K are cut.
//
//   f32, f16, bf16      in f32, activations as they are. For many tokens f16 and bf16 rows are first widened into a panel.
//   bf16 on avx512_bf16 by vdpbf16ps, activations rounded to bf16.
#pragma once

namespace folio {
namespace {

// What a tile multiplies: how a step of a row of weights and of a token is read, and how their product joins a sum.
template <class Row>
struct Widened {
  using Weight = typename Row::Number;
  using Token = float;
  static constexpr int step = Vec::lanes;
  static FOLIO_INLINE Vec weight(const Weight* p) { return Row::load(p); }
  static FOLIO_INLINE Vec weight_n(const Weight* p, int n) { return Row::load_n(p, n); }
  static FOLIO_INLINE Vec token(const float* p) { return load(p); }
  static FOLIO_INLINE Vec token_n(const float* p, int n) { return load_n(p, n); }
  static FOLIO_INLINE Vec join(Vec sum, Vec w, Vec x) { return fma(w, x, sum); }
};

#ifdef FOLIO_BF16_DOT
struct Paired {
  using Weight = uint16_t;
  using Token = uint16_t;
  static constexpr int step = Pairs::numbers;
  static FOLIO_INLINE Pairs weight(const uint16_t* p) { return load_pairs(p); }
  static FOLIO_INLINE Pairs weight_n(const uint16_t* p, int n) { return load_pairs_n(p, n); }
  static FOLIO_INLINE Pairs token(const uint16_t* p) { return load_pairs(p); }
  static FOLIO_INLINE Pairs token_n(const uint16_t* p, int n) { return load_pairs_n(p, n); }
  static FOLIO_INLINE Vec join(Vec sum, Pairs w, Pairs x) { return dot_pairs(sum, w, x); }
};
#endif

// Sums that a tile keeps in registers: all but those that its weights and a token take.
#if FOLIO_SET == FOLIO_SET_avx2 || FOLIO_SET == FOLIO_SET_plain
constexpr int tile_rows = 2, tile_tokens = 6, narrow_rows = 1;
#else
constexpr int tile_rows = 4, tile_tokens = 6, narrow_rows = 3;
#endif
constexpr int few_tokens = 8;                    // with narrow_rows
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
    const auto x = token(t);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sums[r][t] = P::join(sums[r][t], w[r], x);
  }
}

template <class P, int R, int T>
__attribute__((noinline)) void float_tile(const FloatTile& a) {
  using Weight = typename P::Weight;
  using Token = typename P::Token;
  Vec sums[R][T];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) sums[r][t] = a.from == 0 ? zero() : a.sums[r * T + t];
  auto weights = [&](int r) { return reinterpret_cast<const Weight*>(a.w + r * a.w_stride); };
  auto tokens = [&](int t) { return reinterpret_cast<const Token*>(a.x + t * a.x_stride); };
  const int64_t ahead = a.ahead;
  int64_t k = a.from;
  for (; k + P::step <= a.to; k += P::step) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) prefetch(a.w + r * a.w_stride + k * int64_t(sizeof(Weight)) + ahead);
    float_step<P, R, T>(sums, [&](int r) { return P::weight(weights(r) + k); }, [&](int t) { return P::token(tokens(t) + k); });
  }
  const int rest = int(a.to - k);
  if (rest > 0)
    float_step<P, R, T>(sums, [&](int r) { return P::weight_n(weights(r) + k, rest); }, [&](int t) { return P::token_n(tokens(t) + k, rest); });
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
  for (int t = 0; t < T; ++t) {
    float* o = out + t * p.out_stride;
    const Vec* s = sums + t;
    int r = 0;
    for (; r + 4 <= p.rows; r += 4, s += 4 * T) store_four_sums(o + r, s[0], s[T], s[2 * T], s[3 * T]);
    for (; r < p.rows; ++r, s += T) o[r] = sum(*s);
  }
}

template <class P>
void float_part(const MatmulPart& p, bool from_afar) {
  // 7 and 8 tokens in one go while rows come from memory: reading a row twice would cost more than narrower tiles.
  const int most = from_afar ? few_tokens : tile_tokens;
  for (int t = 0, n; t < p.tokens; t += n) {
    n = p.tokens - t < most ? p.tokens - t : most;
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

template <class P> void float_few(const MatmulPart& p) { float_part<P>(p, true); }
template <class P> void float_many(const MatmulPart& p) { float_part<P>(p, false); }

int64_t as_it_is(int64_t) { return 0; }
int64_t spread_floats(int64_t k) { return spread_bytes(k * 4); }

template <class Row>
void widen_row(const typename Row::Number* from, int64_t k, uint8_t* to) {
  float* out = reinterpret_cast<float*>(to);
  int64_t i = 0;
  for (; i + Vec::lanes <= k; i += Vec::lanes) store(out + i, Row::load(from + i));
  if (i < k) store_n(out + i, Row::load_n(from + i, int(k - i)), int(k - i));
}
template <class Row>
void widen_weights(const uint8_t* w, int64_t k, uint8_t* to) { widen_row<Row>(reinterpret_cast<const typename Row::Number*>(w), k, to); }

constexpr MatmulFormat matmul_f32 = {true, spread_floats, widen_row<F32Row>, as_it_is, nullptr, float_few<Widened<F32Row>>, float_many<Widened<F32Row>>};
constexpr MatmulFormat matmul_f16 = {true, spread_floats, widen_row<F32Row>, spread_floats, widen_weights<F16Row>, float_few<Widened<F16Row>>,
                                     float_many<Widened<F32Row>>};
#ifdef FOLIO_BF16_DOT
int64_t spread_pairs(int64_t k) { return spread_bytes(k * 2); }
void narrow_token(const float* x, int64_t k, uint8_t* to) {
  uint16_t* out = reinterpret_cast<uint16_t*>(to);
  int64_t i = 0;
  for (; i + Vec::lanes <= k; i += Vec::lanes) store_bf16(out + i, load(x + i));
  if (i < k) store_bf16_n(out + i, load_n(x + i, int(k - i)), int(k - i));
}
constexpr MatmulFormat matmul_bf16 = {false, spread_pairs, narrow_token, as_it_is, nullptr, float_few<Paired>, float_many<Paired>};
#else
constexpr MatmulFormat matmul_bf16 = {true, spread_floats, widen_row<F32Row>, spread_floats, widen_weights<Bf16Row>, float_few<Widened<Bf16Row>>,
                                      float_many<Widened<F32Row>>};
#endif

}  // namespace
}  // namespace folio
