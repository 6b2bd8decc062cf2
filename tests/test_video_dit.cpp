// SPDX-License-Identifier: MIT
// The flow model of clips: a tiny one against float64 sums over all tokens (tests/golden/make_video_golden.py), the trained prototype
// against PyTorch's outputs of every mixer and ffn and along a sampled path, captions, and files that lie.
#include "models/video_dit.h"

#include <map>
#include <span>

#include "fixtures.h"

namespace folio {
namespace {

// An array of NumPy's, of 4-byte numbers.
template <class T> std::vector<T> read_npy(const fs::path& path) {
  const std::string bytes = read_file(path.string());
  const size_t head = 10 + uint8_t(bytes.at(8)) + 256 * size_t(uint8_t(bytes.at(9)));
  std::vector<T> numbers((bytes.size() - head) / sizeof(T));
  std::memcpy(numbers.data(), bytes.data() + head, numbers.size() * sizeof(T));
  return numbers;
}

double worst(std::span<const float> got, std::span<const float> want) {
  EXPECT_EQ(got.size(), want.size());
  double most = 0;
  for (size_t i = 0; i < std::min(got.size(), want.size()); ++i)
    most = std::max(most, std::isnan(got[i]) ? HUGE_VAL : std::fabs(double(got[i]) - want[i]));
  return most;
}

// [B, T', c, h, w] as tokens [B·N, c].
std::vector<float> tokens_of(const std::vector<float>& x, const VideoSize& s) {
  std::vector<float> out(x.size());
  const size_t c = size_t(s.channels()), plane = size_t(s.rows * s.cols);
  for (size_t i = 0; i < x.size(); ++i) out[(i / (c * plane) * plane + i % plane) * c + i / plane % c] = x[i];
  return out;
}

void set(Program& program, const char* name, const auto& numbers) {
  const Tensor t = program.input(name);
  ASSERT_EQ(t.bytes(), int64_t(numbers.size() * sizeof(numbers[0]))) << name;
  std::memcpy(t.data, numbers.data(), size_t(t.bytes()));
}

// A tiny model in two weights' worth of settings, on `threads` threads.
struct Tiny {
  fs::path folder = source_dir() / "tests/golden/video";
  Weights file{convert(folder / "tiny.safetensors", "tiny")};
  template <class T> std::vector<T> array(const char* name) const { return read_npy<T>(folder / (std::string(name) + ".npy")); }
  Weights exact() const {
    Metadata meta = file.metadata();
    meta.erase("video.rounds");
    meta.erase("video.steps");
    return Weights("exact", meta, file.tensors(), nullptr);
  }
  std::vector<float> v(const Weights& weights, Device& device, std::vector<int32_t> row) const {
    const VideoDit model(weights);
    VideoFlow flow(model, device);
    Program& program = flow.program(2);
    set(program, "z", array<float>("z")), set(program, "t", array<float>("t")), set(program, "word", array<int32_t>("word"));
    set(program, "row", row);
    program.run();
    const Tensor out = program.output("v");
    return {out.at<float>(), out.at<float>() + out.count()};
  }
};

TEST(VideoDit, TinyGivesTheNumbersOfFloat64) {
  const Tiny tiny;
  const std::vector<int32_t> clean = tiny.array<int32_t>("row");
  std::vector<int32_t> noisy = clean;
  for (int32_t& row : noisy) row = row / 2 * 2;
  const auto one = cpu(1), three = cpu(3), plain = reference(2);
  const std::vector<float> v = tiny.v(tiny.file, *one, noisy);
  EXPECT_LT(worst(v, tiny.array<float>("v")), 1e-4);
  EXPECT_EQ(v, tiny.v(tiny.file, *three, noisy)) << "three threads";
  EXPECT_LT(worst(tiny.v(tiny.file, *plain, noisy), tiny.array<float>("v")), 1e-4);
  EXPECT_LT(worst(tiny.v(tiny.file, *one, clean), tiny.array<float>("v_clean")), 1e-4);
  EXPECT_GT(worst(v, tiny.array<float>("v_clean")), 0.1) << "a clean frame makes no difference";
  EXPECT_LT(worst(tiny.v(tiny.exact(), *one, noisy), tiny.array<float>("v_exact")), 1e-3);   // Mesa's tolerance is 1e-4
}

TEST(VideoDit, OneCaptionAndTwoAreTheSame) {
  const Tiny tiny;
  const VideoDit model(tiny.file);
  const auto device = cpu(2);
  VideoFlow flow(model, *device);
  std::vector<float> x(size_t(model.size().numbers()), 0), a(x.size()), b(x.size()), alone(x.size());
  fill_noise(x, 3);
  const std::vector<int32_t> red = model.caption("a red circle"), blue = model.caption("A  Blue square ");
  EXPECT_EQ(red, (std::vector<int32_t>{2, 3, 5, 0, 0}));
  EXPECT_EQ(model.caption(" "), model.no_caption());
  flow.velocity(red, blue)(x, 0.5, a, b);
  flow.velocity(red, blue)(x, 0.5, alone, {});
  EXPECT_LT(worst(alone, a), 1e-5);
  flow.velocity(blue, red)(x, 0.5, alone, {});
  EXPECT_LT(worst(alone, b), 1e-5);
  EXPECT_GT(worst(a, b), 1e-2);
  EXPECT_EQ(model.to_tokens(x).size(), x.size());
  std::vector<float> back(x.size());
  model.from_tokens(model.to_tokens(x), back);
  EXPECT_EQ(back, x);
  EXPECT_LT(worst(model.latent_of(model.normal_of(x)), x), 1e-5);
}

TEST(VideoDit, AClipIsTheSameOnAnyNumberOfThreads) {
  const Tiny tiny;
  const VideoDit model(tiny.file);
  std::vector<float> first;
  for (int threads : {1, 2, 5}) {
    const auto device = cpu(threads);
    VideoFlow flow(model, *device);
    std::vector<float> x(size_t(model.size().numbers()));
    fill_noise(x, 11);
    const Velocity velocity = flow.velocity(model.caption("a red circle"), model.no_caption());
    EXPECT_TRUE(denoise(x, {.solver = Solver::unipc, .steps = 4, .guidance = 2}, velocity));
    if (first.empty()) first = x;
    EXPECT_EQ(x, first) << threads;
  }
}

TEST(VideoDit, AGivenFrameStaysAndChangesTheOthers) {
  const Tiny tiny;
  const VideoDit model(tiny.file);
  const auto device = cpu(2);
  VideoFlow flow(model, *device);
  const size_t frame = size_t(model.size().numbers() / model.size().frames);
  std::vector<std::vector<float>> ends;
  for (float level : {0.5f, -0.5f}) {
    std::vector<float> x(size_t(model.size().numbers()));
    fill_noise(x, 11);
    std::fill_n(x.begin(), frame, level);
    const Velocity velocity = flow.velocity(model.caption("a red circle"), model.no_caption(), {true, false, false, false, false});
    denoise(x, {.steps = 3, .guidance = 2, .held = {{0, frame}}}, velocity);
    for (size_t i = 0; i < frame; ++i) ASSERT_EQ(x[i], level);
    ends.push_back(x);
  }
  EXPECT_GT(worst(std::span(ends[0]).subspan(frame), std::span(ends[1]).subspan(frame)), 1e-2);
}

TEST(VideoDit, WordsThatAreNotKnownAreNamed) {
  const Tiny tiny;
  const VideoDit model(tiny.file);
  auto said = [&](const char* text) {
    try {
      model.caption(text);
      return std::string("nothing");
    } catch (const Error& e) {
      return std::string(e.what());
    }
  };
  EXPECT_EQ(said("a green circle"), "the prompt's word 'green' is not known; this model knows: a, red, blue, circle, square, moving");
  EXPECT_EQ(said("<null>"), "the prompt's word '<null>' is not known; this model knows: a, red, blue, circle, square, moving");
  EXPECT_EQ(said("a a a a a a"), "the prompt has 6 words; this model takes 5 at most");
}

TEST(VideoDit, FilesThatLieAreRefused) {
  const Tiny tiny;
  auto said = [&](const std::string& key, const MetaValue& value) {
    Metadata meta = tiny.file.metadata();
    meta[key] = value;
    try {
      VideoDit model(Weights("lie", meta, tiny.file.tensors(), nullptr));
      return std::string("nothing");
    } catch (const Error& e) {
      return std::string(e.what());
    }
  };
  using Integers = std::vector<int64_t>;
  EXPECT_EQ(said("video.grid", Integers{5, 5}), "lie: 'video.grid' is not three numbers from 1 to 4096");
  EXPECT_EQ(said("video.grid", Integers{5, 5, 0}), "lie: 'video.grid' is not three numbers from 1 to 4096");
  EXPECT_NE(said("video.grid", Integers{5, 5, 7}).find("'flow.video.position' is [150,16], expected [175,16]"), std::string::npos);
  EXPECT_EQ(said("arch", std::string("decoder")), "lie: architecture 'decoder', expected video_dit");
  EXPECT_EQ(said("video.heads", int64_t(3)), "lie: 'video.dim' is 16, which 3 heads cannot share");
  EXPECT_EQ(said("video.levels", int64_t(8)), "lie: 'video.levels' is 8: the table ends after 128 of 155 tokens");
  EXPECT_EQ(said("video.mixers", std::vector<std::string>{"log_linear", "mesa", "lstm", "mesa"}),
            "lie: 'video.mixers' has 'lstm'; known are: log_linear, mesa, softmax");
  EXPECT_EQ(said("video.reverse", Integers{0, 0, 1}), "lie: 4 layers, but 4 of 'video.mixers' and 3 of 'video.reverse'");
  EXPECT_EQ(said("video.words", std::vector<std::string>{"a"}), "lie: 'video.words' has 1 words, expected two and more");
}

// ---- the trained prototype ---------------------------------------------------------------------------------------------

// Up to its first Mesa layer the prototype is well behaved. Six rounds of conjugate gradients and the norm behind them amplify rounding:
// the same formulas in float64, or in another PyTorch's float32, are off from these numbers by up to 0.05 (0.002 on average) from there on.
// How good the arithmetic is the tiny model shows; here the largest and the average difference must be no larger than PyTorch's own.
void expect_near(std::span<const float> got, std::span<const float> want, const std::string& label, bool before_mesa = false) {
  double square = 0;
  for (size_t i = 0; i < std::min(got.size(), want.size()); ++i) square += (double(got[i]) - want[i]) * (double(got[i]) - want[i]);
  EXPECT_LT(worst(got, want), before_mesa ? 1e-4 : 0.08) << label;
  EXPECT_LT(std::sqrt(square / double(want.size())), before_mesa ? 1e-5 : 0.003) << label;
}

class Prototype : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = shared_dir() / "golden/video/proto";
    if (shared_dir().empty() || !fs::exists(folder_))
      GTEST_SKIP() << "the prototype's numbers are not beside the repository (../shared/golden/video/proto)";
  }
  std::vector<float> array(const std::string& name) const { return read_npy<float>(folder_ / (name + ".npy")); }
  fs::path folder_;
};

