// SPDX-License-Identifier: MIT
// A trained flow model of digits (../shared/models/mnist-latent-flow): one prediction, and the images that fifty guided steps make of given
// noise, against PyTorch's. There image k was asked for digit k mod 10, guided by 2 strictly between times 0.3 and 0.7. And the autoencoder
// beside it: those digits become latents and digits again.
#include "models/image_flow.h"

#include "files/image.h"
#include "fixtures.h"
#include "models/image_vae.h"
#include "weights_writer.h"

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
  std::vector<float> array(const std::string& name, int64_t side = 28) const {
    const std::string bytes = read_file((folder_ / ("golden_" + name + "_f32.npy")).string());
    std::vector<float> numbers(size_t(40 * side * side), 0);
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
  std::vector<float> x = array("vit_z0");
  EXPECT_LT(worst(flow.predict(x, 1, classes_), array("vit_x1pred_step0")), 1e-4);
  denoise(x, {.steps = 50, .guidance = 2, .guide_from = 0.31, .guide_to = 0.69}, flow.velocity(classes_));
  EXPECT_LT(worst(x, array("vit_out")), 1e-3);
  draw(x, scratch_dir() / "digits.png");
  // And on, to latents and to digits again: the whole way from noise.
  const Weights vae_weights(convert(folder_ / "MNIST-VarAutoEncoder.pth", "through"));
  ImageVae vae(vae_weights, *device);
  std::vector<float> clean = x;
  for (float& v : clean) v = std::clamp(v, 0.0f, 1.0f);
  const std::vector<float> through = vae.decode(vae.encode(clean));
  EXPECT_LT(worst(through, array("MNIST-VarAutoEncoder_recon")), 1e-3);
  draw(through, scratch_dir() / "digits-through.png");
  try {
    flow.predict(std::span(x).first(size_t(flow.numbers())), 1, {10});
    FAIL() << "took a class that is none";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "image: there is no class 10; expected 0 to 9, or -1 for none");
  }
}

TEST_F(Digits, GoThroughTheirAutoencoder) {
  const Weights weights(convert(folder_ / "MNIST-VarAutoEncoder.pth", "autoencoder"));
  const auto device = cpu(2);
  ImageVae vae(weights, *device);
  ASSERT_EQ(vae.side(), 28);
  ASSERT_EQ(vae.latent_side(), 6);
  const std::vector<float> z = array("MNIST-VarAutoEncoder_z", 6), back = array("MNIST-VarAutoEncoder_recon");
  std::vector<float> x = array("vit_out");
  for (float& v : x) v = std::clamp(v, 0.0f, 1.0f);   // as it was made
  EXPECT_LT(worst(vae.encode(x), z), 1e-4);
  const std::vector<float> drawn = vae.decode(z);
  EXPECT_LT(worst(drawn, back), 1e-4);
  // The first alone are what they are among the others.
  const std::vector<float> ten = vae.decode(std::span(z).first(10 * 36));
  EXPECT_LT(worst(ten, back), 1e-4);
  try {
    vae.decode(std::span(z).first(35));
    FAIL() << "took a part of a latent";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "autoencoder: 35 numbers are no whole images of 6x6");
  }
}

// A file of the smallest sizes there are, of which one thing at a time is wrong.
TEST(ImageVae, RefusesWhatDoesNotFit) {
  const auto device = cpu(1);
  const auto said = [&](const std::string& key, int64_t value) -> std::string {
    WeightsWriter w;
    for (const auto& [name, number] : std::vector<std::pair<std::string, int64_t>>{
             {"image.side", 12}, {"vae.side", 2}, {"vae.channels", 4}, {"vae.inner", 3}, {"vae.layers", 1}, {"vae.heads", 2},
             {"vae.attention", 6}, {"vae.ffn", 5}})
      w.meta(name, name == key ? value : number);
    w.meta("arch", std::string("image_vae"));
    w.tensor("encoder.in.weight", {25, 1, 3}, std::vector<float>(75));
    const std::string path = (scratch_dir() / "small_vae.folio").string();
    w.save(path);
    try {
      const Weights weights(path);
      ImageVae(weights, *device);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_NE(said("", 0).find("'encoder.in.bias'"), std::string::npos) << said("", 0);
  EXPECT_NE(said("vae.side", 3).find("latents of 3x3 are not those of images of 12x12"), std::string::npos);
  EXPECT_NE(said("vae.heads", 4).find("'vae.attention' is 6, which 4 heads cannot share"), std::string::npos);
  EXPECT_NE(said("vae.layers", 0).find("'vae.layers' is 0, expected 1 to 256"), std::string::npos);
}

}  // namespace
}  // namespace folio
