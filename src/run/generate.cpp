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
  drawn_.clear();
  scored_ = false;
}

// Reads the next tokens of the text, and guesses behind them; commits nothing. Where the text's last token is read, the next one may be
// drawn at once, and those behind the guesses. False if there is no room for them.
bool Generator::step(const GenerateOptions& options, std::span<const Token> tokens, std::span<const Token> drafts) {
  const int certain = int(tokens.size()), n = certain + int(drafts.size());
  if (!engine_.cache().reserve(seq_, n, certain)) return false;
  const bool last = seq_.length() + certain == int64_t(text_.size());
  std::vector<Token> all(text_);   // and what is guessed
  all.insert(all.end(), drafts.begin(), drafts.end());
  const Work work{&seq_, std::span<const Token>(all).subspan(size_t(seq_.length()), size_t(n)), last ? 1 + int(drafts.size()) : 0};
  logits_ = {};
  drawn_.clear();
  scored_ = last;
  const bool match = drafts.empty() || accept_for(options.accept, sampler_.options()) == Accept::match;
  if (last && match && options.logprobs < 0 && engine_.draws() && sampler_.draw_shape(engine_.context())) {
    std::vector<Draw> draws;
    for (size_t i = 0; i <= drafts.size(); ++i) draws.push_back({&sampler_, std::span<const Token>(all).first(text_.size() + i)});
    const auto drawn = engine_.draw({&work, 1}, draws);
    drawn_.assign(drawn.begin(), drawn.end());
  } else {
    engine_.step({&work, 1});
  }
  return true;
}

std::span<const float> Generator::logits(size_t place) {
  if (scored_) {
    const Tensor t = engine_.logits();
    logits_ = {t.row<float>(int64_t(place)), size_t(t.cols())};
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
    const auto part = std::span<const Token>(text_).subspan(size_t(from), size_t(n));
    check(step(options, part), "no memory left in the cache for ", end, " tokens");
    engine_.cache().commit(seq_, part);
    out.prompt_tokens += n;
  }
  return true;
}

// One step, if the last token has not been read, and the tokens that come of it: those that were guessed rightly and one more.
std::optional<Finish> Generator::draw_round(const GenerateOptions& options, Answer& answer) {
  std::vector<Token> drafts;
  const Accept rule = accept_for(options.accept, sampler_.options());
  const bool reads = seq_.length() < int64_t(text_.size());
  const double start = seconds();
  double drafted = start;
  if (reads) {
    int64_t most = engine_.context() - int64_t(text_.size()) - 1;
    if (options.limit >= 0) most = std::min(most, options.limit - int64_t(answer.out.tokens.size()) - 1);
    most = std::min<int64_t>({most, engine_.chunk() - 1, engine_.cache().options().uncertain});
    const double threshold = threshold_for(rule, options.always_draft, cost_, 1);
    if (options.drafter) most = std::min<int64_t>(most, acceptance_.length(threshold, options.most_drafts));
    if (options.drafter && most > 0) drafts = options.drafter->propose(text_, int(most));
    drafted = seconds();
    if (!drafts.empty()) cost_.observe_draft(int(drafts.size()), drafted - start);
    if (!step(options, std::span<const Token>(text_).last(1), drafts)) return Finish::context;
    ++answer.out.steps;
  }
  std::optional<Finish> finish;
  std::vector<Token> said = drawn_;   // -1: not yet
  std::span<const Token> may_stand = drafts;
  if (rule != Accept::match && !drafts.empty()) {
    said = accept(rule, sampler_, text_, drafts, options.drafter->chances(), engine_.logits(), 0);
    may_stand = may_stand.first(said.size() - 1);
  }
  const size_t right = take_while_right(
      may_stand, [&](size_t i) { return i < said.size() && said[i] >= 0 ? said[i] : sampler_.pick(logits(i), text_); },
      [&](Token token, size_t i) {
        text_.push_back(token);
        finish = answer.take(token, options.logprobs >= 0 ? logits(i) : std::span<const float>());
        return !finish;
      });
  logits(right);
  scored_ = false;
  if (!reads) return finish;
  // What was read and happened: the last token and the drafts that were right, but for one that ended the text, which was not drawn from.
  engine_.cache().commit(seq_, std::span<const Token>(text_).subspan(size_t(seq_.length()), 1 + right));
  if (options.drafter) cost_.observe(1 + int(drafts.size()), seconds() - drafted);
  if (drafts.empty()) return finish;
  acceptance_.observe(int(drafts.size()), int(right));
  ++answer.out.drafts.rounds;
  answer.out.drafts.drafted += int64_t(drafts.size());
  answer.out.drafts.accepted += int64_t(right);
  return finish;
}

Finish Generator::draw_until_stopped(const GenerateOptions& options, Answer& answer) {
  for (;;) {
    if (answer.full()) return Finish::limit;
    if (interrupted(options)) return Finish::interrupted;
    if (int64_t(text_.size()) >= engine_.context()) return Finish::context;
    if (const auto finish = draw_round(options, answer)) return *finish;
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
  if (scored_) logits();
  out.logits_hash = hash64(logits_.data(), logits_.size_bytes());
  return std::move(answer.out);
}

}  // namespace folio
