// SPDX-License-Identifier: MIT
// Cases of what stands between convolutions.
#include "cases.h"

namespace folio {

CASES(Upsample) {
  known({.x = values({1, 1, 2, 2}, {1, 2, 3, 4})}, {values({1, 2, 4, 2}, {1, 2, 1, 2, 3, 4, 3, 4, 1, 2, 1, 2, 3, 4, 3, 4})});
  for (int64_t cols : {1, 5, 64}) add({.x = normal({2, 3, 5, cols}), .factor = int(1 + cols % 3)});
}

CASES(PixelShuffle) {
  // Two output channels of 2×2 pixels each; one pixel in.
  known({.x = values({1, 1, 1, 8}, {1, 2, 3, 4, 5, 6, 7, 8})}, {values({1, 2, 2, 2}, {1, 5, 2, 6, 3, 7, 4, 8})});
  for (int64_t cols : {1, 3, 16}) {
    add({.x = normal({2, 3, 5, cols * 4})});
    add({.x = normal({1, 2, 3, cols * 9}), .factor = 3});
  }
}

CASES(PixelUnshuffle) {
  known({.x = values({1, 2, 2, 2}, {1, 5, 2, 6, 3, 7, 4, 8})}, {values({1, 1, 1, 8}, {1, 2, 3, 4, 5, 6, 7, 8})});
  for (int64_t cols : {1, 3, 16}) {
    add({.x = normal({2, 6, 10, cols})});
    add({.x = normal({1, 6, 9, cols}), .factor = 3});
  }
}

CASES(GroupNorm) {
  // Two groups of two channels over two pixels: 1 2 3 4 has mean 2.5 and variance 1.25, the other no variance at all.
  known({.x = values({1, 1, 2, 4}, {1, 2, 5, 5, 3, 4, 5, 5}), .w = values({4}, {1, 1, 2, 2}), .b = values({4}, {0, 10, 0.5f, 0}),
         .groups = 2, .eps = 0.1875f},
        {values({1, 1, 2, 4}, {-1.2510864f, 9.5829712f, 0.5f, 0, 0.41702883f, 11.251086f, 0.5f, 0})});
  for (int groups : {1, 4}) {
    add({.x = normal({2, 3, 5, 32}), .w = near(1, {32}), .b = normal({32}), .groups = groups});
    add({.x = normal({3, 17, 9, 12}), .w = near(1, {12}), .groups = groups, .eps = 1e-6f});
    add({.x = near(1000, {1, 16, 16, 64}), .w = near(1, {64}), .b = normal({64}), .groups = groups});   // a mean far from zero
  }
}

}  // namespace folio
