// SPDX-License-Identifier: MIT
// Every case of every op by its CUDA kernel, on the simulator: captured and replayed twice, then eagerly, packed, on strided views between
// poison and in place, against the plain reference; and under several schedules, whose bits must not differ. FOLIO_SEED as in test_ops.
// Those of matmul and attend once more in the Hopper tier: there every case that it takes runs under several.
//
// With FOLIO_LAUNCHES=file the test Launches writes down which kernels the cases launch, and how. tests/cuda/gate.py holds compiled
// kernels against it: one that no case launches is not tested, and how many blocks fit on a multiprocessor hangs on their launches.
#include <gtest/gtest.h>

#include <fstream>
#include <map>

#include "frame.h"
#include "later_tokens.h"
#include "schedules.h"
#include "tier.h"

namespace folio {
namespace {

constexpr int64_t small = 20'000, huge = 20'000'000;   // operations of cases that run under several schedules; that do not run at all
const bool sanitized = sim::sanitized();   // the kernels; this file never is

// How kernels have been launched: the most threads of a block, the most dynamic shared memory.
struct Largest {
  unsigned threads = 0;
  size_t shared = 0;
};
std::map<std::string, Largest> launched;

void note(const std::string& kernel, unsigned threads, size_t shared) {
  Largest& most = launched[kernel];
  most = {std::max(most.threads, threads), std::max(most.shared, shared)};
}

// Whether a kernel is among those of the case that no case before it has launched.
template <class Op>
bool launches_another_kernel(const Case<Op>& c, Layout layout) {
  const sim::Use use(sim::Config{.instead_of_running = note});
  const size_t before = launched.size();
  const Instance<Op> in(c.op, layout, base_seed());
  auto graph = std::make_unique<Graph>();
  graph->record(in.op);
  cuda()->compile(std::move(graph));
  return launched.size() > before;
}

template <class Op>
void launch_cases() {
  const CaseList<Op> list;
  for (const char* name : {"portable", "hopper"}) {
    const Tier tier(name);
    for (const auto& c : list.all())
      for (Layout layout : {Layout::packed, Layout::strided})
        if (operations_of(c) <= huge) launches_another_kernel(c, layout);
  }
}

// Writes lines `threads bytes kernel`.
TEST(Launches, OfEveryCase) {
  const char* file = std::getenv("FOLIO_LAUNCHES");
  if (!file) GTEST_SKIP() << "FOLIO_LAUNCHES names no file";
#define FOLIO_LAUNCH(OP) launch_cases<OP>();
  ALL_OPS(FOLIO_LAUNCH)
#undef FOLIO_LAUNCH
  std::ofstream out(file);
  for (const auto& [kernel, most] : launched) out << most.threads << ' ' << most.shared << ' ' << kernel << '\n';
  EXPECT_TRUE(out.flush()) << file;
}

template <class Op>
void check_case(const Case<Op>& c, Layout layout, bool takeover, uint64_t seed, const sim::Config& way, Results& got) {
  const sim::Use use(way);
  SCOPED_TRACE(sim::describe(way));
  sim::stats() = {};
  const auto device = cuda();
  Instance<Op> in(c.op, layout, seed);
  try {
    EXPECT_EQ(run_graph(*device, in, takeover, sanitized ? 1 : 2, got, !sanitized), "") << c.label;
  } catch (const sim::Failure& failure) {
    ADD_FAILURE() << c.label << "\n" << failure.what();
  }
}

// In the tier of that name; `taken` counts the cases that a Hopper kernel has computed.
template <class Op>
void check_op(Layout layout, bool takeover, const char* tier, int& taken) {
  const Tier use(tier);
  const CaseList<Op> list;
  const std::vector<sim::Config> ways = sim::schedules();
  int64_t left_out = 0;
  for (size_t i = 0; i < list.all().size() && !::testing::Test::HasFailure(); ++i) {
    const auto& c = list.all()[i];
    if (takeover && !may_take_over(c.op)) continue;
    const int64_t size = operations_of(c);   // small cases under several schedules, huge ones not at all
    if (size > huge) {
      ++left_out;
      continue;
    }
    if (sanitized && !launches_another_kernel(c, layout)) continue;
    Results want;
    Instance<Op> plain(c.op, Layout::packed, base_seed());
    run_plain(plain, want);
    // Small cases of the portable tier and those that Hopper kernels take under four schedules, the others under one, each under others
    // than the case before it. Sanitizers take their time: one case for each kernel, under one schedule.
    Results first;
    bool some_ways = size <= small && tier == std::string("portable") && !sanitized;
    for (size_t w = 0; w < (some_ways ? 4 : 1) && !::testing::Test::HasFailure(); ++w) {
      Results now;
      Results& got = w == 0 ? first : now;
      check_case(c, layout, takeover, base_seed() + i, ways[(i + 5 * w) % ways.size()], got);   // another order and landing
      if (::testing::Test::HasFailure()) break;
      if (w == 0) {
        EXPECT_EQ(judge(c, got, want.tensors), "") << c.label;
      }
      if (w == 0 && sim::stats().wgmma > 0) ++taken, some_ways = !sanitized;
      for (size_t t = 0; w > 0 && t < got.tensors.size(); ++t)
        EXPECT_EQ(bit_difference(got.tensors[t], first.tensors[t]), "") << "between schedules: " << got.names[t] << " of " << c.label;
    }
  }
  if (left_out > 0) std::cout << left_out << " cases are too large for the simulator\n";
}

struct Entry {
  const char* name;
  void (*check)(Layout, bool, const char* tier, int& taken);
};
void PrintTo(const Entry& entry, std::ostream* out) { *out << entry.name; }

#define FOLIO_ENTRY(OP) Entry{#OP, check_op<OP>},
const Entry entries[] = {ALL_OPS(FOLIO_ENTRY)}, hopper_entries[] = {FOLIO_ENTRY(Matmul) FOLIO_ENTRY(Attend)};
#undef FOLIO_ENTRY

class Ops : public ::testing::TestWithParam<Entry> {
 protected:
  void check(Layout layout, bool takeover) {
    int taken = 0;
    GetParam().check(layout, takeover, "portable", taken);
    EXPECT_EQ(taken, 0);
  }
};

TEST_P(Ops, Packed) { check(Layout::packed, false); }
TEST_P(Ops, Strided) { check(Layout::strided, false); }
TEST_P(Ops, InPlace) { check(Layout::packed, true); }

INSTANTIATE_TEST_SUITE_P(All, Ops, ::testing::ValuesIn(entries), [](const auto& info) { return std::string(info.param.name); });

// How many cases a Hopper kernel takes, at least, is part of the test: nothing must pass because the portable tier ran.
class HopperOps : public ::testing::TestWithParam<Entry> {
 protected:
  void check(Layout layout, bool takeover, int least) {
    int taken = 0;
    GetParam().check(layout, takeover, "hopper", taken);
    EXPECT_GE(taken, sanitized ? std::min(least, 1) : least);
    std::cout << taken << " cases by Hopper kernels\n";
  }
};

TEST_P(HopperOps, Packed) { check(Layout::packed, false, 10); }
TEST_P(HopperOps, Strided) { check(Layout::strided, false, 0); }  // rows at any address: mostly for the portable tier
TEST_P(HopperOps, InPlace) { check(Layout::packed, true, GetParam().name == std::string("Matmul") ? 3 : 0); }

INSTANTIATE_TEST_SUITE_P(hopper, HopperOps, ::testing::ValuesIn(hopper_entries),
                         [](const auto& info) { return std::string(info.param.name); });

// tests/later_tokens.h.
template <class Op>
void check_look_ahead() {
  const CaseList<Op> list;
  const auto device = cuda();
  Random random(base_seed(), 2000);
  for (size_t i = 0; i < list.all().size() && !::testing::Test::HasFailure(); ++i) {
    const auto& c = list.all()[i];
    const float what = i % 2 ? std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
    if (operations_of(c) <= 2'000'000) {
      EXPECT_EQ(look_ahead(*device, c, what, random), "") << c.label;
    }
  }
}

struct LookAhead {
  const char* name;
  void (*check)();
};
void PrintTo(const LookAhead& entry, std::ostream* out) { *out << entry.name; }
class LookAheadOps : public ::testing::TestWithParam<LookAhead> {};
TEST_P(LookAheadOps, LeavesTokensBeforeAlone) { GetParam().check(); }
INSTANTIATE_TEST_SUITE_P(recurrent, LookAheadOps,
                         ::testing::Values(LookAhead{"Linear", check_look_ahead<Linear>}, LookAhead{"LogLinear", check_look_ahead<LogLinear>},
                                           LookAhead{"Mesa", check_look_ahead<Mesa>}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace folio
