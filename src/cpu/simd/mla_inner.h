// SPDX-License-Identifier: MIT
// What Mla does around Attend's loops. Expanding a page for a head is two products of turned matrices, whose tiles are Attend's:
//
//   keys     [dn, 64] = k_up [dn, R] · latents [64, R]ᵀ       lanes are keys, as the scores want them
//   values   [64, dv] = latents [64, R] · v_up [dv, R]ᵀ       lanes are numbers of the value, as the outputs want them
//
// after which the page is one of plain attention. Every number is one sum over R in ascending order, whatever stands beside it.
#pragma once
#include "cpu/simd/attend_shared_inner.h"
#include "cpu/simd/matmul_inner.h"
#include "cpu/simd/mla.h"

namespace folio {
namespace {

// Rows of blocks of 32 numbers as matmul_float_inner.h reads rows: in f32, what the weights stand for.
struct Q8Numbers : Widened<F32Row> {
  struct Block {
    const int8_t* q;
    Vec d;
  };
  static constexpr int part = 32;
  static constexpr int64_t bytes(int64_t k) { return k / part * 34; }
  static FOLIO_INLINE Block at(const uint8_t* row, int64_t k) {
    return {reinterpret_cast<const int8_t*>(row + bytes(k) + 2), splat_f16(row + bytes(k))};
  }
  static FOLIO_INLINE Vec weight(const Block& b, int i) { return load_i8(b.q + i) * b.d; }
};
struct Q4Numbers : Widened<F32Row> {
  struct Block {
    int8_t q[32];
    Vec d;
  };
  static constexpr int part = 32;
  static constexpr int64_t bytes(int64_t k) { return k / part * 18; }
  static FOLIO_INLINE Block at(const uint8_t* row, int64_t k) {
    row += bytes(k);
    Block b;
    for (int i = 0; i < 16; ++i) b.q[i] = int8_t((row[2 + i] & 15) - 8), b.q[16 + i] = int8_t((row[2 + i] >> 4) - 8);
    b.d = splat_f16(row);
    return b;
  }
  static FOLIO_INLINE Vec weight(const Block& b, int i) { return load_i8(b.q + i) * b.d; }
};

template <class P>
FOLIO_INLINE void unpack_blocks(const void* row, int n, float* to) {
  for (int at = 0; at < n; at += P::part) {
    const auto block = P::at(static_cast<const uint8_t*>(row), at);
    for (int i = 0; i < P::part; i += Vec::lanes) store(to + at + i, P::weight(block, i));
  }
}

void mla_unpack(int type, const void* row, int n, int padded, float* to) {
  switch (type) {   // DType of graph/dtype.h
    case 0: unpack_plain<F32Row>(row, n, to); break;
    case 1: unpack_plain<F16Row>(row, n, to); break;
    case 2: unpack_plain<Bf16Row>(row, n, to); break;
    case 5: unpack_q8(static_cast<const uint8_t*>(row), n, to); break;
    case 6: unpack_blocks<Q4Numbers>(row, n, to); break;
    default: unpack_blocks<E4m3Blocks>(row, n, to); break;
  }
  for (int i = n; i < padded; ++i) to[i] = 0;
}

void mla_turn(const float* rows, int64_t pitch, int rank, int first, float* panels) {
  for (int i = 0; i < 16; i += Vec::lanes) {
    const int row = first + i;
    attend_turn<F32Row>(reinterpret_cast<const char*>(rows + i * pitch), 4 * pitch, rank,
                        panels + int64_t(row / attend_panel) * rank * attend_panel + row % attend_panel);
  }
}

// out[i][n] (+)= Σ_k a[k·a_step + i] · b[k·b_step + n] of R rows and N vectors.
template <int R, int N>
FOLIO_INLINE void mla_tile(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step, int depth, bool begin, float* out,
                           int64_t out_step) {
  constexpr int lanes = Vec::lanes;
  Vec sum[R][N];
  FOLIO_UNROLL
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n) sum[r][n] = begin ? zero() : load(out + r * out_step + n * lanes);
  for (int k = 0; k < depth; ++k, a += a_step, b += b_step) {
    Vec x[N];
    for (int n = 0; n < N; ++n) x[n] = load(b + n * lanes);
    FOLIO_UNROLL
    for (int r = 0; r < R; ++r) {
      const Vec by = splat(a[r * a_row]);
      for (int n = 0; n < N; ++n) sum[r][n] = fma(by, x[n], sum[r][n]);
    }
  }
  FOLIO_UNROLL
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n) store(out + r * out_step + n * lanes, sum[r][n]);
}

