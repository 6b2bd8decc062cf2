// SPDX-License-Identifier: MIT
// One run of an ablation study: the same requests through the scheduler (run/scheduler.h) of an engine that begins empty, under a setting
// of what can be switched. So many clients at once, each of whom asks again as soon as it is answered, whatever the setting; so a setting
// that serves one text at a time shows in the time to the first token.
#pragma once
#include <string>
#include <vector>

#include "tools/lib/batch_lines.h"
#include "tools/lib/drafting.h"
#include "tools/lib/model.h"

namespace folio {

struct Setting {
  EngineOptions engine;        // its `sequences` are set by the run
  int running = 8;             // texts at once
  Order order = Order::fcfs;
  bool draft_model = false, ngram = false, cache_draft = false;  // who guesses tokens: the first that has an idea, of cache, n-grams, model
  int threads = 0;
  std::string simd;            // the instruction set; empty: the best one
};

// What all runs share.
struct Workload {
  std::vector<BatchLine> lines;             // without errors
  std::vector<std::vector<Token>> texts;    // whose second halves are scored for the perplexity
  int clients = 8;
  std::string device = "cpu";
  const Drafting* drafting = nullptr;       // the smaller model, if there is one
};

struct StudyRun {
  double seconds = 0;
  int64_t prompt_tokens = 0, found_tokens = 0, drawn_tokens = 0;   // prompt_tokens: all of the prompts, those that were found as well
  int64_t steps = 0;
  DraftStats drafts;
  std::vector<double> first, between;       // seconds from asking to the first token, and from token to token
  double held_bytes = 0, kept_bytes = 0;    // most of the cache: in pages of running texts; in all that are not free
  double process_bytes = 0;                 // most that the process had in memory, weights included; 0: the system does not say
  std::vector<std::vector<Token>> answers;  // in the order of the requests
};

// Throws Error if a request fails, naming its line.
StudyRun run_once(const OpenModel& model, const Workload& work, const Setting& setting);

// exp of the mean of -log p over the second halves of the workload's texts, each predicted behind all tokens before. Where the engine
// remembers, the first halves have been read before and are found again: what was found is what is scored on.
double perplexity(const OpenModel& model, const Workload& work, const Setting& setting);

}  // namespace folio
