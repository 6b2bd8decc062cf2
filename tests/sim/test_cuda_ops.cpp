// SPDX-License-Identifier: MIT
// Every case of every op by its CUDA kernel, on the simulator: eagerly and captured, replayed twice, packed, on strided views between
// poison and in place, against the plain reference; and under every schedule, whose bits must not differ. FOLIO_SEED as in test_ops.
// Those of matmul and attend once more in the Hopper tier: there every case that it takes runs under every schedule.
#include <gtest/gtest.h>

#include "frame.h"
#include "schedules.h"
#include "tier.h"

namespace folio {
namespace {

template <class Op>
void expect_close(const Case<Op>& c, const Results& got, const std::vector<Tensor>& want) {
  ASSERT_EQ(got.tensors.size(), want.size()) << c.label;
  for (size_t i = 0; i < want.size(); ++i) {
    double largest = 0;
    for (double x : elements(want[i])) largest = std::isfinite(x) ? std::max(largest, std::fabs(x)) : largest;
    const Tensor* extra = i < c.allowed.size() && c.allowed[i].present() ? &c.allowed[i] : nullptr;
    EXPECT_EQ(difference(got.tensors[i], want[i], tolerance_of(want[i].type, largest), extra), "") << got.names[i] << " of " << c.label;
  }
}

// Operations of a case, about: the small ones run under all schedules, the largest not at all.
template <class Op>
int64_t size_of(const Case<Op>& c) {
  Op op = c.op;
  op.shape();
  int64_t elements = 0;
  const Fields f = fields(op);
  for (const auto& [name, t] : f.inputs) elements = std::max(elements, t->count());
  for (const auto& out : f.outputs) elements = std::max(elements, out.tensor->count());
  if constexpr (std::is_same_v<Op, Matmul>) return op.y.count() * op.x.cols() * (op.gate.present() ? 2 : 1);
  if constexpr (std::is_same_v<Op, Attend>) return op.o.count() * op.page.dim(1) * page_tokens;
  return elements;
}

template <class Op>
void check_case(const Case<Op>& c, Layout layout, bool takeover, uint64_t seed, const sim::Config& way, Results& got) {
  const sim::Use use(way);
  SCOPED_TRACE(sim::describe(way));
  sim::stats() = {};
  const auto device = cuda();
  Instance<Op> in(c.op, layout, seed);
  try {
    EXPECT_EQ(run_graph(*device, in, takeover, 2, got), "") << c.label;
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
  constexpr int64_t small = 20'000, huge = 20'000'000;
  int64_t left_out = 0;
  for (size_t i = 0; i < list.all().size() && !::testing::Test::HasFailure(); ++i) {
    const auto& c = list.all()[i];
    if (takeover && !may_take_over(c.op)) continue;
    const int64_t size = size_of(c);
    if (size > huge) {
      ++left_out;
      continue;
    }
    Results want;
    Instance<Op> plain(c.op, Layout::packed, base_seed());
    run_plain(plain, want);
    // Small cases of the portable tier and those that Hopper kernels take under all schedules, the others under one, each under another.
    Results first;
    bool all_ways = size <= small && tier == std::string("portable");
    for (size_t w = 0; w < (all_ways ? ways.size() : 1) && !::testing::Test::HasFailure(); ++w) {
      Results now;
      Results& got = w == 0 ? first : now;
      check_case(c, layout, takeover, base_seed() + i, ways[(i + w) % ways.size()], got);
      if (::testing::Test::HasFailure()) break;
      if (w == 0) expect_close(c, got, want.tensors);
      if (w == 0 && sim::stats().wgmma > 0) ++taken, all_ways = true;
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
    EXPECT_GE(taken, least);
    std::cout << taken << " cases by Hopper kernels\n";
  }
};

TEST_P(HopperOps, Packed) { check(Layout::packed, false, 10); }
TEST_P(HopperOps, Strided) { check(Layout::strided, false, 0); }  // rows at any address: mostly for the portable tier
TEST_P(HopperOps, InPlace) { check(Layout::packed, true, GetParam().name == std::string("Matmul") ? 3 : 0); }

INSTANTIATE_TEST_SUITE_P(hopper, HopperOps, ::testing::ValuesIn(hopper_entries),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace folio
