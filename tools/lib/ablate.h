// SPDX-License-Identifier: MIT
// An ablation study: what each of some techniques brings to the same requests, alone and on top of all others, and what it costs. Every
// technique is a switch that the engine really has. Configurations: all on; all but one, for each; each alone; all off. Two that switch
// the same are one measurement.
//
//   repeat 1:   B  D  A  C      a shuffled order in each repeat, so that what else the machine does meets all alike
//   repeat 2:   D  A  C  B      one run before them all, of all off, is not counted
//
// The answers of all off are what others are held against: techniques that promise the same tokens must keep every one of them.
#pragma once
#include <atomic>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tools/lib/ablate_run.h"

namespace folio {

struct AblateFlags {
  ModelFlags model;
  DraftFlags draft;                                     // the model alone
  std::string data, text;                               // files; empty: the requests that are built in; the prompts
  std::vector<std::string> techniques, metrics, outputs;
  int repeats = 3, running = 8;
  BatchDefaults defaults{.sampling = {.temperature = 0}, .limit = 48};
  bool quiet = false;
};

struct Technique {
  enum class Effect { exact, rounding, lossy };         // on the tokens: none; other last digits; less precise numbers
  std::string name, on, off;                            // what it is, and what stands in its place
  Effect effect;
  std::function<void(Setting&, bool)> set;
  std::function<std::string(const OpenModel&, const AblateFlags&)> missing = nullptr;   // why it cannot be switched here; empty: it can
};

const std::vector<Technique>& all_techniques();
// Throws Error with the list for a name that there is not. No names: those that are of use to this model and can be switched.
std::vector<Technique> choose_techniques(const std::vector<std::string>& names, const OpenModel& model, const AblateFlags& flags);

// One thing that is measured. `group`: throughput, latency, memory or quality.
struct Figure {
  const char *key, *group, *heading;
  double scale;                                         // from the unit of the key to that of the heading
  int digits;
};
const std::vector<Figure>& all_figures();
std::vector<std::string> metric_groups();

struct Spread {
  double mean = 0, sd = 0, least = 0, most = 0;         // sd: of the sample; 0 for one
  static Spread of(const std::vector<double>& values);
};

struct Configuration {
  std::string name;                                     // "all on", "without radix", "radix alone", "all off"
  std::vector<std::string> on;
  bool must_equal = false;                              // every token that all off drew
  bool equal = false;                                   // whether it did, in all repeats
  std::map<std::string, Spread> figures;                // by key; absent: not measured
};

struct Study {
  std::vector<Technique> techniques;
  std::vector<std::pair<std::string, std::string>> left_out;   // name, why
  std::vector<Configuration> configurations;
  std::string model, device, data, text;                // in words
  int requests = 0, repeats = 0, running = 0;
  bool kept_its_word() const;                           // no configuration drew other tokens than it must
};

// progress(done, of, name of the configuration that comes next). Throws Error; `interrupt` ends in an Error, too.
using AblateProgress = std::function<void(int, int, const std::string&)>;
Study ablate(const OpenModel& model, const AblateFlags& flags, const std::vector<Technique>& techniques, const Workload& work,
             const AblateProgress& progress, const std::atomic<bool>& interrupt);

}  // namespace folio
