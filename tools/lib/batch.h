// SPDX-License-Identifier: MIT
// `generate --batch IN.jsonl -o OUT.jsonl`: all requests of a file through one scheduler (run/scheduler.h). Answers are appended in the
// order of the requests as soon as all before them are there, so a run that was killed goes on where it stopped: OUT.jsonl.progress says
// which batch the file belongs to, and goes away at the end. Of some hundred requests at a time those that begin alike are read one after
// the other, which finds more of what is remembered.
#pragma once
#include <atomic>
#include <string>

#include "tools/lib/batch_lines.h"
#include "tools/lib/drafting.h"
#include "tools/lib/sampling.h"

namespace folio {

struct BatchFlags {
  std::string in, out;             // "-": standard input, standard output
  int texts = 8;                   // at once
  uint64_t kv_bytes = 0;
  std::string policy = "lru", schedule = "fcfs", remember = "on";
  uint64_t host_bytes = 0;
  bool page_stats = false;
};

// --batch -o --max-batch --kv-bytes --cache-ram --cache-policy --schedule --prefix-cache --page-stats
void add_batch_flags(CLI::App& app, BatchFlags& flags);
// What the model's flags have to be for it.
void prepare_batch(const BatchFlags& flags, ModelFlags& model);

// The exit code: 1 if some line failed, which standard error names then. Throws Error if the files do not go together.
int run_batch(OpenModel& model, const BatchFlags& flags, const DraftFlags& draft, const Drafting& drafting, const SamplingFlags& sampling,
              BatchDefaults defaults, bool quiet, const std::atomic<bool>& interrupt);

}  // namespace folio
