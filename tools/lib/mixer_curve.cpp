// SPDX-License-Identifier: MIT
#include "tools/lib/mixer_curve.h"

#include <algorithm>
#include <limits>

#include "tools/lib/mixer_plain.h"

namespace folio {

namespace {

constexpr double never = std::numeric_limits<double>::infinity();

// Seconds of one more doubling: as much longer as the last one was, but two to four times.
double next_time(double before, double last) { return last * (before > 0 ? std::clamp(last / before, 2.0, 4.0) : 2.0); }

std::string too_long(const CurveLimits& limits) { return join("prefill takes over ", limits.seconds, " s"); }

class Curve {
 public:
  Curve(const MixerKind& kind, const MixerSize& size, Device& device, const CurveLimits& limits)
      : limits_(limits), run_(kind, size, device, limits.tokens, std::min(limits.chunk, limits.tokens)),
        steps_(size_t((limits.tokens + limits.chunk - 1) / limits.chunk), never) {
    curve_.mixer = kind.name, curve_.size = size;
    for (int64_t T = page_tokens; T <= limits.tokens; T *= 2) curve_.points.push_back({.tokens = T, .prefill = never, .decode = never});
  }

  MixerCurve measure(const MixerKind& kind, Device& device) {
    for (int repeat = 0; repeat < limits_.repeats; ++repeat) {
      for (int again = 0; again < 3; ++again) short_texts();
      long_text(repeat == 0 ? limits_.seconds : limits_.seconds / 4, repeat == 0);
    }
    curve_.rounds = run_.rounds();
    for (MixerPoint& p : curve_.points) {
      if (p.tokens >= limits_.chunk) p.prefill = 0;
      for (int64_t i = 0; p.tokens >= limits_.chunk && i < p.tokens / limits_.chunk; ++i) p.prefill += steps_[size_t(i)];
      if (p.prefill == never) p.prefill = 0;
      if (p.decode == never) p.decode = 0;
      p.prefill_flops = kind.prefill_flops(p.tokens, curve_.size, curve_.rounds);
      p.decode_flops = kind.decode_flops(p.tokens, curve_.size, curve_.rounds);
      const int64_t chunk = std::min(limits_.chunk, p.tokens);
      p.memory = MixerRun(kind, curve_.size, device, p.tokens, chunk).memory(chunk);
    }
    return curve_;
  }

 private:
  // Those of one step.
  void short_texts() {
    for (MixerPoint& p : curve_.points) {
      if (p.tokens >= limits_.chunk) break;
      run_.restart();
      p.prefill = std::min(p.prefill, run_.step(p.tokens, 0));
      if (p.tokens > page_tokens) run_.step(p.tokens - page_tokens, p.tokens - page_tokens);
      decode(p);
    }
  }
  // One text that passes by all others, as far as `most` seconds go. `first`: says why where it ends.
  void long_text(double most, bool first) {
    run_.restart();
    double total = 0, before = 0;
    for (MixerPoint& p : curve_.points) {
      if (p.tokens < limits_.chunk) continue;
      const double last = std::exchange(before, total);
      if (next_time(last, total) > most || !read_to(p, total, most)) return first ? stop_at(p) : void();
      decode(p);
    }
  }
  // Up to the last page before the point, all of it timed. False: it takes too long.
  bool read_to(const MixerPoint& p, double& total, double most) {
    const int64_t chunk = limits_.chunk;
    while (run_.length() < p.tokens) {
      const bool last = run_.length() + chunk >= p.tokens;
      double& best = steps_[size_t(run_.length() / chunk)];
      const double seconds = run_.step(chunk, last ? 0 : chunk);
      total += seconds;
      best = std::min(best, seconds);
      if (total > most) return false;
      if (!last) continue;
      run_.step(chunk - page_tokens, chunk - page_tokens);   // the same once more, for the tokens behind are decoded
      return true;
    }
    return true;
  }
  // The sequence ends a page before the point.
  void decode(MixerPoint& p) {
    double seconds = 0;
    int steps = 0;
    while (run_.length() < p.tokens) {
      seconds += run_.step(1, 1), ++steps;
      if (run_.rows_only() && seconds > 0.5) run_.skip(p.tokens - run_.length());
    }
    p.decode = std::min(p.decode, seconds / steps);
  }
  // No prefill from `p` on; where rows are all there is, decoding goes on without.
  void stop_at(const MixerPoint& p) {
    if (run_.rows_only()) run_.restart();
    for (MixerPoint& left : curve_.points) {
      if (left.tokens < p.tokens) continue;
      left.left_out = too_long(limits_);
      if (!run_.rows_only()) continue;
      run_.skip(left.tokens - page_tokens - run_.length());
      decode(left);
    }
  }

