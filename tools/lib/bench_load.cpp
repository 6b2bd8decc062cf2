// SPDX-License-Identifier: MIT
#include "tools/lib/bench_load.h"

#include <algorithm>
#include <thread>

#include "tools/lib/model.h"

namespace folio {

constexpr int ways_on = 3;            // from a thought
constexpr int phrase = 12, repeated = 120;   // tokens

std::vector<Token> Traces::words(int n) {
  std::vector<Token> text;
  for (int i = 0; i < n; ++i) text.push_back(Token(random_() % uint64_t(vocab_)));
  return text;
}

Trace Traces::shared_prefix() {
  Trace trace;
  const auto beginning = words(sizes_.shared);
  for (int i = 0; i < sizes_.requests; ++i) {
    auto text = beginning, own = words(sizes_.own);
    text.insert(text.end(), own.begin(), own.end());
    trace.push_back({text, -1});
  }
  return trace;
}

Trace Traces::conversations() {
  Trace trace;
  const int each = std::max(1, sizes_.requests / sizes_.turns);
  for (int turn = 0; turn < sizes_.turns; ++turn)
    for (int i = 0; i < each; ++i)
      trace.push_back({words(turn == 0 ? sizes_.shared / 2 : sizes_.own), turn == 0 ? -1 : (turn - 1) * each + i});
  return trace;
}

Trace Traces::thoughts() {
  Trace trace;
  for (int i = 0; i < sizes_.requests; ++i)
    trace.push_back({words(i == 0 ? sizes_.shared / 2 : sizes_.own), i == 0 ? -1 : (i - 1) / ways_on});
  return trace;
}

Trace Traces::nothing_shared() {
  Trace trace;
  for (int i = 0; i < sizes_.requests; ++i) trace.push_back({words(sizes_.shared / 2), -1});
  return trace;
}

Trace Traces::repetitive(int texts) {
  Trace trace;
  const auto again = words(phrase);
  for (int i = 0; i < texts; ++i) {
    std::vector<Token> text;
    while (text.size() < repeated) text.insert(text.end(), again.begin(), again.end());
    trace.push_back({text, -1});
  }
  return trace;
}

namespace {

class Client {
 public:
  Client(Engine& engine, const Trace& trace, const Load& load)
      : trace_(trace), load_(load), texts_(trace.size()), start_(seconds_now()), arrival_(start_), gap_(load.rate > 0 ? load.rate : 1),
        scheduler_(engine, {.step_tokens = engine.chunk(), .running = load.running, .drafter = load.drafter},
                   [this](int64_t id, const Reply&) { answered(int(whose_[size_t(id)])); }) {}

  Served play() {
    for (bool more = true; more;) {
      while (fresh_ < trace_.size() && trace_[fresh_].after < 0 && comes()) ask(fresh_++, load_.rate > 0 ? arrival_ : seconds_now());
      for (size_t i : std::exchange(due_, {})) ask(i, seconds_now());
      const bool busy = scheduler_.step(), coming = fresh_ < trace_.size() && trace_[fresh_].after < 0;
      more = busy || !due_.empty() || coming;
      if (!busy && coming && due_.empty()) std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    out_.seconds = seconds_now() - start_;
    const SchedulerStats& s = scheduler_.stats();
    out_.requests = s.done;
    out_.tokens = s.drawn_tokens;
    out_.steps = s.steps;
    out_.drafts = s.drafts;
    out_.hits = double(s.cached_tokens) / double(std::max<int64_t>(1, s.cached_tokens + s.prompt_tokens));
    return std::move(out_);
  }

 private:
  // Whether the next fresh one is there. A request that came within a step has waited since then, not since the step's end.
  bool comes() {
    if (load_.rate == 0) return scheduler_.waiting() + scheduler_.running() < 2 * load_.running;
    if (fresh_ > 0 && !drawn_gap_) arrival_ += gap_(random_);
    drawn_gap_ = arrival_ > seconds_now();   // not yet: its time is kept
    return !drawn_gap_;
  }

  void ask(size_t i, double when) {
    auto& text = texts_[i];
    if (trace_[i].after >= 0) text = texts_[size_t(trace_[i].after)];
    text.insert(text.end(), trace_[i].prompt.begin(), trace_[i].prompt.end());
    Request request{.prompt = text, .sampling = {.temperature = 0}, .options = {}, .scope = ""};
    request.options.limit = load_.draw;
    request.options.show = [this, i, last = when, first = true](const Drawn& drawn) mutable {
      if (drawn.token < 0) return;
      const double now = seconds_now();
      (first ? out_.first : out_.between).push_back(now - last);
      last = now, first = false;
      texts_[i].push_back(drawn.token);
    };
    whose_.push_back(i);
    scheduler_.add(std::move(request));
  }

  void answered(int whose) {
    for (size_t i = 0; i < trace_.size(); ++i)
      if (trace_[i].after == whose) due_.push_back(i);
  }

  const Trace& trace_;
  const Load& load_;
  std::vector<std::vector<Token>> texts_;   // prompt and answer
  std::vector<size_t> whose_, due_;         // visit of each of the scheduler's numbers; those whose turn has come
  size_t fresh_ = 0;                        // the next visit that waits for nobody's answer
  const double start_;
  double arrival_;
  bool drawn_gap_ = false;
  std::exponential_distribution<double> gap_;
  std::mt19937_64 random_{5};
  Served out_;
  Scheduler scheduler_;
};

}  // namespace

Served serve(Engine& engine, const Trace& trace, const Load& load) { return Client(engine, trace, load).play(); }

double quantile(std::vector<double> all, double q) {
  if (all.empty()) return 0;
  std::sort(all.begin(), all.end());
  return all[std::min(all.size() - 1, size_t(q * double(all.size())))];
}

}  // namespace folio
