// SPDX-License-Identifier: MIT
// Many texts at once must be what each is alone: on models of every kind of mixer, in steps of any size, with so little memory that texts
// have to give way, with guesses that come from other texts (test_same_text has the matrix of all else). Then order, limits, and that a
// failure is one request's own, or its guesser's.
#include "run/scheduler.h"

#include <map>

#include "fixtures.h"
#include "tiny_model.h"

namespace folio {
namespace {

struct Asked {
  std::vector<Token> prompt;
  SamplerOptions sampling;
  int64_t limit;
};

// Texts that begin alike, end anywhere, and are drawn in two ways.
std::vector<Asked> some_requests(int64_t vocab, int count) {
  std::mt19937 random(11);
  auto words = [&](int n) {
    std::vector<Token> text;
    for (int i = 0; i < n; ++i) text.push_back(Token(random() % uint64_t(vocab)));
    return text;
  };
  const std::vector<std::vector<Token>> beginnings = {words(130), words(70), {}};
  std::vector<Asked> all;
  for (int i = 0; i < count; ++i) {
    std::vector<Token> prompt = beginnings[random() % 3], tail = words(1 + int(random() % 40));
    prompt.insert(prompt.end(), tail.begin(), tail.end());
    SamplerOptions sampling{.temperature = i % 3 ? 0.9f : 0, .top_p = 0.9f, .seed = uint64_t(i)};
    if (i % 4 == 1) sampling.repeat_penalty = 1.2f;
    all.push_back({prompt, sampling, int64_t(random() % 45)});
  }
  return all;
}

GenerateOptions options_of(const Asked& asked) {
  GenerateOptions options;
  options.limit = asked.limit;
  return options;
}

std::vector<Token> alone(const Model& model, Device& device, const Asked& asked) {
  Engine engine(model, device, {.context = 256});
  Sampler sampler(asked.sampling, model.vocab());
  return Generator(engine, sampler).run(asked.prompt, options_of(asked)).tokens;
}

// All through one scheduler; replies by number.
std::map<int64_t, Reply> together(Engine& engine, const SchedulerOptions& options, const std::vector<Asked>& all, SchedulerStats* stats = nullptr) {
  std::map<int64_t, Reply> replies;
  Scheduler scheduler(engine, options, [&](int64_t id, Reply reply) { EXPECT_TRUE(replies.emplace(id, std::move(reply)).second); });
  for (const Asked& asked : all) scheduler.add({asked.prompt, asked.sampling, options_of(asked), ""});
  int steps = 0;
  while (scheduler.step()) {
    if (++steps > 20000) break;
  }
  EXPECT_LE(steps, 20000) << "it never ends";
  if (stats) *stats = scheduler.stats();
  return replies;
}

// Knows what will be said, and lies now and then.
class HalfRight final : public Drafter {
 public:
  HalfRight(size_t prompt, const std::vector<Token>& answer) : prompt_(prompt), answer_(answer) {}
  std::vector<Token> propose(std::span<const Token> text, int most) override {
    std::vector<Token> out;
    for (size_t i = text.size() - prompt_; i < answer_.size() && int(out.size()) < most; ++i) out.push_back(answer_[i]);
    if (!out.empty() && random_() % 3 == 0) out[random_() % out.size()] ^= 1;
    return out;
  }

