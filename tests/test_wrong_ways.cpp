// SPDX-License-Identifier: MIT
// Mistakes that published code has made with these mixers, made here on purpose: each must be caught by the tolerance that our own way
// meets in the same test. A tolerance that lets them pass would prove nothing elsewhere either.
#include "fixtures.h"
#include "one_op.h"

namespace folio {
namespace {

using one_op::Kind, one_op::Family, one_op::Decay;

// max|got − want| / max|want|; NaN and infinity where a result is none.
double distance(const std::vector<double>& got, const std::vector<double>& want) {
  double off = 0, most = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    off = larger(off, std::fabs(got[i] - want[i]));
    most = std::max(most, std::fabs(want[i]));
  }
  return off / most;
}

// One sequence fed to an op, and what it puts out for each token.
class Fed {
 public:
  Fed(const Kind& kind, const one_op::Tables& tables)
      : model_(kind, tables), device_(cpu(1)), engine_(model_, *device_, {.context = 512}), seq_(engine_.cache().open({})) {}
  std::vector<double> feed(std::span<const Token> text) {
    EXPECT_TRUE(engine_.cache().reserve(seq_, int(text.size()), int(text.size())));
    const Work work{&seq_, text, int(text.size())};
    const Tensor o = engine_.step({&work, 1});
    engine_.cache().commit(seq_, text);
    return {o.at<float>(), o.at<float>() + o.count()};
  }
  // The same, with other places than the tokens'.
  std::vector<double> feed_at(std::span<const Token> text, int32_t pos) {
    EXPECT_TRUE(engine_.cache().reserve(seq_, int(text.size()), int(text.size())));
    const Work work{&seq_, text, int(text.size())};
    Program& program = engine_.prepare({&work, 1});
    for (size_t i = 0; i < text.size(); ++i) program.input("pos").at<int32_t>()[i] = pos + int32_t(i);
    program.run();
    const Tensor o = program.output("logits");
    engine_.cache().commit(seq_, text);
    return {o.at<float>(), o.at<float>() + o.count()};
  }

