// SPDX-License-Identifier: MIT
// One matrix of all that must not change a text under --deterministic: what is remembered, how a prompt is cut, who else is in the batch,
// who guesses how many tokens, and who has to give way, for each family of mixers, greedy and drawn. A text is its tokens and the bits of
// their log-probabilities, which show an order of sums that differs where no token does. And a control: a device whose products are summed
// in an order that hangs on how many rows there are must be noticed.
#include <random>

#include "changed_model.h"
#include "cpu/table.h"
#include "graph/plan.h"
#include "run/scheduler.h"
#include "tiny_model.h"

namespace folio {
namespace {

struct Said {
  std::vector<Token> tokens;
  std::vector<float> logprobs;
  bool operator==(const Said&) const = default;
};

enum class Who { nobody, ngram, model };

struct Cell {
  bool remember = false;
  int chunk = 512;
  bool mates = false;
  Who guesses = Who::nobody;
  int k = 0;               // guesses at once
  bool gives_way = false;
  std::string text() const {
    const char* who = guesses == Who::nobody ? ", nobody" : guesses == Who::ngram ? ", n-grams" : ", a model";
    return join("cache ", remember ? "on" : "off", ", chunk ", chunk, mates ? ", 8 mates" : ", alone", who, " guesses ", k,
                gives_way ? ", giving way" : "");
  }
};

std::vector<Cell> all_cells() {
  std::vector<Cell> all;
  for (bool remember : {false, true})
    for (int chunk : {64, 512})
      for (bool mates : {false, true})
        for (bool gives_way : {false, true}) {
          all.push_back({remember, chunk, mates, Who::nobody, 0, gives_way});
          for (int k = 1; k <= 5; ++k)
            for (Who who : {Who::ngram, Who::model}) all.push_back({remember, chunk, mates, who, k, gives_way});
        }
  return all;
}

struct Asked {
  std::vector<Token> prompt;
  SamplerOptions sampling;
  int64_t limit;
};

// The two whose texts are looked at, then those that are only in their way. Some begin alike, and words come again.
std::vector<Asked> some_requests(int64_t vocab) {
  std::mt19937 random(5);
  auto words = [&](int n) {
    std::vector<Token> text;
    for (int i = 0; i < n; ++i) text.push_back(Token(random() % uint64_t(vocab)));
    return text;
  };
  const auto phrase = words(9), beginning = words(70);
  std::vector<Asked> all;
  for (int i = 0; i < 9; ++i) {
    Asked asked{i % 3 == 2 ? words(5 + 4 * i) : beginning, {.temperature = 0.8f, .top_k = 0, .top_p = 0.9f, .min_p = 0}, 8 + 3 * i};
    asked.sampling.seed = uint64_t(i);
    const auto tail = words(2 + 3 * i);
    for (const auto& part : {phrase, tail, phrase, {tail[0]}}) asked.prompt.insert(asked.prompt.end(), part.begin(), part.end());
    all.push_back(asked);
  }
  all[0].limit = all[1].limit = 45;   // over the end of a page
  all[0].sampling = {.temperature = 0};
  return all;
}

GenerateOptions options_of(const Asked& asked) {
  GenerateOptions options;
  options.limit = asked.limit;
  options.logprobs = 0;
  return options;
}

EngineOptions engine_options(bool remember, int chunk, int sequences) {
  return {.context = 256, .chunk = chunk, .sequences = sequences, .remember = remember, .deterministic = true};
}

// One kind of mixer; the smaller model is the same one with a matrix turned.
struct Subject {
  const std::string file;
  Loaded loaded;
  Changed small;
  const std::vector<Asked> requests;
  explicit Subject(const std::string& file, std::unique_ptr<Device> device = cpu(1))
      : file(file), loaded(file, std::move(device)), small(file, turned(loaded.weights)), requests(some_requests(loaded.model->vocab())) {}
  // The last matrix of the last layer.
  static size_t turned(const Weights& weights) {
    const auto& all = weights.tensors();
    size_t best = 0;
    for (size_t i = 0; i < all.size(); ++i)
      if (all[i].name.find(".mix.out.weight") != std::string::npos) best = i;
    return best;
  }

