// SPDX-License-Identifier: MIT
#include "tools/lib/bench_ring.h"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <random>
#include <thread>

#include "base/error.h"
#include "base/threads.h"
#include "models/ring.h"
#include "tools/lib/machine.h"
#include "tools/lib/model.h"

namespace folio {

namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

struct Text {
  Text(const RingShape& s, int64_t tokens) : shape(s), tokens(tokens) {
    std::mt19937 random(1);
    const auto fill = [&](std::vector<float>& x, int64_t row) {
      x.resize(size_t(tokens * row));
      for (float& number : x) number = float(int32_t(random())) * 0x1p-30f;   // −2 to 2
    };
    fill(q, s.heads * s.head_size), fill(k, s.groups * s.head_size), fill(v, s.groups * s.value_size);
    o.resize(size_t(tokens * s.heads * s.value_size)), lse.resize(size_t(tokens * s.heads));
  }
  RingTensors all() { return {q, k, v, o, lse}; }
  double flops() const { return 2.0 * double(tokens) * double(tokens) * double(shape.heads * shape.head_size); }   // causal
  RingShape shape;
  int64_t tokens;
  std::vector<float> q, k, v, o, lse;
};

double difference(const std::vector<float>& a, const std::vector<float>& b) {
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double off = std::fabs(double(a[i]) - b[i]);
    most = off <= most ? most : off;   // NaN stays
  }
  return most;
}

// How far off some tokens are, the last among them, from their sums over all keys in double.
double plain_difference(const Text& text) {
  const RingShape& s = text.shape;
  double most = 0;
  for (int i = 1; i <= 8; ++i) {
    const int64_t t = text.tokens * i / 8 - 1, h = i % s.heads, g = h / (s.heads / s.groups);
    std::vector<double> sum(static_cast<size_t>(s.value_size));
    double total = 0;
    for (int64_t j = 0; j <= t; ++j) {
      double dot = 0;   // small enough that nothing overflows
      for (int64_t d = 0; d < s.head_size; ++d)
        dot += double(text.q[size_t((t * s.heads + h) * s.head_size + d)]) * text.k[size_t((j * s.groups + g) * s.head_size + d)];
      const double p = std::exp(s.scale * dot);
      total += p;
      for (int64_t d = 0; d < s.value_size; ++d) sum[size_t(d)] += p * text.v[size_t((j * s.groups + g) * s.value_size + d)];
    }
    for (int64_t d = 0; t >= 0 && d < s.value_size; ++d) {
      const double off = std::fabs(text.o[size_t((t * s.heads + h) * s.value_size + d)] - sum[size_t(d)] / total);
      most = off <= most ? most : off;
    }
  }
  return most;
}

// What a layout of the ring came to, over all ranks.
struct Outcome {
  double seconds = 0, busiest = 0, attend = 0, merge = 0, exchange = 0, off = 0;
  int64_t bytes_sent = 0, pairs = 0;
};

std::vector<float> part_of(const std::vector<float>& all, const std::vector<Stretch>& share, int64_t row) {
  std::vector<float> mine;
  for (const Stretch& s : share) mine.insert(mine.end(), all.begin() + s.first * row, all.begin() + (s.first + s.count) * row);
  return mine;
}

