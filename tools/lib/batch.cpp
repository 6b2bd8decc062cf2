// SPDX-License-Identifier: MIT
#include "tools/lib/batch.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <deque>
#include <filesystem>
#include <map>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "text/stream.h"
#include "tools/lib/main.h"

namespace folio {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr size_t sorted_together = 256;   // requests

// The answers' file: lines in order, each there as a whole or not at all after a restart.
class Answers {
 public:
  Answers(const std::string& path, uint64_t batch, bool own_seed, uint64_t& seed) : path_(path), progress_(path + ".progress") {
    if (path == "-") return;
    const bool begun = fs::exists(path) && fs::file_size(path) > 0;
    if (fs::exists(progress_)) {
      take_up(batch, own_seed, seed);
    } else {
      check(!begun, path, ": exists, and is no batch that was interrupted; remove it or name another file");
    }
    file_ = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    check(file_ >= 0, path, ": cannot write: ", std::strerror(errno));
    FileWriter note(progress_);
    note.write(json({{"batch", hex64(batch)}, {"seed", seed}}).dump() + "\n");
    note.commit();
  }
  ~Answers() {
    if (path_ != "-" && file_ >= 0) close(file_);
  }
  Answers(const Answers&) = delete;
  Answers& operator=(const Answers&) = delete;

  int64_t already = 0;                    // lines that are there
  std::vector<int64_t> failed;            // of them, those that are errors

  void add(std::string line) {
    line += '\n';
    for (std::string_view rest = line; !rest.empty();) {
      const ssize_t n = write(file_, rest.data(), rest.size());
      if (n < 0 && errno == EINTR) continue;
      check(n >= 0, path_, ": cannot write: ", std::strerror(errno));
      rest.remove_prefix(size_t(n));
    }
  }
  void done() const {
    if (path_ != "-") fs::remove(progress_);
  }

 private:
  void take_up(uint64_t batch, bool own_seed, uint64_t& seed) {
    const json note = json::parse(read_file(progress_), nullptr, false);
    const bool ours = note.is_object() && note.value("batch", json()) == hex64(batch) && note.value("seed", json()).is_number_unsigned();
    check(ours && (!own_seed || note["seed"] == seed), path_, ": was begun with other requests, another model or other flags; remove it and ",
          progress_, ", or name another file");
    seed = note["seed"].get<uint64_t>();
    const std::string text = fs::exists(path_) ? read_file(path_) : "";
    size_t good = 0;
    for (size_t end; (end = text.find('\n', good)) != std::string::npos; good = end + 1) {
      const json line = json::parse(text.begin() + ptrdiff_t(good), text.begin() + ptrdiff_t(end), nullptr, false);
      check(line.is_object() && line.value("index", json()) == already, path_, ": line ", already + 1, " is not the answer to that request");
      if (line.contains("error") && !line["error"].is_null()) failed.push_back(already);
      ++already;
    }
    if (good < text.size()) fs::resize_file(path_, good);   // the run was stopped within a line
  }

  const std::string path_, progress_;
  int file_ = STDOUT_FILENO;
};

class Batch {
 public:
  Batch(OpenModel& model, const BatchFlags& flags, const SchedulerOptions& scheduling, const BatchDefaults& defaults, Answers& answers,
        bool quiet)
      : model_(model), flags_(flags), reader_(model, defaults), answers_(answers), quiet_(quiet),
        scheduler_(*model.engine, scheduling, [this](int64_t id, Reply reply) { answered(id, std::move(reply)); }) {}

  int run(const std::string& requests, const std::atomic<bool>& interrupt) {
    split(requests);
    check(answers_.already <= int64_t(lines_.size()), flags_.out, ": has more answers than there are requests");
    written_ = next_ = answers_.already;
    for (int64_t i : answers_.failed) failed_.push_back(lines_[size_t(i)].first);
    started_ = seconds_now();
    while (!interrupt) {
      while (scheduler_.waiting() < 2 * flags_.texts && feed()) {
      }
      if (!scheduler_.step() && ready_.empty() && next_ == int64_t(lines_.size())) break;
      progress(false);
    }
    progress(true);
    if (written_ == int64_t(lines_.size())) answers_.done();
    return report();
  }

