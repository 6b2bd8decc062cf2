// SPDX-License-Identifier: MIT
// Experts beyond their op cases: the router against transformers' own (tests/golden/routes.npz, made by make_golden.py); that a token's
// results do not hang on its company; that nobody reads an expert that was not chosen; and what a damaged description is told.
#include "fixtures.h"

#include <sys/mman.h>

#include "cases.h"
#include "every_set.h"
#include "ops/experts.h"
#include "tools/lib/npz.h"

namespace folio {
namespace {

// Runs one op on a device and copies its outputs.
template <class Op, class Get>
std::vector<Tensor> results(Device& device, Op op, Store& store, Get outputs) {
  auto graph = std::make_unique<Graph>();
  op = graph->record(op);
  const auto tensors = outputs(op);
  for (size_t i = 0; i < tensors.size(); ++i) graph->output(std::to_string(i), tensors[i]);
  const auto program = device.compile(std::move(graph));
  program->run();
  std::vector<Tensor> out;
  for (size_t i = 0; i < tensors.size(); ++i) out.push_back(store.copy(program->output(std::to_string(i))));
  return out;
}

// --- The router.

Tensor floats(Store& store, const Array& array) {
  Tensor t = array.dims.size() == 2 ? store.zeros(F32, {array.dims[0], array.dims[1]}) : store.zeros(F32, {array.dims[0]});
  for (size_t i = 0; i < array.numbers.size(); ++i) t.at<float>()[i] = float(array.numbers[i]);
  return t;
}

// The weight of each expert for each token, 0 where it is not chosen: no order among the chosen is asked for.
std::vector<float> dense(const Tensor& chosen, const Tensor& weight, int64_t experts) {
  std::vector<float> out(size_t(chosen.dim(0) * experts), 0.0f);
  for (int64_t t = 0; t < chosen.dim(0); ++t)
    for (int64_t j = 0; j < chosen.cols(); ++j) {
      const int32_t e = chosen.row<int32_t>(t)[j];
      EXPECT_TRUE(e >= 0 && e < experts);
      out[size_t(t * experts + e)] += weight.row<float>(t)[j];
    }
  return out;
}

struct GoldenRoute {
  Route op;
  std::vector<float> want;   // as dense() has it
};

GoldenRoute golden_route(const Npz& file, const std::string& name, Store& store) {
  const std::vector<double> o = file.read(name + ".options").numbers;   // scoring, k, groups, kept, group_best, normalise, scale
  GoldenRoute golden{{.logits = floats(store, file.read(name + ".logits")), .scoring = Scoring(int(o[0])), .k = int(o[1]),
                      .groups = int(o[2]), .kept = int(o[3]), .group_best = int(o[4]), .normalise = o[5] != 0, .scale = float(o[6])},
                     {}};
  if (file.has(name + ".bias")) golden.op.bias = floats(store, file.read(name + ".bias"));
  for (double x : file.read(name + ".weights").numbers) golden.want.push_back(float(x));
  return golden;
}

// The weights of those chosen, by sigmoids and their bias: the mistake that Route must not make.
Tensor leaky(const Route& op, const Tensor& chosen, Store& store) {
  Tensor weight = store.zeros(F32, chosen.shape);
  for (int64_t t = 0; t < chosen.dim(0); ++t) {
    float sum = 0, *row = weight.row<float>(t);
    for (int j = 0; j < op.k; ++j) {
      const int32_t e = chosen.row<int32_t>(t)[j];
      sum += row[j] = 1 / (1 + std::exp(-op.logits.row<float>(t)[e])) + op.bias.at<float>()[e];
    }
    for (int j = 0; j < op.k; ++j) row[j] *= op.scale / sum;
  }
  return weight;
}

TEST(Route, ChoosesAsTransformersDoes) {
  const Npz file((source_dir() / "tests/golden/routes.npz").string());
  int with_bias = 0;
  for (const std::string name : {"mixtral", "qwen3_moe", "qwen2_moe", "v2_greedy", "v2_groups", "v3"}) {
    SCOPED_TRACE(name);
    Store store;
    const GoldenRoute golden = golden_route(file, name, store);
    const int64_t experts = golden.op.logits.cols();
    const auto got = results(*cpu(2), golden.op, store, [](const Route& op) { return std::vector<Tensor>{op.chosen, op.weight}; });
    EXPECT_LT(worst_difference(dense(got[0], got[1], experts), golden.want), 1e-6f * std::max(1.0f, golden.op.scale));
    if (!golden.op.bias.present()) continue;
    // The comparison sees a bias that leaks into the weights.
    ++with_bias;
    EXPECT_GT(worst_difference(dense(got[0], leaky(golden.op, got[0], store), experts), golden.want), 1e-2f);
    // And one that is forgotten: another choice.
    GoldenRoute without = golden;
    without.op.bias = {};
    const auto other = results(*cpu(1), without.op, store, [](const Route& op) { return std::vector<Tensor>{op.chosen, op.weight}; });
    EXPECT_GT(worst_difference(dense(other[0], other[1], experts), golden.want), 1e-2f);
  }
  EXPECT_EQ(with_bias, 1);
}

// --- The products.

const DType formats[] = {F32, F16, BF16, Q8_0, Q4_0, F8_E4M3};

ExpertMatmul product(Inputs& in, DType type, int64_t tokens, int64_t k, int64_t experts, int64_t features, int64_t inputs, bool gate) {
  ExpertMatmul op{.x = in.normal({tokens, inputs}), .chosen = in.ids(-1, experts, {tokens, k}),
                  .w = in.normal({experts, features, inputs}, type), .act = Act::silu};
  if (gate) op.gate = in.normal({experts, features, inputs}, type);
  return op;
}

Tensor run(const ExpertMatmul& op, int threads, Store& store) {
  return results(*cpu(threads), op, store, [](const ExpertMatmul& o) { return std::vector<Tensor>{o.y}; })[0];
}

bool same_bits(const Tensor& got, const float* want) { return std::memcmp(got.data, want, size_t(got.bytes())) == 0; }

// Few and many tokens of an expert, alone and in company, by any number of threads.
TEST(ExpertMatmul, AResultDoesNotDependOnItsCompany) {
  with_every_set([] {
    for (DType type : formats)
      for (bool gate : {false, true}) {
        SCOPED_TRACE(format(type).name);
        Inputs in;
        Store store;
        const int64_t most = 60, k = 3, row = k * 37;
        const ExpertMatmul all = product(in, type, most, k, 5, 37, 192, gate);
        const Tensor want = run(all, 1, store);
        for (int threads : {2, 3}) EXPECT_TRUE(same_bits(run(all, threads, store), want.at<float>())) << threads << " threads";
        for (int64_t tokens : {1, 2, 3, 5, 8, 13, 30}) {
          ExpertMatmul part = all;
          const int64_t first = most - tokens - 7;
          part.x = all.x.slice(first, tokens);
          part.chosen = all.chosen.slice(first, tokens);
          EXPECT_TRUE(same_bits(run(part, int(tokens % 3) + 1, store), want.at<float>() + first * row)) << tokens << " tokens";
        }
      }
  });
}

// A stack of matrices whose experts lie in pages of their own. Those that are not chosen cannot be read: whoever touches one falls.
class Guarded {
 public:
  static constexpr int64_t apart = 65536;   // elements between experts; in every format whole pages
  Guarded(Inputs& in, DType type, int64_t experts, int64_t features, int64_t inputs) : bytes_(size_t(bytes_of(type, experts * apart))) {
    void* at = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(at != MAP_FAILED, "test: no memory");
    stack = Tensor::of(type, {experts, features, inputs}, at);
    stack.stride[0] = apart;
    for (int64_t e = 0; e < experts; ++e) {
      const Tensor one = in.normal({features, inputs}, type);
      for (int64_t n = 0; n < features; ++n)
        std::memcpy(stack.row_bytes(e * features + n), one.row_bytes(n), size_t(bytes_of(type, inputs)));
    }
  }
  ~Guarded() { munmap(stack.data, bytes_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  void allow(const std::vector<int32_t>& chosen) const {
    for (int32_t e = 0; e < stack.dim(0); ++e) {
      const bool open = std::find(chosen.begin(), chosen.end(), e) != chosen.end();
      check(mprotect(stack.data + bytes_of(stack.type, e * apart), size_t(bytes_of(stack.type, apart)), open ? PROT_READ : PROT_NONE) == 0,
            "test: mprotect");
    }
  }
  Tensor stack;

 private:
  size_t bytes_;
};

TEST(ExpertMatmul, ReadsNoExpertThatNobodyChose) {
  with_every_set([] {
    for (DType type : formats) {
      SCOPED_TRACE(format(type).name);
      Inputs in;
      Store store;
      const Guarded w(in, type, 8, 40, 128), gate(in, type, 8, 40, 128);
      for (int64_t tokens : {1, 2, 40}) {
        const std::vector<int32_t> chosen = {6, 2};
        ExpertMatmul op{.x = in.normal({tokens, 128}), .chosen = in.ids(0, 2, {tokens, 2}), .w = w.stack, .gate = gate.stack,
                        .act = Act::silu};
        for (int64_t i = 0; i < op.chosen.count(); ++i) op.chosen.at<int32_t>()[i] = chosen[size_t(op.chosen.at<int32_t>()[i])];
        w.allow({0, 1, 2, 3, 4, 5, 6, 7}), gate.allow({0, 1, 2, 3, 4, 5, 6, 7});
        const Tensor want = run(op, 1, store);
        w.allow(chosen), gate.allow(chosen);
        for (int threads : {1, 2}) EXPECT_TRUE(same_bits(run(op, threads, store), want.at<float>())) << tokens << " tokens";
      }
    }
  });
}

// The guard itself.
TEST(ExpertMatmulDeathTest, WhoReadsAForbiddenExpertFalls) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH({
    Inputs in;
    const Guarded w(in, F32, 2, 4, 8);
    w.allow({0});
    volatile float x = w.stack.row<float>(4)[0];
    (void)x;
  }, "");
}

// --- Whole models.

Weights golden_weights() { return Weights(convert(source_dir() / "tests/golden/hf/qwen2_moe", "experts")); }

// The same file with other metadata, or without a tensor.
Weights changed(const Weights& from, const Metadata& meta, const std::string& without = "") {
  Metadata all = from.metadata();
  for (const auto& [key, value] : meta) all[key] = value;
  std::vector<WeightEntry> tensors = from.tensors();
  std::erase_if(tensors, [&](const WeightEntry& entry) { return entry.name == without; });
  return Weights("spoilt", all, tensors, std::shared_ptr<const std::byte>());
}

TEST(Experts, ATokenIsSaidToReadWhatItChoosesAlone) {
  const Weights weights = golden_weights();
  const auto model = load_model(weights);
  int64_t bytes = 0, elements = 0;
  for (const WeightEntry& entry : weights.tensors()) {
    if (entry.tensor.rank() < 2 || entry.name == "embed.weight") continue;
    const bool stacked = entry.tensor.rank() == 3;   // a token meets three of six
    bytes += entry.tensor.bytes() / (stacked ? 2 : 1);
    elements += entry.tensor.count() / (stacked ? 2 : 1);
  }
  EXPECT_EQ(model->weight_bytes(), bytes);
  EXPECT_EQ(model->flops_per_token(), 2 * elements);
}

TEST(Experts, ADescriptionThatDoesNotFitIsRefusedInOneSentence) {
  const Weights good = golden_weights();
  const auto complaint = [&](const Metadata& meta, const std::string& without = "") -> std::string {
    const Weights spoilt = changed(good, meta, without);
    try {
      load_model(spoilt);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(complaint({}), "");
  const std::string p = "ffn.1.";
  const auto integer = [&](const char* key, int64_t n) { return Metadata{{p + key, n}}; };
  EXPECT_EQ(complaint(integer("groups", 4)), "spoilt: 'ffn.1.groups' is 4, which does not divide 6 experts");
  EXPECT_EQ(complaint({{p + "groups", int64_t(2)}, {p + "groups_kept", int64_t(3)}}), "spoilt: 'ffn.1.groups_kept' is 3 of 2 groups");
  EXPECT_EQ(complaint({{p + "groups", int64_t(6)}, {p + "group_best", int64_t(2)}}),
            "spoilt: 'ffn.1.group_best' is 2 with 1 experts in a group, expected 1 or 2");
  EXPECT_EQ(complaint(integer("chosen", 7)), "spoilt: 'ffn.1.chosen' is 7 of 6 experts that may be chosen");
  EXPECT_EQ(complaint(integer("chosen", 0)), "spoilt: 'ffn.1.chosen' is 0, expected 1 to 16777216");
  EXPECT_EQ(complaint({{p + "scoring", std::string("luck")}}), "spoilt: 'ffn.1.scoring' is 'luck', expected softmax or sigmoid");
  EXPECT_NE(complaint(integer("bias", 1)).find("layer.1.ffn.router.bias"), std::string::npos);
  for (const std::string name : {"router.weight", "experts.up.weight", "experts.gate.weight", "experts.down.weight", "shared.up.weight",
                                 "shared_gate.weight"})
    EXPECT_NE(complaint({}, "layer.1.ffn." + name).find("layer.1.ffn." + name), std::string::npos) << name;
  const std::string shapes = complaint(integer("experts", 5));
  EXPECT_NE(shapes.find("[6,32]"), std::string::npos) << shapes;
  EXPECT_NE(shapes.find("[5,32]"), std::string::npos) << shapes;
  EXPECT_NE(complaint({{p + "kind", std::string("expert")}}).find("known are: dense, experts, none"), std::string::npos);
}

}  // namespace
}  // namespace folio
