// SPDX-License-Identifier: MIT
#include "tools/lib/ablate_run.h"

#include <cmath>
#include <map>

#include "base/error.h"
#include "text/stream.h"
#include "tools/lib/machine.h"

namespace folio {

namespace {

constexpr int64_t rows_at_once = 64;   // whose logits are wanted, when a text is scored

// The device and the engine of a setting; the instruction set stays chosen as long as they live.
class Machine {
 public:
  Machine(const OpenModel& model, const std::string& name, const Setting& setting, int sequences) {
    check(cpu_instructions(setting.simd), "there is no instruction set '", setting.simd, "' here");
    device_ = open_device(name, setting.threads > 0 ? setting.threads : model.threads);
    EngineOptions options = setting.engine;
    options.sequences = sequences;
    engine.emplace(*model.model, *device_, options);
  }
  ~Machine() {
    engine.reset();
    cpu_instructions("");
  }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

 private:
  std::unique_ptr<Device> device_;

 public:
  std::optional<Engine> engine;
};

std::unique_ptr<Drafter> drafter_of(Engine& engine, const Setting& setting, const Drafting* small, const Request& request) {
  std::vector<std::unique_ptr<Drafter>> all;
  if (setting.cache_draft) all.push_back(std::make_unique<CacheDrafter>(engine.cache(), request.scope));
  if (setting.ngram) all.push_back(std::make_unique<NgramDrafter>());
  if (setting.draft_model) all.push_back(small->drafter(request.sampling, request.scope));
  return all.empty() ? nullptr : std::make_unique<Drafters>(std::move(all));
}

// The requests on their way.
class Server {
 public:
  Server(const OpenModel& model, const Workload& work, const Setting& setting)
      : model_(model), work_(work), machine_(model, work.device, setting, setting.running), engine_(*machine_.engine),
        scheduler_(engine_, options(setting), [this](int64_t id, Reply reply) { answered(size_t(id), std::move(reply)); }) {
    for (size_t line = 0; line < work.lines.size(); ++line)
      for (size_t choice = 0; choice < work.lines[line].choices.size(); ++choice) asked_.push_back({line, choice});
    out_.answers.resize(asked_.size());
    streams_.resize(asked_.size());
  }

  StudyRun run() {
    const bool reset = reset_peak_memory();
    const double start = seconds_now();
    size_t next = 0;
    do {
      while (next < asked_.size() && scheduler_.waiting() + scheduler_.running() < work_.clients) ask(next++);
      look();
    } while (scheduler_.step() || next < asked_.size());
    out_.seconds = seconds_now() - start;
    out_.process_bytes = reset ? double(peak_memory()) : 0;
    const SchedulerStats& s = scheduler_.stats();
    out_.found_tokens = s.cached_tokens;
    out_.drawn_tokens = s.drawn_tokens;
    out_.steps = s.steps;
    out_.drafts = s.drafts;
    return std::move(out_);
  }

 private:
  struct Asked { size_t line, choice; };

  SchedulerOptions options(const Setting& setting) {
    SchedulerOptions options{.step_tokens = engine_.chunk(), .running = setting.running, .order = setting.order};
    if (setting.draft_model || setting.ngram || setting.cache_draft)
      options.drafter = [this, setting](const Request& r) { return drafter_of(engine_, setting, work_.drafting, r); };
    return options;
  }

  // Requests are asked one after the other, so the scheduler's numbers are places in asked_.
  void ask(size_t i) {
    const BatchLine& line = work_.lines[asked_[i].line];
    Request request{.prompt = line.prompt, .sampling = line.choices[asked_[i].choice], .options = {}, .scope = ""};
    request.options.limit = line.limit;
    request.options.ends = line.ends;
    request.options.stops = line.stops;
    out_.prompt_tokens += int64_t(line.prompt.size());
    if (!line.stops.empty()) {
      TextStream* stream = (streams_[i] = std::make_unique<TextStream>(*model_.tokenizer, StreamOptions{})).get();
      request.options.decode = [stream](Token id) { return stream->push(id); };
      request.options.rest = [stream] { return stream->finish(); };
    }
    request.options.show = [this, last = seconds_now(), first = true](const Drawn& drawn) mutable {
      if (drawn.token < 0) return;
      const double now = seconds_now();
      (first ? out_.first : out_.between).push_back(now - last);
      last = now, first = false;
      look();
    };
    scheduler_.add(std::move(request));
  }

  void answered(size_t i, Reply reply) {
    check(reply.error.empty(), "the request of line ", work_.lines[asked_[i].line].number, ": ", reply.error);
    out_.answers[i] = std::move(reply.generated.tokens);
  }

  // How much of the cache is in use.
  void look() {
    const Cache& cache = engine_.cache();
    double held = 0, kept = 0;
    for (int k = 0; k < cache.memory().kinds; ++k) {
      held += double((cache.pages(k) - cache.available_pages(k)) * cache.page_bytes(k));
      kept += double((cache.pages(k) - cache.free_pages(k)) * cache.page_bytes(k));
    }
    out_.held_bytes = std::max(out_.held_bytes, held);
    out_.kept_bytes = std::max(out_.kept_bytes, kept);
  }

  const OpenModel& model_;
  const Workload& work_;
  Machine machine_;
  Engine& engine_;
  std::vector<Asked> asked_;
  std::vector<std::unique_ptr<TextStream>> streams_;
  StudyRun out_;
  Scheduler scheduler_;
};

}  // namespace

StudyRun run_once(const OpenModel& model, const Workload& work, const Setting& setting) { return Server(model, work, setting).run(); }

double perplexity(const OpenModel& model, const Workload& work, const Setting& setting) {
  Machine machine(model, work.device, setting, 1);
  Engine& engine = *machine.engine;
  Cache& cache = engine.cache();
  double nll = 0;
  int64_t scored = 0;
  for (const std::vector<Token>& whole : work.texts) {
    const std::span<const Token> text = std::span(whole).first(std::min(whole.size(), size_t(engine.context())));
    const size_t half = text.size() / 2;
    if (half == 0) continue;
    const std::span<const Token> known = text.first(half - 1);   // the row of the last of the half is scored
    for (bool again : {false, true}) {
      if (!again && (!setting.engine.remember || known.empty())) continue;
      Seq seq = cache.open(known);
      if (const auto rest = known.subspan(size_t(seq.length())); !rest.empty()) engine.read(seq, rest);
      while (again && seq.length() + 1 < int64_t(text.size())) {
        const int64_t at = seq.length(), n = std::min({rows_at_once, int64_t(engine.chunk()), int64_t(text.size()) - 1 - at});
        const auto part = text.subspan(size_t(at), size_t(n));
        check(cache.reserve(seq, int(n), int(n)), "no memory left in the cache for ", text.size(), " tokens");
        const Work step{&seq, part, int(n)};
        const Tensor logits = engine.step({&step, 1});
        for (int64_t i = 0; i < n; ++i)
          nll -= double(Logprobs({logits.row<float>(i), size_t(logits.cols())}).of(text[size_t(at + i + 1)]));
        scored += n;
        cache.commit(seq, part);
      }
      cache.close(seq);
    }
  }
  return scored > 0 ? std::exp(nll / double(scored)) : NAN;
}

}  // namespace folio
