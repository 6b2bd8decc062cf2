// SPDX-License-Identifier: MIT
#include "tools/lib/bench_video.h"

#include <bit>
#include <cmath>
#include <cstdio>
#include <functional>
#include <optional>

#include "base/threads.h"
#include "models/seed_video.h"
#include "models/video_presets.h"
#include "tools/lib/machine.h"
#include "tools/lib/mixer_plain.h"
#include "tools/lib/model.h"

namespace folio {

namespace {

using Json = nlohmann::json;

// Clips by their grid of tokens: 4·(frames − 1) + 1 frames, patches of 16 pixels.
const struct { int64_t frames, rows, cols; const char* clip; } scales[] = {
    {5, 4, 4, "17 frames of 64x64"},     {9, 8, 8, "33 frames of 128x128"},       {5, 30, 52, "17 frames of 832x480"},
    {21, 30, 52, "81 frames of 832x480"}, {5, 68, 120, "17 frames of 1920x1088"}, {16, 64, 64, "61 frames of 1024x1024"}};

class BenchVideo {
 public:
  explicit BenchVideo(const BenchVideoFlags& flags)
      : flags_(flags), threads_(flags.threads > 0 ? flags.threads : hardware_threads()), device_(open_device(flags.device, threads_)),
        limits_(measure_limits(*device_, threads_)) {}

  int run() {
    json_ = {{"device", device_->name()}, {"limits", limits_json(limits_)}};
    measure_steps();
    measure_scaling();
    measure_seed();
    if (flags_.json) {
      std::printf("%s\n", json_.dump().c_str());
      return 0;
    }
    std::printf("%s: %s\n", device_->name().c_str(), text(limits_).c_str());
    for (const auto& table : tables_) print_cells(table, flags_.csv), std::printf("\n");
    return 0;
  }

 private:
  struct Forward {
    double seconds;
    int64_t bytes;
  };
  // The best of some forwards, after one that nobody times.
  Forward forward(const VideoDit& model, int64_t sequences) {
    VideoFlow flow(model, *device_);
    Program& program = flow.program(sequences);
    const Tensor z = program.input("z"), word = program.input("word"), row = program.input("row"), t = program.input("t");
    fill_noise({z.at<float>(), size_t(z.count())}, 1);
    for (int64_t i = 0; i < word.count(); ++i) word.at<int32_t>()[i] = int32_t(2 + i % int64_t(model.words().size() - 2));
    for (int64_t i = 0; i < row.count(); ++i) row.at<int32_t>()[i] = int32_t(2 * (i / model.size().tokens()));
    for (int64_t i = 0; i < t.count(); ++i) t.at<float>()[i] = 0.5f;
    return {best(program), flow.bytes(sequences)};
  }
  double best(Program& program) {
    double least = program.time(1);
    for (int r = 0; r < flags_.repeats && least < flags_.seconds; ++r) least = r ? std::min(least, program.time(1)) : program.time(1);
    return least;
  }
  std::string share(double gflops) const { return limits_.fp32_gflops > 0 ? fixed(gflops / limits_.fp32_gflops * 100, 0) + "%" : "-"; }

  void measure_steps() {
    const VideoPreset preset = video_preset(flags_.preset);
    check(preset.meta.contains("video.dim"), "bench: '", flags_.preset, "' is no flow model; there are vg-s and vg-m");
    const Weights weights = random_weights(preset, 1);
    const VideoDit model(weights);
    std::vector<std::vector<std::string>> rows = {{"model", "captions", "ms", "GFLOP/s", "of fp32 peak", "MB beside the weights"}};
    for (int64_t sequences : {1, 2}) {
      const Forward f = forward(model, sequences);
      const double gflops = model.flops(sequences) / f.seconds / 1e9;
      rows.push_back({preset.name, std::to_string(sequences), fixed(f.seconds * 1e3, 2), fixed(gflops, 0), share(gflops),
                      fixed(double(f.bytes) / 1e6, 1)});
      json_["steps"].push_back({{"model", preset.name}, {"captions", sequences}, {"seconds", f.seconds}, {"gflops", gflops},
                                {"bytes", f.bytes}});
    }
    tables_.push_back(rows);
  }

