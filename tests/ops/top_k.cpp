// SPDX-License-Identifier: MIT
// Cases of top-k.
#include "cases.h"

namespace folio {

CASES(TopK) {
  const float inf = std::numeric_limits<float>::infinity();
  known({.x = values({2, 5}, {1, 5, 3, 5, 2, -1, -2, -1, -inf, -1}), .k = 3},  // equal values by ascending index
        {values({2, 3}, {5, 5, 3, -1, -1, -1}), ints({2, 3}, {1, 3, 2, 0, 2, 4})});
  known({.x = values({1, 3}, {0, -0.0f, 0}), .k = 3}, {values({1, 3}, {0, -0.0f, 0}), ints({1, 3}, {0, 1, 2})});
  known({.x = values({1, 3}, {-inf, inf, -inf}), .k = 2}, {values({1, 2}, {inf, -inf}), ints({1, 2}, {1, 0})});
  for (int64_t rows : {1, 6})
    for (int64_t cols : {1, 10, 1000})
      for (int k : {1, 8, 1000})
        if (k <= cols) add({.x = normal({rows, cols}), .k = k});
  Tensor ties = normal({4, 500});
  for (int64_t i = 0; i < ties.count(); ++i) ties.at<float>()[i] = std::round(ties.at<float>()[i] * 2);
  add({.x = ties, .k = 40});
}

}  // namespace folio
