// SPDX-License-Identifier: MIT
// A test under every instruction set that this processor has.
#pragma once
#include <gtest/gtest.h>

#include <string>

#include "cpu/simd/simd.h"

namespace folio {

// Runs test() under each set, until an assertion of it fails; what was forced before is forced again behind it.
template <class F>
void with_every_set(F test) {
  const std::string before = simd().name;
  for (const Simd* set : simd_sets()) {
    SCOPED_TRACE(set->name);
    EXPECT_TRUE(force_simd(set->name));
    test();
    if (::testing::Test::HasFatalFailure()) break;
  }
  force_simd(before);
}

}  // namespace folio
