// SPDX-License-Identifier: MIT
// Who tests the tests: the comparator must fail when it should, and the frame of the op cases must find an op that reads beside
// its stride, forgets an element, writes where it may not, or gives other bits the second time.
#include <gtest/gtest.h>

#include "frame.h"

namespace folio {
namespace {

const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();

std::string compared(const std::vector<float>& got, const std::vector<float>& want, Tolerance t = {}) {
  Inputs in;
  return difference(in.values({1, int64_t(got.size())}, got), in.values({1, int64_t(want.size())}, want), t);
}

TEST(Compare, Equal) {
  EXPECT_EQ(compared({1, -2, 0}, {1, -2, 0}), "");
  EXPECT_EQ(compared({1, -2, 0}, {1, -2, 0}, {0, 0, 0}), "");
  EXPECT_EQ(compared({nan, inf, -inf, 1}, {nan, inf, -inf, 1}), "");
  EXPECT_EQ(compared({0, -0.0f}, {-0.0f, 0}), "");
}

TEST(Compare, WithinTolerance) {
  EXPECT_EQ(compared({1000.005f, 5e-7f}, {1000, 0}), "");
  EXPECT_NE(compared({1000.05f, 0}, {1000, 0}), "");
  EXPECT_NE(compared({1000, 2e-6f}, {1000, 0}), "");
}

TEST(Compare, NanAndInfinityMustStandInTheSamePlaces) {
  EXPECT_NE(compared({nan, 1}, {1, 1}), "");
  EXPECT_NE(compared({1, 1}, {nan, 1}), "");
  EXPECT_NE(compared({inf, 1}, {1, 1}), "");
  EXPECT_NE(compared({1, 1}, {inf, 1}), "");
  EXPECT_NE(compared({inf, 1}, {-inf, 1}), "");
  EXPECT_NE(compared({inf, 1}, {nan, 1}), "");
  EXPECT_NE(compared({nan}, {1}, {1e30, 1e30, 1e30}), "");  // whatever the tolerance
}

TEST(Compare, NamesTheWorstElement) {
  Inputs in;
  Tensor want = in.normal({3, 4, 5}), got = in.store().copy(want);
  got.row<float>(1)[2] += 0.001f;
  got.row<float>(2 * 4 + 3)[1] = 77;
  const std::string text = difference(got, want, {});
  EXPECT_NE(text.find("2 of 60"), std::string::npos) << text;
  EXPECT_NE(text.find("[2,3,1]"), std::string::npos) << text;
  EXPECT_NE(text.find("77"), std::string::npos) << text;
}

TEST(Compare, TypesAndShapes) {
  Inputs in;
  EXPECT_NE(difference(in.normal({2, 3}), in.normal({3, 2}), {1e9, 1e9, 1e9}), "");
  EXPECT_NE(difference(in.normal({2, 3}), in.normal({2, 3}, F16), {1e9, 1e9, 1e9}), "");
  EXPECT_NE(difference(in.ints({2}, {1, 2}), in.ints({2}, {1, 3}), {1e9, 1e9, 1e9}), "");  // an index is right or wrong
  EXPECT_EQ(difference(in.ints({2}, {1, 2}), in.ints({2}, {1, 2}), {}), "");
}

TEST(Compare, AllowedErrorsAreForTheirElementAlone) {
  Inputs in;
  const Tensor want = in.values({1, 2}, {1, 1}), allowed = in.values({1, 2}, {0.1f, 0});
  EXPECT_EQ(difference(in.values({1, 2}, {1.05f, 1}), want, {}, &allowed), "");
  EXPECT_NE(difference(in.values({1, 2}, {1, 1.05f}), want, {}, &allowed), "");
  EXPECT_NE(difference(in.values({1, 2}, {1.2f, 1}), want, {}, &allowed), "");
}

// Every element within six deviations, yet all of them at five: chance does not do that.
TEST(Compare, CosineSeesWhatElementsHide) {
  Inputs in;
  const Tensor want = in.normal({10, 100});
  Tensor got = in.store().copy(want), allowed = in.store().zeros(F32, want.shape);
  for (int64_t i = 0; i < want.count(); ++i) {
    allowed.at<float>()[i] = 0.06f;
    got.at<float>()[i] += i % 2 ? 0.05f : -0.05f;
  }
  EXPECT_NE(difference(got, want, {}, &allowed).find("cosine"), std::string::npos);
  for (int64_t i = 0; i < want.count(); ++i) got.at<float>()[i] = want.at<float>()[i] + float(0.01 * in.random().normal());
  EXPECT_EQ(difference(got, want, {}, &allowed), "");
}

// A scale that is off by 1%: no element shows it, the cosine is that of the same direction.
TEST(Compare, LengthSeesAWrongScale) {
  Inputs in;
  const Tensor want = in.normal({10, 100});
  Tensor got = in.store().copy(want), allowed = in.store().zeros(F32, want.shape);
  for (int64_t i = 0; i < want.count(); ++i) {
    allowed.at<float>()[i] = 0.06f;
    got.at<float>()[i] *= 1.01f;
  }
  EXPECT_NE(difference(got, want, {}, &allowed).find("longer"), std::string::npos);
}

TEST(Compare, BitsAreBits) {
  Inputs in;
  EXPECT_EQ(bit_difference(in.values({2}, {1, nan}), in.values({2}, {1, nan})), "");
  EXPECT_NE(bit_difference(in.values({2}, {1, 0}), in.values({2}, {1, -0.0f})), "");
  const std::string text = bit_difference(in.values({2, 2}, {1, 2, 3, 4}), in.values({2, 2}, {1, 2, 3, 5}));
  EXPECT_NE(text.find("[1,1]"), std::string::npos) << text;
}

TEST(Compare, ReadsStridedViews) {
  Inputs in;
  const Tensor wide = in.normal({6, 10}), view = wide.columns(3, 4);
  EXPECT_EQ(bit_difference(in.store().copy(view), view), "");
  EXPECT_EQ(difference(view, in.store().copy(view), {0, 0, 1e-12}), "");
}

// An op with one fault of choice.
enum Fault { sound, ignores_stride, forgets, writes_input };
struct Faulty {
  static constexpr const char* name = "faulty";
  Tensor x;
  Fault fault = sound;
  Tensor y;
  void visit(auto& v) {
    v.in("x", x);
    v.out("y", y, &x);
  }
  void shape() { y = like(x); }
  void reference(Worker) const {
    for (int64_t t = 0; t < x.rows(); ++t) {
      float* in = fault == ignores_stride ? x.at<float>() + t * x.cols() : x.row<float>(t);
      for (int64_t c = 0; c < x.cols() - (fault == forgets); ++c) y.row<float>(t)[c] = 2 * in[c];
      if (fault == writes_input) in[0] = 0;
    }
  }
};

struct Found {
  std::string differs, damage;
};
Found try_faulty(Fault fault, Layout layout) {
  Inputs in;
  const Faulty op{.x = in.normal({5, 12}), .fault = fault};
  Instance<Faulty> packed({.x = op.x}, Layout::packed, 1), tried(op, layout, 2);
  Results want, got;
  run_plain(packed, want);
  run_plain(tried, got);
  return {bit_difference(got.tensors[0], want.tensors[0]), tried.damage()};
}

TEST(Frame, FindsFaults) {
  for (Layout layout : {Layout::packed, Layout::strided}) {
    EXPECT_EQ(try_faulty(sound, layout).differs, "");
    EXPECT_EQ(try_faulty(sound, layout).damage, "");
    EXPECT_NE(try_faulty(forgets, layout).differs.find("nan"), std::string::npos);
    EXPECT_NE(try_faulty(writes_input, layout).damage, "");
  }
  EXPECT_EQ(try_faulty(ignores_stride, Layout::packed).differs, "");
  EXPECT_NE(try_faulty(ignores_stride, Layout::strided).differs.find("nan"), std::string::npos);
}

TEST(Frame, PlacedViewsHoldTheirTensorBetweenPoison) {
  Inputs in;
  Random random(3);
  for (DType type : {F32, F16, BF16, Q8_0, Q4_0, F8_E4M3})
    for (int gaps : {0, 1, 2}) {
      const Tensor t = in.normal({3, 2, 64}, type);
      Placed placed(t, gaps, random);
      EXPECT_EQ(bit_difference(placed.view(), t), "");
      EXPECT_EQ(placed.view().contiguous(), gaps == 0);
      EXPECT_TRUE(placed.untouched() && placed.tidy());
      placed.view().row_bytes(4)[0] ^= std::byte(1);
      EXPECT_TRUE(!placed.untouched() && placed.tidy());
      placed.reset();
      EXPECT_TRUE(placed.untouched());
      placed.view().row_bytes(5)[bytes_of(type, 64)] ^= std::byte(1);
      EXPECT_FALSE(placed.tidy());
      float beside[64];
      format(type).to_float(placed.view().row_bytes(5) + bytes_of(type, 64), beside, format(type).block);
      EXPECT_TRUE(std::isnan(beside[format(type).block - 1]));
    }
}

TEST(Compare, WholeNumbersMayBeAsFarAsTheCaseSays) {
  Inputs in;
  const Tensor want = in.ints({3}, {1, 3, 3}), near = in.ints({3}, {1, 2, 3}), far = in.ints({3}, {1, 5, 3}), may = in.values({3}, {1, 1, 1});
  EXPECT_NE(difference(near, want, {}), "");
  EXPECT_EQ(difference(near, want, {}, &may), "");
  EXPECT_NE(difference(far, want, {}, &may), "");
}

TEST(Frame, SeedsRepeat) {
  Inputs a, b;
  EXPECT_EQ(bit_difference(a.normal({100}), b.normal({100})), "");
}

TEST(Frame, NormalNumbersAreNormal) {
  Random random(1);
  double sum = 0, square = 0;
  for (int i = 0; i < 100000; ++i) {
    const double x = random.normal();
    sum += x, square += x * x;
  }
  EXPECT_NEAR(sum / 1e5, 0, 0.02);
  EXPECT_NEAR(square / 1e5, 1, 0.02);
}

}  // namespace
}  // namespace folio
