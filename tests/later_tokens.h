// SPDX-License-Identifier: MIT
// The recurrent ops look back and never ahead: a token that is no number (a rejected draft, say) changes no bit of the tokens before it
// nor of other sequences, neither of their results nor of their rows. Kernels compute many tokens at once and mask what a token must not
// see; a mask that multiplies by zero lets NaN and infinity through.
#pragma once
#include <limits>

#include "frame.h"

namespace folio {

// What the ops have for each token.
inline std::vector<Tensor*> token_inputs(Linear& op) {
  std::vector<Tensor*> all = {&op.q, &op.k, &op.v, &op.beta};
  if (!op.constant()) all.push_back(&op.g);
  return all;
}
inline std::vector<Tensor*> token_inputs(LogLinear& op) { return {&op.q, &op.k, &op.v, &op.g, &op.beta, &op.lambda}; }
inline std::vector<Tensor*> token_inputs(Mesa& op) { return {&op.q, &op.k, &op.v, &op.g, &op.beta}; }

// Runs the case as it is and with `what` in all of a token that is not the first of its run, a random one. A complaint, or an empty
// string; also if there is no such token.
template <class Op>
std::string look_ahead(Device& device, const Case<Op>& c, float what, Random& random) {
  std::vector<Run> runs;
  each_run(c.op.seq, c.op.pos, [&](const Run& run, int64_t) {
    if (run.count > 1) runs.push_back(run);
  });
  if (runs.empty()) return "";
  const Run& run = runs[size_t(random.below(int64_t(runs.size())))];
  const int64_t bad = run.first + 1 + random.below(run.count - 1);
  Op spoilt = c.op;
  Store store;
  for (Tensor* t : token_inputs(spoilt)) {
    if (!t->present()) continue;
    *t = store.copy(*t);
    std::fill_n(t->at<float>() + bad * t->stride[0], t->stride[0], what);
  }
  Results clean, got;
  Instance<Op> as_it_is(c.op, Layout::packed, base_seed()), with_it(spoilt, Layout::packed, base_seed());
  for (const std::string& wrong : {run_graph(device, as_it_is, false, 1, clean), run_graph(device, with_it, false, 1, got)})
    if (!wrong.empty()) return wrong;
  for (int64_t t = 0; t < c.op.seq.dim(0); ++t) {
    if (t >= bad && t < run.first + run.count) continue;   // itself and those behind it
    const int32_t seq = c.op.seq.template at<int32_t>()[t], pos = c.op.pos.template at<int32_t>()[t];
    for (size_t i = 0; i < clean.tensors.size(); ++i) {
      const bool rows = clean.names[i] == "changed" && clean.tensors[i].rank() == 4 && clean.tensors[i].dim(1) == page_tokens;
      if ((clean.names[i] == "changed" && !rows) || (rows && seq < 0)) continue;
      const int64_t at = rows ? c.op.page.template row<int32_t>(seq)[pos / page_tokens] : t;
      const Tensor a = got.tensors[i].slice(at, 1), b = clean.tensors[i].slice(at, 1);
      const int64_t each = rows ? a.stride[1] : a.stride[0], from = rows ? pos % page_tokens * each : 0;
      if (std::memcmp(a.template at<float>() + from, b.template at<float>() + from, size_t(each) * sizeof(float)) != 0)
        return join(what, " in token ", bad, " of the step reaches token ", t, ": ", clean.names[i], " ", i);
    }
  }
  return "";
}

}  // namespace folio
