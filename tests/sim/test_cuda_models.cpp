// SPDX-License-Identifier: MIT
// Whole models by `cuda`, on the simulator: the same tokens as the CPU, whatever the formats and however the text is cut; and what the
// device promises about its memory.
#include "fixtures.h"

#include "models/video_presets.h"
#include "ops/elementwise.h"
#include "run/generate.h"
#include "schedules.h"
#include "tier.h"
#include "tiny_model.h"

namespace folio {
namespace {

// Prompt in steps of that size, then greedy steps, on the CPU and on the simulated card: logits near (RMS of the difference against
// theirs) and the same best token, unless the CPU's two best are nearer to each other than that.
void expect_same_text(const std::string& file, const std::vector<Token>& prompt, int steps, int chunk, double tolerance,
                      DType cache_type = F32) {
  Loaded host(file), card(file, cuda());
  const EngineOptions options = {.context = 128, .chunk = std::max(chunk, 8), .cache_type = cache_type};
  Engine a(*host.model, *host.device, options), b(*card.model, *card.device, options);
  Seq s = a.cache().open({}), t = b.cache().open({});
  const size_t vocab = size_t(host.model->vocab());
  std::vector<Token> part = prompt;
  for (int i = 0; i <= steps; ++i) {
    const auto want = all_logits(a, s, part, chunk), got = all_logits(b, t, part, chunk);
    ASSERT_LT(rms_difference(got, want), tolerance) << "step " << i;
    std::vector<float> last(want.end() - int64_t(vocab), want.end());
    const Token best = argmax(last), mine = argmax(std::span(got).last(vocab));
    if (mine != best) {
      EXPECT_LT(last[size_t(best)] - last[size_t(mine)], 2 * worst_difference(got, want)) << "greedy token " << i;
    }
    part = {best};
  }
}

// The kernels of bf16 and F8_E4M3 round a prompt's activations to bf16, those of Q8_0 and Q4_0 to bytes; all else is f32 arithmetic.
double tolerance_of(const std::string& file) {
  const Weights weights(file);
  for (const WeightEntry& entry : weights.tensors())
    if (entry.tensor.type != F32 && entry.tensor.type != F16) return 3e-2;
  return 1e-5;
}

std::vector<std::string> golden_models() {
  std::vector<std::string> names;
  const fs::path dir = source_dir() / "tests/golden/hf";
  for (const auto& entry : fs::directory_iterator(dir))
    if (fs::exists(entry.path() / "shape.json")) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

class GoldenModel : public testing::TestWithParam<std::string> {};

TEST_P(GoldenModel, SameTokensAsTheCpu) {
  const fs::path dir = source_dir() / "tests/golden/hf" / GetParam();
  auto prompt = read_numbers<int32_t>(dir / "prompt.i32");
  prompt.resize(std::min<size_t>(prompt.size(), 24));
  const std::string file = convert(dir, GetParam());
  expect_same_text(file, prompt, 8, 9, tolerance_of(file));
}

INSTANTIATE_TEST_SUITE_P(HuggingFace, GoldenModel, testing::ValuesIn(golden_models()), [](const auto& info) {
  std::string name = info.param;
  std::replace_if(name.begin(), name.end(), [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); }, '_');
  return name;
});

TEST(CudaModel, EveryFormatGivesTheTokensOfTheCpu) {
  const fs::path dir = source_dir() / "tests/golden/hf" / "llama";
  auto prompt = read_numbers<int32_t>(dir / "prompt.i32");
  prompt.resize(std::min<size_t>(prompt.size(), 20));
  for (const std::string type : {"f16", "bf16", "q8_0", "q4_0", "f8_e4m3"}) {
    SCOPED_TRACE(type);
    expect_same_text(convert(dir, "format-" + type, "--type " + type), prompt, 4, 20, type == "f16" ? 1e-5 : 3e-2);
  }
}

// Options of the tools, and some of every kind.
std::vector<SamplerOptions> samplings() {
  return {{.seed = 3},
          {.temperature = 0},
          {.temperature = 1.2f, .top_k = 0, .top_p = 0.9f, .min_p = 0, .seed = 4},
          {.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0, .typical = 0.8f, .seed = 5},
          {.repeat_penalty = 1.3f, .repeat_last_n = 12, .presence_penalty = 0.2f, .frequency_penalty = 0.1f,
           .logit_bias = {{7, 2.f}, {9, -std::numeric_limits<float>::infinity()}, {7, 1.f}}, .seed = 6}};
}

// A text by one Generator on that device.
Generated generated(Loaded& loaded, const SamplerOptions& sampling, int64_t limit, int logprobs = -1) {
  Engine engine(*loaded.model, *loaded.device, {.context = 64, .chunk = 8});
  Sampler sampler(sampling, loaded.model->vocab());
  Generator generator(engine, sampler);
  return generator.run(std::vector<Token>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, {.limit = limit, .logprobs = logprobs});
}

TEST(CudaModel, DrawsTheCpusText) {
  const std::string file = write_tiny_model((scratch_dir() / "draw.folio").string(), {.random = true});
  Loaded host(file), card(file, cuda());
  for (const SamplerOptions& sampling : samplings()) {
    const Generated got = generated(card, sampling, 10), by_host = generated(card, sampling, 10, 0);   // log-probabilities: the host draws
    EXPECT_EQ(got.tokens, generated(host, sampling, 10).tokens) << "seed " << sampling.seed;
    EXPECT_EQ(got.tokens, by_host.tokens);
    EXPECT_EQ(got.logits_hash, by_host.logits_hash);
  }
}

// Several sequences in one step, each with its own sampler: exactly what the sampler draws from the same logits.
TEST(CudaModel, DrawsForEachSequenceAsItsSamplerWould) {
  Loaded card(write_tiny_model((scratch_dir() / "draws.folio").string(), {.random = true}), cuda());
  Engine engine(*card.model, *card.device, {.context = 64, .chunk = 8, .sequences = 5});
  std::vector<Sampler> samplers;
  for (const SamplerOptions& sampling : samplings()) samplers.emplace_back(sampling, card.model->vocab());
  std::vector<Seq> seqs(samplers.size());
  std::vector<std::vector<Token>> texts;
  std::vector<Work> works;
  std::vector<Draw> draws;
  for (size_t i = 0; i < seqs.size(); ++i) {
    seqs[i] = engine.cache().open({});
    texts.push_back({Token(i), 7, 7, 8});
    ASSERT_TRUE(engine.cache().reserve(seqs[i], 4));
  }
  for (size_t i = 0; i < seqs.size(); ++i) works.push_back({&seqs[i], texts[i], 1}), draws.push_back({&samplers[i], texts[i]});
  const auto drawn = engine.draw(works, draws);
  const std::vector<Token> tokens(drawn.begin(), drawn.end());
  const Tensor logits = engine.logits();
  ASSERT_EQ(logits.dim(0), int64_t(seqs.size()));
  for (size_t i = 0; i < seqs.size(); ++i)
    EXPECT_EQ(tokens[i], samplers[i].pick({logits.row<float>(int64_t(i)), size_t(logits.cols())}, texts[i])) << i;
}

TEST(CudaDevice, OfADrawOnlyTheTokenComesBack) {
  Loaded card(write_tiny_model((scratch_dir() / "token.folio").string(), {.random = true}), cuda());
  Engine engine(*card.model, *card.device, {.context = 64, .chunk = 8});
  Sampler sampler({}, card.model->vocab());
  Seq seq = engine.cache().open({});
  const std::vector<Token> text = {1};
  const Work work = {&seq, text, 1};
  const Draw draw = {&sampler, text};
  ASSERT_TRUE(engine.cache().reserve(seq, 1));
  engine.draw({&work, 1}, {&draw, 1});   // compiles
  const uint64_t before = sim::stats().bytes_to_host;
  engine.draw({&work, 1}, {&draw, 1});
  EXPECT_EQ(sim::stats().bytes_to_host - before, sizeof(Token));
  engine.logits();
  EXPECT_EQ(sim::stats().bytes_to_host - before, sizeof(Token) + size_t(card.model->vocab()) * sizeof(float));
}

TEST(CudaDevice, WithoutAnyNumberADrawSaysSo) {
  Loaded card(write_tiny_model((scratch_dir() / "none.folio").string(), {.random = true}), cuda());
  SamplerOptions none{.seed = 1};
  for (Token t = 0; t < card.model->vocab(); ++t) none.logit_bias.push_back({t, -std::numeric_limits<float>::infinity()});
  try {
    generated(card, none, 3);
    FAIL() << "something was drawn";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("no logit is a finite number"), std::string::npos) << e.what();
  }
}

// A prompt that is long enough for its kernels, captured and replayed. Rows of the cache that differ in the last bit are 2^-11 apart.
TEST(CudaModel, TheHopperTierGivesTheTokensOfTheCpu) {
  const Tier hopper("hopper");
  const sim::Use two({.multiprocessors = 2});
  std::vector<Token> prompt;
  for (int i = 0; i < 90; ++i) prompt.push_back(Token(3 + i * i % 97));
  for (const std::string type : {"f16", "bf16"}) {
    SCOPED_TRACE(type);
    sim::stats() = {};
    const fs::path dir = source_dir() / "tests/golden/hf/llama";
    expect_same_text(convert(dir, "hopper-" + type, "--type " + type), prompt, 2, 90, type == "f16" ? 3e-3 : 3e-2, F16);
    EXPECT_GT(sim::stats().wgmma, 0u);
  }
}

TEST(CudaDevice, ATierIsChosenByItsName) {
  const auto hopper = [](const char* tier, int capability) {
    const Tier wish(tier);
    const sim::Use use({.compute_capability = capability});
    return cuda()->name().find("Hopper tier") != std::string::npos;
  };
  EXPECT_TRUE(hopper("hopper", 90));
  EXPECT_FALSE(hopper("hopper", 80));
  EXPECT_FALSE(hopper("hopper", 100));
  EXPECT_FALSE(hopper("portable", 90));
  EXPECT_FALSE(hopper("", 90));
  try {
    hopper("ampere", 90);
    FAIL() << "there is a tier 'ampere'";
  } catch (const Error& e) {
    EXPECT_EQ(e.what(), std::string("FOLIO_CUDA_TIER=ampere: not a tier of CUDA kernels; there are portable, hopper"));
  }
}

TEST(CudaDevice, WeightsAreCopiedOnceForAllPrograms) {
  const std::string file = write_tiny_model((scratch_dir() / "once.folio").string(), {.random = true});
  Loaded card(file, cuda());
  Engine engine(*card.model, *card.device, {.context = 64, .chunk = 8});
  Seq seq = engine.cache().open({});
  const std::vector<Token> ids = {1, 2, 3, 4, 5, 6, 7, 8};
  engine.read(seq, ids);
  const size_t blocks = sim::device_allocations();
  const Token one = 9;
  engine.read(seq, {&one, 1});   // another shape, another program: an arena, its scratch and its tables of frequencies, but no weight
  EXPECT_LE(sim::device_allocations(), blocks + 4);
}

TEST(CudaDevice, EverythingIsGivenBack) {
  const size_t before = sim::device_allocations();
  {
    Loaded card(write_tiny_model((scratch_dir() / "back.folio").string(), {.random = true}), cuda());
    Engine engine(*card.model, *card.device, {.context = 64, .chunk = 8});
    Seq seq = engine.cache().open({});
    const Token one = 9;
    engine.read(seq, {&one, 1});
    EXPECT_GT(sim::device_allocations(), before);
  }
  EXPECT_EQ(sim::device_allocations(), before);
}

// What the loops say means nothing here, but they run on both kinds of card, and time passes.
TEST(CudaDevice, MeasuresItsLimits) {
  for (int capability : {80, 90}) {
    sim::Config card;
    card.compute_capability = capability;
    card.multiprocessors = 2;
    const sim::Use use(card);
    const auto device = cuda();
    const size_t before = sim::device_allocations();
    const auto limits = device->limits();
    ASSERT_TRUE(limits.has_value());
    EXPECT_EQ(sim::device_allocations(), before);
    EXPECT_EQ(sim::stats().wgmma > 0, capability == 90);
    for (double rate : {limits->read_gbps, limits->copy_gbps, limits->fp32_gflops, limits->f16_gflops, limits->bf16_gflops, limits->int8_gops})
      EXPECT_GT(rate, 0);
  }
}

// Runs without a wait between them, timed by events: the last one's results are there afterwards.
TEST(CudaDevice, TimesReplays) {
  const auto device = cuda();
  auto graph = std::make_unique<Graph>();
  graph->output("y", scale(graph->input("x", F32, {1, 4}), 2));
  const auto program = device->compile(std::move(graph));
  const float x[4] = {1, 2, 3, 4};
  std::memcpy(program->input("x").data, x, sizeof x);
  const uint64_t launches = sim::stats().launches;
  EXPECT_GE(program->time(5), 0);
  EXPECT_GE(sim::stats().launches - launches, 5u);
  EXPECT_EQ(program->output("y").at<float>()[3], 8);
}

TEST(CudaDevice, RefusesACardThatIsNotThere) {
  try {
    cuda(7);
    FAIL() << "there is a card 7";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("there is no card 7"), std::string::npos) << e.what();
  }
}

