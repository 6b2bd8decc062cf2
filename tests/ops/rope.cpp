// SPDX-License-Identifier: MIT
// Cases of rotary embedding, and its frequency tables against numbers of transformers 5.23's ROPE_INIT_FUNCTIONS.
#include <gtest/gtest.h>

#include "cases.h"

namespace folio {

CASES(Rope) {
  // (1, 0) turned by one radian; then x with every pair turned by pos and pos/10, halved, two dimensions copied.
  known({.x = values({1, 1, 2}, {1, 0}), .pos = ints({1}, {1}), .freq = values({1}, {1})},
        {values({1, 1, 2}, {0.540302306f, 0.841470985f})});
  const std::vector<float> x = {1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6};
  known({.x = values({3, 1, 6}, x), .pos = ints({3}, {0, 2, 5}), .freq = values({2}, {1, 0.1f}), .half = false, .factor = 0.5f},
        {values({3, 1, 6}, {0.5f, 1, 1.5f, 2, 5, 6, -1.11737085f, 0.0385018769f, 1.07276121f, 2.25813715f, 5, 6, 1.10075537f, -0.195799952f,
                            0.357522766f, 2.47430343f, 5, 6})});
  known({.x = values({3, 1, 6}, x), .pos = ints({3}, {0, 2, 5}), .freq = values({2}, {1, 0.1f}), .half = true, .factor = 0.5f},
        {values({3, 1, 6}, {0.5f, 1, 1.5f, 2, 5, 6, -1.57201956f, 0.582727916f, -0.169571541f, 2.15880249f, 5, 6, 1.5802175f,
                            -0.0812685153f, -0.0539688591f, 2.23459066f, 5, 6})});
  for (bool half : {false, true}) {
    for (int64_t tokens : {1, 7, 65})
      for (int64_t size : {2, 64, 128})
        add({.x = normal({tokens, 3, size}), .pos = ids(0, 300, {tokens}), .freq = uniform(0, 1, {size / 2}), .half = half});
    add({.x = normal({5, 2, 96}),
         .pos = ids(0, 1000, {5}),
         .freq = uniform(0, 1, {24}),
         .half = half,
         .factor = 1.14f});                                                                           // half of the head
    add({.x = normal({5, 1, 7}), .pos = ids(0, 10, {5}), .freq = uniform(0, 1, {3}), .half = half});  // an odd head
    add({.x = normal({4, 2, 16}), .pos = ints({4}, {1000000, 131072, 0, -1}), .freq = uniform(0, 1, {8}), .half = half});  // far out
  }
}

static void expect_frequencies(int64_t n, double theta, const RopeScaling& scaling, const std::vector<float>& want) {
  const std::vector<float> got = rope_frequencies(n, theta, scaling);
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-6 * want[i]) << "pair " << i;
}

TEST(RopeFrequencies, Plain) { expect_frequencies(8, 1e4, {}, {1, 0.1f, 0.01f, 0.001f}); }

TEST(RopeFrequencies, Linear) {
  expect_frequencies(
      16, 1e4, {.kind = RopeScaling::Kind::linear, .factor = 4},
      {0.25f, 0.079056941f, 0.0250000004f, 0.00790569466f, 0.00249999994f, 0.000790569466f, 0.000250000012f, 7.90569466e-05f});
}

TEST(RopeFrequencies, Llama3) {
  const RopeScaling scaling{
      .kind = RopeScaling::Kind::llama3, .factor = 8, .original_context = 8192, .low_freq_factor = 1, .high_freq_factor = 4};
  expect_frequencies(64, 5e5, scaling,
                     {1.f,
                      0.663601279f,
                      0.440366626f,
                      0.292227834f,
                      0.193922758f,
                      0.128687382f,
                      0.0853971019f,
                      0.0566696189f,
                      0.0376060307f,
                      0.0249554086f,
                      0.0165604409f,
                      0.0109895291f,
                      0.00729266508f,
                      0.00483942125f,
                      0.00321144611f,
                      0.00137189368f,
                      0.000524846022f,
                      0.000178507791f,
                      7.78465546e-05f,
                      5.16590699e-05f,
                      3.42810235e-05f,
                      2.2748929e-05f,
                      1.50962178e-05f,
                      1.00178686e-05f,
                      6.64786967e-06f,
                      4.41153452e-06f,
                      2.92749974e-06f,
                      1.94269251e-06f,
                      1.28917316e-06f,
                      8.55496921e-07f,
                      5.6770881e-07f,
                      3.7673226e-07f});
}

TEST(RopeFrequencies, Yarn) {
  expect_frequencies(64, 1e4, {.kind = RopeScaling::Kind::yarn, .factor = 4, .original_context = 2048},
                     {1.f,
                      0.749894202f,
                      0.562341332f,
                      0.421696514f,
                      0.316227764f,
                      0.237137362f,
                      0.177827939f,
                      0.133352146f,
                      0.100000001f,
                      0.070663102f,
                      0.0497455746f,
                      0.0348710567f,
                      0.0243252143f,
                      0.0168732349f,
                      0.0116272122f,
                      0.00794983935f,
                      0.00538461516f,
                      0.00360526075f,
                      0.00237913639f,
                      0.00154081406f,
                      0.000973008573f,
                      0.000592843455f,
                      0.000444569858f,
                      0.000333380362f,
                      0.000250000012f,
                      0.000187473546f,
                      0.000140585325f,
                      0.000105424122f,
                      7.90569466e-05f,
                      5.92843462e-05f,
                      4.44569851e-05f,
                      3.33380376e-05f});
  expect_frequencies(64, 1e6, {.kind = RopeScaling::Kind::yarn, .factor = 4, .original_context = 32768},
                     {1.f,
                      0.649381638f,
                      0.421696514f,
                      0.273841977f,
                      0.177827939f,
                      0.115478203f,
                      0.0749894157f,
                      0.0486967526f,
                      0.0316227786f,
                      0.0205352511f,
                      0.0133352149f,
                      0.00865964312f,
                      0.00515479548f,
                      0.0030431177f,
                      0.00177853031f,
                      0.00102661771f,
                      0.000583333371f,
                      0.000324690831f,
                      0.000175706868f,
                      9.12806499e-05f,
                      4.44569851e-05f,
                      2.88695483e-05f,
                      1.87473561e-05f,
                      1.21741887e-05f,
                      7.90569356e-06f,
                      5.13381246e-06f,
                      3.33380353e-06f,
                      2.16491094e-06f,
                      1.40585337e-06f,
                      9.1293532e-07f,
                      5.92843435e-07f,
                      3.84981632e-07f});
  const RopeScaling between{.kind = RopeScaling::Kind::yarn, .factor = 32, .original_context = 4096, .whole_pairs = false};   // gpt-oss
  expect_frequencies(16, 150000, between,
                     {1.f, 0.225418001f, 0.0508132726f, 0.00679495931f, 0.000456483918f, 1.8188337e-05f, 4.09997847e-06f, 9.24208962e-07f});
  const RopeScaling narrow{.kind = RopeScaling::Kind::yarn, .factor = 16, .original_context = 64, .beta_fast = 4, .beta_slow = 2};
  expect_frequencies(
      16, 1e4, narrow,
      {1.f, 0.167996004f, 0.00625000009f, 0.00197642366f, 0.000624999986f, 0.000197642366f, 6.2500003e-05f, 1.97642366e-05f});
}

}  // namespace folio
