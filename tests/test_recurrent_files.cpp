// SPDX-License-Identifier: MIT
// Recurrent layers in files that lie: sizes, head counts, tables and formats that do not go together end in one sentence that names the
// file and the tensor or key, when the model is loaded and not in a step.
#include "fixtures.h"
#include "tiny_recurrent.h"

namespace folio {
namespace {

using Change = std::function<void(WeightsWriter&)>;

Change meta(const std::string& key, const MetaValue& value) {
  return [=](WeightsWriter& w) { set_meta(w, "mixer.0." + key, value); };
}
Change meta(const std::string& key, int value) { return meta(key, MetaValue(int64_t(value))); }
Change meta(const std::string& key, const char* value) { return meta(key, MetaValue(std::string(value))); }
// Layer 1's tensor of that name with other numbers, or one that was not there.
Change tensor(const std::string& name, const Shape& shape, float value = 1, DType type = F32) {
  return [=](WeightsWriter& w) {
    std::erase_if(w.tensors, [&](const auto& e) { return e.name == "layer.1.mix." + name; });
    w.tensor("layer.1.mix." + name, shape, std::vector<float>(size_t(shape.count()), value), type);
  };
}
Change without(const std::string& name) {
  return [=](WeightsWriter& w) { std::erase_if(w.tensors, [&](const auto& e) { return e.name == "layer.1.mix." + name; }); };
}
Change both(const Change& a, const Change& b) {
  return [=](WeightsWriter& w) { a(w), b(w); };
}

struct Lie {
  TinyRecurrent model;
  Change change;
  const char* says;
};

const TinyRecurrent linear{}, log_linear{.kind = "log_linear"}, mesa{.kind = "mesa"};

std::vector<Lie> lies() {
  return {
      // Heads that cannot share keys.
      {linear, meta("groups", 3), ": 4 heads cannot share 3 key groups"},
      {linear, meta("groups", 0), ": 4 heads cannot share 0 key groups"},
      {linear, meta("groups", 8), ": 4 heads cannot share 8 key groups"},
      {linear, meta("heads", 5), ": 5 heads cannot share 2 key groups"},
      {linear, meta("heads", 0), "'mixer.0.heads' is 0, expected 1 to 65536"},
      {log_linear, meta("groups", -2), ": 4 heads cannot share -2 key groups"},
      {mesa, both(meta("conv", 0), meta("groups", 2)), ": mesa heads do not share keys"},
      {linear, both(meta("norm", "group"), meta("norm_groups", 3)), ": 16 values in 3 groups"},
      // Sizes that are not those of the tensors.
      {linear, meta("heads", 8), "'layer.0.mix.conv.weight' is [4,48], expected [4,64]"},
      {linear, meta("key_size", 9), "'layer.0.mix.conv.weight' is [4,48], expected [4,52]"},
      {linear, meta("key_size", 0), "'mixer.0.key_size' is 0, expected 1 to 4096"},
      {linear, meta("value_size", 1 << 20), "'mixer.0.value_size' is 1048576, expected 1 to 4096"},
      {linear, tensor("in.weight", {47, 16}), "'layer.1.mix.in.weight' is [47,16], expected [48,16]"},
      {linear, tensor("in.bias", {47}), "'layer.1.mix.in.bias' is [47], expected [48]"},
      {linear, tensor("out.weight", {16, 17}), "'layer.1.mix.out.weight' is [16,17], expected [16,16]"},
      {linear, tensor("out.bias", {15}), "'layer.1.mix.out.bias' is [15], expected [16]"},
      {linear, tensor("gates.weight", {4, 16}), "'layer.1.mix.gates.weight' is [4,16], expected [8,16]"},
      {linear, tensor("gates.bias", {9}), "'layer.1.mix.gates.bias' is [9], expected [8]"},
      {linear, tensor("conv.weight", {3, 48}), "'layer.1.mix.conv.weight' is [3,48], expected [4,48]"},
      {linear, tensor("conv.bias", {4}), "'layer.1.mix.conv.bias' is [4], expected [48]"},
      {linear, tensor("decay.rate", {2}), "'layer.1.mix.decay.rate' is [2], expected [4]"},
      {linear, tensor("decay.bias", {8}), "'layer.1.mix.decay.bias' is [8], expected [4]"},
      {linear, tensor("norm.weight", {16}), "'layer.1.mix.norm.weight' is [16], expected [4]"},
      {linear, both(meta("skip", 1), tensor("skip", {4})), "there is no tensor 'layer.0.mix.skip'"},
      {log_linear, tensor("level.weight", {4, 10}), "'layer.1.mix.level.weight' is [4,10], expected [40]"},
      {log_linear, tensor("gates.weight", {8, 16}), "'layer.1.mix.gates.weight' is [8,16], expected [48,16]"},
      {mesa, tensor("ridge", {4, 7}), "'layer.1.mix.ridge' is [4,7], expected [4,8]"},
      {linear, without("decay.rate"), "there is no tensor 'layer.1.mix.decay.rate'"},
      {linear, meta("decay", "channel"), "'layer.0.mix.decay.rate' is [4], expected [32]"},
      // Tables of levels that end too early, and sizes no table has.
      {{.kind = "log_linear", .levels = 9}, nullptr, "'mixer.0.levels' is 9: the table ends after 256 tokens, and 'context' is 512"},
      {{.kind = "log_linear", .levels = 1}, nullptr, "'mixer.0.levels' is 1: the table ends after 1 tokens, and 'context' is 512"},
      {{.kind = "log_linear", .levels = 47}, nullptr, "'mixer.0.levels' is 47, expected 1 to 46"},
      {log_linear, meta("levels", 0), "'mixer.0.levels' is 0, expected 1 to 46"},
      // What the mathematics has no answer for.
      {linear, meta("normalise", 1), ": the delta rule has no normaliser"},
      {mesa, meta("normalise", 1), ": only linear attention has a normaliser"},
      {log_linear, meta("decay", "none"), "want a decay for each head"},
      {mesa, meta("decay", "channel"), "want a decay for each head"},
      {mesa, meta("beta", 0), ": mesa wants write strengths"},
      {mesa, meta("iterations", 0), ": mesa with tolerance"},
      {mesa, tensor("ridge", {4, 8}, 0), "'layer.1.mix.ridge' holds 0, expected numbers above 0"},
      {linear, tensor("decay.rate", {4}, 0.5f), "'layer.1.mix.decay.rate' holds 0.5, expected numbers below 0 or 0"},
      {linear, both(meta("conv", 0), both(meta("rope", "half"), meta("key_size", 7))), "rope turns pairs, and 'mixer.0.key_size' is 7"},
      {linear, meta("conv", 65), ": a convolution over 65 tokens, expected 1 to 64"},
      // Words and formats.
      {linear, meta("kind", "quadratic"), "mixer kind 'quadratic' is not known"},
      {linear, meta("decay", "weekly"), "'mixer.0.decay' is 'weekly'; known are: none, constant, head, channel"},
      {linear, meta("heads", "four"), "metadata 'mixer.0.heads' is a text, expected an integer"},
      {linear, tensor("norm.weight", {4}, 1, F16), "'layer.1.mix.norm.weight' is f16, expected f32"},
      {linear, tensor("gates.bias", {8}, 1, BF16), "'layer.1.mix.gates.bias' is bf16, expected f32"},
      {linear,
       [](WeightsWriter& w) {
         std::erase_if(w.tensors, [](const auto& e) { return e.name == "layer.1.mix.in.weight"; });
         w.integers("layer.1.mix.in.weight", {48, 16}, std::vector<int32_t>(48 * 16));
       },
       "'layer.1.mix.in.weight' is i32, expected a format of weights"},
  };
}

TEST(RecurrentFiles, LiesAreNamedInOneSentence) {
  const std::string file = (scratch_dir() / "lie.folio").string();
  for (const Lie& lie : lies()) {
    write_tiny_recurrent(file, lie.model, lie.change);
    const Weights weights(file);
    try {
      load_model(weights);
      ADD_FAILURE() << "was loaded, and should have said: " << lie.says;
    } catch (const Error& error) {
      const std::string what = error.what();
      EXPECT_NE(what.find(lie.says), std::string::npos) << what << "\ndoes not say: " << lie.says;
      EXPECT_NE(what.find("lie.folio"), std::string::npos) << what;
      EXPECT_EQ(what.find('\n'), std::string::npos) << what;
    }
  }
}

// As a person meets them: exit code 1, one line, nothing else.
TEST(RecurrentFiles, ProgramsEndWithThatSentence) {
  const std::string file = (scratch_dir() / "lie.folio").string();
  write_tiny_recurrent(file, log_linear, meta("groups", 3));
  for (const char* program : {"generate --tokens '1 2'", "score --tokens '1 2'"}) {
    const std::string command = program;
    const size_t name = command.find(' ');
    const Ran ran = run_command(std::string(FOLIO_BIN_DIR) + "/" + command.substr(0, name) + " -m " + file + command.substr(name));
    EXPECT_EQ(ran.code, 1);
    EXPECT_EQ(ran.output, "error: " + file + ": 4 heads cannot share 3 key groups\n");
  }
}

// And without a lie each of them runs.
TEST(RecurrentFiles, TheTruthIsLoaded) {
  const TinyRecurrent simple{.delta = false}, mamba{.kind = "log_linear", .delta = false};
  for (const TinyRecurrent& model : {linear, log_linear, mesa, simple, mamba}) {
    Loaded loaded(write_tiny_recurrent((scratch_dir() / "truth.folio").string(), model));
    Engine engine(*loaded.model, *loaded.device, {.chunk = 40});
    Seq seq = engine.cache().open({});
    std::vector<Token> text;
    for (int i = 0; i < 150; ++i) text.push_back(i * 7 % tiny_recurrent_vocab);
    for (float x : all_logits(engine, seq, text, 40)) ASSERT_TRUE(std::isfinite(x)) << model.kind;
    EXPECT_EQ(loaded.model->reach(), model.kind == "log_linear" ? 512 : INT64_MAX);
  }
}

}  // namespace
}  // namespace folio
