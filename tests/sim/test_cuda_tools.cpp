// SPDX-License-Identifier: MIT
// The tools with --device cuda, as programs, on the simulated card: the text and the clips that the CPU makes, whole models compared node
// by node, and bench, whose figures mean nothing here but whose keys are those of the CPU.
#include <nlohmann/json.hpp>
#include <set>

#include "files/image.h"
#include "fixtures.h"
#include "tiny_model.h"
#include "tiny_video.h"
#include "tools/lib/npz.h"

namespace folio {
namespace {

using Json = nlohmann::json;

Ran run(const std::string& program, const std::string& arguments) {
  return run_command(std::string(FOLIO_BIN_DIR) + "/" + program + " " + arguments);
}

std::string tiny() {
  static const std::string path = write_tiny_model((scratch_dir() / "tiny.folio").string(), {.random = true});
  return path;
}
std::string shipped() { return (source_dir() / "models/weights/folio-text-4m.folio").string(); }

TEST(CudaTools, GenerateWritesTheTextOfTheCpu) {
  const std::string flags = " -p 'First Citizen:' -n 24 --temp 0 -q";
  const Ran card = run("sim_generate", "-m " + shipped() + flags + " --device cuda"), host = run("generate", "-m " + shipped() + flags);
  EXPECT_EQ(card.code, 0) << card.output;
  EXPECT_EQ(card.output, host.output);
  EXPECT_GT(host.output.size(), 30u);
}

// Other people's trained models, which the CPU's tests run to their end: here the beginning of each golden text.
// Tokens that are guessed are drawn on the card, each at its own place; a batch's on the host.
TEST(CudaTools, GuessesAndBatchesSayWhatTheCpuSays) {
  const std::string flags = " -m " + tiny() + " -c 128 ", guess = "-p abcabcabcabc -n 12 --temp 0.7 -s 4 --ignore-eos -q --draft-ngram --draft-min-match 1 --draft-always";
  const Ran card = run("sim_generate", flags + guess + " --device cuda"), host = run("generate", flags + guess);
  EXPECT_EQ(card.code, 0) << card.output;
  EXPECT_EQ(card.output, host.output);
  const auto file = [](const std::string& name) { return (scratch_dir() / name).string(); };
  FileWriter in(file("in.jsonl"));
  for (int i = 0; i < 3; ++i) in.write("{\"prompt\": \"" + std::string(70, 'a') + std::string(size_t(i), 'b') + "\", \"max_tokens\": 4, \"seed\": 2}\n");
  in.commit();
  const std::string batch = flags + "--max-batch 2 -q --batch " + file("in.jsonl") + " -o ", kept = " --cache-file " + file("card.kv");
  EXPECT_EQ(run("sim_generate", batch + file("card.jsonl") + " --device cuda" + kept).code, 0);
  EXPECT_EQ(run("generate", batch + file("host.jsonl")).code, 0);
  EXPECT_EQ(read_file(file("card.jsonl")), read_file(file("host.jsonl")));
  // What the card has left behind serves the next run on it.
  const Ran again = run("sim_generate", batch + file("again.jsonl") + " --device cuda" + kept);
  EXPECT_EQ(again.code, 0) << again.output;
  EXPECT_NE(again.output.find("64 tokens are remembered"), std::string::npos) << again.output;
}

TEST(CudaTools, StoriesBeginAsTheGoldenTexts) {
  if (shared_dir().empty()) GTEST_SKIP() << "no shared folder with stories260K beside the repository";
  const fs::path dir = shared_dir() / "models/stories260K";
  const std::vector<std::pair<std::string, std::string>> checkpoints = {{"bin", " --tokenizer " + (dir / "tok512.bin").string()}, {"gguf", ""}};
  for (const auto& [kind, tokenizer] : checkpoints) {
    const std::string model = convert(dir / ("stories260K." + kind), "story-" + kind, tokenizer);
    for (const auto& [golden, prompt] : {std::pair{"noprompt", "--tokens 1"}, std::pair{"dogcat", "-p 'The dog and the cat'"}}) {
      const Ran ran = run("sim_generate", join("-m ", model, " ", prompt, " -n 40 --temp 0 -q --device cuda"));
      EXPECT_EQ(ran.code, 0) << ran.output;
      const std::string text = ran.output.substr(0, ran.output.find_last_not_of('\n') + 1);
      EXPECT_GT(text.size(), 80u) << kind;
      EXPECT_EQ(text, read_file((dir / join("golden_", golden, "_n256.txt")).string()).substr(0, text.size())) << kind;
    }
  }
}

// Its context holds six digits and five answers.
TEST(CudaTools, GptNanoSorts) {
  if (shared_dir().empty()) GTEST_SKIP() << "no shared folder with gpt-nano-sort beside the repository";
  const std::string model = convert(shared_dir() / "models/gpt-nano-sort/gpt-nano-sort-model.json", "sort");
  for (int input = 5; input < 729; input += 120) {
    std::vector<int> digits;
    for (int i = 0, n = input; i < 6; ++i, n /= 3) digits.push_back(n % 3);
    std::string tokens;
    for (int digit : digits) tokens += join(digit, " ");
    const Ran ran = run("sim_generate", join("-m ", model, " --tokens '", tokens, "' -n 5 --temp 0 --json -q --device cuda"));
    ASSERT_EQ(ran.code, 0) << ran.output;
    std::sort(digits.begin(), digits.end());
    digits.pop_back();
    EXPECT_EQ(Json::parse(ran.output)["tokens"].get<std::vector<int>>(), digits) << "of " << tokens;
  }
}

// Three tokens: the card pads them to four, and so does the CPU when it is compared with a card.
TEST(CudaTools, WholeModelsAreComparedNodeByNode) {
  for (const std::string flags : {"--device cuda --against cpu", "--device cpu --against cuda", "--device cuda:0 --against reference"}) {
    const Ran ran = run("sim_generate", "-m " + tiny() + " -t 2 -p abc " + flags);
    EXPECT_EQ(ran.code, 0) << ran.output;
    EXPECT_NE(ran.output.find(" agrees with "), std::string::npos) << ran.output;
  }
  const Ran ran = run("sim_generate", "-m " + shipped() + " -t 2 -p 'Before we proceed any further, hear me' --device cuda --against cpu");
  EXPECT_EQ(ran.code, 0) << ran.output;
}

TEST(CudaTools, DevicesThatAreNotThereAreNamed) {
  const std::vector<std::pair<std::string, std::string>> all = {
      {"--against cuda:9", "there is no card 9"}, {"--against gpu", "'gpu' is no device"}, {"--device cuda:x", "'cuda:x' is no device"}};
  for (const auto& [flags, words] : all) {
    const Ran ran = run("sim_generate", "-m " + tiny() + " -p abc " + flags);
    EXPECT_EQ(ran.code, 1);
    EXPECT_NE(ran.output.find(words), std::string::npos) << ran.output;
    EXPECT_EQ(std::count(ran.output.begin(), ran.output.end(), '\n'), 1) << ran.output;
  }
}

// The program on the card and on the CPU: the bytes of the frames that they write are apart by at most one, and there is something to see.
void expect_same_clip(const std::string& flags) {
  std::vector<uint8_t> bytes[2];
  for (const bool card : {true, false}) {
    const std::string out = (scratch_dir() / (card ? "card.rgb" : "host.rgb")).string();
    const Ran ran = run(card ? "sim_videogen" : "videogen", join(flags, " -t 1 -q -o ", out, card ? " --device cuda" : ""));
    ASSERT_EQ(ran.code, 0) << ran.output;
    bytes[card ? 0 : 1] = read_numbers<uint8_t>(out);
  }
  ASSERT_EQ(bytes[0].size(), bytes[1].size());
  for (size_t i = 0; i < bytes[0].size(); ++i) ASSERT_NEAR(bytes[0][i], bytes[1][i], 1) << "byte " << i;
  EXPECT_GT(std::set(bytes[1].begin(), bytes[1].end()).size(), 20u);
}

// From noise, words and a picture that is given to frames: log-linear attention, Mesa, the solver, encoder and decoder.
TEST(CudaTools, VideogenMakesTheClipOfTheCpu) {
  const auto file = [](const std::string& name) { return (scratch_dir() / name).string(); };
  const std::string model = write_tiny_video(file("video.folio"));
  std::vector<uint8_t> rgb(16 * 16 * 3);
  for (size_t i = 0; i < rgb.size(); ++i) rgb[i] = uint8_t(i * 7);
  write_png(file("first.png"), {16, 16, rgb});
  expect_same_clip("-m " + model + " -p 'a red circle' -s 5 --steps 2 --sampler heun --init-image " + file("first.png") + " --latent-out " +
                   file("video.npy"));
  EXPECT_EQ(read_npy(file("video.npy")).dims, (std::vector<int64_t>{1, tiny_z, 3, 8, 8}));
}

// A trained layout's decoder, streamed, in bands, and from the checkpoint of one that looks ahead.
TEST(CudaTools, VideogenDecodesAsTheCpu) {
  const fs::path golden = source_dir() / "tests/golden/video";
  const std::string thin = convert(golden / "thin.safetensors", "thin"), tae = convert(golden / "taehv_mini/base.safetensors", "base");
  const auto latents = [](const std::string& name, const std::vector<int64_t>& dims) {
    const std::string path = (scratch_dir() / name).string();
    std::vector<float> numbers;
    for (int64_t i = 0; i < dims[1] * dims[2] * dims[3] * dims[4]; ++i) numbers.push_back(normal(11, uint64_t(i)));
    write_npy(path, dims, numbers);
    return " --vae-only --latent-in " + path;
  };
  expect_same_clip("--vae " + thin + latents("thin.npy", {1, 32, 3, 4, 5}));
  expect_same_clip("--vae " + tae + latents("tae.npy", {1, 4, 2, 2, 3}));
}

std::vector<std::string> keys(const Json& json) {
  std::vector<std::string> all;
  const Json flat = json.flatten();
  for (const auto& [key, value] : flat.items()) all.push_back(key);
  return all;
}

TEST(CudaTools, BenchOfAModelSaysTheSameOnBothDevices) {
  const std::string flags = "model --shape 260k --type bf16 --prompt 9 --gen 8 --depth 64 --batch 1 --repeats 1 --json --device ";
  const Ran card = run("sim_bench", flags + "cuda"), host = run("bench", flags + "cpu -t 2");
  ASSERT_EQ(card.code, 0) << card.output;
  ASSERT_EQ(host.code, 0) << host.output;
  const Json a = Json::parse(card.output), b = Json::parse(host.output);
  EXPECT_EQ(keys(a), keys(b));
  EXPECT_EQ(a["prefill_unit"], "bf16");   // which the simulated card always has
  for (const auto& [limit, rate] : a["limits"].items()) EXPECT_GT(rate.get<double>(), 0) << limit;
}

TEST(CudaTools, BenchOfOpsTimesByEvents) {
  const Ran ran = run("sim_bench", "ops --device cuda --quick --only 'attend f16 D=64 decode' --repeats 1 --json");
  ASSERT_EQ(ran.code, 0) << ran.output;
  const Json json = Json::parse(ran.output);
  ASSERT_EQ(json["cases"].size(), 2u);
  for (const Json& c : json["cases"]) EXPECT_GT(c["seconds"].get<double>(), 0) << c;
}

}  // namespace
}  // namespace folio
