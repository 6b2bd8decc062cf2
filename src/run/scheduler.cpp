// SPDX-License-Identifier: MIT
#include "run/scheduler.h"

#include <algorithm>
#include <cassert>
#include <utility>

#include "base/error.h"

namespace folio {

using Clock = std::chrono::steady_clock;

// A waiting list longer than this is taken in order: to look up every prefix would cost more than it finds.
constexpr size_t most_looked_up = 128;
// No text is expected to draw more than this when memory is promised.
constexpr int64_t most_expected = 4096;
constexpr double promise_after_preemption = 0.7, promise_at_least = 0.1, promise_step = 0.02;

static int64_t pages_for(int64_t tokens) { return (tokens + page_tokens - 1) / page_tokens; }

Order order_of(std::string_view name) {
  if (name == "fcfs") return Order::fcfs;
  if (name == "lpm") return Order::lpm;
  folio::fail("schedule '", name, "', expected fcfs or lpm");
}

struct Scheduler::Text {
  Text(int64_t id, Request r, int64_t vocab)
      : id(id), request(std::move(r)), sampler(request.sampling, vocab), answer(request.options), text(request.prompt) {}
  int64_t pending() const { return int64_t(text.size()) - seq.length(); }
  // Tokens that may still come, as far as is known.
  int64_t expected(int64_t context) const {
    const int64_t left = request.options.limit >= 0 ? request.options.limit - int64_t(answer.out.tokens.size()) : most_expected;
    return std::clamp<int64_t>(left, 0, std::min(most_expected, context - int64_t(text.size())));
  }

