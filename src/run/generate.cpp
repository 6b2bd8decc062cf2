// SPDX-License-Identifier: MIT
#include "run/generate.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "base/hash.h"

namespace folio {

StopStrings::StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase_if(stops_, [](const std::string& s) { return s.empty(); });
}

std::string StopStrings::feed(std::string_view piece) {
  if (found_) return {};
  held_ += piece;
  // The stop string that is complete first wins; of two that end together, the one that begins first.
  size_t end = std::string::npos, begin = 0;
  for (const std::string& stop : stops_) {
    const size_t at = held_.find(stop);
    if (at == std::string::npos) continue;
    const size_t after = at + stop.size();
    if (after < end || (after == end && at < begin)) end = after, begin = at;
  }
  found_ = end != std::string::npos;
  size_t keep = 0;   // the longest end of the text that begins some stop string
  if (!found_) {
    for (const std::string& stop : stops_)
      for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n)
        if (std::string_view(held_).ends_with(std::string_view(stop).substr(0, n))) keep = n;
    begin = held_.size() - keep;
  }
  std::string out = held_.substr(0, begin);
  held_.erase(0, begin);
  if (found_) held_.clear();
  return out;
}

std::string StopStrings::rest() { return std::exchange(held_, {}); }

const char* name(Finish finish) {
  switch (finish) {
    case Finish::end:
    case Finish::stop: return "stop";
    case Finish::limit:
    case Finish::context: return "length";
    case Finish::interrupted: break;
  }
  return "interrupted";
}

void Answer::emit(Token token, const std::string& text) {
  out.text += text;
  if (!options_.show || (token < 0 && text.empty())) return;
  Drawn drawn{token, text, 0, {}};
  if (token >= 0 && options_.logprobs >= 0) drawn.logprob = out.logprobs.back(), drawn.likeliest = out.likeliest.back();
  options_.show(drawn);
}

std::optional<Finish> Answer::take(Token token, std::span<const float> logits) {
  out.tokens.push_back(token);
  if (options_.logprobs >= 0) {
    const Logprobs logprobs(logits);
    out.logprobs.push_back(logprobs.of(token));
    logprobs.top(options_.logprobs, out.likeliest.emplace_back());
  }
  if (std::find(options_.ends.begin(), options_.ends.end(), token) != options_.ends.end()) {
    emit(token, {});
    return Finish::end;
  }
  emit(token, options_.decode ? stops_.feed(options_.decode(token)) : std::string());
  if (stops_.found()) return Finish::stop;
  return std::nullopt;
}

void Answer::end(Finish finish) {
  out.finish = finish;
  if (finish == Finish::stop) return;
  std::string last = options_.decode && options_.rest ? stops_.feed(options_.rest()) : std::string();
  if (!stops_.found()) last += stops_.rest();
  emit(-1, last);
}

static double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

static bool interrupted(const GenerateOptions& options) { return options.interrupt && options.interrupt->load(std::memory_order_relaxed); }

Generator::~Generator() { clear(); }

void Generator::clear() {
  if (open_) engine_.cache().close(seq_);
  open_ = false;
  text_.clear();
  logits_ = {};
  drawn_.reset();
  scored_ = false;
}

// Reads the next tokens of the text and commits them all; with the last of them the next token may be drawn at once. False if there is
// no room for them.
bool Generator::step(const GenerateOptions& options, std::span<const Token> tokens) {
  if (!engine_.cache().reserve(seq_, int(tokens.size()), int(tokens.size()))) return false;
  const bool last = seq_.length() + int64_t(tokens.size()) == int64_t(text_.size());
  const Work work{&seq_, tokens, last ? 1 : 0};
  logits_ = {};
  drawn_.reset();
  scored_ = last;
  if (last && options.logprobs < 0 && engine_.draws() && sampler_.draw_shape(engine_.context())) {
    const Draw draw{&sampler_, text_};
    drawn_ = engine_.draw({&work, 1}, {&draw, 1})[0];
  } else {
    engine_.step({&work, 1});
  }
  engine_.cache().commit(seq_, tokens);
  return true;
}

std::span<const float> Generator::logits() {
  if (logits_.empty() && scored_) {
    const Tensor t = engine_.logits();
    logits_ = {t.row<float>(0), size_t(t.cols())};
  }
  return logits_;
}

// Chunks end at multiples of the chunk size in the whole text, wherever this part of it begins: so a text is cut alike whether
// it came at once or in turns. False if it was interrupted.
bool Generator::read_prompt(const GenerateOptions& options, Generated& out) {
  const int64_t chunk = engine_.chunk(), end = int64_t(text_.size());
  while (seq_.length() < end) {
    if (interrupted(options)) return false;
    const int64_t from = seq_.length(), n = std::min(chunk - from % chunk, end - from);
    const bool fits = step(options, std::span(text_).subspan(size_t(from), size_t(n)));
    check(fits, "no memory left in the cache for ", end, " tokens");
    out.prompt_tokens += n;
  }
  return true;
}

Finish Generator::draw_until_stopped(const GenerateOptions& options, Answer& answer) {
  for (;;) {
    if (answer.full()) return Finish::limit;
    if (interrupted(options)) return Finish::interrupted;
    if (int64_t(text_.size()) >= engine_.context()) return Finish::context;
    if (seq_.length() < int64_t(text_.size())) {
      if (!step(options, std::span(text_).last(1))) return Finish::context;
      ++answer.out.steps;
    }
    const Token token = drawn_ && *drawn_ >= 0 ? *drawn_ : sampler_.pick(logits(), text_);
    drawn_.reset();
    text_.push_back(token);
    if (const auto finish = answer.take(token, options.logprobs >= 0 ? logits() : std::span<const float>())) return *finish;
  }
}

Generated Generator::run(std::span<const Token> prompt, const GenerateOptions& options) {
  const int64_t length = int64_t(text_.size() + prompt.size());
  check(length > 0, "the prompt is empty: there is nothing to continue");
  check(length <= engine_.context(), "the text has ", length, " tokens with this prompt; the context holds ", engine_.context());
  text_.insert(text_.end(), prompt.begin(), prompt.end());
  if (!open_) seq_ = engine_.cache().open(std::span(text_).first(text_.size() - 1));   // the last one must be read for its logits
  open_ = true;

  Answer answer(options);
  Generated& out = answer.out;
  out.finish = Finish::interrupted;
  const double start = seconds();
  const bool read = read_prompt(options, out);
  const double middle = seconds();
  out.prompt_seconds = middle - start;
  if (read) {
    out.first_length = seq_.length();
    answer.end(draw_until_stopped(options, answer));
    out.decode_seconds = seconds() - middle;
  }
  out.logits_hash = hash64(logits().data(), logits().size_bytes());
  return std::move(answer.out);
}

}  // namespace folio
