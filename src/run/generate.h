// SPDX-License-Identifier: MIT
// The token loop: reads what is new of a text, then draws a token, shows it, and reads it in turn, until something says stop.
// It proposes n tokens and commits those that happened (house.md 4.6): a chunk of the prompt, or one token and guesses at those behind it
// (run/draft.h).
//
// Where a step's outputs have to be copied to the host, the token is drawn with the step (Engine::draw), unless somebody wants
// log-probabilities; the text is the same.
//
// This room knows no text: what a token looks like comes in as functions. Not here: what is asked for on a command line, and
// where the answer goes.
#pragma once
#include <atomic>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "run/draft.h"
#include "run/engine.h"
#include "run/sampler.h"

namespace folio {

// Finds the first of some strings in a text that comes in pieces. Of the text before it everything is let through, and of a
// piece whose end could be the beginning of a stop string nothing until that is decided.
class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> stops);   // empty ones are ignored
  // The text that may be shown now. After found() nothing more is.
  std::string feed(std::string_view piece);
  // What was held back, when no more pieces come.
  std::string rest();
  bool found() const { return found_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool found_ = false;
};

enum class Finish { end, stop, limit, context, interrupted };
const char* name(Finish finish);   // "stop" (end token or stop string), "length" (limit or context), "interrupted"

// One token as it was drawn.
struct Drawn {
  Token token;
  std::string_view text;                    // what can be shown now: may be empty, or belong to earlier tokens as well
  float logprob;                            // under softmax(logits), if asked for
  std::span<const TokenLogprob> likeliest;  // likewise
};

struct GenerateOptions {
  int64_t limit = -1;                       // tokens to draw; -1: until the end or until the context is full
  std::vector<Token> ends;                  // tokens that end the text
  std::vector<std::string> stops;           // strings that end it; they are not part of it
  int logprobs = -1;                        // log-probabilities of the drawn token and of so many likeliest; -1: none
  std::function<std::string(Token)> decode; // the text that a token adds, whole characters only; absent: no text at all
  std::function<std::string()> rest;        // what decode still holds when the text ends
  std::function<void(const Drawn&)> show;   // called for every token, the last held text comes with token -1
  const std::atomic<bool>* interrupt = nullptr;
  Drafter* drafter = nullptr;               // who guesses tokens; null: nobody
  int most_drafts = 16;                     // at once
  bool always_draft = false;                // whether it pays or not
  Accept accept = Accept::match;            // which guesses stand; the drafter must have been made for the same rule
};

struct Generated {
  std::vector<Token> tokens;                // all that were drawn, an end token included
  std::string text;                         // without end token and stop string
  std::vector<float> logprobs;              // one for each token, if asked for
  std::vector<std::vector<TokenLogprob>> likeliest;
  Finish finish = Finish::limit;
  int64_t prompt_tokens = 0, steps = 0;     // tokens read before the first draw; steps of one token after it
  double prompt_seconds = 0, decode_seconds = 0;
  int64_t first_length = 0;                 // of the sequence, when the first of those steps began
  uint64_t logits_hash = 0;                 // XXH3 of the last logits
  DraftStats drafts;
};

// What is done with the tokens of one answer as they are drawn, whoever draws them.
class Answer {
 public:
  explicit Answer(const GenerateOptions& options) : options_(options), stops_(options.stops) {}
  bool full() const { return options_.limit >= 0 && int64_t(out.tokens.size()) >= options_.limit; }
  // The next token; why the text ends with it, if it does. `logits` are those it was drawn from, for log-probabilities.
  std::optional<Finish> take(Token token, std::span<const float> logits);
  // No token follows: shows what was held back.
  void end(Finish finish);

  Generated out;

 private:
  void emit(Token token, const std::string& text);
  const GenerateOptions& options_;
  StopStrings stops_;
};

// A text that grows by turns: each run() appends its prompt, reads what has not been read, and draws an answer.
class Generator {
 public:
  Generator(Engine& engine, Sampler& sampler) : engine_(engine), sampler_(sampler) {}
  ~Generator();
  Generator(const Generator&) = delete;
  Generator& operator=(const Generator&) = delete;

  // Throws Error if the text would be empty or longer than the context; nothing has been read then.
  Generated run(std::span<const Token> prompt, const GenerateOptions& options);
  // All tokens so far, the last drawn one too, which no step has read yet.
  std::span<const Token> text() const { return text_; }
  // Forgets the text.
  void clear();

 private:
  bool read_prompt(const GenerateOptions& options, Generated& out);
  Finish draw_until_stopped(const GenerateOptions& options, Answer& answer);
  std::optional<Finish> draw_round(const GenerateOptions& options, Answer& answer);
  bool step(const GenerateOptions& options, std::span<const Token> tokens, std::span<const Token> drafts = {});
  std::span<const float> logits(size_t place = 0);   // behind the last token, or the place-th draft; empty if it has not been read

  Engine& engine_;
  Sampler& sampler_;
  Seq seq_;
  bool open_ = false;
  std::vector<Token> text_;
  bool scored_ = false;                     // the last step read the last token, so its logits are there
  std::span<const float> logits_;           // those that were looked at last, until the next step
  std::vector<Token> drawn_;                // what the device has drawn behind it and behind each draft
  StepCost cost_;
  Acceptance acceptance_;
};

}  // namespace folio