  const int64_t id;
  const Request request;
  Sampler sampler;
  Answer answer;
  std::vector<Token> text;   // prompt and answer
  Seq seq;
  bool open = false, gone = false;
  bool first_time = true;    // not yet admitted
  Clock::time_point came = Clock::now();
  int64_t cached = 0;
  int preempted = 0;
  int n = 0;                 // tokens in the step at hand
  std::unique_ptr<Drafter> drafter;
  Acceptance acceptance;
  std::vector<Token> drafts, proposal;   // guessed in this step; they behind the last token
};

Scheduler::Scheduler(Engine& engine, const SchedulerOptions& options, Done done)
    : engine_(engine), options_(options), done_(std::move(done)) {
  check(options.running >= 1 && options.running <= engine.cache().options().sequences, "scheduler: ", options.running,
        " texts at once, but the engine has room for ", engine.cache().options().sequences);
  check(options.step_tokens >= 1, "scheduler: ", options.step_tokens, " tokens a step");
}

Scheduler::~Scheduler() {
  for (const auto& text : running_)
    if (text->open) engine_.cache().close(text->seq);
}

int64_t Scheduler::add(Request request) {
  const int64_t id = next_++, length = int64_t(request.prompt.size());
  std::string wrong;
  if (length == 0) wrong = "the prompt is empty";
  else if (length > engine_.context()) wrong = join("the prompt has ", length, " tokens; the context holds ", engine_.context());
  for (Token t : request.prompt)
    if (t < 0 || t >= engine_.model().vocab()) wrong = join("the prompt has the token ", t, "; the vocabulary ends at ", engine_.model().vocab() - 1);
  if (wrong.empty()) {
    try {
      waiting_.push_back(std::make_unique<Text>(id, std::move(request), engine_.model().vocab()));
      if (options_.drafter) waiting_.back()->drafter = options_.drafter(waiting_.back()->request);
      return id;
    } catch (const Error& error) {
      wrong = error.what();
    }
  }
  ++stats_.failed;
  Reply reply;
  reply.error = wrong;
  done_(id, std::move(reply));
  return id;
}

// Whether its pages can be had, and a share of those that the running may still want with them. Only pages of full rows are counted: all
// else is sized for as many texts as may run.
bool Scheduler::fits(const Text& text, int64_t adopted) const {
  const Cache& cache = engine_.cache();
  double promised = 0;
  for (const auto& r : running_) promised += double(pages_for(r->expected(engine_.context()) + r->pending()));
  const int64_t wanted = pages_for(int64_t(text.text.size())) - adopted / page_tokens + 1 + int64_t(promised * promised_);
  for (int k = 0; k < cache.memory().kinds; ++k)
    if (cache.full_rows(k) && wanted > cache.available_pages(k)) return false;
  return true;
}

// The end if all that are looked at have to wait for another text.
Scheduler::Texts::iterator Scheduler::next_waiting() {
  const bool in_order = options_.order == Order::fcfs || waiting_.size() > most_looked_up;
  auto best = waiting_.end();
  double most = -1;
  size_t looked = 0;
  for (auto it = waiting_.begin(); it != waiting_.end() && looked < most_looked_up; ++it, ++looked) {
    const Text& text = **it;
    if (held_back(text)) continue;
    if (in_order) return it;
    const double waited = std::chrono::duration<double>(Clock::now() - text.came).count();
    const double score = double(engine_.cache().match(std::span(text.text).first(text.text.size() - 1), text.request.scope)) + waited * read_rate_;
    if (score > most) most = score, best = it;
  }
  return best;
}

// Whether a running text is about to read a page that this one begins with, too, and that nobody has read so far.
bool Scheduler::held_back(const Text& text) const {
  if (!engine_.cache().options().remember) return false;
  int64_t adopted = -1;
  for (const auto& r : running_) {
    if (r->pending() <= 1 || r->request.scope != text.request.scope) continue;
    if (adopted < 0) adopted = engine_.cache().match(std::span(text.text).first(text.text.size() - 1), text.request.scope);
    const int64_t end = adopted + page_tokens;
    if (end >= int64_t(text.text.size()) || end > int64_t(r->text.size())) continue;
    if (r->seq.length() < end && std::equal(text.text.begin(), text.text.begin() + end, r->text.begin())) return true;
  }
  return false;
}

// One of the waiting comes in; null if none can now.
Scheduler::Text* Scheduler::admit() {
  if (waiting_.empty() || int(running_.size()) >= options_.running) return nullptr;
  const auto it = next_waiting();
  if (it == waiting_.end()) return nullptr;
  Text& text = **it;
  Cache& cache = engine_.cache();
  text.seq = cache.open(std::span(text.text).first(text.text.size() - 1), text.request.scope);   // the last one must be read for its logits
  text.open = true;
  if (!running_.empty() && !fits(text, text.seq.length())) {
    cache.close(text.seq);
    text.open = false;
    return nullptr;
  }
  if (text.first_time) {
    text.cached = text.seq.length();
    stats_.cached_tokens += text.cached;
    // By other rules than match how much is guessed changes the text, so it may not hang on what others were.
    if (accept_for(options_.accept, text.request.sampling) == Accept::match) text.acceptance = Acceptance(usual_.rate());
  }
  text.first_time = false;
  const auto place = std::find_if(running_.begin(), running_.end(), [&](const auto& r) { return r->id > text.id; });
  running_.splice(place, waiting_, it);
  stats_.most_running = std::max(stats_.most_running, int(running_.size()));
  return &text;
}

void Scheduler::preempt(Text& text) {
  engine_.cache().close(text.seq);
  text.open = false;
  text.n = 0;
  stats_.dropped_drafts += int64_t(text.drafts.size());
  text.drafts.clear();   // they would stand in the wrong place when it comes back
  ++text.preempted;
  ++stats_.preemptions;
  promised_ = promise_after_preemption;
  const auto it = std::find_if(running_.begin(), running_.end(), [&](const auto& r) { return r.get() == &text; });
  waiting_.splice(waiting_.begin(), running_, it);
}

// Room for the text's next tokens; younger texts give way, and at last the text itself. False if it is not in this step.
bool Scheduler::room(Text& text, int tokens) {
  while (!engine_.cache().reserve(text.seq, tokens, tokens)) {
    Text* victim = running_.back().get();
    if (running_.size() == 1) {   // all the memory there is
      finish(text, Finish::context);
      return false;
    }
    preempt(*victim);
    if (victim == &text) return false;
  }
  return true;
}

// The text's part of this step, if there is room for it. Chunks end at multiples of the engine's chunk, wherever they begin.
bool Scheduler::take(Text& text, int64_t budget) {
  const int64_t chunk = engine_.chunk(), from = text.seq.length();
  const int64_t n = std::min({text.pending(), chunk - from % chunk, budget});
  if (n <= 0 || !room(text, int(n))) return false;
  text.n = int(n);
  return true;
}

// Guesses behind the text's last token, where there is room for them and they pay.
void Scheduler::guess(Text& text, int texts, int64_t budget) {
  text.drafts.clear();
  if (!text.drafter) return;
  const Accept rule = accept_for(options_.accept, text.request.sampling);
  const int pays = text.acceptance.length(threshold_for(rule, options_.always_draft, cost_, texts), options_.most_drafts);
  // By other rules than match the text hangs on how many they are, so they may not hang on those of the others.
  const int64_t share = options_.accept == Accept::match ? budget : (options_.step_tokens - 1) / options_.running;
  int64_t most = std::min<int64_t>({engine_.context() - int64_t(text.text.size()) - 1, share - 1, engine_.chunk() - 1,
                                    engine_.cache().options().uncertain, pays});
  if (text.request.options.limit >= 0) most = std::min(most, text.request.options.limit - int64_t(text.answer.out.tokens.size()) - 1);
  if (most <= 0) return;
  const auto start = Clock::now();
  text.drafts = text.drafter->propose(text.text, int(most));
  cost_.observe_draft(int(text.drafts.size()), std::chrono::duration<double>(Clock::now() - start).count());
  // Guesses take no room from others.
  if (!engine_.cache().reserve(text.seq, 1 + int(text.drafts.size()), 1)) text.drafts.clear();
}

bool Scheduler::step() {
  left_.clear();
  if (waiting_.empty() && running_.empty()) return false;
  int64_t budget = options_.step_tokens;
  for (bool drawing : {true, false}) {   // a token of each that is being drawn, then prompts
    std::vector<Text*> texts;
    for (const auto& r : running_)
      if ((r->pending() == 1) == drawing) texts.push_back(r.get());
    for (Text* text : texts) {
      text->drafts.clear();
      const bool here = text->open && !text->gone;   // nobody has taken its room meanwhile
      if (!here || !take(*text, drawing ? 1 : budget)) continue;
      budget -= text->n;
    }
    if (!drawing || !options_.drafter) continue;
    for (Text* text : texts)
      if (text->n == 1 && budget > 1) guess(*text, int(texts.size()), budget), budget -= int64_t(text->drafts.size());
  }
  if (options_.give_way_every > 0 && stats_.steps % options_.give_way_every == options_.give_way_every - 1 && !running_.empty())
    preempt(*running_.back());
  while (budget > 0) {
    Text* text = admit();
    if (!text || !take(*text, budget)) break;
    budget -= text->n;
  }

  std::vector<Work> works;
  std::vector<Text*> whose;
  for (const auto& r : running_) {
    if (r->n == 0) continue;
    auto tokens = std::span<const Token>(r->text).subspan(size_t(r->seq.length()), size_t(r->n));
    if (!r->drafts.empty()) {
      r->proposal.assign(1, r->text.back());
      r->proposal.insert(r->proposal.end(), r->drafts.begin(), r->drafts.end());
      tokens = r->proposal;
    }
    works.push_back({&r->seq, tokens, r->pending() == r->n ? 1 + int(r->drafts.size()) : 0});
    whose.push_back(r.get());
  }
  if (works.empty()) return !waiting_.empty() || !running_.empty();
  const auto start = Clock::now();
  const Tensor logits = engine_.step(works);
  ++stats_.steps;
  promised_ = std::max(promise_at_least, promised_ - promise_step);
  int64_t row = 0, read = 0, drawn = 0;
  for (size_t i = 0; i < works.size(); ++i) {
    Text& text = *whose[i];
    if (text.n > 1) read += text.n;
    else drawn += int64_t(works[i].tokens.size());
    if (text.drafts.empty()) engine_.cache().commit(text.seq, works[i].tokens);   // else in after(), when it is known what happened
    const int certain = std::exchange(text.n, 0);
    if (text.answer.out.tokens.empty()) {
      stats_.prompt_tokens += certain;
      if (works[i].wanted) engine_.cache().keep(text.seq);
    } else {
      ++text.answer.out.steps;
    }
    if (works[i].wanted) after(text, logits, row);
    row += works[i].wanted;
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  if (read > 0 && seconds > 0) read_rate_ = double(read) / seconds;
  else if (options_.drafter) cost_.observe(int(drawn), seconds);
  return true;
}

// Draws the tokens that follow: behind the last token, and behind each draft that was right. Row `row` of the logits is the first's.
void Scheduler::after(Text& text, const Tensor& logits, int64_t row) {
  if (text.answer.full()) return finish(text, Finish::limit);   // nothing was to be drawn
  const std::vector<Token> drafts = std::move(text.drafts);
  const Accept rule = accept_for(options_.accept, text.request.sampling);
  std::optional<Finish> why;
  size_t right = 0;
  try {
    std::vector<Token> said;   // none: each is drawn when the one before it is known
    std::span<const Token> may_stand = drafts;
    if (rule != Accept::match && !drafts.empty()) {
      said = accept(rule, text.sampler, text.text, drafts, text.drafter->chances(), logits, row);
      may_stand = may_stand.first(said.size() - 1);
    }
    auto scores = [&](size_t i) { return std::span<const float>(logits.row<float>(row + int64_t(i)), size_t(logits.cols())); };
    right = take_while_right(may_stand, [&](size_t i) { return said.empty() ? text.sampler.pick(scores(i), text.text) : said[i]; },
                             [&](Token token, size_t i) {
                               text.text.push_back(token);
                               ++stats_.drawn_tokens;
                               why = text.answer.take(token, scores(i));
                               return !why;
                             });
  } catch (const Error& error) {
    return fail(text, error.what());
  }
  if (!drafts.empty()) {
    engine_.cache().commit(text.seq, std::span<const Token>(text.proposal).first(1 + right));
    for (Acceptance* known : {&text.acceptance, &usual_}) known->observe(int(drafts.size()), int(right));
    for (DraftStats* stats : {&stats_.drafts, &text.answer.out.drafts})
      ++stats->rounds, stats->drafted += int64_t(drafts.size()), stats->accepted += int64_t(right);
  }
  if (why) finish(text, *why);
  else if (text.answer.full()) finish(text, Finish::limit);
  else if (int64_t(text.text.size()) >= engine_.context()) finish(text, Finish::context);
}

void Scheduler::leave(Text& text) {
  if (text.open) engine_.cache().close(text.seq);
  text.open = false;
  text.gone = true;
  text.n = 0;
  for (Texts* list : {&running_, &waiting_})
    for (auto it = list->begin(); it != list->end(); ++it)
      if (it->get() == &text) {
        left_.push_back(std::move(*it));
        list->erase(it);
        return;
      }
}

void Scheduler::finish(Text& text, Finish why) {
  text.answer.end(why);
  leave(text);
  ++stats_.done;
  text.answer.out.prompt_tokens = int64_t(text.request.prompt.size());
  done_(text.id, {std::move(text.answer.out), text.cached, text.preempted, {}});
}

void Scheduler::fail(Text& text, const std::string& why) {
  leave(text);
  ++stats_.failed;
  done_(text.id, {std::move(text.answer.out), text.cached, text.preempted, why});
}

void Scheduler::abort(int64_t id) {
  for (Texts* list : {&running_, &waiting_})
    for (const auto& text : *list)
      if (text->id == id) return finish(*text, Finish::interrupted);
}

}  // namespace folio
