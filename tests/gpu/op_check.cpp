// SPDX-License-Identifier: MIT
#include "gpu/op_check.h"

#include <algorithm>
#include <chrono>

#include "frame.h"

namespace folio {

namespace {

// How a case is run: a name, the layout of its inputs, whether outputs take over inputs.
struct Way {
  const char* name;
  Layout layout;
  bool takeover;
};
constexpr Way ways[] = {{"packed", Layout::packed, false}, {"strided", Layout::strided, false}, {"in place", Layout::packed, true}};

class OpChecker {
 public:
  OpChecker(Device& device, const OpCheckOptions& options, const std::function<void(const CheckedCase&)>& each)
      : device_(device), reference_(reference(options.threads)), options_(options), each_(each) {}

  template <class Op>
  void check_op(const char* name) {
    if (!report_.stopped.empty() || std::string(name).find(options_.only) == std::string::npos) return;
    const CaseList<Op> list;
    for (size_t i = 0; i < list.all().size() && report_.stopped.empty(); ++i) {
      const Case<Op>& c = list.all()[i];
      const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start_;
      if (operations_of(c) > options_.most || spent.count() > options_.seconds) {
        ++report_.left_out;
        continue;
      }
      report_.cases.push_back(check_case(c, name, base_seed() + i));
      each_(report_.cases.back());
    }
  }
  const OpCheckReport& report() const { return report_; }

 private:
  template <class Op>
  CheckedCase check_case(const Case<Op>& c, const char* name, uint64_t seed) {
    CheckedCase checked{.op = name, .label = c.label};
    Results want;
    Instance<Op> packed(c.op, Layout::packed, base_seed());
    if (const std::string text = run_graph(*reference_, packed, false, 1, want); !text.empty()) checked.wrong = "the reference: " + text;
    for (const Way& way : ways) {
      if (!checked.wrong.empty()) break;
      if (way.takeover && !may_take_over(c.op)) continue;
      Instance<Op> in(c.op, way.layout, seed);
      Results got;
      std::string wrong;
      try {
        wrong = run_graph(device_, in, way.takeover, 2, got, true);
        if (wrong.empty()) wrong = judge(c, got, want.tensors, &checked.worst);
      } catch (const Error& error) {
        report_.stopped = wrong = error.what();
      }
      if (!wrong.empty()) checked.wrong = std::string(way.name) + ": " + wrong;
    }
    return checked;
  }

  Device& device_;
  const std::unique_ptr<Device> reference_;
  const OpCheckOptions& options_;
  const std::function<void(const CheckedCase&)>& each_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  OpCheckReport report_;
};

}  // namespace

int64_t OpCheckReport::failed() const {
  return std::count_if(cases.begin(), cases.end(), [](const CheckedCase& c) { return !c.wrong.empty(); });
}

OpCheckReport check_ops(Device& device, const OpCheckOptions& options, const std::function<void(const CheckedCase&)>& each) {
  OpChecker checker(device, options, each);
#define FOLIO_CHECK(OP) checker.check_op<OP>(#OP);
  ALL_OPS(FOLIO_CHECK)
#undef FOLIO_CHECK
  return checker.report();
}

}  // namespace folio
