// SPDX-License-Identifier: MIT
// A trained flow model of digits (../shared/models/mnist-latent-flow): one prediction, and the images that fifty guided steps make of given
// noise, against PyTorch's. There image k was asked for digit k mod 10, guided by 2 strictly between times 0.3 and 0.7.
#include "models/image_flow.h"

#include "files/image.h"
#include "fixtures.h"

namespace folio {
namespace {

class Digits : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = shared_dir() / "models/mnist-latent-flow";
    if (shared_dir().empty() || !fs::exists(folder_))
      GTEST_SKIP() << "the model of digits is not beside the repository (../shared/models/mnist-latent-flow)";
    for (int32_t k = 0; k < 40; ++k) classes_.push_back(k % 10);
  }
  std::vector<float> array(const std::string& name) const {
    const std::string bytes = read_file((folder_ / ("golden_vit_" + name + "_f32.npy")).string());
    std::vector<float> numbers(size_t(40 * 28 * 28), 0);
    std::memcpy(numbers.data(), bytes.data() + bytes.size() - numbers.size() * sizeof(float), numbers.size() * sizeof(float));
    return numbers;
  }
  static double worst(const std::vector<float>& a, const std::vector<float>& b) {
    double most = 0;
    for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::isnan(a[i]) ? HUGE_VAL : std::fabs(double(a[i]) - b[i]));
    return most;
  }
  // The first ten side by side.
  static void draw(const std::vector<float>& x, const fs::path& to) {
    Image image{.width = 280, .height = 28, .rgb = std::vector<uint8_t>(size_t(280 * 28 * 3))};
    for (size_t i = 0; i < image.rgb.size(); ++i) {
      const size_t row = i / (280 * 3), column = i / 3 % 280;
      const float grey = std::clamp(x[column / 28 * 784 + row * 28 + column % 28], 0.0f, 1.0f);
      image.rgb[i] = uint8_t(grey * 255 + 0.5f);
    }
    write_png(to.string(), image);
    EXPECT_EQ(read_png(to.string()).rgb, image.rgb);
  }
  fs::path folder_;
  std::vector<int32_t> classes_;
};

TEST_F(Digits, AreThoseOfPyTorch) {
  const Weights weights(convert(folder_ / "MNIST-DiffusionViT.pth", "digits"));
  const auto device = cpu(2);
  ImageFlow flow(weights, *device);
  ASSERT_EQ(flow.numbers(), 28 * 28);
  std::vector<float> x = array("z0");
  EXPECT_LT(worst(flow.predict(x, 1, classes_), array("x1pred_step0")), 1e-4);
  denoise(x, {.steps = 50, .guidance = 2, .guide_from = 0.31, .guide_to = 0.69}, flow.velocity(classes_));
  EXPECT_LT(worst(x, array("out")), 1e-3);
  draw(x, scratch_dir() / "digits.png");
  try {
    flow.predict(std::span(x).first(size_t(flow.numbers())), 1, {10});
    FAIL() << "took a class that is none";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "image: there is no class 10; expected 0 to 9, or -1 for none");
  }
}

}  // namespace
}  // namespace folio
