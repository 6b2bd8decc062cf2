// SPDX-License-Identifier: MIT
// How a step's tokens lie: those of one sequence stand side by side, at ascending places (state/step.h). A run is all of them; the
// recurrent mixers take it page by page, for under the page law (house.md 4.6) a token's output depends on the slab of the page
// before its own and on the rows of its page, and the token that fills a page writes that page's slab.
//
//   run  | rest of a page | whole pages … | begin of a page |        piece: what of the run lies in one page
#pragma once
#include <algorithm>

#include "graph/tensor.h"

namespace folio {

struct Run {
  int64_t first = 0, count = 0;   // tokens of the step
  int64_t seq = 0, pos = 0;       // whose, and where the first one stands
};

// What of a run lies in one page: rows from..to−1 of page `page` are tokens first.. of the step; rows before `from` were there.
struct Piece {
  int64_t first, page, from, to;
  bool fills() const { return to == page_tokens; }
};

// The run that begins at token t or behind the padding from t on; count 0: there is none.
inline Run run_at(const Tensor& seq, const Tensor& pos, int64_t t) {
  const int32_t *s = seq.at<int32_t>(), *p = pos.at<int32_t>();
  const int64_t n = seq.dim(0);
  while (t < n && s[t] < 0) ++t;
  Run run{t, 0, t < n ? s[t] : 0, t < n ? p[t] : 0};
  while (t < n && s[t] == run.seq && p[t] == run.pos + run.count) ++t, ++run.count;
  return run;
}

// Piece after piece: begin with done = 0; returns how many of the run's tokens are done afterwards.
inline Piece piece_at(const Run& run, int64_t done) {
  const int64_t at = run.pos + done, from = at % page_tokens;
  return {run.first + done, at / page_tokens, from, std::min(page_tokens, from + run.count - done)};
}

// fn(run, index) for each run of the step.
template <class F>
void each_run(const Tensor& seq, const Tensor& pos, F fn) {
  int64_t index = 0;
  for (Run run = run_at(seq, pos, 0); run.count > 0; run = run_at(seq, pos, run.first + run.count)) fn(run, index++);
}

}  // namespace folio
