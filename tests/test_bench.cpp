// SPDX-License-Identifier: MIT
// bench as a program: that it measures what it lists, in each of its forms, and refuses nonsense in one sentence. Never how fast.
#include <nlohmann/json.hpp>

#include "fixtures.h"
#include "tools/lib/bench_ops.h"

namespace folio {
namespace {

using Json = nlohmann::json;

Ran bench(const std::string& arguments) { return run_command(std::string(FOLIO_BIN_DIR) + "/bench " + arguments); }

TEST(Bench, OpsAreMeasuredAsListed) {
  const Ran list = bench("ops --quick --list"), run = bench("ops --quick --repeats 1 -t 2 --json");
  ASSERT_EQ(run.code, 0) << run.output;
  const Json json = Json::parse(run.output);
  std::string names;
  for (const Json& c : json["cases"]) {
    names += c["case"].get<std::string>() + "\n";
    for (const char* key : {"flops", "bytes", "seconds", "gbps", "gflops", "share"})
      EXPECT_GT(c[key].get<double>(), 0) << key << " of " << c;
  }
  EXPECT_EQ(list.output, names);
  EXPECT_GT(json["limits"]["read_gbps"].get<double>(), 0);
}

TEST(Bench, OpsAreLeftOutWithAReason) {
  const Ran ran = bench("ops --only 'matmul bf16 T=8192' --most 1e-9 -t 2");
  EXPECT_EQ(ran.code, 0) << ran.output;
  EXPECT_NE(ran.output.find("matmul bf16 T=8192 8192->8192 left out: takes"), std::string::npos) << ran.output;
}

TEST(Bench, TableAndCsv) {
  const std::string flags = "ops --quick --type q8_0 --only 'matmul q8_0 T=8' --repeats 1 -t 2";
  const Ran table = bench(flags), csv = bench(flags + " --csv");   // below a line of limits
  EXPECT_NE(table.output.find("\n| case | us | GB/s | TFLOP/s | share of limit | limit |\n| --- |"), std::string::npos) << table.output;
  EXPECT_NE(csv.output.find("\ncase,us,GB/s,TFLOP/s,share of limit,limit\nmatmul q8_0 T=8 256->192,"), std::string::npos) << csv.output;
}

// Worked out by hand.
TEST(Bench, WorkOfACase) {
  const OpCase product{.op = "matmul", .type = BF16, .tokens = 2, .inputs = 3, .features = 5};
  EXPECT_EQ(product.flops(), 60);
  EXPECT_EQ(product.bytes(), 15 * 2 + (6 + 10) * 4);
  const OpCase mlp{.op = "mlp", .type = Q8_0, .tokens = 1, .inputs = 64, .features = 32};
  EXPECT_EQ(mlp.flops(), 3 * 2 * 64 * 32);
  EXPECT_EQ(mlp.bytes(), 3 * 64 * 34 + 2 * 64 * 4);
  const OpCase prefill{.op = "attend", .type = F16, .tokens = 3, .depth = 3, .heads = 2, .groups = 1, .head_size = 4};
  EXPECT_EQ(prefill.flops(), 4 * 2 * 4 * (1 + 2 + 3));
  EXPECT_EQ(prefill.bytes(), 2 * 3 * 4 * 2 + 2 * 3 * 2 * 4 * 4);
  const OpCase decode{.op = "attend", .type = F16, .tokens = 1, .sequences = 2, .depth = 10, .heads = 2, .groups = 1, .head_size = 4};
  EXPECT_EQ(decode.flops(), 2 * 4 * 2 * 4 * 10);
  EXPECT_EQ(decode.name(), "attend f16 D=4 decode 2 x 10");
}

TEST(Bench, ModelsOfAllKinds) {
  for (const std::string shape : {"gpt2", "260k", "mla-2m"}) {
    const Ran ran = bench("model --shape " + shape + " --type q8_0 --prompt 4 --gen 4 --depth 8 --batch 2 --repeats 1 -t 2 --json");
    ASSERT_EQ(ran.code, 0) << ran.output;
    const Json json = Json::parse(ran.output);
    EXPECT_EQ(json["shape"], shape);
    EXPECT_GT(json["memory_bytes"].get<double>(), json["weight_bytes"].get<double>());
  }
}

TEST(Bench, RefusesNonsenseInOneSentence) {
  const std::vector<std::pair<std::string, std::string>> all = {
      {"ops --only nothing", "no case has 'nothing'"}, {"ops --type f5", "no weight format 'f5'"},
      {"ops --device tpu", "'tpu' is no device"},      {"ops --device cuda:99", "cuda"},
      {"model --shape 9b", "there is no shape '9b'"},  {"model --repeats 0", "must be positive"}};
  for (const auto& [flags, words] : all) {
    const Ran ran = bench(flags);
    EXPECT_EQ(ran.code, 1) << ran.output;
    EXPECT_EQ(ran.output.find("error: "), 0u) << ran.output;
    EXPECT_NE(ran.output.find(words), std::string::npos) << ran.output;
    EXPECT_EQ(std::count(ran.output.begin(), ran.output.end(), '\n'), 1) << ran.output;
  }
}

}  // namespace
}  // namespace folio
