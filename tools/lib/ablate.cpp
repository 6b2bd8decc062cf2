// SPDX-License-Identifier: MIT
#include "tools/lib/ablate.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "base/error.h"

namespace folio {

namespace {

constexpr uint64_t order_seed = 20;         // of the order of runs
constexpr ptrdiff_t usual_techniques = 7;   // of the list, where none is named

bool has_latents(const OpenModel& model) {
  for (const LayerSpec& layer : model.model->state(F32))
    for (const RowSpec& row : layer.rows)
      if (row.name == "latent") return true;
  return false;
}

int64_t row_bytes(const OpenModel& model, DType type) {
  int64_t bytes = 0;
  for (const LayerSpec& layer : model.model->state(type))
    for (const RowSpec& row : layer.rows) bytes += bytes_of(row.type, row.shape.count());
  return bytes;
}

// The format of rows with the fewest bytes that all layers can keep.
DType smallest_rows(const OpenModel& model) {
  try {
    if (row_bytes(model, Q8_0) < row_bytes(model, F16)) return Q8_0;
  } catch (const Error&) {   // some layer keeps no blocks
  }
  return F16;
}

std::string without_latents(const OpenModel& model, const AblateFlags& flags) {
  if (!has_latents(model)) return "the model has no latent attention";
  return flags.model.device == "cpu" ? "" : "a card has one order of work for latent attention";
}

using Names = std::vector<std::string>;
bool named(const Names& names, const std::string& name) { return std::find(names.begin(), names.end(), name) != names.end(); }

std::string listed(const Names& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

// What techniques that are not named are: as `generate --batch` has them. With rows of the smallest format where that is switched.
Setting base_setting(const OpenModel& model, const AblateFlags& flags, const std::vector<Technique>& techniques) {
  Setting base{.engine = model.options, .running = flags.running, .threads = model.threads};
  base.engine.remember = true;
  const bool switched = std::any_of(techniques.begin(), techniques.end(), [](const Technique& t) { return t.name == "kvquant"; });
  if (switched && !base.engine.cache_type) base.engine.cache_type = smallest_rows(model);
  return base;
}

struct Measured {
  std::vector<bool> on;
  std::vector<StudyRun> runs;
  double perplexity = NAN;
};

double quantile(std::vector<double> all, double q) {
  if (all.empty()) return NAN;
  std::sort(all.begin(), all.end());
  return all[std::min(all.size() - 1, size_t(q * double(all.size())))];
}

double share(double part, double whole) { return whole > 0 ? part / whole : NAN; }   // of nothing: not measured

// Tokens before the first that differs in each answer, of all.
double equal_tokens(const StudyRun& run, const StudyRun& expected) {
  int64_t same = 0, all = 0;
  for (size_t i = 0; i < run.answers.size(); ++i) {
    const auto &a = run.answers[i], &b = expected.answers[i];
    same += std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
    all += int64_t(std::max(a.size(), b.size()));
  }
  return all > 0 ? double(same) / double(all) : 1;
}

double equal_answers(const StudyRun& run, const StudyRun& expected) {
  size_t same = 0;
  for (size_t i = 0; i < run.answers.size(); ++i) same += run.answers[i] == expected.answers[i];
  return run.answers.empty() ? 1 : double(same) / double(run.answers.size());
}

double value_of(const std::string& key, const StudyRun& r, const StudyRun& expected) {
  if (key == "generated_tps") return double(r.drawn_tokens) / r.seconds;
  if (key == "total_tps") return double(r.drawn_tokens + r.prompt_tokens) / r.seconds;
  if (key == "found_share") return share(double(r.found_tokens), double(r.prompt_tokens));
  if (key == "tokens_per_step") return share(double(r.drawn_tokens), double(r.steps));
  if (key == "guesses_right") return share(double(r.drafts.accepted), double(r.drafts.drafted));
  if (key == "held_bytes") return r.held_bytes;
  if (key == "kept_bytes") return r.kept_bytes;
  if (key == "process_bytes") return r.process_bytes > 0 ? r.process_bytes : NAN;
  if (key == "equal_tokens") return equal_tokens(r, expected);
  if (key == "equal_answers") return equal_answers(r, expected);
  const double q = key.ends_with("p50") ? 0.5 : key.ends_with("p90") ? 0.9 : 0.99;
  return quantile(key.starts_with("first") ? r.first : r.between, q);
}

}  // namespace

const std::vector<Technique>& all_techniques() {
  using Effect = Technique::Effect;
  static const std::vector<Technique> all = {
      {"radix", "what texts leave behind is remembered; others that begin alike go on from it", "every prompt is read whole", Effect::exact,
       [](Setting& s, bool on) { s.engine.remember = on; }},
      {"batching", "many texts in one step (--max-batch)", "one text at a time", Effect::exact,
       [](Setting& s, bool on) {
         if (!on) s.running = 1;
       },
       [](const OpenModel&, const AblateFlags& f) { return std::string(f.running > 1 ? "" : "--max-batch is 1"); }},
      {"speculative", "a smaller model (--draft) guesses tokens ahead", "no guesses by a model", Effect::exact,
       [](Setting& s, bool on) { s.draft_model = on; },
       [](const OpenModel&, const AblateFlags& f) {
         return std::string(f.draft.model.empty() ? "it wants a smaller model: --draft" : "");
       }},
      {"ngram", "what followed a text's last words before is guessed to follow again", "no guesses from the text", Effect::exact,
       [](Setting& s, bool on) { s.ngram = on; }},
      {"cache-draft", "what other texts went on with is guessed to follow (where radix is on)", "no guesses from other texts",
       Effect::exact, [](Setting& s, bool on) { s.cache_draft = on; }},
      {"kvquant", "attention's rows in the smallest format that all layers can keep, or in --cache-type: q8_0 for latents, else f16",
       "f32 rows", Effect::lossy,
       [](Setting& s, bool on) {
         if (!on) s.engine.cache_type = F32;
       },
       [](const OpenModel& m, const AblateFlags&) {
         return std::string(row_bytes(m, F32) > row_bytes(m, F16) ? "" : "no layer keeps rows whose format could be chosen");
       }},
      {"mla", "latent attention in the order of work that is cheaper: absorbed when few tokens are read",
       "keys and values of all tokens are made anew from the latents in every step",
       Effect::rounding, [](Setting& s, bool on) { s.engine.expand_latents = !on; }, without_latents},
      {"chunking", "prompts are read in pieces of --batch-size tokens, between which others draw", "a prompt is read in one step",
       Effect::exact,
       [](Setting& s, bool on) {
         if (!on) s.engine.chunk = 1 << 20;
       }},   // as long as the context
      {"lpm", "of those that wait, who finds most of his prompt is next", "who came first is next", Effect::exact,
       [](Setting& s, bool on) { s.order = on ? Order::lpm : Order::fcfs; }},
      {"deterministic", "latent attention keeps one order of work whatever else a step brings", "the cheaper order of each step",
       Effect::rounding, [](Setting& s, bool on) { s.engine.deterministic = on; }, without_latents},
      {"simd", "the processor's best instruction set", "plain C++", Effect::rounding,
       [](Setting& s, bool on) {
         if (!on) s.simd = "plain";
       },
       [](const OpenModel&, const AblateFlags& f) {
         return std::string(f.model.device == "cpu" ? "" : "the model does not run on the CPU");
       }},
      {"threads", "--threads threads", "one thread", Effect::exact,
       [](Setting& s, bool on) {
         if (!on) s.threads = 1;
       },
       [](const OpenModel& m, const AblateFlags& f) {
         if (f.model.device != "cpu") return std::string("the model does not run on the CPU");
         return std::string(m.threads > 1 ? "" : "there is one thread");
       }}};
  return all;
}

std::vector<Technique> choose_techniques(const std::vector<std::string>& names, const OpenModel& model, const AblateFlags& flags) {
  Names known;
  for (const Technique& t : all_techniques()) known.push_back(t.name);
  for (const std::string& name : names) check(named(known, name), "--techniques: there is no '", name, "'; there are ", listed(known));
  std::vector<Technique> chosen;
  for (const Technique& t : all_techniques()) {
    const bool here = !t.missing || t.missing(model, flags).empty(), usual = &t - all_techniques().data() < usual_techniques;
    if (names.empty() ? usual && here : named(names, t.name)) chosen.push_back(t);
  }
  return chosen;
}

const std::vector<Figure>& all_figures() {
  static const std::vector<Figure> all = {
      {"generated_tps", "throughput", "drawn tokens/s", 1, 1},
      {"total_tps", "throughput", "with prompts, tokens/s", 1, 1},
      {"found_share", "throughput", "of prompts found %", 100, 0},
      {"tokens_per_step", "throughput", "drawn a step", 1, 2},
      {"guesses_right", "throughput", "guesses right %", 100, 0},
      {"first_p50", "latency", "first token p50 ms", 1e3, 2},
      {"first_p90", "latency", "p90 ms", 1e3, 2},
      {"first_p99", "latency", "p99 ms", 1e3, 2},
      {"between_p50", "latency", "between tokens p50 ms", 1e3, 2},
      {"between_p90", "latency", "p90 ms", 1e3, 2},
      {"between_p99", "latency", "p99 ms", 1e3, 2},
      {"held_bytes", "memory", "cache of running texts MB", 1e-6, 3},
      {"kept_bytes", "memory", "with what is remembered MB", 1e-6, 3},
      {"process_bytes", "memory", "process at most MB", 1e-6, 1},
      {"equal_tokens", "quality", "tokens as all off %", 100, 2},
      {"equal_answers", "quality", "answers as all off %", 100, 1},
      {"perplexity", "quality", "perplexity", 1, 4},
  };
  return all;
}

std::vector<std::string> metric_groups() {
  std::vector<std::string> groups;
  for (const Figure& figure : all_figures())
    if (groups.empty() || groups.back() != figure.group) groups.push_back(figure.group);
  return groups;
}

Spread Spread::of(const std::vector<double>& values) {
  if (values.empty()) return {};
  const double n = double(values.size()), mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  double squares = 0;
  for (double x : values) squares += (x - mean) * (x - mean);
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  return {mean, n > 1 ? std::sqrt(squares / (n - 1)) : 0, *least, *most};
}

bool Study::kept_its_word() const {
  return std::all_of(configurations.begin(), configurations.end(), [](const Configuration& c) { return c.equal || !c.must_equal; });
}

namespace {

class Ablation {
 public:
  Ablation(const OpenModel& model, const AblateFlags& flags, const std::vector<Technique>& techniques, const Workload& work)
      : model_(model), flags_(flags), work_(work) {
    for (const Technique& t : techniques) {
      const std::string why = t.missing ? t.missing(model, flags) : "";
      if (why.empty()) study_.techniques.push_back(t);
      else study_.left_out.emplace_back(t.name, why);
    }
    if (study_.techniques.empty())
      fail(study_.left_out.empty() ? "there is no technique to switch"
                                   : join("nothing is left to study: ", study_.left_out[0].first, ": ", study_.left_out[0].second));
    base_ = base_setting(model, flags, study_.techniques);
    const EngineOptions off = setting(std::vector<bool>(size())).engine;
    fixed_order_ = !has_latents(model) || off.expand_latents || off.deterministic;
    name_configurations();
  }

