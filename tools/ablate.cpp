// SPDX-License-Identifier: MIT
// ablate: what each of the engine's techniques brings, measured on the same requests with it and without it (tools/lib/ablate.h).
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <memory>

#include "base/file.h"
#include "tools/lib/ablate_data.h"
#include "tools/lib/ablate_report.h"
#include "tools/lib/main.h"

namespace folio {
namespace {

std::atomic<bool> interrupt_asked{false};
extern "C" void on_interrupt(int) { interrupt_asked = true; }

// A line that is written over and over, at a terminal.
class Progress {
 public:
  explicit Progress(bool quiet) : shown_(!quiet && isatty(STDERR_FILENO)) {}
  ~Progress() {
    if (shown_) std::fprintf(stderr, "\r\x1b[K");
  }
  void operator()(int done, int of, const std::string& next) {
    if (!shown_) return;
    const double spent = seconds_now() - start_;
    const int filled = 24 * done / of;
    const int64_t left = done > 0 ? int64_t(spent / done * (of - done)) : 0;
    std::fprintf(stderr, "\r[%.*s%.*s] %d/%d  ETA %lld:%02lld  %s\x1b[K", filled, "########################", 24 - filled,
                 "                        ", done, of, (long long)(left / 60), (long long)(left % 60), next.c_str());
  }

 private:
  const bool shown_;
  const double start_ = seconds_now();
};

int run(AblateFlags& flags) {
  const auto groups = metric_groups();
  for (const std::string& metric : flags.metrics)
    if (std::find(groups.begin(), groups.end(), metric) == groups.end()) {
      std::string known;
      for (const std::string& group : groups) known += (known.empty() ? "" : ", ") + group;
      fail("--metrics: there is no '", metric, "'; there are ", known);
    }
  std::vector<std::unique_ptr<FileWriter>> files;   // now, so that a study is not lost to a name that cannot be written
  for (const std::string& path : flags.outputs) {
    check_report_name(path);
    files.push_back(std::make_unique<FileWriter>(writable(path)));
  }
  const OpenModel model(flags.model);
  const auto techniques = choose_techniques(flags.techniques, model, flags);
  Study words;
  Workload work = ablate_workload(model, flags, words);
  const Drafting drafting(flags.draft, flags.model, model, flags.running);
  work.drafting = &drafting;
  std::signal(SIGINT, on_interrupt);
  Study study;
  {
    Progress progress(flags.quiet);
    study = ablate(model, flags, techniques, work, std::ref(progress), interrupt_asked);
  }
  study.data = words.data;
  study.text = words.text;
  for (size_t i = 0; i < files.size(); ++i) {
    files[i]->write(ablate_report(study, flags.outputs[i]));
    files[i]->commit();
  }
  if (files.empty()) std::printf("%s", ablate_report(study, "-.md").c_str());
  if (!flags.quiet)
    for (const auto& [name, why] : study.left_out) std::fprintf(stderr, "left out: %s: %s\n", name.c_str(), why.c_str());
  if (study.kept_its_word()) return 0;
  for (const Configuration& c : study.configurations)
    if (c.must_equal && !c.equal)
      std::fprintf(stderr, "error: '%s' drew other tokens than 'all off', though none of its techniques may\n", c.name.c_str());
  return 1;
}

// "radix   what texts leave behind ... Off: every prompt is read whole"
std::string technique_lines() {
  std::vector<std::vector<std::string>> rows;
  for (const Technique& t : all_techniques()) rows.push_back({t.name, t.on + ". Off: " + t.off});
  return table(rows, {}, "  ");
}

}  // namespace
}  // namespace folio

int main(int argc, char** argv) {
  using namespace folio;
  CLI::App app{
      "Measures what each technique brings to the same requests: all on, all but each, each alone, all off; repeats in shuffled order.\n"
      "Tokens are held against those of all off, which techniques that do not change texts must draw to the last one (else exit code 1).",
      "ablate"};
  AblateFlags flags;
  flags.model.sequences = 1;
  add_model_flags(app, flags.model);
  const auto list = [&](const char* name, std::vector<std::string>& to, const char* what) {
    app.add_option(name, to, what)->delimiter(',')->allow_extra_args(false)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  };
  app.add_option("--draft,--model-draft", flags.draft.model, "A smaller model of the same vocabulary, for 'speculative'");
  app.add_option("--data", flags.data,
                 "Requests, a JSON object a line as for generate --batch; - is standard input. Without it 14 requests that are built in");
  app.add_option("--text", flags.text, "A text whose perplexity is taken; without it that of the prompts");
  list("--techniques", flags.techniques,
       "What is switched, with commas between (below); without it those of the first seven that apply. All else is "
       "as generate --batch has it");
  list("--metrics", flags.metrics, "What is measured: throughput, latency, memory, quality; without it all of them");
  app.add_option("-r,--repeats", flags.repeats, "Runs of each configuration")->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--max-batch", flags.running, "Texts at once, and clients that ask")->check(CLI::Range(1, 4096))->capture_default_str();
  app.add_option("-n,--predict", flags.defaults.limit, "Tokens of an answer whose request does not say")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 30))
      ->capture_default_str();
  app.add_option("--temp", flags.defaults.sampling.temperature, "Temperature of requests that do not say")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  app.add_option("-s,--seed", flags.defaults.sampling.seed, "Seed of requests that do not say")->capture_default_str();
  app.add_option("--kv-bytes", flags.model.kv_bytes,
                 "Memory for what texts remember, e.g. 64MB; 0: what --max-batch texts of -c tokens want")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  list("-o,--output", flags.outputs,
       "Where the report goes: .md, .json, .csv or .svg (bars). May be repeated; without it Markdown on standard output");
  app.add_flag("-q,--quiet", flags.quiet, "Nothing on standard error but errors");
  app.footer("Techniques:\n" + technique_lines() +
             "Examples:\n  ablate -m models/weights/folio-text-4m.folio\n"
             "  ablate -m llama.folio --data prompts.jsonl --techniques radix,batching,ngram -r 5 -o out.md,out.json,out.svg\n"
             "  ablate -m big.folio --draft small.folio --techniques speculative,ngram --metrics throughput,quality\n"
             "  ablate -m deepseek.folio --techniques mla,kvquant,deterministic --text book.txt -o out.csv\n"
             "A line of --data: {\"prompt\": \"Once upon a time\", \"max_tokens\": 32}");
  return run_tool(argc, argv, app, [&] { return run(flags); });
}
