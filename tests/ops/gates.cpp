// SPDX-License-Identifier: MIT
// Cases of gates and factors of rows.
#include "cases.h"

namespace folio {

CASES(Gate) {
  known({.x = values({1, 3}, {0, 100, -100}), .factor = 2}, {values({1, 3}, {1, 2, 0})});
  known({.x = values({1, 3}, {0, 30, -100}), .kind = GateKind::softplus}, {values({1, 3}, {0.693147181f, 30, 0})});
  known({.x = values({1, 3}, {2, 0, -100}), .kind = GateKind::elu1}, {values({1, 3}, {3, 1, 0})});
  // log sigmoid(0)/16; a clamped step size; −2 · softplus(3·1 − 3)
  known({.x = values({1, 1}, {0}), .kind = GateKind::softplus, .sign = -1, .factor = -1 / 16.0f}, {values({1, 1}, {-0.0433216988f})});
  known({.x = values({1, 2}, {50, -50}), .kind = GateKind::softplus, .low = 0.5f, .high = 4}, {values({1, 2}, {4, 0.5f})});
  known({.x = values({1, 1}, {1}), .weight = values({1}, {3}), .bias = values({1}, {-3}), .rate = values({1}, {-2}), .kind = GateKind::softplus},
        {values({1, 1}, {-1.38629436f})});
  for (GateKind kind : {GateKind::sigmoid, GateKind::softplus, GateKind::elu1})
    for (int64_t cols : {1, 7, 64, 1000}) {
      add({.x = normal({5, cols}, F32, 3), .kind = kind});
      add({.x = normal({65, cols}), .weight = normal({cols}), .bias = normal({cols}), .rate = normal({cols}), .kind = kind, .sign = -1, .factor = 0.5f});
    }
  add({.x = normal({5, 3, 16}, F32, 30), .bias = normal({16}), .kind = GateKind::softplus, .low = 0.01f, .high = 10});
}

CASES(ScaleRows) {
  known({.x = values({1, 2, 2}, {1, 2, 3, 4}), .s = values({1, 2}, {10, -1})}, {values({1, 2, 2}, {10, 20, -3, -4})});
  for (int64_t tokens : {1, 7, 65})
    for (int64_t cols : {1, 16, 100}) add({.x = normal({tokens, 3, cols}), .s = normal({tokens, 3})});
}

}  // namespace folio
