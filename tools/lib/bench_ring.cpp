// SPDX-License-Identifier: MIT
#include "tools/lib/bench_ring.h"

#include <chrono>
#include <cmath>
#include <cstdio>

#include "base/larger.h"
#include "base/threads.h"
#include "tools/lib/machine.h"
#include "tools/lib/model.h"
#include "tools/lib/ring_run.h"

namespace folio {

namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double causal_flops(const RingText& text) {
  return 2.0 * double(text.tokens) * double(text.tokens) * double(text.shape.heads * text.shape.head_size);
}

// How far off some tokens are, the last among them, from their sums over all keys in double.
double plain_difference(const RingText& text) {
  const int64_t heads = text.shape.heads, width = text.shape.value_size;
  double most = 0;
  for (int i = 1; i <= 8; ++i) {
    const int64_t t = std::max<int64_t>(0, text.tokens * i / 8 - 1), h = i % heads;
    most = larger(most, worst_of(&text.o[size_t((t * heads + h) * width)], exact_row(text, t, h).o.data(), size_t(width)));
  }
  return most;
}

// What a layout of the ring came to, over all ranks.
struct Outcome {
  double seconds = 0, busiest = 0, attend = 0, merge = 0, exchange = 0, off = 0;
  int64_t bytes_sent = 0, pairs = 0;
};

Outcome outcome_of(RingText& text, const RingText& want, RingLayout layout, int ranks) {
  Outcome out;
  const auto start = Clock::now();
  const std::vector<RingTimes> ran = run_ring(text, layout, ranks, 600);
  out.seconds = since(start);
  for (const RingTimes& t : ran) {
    out.attend += t.attend, out.merge += t.merge, out.exchange += t.exchange, out.bytes_sent += t.bytes_sent, out.pairs += t.pairs;
    out.busiest = std::max(out.busiest, t.attend);
  }
  out.off = worst_of(text.o.data(), want.o.data(), want.o.size());
  return out;
}

}  // namespace

void add_bench_ring_flags(CLI::App& app, BenchRingFlags& flags) {
  app.add_option("--tokens", flags.tokens, "of the text that is streamed")->capture_default_str()->check(CLI::Range(1, 1 << 24));
  app.add_option("--kv-bytes", flags.kv_bytes, "keys and values that the device may hold while it is streamed, e.g. 4MB")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  app.add_option("--ring-tokens", flags.ring_tokens, "of the text that goes round the ring")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--ranks", flags.ranks, "of the ring")->capture_default_str()->check(CLI::Range(1, 64));
  app.add_option("--heads", flags.heads, "of queries")->capture_default_str()->check(CLI::Range(1, 1024));
  app.add_option("--groups", flags.groups, "of keys and values")->capture_default_str()->check(CLI::Range(1, 1024));
  app.add_option("-D,--head-size", flags.head_size, "numbers of a head")->capture_default_str()->check(CLI::Range(1, 1024));
}

int bench_ring(const BenchRingFlags& flags) {
  const int threads = flags.threads > 0 ? flags.threads : hardware_threads();
  const RingShape shape{.heads = flags.heads, .groups = flags.groups, .head_size = flags.head_size, .value_size = flags.head_size,
                        .scale = 1 / std::sqrt(float(flags.head_size)), .rows = F16};
  const auto device = open_device(flags.device, threads);
  const double peak_gflops = measure_limits(*device, threads).fp32_gflops;
  nlohmann::json json = {{"shape", {{"heads", shape.heads}, {"groups", shape.groups}, {"head_size", shape.head_size}}}, {"ring", {}}};

  RingText text = RingText::random(shape, flags.ring_tokens), want = text;
  auto start = Clock::now();
  attend_streamed(*device, shape, text.tokens, want.all(), int64_t(1) << 40);
  const double at_once = since(start);
  std::vector<std::vector<std::string>> rows = {
      {"layout", "ranks", "ms", "busiest rank's attention ms", "merge", "waiting", "MB sent", "off by"}};
  for (RingLayout layout : {RingLayout::contiguous, RingLayout::zigzag}) {
    const Outcome r = outcome_of(text, want, layout, flags.ranks);
    const char* name = layout == RingLayout::zigzag ? "zigzag" : "contiguous";
    const double merge = r.merge / (r.attend + r.merge), mb = double(r.bytes_sent) / 1e6;
    char off[16];
    std::snprintf(off, sizeof off, "%.1e", r.off);
    rows.push_back({name, std::to_string(flags.ranks), fixed(r.seconds * 1e3, 1), fixed(r.busiest * 1e3, 1), fixed(merge * 100, 2) + "%",
                    fixed(r.exchange * 1e3, 1) + " ms", fixed(mb, 2), off});
    json["ring"].push_back({{"layout", name}, {"ranks", flags.ranks}, {"seconds", r.seconds}, {"merge_share", merge},
                            {"bytes_sent", r.bytes_sent}, {"pairs", r.pairs}, {"difference", r.off}});
  }

  RingText longer = RingText::random(shape, flags.tokens);
  const int64_t before = peak_memory();
  start = Clock::now();
  const RingTimes times = attend_streamed(*device, shape, longer.tokens, longer.all(), int64_t(flags.kv_bytes));
  const double seconds = since(start);
  const int64_t held = std::min(int64_t(flags.kv_bytes) / shape.page_bytes() * shape.page_bytes(), times.bytes_sent);
  const double gflops = causal_flops(longer) / seconds / 1e9;
  json["streamed"] = {{"tokens", longer.tokens}, {"kv_bytes", flags.kv_bytes}, {"held_bytes", held}, {"all_bytes", times.bytes_sent},
                      {"grown_bytes", peak_memory() - before}, {"seconds", seconds}, {"gflops", gflops}, {"share", gflops / peak_gflops},
                      {"merge_share", times.merge / seconds}, {"difference", plain_difference(longer)}};
  if (flags.json) {
    std::printf("%s\n", json.dump().c_str());
    return 0;
  }
  std::printf("%lld tokens, %lld heads of %lld, at once with %d threads: %.1f ms, %.0f GFLOP/s of %.0f\n", (long long)text.tokens,
              (long long)shape.heads, (long long)shape.head_size, threads, at_once * 1e3, causal_flops(text) / at_once / 1e9, peak_gflops);
  print_cells(rows, flags.csv);
  std::printf("%lld tokens streamed: %.2f MB of %.2f MB of keys and values on the device at once (limit %.2f MB), memory grew by %.1f MB; "
              "%.1f s, %.0f GFLOP/s (%.0f%% of peak), merging %.2f%%, off by %.1e\n",
              (long long)longer.tokens, double(held) / 1e6, double(times.bytes_sent) / 1e6, double(flags.kv_bytes) / 1e6,
              double(peak_memory() - before) / 1e6, seconds, gflops, gflops / peak_gflops * 100, times.merge / seconds * 100,
              json["streamed"]["difference"].get<double>());
  return 0;
}

}  // namespace folio
