// SPDX-License-Identifier: MIT
#include "tools/lib/bench_vae.h"

#include <algorithm>
#include <iostream>

#include "models/thin_vae.h"
#include "ops/ops.h"
#include "tools/lib/machine.h"
#include "tools/lib/main.h"
#include "tools/lib/model.h"
#include "tools/lib/random_vae.h"

namespace folio {

namespace {

// Convolutions one behind the other, with a ReLU between; padded so that the size stays.
struct Stack {
  std::string name;
  int64_t frames, height, width, channels;
  struct Layer {
    int64_t features;
    Extent kernel;
    bool causal = false;
    int grow = 1, up = 1;
  };
  std::vector<Layer> layers;
  std::string against;   // name of the stack whose time is divided by this one's; may be empty
};

std::vector<Stack> stacks(bool quick) {
  std::vector<Stack> all;
  const std::vector<Shape> clips = quick ? std::vector<Shape>{{3, 8, 20}} : std::vector<Shape>{{17, 128, 128}, {17, 240, 416}};
  for (const Shape& clip : clips) {
    const std::string size = join(" ", clip[0], "x", clip[1], "x", clip[2]);
    const auto decoder = [&](int64_t middle) { return std::vector<Stack::Layer>{{middle, {3, 3, 3}}, {3, {3, 3, 3}}}; };
    all.push_back({"naive" + size, clip[0], clip[1], clip[2], 32, decoder(32), ""});
    all.push_back({"thin" + size, clip[0], clip[1], clip[2], 32, decoder(8), "naive" + size});
  }
  const int64_t latent = quick ? 4 : 32;
  const auto layer = [&](const std::string& name, int64_t scale, int64_t channels, const Stack::Layer& one) {
    all.push_back({name, 1, scale * latent, scale * latent, channels, {one}, ""});
  };
  layer("memory 256", 1, 256, {256, {2, 3, 3}, true});
  layer("block 256", 1, 256, {256, {1, 3, 3}});
  layer("enlarge 256->128", 1, 256, {128, {1, 2, 2}, false, 1, 2});
  layer("block 128", 2, 128, {128, {1, 3, 3}});
  layer("enlarge, grow 128->64", 2, 128, {64, {1, 2, 2}, false, 2, 2});
  layer("block 64", 4, 64, {64, {1, 3, 3}});
  layer("enlarge, grow 64->64", 4, 64, {64, {1, 2, 2}, false, 2, 2});
  layer("pixels 64->3", 8, 64, {3, {1, 3, 3}});
  return all;
}

struct Result {
  double seconds = 0, flops = 0;
};

Result measure(const Stack& stack, Device& device, int repeats) {
  DeviceTensors memory(device);
  Result result;
  auto graph = std::make_unique<Graph>();
  Tensor x = memory.random(F32, {stack.frames, stack.height, stack.width, stack.channels});
  for (const auto& layer : stack.layers) {
    const Extent k = layer.kernel, pad{layer.causal ? k.t - 1 : k.t / 2, layer.up == 2 ? 1 : k.h / 2, layer.up == 2 ? 1 : k.w / 2};
    Conv op{.x = x, .kernel = k, .pad = pad, .causal = layer.causal, .grow = layer.grow, .up = layer.up,
            .act = &layer == &stack.layers.back() ? Act::none : Act::relu};
    op.w = memory.random(F32, {op.phases() * op.taps(), x.cols(), layer.features});
    op.bias = memory.random(F32, {layer.features});
    if (layer.causal) op.past = memory.random(F32, {pad.t, x.dim(1), x.dim(2), x.cols()});
    op = graph->record(op);
    result.flops += 2.0 * double(op.y.count()) * op.taps() * double(op.x.cols());
    x = op.y;
  }
  graph->output("y", x, true);
  const auto program = device.compile(std::move(graph));
  program->run();
  std::vector<double> seconds;
  for (int r = 0; r < repeats; ++r) seconds.push_back(program->time(1));
  std::sort(seconds.begin(), seconds.end());
  result.seconds = seconds[seconds.size() / 2];
  return result;
}

// A clip of so many latents through the whole decoder.
struct Clip {
  std::string name;
  int64_t latents, rows, cols;   // of latent pixels
  DType weights = F32;
  int64_t limit = 0;             // bytes
};

std::vector<Clip> clips(const BenchVaeFlags& flags) {
  if (flags.quick) return {{"decoder, 5 frames of 32x32", 2, 4, 4}};
  std::vector<Clip> all = {{"decoder, 17 frames of 256x256", 5, 32, 32}, {"the same, bf16 weights", 5, 32, 32, BF16}};
  if (!flags.full) return all;
  constexpr int64_t limit = 250 * 1000 * 1000;
  all.push_back({"decoder, 17 frames of 480x832, in bands", 5, 60, 104, F32, limit});
  all.push_back({"decoder, 97 frames of 480x832, in bands", 25, 60, 104, F32, limit});
  return all;
}

struct Decoded {
  double seconds = 0, first = 0, bytes = 0, flops = 0;
};

Decoded decode(const Clip& clip, const Weights& weights, Device& device, int repeats) {
  const ThinVae vae(weights, device, {.weights = clip.weights, .limit = clip.limit, .encoder = false});
  Tensor latents = Tensor::of(F32, {clip.latents, clip.rows, clip.cols, vae.latent()});
  std::vector<float> numbers(size_t(latents.count()));
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = float(i * 2654435761u % 1000) / 500 - 1;
  latents.data = reinterpret_cast<std::byte*>(numbers.data());
  std::vector<Decoded> runs;
  for (int r = 0; r < repeats; ++r) {
    Decoded& run = runs.emplace_back();
    const double start = seconds_now();
    vae.decode(latents, [&](int64_t frame, const float*) {
      if (frame == 0) run.first = seconds_now() - start;
      return true;
    });
    run.seconds = seconds_now() - start;
  }
  std::sort(runs.begin(), runs.end(), [](const Decoded& a, const Decoded& b) { return a.seconds < b.seconds; });
  Decoded median = runs[runs.size() / 2];
  median.bytes = double(vae.decode_bytes(clip.rows, clip.cols));
  median.flops = 2.0 * double(vae_decoder_macs({})) * double(clip.rows * clip.cols * clip.latents);
  return median;
}

nlohmann::json decoders(const BenchVaeFlags& flags, Device& device, const Limits& limits) {
  nlohmann::json all = nlohmann::json::array();
  std::vector<std::vector<std::string>> table = {{"whole decoders", "s", "first frame s", "GFLOP/s", "share of fp32 peak", "memory"}};
  std::optional<Weights> weights;
  for (const Clip& clip : clips(flags)) {
    if (clip.name.find(flags.only) == std::string::npos) continue;
    if (!weights) weights.emplace(random_vae());
    const Decoded d = decode(clip, *weights, device, clip.latents > 5 ? 1 : flags.repeats);
    const double gflops = d.flops / d.seconds / 1e9, share = limits.fp32_gflops > 0 ? gflops / limits.fp32_gflops : 0;
    table.push_back({clip.name, fixed(d.seconds, 3), fixed(d.first, 3), fixed(gflops, 1), fixed(share, 3), human_bytes(d.bytes)});
    all.push_back({{"name", clip.name}, {"seconds", d.seconds}, {"first", d.first}, {"gflops", gflops}, {"share", share}, {"bytes", d.bytes}});
  }
  if (!flags.json && !all.empty()) print_cells(table, flags.csv);
  return all;
}

}  // namespace

void add_bench_vae_flags(CLI::App& app, BenchVaeFlags& flags) {
  app.add_option("--only", flags.only, "only lines with this in their name");
  app.add_flag("--full", flags.full, "also 17 and 97 frames of 480 x 832 through the whole decoder: minutes");
  app.add_flag("--quick", flags.quick, "tiny clips: to see that everything works, not how fast");
}

int bench_vae(const BenchVaeFlags& flags) {
  check(flags.repeats > 0, "bench: --repeats must be positive");
  std::vector<Stack> cases = stacks(flags.quick);
  std::erase_if(cases, [&](const Stack& s) { return s.name.find(flags.only) == std::string::npos; });
  const auto whole = clips(flags);
  const bool any = std::any_of(whole.begin(), whole.end(), [&](const Clip& c) { return c.name.find(flags.only) != std::string::npos; });
  check(any || !cases.empty(), "bench: no line has '", flags.only, "' in its name; without --only, bench vae shows all of them");
  const auto device = open_device(flags.device, flags.threads);
  const Limits limits = measure_limits(*device, flags.threads);
  if (!flags.json) std::cerr << device->name() << "; " << text(limits) << "\n";
  nlohmann::json all = nlohmann::json::array();
  std::vector<std::vector<std::string>> table = {{"convolutions", "ms", "GFLOP/s", "share of fp32 peak", "ratio"}};
  std::map<std::string, double> times;
  for (const Stack& stack : cases) {
    const Result r = measure(stack, *device, flags.repeats);
    const double gflops = r.flops / r.seconds / 1e9, share = limits.fp32_gflops > 0 ? gflops / limits.fp32_gflops : 0;
    times[stack.name] = r.seconds;
    const auto other = times.find(stack.against);
    const std::string ratio = other == times.end() ? "" : fixed(other->second / r.seconds, 2);
    table.push_back({stack.name, fixed(r.seconds * 1e3, 2), fixed(gflops, 1), fixed(share, 3), ratio});
    all.push_back({{"name", stack.name}, {"seconds", r.seconds}, {"flops", r.flops}, {"gflops", gflops}, {"share", share}});
    if (!ratio.empty()) all.back()["ratio"] = other->second / r.seconds;
  }
  if (!flags.json && !cases.empty()) print_cells(table, flags.csv);
  const nlohmann::json decoded = decoders(flags, *device, limits);
  if (flags.json)
    std::cout << nlohmann::json{{"device", device->name()}, {"limits", limits_json(limits)}, {"cases", all}, {"decoders", decoded}}.dump() << "\n";
  return 0;
}

}  // namespace folio