Outcome run_ring(const Text& text, const Text& want, RingLayout layout, int ranks) {
  const RingShape& s = text.shape;
  Outcome out;
  auto ring = thread_ring(ranks, 600);
  std::vector<RingTimes> times(static_cast<size_t>(ranks));
  std::vector<double> off(static_cast<size_t>(ranks));
  std::vector<std::thread> threads;
  const auto start = Clock::now();
  for (int r = 0; r < ranks; ++r)
    threads.emplace_back([&, r] {
      const auto share = ring_share(layout, text.tokens, ranks, r);
      const auto q = part_of(text.q, share, s.heads * s.head_size), k = part_of(text.k, share, s.groups * s.head_size),
                 v = part_of(text.v, share, s.groups * s.value_size), right = part_of(want.o, share, s.heads * s.value_size);
      std::vector<float> o(right.size()), lse(right.size() / size_t(s.value_size));
      const auto device = cpu(1);
      times[size_t(r)] = ring_attention(*ring[size_t(r)], *device, s, layout, text.tokens, {q, k, v, o, lse});
      off[size_t(r)] = difference(o, right);
    });
  for (std::thread& thread : threads) thread.join();
  out.seconds = since(start);
  for (size_t r = 0; r < times.size(); ++r) {
    const RingTimes& t = times[r];
    out.attend += t.attend, out.merge += t.merge, out.exchange += t.exchange, out.bytes_sent += t.bytes_sent, out.pairs += t.pairs;
    out.busiest = std::max(out.busiest, t.attend);
    out.off = off[r] <= out.off ? out.off : off[r];
  }
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

  Text text(shape, flags.ring_tokens), want = text;
  auto start = Clock::now();
  attend_streamed(*device, shape, text.tokens, want.all(), int64_t(1) << 40);
  const double at_once = since(start);
  std::vector<std::vector<std::string>> rows = {
      {"layout", "ranks", "ms", "busiest rank's attention ms", "merge", "waiting", "MB sent", "off by"}};
  for (RingLayout layout : {RingLayout::contiguous, RingLayout::zigzag}) {
    const Outcome r = run_ring(text, want, layout, flags.ranks);
    const char* name = layout == RingLayout::zigzag ? "zigzag" : "contiguous";
    const double merge = r.merge / (r.attend + r.merge), mb = double(r.bytes_sent) / 1e6;
    char off[16];
    std::snprintf(off, sizeof off, "%.1e", r.off);
    rows.push_back({name, std::to_string(flags.ranks), fixed(r.seconds * 1e3, 1), fixed(r.busiest * 1e3, 1), fixed(merge * 100, 2) + "%",
                    fixed(r.exchange * 1e3, 1) + " ms", fixed(mb, 2), off});
    json["ring"].push_back({{"layout", name}, {"ranks", flags.ranks}, {"seconds", r.seconds}, {"merge_share", merge},
                            {"bytes_sent", r.bytes_sent}, {"pairs", r.pairs}, {"difference", r.off}});
  }

  Text longer(shape, flags.tokens);
  const int64_t before = peak_memory();
  start = Clock::now();
  const RingTimes times = attend_streamed(*device, shape, longer.tokens, longer.all(), int64_t(flags.kv_bytes));
  const double seconds = since(start);
  const int64_t held = std::min(int64_t(flags.kv_bytes) / shape.page_bytes() * shape.page_bytes(), times.bytes_sent);
  const double gflops = longer.flops() / seconds / 1e9;
  json["streamed"] = {{"tokens", longer.tokens}, {"kv_bytes", flags.kv_bytes}, {"held_bytes", held}, {"all_bytes", times.bytes_sent},
                      {"grown_bytes", peak_memory() - before}, {"seconds", seconds}, {"gflops", gflops}, {"share", gflops / peak_gflops},
                      {"merge_share", times.merge / seconds}, {"difference", plain_difference(longer)}};
  if (flags.json) {
    std::printf("%s\n", json.dump().c_str());
    return 0;
  }
  std::printf("%lld tokens, %lld heads of %lld, at once with %d threads: %.1f ms, %.0f GFLOP/s of %.0f\n", (long long)text.tokens,
              (long long)shape.heads, (long long)shape.head_size, threads, at_once * 1e3, text.flops() / at_once / 1e9, peak_gflops);
  print_cells(rows, flags.csv);
  std::printf("%lld tokens streamed: %.2f MB of %.2f MB of keys and values on the device at once (limit %.2f MB), memory grew by %.1f MB; "
              "%.1f s, %.0f GFLOP/s (%.0f%% of peak), merging %.2f%%, off by %.1e\n",
              (long long)longer.tokens, double(held) / 1e6, double(times.bytes_sent) / 1e6, double(flags.kv_bytes) / 1e6,
              double(peak_memory() - before) / 1e6, seconds, gflops, gflops / peak_gflops * 100, times.merge / seconds * 100,
              json["streamed"]["difference"].get<double>());
  return 0;
}

}  // namespace folio
