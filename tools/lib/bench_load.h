// SPDX-License-Identifier: MIT
// Requests as a server meets them, for `bench serve`: traces of prompts, and a client that plays them to the scheduler (run/scheduler.h)
// and takes the time of every token.
#pragma once
#include <algorithm>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "run/scheduler.h"

namespace folio {

// Requests as they come: `after` a reply to the one of that number, whose answer stands before `prompt` then; -1: at once.
struct Visit {
  std::vector<Token> prompt;
  int after = -1;
};
using Trace = std::vector<Visit>;

struct TraceSizes {
  int requests = 24, shared = 1024, own = 32, turns = 4;   // of one trace; tokens; tokens; of a conversation
};

// Makes them of random tokens, others each time.
class Traces {
 public:
  Traces(const TraceSizes& sizes, int64_t vocab) : sizes_(sizes), vocab_(vocab) {}
  std::vector<Token> words(int n);
  Trace shared_prefix();                  // `shared` tokens that all begin with, `own` that each has behind them
  Trace conversations();                  // of `turns`: half as many as `shared`, then `own` a turn, behind all that was said before
  Trace thoughts();                       // a tree: half as many as `shared`, and three ways on of `own` tokens behind each answer
  Trace nothing_shared();                 // half as many as `shared`, all different
  Trace repetitive(int texts);            // short ones that repeat themselves

 private:
  const TraceSizes sizes_;
  const int64_t vocab_;
  std::mt19937_64 random_{3};
};

struct Load {
  int running = 8;                        // texts at once
  int draw = 16;                          // tokens of an answer
  double rate = 0;  // arrivals a second, at random (Poisson); 0: twice as many clients as texts, who ask again at once
  std::function<std::unique_ptr<Drafter>(const Request&)> drafter = nullptr;
};

struct Served {
  double seconds = 0, hits = 0;           // hits: of the prompts' tokens
  int64_t requests = 0, tokens = 0, steps = 0;
  DraftStats drafts;
  std::vector<double> first, between;     // seconds: from arrival to the first token; from token to token
  double rate() const { return double(tokens) / seconds; }
  double right() const { return double(drafts.accepted) / double(std::max<int64_t>(1, drafts.drafted)); }
  double tokens_a_step() const { return double(tokens) / double(tokens - drafts.accepted); }   // of one text
};

Served serve(Engine& engine, const Trace& trace, const Load& load);

double quantile(std::vector<double> all, double q);   // 0 of nothing

}  // namespace folio