  const CurveLimits limits_;
  MixerRun run_;
  MixerCurve curve_;
  std::vector<double> steps_;   // the best time of each step of the long text
};

}  // namespace

const MixerPoint* MixerCurve::at(int64_t tokens) const {
  for (const MixerPoint& p : points)
    if (p.tokens == tokens) return &p;
  return nullptr;
}
double MixerCurve::prefill(int64_t tokens) const { return at(tokens) ? at(tokens)->prefill : 0; }
double MixerCurve::decode(int64_t tokens) const { return at(tokens) ? at(tokens)->decode : 0; }

MixerCurve measure_mixer(const MixerKind& kind, const MixerSize& size, Device& device, const CurveLimits& limits) {
  return Curve(kind, size, device, limits).measure(kind, device);
}

MixerCurve measure_plain_attention(const MixerSize& size, int threads, const CurveLimits& limits) {
  MixerCurve curve{.mixer = "attention naive", .size = size};
  // Again and again until a second is over, at most ten times for each repeat. The first finds fresh memory, and counts only if it took
  // so long that nobody wants another.
  const auto best_of = [&](PlainAttention& plain) {
    double best = never, all = 0;
    for (int i = 0; i < 2 || (i < 10 * limits.repeats && all < 1); ++i) {
      const double seconds = plain.run();
      all += seconds;
      const bool long_enough = seconds > limits.seconds / 4;
      if (i > 0 || long_enough) best = std::min(best, seconds);
      if (long_enough) break;
    }
    return best;
  };
  double last = 0, before = 0;
  std::string left_out;
  for (int64_t T = page_tokens; T <= limits.tokens; T *= 2) {
    MixerPoint& p = curve.points.emplace_back(MixerPoint{.tokens = T});
    p.prefill_flops = PlainAttention::flops(size, T, T), p.decode_flops = PlainAttention::flops(size, 1, T);
    const int64_t bytes = PlainAttention::score_bytes(size, T, T);
    const double soon = next_time(std::exchange(before, last), last);
    if (bytes > limits.bytes) left_out = join("scores of ", bytes >> 20, " MiB");
    else if (left_out.empty() && soon > limits.seconds) left_out = too_long(limits);
    p.left_out = left_out;
    if (left_out.empty()) {
      PlainAttention plain(size, T, T, threads);
      p.memory = plain.memory();
      p.prefill = last = best_of(plain);
    }
    PlainAttention one(size, 1, T, threads);
    p.decode = best_of(one);
  }
  return curve;
}

double measure_step(const MixerKind& kind, const MixerSize& size, Device& device, int64_t depth, int64_t tokens, int repeats,
                    int layers) {
  const int64_t page = std::max(page_tokens, tokens);
  MixerRun run(kind, size, device, depth + page, std::max(depth, tokens), layers);
  double best = never;
  for (int r = 0; r < repeats; ++r) {
    run.restart();
    if (depth > 0) run.step(depth, depth);
    double seconds = 0;
    for (int64_t at = 0; at < page; at += tokens) seconds += run.step(tokens, tokens, tokens > 1 && tokens < page_tokens);
    best = std::min(best, seconds * double(tokens) / double(page) / layers);
  }
  return best;
}

}  // namespace folio