 private:
  // One request: its choices, and how many of them are not there yet.
  struct Open {
    BatchLine line;
    std::vector<Reply> replies;
    std::vector<std::unique_ptr<TextStream>> streams;
    size_t left = 0;
  };

  void split(const std::string& requests) {
    int64_t number = 0;
    for (size_t at = 0; at < requests.size();) {
      const size_t end = std::min(requests.find('\n', at), requests.size());
      const std::string_view line(requests.data() + at, end - at);
      ++number;
      if (line.find_first_not_of(" \t\r") != std::string_view::npos) lines_.emplace_back(number, line);
      at = end + 1;
    }
  }

  // Hands the scheduler one more request; false if there is none.
  bool feed() {
    if (ready_.empty()) {
      const int64_t end = std::min<int64_t>(next_ + int64_t(sorted_together), int64_t(lines_.size()));
      for (; next_ < end; ++next_) ready_.push_back(reader_.read(next_, lines_[size_t(next_)].first, lines_[size_t(next_)].second));
      std::stable_sort(ready_.begin(), ready_.end(), [](const BatchLine& a, const BatchLine& b) { return a.prompt < b.prompt; });
    }
    if (ready_.empty()) return false;
    auto open = std::make_unique<Open>();
    open->line = std::move(ready_.front());
    ready_.pop_front();
    Open& one = *open;
    const int64_t index = one.line.index;
    open_.emplace(index, std::move(open));
    if (!one.line.error.empty()) {
      close(index);
      return true;
    }
    const size_t n = one.left = one.line.choices.size();
    one.replies.resize(n);
    for (size_t i = 0; i < n; ++i) ask(one, i);   // `one` may be gone after the last, if it failed at once
    return true;
  }

  void ask(Open& one, size_t i) {
    const BatchLine& line = one.line;
    Request request{.prompt = line.prompt, .sampling = line.choices[i], .options = {}, .scope = ""};
    request.options.limit = line.limit;
    request.options.ends = line.ends;
    request.options.stops = line.stops;
    if (model_.tokenizer) {
      bool begins = true;   // as for a single prompt: tools/generate.cpp
      for (Token id : line.prompt) begins = begins && model_.tokenizer->type_of(id) == TokenType::control;
      TextStream* stream = one.streams.emplace_back(std::make_unique<TextStream>(*model_.tokenizer, StreamOptions{.starts_text = begins})).get();
      request.options.decode = [stream](Token id) { return stream->push(id); };
      request.options.rest = [stream] { return stream->finish(); };
    }
    asked_[asked_next_++] = {line.index, i};   // the number that add() gives
    scheduler_.add(std::move(request));
  }

  void answered(int64_t id, Reply reply) {
    const auto [index, choice] = asked_.at(id);
    asked_.erase(id);
    Open& one = *open_.at(index);
    one.replies[choice] = std::move(reply);
    if (--one.left == 0) close(index);
  }

  void close(int64_t index) {
    const Open& one = *open_.at(index);
    const bool wrong = !one.line.error.empty() || std::any_of(one.replies.begin(), one.replies.end(), [](const Reply& r) { return !r.error.empty(); });
    if (wrong) failed_.push_back(one.line.number);
    finished_[index] = batch_answer(one.line, one.replies);
    open_.erase(index);
    ++closed_;
    for (auto it = finished_.begin(); it != finished_.end() && it->first == written_; it = finished_.erase(it), ++written_)
      answers_.add(std::move(it->second));
  }

  void progress(bool over) {
    if (quiet_ || !isatty(STDERR_FILENO)) return;
    const double now = seconds_now(), spent = now - started_;
    if (over) {
      std::fprintf(stderr, "\r\x1b[K");
      return;
    }
    if (now - shown_ < 0.1) return;
    shown_ = now;
    const int64_t done = answers_.already + closed_, all = int64_t(lines_.size());
    const SchedulerStats& s = scheduler_.stats();
    const double share = all > 0 ? double(done) / double(all) : 1;
    const int filled = int(share * 24);
    const int64_t left = closed_ > 0 ? int64_t(spent / double(closed_) * double(all - done)) : 0;
    std::fprintf(stderr, "\r[%.*s%.*s] %lld/%lld  %.1f tokens/s  cached %.0f%%  running %lld  ETA %lld:%02lld \x1b[K", filled,
                 "########################", 24 - filled, "                        ", (long long)done, (long long)all,
                 double(s.drawn_tokens) / std::max(spent, 1e-9), hit_rate() * 100, (long long)scheduler_.running(), (long long)(left / 60),
                 (long long)(left % 60));
  }