TEST_F(Prototype, EveryMixerAndFfnGivesItsNumbers) {
  const Weights weights(convert(folder_ / "vg_proto.safetensors", "proto"));
  const VideoDit model(weights);
  const VideoSize& s = model.size();
  EXPECT_EQ(model.parameters(), 1138176);
  const auto device = cpu(2);
  VideoFlow flow(model, *device);
  Program& program = flow.program(2);
  set(program, "z", tokens_of(array("fwd_z"), s));
  set(program, "word", read_npy<int32_t>(folder_ / "fwd_ids_i32.npy"));
  const std::vector<float> t = array("fwd_t");
  set(program, "t", std::vector<float>{t[0], 0, t[1], 0});
  std::vector<int32_t> row(size_t(2 * s.tokens()), 0);
  std::fill(row.begin() + s.tokens(), row.end(), 2);
  set(program, "row", row);
  std::map<std::string, std::vector<std::vector<float>>> products;   // of each scope, in order
  std::vector<float> v;
  program.trace([&](const TracedNode& node) {
    const Tensor& out = node.outputs[0].second;
    if (std::string(node.op) == "matmul") products[node.scope].emplace_back(out.at<float>(), out.at<float>() + out.count());
    if (node.scope == "out") v.assign(out.at<float>(), out.at<float>() + out.count());
  });
  const size_t C = size_t(s.dim), L = size_t(s.text), T = size_t(s.sequence()), N = size_t(s.tokens());
  for (int64_t k = 0; k < s.layers; ++k) {
    expect_near(products[join("layer.", k, ".mix")].back(), array(join("fwd_mixer", k)), join("mixer ", k), k == 0);
    const std::vector<float> want = array(join("fwd_ffn", k));   // text and video are apart here
    std::vector<float> text, video;
    for (size_t b = 0; b < 2; ++b) {
      text.insert(text.end(), want.begin() + std::ptrdiff_t(b * T * C), want.begin() + std::ptrdiff_t((b * T + L) * C));
      video.insert(video.end(), want.begin() + std::ptrdiff_t((b * T + L) * C), want.begin() + std::ptrdiff_t((b + 1) * T * C));
    }
    ASSERT_EQ(video.size(), 2 * N * C);
    const auto& ffn = products[join("layer.", k, ".ffn")];
    expect_near(ffn[1], video, join("ffn ", k), k == 0);
    if (k + 1 == s.layers) continue;   // nobody reads the text any more
    expect_near(ffn.back(), text, join("ffn of the text ", k), k == 0);
  }
  expect_near(v, tokens_of(array("fwd_v"), s), "v");
}

