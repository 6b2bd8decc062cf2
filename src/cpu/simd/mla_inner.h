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

FOLIO_INLINE void unpack_q4(const uint8_t* row, int n, float* to) {
  for (int at = 0; at < n; at += 32, row += 18) {
    int8_t q[32];
    for (int i = 0; i < 16; ++i) q[i] = int8_t((row[2 + i] & 15) - 8), q[16 + i] = int8_t((row[2 + i] >> 4) - 8);
    const Vec d = splat_f16(row);
    for (int i = 0; i < 32; i += Vec::lanes) store(to + at + i, load_i8(q + i) * d);
  }
}

FOLIO_INLINE void unpack_e4m3(const uint8_t* row, int n, float* to) {
  for (int at = 0; at < n; at += E4m3Blocks::part) {
    const E4m3Blocks::Block block = E4m3Blocks::at(row, at);
    for (int i = 0; i < E4m3Blocks::part; i += Vec::lanes) store(to + at + i, E4m3Blocks::weight(block, i));
  }
}

void mla_unpack(int type, const void* row, int n, int padded, float* to) {
  switch (type) {   // DType of graph/dtype.h
    case 0: unpack_plain<F32Row>(row, n, to); break;
    case 1: unpack_plain<F16Row>(row, n, to); break;
    case 2: unpack_plain<Bf16Row>(row, n, to); break;
    case 5: unpack_q8(static_cast<const uint8_t*>(row), n, to); break;
    case 6: unpack_q4(static_cast<const uint8_t*>(row), n, to); break;
    default: unpack_e4m3(static_cast<const uint8_t*>(row), n, to); break;
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
constexpr int mla_last = attend_panel == 32 ? 16 / Vec::lanes : 1;   // vectors of 16 numbers, where that is no whole number of panels
FOLIO_INLINE void mla_columns(const MlaTile& t, int rows, bool whole) {
  if (whole) mla_rows<attend_vectors>(t, rows);
  else mla_rows<mla_last>(t, rows);
}

void mla_absorb(const float* q, int64_t q_stride, int tokens, const float* w, int depth, int width, bool begin, float* out, int64_t out_stride) {
  for (int at = 0; at < width; at += attend_panel)
    mla_columns({q, q_stride, 1, w + at, width, depth, begin, out + at, out_stride}, tokens, at + attend_panel <= width);
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

constexpr MlaInner mla_inner = {mla_unpack, mla_turn, mla_absorb, mla_page};

}  // namespace
}  // namespace folio