// A trace runs eagerly, node by node, and shows what the CPU's shows.
TEST(CudaDevice, TracesLikeTheCpu) {
  const std::string file = write_tiny_model((scratch_dir() / "trace.folio").string(), {.random = true});
  std::array<std::vector<std::pair<std::string, std::vector<float>>>, 2> seen;
  for (int d = 0; d < 2; ++d) {
    Loaded loaded(file, d == 0 ? cpu(1) : cuda());
    Engine engine(*loaded.model, *loaded.device, {.context = 64, .chunk = 8});
    Seq seq = engine.cache().open({});
    const std::vector<Token> ids = {1, 2, 3, 4};
    ASSERT_TRUE(engine.cache().reserve(seq, 4));
    const Work work = {&seq, ids, 1};
    engine.prepare({&work, 1}).trace([&](const TracedNode& node) {
      for (const auto& [name, t] : node.outputs)
        if (t.type == F32) seen[size_t(d)].push_back({join(node.scope, " ", node.op, ".", name), {t.at<float>(), t.at<float>() + t.count()}});
    });
  }
  ASSERT_EQ(seen[0].size(), seen[1].size());
  for (size_t i = 0; i < seen[0].size(); ++i) {
    ASSERT_EQ(seen[0][i].first, seen[1][i].first);
    ASSERT_EQ(seen[0][i].second.size(), seen[1][i].second.size());
    EXPECT_LT(worst_difference(seen[1][i].second, seen[0][i].second), 1e-4f) << seen[0][i].first;
  }
}