TEST_F(Prototype, SampledPathGivesItsNumbers) {
  const Weights weights(convert(folder_ / "vg_proto.safetensors", "proto"));
  const VideoDit model(weights);
  const VideoSize& s = model.size();
  const auto device = cpu(2);
  VideoFlow flow(model, *device);
  std::vector<float> x(size_t(s.numbers()));
  model.from_tokens(tokens_of(array("traj_x0"), s), x);
  int compared = 0;
  const Velocity velocity = flow.velocity(model.caption("a large red circle bouncing on a black background"), model.no_caption());
  denoise(x, {.steps = 16, .guidance = 2.5}, velocity,
          [&](const DenoiseStep& step) {
            const fs::path want = folder_ / join("traj_x", step.done, ".npy");
            if (!fs::exists(want)) return true;
            expect_near(model.to_tokens(step.x), tokens_of(read_npy<float>(want), s), join("step ", step.done));
            ++compared;
            return true;
          });
  EXPECT_EQ(compared, 3);
  // [T', z, h·p, w·p] there, [T', h·p, w·p, z] here
  const std::vector<float> want = array("final_latent"), got = model.latent_of(x);
  const size_t z = size_t(s.latent), plane = size_t(s.rows * s.cols * s.patch * s.patch);
  std::vector<float> turned(want.size());
  for (size_t i = 0; i < want.size(); ++i) turned[(i / (z * plane) * plane + i % plane) * z + i / plane % z] = want[i];
  EXPECT_LT(worst(got, turned), 0.08);
}

}  // namespace
}  // namespace folio