  Said alone(size_t which) {
    Engine engine(*loaded.model, *loaded.device, engine_options(false, 512, 1));
    Sampler sampler(requests[which].sampling, loaded.model->vocab());
    const Generated done = Generator(engine, sampler).run(requests[which].prompt, options_of(requests[which]));
    return {done.tokens, done.logprobs};
  }

  // What the requests `which` say in this cell, with the others for company or without. Adds to `sum` what happened.
  std::vector<Said> in(const Cell& cell, const std::vector<size_t>& which, SchedulerStats& sum) {
    Engine engine(*loaded.model, *loaded.device, engine_options(cell.remember, cell.chunk, 9));
    std::unique_ptr<Engine> guessing;
    SchedulerOptions options{.step_tokens = cell.mates ? 96 : 512, .running = 9, .most_drafts = cell.k, .always_draft = true,
                             .give_way_every = cell.gives_way ? 6 : 0};
    if (cell.guesses == Who::ngram) options.drafter = [](const Request&) { return std::make_unique<NgramDrafter>(1); };
    if (cell.guesses == Who::model) {
      guessing = std::make_unique<Engine>(*small.model, *loaded.device, EngineOptions{.context = 256, .sequences = 10});
      options.drafter = [&](const Request& r) { return std::make_unique<ModelDrafter>(*guessing, r.sampling); };
    }
    std::vector<Reply> replies(requests.size());
    Scheduler scheduler(engine, options, [&](int64_t id, Reply reply) { replies[size_t(id)] = std::move(reply); });
    std::vector<size_t> number(requests.size());
    size_t added = 0;
    auto add = [&](size_t i) {
      scheduler.add({requests[i].prompt, requests[i].sampling, options_of(requests[i]), ""});
      number[i] = added++;
    };
    if (cell.mates)
      for (size_t i = requests.size(); i-- > 2;) {
        add(i);
        if (i % 3 == 0) scheduler.step();   // some are on their way when others come
      }
    for (size_t i : which) add(i);
    int steps = 0;
    while (scheduler.step() && ++steps < 3000) {
    }
    EXPECT_LT(steps, 3000) << "it never ends";
    sum.preemptions += scheduler.stats().preemptions;
    sum.dropped_drafts += scheduler.stats().dropped_drafts;
    sum.cached_tokens += scheduler.stats().cached_tokens;
    sum.drafts.accepted += scheduler.stats().drafts.accepted;
    sum.drafts.drafted += scheduler.stats().drafts.drafted;
    std::vector<Said> said;
    for (size_t i : which) {
      Reply& reply = replies[number[i]];
      EXPECT_EQ(reply.error, "");
      EXPECT_TRUE(!cell.gives_way || i != which.back() || reply.preempted > 0) << "the youngest never gave way";
      said.push_back({std::move(reply.generated.tokens), std::move(reply.generated.logprobs)});
    }
    return said;
  }