// The flow model of clips: two pages of tokens a caption, both captions at once, a frame that is given.
TEST(CudaVideo, GivesTheVelocitiesOfTheCpu) {
  const VideoSize size{.frames = 6, .rows = 3, .cols = 4, .latent = 2, .patch = 2, .dim = 32, .layers = 4, .heads = 2, .ffn = 40, .text = 4,
                       .caption = 8, .levels = 8};
  const Weights weights = random_weights(flow_preset(size, {"log_linear", "mesa"}, {"<pad>", "<null>", "red", "circle"}), 1);
  const VideoDit model(weights);
  const std::unique_ptr<Device> devices[] = {cpu(1), cuda()};
  std::vector<float> x(size_t(size.numbers())), v[2], without[2];
  fill_noise(x, 1);
  for (int d : {0, 1}) {
    VideoFlow flow(model, *devices[d]);
    v[d].resize(x.size()), without[d].resize(x.size());
    flow.velocity(model.caption("red circle"), model.no_caption(), {true, false, false, false, false, false})(x, 0.6, v[d], without[d]);
  }
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_NEAR(v[0][i], v[1][i], 1e-3) << i;   // Mesa's tolerance is 1e-4
    ASSERT_NEAR(without[0][i], without[1][i], 1e-3) << i;
  }
}

}  // namespace
}  // namespace folio
