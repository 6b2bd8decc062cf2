// SPDX-License-Identifier: MIT
// generate: continues a text. The prompt comes from -p, -f, --tokens or standard input; with -i a person goes on turn by turn,
// with --chat in the form that the model was trained to answer. The text goes to standard output as it comes into being, all
// else to standard error. --batch takes many prompts from a file.
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "base/file.h"
#include "text/stream.h"
#include "tools/lib/batch.h"
#include "tools/lib/chat.h"
#include "tools/lib/interrupt.h"
#include "tools/lib/line_editor.h"
#include "tools/lib/main.h"
#include "tools/lib/report.h"
#include "tools/lib/sampling.h"
#include "tools/lib/tracing.h"

namespace folio {
namespace {

struct Flags {
  ModelFlags model;
  SamplingFlags sampling;
  TracingFlags tracing;
  BatchFlags batch;
  DraftFlags draft;
  std::string prompt, file, tokens, system;
  bool has_prompt = false, has_file = false, has_tokens = false;
  int64_t limit = -1;
  int logprobs = -1;
  std::vector<std::string> stops;
  bool ignore_eos = false, interactive = false, chat = false, json = false, no_echo = false, no_stats = false, quiet = false;
};

// Not through stdio: Ctrl-C in the middle of a write would leave it with an error and a piece of the text lost.
void show(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(STDOUT_FILENO, text.data(), text.size());
    const int why = errno;
    if (n < 0 && why == EINTR) continue;
    check(n >= 0, "cannot write to standard output: ", std::strerror(why));   // now, and not when all is done
    text.remove_prefix(size_t(n));
  }
}

// One run of the program: a model, a text that grows, and what the flags ask for around it.
class Session {
 public:
  explicit Session(const Flags& flags)
      : flags_(flags), model_(flags.model), sampling_(sampler_options(flags.sampling)), sampler_(sampling_, model_.vocab()),
        generator_(*model_.engine, sampler_), drafting_(flags.draft, flags.model, model_, 1), drafter_(drafting_.drafter(sampling_, "")) {
    if (flags.chat) {
      check(model_.tokenizer.has_value(), flags.model.path, ": --chat needs a tokenizer, and this model has none");
      chat_.emplace(model_.weights, *model_.tokenizer, flags.system);
    }
    set_options();
  }

  int run();

 private:
  void set_options();
  std::optional<std::vector<Token>> first_prompt();
  Generated answer(std::span<const Token> prompt);
  void echo(std::span<const Token> prompt);
  void close_line(const Generated& done);
  void say_how_it_ended(const Generated& done) const;
  void print_statistics() const;
  int converse(bool answered);
  bool turn(const std::string& line);