  Study run(const AblateProgress& progress, const std::atomic<bool>& interrupt) {
    const int all = 1 + flags_.repeats * int(measured_.size());
    int done = 0;
    const auto one = [&](size_t i) {
      check(!interrupt, "interrupted; nothing has been written");
      progress(done++, all, name_of(i));
      return run_once(model_, work_, setting(measured_[i].on));
    };
    const size_t off = measured_.size() - 1;
    one(off);   // warms the machine up
    std::mt19937_64 random(order_seed);
    std::vector<size_t> order(measured_.size());
    std::iota(order.begin(), order.end(), 0);
    for (int r = 0; r < flags_.repeats; ++r) {
      std::shuffle(order.begin(), order.end(), random);
      for (size_t i : order) measured_[i].runs.push_back(one(i));
    }
    if (wanted("quality"))
      for (Measured& m : measured_) m.perplexity = perplexity(model_, work_, setting(m.on));
    progress(all, all, "");
    for (size_t c = 0; c < study_.configurations.size(); ++c) fill(study_.configurations[c], measured_[which_[c]]);
    return std::move(study_);
  }

 private:
  size_t size() const { return study_.techniques.size(); }

  Setting setting(const std::vector<bool>& on) const {
    Setting s = base_;
    for (size_t t = 0; t < size(); ++t) study_.techniques[t].set(s, on[t]);
    return s;
  }

