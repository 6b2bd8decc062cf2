// SPDX-License-Identifier: MIT
// Video models by name: how many parameters they have, that files of their sizes load and run, and the seeds' network, whose shapes and
// count are pinned.
#include "models/video_presets.h"

#include "fixtures.h"
#include "models/seed_video.h"

namespace folio {
namespace {

TEST(VideoPresets, HaveTheirParameters) {
  EXPECT_EQ(video_preset("seed-8.5m").parameters(), 8543563);   // the number that the seeds print
  EXPECT_EQ(video_preset("vg-s").parameters(), 3420408);
  EXPECT_EQ(video_presets().size(), 3u);
  const std::string list = list_video_presets();
  EXPECT_NE(list.find("vg-s         3,420,408 parameters   17 frames of 64x64"), std::string::npos) << list;
  EXPECT_NE(list.find("seed-8.5m    8,543,563 parameters"), std::string::npos) << list;
  try {
    video_preset("vg-xl");
    FAIL() << "took a name that is none";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "there is no video model 'vg-xl'; there are vg-s, vg-m, seed-8.5m");
  }
}

TEST(VideoPresets, RunOnRandomWeights) {
  const Weights weights = random_weights(video_preset("vg-s"), 1);
  const VideoDit model(weights);
  EXPECT_EQ(model.parameters(), 3420408);
  const auto device = cpu(2);
  VideoFlow flow(model, *device);
  std::vector<float> x(size_t(model.size().numbers())), v(x.size());
  EXPECT_EQ(x.size(), size_t(5 * 8 * 8 * 16));
  fill_noise(x, 1);
  flow.velocity(model.caption("a large red circle bouncing on a gray background"), model.no_caption())(x, 0.5, v, {});
  for (float one : v) ASSERT_TRUE(std::isfinite(one));
  EXPECT_GT(*std::max_element(v.begin(), v.end()), 0.1f);
}

TEST(VideoPresets, SeedsNetworkKeepsItsShapes) {
  const Weights weights = random_weights(video_preset("seed-8.5m"), 1);
  const auto device = cpu(2);
  SeedVideo seed(weights, *device, 3);
  Program& program = seed.program();
  const Tensor clip = program.input("clip");
  ASSERT_EQ(clip.shape, Shape({3, 64, 64, 3}));
  fill_noise({clip.at<float>(), size_t(clip.count())}, 2);
  program.run();
  const Tensor made = program.output("made");
  EXPECT_EQ(made.shape, Shape({3, 64, 64, 3}));
  double square = 0;
  for (int64_t i = 0; i < made.count(); ++i) square += double(made.at<float>()[i]) * made.at<float>()[i];
  EXPECT_TRUE(std::isfinite(square) && square > 0);
  const std::string nodes = [&] {
    std::string all;
    for (const auto& node : program.graph().nodes()) all += std::string(node->name()) + " ";
    return all;
  }();
  EXPECT_EQ(nodes, "conv conv matmul matmul l2_norm l2_norm log_linear matmul layer_norm matmul l2_norm mesa add matmul conv "
                   "conv_transpose ");
}

}  // namespace
}  // namespace folio