  // Cells in which a text is not what it is alone.
  std::vector<std::string> differing(const std::vector<Cell>& cells, SchedulerStats& sum) {
    std::vector<std::string> bad;
    const std::vector<Said> want = {alone(0), alone(1)};
    const std::vector<std::vector<size_t>> both = {{0, 1}}, each = {{0}, {1}};
    for (const Cell& cell : cells)
      for (const std::vector<size_t>& which : cell.mates ? both : each) {
        const std::vector<Said> got = in(cell, which, sum);
        for (size_t i = 0; i < which.size(); ++i) {
          const Said& wanted = want[which[i]];
          if (got[i] == wanted) continue;
          const char* how = got[i].tokens == wanted.tokens ? ": the same tokens, other bits" : "";
          bad.push_back(join(cell.text(), which[i] ? ", drawn" : ", greedy", how));
        }
      }
    return bad;
  }
};

std::string shown(const std::vector<std::string>& lines) {
  std::string text;
  for (size_t i = 0; i < lines.size() && i < 8; ++i) text += lines[i] + "\n";
  return text;
}

class SameText : public testing::TestWithParam<std::string> {};

TEST_P(SameText, InEveryCell) {
  Subject subject(convert(source_dir() / "tests/golden/hf" / GetParam(), "same-" + GetParam(), "--type f32"));
  SchedulerStats sum;
  const auto bad = subject.differing(all_cells(), sum);
  EXPECT_TRUE(bad.empty()) << bad.size() << " texts differ:\n" << shown(bad);
  EXPECT_GT(sum.preemptions, 500);
  EXPECT_GT(sum.dropped_drafts, 500) << "nobody gave way with guesses behind its text";
  EXPECT_GT(sum.cached_tokens, 10000);
  EXPECT_GT(sum.drafts.accepted, 500);
  EXPECT_GT(sum.drafts.drafted, sum.drafts.accepted + 500);
}

// Attention, latent attention, a window and sinks, gated delta with attention, log-linear, Mesa.
INSTANTIATE_TEST_SUITE_P(Mixers, SameText, testing::Values("llama", "deepseek_v3", "gpt_oss", "hybrid", "log_linear_mamba2", "mesa_net"),
                         [](const auto& info) { return info.param; });

// The CPU, but a product of several rows is summed from the first to the last, that of one row as the kernels do.
class RowsMatter final : public Device {
 public:
  std::string name() const override { return "wrong"; }
  bool exact_shapes() const override { return true; }
  std::byte* alloc(int64_t bytes) override { return cpu_->alloc(bytes); }
  void free(std::byte* at, int64_t bytes) override { cpu_->free(at, bytes); }
  void upload(std::byte* to, const void* from, int64_t bytes) override { cpu_->upload(to, from, bytes); }
  void download(void* to, const std::byte* from, int64_t bytes) override { cpu_->download(to, from, bytes); }
  std::unique_ptr<folio::Program> compile(std::unique_ptr<Graph> graph) override { return std::make_unique<Program>(std::move(graph)); }

 private:
  class Program final : public folio::Program {
   public:
    explicit Program(std::unique_ptr<Graph> graph)
        : graph_(std::move(graph)), plan_(make_plan(*graph_)), arena_(size_t(plan_.arena) + 256) {
      begin_ = arena_.data() + (256 - reinterpret_cast<uintptr_t>(arena_.data()) % 256);
      place(*graph_, plan_, begin_);
      for (const auto& node : graph_->nodes())
        scratch_.resize(std::max(scratch_.size(), size_t(cpu_launcher(node->name()).scratch(node->op(), 1))));
    }
    Tensor input(const std::string& name) override { return output(name); }
    Tensor output(const std::string& name) override {
      const int v = graph_->find(name);
      Tensor t = graph_->values()[size_t(v)].whole;
      t.graph = nullptr;
      t.data = begin_ + plan_.place[size_t(v)];
      return t;
    }
    void run() override {
      for (const auto& node : graph_->nodes()) {
        const CpuLauncher& launcher = cpu_launcher(node->name());
        const bool several = node->name() == std::string(Matmul::name) && static_cast<const Matmul*>(node->op())->x.dim(0) > 1;
        Team team(1);
        (several ? launcher.reference : launcher.run)(node->op(), {.team = &team, .scratch = scratch_.data()});
      }
    }
    void trace(const std::function<void(const TracedNode&)>&) override {}
    const Graph& graph() const override { return *graph_; }
    int64_t arena_bytes() const override { return plan_.arena; }

   private:
    std::unique_ptr<Graph> graph_;
    Plan plan_;
    std::vector<std::byte> arena_, scratch_;
    std::byte* begin_ = nullptr;
  };
  std::unique_ptr<Device> cpu_ = cpu(1);
};

TEST(SameTextControl, AKernelThatHangsOnTheBatchIsNoticed) {
  const std::string file = write_tiny_model((scratch_dir() / "control.folio").string(), {.random = true});
  const std::vector<Cell> with_company = {{.mates = true}, {.guesses = Who::ngram, .k = 3}, {.guesses = Who::model, .k = 2}};
  SchedulerStats sum;
  EXPECT_TRUE(Subject(file).differing(with_company, sum).empty());
  EXPECT_EQ(Subject(file, std::make_unique<RowsMatter>()).differing(with_company, sum).size(), 6u);
}

}  // namespace
}  // namespace folio
