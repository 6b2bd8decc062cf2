// SPDX-License-Identifier: MIT
// Qwen3-Next and Kimi Linear, whose layers are of two kinds each: nothing in their goldens is idle. Every tensor and every setting that is
// changed on purpose moves the logits by far more than test_models allows.
#include "changed_model.h"

namespace folio {
namespace {

struct Golden {
  std::string file;
  std::vector<int32_t> prompt;
  std::vector<float> want;
  explicit Golden(const std::string& name) {
    const fs::path dir = source_dir() / "tests/golden/hf" / name;
    file = convert(dir, name + "-changed");
    prompt = read_numbers<int32_t>(dir / "prompt.i32");
    want = read_numbers<float>(dir / "logits_prompt.f32");
  }
  float off(const Changed& changed) const { return worst_difference(logits_of(*changed.model, prompt, F32, 64), want); }
};

class Hybrid : public testing::TestWithParam<std::string> {};

TEST_P(Hybrid, EveryTensorMatters) {
  const Golden golden(GetParam());
  ASSERT_LT(golden.off({golden.file, "name", std::string("other")}), 1e-4f);
  const Weights weights(golden.file);
  for (size_t i = 0; i < weights.tensors().size(); ++i) EXPECT_GT(golden.off({golden.file, i}), 1e-3f) << weights.tensors()[i].name;
}

INSTANTIATE_TEST_SUITE_P(Models, Hybrid, testing::Values("qwen3_next", "kimi_linear"), [](const auto& info) { return info.param; });

MetaValue text(const char* value) { return std::string(value); }

void expect_all_matter(const std::string& name, const std::vector<std::pair<std::string, MetaValue>>& changes) {
  const Golden golden(name);
  for (const auto& [key, value] : changes)   // without norms of keys the delta rule runs off to NaN
    EXPECT_FALSE(golden.off({golden.file, key, value}) <= 1e-3f) << key;
}

TEST(Hybrid, SettingsOfQwen3NextMatter) {
  expect_all_matter("qwen3_next", {{"mixer.0.act", text("none")}, {"mixer.0.qk_norm", text("none")}, {"mixer.0.gate", text("before")},
                                   {"mixer.0.gate_act", text("sigmoid")}, {"mixer.0.beta_factor", 2.0}, {"mixer.1.qk_norm", int64_t(0)},
                                   {"mixer.1.rope_dims", int64_t(16)}, {"mixer.1.rope", text("adjacent")}, {"mixer.1.theta", 1e4},
                                   {"ffn.1.normalise", int64_t(0)}, {"ffn.1.shared_gate", int64_t(0)}, {"ffn.1.chosen", int64_t(3)}});
}

TEST(Hybrid, SettingsOfKimiLinearMatter) {
  expect_all_matter("kimi_linear", {{"mixer.0.act", text("none")}, {"mixer.0.qk_norm", text("none")}, {"mixer.0.gate", text("before")},
                                    {"mixer.0.gate_act", text("silu")}, {"mixer.1.rope", text("adjacent")}, {"mixer.1.norm_eps", 1e-1},
                                    {"ffn.1.bias", int64_t(0)}, {"ffn.1.normalise", int64_t(0)}, {"ffn.1.scale", 1.0},
                                    {"ffn.1.groups_kept", int64_t(4)}, {"ffn.1.group_best", int64_t(1)}});
}

// A gate's rows stand behind v's: a file without them, or with them and no gate, does not go through as something else.
TEST(Hybrid, AGateAndItsRowsGoTogether) {
  auto error = [](const std::string& name, const std::string& key, const MetaValue& value) -> std::string {
    try {
      Changed(convert(source_dir() / "tests/golden/hf" / name, name + "-gate"), key, value);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  const std::string without = error("qwen3_next", "mixer.1.gate", int64_t(0)), with = error("llama", "mixer.0.gate", int64_t(1));
  EXPECT_NE(without.find("'layer.2.mix.qkv.weight' is [192,32], expected [128,32]"), std::string::npos) << without;
  EXPECT_NE(with.find("'layer.0.mix.qkv.weight' is [64,32], expected [96,32]"), std::string::npos) << with;
}

}  // namespace
}  // namespace folio