  double hit_rate() const {
    const SchedulerStats& s = scheduler_.stats();
    return s.cached_tokens + s.prompt_tokens > 0 ? double(s.cached_tokens) / double(s.cached_tokens + s.prompt_tokens) : 0;
  }

  int report() {
    const SchedulerStats& s = scheduler_.stats();
    const double spent = seconds_now() - started_;
    if (!quiet_) {
      if (answers_.already > 0) std::fprintf(stderr, "%lld answers were there already\n", (long long)answers_.already);
      std::fprintf(stderr, "%lld requests in %.1f s · read %s tokens, found %s (%.0f%%) · drew %s, %.1f tokens/s · %lld steps, at most %d at once, %lld preemptions\n",
                   (long long)closed_, spent, with_commas(s.prompt_tokens).c_str(), with_commas(s.cached_tokens).c_str(), hit_rate() * 100,
                   with_commas(s.drawn_tokens).c_str(), double(s.drawn_tokens) / std::max(spent, 1e-9), (long long)s.steps, s.most_running,
                   (long long)s.preemptions);
      if (const std::string drafts = draft_line(s.drafts); !drafts.empty()) std::fprintf(stderr, "%s\n", drafts.c_str());
    }
    if (flags_.page_stats) page_stats();
    if (written_ < int64_t(lines_.size())) {
      std::fprintf(stderr, "[interrupted: %lld of %zu answers are written; the same command goes on]\n", (long long)written_, lines_.size());
      return 128 + SIGINT;
    }
    if (failed_.empty()) return 0;
    std::sort(failed_.begin(), failed_.end());
    std::string numbers;
    for (size_t i = 0; i < failed_.size() && i < 20; ++i) numbers += (i ? ", " : "") + std::to_string(failed_[i]);
    std::fprintf(stderr, "error: %zu of %zu requests failed: line %s%s\n", failed_.size(), lines_.size(), numbers.c_str(),
                 failed_.size() > 20 ? " ..." : "");
    return 1;
  }

  void page_stats() const {
    const Cache& cache = model_.engine->cache();
    std::vector<std::vector<std::string>> rows = {{"kind of page", "pages", "free", "remembered", "of it may go"}};
    for (int k = 0; k < cache.memory().kinds; ++k)
      rows.push_back({std::to_string(k) + (cache.full_rows(k) ? " rows of all tokens" : " windows or states"), with_commas(cache.pages(k)),
                      with_commas(cache.free_pages(k)), with_commas(cache.remembered_pages(k)),
                      with_commas(cache.available_pages(k) - cache.free_pages(k))});
    std::fprintf(stderr, "%s%s in all, %s a token\n", table(rows, {1, 2, 3, 4}).c_str(), human_bytes(double(cache.bytes())).c_str(),
                 human_bytes(double(cache.bytes_per_token())).c_str());
    if (flags_.host_bytes > 0)
      std::fprintf(stderr, "%s in host memory, %s pages came back from there\n", human_bytes(double(cache.host_bytes())).c_str(),
                   with_commas(cache.brought_back()).c_str());
  }

  OpenModel& model_;
  const BatchFlags& flags_;
  const BatchReader reader_;
  Answers& answers_;
  const bool quiet_;
  std::vector<std::pair<int64_t, std::string_view>> lines_;   // number and text of each request
  std::deque<BatchLine> ready_;
  std::map<int64_t, std::unique_ptr<Open>> open_;             // by index
  std::map<int64_t, std::pair<int64_t, size_t>> asked_;       // by the scheduler's number: index and choice
  std::map<int64_t, std::string> finished_;                   // by index, waiting for those before
  std::vector<int64_t> failed_;                               // numbers of lines
  int64_t next_ = 0, written_ = 0, closed_ = 0, asked_next_ = 0;
  double started_ = 0, shown_ = 0;
  Scheduler scheduler_;
};

}  // namespace

