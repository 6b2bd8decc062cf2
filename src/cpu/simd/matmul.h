// SPDX-License-Identifier: MIT
// The inner loops of Matmul: pointers and numbers only. Implemented in matmul_inner.h.
#pragma once
#include <stdint.h>

namespace folio {

// Dot products of some rows of weights with some tokens. Each sum is taken in an order that K and the format alone decide, so a
// result is the same to the last bit however rows and tokens are grouped, among calls, among threads, and in `few` or `many`.
struct MatmulPart {
  const uint8_t* w;       // rows of weights
  int64_t w_stride;       // bytes from row to row, or from panel to panel
  const uint8_t* x;       // tokens, packed or (plain_tokens) f32
  int64_t x_stride;       // bytes
  int64_t k;              // K
  int rows, tokens;       // rows <= most_rows
  float* out;             // [tokens, rows]
  int64_t out_stride;     // floats
};

// How one format of weights is multiplied.
struct MatmulFormat {
  static constexpr int most_rows = 64;
  bool plain_tokens;                                       // `few` takes tokens as they are, too, and only profits from packed ones
  int64_t (*token_bytes)(int64_t k);                       // of a token packed for `few`
  void (*pack_token)(const float* x, int64_t k, uint8_t* to);
  void (*few)(const MatmulPart&);                          // rows straight from the file, for few tokens: reads each row once

  int panel_rows;                                          // of a panel
  int64_t (*panel_token_bytes)(int64_t k);                 // of a token packed for `many`
  void (*pack_panel_token)(const float* x, int64_t k, uint8_t* to);
  int64_t (*panel_bytes)(int64_t k);
  void (*pack_panel)(const uint8_t* w, int64_t stride, int rows, int64_t k, uint8_t* to);   // rows <= panel_rows, `stride` bytes apart
  void (*many)(const MatmulPart&);                         // rows in panels, for many tokens: w is the first, w_stride apart
};

// The rest, for one token and some features, once their sums stand in the first-level cache:
// y = act(u + bias) + add, or with a gate y = act(gate + gate_bias) · beside(act, u + bias) + add.
struct MatmulFinish {
  const float* u;
  const float *gate, *bias, *gate_bias, *add;              // null: absent
  float* y;
  int64_t n;
  int act;                                                 // Act of ops/elementwise.h
};

struct MatmulInner {
  MatmulFormat f32, f16, bf16, q8_0, q4_0, f8_e4m3;
  void (*finish)(const MatmulFinish&);
};

}  // namespace folio