  const Flags& flags_;
  OpenModel model_;
  SamplerOptions sampling_;
  Sampler sampler_;
  Generator generator_;
  Drafting drafting_;
  std::unique_ptr<Drafter> drafter_;
  GenerateOptions options_;
  std::optional<Conversation> chat_;
  std::optional<TextStream> stream_;
  std::string given_;          // the prompt as it was given, if it was a text
  bool line_open_ = false;     // what was shown last was no newline
  Generated last_;
};

void Session::set_options() {
  options_.limit = flags_.limit;
  options_.logprobs = flags_.logprobs;
  options_.stops = flags_.stops;
  options_.interrupt = &interrupt_asked;
  options_.drafter = drafter_.get();
  options_.most_drafts = flags_.draft.most;
  options_.always_draft = flags_.draft.always;
  options_.accept = accept_of(flags_.draft.accept);
  if (model_.tokenizer) {
    if (!flags_.ignore_eos) options_.ends = model_.ends();
    options_.decode = [this](Token id) { return stream_->push(id); };
    options_.rest = [this] { return stream_->finish(); };
  } else {
    check(flags_.stops.empty(), flags_.model.path, ": --stop needs a tokenizer, and this model has none");
  }
  if (chat_ && !flags_.ignore_eos) {
    options_.ends.insert(options_.ends.end(), chat_->ends().begin(), chat_->ends().end());
    options_.stops.insert(options_.stops.end(), chat_->stops().begin(), chat_->stops().end());
  }
  if (flags_.json) return;
  options_.show = [this](const Drawn& drawn) {
    const bool is_text = model_.tokenizer || drawn.token < 0;
    const std::string text = is_text ? std::string(drawn.text) : (line_open_ ? " " : "") + std::to_string(drawn.token);
    if (text.empty()) return;
    show(text);
    line_open_ = text.back() != '\n';
  };
}

// The tokens of the prompt that the command line names; none if a person is to begin. Throws Error if it is empty.
std::optional<std::vector<Token>> Session::first_prompt() {
  std::vector<Token> ids;
  if (flags_.has_tokens) {
    ids = parse_tokens(flags_.tokens, model_.vocab());
    check(!ids.empty(), "the prompt is empty: --tokens names no ids");
    return ids;
  }
  const bool from_stdin = !flags_.has_prompt && !flags_.has_file && !flags_.interactive && !isatty(STDIN_FILENO);
  if (!flags_.has_prompt && !flags_.has_file && !from_stdin) {
    check(flags_.interactive, "no prompt: give one with -p TEXT, -f FILE, --tokens \"1 2 3\" or on standard input, or begin with -i");
    return std::nullopt;
  }
  given_ = flags_.has_prompt ? flags_.prompt : read_file(flags_.has_file ? flags_.file : "-");
  if (!flags_.has_prompt && given_.ends_with('\n')) given_.pop_back();   // editors and echo put it there
  if (given_.empty()) {
    const Token bos = model_.tokenizer ? model_.tokenizer->bos() : -1;
    fail("the prompt is empty", bos < 0 ? std::string() : join("; to begin with nothing but the token that begins a text: --tokens ", bos));
  }
  ids = chat_ ? chat_->ask(given_, {}).tokens : model_.encode(given_);
  check(!ids.empty(), "the prompt is empty: it comes to no token at all");
  return ids;
}

void Session::echo(std::span<const Token> prompt) {
  std::string text = given_;
  if (text.empty() && model_.tokenizer) text = model_.tokenizer->decode(prompt);
  if (!model_.tokenizer)
    for (Token id : prompt) text += (text.empty() ? "" : " ") + std::to_string(id);
  show(text);
  line_open_ = !text.empty() && text.back() != '\n';
}

Generated Session::answer(std::span<const Token> prompt) {
  interrupt_asked = false;
  if (model_.tokenizer) {
    // The space before the first word of a text is no part of it; a prompt of control tokens only is no beginning yet.
    bool begins = generator_.text().empty();
    for (Token id : prompt) begins = begins && model_.tokenizer->type_of(id) == TokenType::control;
    stream_.emplace(*model_.tokenizer, StreamOptions{.starts_text = begins});
  }
  Generated done = generator_.run(prompt, options_);
  if (chat_) chat_->answered(done.text);
  if (flags_.json) {
    using Json = nlohmann::ordered_json;
    const Json json = report(model_, done, prompt, sampling_.seed);
    show(json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
  }
  return done;
}

void Session::close_line(const Generated& done) {
  if (flags_.json) return;
  show("\n");
  line_open_ = false;
  say_how_it_ended(done);
}

void Session::say_how_it_ended(const Generated& done) const {
  if (flags_.quiet) return;
  if (done.finish == Finish::context)
    std::fprintf(stderr, "[the context of %lld tokens is full; a longer one: -c]\n", static_cast<long long>(model_.engine->context()));
  if (done.finish == Finish::interrupted) std::fprintf(stderr, "[interrupted]\n");
}

void Session::print_statistics() const {
  if (flags_.no_stats || flags_.quiet || flags_.json) return;
  std::fprintf(stderr, "%s\n", statistics_line(model_, last_, sampling_.seed).c_str());
  if (const std::string drafts = draft_line(last_.drafts); !drafts.empty()) std::fprintf(stderr, "%s\n", drafts.c_str());
}

// One turn of a conversation; false if the line made no sense, which has been said then.
bool Session::turn(const std::string& line) {
  try {
    if (chat_) {
      const Conversation::Turn turn = chat_->ask(line, generator_.text());
      if (turn.anew) generator_.clear();
      last_ = answer(turn.tokens);
    } else {
      std::vector<Token> ids = generator_.text().empty() ? model_.encode(line) : model_.tokenizer->encode(line, false, true, true);
      last_ = answer(ids);
    }
  } catch (const Error& error) {
    if (chat_) chat_->take_back();
    std::fprintf(stderr, "error: %s\n", error.what());
    return false;
  }
  close_line(last_);
  return true;
}

// Reads lines and answers them until the person leaves: Ctrl-D, or Ctrl-C when there is nothing to stop.
int Session::converse(bool answered) {
  check(model_.tokenizer.has_value(), flags_.model.path, ": -i needs a tokenizer, and this model has none");
  LineEditor editor;
  bool warned = answered && last_.finish == Finish::interrupted;
  for (std::string line;;) {
    const auto outcome = editor.read("> ", line);
    if (outcome == LineEditor::end || (outcome == LineEditor::interrupted && warned)) break;
    if (outcome == LineEditor::interrupted) {
      std::fprintf(stderr, "[Ctrl-C again or Ctrl-D to leave]\n");
      warned = true;
      continue;
    }
    if (line.empty()) continue;
    answered = turn(line) || answered;
    warned = last_.finish == Finish::interrupted;
  }
  if (answered) print_statistics();
  return 0;
}

int Session::run() {
  if (!flags_.quiet) model_.warn();
  const auto prompt = first_prompt();
  if (flags_.tracing.any()) {
    check(prompt.has_value(), "no prompt: --eager, --against and --print-graph look at the step that reads one");
    return trace_first_step(model_, *prompt, flags_.tracing);
  }
  catch_interrupts();
  if (prompt) {
    check(int64_t(prompt->size()) <= model_.engine->context(), "the prompt has ", prompt->size(), " tokens and the context holds ",
          model_.engine->context(), "; a longer one: -c ", prompt->size() + (flags_.limit > 0 ? size_t(flags_.limit) : 256));
    if (!flags_.json && !flags_.no_echo && !chat_) echo(*prompt);
    last_ = answer(*prompt);
    close_line(last_);
  }
  if (flags_.interactive) {
    const int code = converse(prompt.has_value());
    model_.save_cache();
    return code;
  }
  model_.save_cache();
  print_statistics();
  return last_.finish == Finish::interrupted ? 128 + SIGINT : 0;
}

void add_flags(CLI::App& app, Flags& flags) {
  const std::string prompt = "The prompt (otherwise standard input, unless it is a terminal)", output = "What is written";
  add_model_flags(app, flags.model);
  app.add_option("--cache-file", flags.model.cache_file,
                 "Keep what texts have left behind in this file, for later runs with the same model; one that does not fit is left alone");
  auto* p = app.add_option("-p,--prompt", flags.prompt, "The text to continue; with --chat the first message")->group(prompt);
  auto* f =
      app.add_option("-f,--file", flags.file, "A file with that text, without the newline at its end; - is standard input")->group(prompt);
  auto* t = app.add_option("--tokens", flags.tokens, "Token ids in place of a text: \"1 2 3\"")->group(prompt);
  p->excludes(f)->excludes(t);
  f->excludes(t);
  app.add_flag("-i,--interactive", flags.interactive,
               "Go on by turns: each line is appended to the text as it is. Ctrl-C stops an answer, Ctrl-D leaves")->group(prompt);
  auto* c = app.add_flag("--chat", flags.chat, "Put messages into the form that the model was trained to answer")->group(prompt);
  app.add_option("--system", flags.system, "With --chat: what the model is told before the first message")->needs(c)->group(prompt);
  c->excludes(t);
  const std::string stop = "When to stop";
  app.add_option("-n,--predict,--n-predict", flags.limit, "After this many new tokens; -1: at the end token or when the context is full")
      ->check(CLI::Range(int64_t(-1), int64_t(1) << 40))->capture_default_str()->group(stop);
  app.add_option("--stop", flags.stops, "Where the answer comes to this string, which is not shown. May be repeated")
      ->allow_extra_args(false)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)->group(stop);
  app.add_flag("--ignore-eos", flags.ignore_eos, "Not at an end token (nor at the token that begins another text)")->group(stop);
  app.add_flag("--json", flags.json,
               "No text: one JSON object on one line for each answer. Its tokens are all that were drawn, the end token too; its text has "
               "neither that nor the stop string")->group(output);
  app.add_option("--logprobs", flags.logprobs,
                 "With --json: log-probabilities, before all processing, of each token and of so many likeliest")
      ->check(CLI::Range(0, 1000))
      ->group(output);
  app.add_flag("--no-echo", flags.no_echo, "Only what is new: the prompt is not repeated before it (a chat never does)")->group(output);
  app.add_flag("--no-stats", flags.no_stats, "No line about speed at the end")->group(output);
  app.add_flag("-q,--quiet", flags.quiet, "Nothing on standard error but errors")->group(output);
  add_sampling_flags(app, flags.sampling);
  add_tracing_flags(app, flags.tracing);
  add_batch_flags(app, flags.batch);
  add_draft_flags(app, flags.draft);
  for (const char* single : {"--prompt", "--file", "--tokens", "--interactive", "--chat", "--json", "--logprobs"})
    app.get_option("--batch")->excludes(app.get_option(single));
}

int run_requests(Flags& flags) {
  prepare_batch(flags.batch, flags.model);
  OpenModel model(flags.model);
  if (!flags.quiet) model.warn();
  catch_interrupts();
  const Drafting drafting(flags.draft, flags.model, model, flags.batch.texts);
  return run_batch(model, flags.batch, flags.draft, drafting, flags.sampling, {sampler_options(flags.sampling), flags.limit, flags.stops, flags.ignore_eos}, flags.quiet,
                   interrupt_asked);
}

}  // namespace
}  // namespace folio

int main(int argc, char** argv) {
  using namespace folio;
  CLI::App app{"Continues a text with a model.", "generate"};
  Flags flags;
  add_flags(app, flags);
  return run_tool(argc, argv, app, [&] {
    flags.has_prompt = app.count("--prompt") > 0;
    flags.has_file = app.count("--file") > 0;
    flags.has_tokens = app.count("--tokens") > 0;
    return flags.batch.in.empty() ? Session(flags).run() : run_requests(flags);
  });
}