void add_batch_flags(CLI::App& app, BatchFlags& flags) {
  const std::string group = "Many prompts";
  auto* batch = app.add_option("--batch", flags.in,
                               "A file of requests, one JSON object a line: {\"prompt\", \"max_tokens\", \"temperature\", \"top_p\", \"seed\", "
                               "\"stop\", \"n\"} or OpenAI's batch lines; - is standard input")->group(group);
  app.add_option("-o,--output", flags.out, "Where the answers go, a line each in the order of the requests; - is standard output. A run that was "
                                           "interrupted goes on where it stopped")->needs(batch)->group(group);
  app.add_option("--max-batch", flags.texts, "Texts at once")->check(CLI::Range(1, 4096))->capture_default_str()->needs(batch)->group(group);
  app.add_option("--kv-bytes", flags.kv_bytes, "Memory for what texts remember, e.g. 4GB; 0: what --max-batch texts of -c tokens want")
      ->transform(CLI::AsSizeValue(false))->capture_default_str()->needs(batch)->group(group);
  app.add_option("--cache-ram", flags.host_bytes, "Host memory for what is remembered and has no room there any more, e.g. 8GB; it comes back when a "
                                                  "text begins with it")
      ->transform(CLI::AsSizeValue(false))->capture_default_str()->needs(batch)->group(group);
  app.add_option("--prefix-cache", flags.remember, "Remember what texts have left behind, for others that begin alike")
      ->check(CLI::IsMember({"on", "off"}))->capture_default_str()->needs(batch)->group(group);
  app.add_option("--cache-policy", flags.policy, "What is forgotten first: lru, lfu, fifo or cost (the cheapest to compute again)")
      ->check(CLI::IsMember({"lru", "lfu", "fifo", "cost"}))->capture_default_str()->needs(batch)->group(group);
  app.add_option("--schedule", flags.schedule, "Who is next: fcfs (who came first) or lpm (whose longest beginning is remembered)")
      ->check(CLI::IsMember({"fcfs", "lpm"}))->capture_default_str()->needs(batch)->group(group);
  app.add_flag("--page-stats", flags.page_stats, "Say at the end where the pages are")->needs(batch)->group(group);
}

void prepare_batch(const BatchFlags& flags, ModelFlags& model) {
  check(!flags.out.empty(), "--batch wants -o OUT.jsonl");
  model.sequences = flags.texts;
  model.kv_bytes = flags.kv_bytes;
  model.remember = flags.remember == "on";
  check(model.remember || flags.host_bytes == 0, "--cache-ram wants --prefix-cache on");
  model.host_bytes = flags.host_bytes;
  model.policy = flags.policy;
}

int run_batch(OpenModel& model, const BatchFlags& flags, const DraftFlags& draft, const Drafting& drafting, const SamplingFlags& sampling,
              BatchDefaults defaults, bool quiet, const std::atomic<bool>& interrupt) {
  const std::string requests = read_file(flags.in);
  const SamplerOptions& s = defaults.sampling;
  std::string more;   // that changes texts
  for (const auto& [token, bias] : s.logit_bias) more += join(" ", token, "+", bias);
  for (const std::string& stop : defaults.stops) more += join(" ", stop.size(), ":", stop);
  if (draft.any() && draft.accept != "match")
    more += join(" ", draft.accept, " ", draft.model, " ", draft.ngram, draft.cache, draft.always, " ", draft.most, " ", draft.least);
  const std::string setting = join(hex64(model.weights.index_hash()), " ", s.temperature, " ", s.top_k, " ", s.top_p, " ", s.min_p, " ", s.typical, " ",
                                   s.repeat_penalty, " ", s.repeat_last_n, " ", s.presence_penalty, " ", s.frequency_penalty, " ",
                                   defaults.limit, " ", defaults.ignore_eos, " ", hex64(hash64(requests.data(), requests.size())), more);
  Answers answers(flags.out, hash64(setting.data(), setting.size()), sampling.seed != "-1", defaults.sampling.seed);
  SchedulerOptions scheduling{.step_tokens = model.engine->chunk(), .running = flags.texts, .order = order_of(flags.schedule),
                              .most_drafts = draft.most, .always_draft = draft.always, .accept = accept_of(draft.accept)};
  if (draft.any()) scheduling.drafter = [&](const Request& r) { return drafting.drafter(r.sampling, r.scope); };
  const int code = Batch(model, flags, scheduling, defaults, answers, quiet).run(requests, interrupt);
  model.save_cache();
  return code;
}

}  // namespace folio
