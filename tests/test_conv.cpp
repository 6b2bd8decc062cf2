// SPDX-License-Identifier: MIT
// Convolutions and image ops against PyTorch's numbers (tests/golden/video/conv.npz: float32, PyTorch 1.13 on a CPU), on every instruction
// set; and what a convolution promises: a clip cut into steps and an image cut into bands give the same bits as in one go, and an
// enlargement folded into the next convolution gives what both give one after the other.
#include <gtest/gtest.h>

#include "every_set.h"
#include "frame.h"
#include "tools/lib/npz.h"

namespace folio {
namespace {

Device& device() {
  static const std::unique_ptr<Device> two = cpu(2);
  return *two;
}

// The op's first output.
template <class Op>
Tensor result_of(Op op, Store& store, Device& on = device()) {
  auto graph = std::make_unique<Graph>();
  op = graph->record(op);
  const std::string name = fields(op).outputs[0].name;
  graph->output(name, *fields(op).outputs[0].tensor);
  const auto program = on.compile(std::move(graph));
  program->run();
  return store.copy(program->output(name));
}

class Golden : public ::testing::Test {
 protected:
  Tensor tensor(const Shape& shape) { return store.zeros(F32, shape); }
  Tensor vector(const std::string& name) {
    const Array a = file.read(name);
    const Tensor t = tensor({a.dims[0]});
    std::copy(a.numbers.begin(), a.numbers.end(), t.at<float>());
    return t;
  }
  // [N, C, H, W] or [1, C, T, H, W] as frames with channels last.
  Tensor frames(const std::string& name) {
    const Array a = file.read(name);
    const bool clip = a.dims.size() == 5;
    const int64_t n = a.dims[clip ? 2 : 0], channels = a.dims[1], pixels = a.dims[clip ? 3 : 2] * a.dims[clip ? 4 : 3];
    const Tensor t = tensor({n, a.dims[clip ? 3 : 2], a.dims[clip ? 4 : 3], channels});
    for (int64_t i = 0; i < n; ++i)
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t p = 0; p < pixels; ++p)
          t.at<float>()[(i * pixels + p) * channels + c] = float(a.numbers[size_t((clip ? c * n + i : i * channels + c) * pixels + p)]);
    return t;
  }
  // [Cout, Cin, taps ...], or of a transposed convolution [Cin, Cout, taps ...], as [taps, Cin, Cout]; depthwise [C, 1, ...] as [taps, C].
  Tensor weights(const std::string& name, bool transposed = false, bool depthwise = false) {
    const Array a = file.read(name);
    const int64_t first = a.dims[0], second = a.dims[1], taps = int64_t(a.numbers.size()) / (first * second);
    const Tensor t = depthwise ? tensor({taps, first}) : transposed ? tensor({taps, first, second}) : tensor({taps, second, first});
    for (int64_t i = 0; i < first; ++i)
      for (int64_t j = 0; j < second; ++j)
        for (int64_t k = 0; k < taps; ++k) {
          const int64_t at = depthwise ? k * first + i : transposed ? (k * first + i) * second + j : (k * second + j) * first + i;
          t.at<float>()[at] = float(a.numbers[size_t((i * second + j) * taps + k)]);
        }
    return t;
  }
  void expect_near(const Tensor& got, const Tensor& want) {
    ASSERT_EQ(got.shape.text(), want.shape.text());
    double worst = 0;
    for (int64_t i = 0; i < got.count(); ++i) worst = std::max(worst, std::fabs(double(got.at<float>()[i]) - want.at<float>()[i]));
    EXPECT_LE(worst, 1e-4);
  }
  template <class Op>
  void check(const Op& op, const std::string& want) { expect_near(result_of(op, store), frames(want)); }