  // The last of measured_ is all off.
  void name_configurations() {
    std::vector<std::pair<std::string, std::vector<bool>>> all = {{"all on", std::vector<bool>(size(), true)}};
    for (bool alone : {false, true})
      for (size_t t = 0; t < size(); ++t) {
        std::vector<bool> on(size(), !alone);
        on[t] = alone;
        all.emplace_back(alone ? study_.techniques[t].name + " alone" : "without " + study_.techniques[t].name, on);
      }
    all.emplace_back("all off", std::vector<bool>(size(), false));
    for (const auto& [name, on] : all) {
      const auto same = [&](const Measured& m) { return m.on == on; };
      const auto at = std::find_if(measured_.begin(), measured_.end(), same);
      which_.push_back(size_t(at - measured_.begin()));
      if (at == measured_.end()) measured_.push_back({on, {}, NAN});
      Configuration c{.name = name, .on = {}, .figures = {}};
      c.must_equal = fixed_order_;
      for (size_t t = 0; t < size(); ++t) {
        if (!on[t]) continue;
        c.on.push_back(study_.techniques[t].name);
        c.must_equal = c.must_equal && study_.techniques[t].effect == Technique::Effect::exact;
      }
      study_.configurations.push_back(std::move(c));
    }
    const size_t off = which_.back();   // of one technique alone, "without" it is all off
    std::swap(measured_[off], measured_.back());
    for (size_t& w : which_) w = w == off ? measured_.size() - 1 : w == measured_.size() - 1 ? off : w;
  }

