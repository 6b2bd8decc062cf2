// SPDX-License-Identifier: MIT
// The operations that cuda/lib/conform.cu compares with a chip, in the simulator, a test for each schedule.
#include "cuda/lib/conform.h"

#include <gtest/gtest.h>

#include "sim.h"

namespace folio::sim {
namespace {

class Conform : public testing::TestWithParam<size_t> {};

TEST_P(Conform, EveryOperation) {
  const Use use(schedules()[GetParam()]);
  SCOPED_TRACE(describe(config()));
  const auto all = conformance(config().compute_capability);
  EXPECT_GT(all.size(), 40u);
  for (const Conformity& c : all) EXPECT_LE(c.worst, c.allowed) << c.operation;
  EXPECT_EQ(device_allocations(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Schedule, Conform, testing::Range<size_t>(0, schedules().size()));

TEST(ConformOnSm80, LeavesHopperOut) { EXPECT_EQ(conformance(80).size(), 18u); }

}  // namespace
}  // namespace folio::sim
