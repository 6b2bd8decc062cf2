// SPDX-License-Identifier: MIT
// Whole layers through the code of the models: a file's tensors, named as flash-linear-attention names them, are bent into the form of
// models/mixers/recurrent.h and mla.h as tools/convert.py bends checkpoints, and an Engine feeds the layer in one go, in random pieces and with
// proposals that are partly rejected. The layer's inputs stand in a table where a model has its embeddings: token n is row n.
#include <algorithm>
#include <random>

#include "models/mixers/mixer.h"
#include "run/engine.h"
#include "tools/golden/golden.h"

namespace folio::golden {

namespace {

// Tensors by our names.
class Layer {
 public:
  explicit Layer(const Case& c) : c_(c) { memory_.reserve(64); }

  std::vector<double> theirs(const std::string& name) const { return c_.in("w." + name).numbers; }
  bool has(const std::string& name) const { return c_.file.has("in.w." + name); }
  void add(const std::string& name, const Shape& shape, const std::vector<double>& numbers) {
    check(int64_t(numbers.size()) == shape.count(), c_.file.path(), ": '", name, "' has ", numbers.size(), " numbers, expected ", shape.text());
    memory_.emplace_back(numbers.begin(), numbers.end());
    entries_.push_back({.name = "layer.0.mix." + name, .tensor = Tensor::of(F32, shape, memory_.back().data())});
  }
  // Rows of matrices with `columns` columns, one matrix below the other.
  void stack(const std::string& name, int64_t columns, const std::vector<std::string>& names) {
    std::vector<double> all;
    for (const std::string& each : names) {
      const auto rows = theirs(each);
      all.insert(all.end(), rows.begin(), rows.end());
    }
    add(name, {int64_t(all.size()) / columns, columns}, all);
  }
  void vector(const std::string& name, const std::vector<double>& numbers) { add(name, {int64_t(numbers.size())}, numbers); }
  void set(const std::string& key, MetaValue value) { meta_["mixer.0." + key] = std::move(value); }
  // One convolution over the channels of all of them, [taps, channels]; theirs are [channels, 1, taps].
  void convolve(const std::vector<double>& filters, int64_t taps) {
    const int64_t channels = int64_t(filters.size()) / taps;
    std::vector<double> turned(filters.size());
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t i = 0; i < taps; ++i) turned[size_t(i * channels + c)] = filters[size_t(c * taps + i)];
    add("conv.weight", {taps, channels}, turned);
    set("conv", taps);
    set("act", std::string("silu"));
  }
  Weights weights(int64_t dim) {
    meta_["dim"] = dim;
    meta_["norm.eps"] = c_.meta(c_.file.has("meta.eps") ? "eps" : "norm_eps");
    std::sort(entries_.begin(), entries_.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
    return Weights(c_.file.path(), meta_, entries_, nullptr);
  }

 private:
  const Case& c_;
  std::vector<std::vector<float>> memory_;
  std::vector<WeightEntry> entries_;
  Metadata meta_;
};

std::vector<double> negative_exp(std::vector<double> x) {
  for (double& v : x) v = -std::exp(v);
  return x;
}

std::vector<double> joined(std::vector<double> a, const std::vector<double>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

void gated_delta(Case& c, Layer& l, int64_t dim, bool levels) {
  const auto H = int64_t(c.meta("num_heads")), K = int64_t(c.meta("head_dim")), V = int64_t(double(K) * c.meta("expand_v"));
  l.set("kind", std::string(levels ? "log_linear" : "linear"));
  for (const auto& [key, n] : {std::pair{"heads", H}, {"key_size", K}, {"value_size", V}, {"beta", int64_t(1)}}) l.set(key, n);
  for (const auto& [key, word] : {std::pair{"qk_norm", "l2"}, {"decay", "head"}, {"gate", "after"}}) l.set(key, std::string(word));
  l.stack("in.weight", dim, {"q_proj.weight", "k_proj.weight", "v_proj.weight", "g_proj.weight"});
  std::vector<std::string> gates = {"a_proj.weight", "b_proj.weight"};
  if (levels) {
    gates.push_back("l_proj.weight");
    l.set("levels", int64_t(c.meta("num_levels")));
    l.vector("level.weight", l.theirs("L"));
  }
  l.stack("gates.weight", dim, gates);
  l.stack("out.weight", H * V, {"o_proj.weight"});
  l.vector("decay.rate", negative_exp(l.theirs("A_log")));
  l.vector("decay.bias", l.theirs("dt_bias"));
  l.vector("norm.weight", l.theirs("o_norm.weight"));
  l.convolve(joined(joined(l.theirs("q_conv1d.weight"), l.theirs("k_conv1d.weight")), l.theirs("v_conv1d.weight")), 4);
}

void mesa_net(Case& c, Layer& l, int64_t dim) {
  const auto H = int64_t(c.meta("num_heads")), K = int64_t(c.meta("head_dim"));
  const bool gate = l.has("g_proj.weight");
  for (const auto& [key, n] : {std::pair{"heads", H}, {"key_size", K}, {"value_size", K}, {"beta", int64_t(1)}, {"conv_values", int64_t(0)}}) l.set(key, n);
  for (const auto& [key, word] : {std::pair{"kind", "mesa"}, {"qk_norm", "l2"}, {"decay", "head"}, {"gate", gate ? "after" : "none"}}) l.set(key, std::string(word));
  l.set("decay_sign", -1.0);
  l.set("tolerance", 1e-7);   // the golden numbers are of the exact solution
  std::vector<std::string> in = {"q_proj.weight", "k_proj.weight", "v_proj.weight"};
  if (gate) in.push_back("g_proj.weight");
  l.stack("in.weight", dim, in);
  l.stack("gates.weight", dim, {"a_proj.weight", "b_proj.weight"});
  l.vector("gates.bias", joined(l.theirs("a_proj.bias"), l.theirs("b_proj.bias")));
  l.stack("out.weight", H * K, {"o_proj.weight"});
  l.vector("decay.rate", std::vector<double>(size_t(H), -1));
  l.vector("norm.weight", l.theirs("o_norm.weight"));
  std::vector<double> ridge = l.theirs("lambda_params");
  for (double& x : ridge) x = (x > 20 ? x : std::log1p(std::exp(x))) + c.meta("lambda_lower_bound");
  l.add("ridge", {H, K}, ridge);
  l.convolve(joined(l.theirs("q_conv1d.weight"), l.theirs("k_conv1d.weight")), 4);
}

// in_proj is z | x | B | C | steps (| levels); ours q = C, k = B, v = x, z, and the gates.
void mamba2(Case& c, Layer& l, int64_t dim, bool levels) {
  const auto H = int64_t(c.meta("num_heads")), P = int64_t(c.meta("head_dim")), N = int64_t(c.meta("state_size")), G = int64_t(c.meta("n_groups"));
  const int64_t I = H * P, GN = G * N;
  check(c.meta("norm_before_gate") == 0, c.file.path(), ": a norm before the gate is not supported");
  l.set("kind", std::string(levels ? "log_linear" : "linear"));
  for (const auto& [key, n] : {std::pair{"heads", H}, {"groups", G}, {"key_size", N}, {"value_size", P}, {"step", int64_t(1)}, {"skip", int64_t(1)},
                               {"norm_groups", G}}) l.set(key, n);
  for (const auto& [key, word] : {std::pair{"decay", "head"}, {"gate", "before"}, {"norm", "group"}}) l.set(key, std::string(word));
  l.set("scale", 1.0);
  const auto rows = l.theirs("in_proj.weight"), filters = l.theirs("conv1d.weight"), bias = l.theirs("conv1d.bias");
  auto part = [](const std::vector<double>& of, int64_t begin, int64_t n, int64_t columns) {
    return std::vector<double>(of.begin() + begin * columns, of.begin() + (begin + n) * columns);
  };
  auto turned = [&](const std::vector<double>& of, int64_t at, int64_t columns) {   // x | B | C to C | B | x
    return joined(joined(part(of, at + I + GN, GN, columns), part(of, at + I, GN, columns)), part(of, at, I, columns));
  };
  l.add("in.weight", {2 * GN + 2 * I, dim}, joined(turned(rows, I, dim), part(rows, 0, I, dim)));
  const int64_t gates = int64_t(rows.size()) / dim - 2 * I - 2 * GN;
  l.add("gates.weight", {gates, dim}, part(rows, 2 * I + 2 * GN, gates, dim));
  l.convolve(turned(filters, 0, 4), 4);
  l.vector("conv.bias", turned(bias, 0, 1));
  l.stack("out.weight", I, {"out_proj.weight"});
  l.vector("decay.rate", negative_exp(l.theirs("A_log")));
  l.vector("decay.bias", l.theirs("dt_bias"));
  l.vector("norm.weight", l.theirs("norm.weight"));
  std::vector<double> skip;
  for (double d : l.theirs("D")) skip.insert(skip.end(), size_t(P), d);
  l.vector("skip", skip);
  if (levels) {
    l.set("levels", int64_t(c.meta("num_levels")));
    l.vector("level.weight", l.theirs("L"));
  }
}

// kv_b_proj is, head by head, the rows of keys and those of values.
void latent_attention(Case& c, Layer& l, int64_t dim) {
  const auto H = int64_t(c.meta("n_heads")), dn = int64_t(c.meta("qk_nope")), dr = int64_t(c.meta("qk_rope"));
  const auto dv = int64_t(c.meta("v_dim")), R = int64_t(c.meta("kv_lora")), Q = int64_t(c.meta("q_lora"));
  l.set("kind", std::string("mla"));
  l.set("rope", std::string("adjacent"));
  l.set("theta", c.meta("theta"));
  for (const auto& [key, n] : {std::pair{"heads", H}, {"key_size", dn}, {"rope_size", dr}, {"value_size", dv}, {"rank", R}, {"q_rank", Q}})
    l.set(key, n);
  if (c.file.has("meta.yarn_factor")) {
    auto mscale = [&](const char* of) { return 0.1 * c.meta(of) * std::log(c.meta("yarn_factor")) + 1; };
    const double m = mscale("yarn_mscale_all_dim");
    l.set("scale", m * m / std::sqrt(double(dn + dr)));
    l.set("rope_scaling", std::string("yarn"));
    l.set("rope_mscale", mscale("yarn_mscale") / m);
    for (const auto& [ours, theirs] : {std::pair{"rope_factor", "yarn_factor"}, {"rope_original_context", "yarn_orig"},
                                       {"rope_beta_fast", "yarn_beta_fast"}, {"rope_beta_slow", "yarn_beta_slow"}})
      l.set(ours, c.meta(theirs));
  }
  l.stack("in.weight", dim, {Q ? "q_a_proj.weight" : "q_proj.weight", "kv_a_proj_with_mqa.weight"});
  if (Q) {
    l.vector("q_norm.weight", l.theirs("q_a_layernorm.weight"));
    l.stack("q_up.weight", Q, {"q_b_proj.weight"});
  }
  l.vector("latent_norm.weight", l.theirs("kv_a_layernorm.weight"));
  const auto up = l.theirs("kv_b_proj.weight");
  std::vector<double> k_up, v_up;
  for (int64_t h = 0; h < H; ++h) {
    const auto at = up.begin() + h * (dn + dv) * R;
    k_up.insert(k_up.end(), at, at + dn * R);
    v_up.insert(v_up.end(), at + dn * R, at + (dn + dv) * R);
  }
  l.add("k_up.weight", {H * dn, R}, k_up);
  l.add("v_up.weight", {H * dv, R}, v_up);
  l.stack("out.weight", H * dv, {"o_proj.weight"});
}

// A model that is one mixer: token n is row n of `table`, and its logits are what the mixer makes of it.
class OneLayer final : public Model {
 public:
  OneLayer(const Weights& weights, Tensor table) : mixer_(make_mixer({weights, "mixer.0.", "layer.0.mix.", table.cols()})), table_(table) {}
  StateSpec state(DType rows) const override { return {mixer_->state(rows)}; }
  DType natural_rows() const override { return F32; }
  int64_t vocab() const override { return table_.cols(); }
  int64_t context() const override { return 1 << 16; }
  int64_t longest() const override { return 1 << 16; }
  int64_t weight_bytes() const override { return mixer_->weight_bytes(); }
  int64_t flops_per_token() const override { return 2 * mixer_->weight_count(); }
  Tensor draw(Tensor, const DrawInputs&) const override { fail("golden: a layer draws no tokens"); }
  Tensor logits(const folio::Step& step, const folio::Memory& memory) const override {
    const Tensor x = embed(step.token, table_);
    return gather(mixer_->extend(x, scale(x, 0), memory.layers[0], step), step.wanted);
  }

 private:
  std::unique_ptr<Mixer> mixer_;
  Tensor table_;
};

// Feeds B texts of T tokens side by side. Pieces: of 1 to 70 tokens, and behind some of them proposals that do not happen.
std::vector<double> feed(Engine& engine, int64_t B, int64_t T, bool pieces, std::mt19937_64& random) {
  const int64_t C = engine.model().vocab();
  std::vector<double> y(size_t(B * T * C));
  std::vector<Seq> seqs;
  for (int64_t b = 0; b < B; ++b) seqs.push_back(engine.cache().open({}));
  for (bool more = true; more;) {
    more = false;
    for (int64_t b = 0; b < B; ++b) {
      Seq& seq = seqs[size_t(b)];
      const int64_t from = seq.length(), kept = std::min(T - from, pieces ? 1 + int64_t(random() % 70) : T);
      if (kept <= 0) continue;
      const int64_t extra = pieces ? int64_t(random() % 9) : 0;
      std::vector<Token> tokens;
      for (int64_t i = 0; i < kept; ++i) tokens.push_back(Token(b * T + from + i));
      for (int64_t i = 0; i < extra; ++i) tokens.push_back(Token(random() % uint64_t(B * T)));
      check(engine.cache().reserve(seq, int(tokens.size()), int(kept)), "golden: no room for ", tokens.size(), " tokens");
      const Work work{&seq, tokens, int(tokens.size())};
      const Tensor out = engine.step({&work, 1});
      for (int64_t i = 0; i < kept; ++i) std::copy_n(out.row<float>(i), C, y.begin() + (b * T + from + i) * C);
      engine.cache().commit(seq, std::span(tokens).first(size_t(kept)));
      more = true;
    }
  }
  for (Seq& seq : seqs) engine.cache().close(seq);
  return y;
}

}  // namespace

void layer(Case& c) {
  const Array x = c.in("x");
  check(x.dims.size() == 3 && x.dims[2] > 0, c.file.path(), ": 'in.x' is ", x.text(), ", expected (B, T, hidden)");
  const int64_t B = x.dims[0], T = x.dims[1], C = x.dims[2];
  Layer l(c);
  if (c.name.starts_with("mla_")) latent_attention(c, l, C);
  else if (c.name == "layer_gated_deltanet" || c.name == "layer_loglinear_gdn") gated_delta(c, l, C, c.name == "layer_loglinear_gdn");
  else if (c.name == "layer_mamba2" || c.name == "layer_loglinear_mamba2") mamba2(c, l, C, c.name == "layer_loglinear_mamba2");
  else mesa_net(c, l, C);
  const Weights weights = l.weights(C);
  std::vector<float> table(x.numbers.begin(), x.numbers.end());
  const OneLayer model(weights, Tensor::of(F32, {B * T, C}, table.data()));
  Engine engine(model, c.device, {.context = T + 80, .chunk = int(T) + 80, .sequences = int(B)});
  std::mt19937_64 random(11);
  for (bool pieces : {false, true}) c.expect("y", feed(engine, B, T, pieces, random));
}

// The convolution alone, from nothing and, where the file has one, from a state: the last inputs before the first token.
void short_conv(Case& c) {
  const Array x = c.in("x"), w = c.in("w"), bias = c.in("bias");
  check(x.dims.size() == 3 && w.dims.size() == 2 && w.dims[0] == x.dims[2], c.file.path(), ": 'in.x' is ", x.text(), ", 'in.w' ", w.text());
  const int64_t B = x.dims[0], T = x.dims[1], C = x.dims[2], W = w.dims[1], most = 2 + T / page_tokens;
  std::vector<float> taps(size_t(W * C));
  for (int64_t i = 0; i < W * C; ++i) taps[size_t(i % W * C + i / W)] = float(w.numbers[size_t(i)]);
  for (bool begun : {false, true}) {
    if (begun && !c.wants("y_init")) continue;
    std::vector<double> y;
    for (int64_t b = 0; b < B; ++b) {   // a begun text's first token stands in page 1, behind the state's
      Memory memory(c.device);
      std::vector<float> pool(size_t(most * page_tokens * C), NAN);
      const int64_t begin = begun ? page_tokens : 0;
      for (int64_t i = 0; begun && i < W * C; ++i)   // state0 is (B, C, W), oldest first
        pool[size_t((begin - W + i % W) * C + i / W)] = float(c.in("state0").numbers[size_t(b * W * C + i)]);
      std::vector<int32_t> seq(size_t(T), 0), pos, page;
      for (int64_t t = 0; t < T; ++t) pos.push_back(int32_t(begin + t));
      for (int64_t p = 0; p < most; ++p) page.push_back(int32_t(p));
      const auto row = x.numbers.begin() + b * T * C;
      const ShortConv op{.x = memory.floats({T, C}, {row, row + T * C}), .w = memory.floats({W, C}, taps),
                         .bias = memory.floats({C}, {bias.numbers.begin(), bias.numbers.end()}), .page = memory.ints({1, most}, page),
                         .seq = memory.ints({T}, seq), .pos = memory.ints({T}, pos), .rows = memory.floats({most, page_tokens, 1, C}, pool),
                         .act = Act::silu};
      auto graph = std::make_unique<Graph>();
      graph->output("y", graph->record(op).y);
      const auto program = c.device.compile(std::move(graph));
      program->run();
      const Tensor out = program->output("y");
      y.insert(y.end(), out.at<float>(), out.at<float>() + out.count());
    }
    c.expect(begun ? "y_init" : "y", y);
  }
}

}  // namespace folio::golden
