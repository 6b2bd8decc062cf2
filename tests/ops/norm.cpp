// SPDX-License-Identifier: MIT
// Cases of the norms.
#include "cases.h"

namespace folio {

CASES(RmsNorm) {
  // 3/√12.5 and 4/√12.5, with the second weight doubled in the second case; then (1, 1)/√(1 + 3).
  known({.x = values({1, 2}, {3, 4}), .w = values({2}, {1, 1}), .eps = 0}, {values({1, 2}, {0.848528137f, 1.13137085f})});
  known({.x = values({1, 2}, {3, 4}), .w = values({2}, {1, 2}), .eps = 0}, {values({1, 2}, {0.848528137f, 2.2627417f})});
  known({.x = values({2, 2}, {1, 1, 0, 0}), .w = values({2}, {1, -1}), .eps = 3}, {values({2, 2}, {0.5f, -0.5f, 0, 0})});
  for (int64_t rows : {1, 3, 64})
    for (int64_t cols : {1, 32, 1000, 4096}) add({.x = normal({rows, cols}), .w = near(1, {cols})});
  add({.x = normal({5, 3, 64}), .w = near(1, {64}), .eps = 1e-5f});  // a norm per head
  add({.x = normal({3, 100}, F32, 1e-4), .w = near(1, {100})});      // eps matters
  add({.x = normal({3, 100}, F32, 1e18), .w = near(1, {100})});      // squares that f32 does not hold
  add({.x = near(1000, {3, 4096}), .w = near(1, {4096})});
}

CASES(LayerNorm) {
  // mean 2.5, variance 1.25
  known({.x = values({1, 4}, {1, 2, 3, 4}), .w = values({4}, {1, 2, 1, 0.5f}), .b = values({4}, {0, 0, 10, -1}), .eps = 0},
        {values({1, 4}, {-1.34164079f, -0.894427191f, 10.4472136f, -0.329179607f})});
  known({.x = values({1, 4}, {1, 2, 3, 4}), .w = values({4}, {1, 1, 1, 1}), .eps = 1}, {values({1, 4}, {-1, -1 / 3.0f, 1 / 3.0f, 1})});
  for (int64_t rows : {1, 3, 64})
    for (int64_t cols : {1, 32, 1000}) {
      add({.x = normal({rows, cols}), .w = near(1, {cols}), .b = normal({cols})});
      add({.x = normal({rows, cols}), .w = near(1, {cols})});
    }
  add({.x = normal({5, 3, 64}), .w = near(1, {64}), .b = normal({64}), .eps = 1e-6f});
  add({.x = near(1000, {3, 4096}), .w = near(1, {4096}), .b = normal({4096})});  // a mean far from zero: squares minus mean² would fail
}

CASES(L2Norm) {
  known({.x = values({2, 2}, {3, 4, 0, 0})}, {values({2, 2}, {0.59999999f, 0.79999998f, 0, 0})});
  known({.x = values({1, 2}, {3, 4}), .eps = 75}, {values({1, 2}, {0.3f, 0.4f})});
  for (int64_t rows : {1, 3, 64})
    for (int64_t cols : {1, 32, 1000}) add({.x = normal({rows, cols})});
  add({.x = normal({5, 3, 64})});
}

}  // namespace folio