// The same for `rows` rows; the vectors are a panel's or the 16 numbers that may be left of one.
struct MlaTile {
  const float* a;
  int64_t a_row, a_step;
  const float* b;
  int64_t b_step;
  int depth;
  bool begin;
  float* out;
  int64_t out_step;
};
template <int N>
FOLIO_INLINE void mla_rows(const MlaTile& t, int rows) {
  for (int i = 0, n; i < rows; i += n) {
    n = attend_next(rows - i);
    const float* a = t.a + i * t.a_row;
    float* out = t.out + i * t.out_step;
    switch (n) {
      case 1: mla_tile<1, N>(a, t.a_row, t.a_step, t.b, t.b_step, t.depth, t.begin, out, t.out_step); break;
      case 2: mla_tile<2, N>(a, t.a_row, t.a_step, t.b, t.b_step, t.depth, t.begin, out, t.out_step); break;
      case 4: mla_tile<4, N>(a, t.a_row, t.a_step, t.b, t.b_step, t.depth, t.begin, out, t.out_step); break;
      case 8: mla_tile<attend_rows < 8 ? 1 : 8, N>(a, t.a_row, t.a_step, t.b, t.b_step, t.depth, t.begin, out, t.out_step); break;
      default: mla_tile<attend_rows, N>(a, t.a_row, t.a_step, t.b, t.b_step, t.depth, t.begin, out, t.out_step); break;
    }
  }
}
FOLIO_INLINE void mla_columns(const MlaTile& t, int rows, bool whole) {
  if (whole) mla_rows<attend_vectors>(t, rows);
  else mla_rows<attend_last>(t, rows);
}

void mla_absorb(const float* q, int64_t q_stride, int tokens, const float* w, int depth, int width, bool begin, float* out, int64_t out_stride) {
  for (int at = 0; at < width; at += attend_panel)
    mla_columns({q, q_stride, 1, w + at, width, depth, begin, out + at, out_stride}, tokens, at + attend_panel <= width);
}

// f(P{}) where P reads rows of that format.
template <class F>
FOLIO_INLINE void mla_format(int type, const F& f) {
  switch (type) {   // DType of graph/dtype.h
    case 0: f(Widened<F32Row>()); break;
    case 1: f(Widened<F16Row>()); break;
    case 2: f(Widened<Bf16Row>()); break;
    case 5: f(Q8Numbers()); break;
    case 6: f(Q4Numbers()); break;
    default: f(E4m3Blocks()); break;
  }
}

// R rows of weights, from number d of the tokens on, added to what all tokens have.
template <class P, int R>
FOLIO_INLINE void absorb_rows(const MatmulPart& p, int d) {
  const uint8_t* w = p.w + d * p.w_stride;
  auto join = [&](int t, Vec sum, const Vec (&row)[R]) __attribute__((always_inline)) {
    const auto* x = reinterpret_cast<const float*>(p.x + t * p.x_stride) + d;
    FOLIO_UNROLL
    for (int r = 0; r < R; ++r) sum = fma(splat(x[r]), row[r], sum);
    return sum;
  };
  int64_t k = 0;
  for (; k + P::part <= p.k; k += P::part) {
    decltype(P::at(w, k)) part[R];
    FOLIO_UNROLL
    for (int r = 0; r < R; ++r) {
      part[r] = P::at(w + r * p.w_stride, k);
      prefetch(w + (R + r) * p.w_stride + P::bytes(k));
    }
    for (int i = 0; i < P::part; i += Vec::lanes) {
      Vec row[R];
      FOLIO_UNROLL
      for (int r = 0; r < R; ++r) row[r] = P::weight(part[r], i);
      for (int t = 0; t < p.tokens; ++t) {
        float* out = p.out + t * p.out_stride + k + i;
        store(out, join(t, d == 0 ? zero() : load(out), row));
      }
    }
  }
  if constexpr (P::part == P::step)
    if (const int rest = int(p.k - k); rest > 0) {
      Vec row[R];
      for (int r = 0; r < R; ++r) row[r] = P::weight_n(P::at(w + r * p.w_stride, k), rest);
      for (int t = 0; t < p.tokens; ++t) {
        float* out = p.out + t * p.out_stride + k;
        store_n(out, join(t, d == 0 ? zero() : load_n(out, rest), row), rest);
      }
    }
}