 private:
  const size_t prompt_;
  const std::vector<Token>& answer_;
  std::mt19937 random_;
};

class Batched : public testing::TestWithParam<std::string> {};

TEST_P(Batched, TextsAreWhatTheyAreAlone) {
  Loaded loaded(convert(source_dir() / "tests/golden/hf" / GetParam(), "batched-" + GetParam(), "--type f32"));
  const auto all = some_requests(loaded.model->vocab(), 14);
  std::vector<std::vector<Token>> want;
  for (const Asked& asked : all) want.push_back(alone(*loaded.model, *loaded.device, asked));
  const int64_t enough = Engine(*loaded.model, *loaded.device, {.context = 256, .sequences = 6, .remember = true}).kv_bytes();
  struct How {
    const char* name;
    bool remember;
    int step_tokens, running, chunk;
    Order order = Order::fcfs;
    bool scarce = false;
    int drafts = 0;   // 1: what other texts said; 2: now right, now wrong, of any length
  };
  for (const How& how : {How{"small steps", false, 24, 6, 16}, How{"remembered, small steps", true, 40, 3, 64, Order::lpm},
                         How{"one by one", true, 512, 1, 512}, How{"scarce", true, 64, 6, 512, Order::fcfs, true},
                         How{"said before", true, 512, 6, 512, Order::fcfs, false, 1},
                         How{"guesses, scarce", true, 64, 6, 64, Order::fcfs, true, 2}}) {
    SCOPED_TRACE(how.name);
    EngineOptions options{.context = 256, .chunk = how.chunk, .sequences = 6, .remember = how.remember};
    const LayerSpec layer = loaded.model->state(F16)[0];
    const bool rows = !layer.rows.empty() && layer.rows[0].window == 0;
    if (how.scarce && rows && layer.slabs.empty()) options.kv_bytes = enough / 4;
    Engine engine(*loaded.model, *loaded.device, options);
    SchedulerStats stats;
    SchedulerOptions scheduling{.step_tokens = how.step_tokens, .running = how.running, .order = how.order, .always_draft = true};
    if (how.drafts == 1) {
      together(engine, scheduling, all);
      scheduling.drafter = [&](const Request& r) { return std::make_unique<CacheDrafter>(engine.cache(), r.scope); };
    }
    if (how.drafts == 2)
      scheduling.drafter = [&](const Request& r) {
        size_t which = 0;
        while (all[which].prompt != r.prompt) ++which;
        return std::make_unique<HalfRight>(r.prompt.size(), want[which]);
      };
    const auto replies = together(engine, scheduling, all, &stats);
    ASSERT_EQ(replies.size(), all.size());
    for (size_t i = 0; i < all.size(); ++i) {
      const Reply& reply = replies.at(int64_t(i));
      EXPECT_EQ(reply.error, "");
      EXPECT_EQ(reply.generated.tokens, want[i]) << "request " << i << ", preempted " << reply.preempted << " times";
    }
    EXPECT_TRUE(!how.remember || how.scarce || stats.cached_tokens > 300) << stats.cached_tokens;
    EXPECT_TRUE(options.kv_bytes == 0 || stats.preemptions > 0 || stats.most_running < 6) << "memory was never short";
    EXPECT_LE(stats.most_running, how.running);
    if (how.drafts == 2) {
      EXPECT_GT(stats.drafts.accepted, 20);
      EXPECT_LT(stats.drafts.accepted, stats.drafts.drafted);
    }
    for (int k = 0; k < engine.cache().memory().kinds; ++k) EXPECT_EQ(engine.cache().available_pages(k), engine.cache().pages(k)) << "pages were lost";
  }
}

INSTANTIATE_TEST_SUITE_P(Mixers, Batched,
                         testing::Values("llama", "mistral", "deepseek_v3", "qwen3_moe", "gated_deltanet", "hybrid", "log_linear_mamba2",
                                         "mesa_net", "mamba2"),
                         [](const auto& info) { return info.param; });

struct Tiny {
  Loaded loaded;
  explicit Tiny(const TinyModel& model = {}) : loaded(write_tiny_model((scratch_dir() / "scheduled.folio").string(), model)) {}
};

TEST(Scheduler, OneThatFailsFailsAlone) {
  Tiny tiny;
  Engine engine(*tiny.loaded.model, *tiny.loaded.device, {.context = 200, .sequences = 3, .remember = true});
  const int64_t vocab = tiny.loaded.model->vocab();
  std::vector<Asked> all = {{{1, 2, 3}, {.temperature = 0}, 5}, {{}, {}, 5}, {std::vector<Token>(201, 1), {}, 5},
                            {{1, Token(vocab)}, {}, 5}, {{4, 5}, {.top_p = 7}, 5}, {{6}, {.temperature = 0}, 4}};
  const auto replies = together(engine, {.running = 3}, all);
  ASSERT_EQ(replies.size(), all.size());
  EXPECT_EQ(replies.at(0).generated.tokens.size(), 5u);
  EXPECT_EQ(replies.at(1).error, "the prompt is empty");
  EXPECT_EQ(replies.at(2).error, "the prompt has 201 tokens; the context holds 200");
  EXPECT_NE(replies.at(3).error.find("the vocabulary ends at"), std::string::npos);
  EXPECT_NE(replies.at(4).error.find("top-p"), std::string::npos) << replies.at(4).error;
  EXPECT_EQ(replies.at(5).generated.tokens.size(), 4u);
}

TEST(Scheduler, EndsAtTheContextAndWhenAborted) {
  Tiny tiny;
  Engine engine(*tiny.loaded.model, *tiny.loaded.device, {.context = 70, .sequences = 2, .remember = true});
  std::map<int64_t, Reply> replies;
  Scheduler scheduler(engine, {.running = 2}, [&](int64_t id, Reply reply) { replies.emplace(id, std::move(reply)); });
  const SamplerOptions greedy{.temperature = 0};
  const int64_t a = scheduler.add({{1, 2, 3}, greedy, {}, ""}), b = scheduler.add({{1, 2, 4}, greedy, {}, ""}), c = scheduler.add({{9}, greedy, {}, ""});
  for (int i = 0; i < 10; ++i) scheduler.step();
  EXPECT_EQ(scheduler.running(), 2);
  EXPECT_EQ(scheduler.waiting(), 1);
  scheduler.abort(b), scheduler.abort(c);
  EXPECT_EQ(replies.at(b).generated.finish, Finish::interrupted);
  EXPECT_EQ(replies.at(b).generated.tokens.size(), 10u);
  EXPECT_TRUE(replies.at(c).generated.tokens.empty());
  while (scheduler.step()) {
  }
  EXPECT_EQ(replies.at(a).generated.finish, Finish::context);
  EXPECT_EQ(replies.at(a).generated.tokens.size(), 67u);
}

// What was said once is guessed when it is asked again, also in the middle of a page and over its end.
TEST(Scheduler, WhatOtherTextsSaidIsGuessed) {
  Tiny tiny({.random = true, .context = 512});
  Engine engine(*tiny.loaded.model, *tiny.loaded.device, {.context = 512, .sequences = 2, .remember = true});
  const SamplerOptions warm{.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0, .seed = 5};
  const std::vector<Asked> all = {{{1, 2, 3}, warm, 300}};
  SchedulerStats first, second;
  const SchedulerOptions options{.running = 1,
                                 .drafter = [&](const Request& r) { return std::make_unique<CacheDrafter>(engine.cache(), r.scope); },
                                 .always_draft = true};
  const auto said = together(engine, options, all, &first).at(0).generated.tokens;
  EXPECT_EQ(together(engine, options, all, &second).at(0).generated.tokens, said);
  EXPECT_EQ(first.drafts.accepted, 0);
  EXPECT_GT(second.drafts.accepted, 150);
  EXPECT_EQ(second.drafts.accepted, second.drafts.drafted);
  EXPECT_LT(second.steps, first.steps / 2);
  EXPECT_EQ(engine.cache().continuation(std::vector<Token>{1, 2, 9}, 5), std::vector<Token>());
}

// Of two texts that memory cannot hold to their ends the younger gives way and comes back, and draws what it would have drawn.
TEST(Scheduler, TheYoungerGivesWayAndComesBack) {
  Tiny tiny({.random = true, .context = 256});
  const SamplerOptions warm{.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0, .seed = 3};
  const std::vector<Asked> all = {{{1, 2, 3}, warm, 230}, {{4, 5}, warm, 200}};
  const int64_t page = Engine(*tiny.loaded.model, *tiny.loaded.device, {.context = 64}).kv_bytes();
  for (bool remember : {false, true}) {
    Engine engine(*tiny.loaded.model, *tiny.loaded.device, {.context = 256, .sequences = 2, .kv_bytes = 5 * page, .remember = remember});
    std::map<int64_t, Reply> replies;
    Scheduler scheduler(engine, {.running = 2}, [&](int64_t id, Reply reply) { replies.emplace(id, std::move(reply)); });
    scheduler.add({all[0].prompt, all[0].sampling, options_of(all[0]), ""});
    for (int i = 0; i < 40; ++i) scheduler.step();
    scheduler.add({all[1].prompt, all[1].sampling, options_of(all[1]), ""});
    while (scheduler.step()) {
    }
    EXPECT_EQ(replies.at(0).preempted, 0);
    EXPECT_GT(replies.at(1).preempted, 0);
    for (size_t i : {0, 1}) EXPECT_EQ(replies.at(int64_t(i)).generated.tokens, alone(*tiny.loaded.model, *tiny.loaded.device, all[i]));
  }
}

// The second prompt has all of the first one's beginning: it waits until that is read, and reads the rest alone.
TEST(Scheduler, ABeginningThatSomebodyReadsIsReadOnce) {
  Tiny tiny({.context = 512});
  Engine engine(*tiny.loaded.model, *tiny.loaded.device, {.context = 512, .sequences = 4, .remember = true});
  std::vector<Token> beginning(256);
  for (size_t i = 0; i < beginning.size(); ++i) beginning[i] = Token(i * 7 % 50);
  std::vector<Asked> all;
  for (Token last : {1, 2, 3, 4}) {
    all.push_back({beginning, {.temperature = 0}, 3});
    all.back().prompt.push_back(last);
  }
  SchedulerStats stats;
  const auto replies = together(engine, {.step_tokens = 100, .running = 4}, all, &stats);
  EXPECT_EQ(stats.prompt_tokens, 257 + 3);
  EXPECT_EQ(stats.cached_tokens, 3 * 256);
  EXPECT_EQ(replies.at(3).cached_tokens, 256);
}

// While it waits, others that came later do not.
TEST(Scheduler, WhoWaitsForABeginningHoldsUpNobody) {
  for (Order order : {Order::fcfs, Order::lpm}) {
    Tiny tiny({.context = 512});
    Engine engine(*tiny.loaded.model, *tiny.loaded.device, {.context = 512, .chunk = 64, .sequences = 4, .remember = true});
    std::vector<int64_t> ended;
    Scheduler scheduler(engine, {.step_tokens = 100, .running = 4, .order = order}, [&](int64_t id, const Reply&) { ended.push_back(id); });
    GenerateOptions one;
    one.limit = 1;
    std::vector<Token> beginning(300, 7), same = beginning;
    same.push_back(8);
    for (const auto& prompt : {beginning, same, std::vector<Token>(10, 5)}) {
      scheduler.add({prompt, {.temperature = 0}, one, ""});
      if (prompt == beginning) scheduler.step();   // it is on its way
    }
    while (scheduler.step()) {
    }
    EXPECT_EQ(ended, std::vector<int64_t>({2, 0, 1}));
    EXPECT_EQ(scheduler.stats().cached_tokens, 256);
  }
}

// More than sixteen guesses at once, if they are asked for.
TEST(Scheduler, AsManyGuessesAsAreAskedFor) {
  Tiny tiny({.random = true, .context = 512});
  Engine engine(*tiny.loaded.model, *tiny.loaded.device, {.context = 512, .sequences = 1, .remember = true});
  const std::vector<Asked> all = {{{1, 2, 3}, {.temperature = 0}, 200}};
  for (int most : {5, 40, 64}) {
    SchedulerStats stats;
    const auto drafter = [&](const Request& r) { return std::make_unique<CacheDrafter>(engine.cache(), r.scope); };
    together(engine, {.running = 1, .drafter = drafter, .most_drafts = most, .always_draft = true}, all);
    together(engine, {.running = 1, .drafter = drafter, .most_drafts = most, .always_draft = true}, all, &stats);
    EXPECT_GT(stats.drafts.accepted, 120);
    EXPECT_LE(stats.drafts.drafted, stats.drafts.rounds * most);
    EXPECT_GT(stats.drafts.drafted, (stats.drafts.rounds - 3) * most);   // but for the ends of what is remembered and of the text
  }
}

// A smaller model whose logits are no numbers guesses nothing; the texts do not notice.
TEST(Scheduler, ASmallerModelThatFailsFailsAlone) {
  Tiny tiny({.random = true});
  std::vector<WeightEntry> tensors = tiny.loaded.weights.tensors();
  std::vector<float> nothing;
  for (WeightEntry& t : tensors)
    if (t.name == "head.weight") {
      nothing.assign(size_t(t.tensor.count()), std::nanf(""));
      t.tensor.data = reinterpret_cast<std::byte*>(nothing.data());
    }
  ASSERT_FALSE(nothing.empty());
  const Weights weights("damaged", tiny.loaded.weights.metadata(), tensors, nullptr);
  const auto damaged = load_model(weights);
  const auto all = some_requests(tiny.loaded.model->vocab(), 6);
  for (Accept rule : {Accept::match, Accept::residual, Accept::block}) {
    Engine engine(*tiny.loaded.model, *tiny.loaded.device, {.context = 256, .sequences = 3});
    Engine small(*damaged, *tiny.loaded.device, {.context = 256, .sequences = 6});
    SchedulerStats stats;
    const auto drafter = [&](const Request& r) { return std::make_unique<ModelDrafter>(small, r.sampling, rule); };
    const auto replies = together(engine, {.running = 3, .drafter = drafter, .always_draft = true, .accept = rule}, all, &stats);
    for (size_t i = 0; i < all.size(); ++i) {
      EXPECT_EQ(replies.at(int64_t(i)).error, "");
      EXPECT_EQ(replies.at(int64_t(i)).generated.tokens, alone(*tiny.loaded.model, *tiny.loaded.device, all[i]));
    }
    EXPECT_EQ(stats.drafts.drafted, 0);
  }
}

// lpm takes what it remembers first; fcfs who came first.
TEST(Scheduler, OrdersOfWaiting) {
  for (Order order : {Order::fcfs, Order::lpm}) {
    Tiny tiny({.context = 512});
    Engine engine(*tiny.loaded.model, *tiny.loaded.device, {.context = 512, .sequences = 2, .remember = true});
    const std::vector<Token> known(200, 5), other(200, 6);
    together(engine, {.running = 1}, {{known, {.temperature = 0}, 1}});
    std::vector<int64_t> ended;
    Scheduler scheduler(engine, {.running = 1, .order = order}, [&](int64_t id, const Reply&) { ended.push_back(id); });
    GenerateOptions one;
    one.limit = 1;
    scheduler.add({other, {.temperature = 0}, one, ""});
    scheduler.add({known, {.temperature = 0}, one, ""});
    while (scheduler.step()) {
    }
    EXPECT_EQ(ended, order == Order::fcfs ? std::vector<int64_t>({0, 1}) : std::vector<int64_t>({1, 0}));
  }
  EXPECT_THROW(order_of("random"), Error);
}

}  // namespace
}  // namespace folio