 private:
  one_op::OneOp model_;
  std::unique_ptr<Device> device_;
  Engine engine_;
  Seq seq_;
};

std::vector<Token> some_text(int length) {
  std::vector<Token> text;
  for (int i = 0; i < length; ++i) text.push_back(Token(i * 389 % one_op::words));
  return text;
}

// A prompt of 40 tokens and 20 more, one by one. Where the levels of a log-linear mixer survive the prompt and the count of its tokens
// does not, the first new token overwrites level 0, the second level 1, and nothing is carried where it belongs.
TEST(WrongWays, PositionCounterDroppedAfterThePrompt) {
  for (bool delta : {false, true}) {
    const Kind kind{delta ? "gated delta" : "mamba2", Family::log_linear, Decay::scalar, delta};
    SCOPED_TRACE(kind.name);
    Inputs in;
    const one_op::Tables tables(in, kind);
    const std::vector<Token> text = some_text(60), prompt(text.begin(), text.begin() + 40);
    one_op::Recurrence exact(kind, tables);
    for (Token t : prompt) exact.step(t);
    one_op::Recurrence dropped = exact;
    dropped.drop_counter();
    Fed right(kind, tables), restarted(kind, tables);
    right.feed(prompt), restarted.feed(prompt);
    std::vector<double> want, by_levels, ours, by_places;
    auto append = [](std::vector<double>& to, const std::vector<double>& more) { to.insert(to.end(), more.begin(), more.end()); };
    for (size_t i = 40; i < text.size(); ++i) {
      append(want, exact.step(text[i]));
      append(by_levels, dropped.step(text[i]));
      append(ours, right.feed(std::span(text).subspan(i, 1)));
      append(by_places, restarted.feed_at(std::span(text).subspan(i, 1), int32_t(i) - 40));
    }
    EXPECT_LT(distance(ours, want), 1e-5);
    EXPECT_GT(distance(by_levels, want), 0.1);
    EXPECT_GT(distance(by_places, want), 0.1);
  }
}

// o of one page by the formula (q e^b)(k e^−b)ᵀ, in f32: right on paper.
std::vector<double> by_negative_cumsum(const one_op::Tables& t, const std::vector<Token>& text) {
  constexpr auto K = size_t(one_op::K), V = size_t(one_op::V);
  const size_t T = text.size();
  std::vector<float> q(T * K), k(T * K);
  float b[K] = {};
  for (size_t i = 0; i < T; ++i)
    for (size_t c = 0; c < K; ++c) {
      b[c] += t.g.row<float>(text[i])[c];
      q[i * K + c] = t.q.row<float>(text[i])[c] * std::exp(b[c]);
      k[i * K + c] = t.k.row<float>(text[i])[c] * std::exp(-b[c]);
    }
  std::vector<double> o;
  for (size_t i = 0; i < T; ++i) {
    float sum[V] = {};
    for (size_t s = 0; s <= i; ++s) {
      float score = 0;
      for (size_t c = 0; c < K; ++c) score += q[i * K + c] * k[s * K + c];
      for (size_t e = 0; e < V; ++e) sum[e] += score * t.v.row<float>(text[s])[e];
    }
    o.insert(o.end(), sum, sum + V);
  }
  return o;
}

// Decays of up to e^−12 a token leave e^−b no room in f32 within a page; with mild ones nobody would notice.
TEST(WrongWays, ExpOfTheNegativeSumInGla) {
  for (double strength : {0.1, 12.0}) {
    SCOPED_TRACE(strength);
    const Kind kind{.name = "gla", .family = Family::linear, .decay = Decay::channel, .beta = false, .strength = strength};
    Inputs in;
    const one_op::Tables tables(in, kind);
    const std::vector<Token> text = some_text(64);
    one_op::Recurrence exact(kind, tables);
    std::vector<double> want;
    for (Token t : text) {
      const std::vector<double> o = exact.step(t);
      want.insert(want.end(), o.begin(), o.end());
    }
    EXPECT_LT(distance(Fed(kind, tables).feed(text), want), 5e-6);
    const double wrong = distance(by_negative_cumsum(tables, text), want);
    if (strength < 1) EXPECT_LT(wrong, 5e-6);
    else EXPECT_FALSE(wrong < 0.1) << wrong;   // NaN is what it mostly is
  }
}

// How far the logits of a golden model's prompt are from PyTorch's with these weights.
float off_prompt(const Weights& weights, const fs::path& dir) {
  const auto model = load_model(weights);
  const auto device = cpu(1);
  Engine engine(*model, *device, {.chunk = 64, .cache_type = F32});
  Seq seq = engine.cache().open({});
  return worst_difference(all_logits(engine, seq, read_numbers<int32_t>(dir / "prompt.i32"), 50), read_numbers<float>(dir / "logits_prompt.f32"));
}

// A Mamba-2 whose groups of q and k are written out, one for each head: head h has those of group_of(h).
Weights with_groups_spread(const Weights& from, const std::function<int64_t(int64_t)>& group_of, std::vector<std::vector<float>>& memory) {
  Metadata meta = from.metadata();
  const int64_t H = from.integer("mixer.0.heads"), G = from.integer("mixer.0.groups"), N = from.integer("mixer.0.key_size");
  meta["mixer.0.groups"] = H;
  std::vector<int64_t> channel;   // which of the file's each of ours is: q, k, and behind them what stays
  for (int64_t part : {0, 1})
    for (int64_t h = 0; h < H; ++h)
      for (int64_t n = 0; n < N; ++n) channel.push_back((part * G + group_of(h)) * N + n);
  std::vector<WeightEntry> entries;
  for (const WeightEntry& e : from.tensors()) {
    const std::string& name = e.name;
    const bool rows = name.ends_with("mix.in.weight"), columns = name.ends_with("mix.conv.weight") || name.ends_with("mix.conv.bias");
    if (!rows && !columns) {
      entries.push_back(e);
      continue;
    }
    const int64_t outer = rows ? 1 : e.tensor.rows(), n = rows ? e.tensor.dim(0) : e.tensor.cols(), width = rows ? e.tensor.cols() : 1;
    std::vector<float>& to = memory.emplace_back();
    for (int64_t o = 0; o < outer; ++o)
      for (int64_t i = 0; i < n - 2 * G * N + 2 * H * N; ++i) {
        const int64_t at = i < 2 * H * N ? channel[size_t(i)] : i - 2 * H * N + 2 * G * N;
        const float* x = e.tensor.at<float>() + (o * n + at) * width;
        to.insert(to.end(), x, x + width);
      }
    Shape shape = e.tensor.shape;
    shape.dim[rows ? 0 : shape.rank - 1] += 2 * (H - G) * N;
    entries.push_back({.name = name, .tensor = Tensor::of(F32, shape, to.data())});
  }
  return Weights("spread", meta, entries, nullptr);
}

// Head h of H reads group ⌊h·G/H⌋. The plain PyTorch path of flash-linear-attention repeats the groups one behind the other.
TEST(WrongWays, GroupsTiledInMamba2) {
  const fs::path dir = source_dir() / "tests/golden/hf/mamba2_fla";
  const Weights file(convert(dir, "mamba2_fla"));
  const int64_t H = file.integer("mixer.0.heads"), G = file.integer("mixer.0.groups");
  ASSERT_EQ(G, 2);
  ASSERT_EQ(H, 4);
  std::vector<std::vector<float>> memory;
  memory.reserve(64);
  EXPECT_LT(off_prompt(file, dir), 1e-4f);
  EXPECT_LT(off_prompt(with_groups_spread(file, [&](int64_t h) { return h / (H / G); }, memory), dir), 1e-4f);
  EXPECT_GT(off_prompt(with_groups_spread(file, [&](int64_t h) { return h % G; }, memory), dir), 0.1f);
}

// What of gpt-oss a reader may overlook: tensors that a layer may have or not, and settings with a usual value.
TEST(WrongWays, PartsOfGptOssOverlooked) {
  const fs::path dir = source_dir() / "tests/golden/hf/gpt_oss";
  const Weights file(convert(dir, "gpt_oss"));
  EXPECT_LT(off_prompt(file, dir), 1e-4f);
  for (const std::string part : {".mix.sink", ".mix.qkv.bias", ".mix.out.bias", ".ffn.router.logit_bias", ".experts.gate.bias", ".experts.up.bias",
                                 ".experts.down.bias"}) {
    std::vector<WeightEntry> left;
    for (const WeightEntry& e : file.tensors())
      if (!e.name.ends_with(part)) left.push_back(e);
    ASSERT_EQ(left.size() + size_t(file.integer("layers")), file.tensors().size()) << part;
    EXPECT_GT(off_prompt(Weights("less", file.metadata(), left, nullptr), dir), 0.01f) << part;
  }
  const std::vector<std::pair<std::string, MetaValue>> usual = {{"mixer.1.window", int64_t(0)}, {"mixer.0.rope_truncate", int64_t(1)},
                                                                {"ffn.0.act", std::string("silu")}};
  for (const auto& [key, value] : usual) {
    Metadata meta = file.metadata();
    ASSERT_TRUE(meta.count(key)) << key;
    meta[key] = value;
    const std::vector<WeightEntry> all(file.tensors().begin(), file.tensors().end());
    EXPECT_GT(off_prompt(Weights("usual", meta, all, nullptr), dir), 0.001f) << key;
  }
}

// A comparison that forgets a NaN as soon as numbers follow it.
TEST(WrongWays, NaNThatIsForgotten) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), got[] = {0, nan, 1, 2}, want[] = {0, 1, 1, 2};
  EXPECT_TRUE(std::isnan(worst_difference(got, want)));
  EXPECT_TRUE(std::isnan(distance({0, nan, 1, 2}, {0, 1, 1, 2})));
  // The same in a golden file: its first number of out.o becomes NaN.
  const fs::path from = source_dir() / "tests/golden/mixers/loglinear_gdn_T1.npz", dir = scratch_dir() / "golden";
  fs::create_directories(dir);
  std::string bytes = read_file(from.string());
  const size_t data = bytes.find("\x93NUMPY", bytes.find("out.o.npy"));
  ASSERT_NE(data, std::string::npos);
  const double none = nan;
  std::memcpy(&bytes[data + 10 + uint8_t(bytes[data + 8]) + 256 * size_t(uint8_t(bytes[data + 9]))], &none, sizeof none);
  FileWriter out((dir / from.filename()).string());
  out.write(bytes);
  out.commit();
  const std::string check_golden = std::string(FOLIO_BIN_DIR) + "/check_golden ";
  EXPECT_EQ(run_command(check_golden + dir.string()).code, 1);
  EXPECT_EQ(run_command(check_golden + from.parent_path().string()).code, 0);
}

}  // namespace
}  // namespace folio
