// SPDX-License-Identifier: MIT
// Attention in pieces (models/ring.h) run on texts of random numbers: every rank a thread of this process with a processor of its own.
// And what to hold it against: attention over all keys at once, in double.
#pragma once
#include "models/ring.h"

namespace folio {

// Rows of all tokens of a text: q [tokens, H, D], k, v and the results, o and lse.
struct RingText {
  RingShape shape;
  int64_t tokens;
  std::vector<float> q, k, v, o, lse;

  RingText(const RingShape& shape, int64_t tokens);   // zeros
  static RingText random(const RingShape& shape, int64_t tokens);   // q, k, v normal
  RingTensors all() { return {q, k, v, o, lse}; }
};

// o (value_size numbers) of a token's head, Σ softmax·v over all keys in one go, and its lse. Windows as the shape says; no softcap.
struct ExactRow {
  std::vector<double> o;
  double lse;
};
ExactRow exact_row(const RingText& text, int64_t token, int64_t head);

// Writes text.o and text.lse by a ring of `ranks` threads; what each rank spent. A rank that fails is thrown here. `patience`: base/ring.h.
std::vector<RingTimes> run_ring(RingText& text, RingLayout layout, int ranks, double patience = 60);

}  // namespace folio
