// SPDX-License-Identifier: MIT
// Cases of the short causal convolution.
#include "cases.h"

namespace folio {

// Runs of some sequences at any places, padding between them, on pools full of other numbers.
static ShortConv somewhere(Inputs& in, const std::vector<std::pair<int, int>>& runs, int64_t cols, int64_t width, bool bias, Act act) {
  std::vector<int32_t> seq, pos;
  for (size_t b = 0; b < runs.size(); ++b) {
    for (int i = 0; i < runs[b].second; ++i) {
      seq.push_back(int32_t(b));
      pos.push_back(int32_t(runs[b].first + i));
    }
    seq.push_back(-1);
    pos.push_back(0);
  }
  const int64_t tokens = int64_t(seq.size()), sequences = int64_t(runs.size());
  ShortConv op{.x = in.normal({tokens, cols}), .w = in.normal({width, cols}), .page = in.shuffled({sequences, 4}), .seq = in.ints({tokens}, seq),
               .pos = in.ints({tokens}, pos), .rows = in.normal({sequences * 4, page_tokens, 1, cols}), .act = act};
  if (bias) op.bias = in.normal({cols});
  return op;
}

CASES(ShortConv) {
  // The second token of a sequence whose first left 3; then one more, and the first of another.
  std::vector<float> pool(3 * 64, 9.0f);
  pool[64] = 3;
  const Tensor before = values({3, 64, 1, 1}, pool);
  pool[65] = 5, pool[66] = 7, pool[128] = 2;
  known({.x = values({4, 1}, {5, 7, 11, 2}), .w = values({3, 1}, {100, 10, 1}), .bias = values({1}, {0.5f}), .page = ints({2, 1}, {1, 2}),
         .seq = ints({4}, {0, 0, -1, 1}), .pos = ints({4}, {1, 2, 0, 0}), .rows = before},
        {values({4, 1}, {35.5f, 357.5f, 0, 2.5f}), values({3, 64, 1, 1}, pool)});
  for (int64_t width : {1, 2, 4, 7})
    for (int64_t cols : {1, 24, 100}) {
      add(somewhere(*this, {{0, 1}}, cols, width, true, Act::silu));
      add(somewhere(*this, {{63, 3}, {0, 70}, {130, 1}, {2, 5}}, cols, width, false, width % 2 ? Act::none : Act::silu));
    }
}

}  // namespace folio
