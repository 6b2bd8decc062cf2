// SPDX-License-Identifier: MIT
// Every case of every op by its CUDA kernel, on the simulator: eagerly and captured, replayed twice, packed, on strided views between
// poison and in place, against the plain reference; and under every schedule, whose bits must not differ. FOLIO_SEED as in test_ops.
#include <gtest/gtest.h>

#include "frame.h"
#include "schedules.h"

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
  if constexpr (std::is_same_v<Op, Linear>) return op.o.count() * op.q.cols() * 8;
  return elements;
}

template <class Op>
void check_case(const Case<Op>& c, Layout layout, bool takeover, uint64_t seed, const sim::Config& way, Results& got) {
  const sim::Use use(way);
  SCOPED_TRACE(sim::describe(way));
  const auto device = cuda();
  Instance<Op> in(c.op, layout, seed);
  try {
    EXPECT_EQ(run_graph(*device, in, takeover, 2, got), "") << c.label;
  } catch (const sim::Failure& failure) {
    ADD_FAILURE() << c.label << "\n" << failure.what();
  }
}

template <class Op>
void check_op(Layout layout, bool takeover) {
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
    // Small cases under all schedules, the others under one, each case under another.
    Results first;
    for (size_t w = 0; w < (size <= small ? ways.size() : 1) && !::testing::Test::HasFailure(); ++w) {
      Results now;
      Results& got = w == 0 ? first : now;
      check_case(c, layout, takeover, base_seed() + i, ways[(i + w) % ways.size()], got);
      if (::testing::Test::HasFailure()) break;
      if (w == 0) expect_close(c, got, want.tensors);
      for (size_t t = 0; w > 0 && t < got.tensors.size(); ++t)
        EXPECT_EQ(bit_difference(got.tensors[t], first.tensors[t]), "") << "between schedules: " << got.names[t] << " of " << c.label;
    }
  }
  if (left_out > 0) std::cout << left_out << " cases are too large for the simulator\n";
}

struct Entry {
  const char* name;
  void (*check)(Layout, bool);
};
void PrintTo(const Entry& entry, std::ostream* out) { *out << entry.name; }

#define FOLIO_ENTRY(OP) Entry{#OP, check_op<OP>},
const Entry entries[] = {ALL_OPS(FOLIO_ENTRY)};
#undef FOLIO_ENTRY

class Ops : public ::testing::TestWithParam<Entry> {};

TEST_P(Ops, Packed) { GetParam().check(Layout::packed, false); }
TEST_P(Ops, Strided) { GetParam().check(Layout::strided, false); }
TEST_P(Ops, InPlace) { GetParam().check(Layout::packed, true); }

INSTANTIATE_TEST_SUITE_P(All, Ops, ::testing::ValuesIn(entries), [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace folio