void mla_absorb_few(int type, const MatmulPart& part) {
  mla_format(type, [&](auto p) {
    int d = 0;
    for (; d + 4 <= part.rows; d += 4) absorb_rows<decltype(p), 4>(part, d);
    for (; d < part.rows; ++d) absorb_rows<decltype(p), 1>(part, d);
  });
}
void mla_dots_few(int type, const MatmulPart& part) {
  mla_format(type, [&](auto p) { float_few<decltype(p)>(part); });
}

// out = a · bᵀ of turned matrices: row i, columns p·panel .. at out[p·out_panel + i·wide], where a panel is `wide` numbers wide.
FOLIO_INLINE void mla_product(const float* a, int rows, const float* b, int columns, int rank, float* out, int64_t out_panel) {
  constexpr int depth = 128, panel = attend_panel;   // of R at a time: a panel's part stays in the first-level cache
  for (int k = 0; k < rank; k += depth)
    for (int at = 0; at < columns; at += panel) {
      const int wide = columns - at < panel ? columns - at : panel;
      for (int i = 0; i < rows; i += panel)
        mla_columns({a + (int64_t(i) / panel * rank + k) * panel, 1, panel, b + (int64_t(at) / panel * rank + k) * panel, panel,
                     rank - k < depth ? rank - k : depth, k == 0, out + at / panel * out_panel + int64_t(i) * wide, wide},
                    rows - i < panel ? rows - i : panel, wide == panel);
    }
}

template <class Row>
FOLIO_INLINE void mla_page_in(const AttendQueries& q, const AttendSum& sum, const MlaHead& head, const AttendKeys& rows, float* buffer, int start,
                              int to) {
  const int width = head.nope + head.rope, whole = (to + attend_panel - 1) / attend_panel * attend_panel;
  float *latents = buffer, *columns = latents + attend_page * head.rank, *values = columns + attend_page * width;
  attend_keys<Row>(rows, head.rank, head.rank, 0, to, latents);
  AttendKeys rope = rows;
  rope.k = static_cast<const char*>(rows.k) + int64_t(head.rank) * int64_t(sizeof(typename Row::Number));
  attend_keys<Row>(rope, head.rope, width, 0, to, columns + head.nope * attend_panel);
  mla_product(head.k_up, head.nope, latents, whole, head.rank, columns, int64_t(width) * attend_panel);
  mla_product(latents, to, head.v_up, sum.width, head.rank, values, int64_t(attend_page) * attend_panel);
  attend_blocks(q, sum, columns, values, start, to);
}

void mla_page(const AttendQueries& q, const AttendSum& sum, const MlaHead& head, const MlaPage& page, float* buffer, int start, int to) {
  const AttendKeys rows = {page.kind, head.value, page.rows, page.rows, page.stride, page.stride, nullptr, nullptr};
  if (page.kind == 3) {
    float* floats = buffer + mla_page_floats(head.rank, head.nope, head.rope, sum.width, false);
    const int width = head.rank + head.rope;
    attend_unpack(page.kind, page.rows, page.stride, width, 0, to, floats);
    mla_page_in<F32Row>(q, sum, head, {0, head.value, floats, floats, 4 * attend_pitch(width), 4 * attend_pitch(width), nullptr, nullptr}, buffer, start, to);
  } else if (page.kind == 0) mla_page_in<F32Row>(q, sum, head, rows, buffer, start, to);
  else if (page.kind == 1) mla_page_in<F16Row>(q, sum, head, rows, buffer, start, to);
  else mla_page_in<Bf16Row>(q, sum, head, rows, buffer, start, to);
}

constexpr MlaInner mla_inner = {mla_unpack, mla_turn, mla_absorb, mla_absorb_few, mla_dots_few, mla_page};

}  // namespace
}  // namespace folio