  std::string name_of(size_t measured) const {
    return study_.configurations[size_t(std::find(which_.begin(), which_.end(), measured) - which_.begin())].name;
  }

  bool wanted(const std::string& group) const { return flags_.metrics.empty() || named(flags_.metrics, group); }

  void fill(Configuration& c, const Measured& m) const {
    const StudyRun& expected = measured_.back().runs.front();
    c.equal = std::all_of(m.runs.begin(), m.runs.end(), [&](const StudyRun& r) { return r.answers == expected.answers; });
    for (const Figure& figure : all_figures()) {
      const std::string key = figure.key;
      if (!wanted(figure.group)) continue;
      std::vector<double> values;
      if (key == "perplexity") values.push_back(m.perplexity);
      else
        for (const StudyRun& r : m.runs) values.push_back(value_of(key, r, expected));
      std::erase_if(values, [](double x) { return std::isnan(x); });
      if (!values.empty()) c.figures[key] = Spread::of(values);
    }
  }

  const OpenModel& model_;
  const AblateFlags& flags_;
  const Workload& work_;
  Setting base_;
  bool fixed_order_ = true;              // of work, of all off: what only hangs on the order is the same for all exact techniques
  std::vector<Measured> measured_;
  std::vector<size_t> which_;            // of measured_, for each configuration
  Study study_;
};

}  // namespace

Study ablate(const OpenModel& model, const AblateFlags& flags, const std::vector<Technique>& techniques, const Workload& work,
             const AblateProgress& progress, const std::atomic<bool>& interrupt) {
  Study study = Ablation(model, flags, techniques, work).run(progress, interrupt);
  study.model = model.weights.path();
  study.device = model.device->name();
  study.repeats = flags.repeats;
  study.running = flags.running;
  for (const BatchLine& line : work.lines) study.requests += int(line.choices.size());
  return study;
}

}  // namespace folio
