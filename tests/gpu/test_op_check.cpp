// SPDX-License-Identifier: MIT
// The checker checked: it passes the CPU, and finds each kind of fault in a device that has it.
#include <gtest/gtest.h>

#include <cmath>

#include "gpu/op_check.h"

namespace folio {
namespace {

enum class Fault { none, wrong_number, other_bits_when_replayed, other_bits_when_eager, error };

// The CPU's program, but for one fault in its first f32 output.
class FaultyProgram final : public Program {
 public:
  FaultyProgram(std::unique_ptr<Program> real, Fault fault) : real_(std::move(real)), fault_(fault) {}
  Tensor input(const std::string& name) override { return real_->input(name); }
  Tensor output(const std::string& name) override {
    Tensor t = real_->output(name);
    if (t.type == F32 && t.count() > 0) {
      float& first = t.at<float>()[0];
      if (fault_ == Fault::wrong_number) first += 1;
      if (fault_ == Fault::other_bits_when_replayed && runs_ > 1) first = std::nextafter(first, 9.0f);
    }
    return t;
  }
  void run() override {
    check(fault_ != Fault::error, "cuda: a step: an illegal memory access was encountered");
    real_->run();
    ++runs_;
  }
  void trace(const std::function<void(const TracedNode&)>& after) override {
    real_->trace([&](const TracedNode& node) {
      for (const auto& [name, t] : node.outputs) {
        if (t.type != F32 || t.count() == 0) continue;
        if (fault_ == Fault::other_bits_when_eager) t.at<float>()[0] = -77;
        if (fault_ == Fault::wrong_number) t.at<float>()[0] += 1;
      }
      after(node);
    });
  }
  const Graph& graph() const override { return real_->graph(); }
  int64_t arena_bytes() const override { return real_->arena_bytes(); }

 private:
  std::unique_ptr<Program> real_;
  Fault fault_;
  int runs_ = 0;
};

class FaultyDevice final : public Device {
 public:
  explicit FaultyDevice(Fault fault) : real_(cpu(2)), fault_(fault) {}
  std::string name() const override { return "faulty"; }
  bool exact_shapes() const override { return true; }
  std::byte* alloc(int64_t bytes) override { return real_->alloc(bytes); }
  void free(std::byte* at, int64_t bytes) override { real_->free(at, bytes); }
  void upload(std::byte* to, const void* from, int64_t bytes) override { real_->upload(to, from, bytes); }
  void download(void* to, const std::byte* from, int64_t bytes) override { real_->download(to, from, bytes); }
  std::unique_ptr<Program> compile(std::unique_ptr<Graph> graph) override {
    return std::make_unique<FaultyProgram>(real_->compile(std::move(graph)), fault_);
  }

 private:
  std::unique_ptr<Device> real_;
  Fault fault_;
};

OpCheckReport report_of(Fault fault) {
  FaultyDevice device(fault);
  size_t told = 0;
  OpCheckReport report = check_ops(device, {.only = "Softcap", .most = 5000, .threads = 2}, [&](const CheckedCase&) { ++told; });
  EXPECT_EQ(told, report.cases.size());
  return report;
}

TEST(OpCheck, PassesTheCpu) {
  const OpCheckReport report = report_of(Fault::none);
  EXPECT_TRUE(report.good());
  EXPECT_GT(report.cases.size(), 0u);
}

void expect_found(Fault fault, const std::string& words) {
  const OpCheckReport report = report_of(fault);
  EXPECT_FALSE(report.good());
  ASSERT_GT(report.failed(), 0);
  bool said = false;
  for (const CheckedCase& c : report.cases) said |= c.wrong.find(words) != std::string::npos;
  EXPECT_TRUE(said) << words;
}

TEST(OpCheck, FindsAWrongNumber) { expect_found(Fault::wrong_number, "times what is allowed"); }
TEST(OpCheck, FindsAReplayThatDiffers) { expect_found(Fault::other_bits_when_replayed, "a later run's"); }
TEST(OpCheck, FindsAnEagerRunThatDiffers) { expect_found(Fault::other_bits_when_eager, "the eager run's"); }

TEST(OpCheck, StopsAtTheFirstErrorOfTheDevice) {
  const OpCheckReport report = report_of(Fault::error);
  EXPECT_FALSE(report.good());
  EXPECT_EQ(report.cases.size(), 1u);
  EXPECT_NE(report.stopped.find("illegal memory access"), std::string::npos);
}

TEST(OpCheck, NothingCheckedIsNotGood) {
  FaultyDevice device(Fault::none);
  const OpCheckReport late = check_ops(device, {.only = "Softcap", .seconds = 0, .threads = 1}, [](const CheckedCase&) {});
  EXPECT_FALSE(late.good());
  EXPECT_GT(late.left_out, 0);
  EXPECT_FALSE(check_ops(device, {.only = "no such op", .threads = 1}, [](const CheckedCase&) {}).good());
}

}  // namespace
}  // namespace folio