  Weights clip_of(size_t i, const std::vector<std::string>& mixers) const {
    VideoSize size{.frames = scales[i].frames, .rows = scales[i].rows, .cols = scales[i].cols, .latent = 16, .patch = 2, .dim = 192,
                   .layers = 6, .heads = 6, .ffn = 480, .text = 12, .caption = 32};
    size.levels = std::bit_width(uint64_t(size.sequence() - 1)) + 1;
    return random_weights(flow_preset(size, mixers, {"<pad>", "<null>", "a", "clip"}), 1);
  }
  // Absent: it would take too long, going by the clip before it and a cost that grows with tokens^power.
  struct Before {
    double seconds = 0, tokens = 0;
    bool fits(double tokens_now, double power, double most) const {
      return seconds == 0 || seconds * std::pow(tokens_now / tokens, power) <= most;
    }
  };
  std::optional<double> timed(Before& before, double tokens, double power, const std::function<double()>& measure) {
    if (!before.fits(tokens, power, flags_.seconds)) return {};
    before = {measure(), tokens};
    return before.seconds;
  }

  void measure_scaling() {
    std::vector<std::vector<std::string>> rows = {{"tokens", "a clip of", "ms", "of fp32 peak", "MB", "softmax, tiled: ms",
                                                   "square of scores alone: ms"}};
    Before ours, soft, square;
    for (size_t i = 0; i < std::size(scales); ++i) {
      const int64_t tokens = scales[i].frames * scales[i].rows * scales[i].cols;
      if (tokens > flags_.max_tokens) break;
      const Weights weights = clip_of(i, {"log_linear", "mesa"}), tiled = clip_of(i, {"softmax"});
      const VideoDit model(weights), softmax(tiled);
      const auto T = double(model.size().sequence());
      Forward f{0, 0};
      const auto a = timed(ours, T, 1.1, [&] { return (f = forward(model, 1)).seconds; });
      const auto b = timed(soft, T, 2, [&] { return forward(softmax, 1).seconds; });
      std::optional<double> c;
      const MixerSize size{.heads = 6, .width = 32};
      const int64_t all = model.size().sequence();
      if (uint64_t(PlainAttention::score_bytes(size, all, all)) <= flags_.score_bytes && flags_.device == "cpu")
        c = timed(square, T, 2, [&] {
          PlainAttention attention(size, all, all, threads_);
          attention.run();
          return 6 * attention.run();   // six layers
        });
      auto ms = [](const std::optional<double>& seconds) { return seconds ? fixed(*seconds * 1e3, *seconds < 1 ? 2 : 0) : "-"; };
      rows.push_back({std::to_string(tokens), scales[i].clip, ms(a), a ? share(model.flops(1) / *a / 1e9) : "-",
                      fixed(double(f.bytes) / 1e6, 0), ms(b), ms(c)});
      Json line = {{"tokens", tokens}};
      if (a) line["seconds"] = *a, line["gflops"] = model.flops(1) / *a / 1e9, line["bytes"] = f.bytes;
      if (b) line["softmax_seconds"] = *b;
      if (c) line["square_seconds"] = *c;
      json_["scaling"].push_back(line);
    }
    tables_.push_back(rows);
  }

  void measure_seed() {
    constexpr int64_t frames = 8;
    const VideoPreset preset = video_preset("seed-8.5m");
    const Weights weights = random_weights(preset, 1);
    SeedVideo seed(weights, *device_, frames);
    const Tensor clip = seed.program().input("clip");
    fill_noise({clip.at<float>(), size_t(clip.count())}, 1);
    const double seconds = best(seed.program());
    const int64_t bytes = seed.bytes() + 4 * preset.parameters();
    tables_.push_back({{"model", "clip", "forward ms", "GB", "parameters"},
                       {preset.name, std::to_string(frames) + " frames of 64x64", fixed(seconds * 1e3, 2), fixed(double(bytes) / 1e9, 3),
                        std::to_string(preset.parameters())},
                       {"the seeds, as they print", "64x64, on an A100", "3", "0.11", "8543563"}});
    json_["seed"] = {{"frames", frames}, {"seconds", seconds}, {"bytes", bytes}, {"parameters", preset.parameters()}};
  }

  const BenchVideoFlags& flags_;
  const int threads_;
  const std::unique_ptr<Device> device_;
  const Limits limits_;
  Json json_;
  std::vector<std::vector<std::vector<std::string>>> tables_;
};

}  // namespace

void add_bench_video_flags(CLI::App& app, BenchVideoFlags& flags) {
  app.add_option("--preset", flags.preset, "vg-s or vg-m: the model of the first table")->capture_default_str();
  app.add_option("--max-tokens", flags.max_tokens, "of the longest clip")->capture_default_str()->check(CLI::Range(1, 1 << 24));
  app.add_option("--seconds", flags.seconds, "leave out a forward that would take longer")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--score-bytes", flags.score_bytes, "leave out squares of scores that take more, e.g. 4GB")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
}

int bench_video(const BenchVideoFlags& flags) {
  check(flags.repeats > 0, "bench: --repeats must be positive");
  return BenchVideo(flags).run();
}

}  // namespace folio