  Store store;
  const Npz file{std::string(FOLIO_SOURCE_DIR) + "/tests/golden/video/conv.npz"};
};

TEST_F(Golden, Images) {
  with_every_set([&] {
    Conv conv{.x = frames("c2d_s1p1_x"), .w = weights("c2d_s1p1_w"), .bias = vector("c2d_s1p1_b"), .kernel = {1, 3, 3}, .pad = {0, 1, 1}};
    check(conv, "c2d_s1p1_y");
    conv.x = frames("c2d_s2p1_nob_x"), conv.w = weights("c2d_s2p1_nob_w"), conv.bias = {}, conv.stride = {1, 2, 2};
    check(conv, "c2d_s2p1_nob_y");
    check(Conv{.x = frames("c2d_1x1_nob_x"), .w = weights("c2d_1x1_nob_w")}, "c2d_1x1_nob_y");
    check(Conv{.x = frames("c2d_dw7_x"), .w = weights("c2d_dw7_w", false, true), .kernel = {1, 7, 7}, .pad = {0, 3, 3}}, "c2d_dw7_y");
  });
}

TEST_F(Golden, Clips) {
  with_every_set([&] {
    check(Conv{.x = frames("c3d_k344_s122_p111_x"), .w = weights("c3d_k344_s122_p111_w"), .bias = vector("c3d_k344_s122_p111_b"),
               .kernel = {3, 4, 4}, .stride = {1, 2, 2}, .pad = {1, 1, 1}}, "c3d_k344_s122_p111_y");
    check(Conv{.x = frames("c3d_causal_k333_x"), .w = weights("c3d_causal_k333_w"), .bias = vector("c3d_causal_k333_b"),
               .kernel = {3, 3, 3}, .pad = {2, 1, 1}, .causal = true}, "c3d_causal_k333_y");
    check(ConvTranspose{.x = frames("ct3d_k144_s122_p011_x"), .w = weights("ct3d_k144_s122_p011_w", true),
                        .bias = vector("ct3d_k144_s122_p011_b"), .kernel = {1, 4, 4}, .stride = {1, 2, 2}, .pad = {0, 1, 1}},
          "ct3d_k144_s122_p011_y");
  });
}

// The seeds' decoders: 32 -> 32 -> 3 and 32 -> 8 -> 3 channels, 3×3×3 both times, with and without a ReLU between.
TEST_F(Golden, Decoders) {
  with_every_set([&] {
    for (const std::string name : {"c3d_naive", "c3d_thin"})
      for (Act act : {Act::none, Act::relu}) {
        Conv first{.x = frames("c3d_x"), .w = weights(name + "_w1"), .bias = vector(name + "_b1"), .kernel = {3, 3, 3}, .pad = {1, 1, 1},
                   .act = act};
        check(Conv{.x = result_of(first, store), .w = weights(name + "_w2"), .bias = vector(name + "_b2"), .kernel = {3, 3, 3},
                   .pad = {1, 1, 1}}, name + (act == Act::relu ? "_y_relu" : "_y"));
      }
  });
}

TEST_F(Golden, BetweenConvolutions) {
  check(Upsample{.x = frames("up2_nearest_x")}, "up2_nearest_y");
  check(PixelShuffle{.x = frames("pixshuf2_x")}, "pixshuf2_y");
  check(PixelUnshuffle{.x = frames("pixunshuf2_x")}, "pixunshuf2_y");
  check(GroupNorm{.x = frames("groupnorm4_x"), .w = vector("groupnorm4_w"), .b = vector("groupnorm4_b"), .groups = 4}, "groupnorm4_y");
}

// Convolutions for the inner loops that there are: wide, planes, depthwise.
std::vector<Conv> kinds(Inputs& in, const Shape& x, Extent kernel) {
  const int64_t taps = kernel.t * kernel.h * kernel.w;
  std::vector<Conv> all;
  for (int64_t features : {40, 3, 0}) {
    Conv op{.x = in.normal(x), .kernel = kernel, .pad = {0, kernel.h / 2, kernel.w / 2}, .act = Act::silu};
    op.w = features ? in.normal({taps, x[3], features}, F32, 0.1) : in.normal({taps, x[3]});
    op.bias = in.normal({op.w.cols()});
    all.push_back(op);
  }
  return all;
}

TEST(Conv, AClipCutIntoStepsGivesTheSameBits) {
  Inputs in;
  with_every_set([&] {
    for (Conv op : kinds(in, {7, 9, 21, 24}, {3, 3, 3})) {
      op.causal = true, op.pad.t = 2;
      const Tensor whole = result_of(op, in.store()), x = op.x;
      op.past = in.store().zeros(F32, {2, 9, 21, 24});
      for (int64_t from = 0, n; from < 7; from += n) {
        n = from == 1 ? 4 : 1;
        op.x = x.slice(from, n);
        EXPECT_EQ(bit_difference(result_of(op, in.store()), in.store().copy(whole.slice(from, n))), "")
            << op.w.shape.text() << " from " << from;
      }
    }
  });
}

// Bands with the rows that a 3×3 meets above and below, the image's own edge being rows of zeros that the window leaves.
TEST(Conv, AnImageCutIntoBandsGivesTheSameBits) {
  Inputs in;
  constexpr int64_t height = 13, band = 4;
  with_every_set([&] {
    for (Conv op : kinds(in, {2, height, 21, 24}, {1, 3, 3})) {
      const Tensor whole = result_of(op, in.store()), x = op.x;
      op.pad.h = 0;
      for (int64_t from = 0; from < height; from += band) {
        op.x = in.store().zeros(F32, {2, band + 2, 21, 24});
        for (int64_t n = 0; n < 2; ++n)
          for (int64_t i = std::max<int64_t>(from - 1, 0); i < std::min(from + band + 1, height); ++i)
            std::memcpy(op.x.row_bytes((n * (band + 2) + i - from + 1) * 21), x.row_bytes((n * height + i) * 21), 21 * 24 * sizeof(float));
        op.window = in.ints({2}, {0, int32_t(height - from)});
        const Tensor got = result_of(op, in.store());
        for (int64_t n = 0; n < 2; ++n)
          for (int64_t i = 0; i < band; ++i)
            for (int64_t p = 0; p < 21 * op.w.cols(); ++p) {
              const float want = from + i < height ? whole.at<float>()[(n * height + from + i) * 21 * op.w.cols() + p] : 0;
              ASSERT_EQ(got.at<float>()[(n * band + i) * 21 * op.w.cols() + p], want) << op.w.shape.text() << " row " << from + i;
            }
      }
    }
  });
}

TEST(Conv, AnEnlargementFoldsIntoTheNextConvolution) {
  Inputs in;
  for (int64_t features : {40, 3}) {
    Conv op{.x = in.normal({2, 5, 7, 16}), .w = in.normal({9, 16, features}, F32, 0.1), .bias = in.normal({features}), .kernel = {1, 3, 3},
            .pad = {0, 1, 1}};
    Conv plain = op;
    plain.x = result_of(Upsample{.x = op.x}, in.store());
    op.kernel = {1, 2, 2}, op.up = 2;
    op.w = in.store().zeros(F32, {16, 16, features});
    for (int phase = 0; phase < 4; ++phase)
      for (int tap = 0; tap < 9; ++tap) {   // which of the phase's two rows, and columns, a tap of the 3×3 lands on
        const int row = (tap / 3 + 1 - phase / 2) / 2, col = (tap % 3 + 1 - phase % 2) / 2;
        for (int64_t i = 0; i < 16 * features; ++i)
          op.w.at<float>()[(phase * 4 + row * 2 + col) * 16 * features + i] += plain.w.at<float>()[tap * 16 * features + i];
      }
    EXPECT_EQ(difference(result_of(op, in.store()), result_of(plain, in.store()), {.absolute = 1e-5}), "");
  }
}

TEST(Conv, SaysWhatDoesNotFit) {
  Inputs in;
  auto complaint = [](Conv op) {
    try {
      op.shape();
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("none");
  };
  const Conv op{.x = in.normal({1, 4, 4, 8}), .w = in.normal({9, 8, 5}), .kernel = {1, 3, 3}, .pad = {0, 1, 1}};
  EXPECT_EQ(complaint(op), "none");
  Conv other = op;
  other.w = in.normal({9, 7, 5});
  EXPECT_EQ(complaint(other), "conv: x is [1,4,4,8], w f32 [9,7,5]");
  other = op, other.kernel = {1, 2, 3};
  EXPECT_EQ(complaint(other), "conv: w is [9,8,5] for 1 phases of 1x2x3 taps");
  other = op, other.x = in.normal({1, 2, 2, 8}), other.pad = {0, 0, 0};
  EXPECT_EQ(complaint(other), "conv: x is [1,2,2,8], smaller than a kernel of 1x3x3");
  other = op, other.past = in.normal({1, 4, 4, 8});
  EXPECT_NE(complaint(other).find("past [1,4,4,8]"), std::string::npos);
}

}  // namespace
}  // namespace folio
