// SPDX-License-Identifier: MIT
// How a test of a kernel runs it: under every schedule, and the bits must not differ.
#pragma once
#include <gtest/gtest.h>

#include <cstring>

#include "sim.h"

namespace folio::sim {

// Calls run() under every schedule; it returns a container of plain values, which must have the same bits every time.
// Returns the first result. A Failure counts as a test failure with its report.
template <class F> auto same_under_every_schedule(F run, const Config& base = {}) {
  decltype(run()) first{};
  bool have = false;
  for (const Config& way : schedules(base)) {
    SCOPED_TRACE(describe(way));
    const Use use(way);
    try {
      auto now = run();
      cuda_check(cudaDeviceSynchronize(), "synchronise");
      if (!have) {
        first = std::move(now);
        have = true;
        continue;
      }
      EXPECT_EQ(first.size(), now.size());
      for (size_t i = 0; i < first.size() && i < now.size(); ++i)
        if (std::memcmp(&first[i], &now[i], sizeof first[i]) != 0) {
          ADD_FAILURE() << "element " << i << " of " << first.size() << " differs between schedules";
          break;
        }
    } catch (const Failure& failure) {
      ADD_FAILURE() << failure.what();
    }
    if (testing::Test::HasFailure()) break;
  }
  return first;
}

}  // namespace folio::sim
