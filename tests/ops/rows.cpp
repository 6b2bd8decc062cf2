// SPDX-License-Identifier: MIT
// Cases of the ops that move rows.
#include <algorithm>

#include "cases.h"

namespace folio {

static const std::vector<DType> floats = {F32, F16, BF16, Q8_0, Q4_0, F8_E4M3};

CASES(Embed) {
  known({.token = ints({4}, {2, 0, -1, 3}), .w = values({3, 2}, {1, 2, 3, 4, 5, 6}), .scale = 10},  // −1 and 3 are no rows: zeros
        {values({4, 2}, {50, 60, 10, 20, 0, 0, 0, 0})});
  for (DType type : floats)
    for (int64_t tokens : {1, 7, 65}) add({.token = ids(-1, 50, {tokens}), .w = normal({50, 64}, type)});
  for (DType type : {F32, F16, BF16}) add({.token = ids(-1, 30, {9}), .w = normal({30, 13}, type), .scale = 3.25f});
}

CASES(Gather) {
  known({.x = values({3, 2}, {1, 2, 3, 4, 5, 6}), .index = ints({5}, {2, 2, -1, 0, 3})}, {values({5, 2}, {5, 6, 5, 6, 0, 0, 1, 2, 0, 0})});
  for (int64_t wanted : {1, 5, 64})
    for (int64_t cols : {1, 100}) add({.x = normal({20, cols}), .index = ids(-1, 20, {wanted})});
}

// Tokens of some sequences at distinct places, in random order, every fifth one padding.
static Append scattered(Inputs& in, int64_t sequences, int64_t most, int64_t tokens, int64_t groups, int64_t size, DType type) {
  const int64_t places = sequences * most * page_tokens;
  std::vector<int32_t> place(static_cast<size_t>(places)), seq, pos;
  for (size_t i = 0; i < place.size(); ++i) place[i] = int32_t(i);
  for (int64_t i = 0; i < tokens; ++i) {
    std::swap(place[size_t(i)], place[size_t(i + in.random().below(places - i))]);
    seq.push_back(i % 5 == 4 ? -1 : int32_t(place[size_t(i)] / (most * page_tokens)));
    pos.push_back(int32_t(place[size_t(i)] % (most * page_tokens)));
  }
  Append op{.x = in.normal({tokens, groups, size}),
            .page = in.shuffled({sequences, most}),
            .seq = in.ints({tokens}, seq),
            .pos = in.ints({tokens}, pos),
            .pool = in.normal({sequences * most, page_tokens, groups, size}, type)};
  return op;
}

CASES(Append) {
  // Places 0 and 63 of page 1, place 0 of page 0 as the sequence's second page, padding, and a page that the sequence has not.
  std::vector<float> pool(2 * 64, 7.0f);
  const Tensor before = values({2, 64, 1, 1}, pool);
  pool[64] = 1, pool[127] = 2, pool[0] = 3;
  known({.x = values({5, 1, 1}, {1, 2, 3, 4, 5}),
         .page = ints({1, 3}, {1, 0, -1}),
         .seq = ints({5}, {0, 0, 0, -1, 0}),
         .pos = ints({5}, {0, 63, 64, 5, 128}),
         .pool = before},
        {values({2, 64, 1, 1}, pool)});
  for (DType type : floats) {
    add(scattered(*this, 1, 1, 1, 1, std::max(32, format(type).block), type));
    add(scattered(*this, 3, 2, 70, 2, 64, type));
  }
  for (DType type : {F32, F16, BF16}) add(scattered(*this, 2, 3, 33, 3, 5, type));
}

}  // namespace folio
