// SPDX-License-Identifier: MIT
// stories260K through the program, from both of its checkpoints: the greedy text of llama2.c's 256 places, byte for byte.
#include <nlohmann/json.hpp>

#include "fixtures.h"

namespace folio {
namespace {

struct Story {
  std::string golden, prompt;   // without prompt: from the token that begins a text
};

class Stories : public testing::TestWithParam<std::string> {};

TEST_P(Stories, GreedyTextIsTheGoldenOne) {
  const fs::path dir = shared_dir() / "models/stories260K";
  if (shared_dir().empty()) GTEST_SKIP() << "no shared folder with stories260K beside the repository";
  const std::string tokenizer = GetParam() == "stories260K.bin" ? "--tokenizer " + (dir / "tok512.bin").string() : "";
  const std::string model = convert(dir / GetParam(), "story-" + GetParam(), tokenizer);
  for (const auto& [golden, prompt] : {Story{"noprompt", ""}, Story{"once", "Once upon a time"}, Story{"dogcat", "The dog and the cat"}}) {
    SCOPED_TRACE(golden);
    const std::string program = std::string(FOLIO_BIN_DIR) + "/generate -q --temp 0 -m " + model;
    const std::string input = prompt.empty() ? " --tokens 1" : " -p '" + prompt + "'";
    const Ran counted = run_command(program + input + " -n 0 --json");
    ASSERT_EQ(counted.code, 0) << counted.output;
    // llama2.c's -n counts places of the text: the prompt's tokens after the first are among them.
    const int n = 257 - int(nlohmann::json::parse(counted.output)["prompt_tokens"]);
    for (const std::string how : {"-t 1", "-t 2 --chunk 3"}) {
      const Ran ran = run_command(program + input + " -n " + std::to_string(n) + " " + how);
      EXPECT_EQ(ran.code, 0);
      EXPECT_EQ(ran.output, read_file((dir / ("golden_" + golden + "_n256.txt")).string())) << how;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, Stories, testing::Values("stories260K.bin", "stories260K.gguf"),
                         [](const auto& info) { return info.param.substr(info.param.find('.') + 1); });

}  // namespace
}  // namespace folio
