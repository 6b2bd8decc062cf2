// SPDX-License-Identifier: MIT
// ablate: every configuration is measured, texts stay what they are where they must, a technique that changes them is found out, and what
// is wrong with a command or a file is said in one sentence. Never how fast.
#include <nlohmann/json.hpp>
#include <sstream>

#include "fixtures.h"
#include "tiny_model.h"
#include "tools/lib/ablate_data.h"
#include "tools/lib/ablate_report.h"

namespace folio {
namespace {

using Json = nlohmann::json;

std::string path(const std::string& name) { return (scratch_dir() / name).string(); }

const std::string& model() {
  static const std::string at = write_tiny_model(path("ablate.folio"), {.random = true});
  return at;
}

std::string shipped() { return (source_dir() / "models/weights/folio-text-4m.folio").string(); }

void write(const std::string& name, const std::string& text) {
  FileWriter out(path(name));
  out.write(text);
  out.commit();
}

Ran ablate(const std::string& arguments) { return run_command(std::string(FOLIO_BIN_DIR) + "/ablate -t 2 " + arguments); }

// Every kind of request: shared beginnings, some drawn with noise, several answers, a stop.
const std::string& requests() {
  static const std::string at = [] {
    std::string text;
    const std::string shared(150, 'q');
    for (int i = 0; i < 4; ++i)
      text += Json{{"prompt", shared + char('a' + i % 3)}, {"max_tokens", 20}, {"temperature", i % 2}}.dump() + "\n";
    text += Json{{"prompt", "abcabcabcabcabcabc"}, {"n", 2}, {"temperature", 0.9}, {"seed", 3}, {"max_tokens", 30}}.dump() + "\n\n";
    text += Json{{"prompt", "so"}, {"stop", "e"}, {"max_tokens", 40}}.dump() + "\n";
    write("requests.jsonl", text);
    return path("requests.jsonl");
  }();
  return at;
}

TEST(Ablate, EveryConfigurationIsMeasuredAndTextsStay) {
  const std::string exact = "radix,batching,chunking,lpm,ngram,cache-draft,speculative,threads";
  const Ran ran =
      ablate("-m " + model() + " --draft " + model() + " --data " + requests() + " -b 32 --max-batch 3 -r 2 --techniques " + exact +
             " -o " + path("study.json") + " -o " + path("study.csv") + "," + path("study.md") + "," + path("study.svg"));
  ASSERT_EQ(ran.code, 0) << ran.output;
  const Json json = Json::parse(read_file(path("study.json")));
  EXPECT_EQ(json["requests"], 7);
  EXPECT_TRUE(json["left_out"].empty());
  std::vector<std::string> names = {"all on"}, found;
  std::istringstream list("radix batching speculative ngram cache-draft chunking lpm threads");
  const std::vector<std::string> techniques(std::istream_iterator<std::string>(list), {});
  for (const std::string& t : techniques) names.push_back("without " + t);
  for (const std::string& t : techniques) names.push_back(t + " alone");
  names.push_back("all off");
  for (const Json& c : json["configurations"]) {
    found.push_back(c["name"]);
    EXPECT_TRUE(c["must_equal"] && c["equal"]) << c;
    const Json& f = c["figures"];
    EXPECT_EQ(f["equal_tokens"]["min"], 1) << c["name"];
    for (const char* key :
         {"generated_tps", "total_tps", "first_p50", "first_p99", "between_p90", "held_bytes", "process_bytes", "perplexity"})
      EXPECT_GT(f[key]["mean"].get<double>(), 0) << c["name"] << " " << key;
    EXPECT_GE(f["kept_bytes"]["mean"], f["held_bytes"]["mean"]);
    EXPECT_EQ(f["perplexity"]["mean"], json["configurations"].back()["figures"]["perplexity"]["mean"])
        << c["name"];  // found rows are the same rows
    const std::vector<std::string> on = c["on"];
    const auto is_on = [&](const char* t) { return std::find(on.begin(), on.end(), t) != on.end(); };
    EXPECT_EQ(f["found_share"]["mean"].get<double>() > 0.1, is_on("radix")) << c["name"];
    EXPECT_EQ(f.contains("guesses_right"), is_on("ngram") || is_on("speculative") || (is_on("cache-draft") && is_on("radix"))) << c["name"];
    if (is_on("speculative") && on.size() == 1) {   // the model itself guesses
      EXPECT_GT(f["guesses_right"]["mean"].get<double>(), 0.9);
    }
    if (on.empty()) {
      EXPECT_LE(f["tokens_per_step"]["mean"].get<double>(), 1);
    }
  }
  EXPECT_EQ(found, names);
  const std::string csv = read_file(path("study.csv")), md = read_file(path("study.md")), svg = read_file(path("study.svg"));
  EXPECT_EQ(size_t(std::count(csv.begin(), csv.end(), '\n')), 1 + names.size());
  const auto commas = [](const std::string& line) { return std::count(line.begin(), line.end(), ','); };
  std::istringstream lines(csv);
  std::string head;
  std::getline(lines, head);
  for (std::string line; std::getline(lines, line);) EXPECT_EQ(commas(line), commas(head)) << line;
  for (const std::string& name : names) {
    EXPECT_NE(md.find("\n| " + name + " |"), std::string::npos) << name;
    EXPECT_NE(svg.find(">" + name + "</text>"), std::string::npos) << name;
  }
  for (const char* words : {"## throughput", "## latency", "## memory", "## quality", "## What each brings"})
    EXPECT_NE(md.find(words), std::string::npos) << words;
  for (const char* name : {"study.json", "study.csv", "study.md", "study.svg"}) EXPECT_FALSE(fs::exists(path(name) + std::string(".part")));
}

// The shipped model on what is built in, with what loses numbers: shown, and not called a failure.
TEST(Ablate, ALossyTechniqueMayDiffer) {
  const Ran ran = ablate("-m " + shipped() + " --techniques kvquant,radix,mla -r 1 -n 8 --metrics memory,quality -o " + path("lossy.json"));
  ASSERT_EQ(ran.code, 0) << ran.output;
  EXPECT_NE(ran.output.find("left out: mla: the model has no latent attention"), std::string::npos) << ran.output;
  const Json json = Json::parse(read_file(path("lossy.json")));
  ASSERT_EQ(json["configurations"].size(), 6u);
  std::map<std::string, Json> by_name;
  for (const Json& c : json["configurations"]) {
    by_name[c["name"]] = c;
    EXPECT_FALSE(c["figures"].contains("generated_tps"));
    EXPECT_EQ(c["must_equal"], c["name"] == "all off" || c["name"] == "radix alone" || c["name"] == "without kvquant");
  }
  const auto figure = [&](const char* name, const char* key) { return by_name[name]["figures"][key]["mean"].get<double>(); };
  EXPECT_EQ(figure("kvquant alone", "held_bytes") * 2, figure("all off", "held_bytes"));   // f16 in place of f32
  EXPECT_LT(figure("radix alone", "held_bytes"), figure("all off", "held_bytes"));         // shared pages are there once
  EXPECT_NE(figure("kvquant alone", "perplexity"), figure("all off", "perplexity"));
  EXPECT_NEAR(figure("kvquant alone", "perplexity"), figure("all off", "perplexity"), 0.01 * figure("all off", "perplexity"));
}

// A technique that says of itself that texts stay and loses digits: found out, in all forms.
TEST(Ablate, APlantedLossIsFound) {
  AblateFlags flags;
  flags.model.path = model();
  flags.model.threads = 2;
  flags.data = requests();
  flags.repeats = 1;
  flags.running = 4;
  const OpenModel open(flags.model);
  std::vector<Technique> techniques = choose_techniques({"radix"}, open, flags);
  techniques.push_back(
      {"planted", "rows lose digits", "", Technique::Effect::exact, [](Setting& s, bool on) { s.engine.cache_type = on ? BF16 : F32; }});
  Study words;
  const Workload work = ablate_workload(open, flags, words);
  const std::atomic<bool> never{false};
  const Study study = ablate(open, flags, techniques, work, [](int, int, const std::string&) {}, never);
  EXPECT_FALSE(study.kept_its_word());
  for (const Configuration& c : study.configurations) {
    EXPECT_TRUE(c.must_equal);
    const bool planted = std::find(c.on.begin(), c.on.end(), "planted") != c.on.end();
    EXPECT_EQ(c.equal, !planted) << c.name;
    EXPECT_EQ(c.figures.at("equal_tokens").mean < 1, planted) << c.name;
    EXPECT_EQ(c.figures.at("perplexity").mean != study.configurations.back().figures.at("perplexity").mean, planted) << c.name;
  }
  EXPECT_NE(ablate_report(study, "x.md").find("**must be 100**"), std::string::npos);
  EXPECT_FALSE(Json::parse(ablate_report(study, "x.json"))["kept_its_word"].get<bool>());
  std::atomic<bool> interrupted{true};
  EXPECT_THROW(ablate(open, flags, techniques, work, [](int, int, const std::string&) {}, interrupted), Error);
}

// Latent attention of two layers with random weights; from 32 tokens of a text on, expanding is less work.
std::string write_latent_model() {
  constexpr int dim = 32, heads = 2, key = 16, rope = 32, value = 16, rank = 32, ffn = 48, layers = 2;
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 0.3f);
  WeightsWriter w;
  const auto matrix = [&](const std::string& name, int64_t rows, int64_t cols) {
    std::vector<float> numbers(size_t(rows * cols));
    for (float& x : numbers) x = normal(random);
    w.tensor(name, {rows, cols}, numbers);
  };
  const auto ones = [&](const std::string& name, int64_t n) { w.tensor(name, {n}, std::vector<float>(size_t(n), 1)); };
  w.meta("arch", "decoder").meta("dim", dim).meta("layers", layers).meta("vocab", tiny_vocab).meta("context", 512);
  w.meta("norm.kind", "rms").meta("norm.eps", MetaValue(1e-6)).meta("mixer.0.kind", "mla").meta("mixer.0.heads", heads);
  w.meta("mixer.0.key_size", key).meta("mixer.0.rope_size", rope).meta("mixer.0.value_size", value).meta("mixer.0.rank", rank);
  w.meta("mixer.0.rope", "half").meta("ffn.0.kind", "dense").meta("ffn.0.dim", ffn).meta("ffn.0.gated", 1).meta("ffn.0.act", "silu");
  w.meta("layer.mixer", MetaValue(std::vector<int64_t>(layers))).meta("layer.ffn", MetaValue(std::vector<int64_t>(layers)));
  matrix("embed.weight", tiny_vocab, dim), matrix("head.weight", tiny_vocab, dim), ones("norm_out.weight", dim);
  for (int l = 0; l < layers; ++l) {
    const std::string at = "layer." + std::to_string(l) + ".";
    ones(at + "norm_mix.weight", dim), ones(at + "norm_ffn.weight", dim), ones(at + "mix.latent_norm.weight", rank);
    matrix(at + "mix.in.weight", heads * (key + rope) + rank + rope, dim), matrix(at + "mix.out.weight", dim, heads * value);
    matrix(at + "mix.k_up.weight", heads * key, rank), matrix(at + "mix.v_up.weight", heads * value, rank);
    matrix(at + "ffn.up.weight", ffn, dim), matrix(at + "ffn.gate.weight", ffn, dim), matrix(at + "ffn.down.weight", dim, ffn);
  }
  write_tiny_tokenizer(w, {});
  w.save(path("latent.folio"));
  return path("latent.folio");
}

TEST(Ablate, LatentAttention) {
  const Ran ran = ablate("-m " + write_latent_model() + " --data " + requests() + " -r 1 --techniques mla,radix,kvquant,deterministic -o " +
                         path("latent.json"));
  ASSERT_EQ(ran.code, 0) << ran.output;
  const Json json = Json::parse(read_file(path("latent.json")));
  ASSERT_EQ(json["configurations"].size(), 10u);
  std::map<std::string, Json> by_name;
  for (const Json& c : json["configurations"]) by_name[c["name"]] = c;
  const auto figure = [&](const char* name, const char* key) { return by_name[name]["figures"][key]["mean"].get<double>(); };
  EXPECT_TRUE(by_name["radix alone"]["must_equal"]);   // expanded with it and without it
  EXPECT_FALSE(by_name["mla alone"]["must_equal"]);
  EXPECT_NE(figure("mla alone", "perplexity"), figure("all off", "perplexity"));            // the order did change, and
  EXPECT_NEAR(figure("mla alone", "perplexity") / figure("all off", "perplexity"), 1, 1e-5);   // nothing but the last digits
  EXPECT_EQ(figure("deterministic alone", "perplexity"), figure("all off", "perplexity"));  // one order is there without it
  EXPECT_NEAR(figure("kvquant alone", "held_bytes") / figure("all off", "held_bytes"), 34 / 128.0, 1e-9);   // q8_0 in place of f32
}

TEST(Ablate, OneTechniqueIsTwoMeasurements) {
  const Ran ran = ablate("-m " + model() + " --data " + requests() + " --techniques batching -r 1 -o " + path("one.json"));
  ASSERT_EQ(ran.code, 0) << ran.output;
  const Json all = Json::parse(read_file(path("one.json")))["configurations"];
  ASSERT_EQ(all.size(), 4u);
  EXPECT_EQ(all[0]["figures"], all[2]["figures"]);   // all on, batching alone
  EXPECT_EQ(all[1]["figures"], all[3]["figures"]);   // without batching, all off
  EXPECT_NE(all[0]["figures"], all[1]["figures"]);
}

TEST(Ablate, WithoutATokenizer) {
  const std::string bare = write_tiny_model(path("bare.folio"), {.random = true, .tokenizer = false});
  const Ran ran = ablate("-m " + bare + " -r 1 -n 4");
  EXPECT_EQ(ran.code, 0) << ran.output;
  EXPECT_NE(ran.output.find("# Ablation study"), std::string::npos) << ran.output;
}

TEST(Ablate, SaysWhatIsWrong) {
  write("bad.jsonl", "{\"prompt\": \"good\"}\n\n{\"prompt\": 7}\n");
  write("no.jsonl", "{\"prompt\": \"good\"}\n{\"prompt\": \"bad\n");
  write("long.jsonl", Json{{"prompt", std::string(600, 'x')}}.dump());
  write("none.jsonl", "\n \n");
  const std::string m = "-m " + model() + " ";
  const std::vector<std::array<std::string, 2>> cases = {
      {m + "--techniques radix,flash", "--techniques: there is no 'flash'; there are radix, batching, "},
      {m + "--metrics speed", "--metrics: there is no 'speed'; there are throughput, latency, memory, quality"},
      {m + "--techniques mla", "nothing is left to study: mla: the model has no latent attention"},
      {m + "--techniques speculative", "it wants a smaller model: --draft"},
      {m + "--data " + path("bad.jsonl"), path("bad.jsonl") + ": line 3: 'prompt' is 7, expected a text"},
      {m + "--data " + path("no.jsonl"), path("no.jsonl") + ": line 2: this is no JSON"},
      {m + "--data " + path("long.jsonl"), path("long.jsonl") + ": line 1: the prompt has 601 tokens and the context holds 512"},
      {m + "--data " + path("none.jsonl"), path("none.jsonl") + ": holds no request"},
      {m + "--data " + path("absent.jsonl"), path("absent.jsonl")},
      {m + "-o study.txt", "-o study.txt: the name says no form; expected .md, .json, .csv or .svg"},
      {m + "-o " + path("nowhere/x.md"), path("nowhere/x.md")},
      {m + "-r 0", "--repeats"},
      {m + "--draft " + write_tiny_model(path("swapped.folio"), {.random = true, .swapped = true}), "has another vocabulary"},
      {"--techniques radix", "--model is required"}};
  for (const auto& [arguments, expected] : cases) {
    const Ran ran = ablate(arguments + " -o " + path("never.md"));
    EXPECT_EQ(ran.code, 1) << arguments << "\n" << ran.output;
    EXPECT_NE(ran.output.find(expected), std::string::npos) << arguments << "\n" << ran.output;
    EXPECT_EQ(std::count(ran.output.begin(), ran.output.end(), '\n'), 1) << ran.output;
    EXPECT_FALSE(fs::exists(path("never.md")) || fs::exists(path("never.md.part"))) << arguments;
  }
  const Ran help = ablate("--help");
  EXPECT_EQ(help.code, 0);
  for (const Technique& t : all_techniques()) EXPECT_NE(help.output.find("\n  " + t.name + " "), std::string::npos) << t.name;
}

}  // namespace
}  // namespace folio
