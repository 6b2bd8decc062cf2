// SPDX-License-Identifier: MIT
// Cases of adaptive layer norm, gated residuals and timestep embeddings.
#include "cases.h"

namespace folio {

CASES(Modulate) {
  // (1, 3) has mean 2 and variance 1; the third token belongs to nobody.
  known({.x = values({3, 2}, {1, 3, 5, 7, 1, 1}), .scale = values({2, 2}, {1, 0, -1, 0.5f}), .shift = values({2, 2}, {10, 20, 30, 40}),
         .index = ints({3}, {1, 0, -1}), .eps = 0}, {values({3, 2}, {30, 41.5f, 8, 21, 0, 0})});
  known({.x = values({2, 2}, {1, 3, 5, 7}), .scale = values({1, 2}, {1, 0}), .shift = values({1, 2}, {10, 20}), .index = ints({2}, {0, 0}),
         .norm = false}, {values({2, 2}, {12, 23, 20, 27})});
  for (bool norm : {true, false})
    for (int64_t rows : {1, 3, 40})
      for (int64_t cols : {1, 3, 64, 192, 700})
        add({.x = normal({rows, cols}), .scale = normal({5, cols}), .shift = normal({5, cols}), .index = ids(-1, 5, {rows}), .norm = norm});
  add({.x = near(50, {6, 96}), .scale = normal({2, 96}), .shift = normal({2, 96}), .index = ids(0, 2, {6}), .eps = 1e-3f});
}

CASES(GatedAdd) {
  known({.x = values({3, 2}, {1, 2, 3, 4, 5, 6}), .z = values({3, 2}, {10, 20, 30, 40, 50, 60}), .gate = values({2, 2}, {1, 2, 0.5f, -1}),
         .index = ints({3}, {1, 0, -1})}, {values({3, 2}, {6, -18, 33, 84, 5, 6})});
  for (int64_t rows : {1, 3, 64})
    for (int64_t cols : {1, 32, 700})
      add({.x = normal({rows, cols}), .z = normal({rows, cols}), .gate = normal({3, cols}), .index = ids(-1, 3, {rows})});
}

CASES(TimestepEmbed) {
  // Angles t, t/100 and t/10000 (gap 1), of t = π/2 in float.
  known({.t = values({2}, {0, 1.57079637f}), .dim = 6, .scale = 1, .gap = 1, .sine_first = true},
        {values({2, 6}, {0, 0, 0, 1, 1, 1, 1, 0.0157073173f, 0.000157079636f, -4.37113883e-8f, 0.99987663f, 0.99999999f})});
  known({.t = values({1}, {0.5f}), .dim = 4, .scale = 2}, {values({1, 4}, {0.54030231f, 0.99995f, 0.84147098f, 0.00999983333f})});
  add({.t = uniform(0, 1, {5})});
  add({.t = uniform(0, 1, {1}), .dim = 2, .scale = 7});
  add({.t = uniform(-1000, 1000, {3}), .dim = 64, .scale = 1, .period = 100, .gap = 1, .sine_first = true});
}

}  // namespace folio
