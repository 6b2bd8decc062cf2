// SPDX-License-Identifier: MIT
// Every case of every op: the plain reference against numbers worked out by hand, then the reference and every kernel on the CPU
// device, under each instruction set and with several thread counts, against the plain reference. All of it again on strided
// views between poison, and with outputs that take over the bytes of an input. `test_ops --gtest_filter=*RmsNorm*` runs one op.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/threads.h"
#include "cpu/simd/simd.h"
#include "later_tokens.h"

namespace folio {
namespace {

// Devices are kept: a thread pool per run would cost more than the run.
Device& kernels(int threads) {
  static std::map<int, std::unique_ptr<Device>> devices;
  auto& device = devices[threads];
  if (!device) device = cpu(threads);
  return *device;
}

Device& references() {
  static const std::unique_ptr<Device> device = reference(3);
  return *device;
}

void expect_bits(const std::string& label, const Results& got, const std::vector<Tensor>& want) {
  ASSERT_EQ(got.tensors.size(), want.size()) << label;
  for (size_t i = 0; i < want.size(); ++i) EXPECT_EQ(bit_difference(got.tensors[i], want[i]), "") << got.names[i] << " of " << label;
}

// What the plain reference gives on packed inputs.
template <class Op>
Results expected(const Case<Op>& c) {
  Results results;
  Instance<Op> packed(c.op, Layout::packed, base_seed());
  run_plain(packed, results);
  EXPECT_EQ(packed.damage(), "") << c.label;
  return results;
}

template <class Op>
void check_known(const CaseList<Op>& list) {
  size_t known = 0;
  for (const auto& c : list.all()) {
    if (c.want.empty()) continue;
    ++known;
    const Results got = expected(c);
    ASSERT_EQ(got.tensors.size(), c.want.size()) << c.label;
    for (size_t i = 0; i < c.want.size(); ++i) {  // only f32 may be near: of the rest every bit is known
      const std::string wrong =
          c.want[i].type == F32 ? difference(got.tensors[i], c.want[i], {}) : bit_difference(got.tensors[i], c.want[i]);
      EXPECT_EQ(wrong, "") << got.names[i] << " of " << c.label;
    }
  }
  EXPECT_GT(known, 0u) << Op::name << " has no case whose numbers were worked out by hand";
}

// Alone on strided views, and by three workers through a graph: the same bits.
template <class Op>
void check_reference(const CaseList<Op>& list) {
  for (size_t i = 0; i < list.all().size() && !::testing::Test::HasFailure(); ++i) {
    const auto& c = list.all()[i];
    const Results want = expected(c);
    Instance<Op> strided(c.op, Layout::strided, base_seed() + i);
    Results alone, team;
    run_plain(strided, alone);
    expect_bits(c.label, alone, want.tensors);
    EXPECT_EQ(strided.damage(), "") << c.label;
    EXPECT_EQ(run_graph(references(), strided, false, 1, team), "") << c.label;
    expect_bits(c.label, team, want.tensors);
  }
}

// One case under one instruction set: every thread count gives the same bits, and these are near the reference's.
template <class Op>
void check_case(const Case<Op>& c, Instance<Op>& in, const Results& want, const std::string& set, bool takeover) {
  Results alone;
  for (int threads : std::set<int>{1, 3, hardware_threads()}) {
    Results team;
    Results& got = threads == 1 ? alone : team;
    const std::string label = join(set, ", ", threads, " threads, ", c.label);
    ASSERT_EQ(run_graph(kernels(threads), in, takeover, threads == 1 ? 1 : 2, got), "") << label;
    if (threads == 1) EXPECT_EQ(judge(c, got, want.tensors), "") << label;
    else expect_bits(label, got, alone.tensors);
    ASSERT_FALSE(::testing::Test::HasFailure()) << label;
  }
}

// Without a kernel of its own an op runs its reference, which knows no instruction sets: one is enough.
template <class Op>
void check_kernels(const CaseList<Op>& list, Layout layout, bool takeover, bool has_kernel) {
  const std::string before = simd().name;
  for (size_t i = 0; i < list.all().size() && !::testing::Test::HasFailure(); ++i) {
    const auto& c = list.all()[i];
    if (takeover && !may_take_over(c.op)) continue;
    const Results want = expected(c);
    Instance<Op> in(c.op, layout, base_seed() + i);
    for (const Simd* set : simd_sets()) {
      if ((!has_kernel && set != simd_sets().front()) || ::testing::Test::HasFailure()) break;
      ASSERT_TRUE(force_simd(set->name));
      check_case(c, in, want, set->name, takeover);
    }
  }
  force_simd(before);
}

enum class What { known, reference, packed, strided, takeover };

template <class Op, bool has_kernel>
void check_op(What what) {
  const CaseList<Op> list;
  switch (what) {
    case What::known:
      return check_known(list);
    case What::reference:
      return check_reference(list);
    case What::packed:
      return check_kernels(list, Layout::packed, false, has_kernel);
    case What::strided:
      return check_kernels(list, Layout::strided, false, has_kernel);
    case What::takeover:
      return check_kernels(list, Layout::packed, true, has_kernel);
  }
}

struct Entry {
  const char* name;
  void (*check)(What);
};
void PrintTo(const Entry& entry, std::ostream* out) { *out << entry.name; }

#define FOLIO_KERNEL(OP) Entry{#OP, check_op<OP, true>},
#define FOLIO_PLAIN(OP) Entry{#OP, check_op<OP, false>},
const Entry entries[] = {OPS_WITH_CPU_KERNEL(FOLIO_KERNEL) OPS_PLAIN_ON_CPU(FOLIO_PLAIN)};
#undef FOLIO_KERNEL
#undef FOLIO_PLAIN

class Ops : public ::testing::TestWithParam<Entry> {};

TEST_P(Ops, KnownNumbers) { GetParam().check(What::known); }
TEST_P(Ops, Reference) { GetParam().check(What::reference); }
TEST_P(Ops, Kernel) { GetParam().check(What::packed); }
TEST_P(Ops, KernelOnStridedViews) { GetParam().check(What::strided); }
TEST_P(Ops, KernelInPlace) { GetParam().check(What::takeover); }

INSTANTIATE_TEST_SUITE_P(All, Ops, ::testing::ValuesIn(entries), [](const auto& info) { return std::string(info.param.name); });

// tests/later_tokens.h, on the references and under every instruction set.
template <class Op>
void check_look_ahead() {
  const CaseList<Op> list;
  const std::string before = simd().name;
  Random random(base_seed(), 2000);
  for (size_t i = 0; i < list.all().size() && !::testing::Test::HasFailure(); ++i) {
    const auto& c = list.all()[i];
    if (operations_of(c) > 20'000'000) continue;
    for (float what : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      EXPECT_EQ(look_ahead(references(), c, what, random), "") << "reference, " << c.label;
      for (const Simd* set : simd_sets()) {
        ASSERT_TRUE(force_simd(set->name));
        EXPECT_EQ(look_ahead(kernels(1), c, what, random), "") << set->name << ", " << c.label;
      }
    }
  }
  force_simd(before);
}
TEST(LookAhead, Linear) { check_look_ahead<Linear>(); }
TEST(LookAhead, LogLinear) { check_look_ahead<LogLinear>(); }
TEST(LookAhead, Mesa) { check_look_ahead<Mesa>(); }

}  // namespace
}  // namespace folio
