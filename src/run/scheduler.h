// SPDX-License-Identifier: MIT
// Continuous batching: many texts through one engine. Every step takes one token of each text that is being drawn, then chunks of prompts
// up to a budget of tokens, so a long prompt never stops the others; who is done leaves at once and the next comes in.
//
//   waiting ──admit──> running: prompt in chunks ── a token a step ──> done
//      ^                                  │
//      └────────────── preempted ─────────┘     the youngest, when pages run out; what it has read stays in the tree as long as it can
//
// A text comes in when the pages that it still wants, and a share of what the others may yet want, can be had: memory is never promised
// twice. Of texts that wait, one whose beginning another is just reading waits for it, and then shares it; those behind it do not wait
// with it. A request that fails, fails alone. Noise is that of the place in the text (run/sampler.h), so a request that was preempted draws
// what it would have drawn.
//
// Not here: where requests come from and where answers go.
#pragma once
#include <chrono>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "run/generate.h"

namespace folio {

struct Request {
  std::vector<Token> prompt;
  SamplerOptions sampling;
  GenerateOptions options;    // `interrupt` is not looked at: abort()
  std::string scope;          // of the cache: an adapter, a tenant
};

struct Reply {
  Generated generated;
  int64_t cached_tokens = 0;  // of the prompt, which another text had left behind
  int preempted = 0;          // how often
  std::string error;          // why it failed; empty: it did not
};

// Who of the waiting is next: who came first; or whose longest prefix is remembered, where a second of waiting is worth what a second
// of reading is.
enum class Order { fcfs, lpm };
Order order_of(std::string_view name);   // throws Error for a name that is not known

struct SchedulerOptions {
  int step_tokens = 512;      // of all texts in one step
  int running = 8;            // texts at once; no more than the engine's sequences
  Order order = Order::fcfs;
  std::function<std::unique_ptr<Drafter>(const Request&)> drafter = nullptr;   // who guesses tokens of a text; absent: nobody
  int most_drafts = 16;       // of a text at once
  bool always_draft = false;  // whether it pays or not
  Accept accept = Accept::match;   // which guesses stand; drafters must have been made for the same rule
  int give_way_every = 0;     // steps, in which the youngest text gives way as if memory were short: for tests; 0: only when it is
};

struct SchedulerStats {
  int64_t steps = 0, prompt_tokens = 0, cached_tokens = 0, drawn_tokens = 0, preemptions = 0, done = 0, failed = 0;
  int most_running = 0;
  int64_t dropped_drafts = 0;   // guesses of texts that gave way
  DraftStats drafts;
};

class Scheduler {
 public:
  using Done = std::function<void(int64_t id, Reply reply)>;
  // `done` is called once for each request, from within add, step or abort.
  Scheduler(Engine& engine, const SchedulerOptions& options, Done done);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // Its number. A request that can never run is done at once, with its error.
  int64_t add(Request request);
  // One step of the engine; false if nothing is left to do.
  bool step();
  // Ends a request with what it has: Finish::interrupted.
  void abort(int64_t id);

  int64_t waiting() const { return int64_t(waiting_.size()); }
  int64_t running() const { return int64_t(running_.size()); }
  const SchedulerStats& stats() const { return stats_; }

 private:
  struct Text;
  using Texts = std::list<std::unique_ptr<Text>>;

  bool fits(const Text& text, int64_t adopted) const;
  Texts::iterator next_waiting();
  bool held_back(const Text& text) const;
  Text* admit();
  bool take(Text& text, int64_t budget);
  void guess(Text& text, int texts, int64_t budget);
  bool room(Text& text, int tokens);
  void preempt(Text& text);
  void after(Text& text, const Tensor& logits, int64_t row);
  void finish(Text& text, Finish why);
  void fail(Text& text, const std::string& why);
  void leave(Text& text);

  Engine& engine_;
  const SchedulerOptions options_;
  const Done done_;
  Texts waiting_, running_;        // running in order of arrival
  std::vector<std::unique_ptr<Text>> left_;   // those that ended within this step: works may still point at them
  double promised_ = 0.7;          // of what running texts may still want, how much is kept free for them
  StepCost cost_;
  Acceptance usual_ = Acceptance::usual();   // what a new text's guesses are expected to be worth; no text hangs on it
  double read_rate_ = 1000;        // tokens of prompts a second, as measured
  int64_t next_ = 0;
  SchedulerStats stats_;
};

}  // namespace folio
