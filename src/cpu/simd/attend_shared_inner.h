// SPDX-License-Identifier: MIT
// Attention whose values are the keys' first numbers: MLA's latents, which many heads share. A page becomes floats once, and both products
// read these rows: lanes are numbers of the key for the scores, whose sums over lanes are taken for a square of them at a time, and numbers
// of the value for the output. So nothing is turned, and a page of 16 heads costs little more than its multiplications.
#pragma once
#include "cpu/simd/attend_inner.h"

namespace folio {
namespace {

// n numbers of a row of q8_0.
FOLIO_INLINE void unpack_q8(const uint8_t* row, int n, float* to) {
  for (int at = 0; at < n; at += 32, row += 34) {
    const Vec d = splat_f16(row);
    for (int i = 0; i < 32; i += Vec::lanes) store(to + at + i, load_i8(reinterpret_cast<const int8_t*>(row + 2 + i)) * d);
  }
}

template <class Row>
FOLIO_INLINE void unpack_plain(const void* row, int n, float* to) {
  const auto* from = static_cast<const typename Row::Number*>(row);
  int i = 0;
  for (; i + Vec::lanes <= n; i += Vec::lanes) store(to + i, Row::load(from + i));
  if (i < n) store_n(to + i, Row::load_n(from + i, n - i), n - i);
}

// Rows from .. to − 1 of a page as floats, with zeros up to the pitch.
void attend_unpack(int kind, const void* rows, int64_t stride, int width, int from, int to, float* floats) {
  const int pitch = int(attend_pitch(width));
  for (int j = from; j < to; ++j) {
    const char* row = static_cast<const char*>(rows) + j * stride;
    float* out = floats + j * pitch;
    if (kind == 0) unpack_plain<F32Row>(row, width, out);
    else if (kind == 1) unpack_plain<F16Row>(row, width, out);
    else if (kind == 2) unpack_plain<Bf16Row>(row, width, out);
    else unpack_q8(reinterpret_cast<const uint8_t*>(row), width, out);
    for (int i = width; i < pitch; ++i) out[i] = 0;
  }
}

void attend_pack_rows(const AttendQueries& q, float* packed) {
  const int pitch = int(attend_pitch(q.width));
  for (int row = 0; row < q.tokens * q.heads; ++row, packed += pitch) {
    const float* from = q.q + row / q.heads * q.token_stride + row % q.heads * q.head_stride;
    for (int d = 0; d < q.width; ++d) packed[d] = q.scale * from[d];
    for (int d = q.width; d < pitch; ++d) packed[d] = 0;
  }
}

// s = q·k of R rows, lanes / R keys at a time. The lines of the next page are asked for between the products, one by one: many at once
// would fill the line buffers and stop the loads behind them.
template <int R, bool ahead>
FOLIO_INLINE void attend_shared_scores(AttendBlock& b, const float* keys, int pitch, const char* next, int64_t stride, int from, int to) {
  constexpr int lanes = Vec::lanes, K = lanes / R;
  const int steps = pitch / lanes;
  const int64_t each = (K * stride + steps - 1) / steps;   // bytes of the next page that go with a step
  for (int j = from / lanes * lanes; j < to; j += K) {
    Vec sum[lanes];
    for (int i = 0; i < lanes; ++i) sum[i] = zero();
    const float *k = keys + j * pitch, *q = b.q;
    const char* line = next + j * stride;
    for (int d = 0; d < pitch; d += lanes) {
      Vec key[K];
      for (int i = 0; i < K; ++i) key[i] = load(k + i * pitch + d);
      if (ahead)
        for (int64_t at = 0; at < each; at += 64) __builtin_prefetch(line + at, 0, 2);
      FOLIO_UNROLL
      for (int r = 0; r < R; ++r) {
        const Vec x = held(load(q + r * pitch + d));
        for (int i = 0; i < K; ++i) sum[r * K + i] = fma(x, key[i], sum[r * K + i]);
      }
      line += each;
    }
    alignas(64) float sums[lanes];
    store_sums(sums, sum, 1, lanes);
    for (int r = 0; r < R; ++r)
      for (int i = 0; i < K; ++i) b.s[r][j + i] = sums[r * K + i];
  }
}

template <int R>
void attend_shared_block(const AttendQueries& q, const AttendSum& sum, const float* keys, const AttendKeys& page, int row, int start, int to) {
  AttendBlock b;
  int low, high;
  if (!attend_limits<R>(b, q, row, start, to, low, high)) return;
  const int pitch = int(attend_pitch(q.width));
  const auto* next = static_cast<const char*>(page.k_ahead);
  b.q = q.packed + int64_t(row) * pitch;
  b.o = sum.o + int64_t(row) * sum.width;
  if (row == 0 && next) attend_shared_scores<R, true>(b, keys, pitch, next, page.k_stride, low, high);
  else attend_shared_scores<R, false>(b, keys, pitch, static_cast<const char*>(page.k), page.k_stride, low, high);
  attend_softmax<R>(b, q, row, start, sum.m + row, sum.l + row, low, high);
  const auto* v = reinterpret_cast<const char*>(keys);
  constexpr int last = attend_panel == 32 ? 16 / Vec::lanes : 1;
  int at = 0;
  for (; at + attend_panel <= sum.width; at += attend_panel)
    attend_output_tile<R, attend_vectors, F32Row>(b, v + 4 * at, 4 * pitch, 0, sum.width, low, high, at);
  if (at < sum.width) attend_output_tile<R, last, F32Row>(b, v + 4 * at, 4 * pitch, 0, sum.width, low, high, at);
}

void attend_shared(const AttendQueries& q, const AttendSum& sum, const AttendKeys& keys, float* buffer, int start, int from, int to) {
  constexpr int most = Vec::lanes >= 16 ? 8 : 4;
  attend_unpack(keys.kind, keys.k, keys.k_stride, q.width, from, to, buffer);
  for (int row = 0, n; row < q.tokens * q.heads; row += n) {
    const int left = q.tokens * q.heads - row;
    n = left >= most ? most : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    switch (n) {
      case 1: attend_shared_block<1>(q, sum, buffer, keys, row, start, to); break;
      case 2: attend_shared_block<2>(q, sum, buffer, keys, row, start, to); break;
      case 4: attend_shared_block<4>(q, sum, buffer, keys, row, start, to); break;
      default: attend_shared_block<most>(q, sum, buffer, keys, row, start, to); break;
    }
  }
}

}  // namespace
}  // namespace folio
