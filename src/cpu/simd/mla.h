// SPDX-License-Identifier: MIT
// The inner loops of Mla beside those of Attend: pointers and numbers only. Implemented in mla_inner.h, put together in cpu/mla.cpp.
#pragma once
#include <stdint.h>

#include "cpu/simd/attend.h"
#include "cpu/simd/matmul.h"

namespace folio {

// One head's matrices, turned: number r of row d at panels[(d / panel · rank + r) · panel + d % panel].
struct MlaHead {
  int rank, nope, rope, value;      // R, dn, dr, dv
  const float *k_up, *v_up;
};

// A page of latents, bytes from row to row.
struct MlaPage {
  int kind;                         // as AttendKeys
  const void* rows;
  int64_t stride;
};

struct MlaInner {
  // Row of any format (a DType) to floats, with zeros behind it up to `padded`, a multiple of 16.
  void (*unpack)(int type, const void* row, int n, int padded, float* to);
  // Sixteen rows of `rank` floats (row · pitch) to rows first .. first + 15 of a turned matrix; first is a multiple of 16.
  void (*turn)(const float* rows, int64_t pitch, int rank, int first, float* panels);
  // out[t,:] = (begin ? 0 : out[t,:]) + Σ_d q[t,d]·w[d,:] over `depth` rows of `width` floats, a multiple of 16.
  void (*absorb)(const float* q, int64_t q_stride, int tokens, const float* w, int depth, int width, bool begin, float* out, int64_t out_stride);
  // The same, from the bytes of rows of any format, for a part of few tokens: out[t,:] = Σ_d x[t,d]·w[d,:], where k are the row's numbers.
  // Has the bits that unpacked rows give.
  void (*absorb_few)(int type, const MatmulPart&);
  // Dot products as those of MatmulInner::f32's `few`, of rows of any format: with the bits that unpacked rows give.
  void (*dots_few)(int type, const MatmulPart&);
  // Takes the keys from <= key < to of the page that begins at token `start` into the sum, expanded for one head.
  // buffer: page_floats() floats.
  void (*page)(const AttendQueries&, const AttendSum&, const MlaHead&, const MlaPage&, float* buffer, int start, int to);
};

// Floats that MlaInner::page wants: the latents as they are (q8_0) and turned, the keys, the values.
inline int64_t mla_page_floats(int64_t rank, int64_t nope, int64_t rope, int64_t padded_value, bool q8) {
  return 64 * (rank + nope + rope + padded_value + (q8 ? attend_pitch(rank + rope) : 0));
}
// Of a turned matrix.
inline int64_t mla_turned_floats(int64_t rows, int64_t rank) { return (rows + 63) / 64 * 64 * rank; }

}  // namespace folio
