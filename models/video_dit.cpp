// SPDX-License-Identifier: MIT
#include "models/video_dit.h"

#include <algorithm>
#include <cmath>

#include "models/mixers/mixer.h"

namespace folio {

// ---- loading ----------------------------------------------------------------------------------------------------------

static Tensor f32_of(const Weights& w, const std::string& name, const Shape& shape) {
  const Tensor t = w.get(name, shape);
  check(t.type == F32, w.path(), ": '", name, "' is ", format(t.type).name, ", expected f32");
  return t;
}

VideoDit::Linear VideoDit::linear(const Weights& w, const std::string& name, int64_t out, int64_t in, bool bias) const {
  const Tensor t = w.get(name + ".weight", {out, in});
  check(format(t.type).to_float, w.path(), ": '", name, ".weight' is ", format(t.type).name, ", expected a format of weights");
  return {t, bias ? f32_of(w, name + ".bias", {out}) : Tensor()};
}

VideoDit::Linear VideoDit::depthwise(const Weights& w, const std::string& name, int64_t taps) const {
  const Tensor t = w.get(name + ".weight", {taps, 2 * size_.ffn});
  check(t.type == F32 || t.type == F16 || t.type == BF16, w.path(), ": '", name, ".weight' is ", format(t.type).name,
        ", expected f32, f16 or bf16");
  return {t, f32_of(w, name + ".bias", {2 * size_.ffn})};
}

VideoDit::Layer VideoDit::layer(const Weights& w, int64_t i, const std::string& kind, bool reverse) const {
  const char* const kinds[] = {"log_linear", "mesa", "softmax"};
  const auto* const found = std::find(std::begin(kinds), std::end(kinds), kind);
  check(found != std::end(kinds), w.path(), ": 'video.mixers' has '", kind, "'; known are: log_linear, mesa, softmax");
  const std::string name = join("flow.layer.", i, ".");
  const int64_t C = size_.dim, H = size_.heads, F = size_.ffn;
  Layer l{.kind = Kind(found - std::begin(kinds)), .reverse = reverse};
  l.in = linear(w, name + "mix.in", 4 * C, C, false);
  l.gates = linear(w, name + "mix.gates", 2 * H + (l.kind == Kind::log_linear ? H * size_.levels : 0), C);
  l.out = linear(w, name + "mix.out", C, C, false);
  l.norm = f32_of(w, name + "mix.norm.weight", {C / H});
  if (l.kind == Kind::mesa) {
    l.ridge = f32_of(w, name + "mix.ridge", {H, C / H});
    for (int64_t c = 0; c < C; ++c)
      check(l.ridge.at<float>()[c] > 0, w.path(), ": '", name, "mix.ridge' holds ", l.ridge.at<float>()[c], ", expected numbers above 0");
  }
  l.up = linear(w, name + "ffn.up", 2 * F, C);
  l.down = linear(w, name + "ffn.down", C, F);
  l.space = depthwise(w, name + "ffn.space", 9);
  l.time = depthwise(w, name + "ffn.time", 3);
  return l;
}

static VideoSize size_of(const Weights& w) {
  const std::string arch = w.text("arch");
  check(arch == "video_dit", w.path(), ": architecture '", arch, "', expected video_dit");
  const std::vector<int64_t> grid = w.integers("video.grid");
  check(grid.size() == 3 && std::min({grid[0], grid[1], grid[2]}) >= 1 && std::max({grid[0], grid[1], grid[2]}) <= 1 << 12, w.path(),
        ": 'video.grid' is not three numbers from 1 to 4096");
  VideoSize s{.frames = grid[0], .rows = grid[1], .cols = grid[2], .latent = size_in(w, "vae.latent", 1024),
              .patch = size_in(w, "video.patch", 64), .dim = size_in(w, "video.dim", 1 << 16),
              .layers = size_in(w, "video.layers", 1 << 12), .heads = size_in(w, "video.heads", 1 << 12),
              .ffn = size_in(w, "video.ffn", 1 << 18), .text = size_in(w, "video.text", 1 << 12),
              .caption = size_in(w, "video.caption", 1 << 12), .levels = size_in(w, "video.levels", 46)};
  check(s.dim % s.heads == 0, w.path(), ": 'video.dim' is ", s.dim, ", which ", s.heads, " heads cannot share");
  check(s.tokens() <= 1 << 24, w.path(), ": 'video.grid' has ", s.tokens(), " tokens, expected at most 2^24");
  check(LogLinear::reach(s.levels) >= s.sequence(), w.path(), ": 'video.levels' is ", s.levels, ": the table ends after ",
        LogLinear::reach(s.levels), " of ", s.sequence(), " tokens");
  return s;
}

VideoDit::VideoDit(const Weights& w) : size_(size_of(w)) {
  const int64_t C = size_.dim, N = size_.tokens(), c = size_.channels();
  rounds_ = w.has("video.rounds") ? int(size_in(w, "video.rounds", 1000)) : 0;
  words_ = w.texts("video.words");
  check(words_.size() >= 2, w.path(), ": 'video.words' has ", words_.size(), " words, expected two and more");
  const auto V = int64_t(words_.size());
  mean_ = f32_of(w, "flow.mean", {size_.latent});
  std_ = f32_of(w, "flow.std", {size_.latent});
  embed_ = w.get("flow.embed.weight", {V, C});
  caption_embed_ = w.get("flow.caption.embed.weight", {V, size_.caption});
  check(format(embed_.type).to_float && format(caption_embed_.type).to_float, w.path(), ": words are embedded by no format of weights");
  text_position_ = f32_of(w, "flow.text.position", {size_.text, C});
  video_position_ = f32_of(w, "flow.video.position", {N, C});
  in_ = linear(w, "flow.in", C, c);
  time0_ = linear(w, "flow.time.0", C, 128);
  time2_ = linear(w, "flow.time.2", C, C);
  caption0_ = linear(w, "flow.caption.0", C, size_.caption * size_.text);
  caption2_ = linear(w, "flow.caption.2", C, C);
  modulate_ = linear(w, "flow.modulate", 6 * C, C);
  modulate_out_ = linear(w, "flow.modulate.out", 2 * C, C);
  out_ = linear(w, "flow.out", c, C);
  const Tensor table = f32_of(w, "flow.modulate.table", {size_.layers, 6 * C});
  const std::vector<std::string> mixers = w.texts("video.mixers");
  const std::vector<int64_t> reverse = w.integers("video.reverse");
  check(int64_t(mixers.size()) == size_.layers && int64_t(reverse.size()) == size_.layers, w.path(), ": ", size_.layers, " layers, but ",
        mixers.size(), " of 'video.mixers' and ", reverse.size(), " of 'video.reverse'");
  for (int64_t i = 0; i < size_.layers; ++i) {
    layers_.push_back(layer(w, i, mixers[size_t(i)], reverse[size_t(i)] != 0));
    layers_.back().table = table.slice(i, 1).reshape({6 * C});
  }
  for (const WeightEntry& e : w.tensors())
    if (e.name.starts_with("flow.") && e.name != "flow.mean" && e.name != "flow.std") parameters_ += e.tensor.count();
}

// ---- words ------------------------------------------------------------------------------------------------------------

std::vector<int32_t> VideoDit::no_caption() const {
  std::vector<int32_t> ids(size_t(size_.text), 0);
  ids[0] = 1;
  return ids;
}

std::vector<int32_t> VideoDit::caption(std::string_view text) const {
  std::vector<int32_t> ids;
  auto is_space = [](char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; };
  for (size_t at = 0; at < text.size();) {
    if (is_space(text[at])) {
      ++at;
      continue;
    }
    std::string word;
    for (; at < text.size() && !is_space(text[at]); ++at) word += text[at] >= 'A' && text[at] <= 'Z' ? char(text[at] + 32) : text[at];
    const auto found = std::find(words_.begin() + 2, words_.end(), word);
    if (found == words_.end()) {
      std::string known;
      for (size_t i = 2; i < words_.size(); ++i) known += (i > 2 ? ", " : "") + words_[i];
      fail("the prompt's word '", word, "' is not known; this model knows: ", known);
    }
    ids.push_back(int32_t(found - words_.begin()));
  }
  check(int64_t(ids.size()) <= size_.text, "the prompt has ", ids.size(), " words; this model takes ", size_.text, " at most");
  if (ids.empty()) return no_caption();
  ids.resize(size_t(size_.text), 0);
  return ids;
}

// ---- the graph --------------------------------------------------------------------------------------------------------

struct VideoDit::Step {
  Graph* graph;
  int64_t sequences;
  Tensor z, word, t, row;                  // inputs
  Tensor text_row;                         // [B·L] i32: the time of each text token
  Tensor page, slab, no_slab, seq, pos, length;
  Tensor text_in, video_in[2];             // [B·T] i32: where each token of the scan comes from, or −1; forwards and backwards
  Tensor text_out, video_out[2];           // [B·L], [B·N] i32: where it goes back to
  const Pools* pools;

  // fn(b, i) for each of `count` rows of each sequence.
  template <class F> Tensor table(const char* name, int64_t count, F fn) const {
    std::vector<int32_t> ids;
    for (int64_t b = 0; b < sequences; ++b)
      for (int64_t i = 0; i < count; ++i) ids.push_back(int32_t(fn(b, i)));
    return graph->constant(name, I32, {int64_t(ids.size())}, ids.data());
  }
  Step(Graph& g, const VideoSize& s, int64_t B, const Pools& given) : graph(&g), sequences(B), pools(&given) {
    const int64_t N = s.tokens(), L = s.text, T = s.sequence();
    z = g.input("z", F32, {B * N, s.channels()});
    word = g.input("word", I32, {B * L});
    t = g.input("t", F32, {2 * B});
    row = g.input("row", I32, {B * N});
    text_row = table("text_row", L, [](int64_t b, int64_t) { return 2 * b; });
    page = table("page", s.pages(), [&](int64_t b, int64_t i) { return b * s.pages() + i; }).reshape({B, s.pages()});
    slab = page;
    no_slab = table("no_slab", s.pages(), [](int64_t, int64_t) { return -1; }).reshape({B, s.pages()});
    seq = table("seq", T, [](int64_t b, int64_t) { return b; });
    pos = table("pos", T, [](int64_t, int64_t i) { return i; });
    length = table("length", 1, [&](int64_t, int64_t) { return T; });
    text_in = table("text_in", T, [&](int64_t b, int64_t i) { return i < L ? b * L + i : -1; });
    text_out = table("text_out", L, [&](int64_t b, int64_t i) { return b * T + i; });
    for (int reverse : {0, 1}) {
      auto place = [&](int64_t i) { return reverse ? N - 1 - i : i; };
      video_in[reverse] = table("video_in", T, [&](int64_t b, int64_t i) { return i < L ? -1 : b * N + place(i - L); });
      video_out[reverse] = table("video_out", N, [&](int64_t b, int64_t i) { return b * T + L + place(i); });
    }
  }
};

Tensor VideoDit::Linear::operator()(Tensor x, Act act) const { return x.graph->record(Matmul{.x = x, .w = w, .bias = bias, .act = act}).y; }

VideoDit::Pools VideoDit::pools(int64_t B) const {
  const int64_t N = B * size_.pages(), H = size_.heads, D = size_.dim / H;
  auto rows = [&](int64_t width) { return Tensor::of(F32, {N, page_tokens, H, width}); };
  return {.k = rows(D), .u = rows(D), .g = rows(1), .beta = rows(1), .S = Tensor::of(F32, {N, H, D, D}), .c = Tensor::of(F32, {N, H, 2}),
          .H = Tensor::of(F32, {1, H, D, D}), .G = Tensor::of(F32, {1, H, D, D})};
}

// SiLU of what is known of a clip besides its numbers: a row for each time.
Tensor VideoDit::conditions(Graph& graph, const Step& s) const {
  const Tensor time = time2_(time0_(graph.record(TimestepEmbed{.t = s.t}).y, Act::silu));                            // [2·B, C]
  const Tensor words = embed(s.word, caption_embed_).reshape({s.sequences, size_.caption * size_.text});
  const Tensor both = s.table("caption_row", 2, [](int64_t b, int64_t) { return b; });
  return activate(add(time, gather(caption2_(caption0_(words, Act::silu)), both)), Act::silu);
}

Tensor VideoDit::mix(const Layer& l, Tensor x, const Step& s) const {
  Graph& graph = *s.graph;
  const int64_t C = size_.dim, H = size_.heads;
  const Pools& p = *s.pools;
  const Tensor in = l.in(x), gates = l.gates(x), qk = activate(in.columns(0, 2 * C), Act::silu);
  const Tensor q = l2_norm(qk.columns(0, C).split_last(H), 1e-24f), k = l2_norm(qk.columns(C, C).split_last(H), 1e-24f);
  const Tensor v = in.columns(2 * C, C).split_last(H), z = in.columns(3 * C, C);
  const Tensor g = gate(gates.columns(0, H), GateKind::softplus, -1), beta = gate(gates.columns(H, H), GateKind::sigmoid);
  Tensor o;
  switch (l.kind) {
    case Kind::log_linear: {
      const Tensor lambda = gate(gates.columns(2 * H, H * size_.levels), GateKind::softplus).split_last(H);
      o = graph.record(LogLinear{.q = q, .k = k, .v = scale_rows(v, beta), .g = g, .lambda = lambda, .page = s.page, .slab = s.slab,
                                 .seq = s.seq, .pos = s.pos, .rows_k = p.k, .rows_u = p.u, .rows_g = p.g, .S = p.S, .c = p.c}).o;
      break;
    }
    case Kind::mesa:
      o = graph.record(Mesa{.q = q, .k = k, .v = v, .g = g, .beta = beta, .lambda = l.ridge, .page = s.page, .slab = s.no_slab,
                            .seq = s.seq, .pos = s.pos, .rows_k = p.k, .rows_v = p.u, .rows_g = p.g, .rows_beta = p.beta,
                            .Hkk = p.H, .Hkv = p.G, .cap = rounds_ ? rounds_ : 30, .mode = rounds_ ? 3 : 0}).o;
      break;
    case Kind::softmax:
      graph.record(Append{.x = k, .page = s.page, .seq = s.seq, .pos = s.pos, .pool = p.k});
      graph.record(Append{.x = v, .page = s.page, .seq = s.seq, .pos = s.pos, .pool = p.u});
      o = graph.record(Attend{.q = q, .k = p.k, .v = p.u, .page = s.page, .seq = s.seq, .pos = s.pos, .length = s.length,
                              .scale = std::sqrt(float(C / H)), .causal = false}).o;
      break;
  }
  return l.out(glu(z, rms_norm(o, l.norm, 1e-5f).merge_last(), Act::silu));
}

// Time is the rows of an image whose columns are a frame's pixels: so clips do not mix.
Tensor VideoDit::convolved(const Layer& l, Tensor x, const Step& s) const {
  const int64_t B = s.sequences, F = 2 * size_.ffn;
  Tensor y = l.up(x).reshape({B * size_.frames, size_.rows, size_.cols, F});
  y = x.graph->record(Conv{.x = y, .w = l.space.w, .bias = l.space.bias, .kernel = {1, 3, 3}, .pad = {0, 1, 1}}).y;
  y = y.reshape({B, size_.frames, size_.rows * size_.cols, F});
  y = x.graph->record(Conv{.x = y, .w = l.time.w, .bias = l.time.bias, .kernel = {1, 3, 1}, .pad = {0, 1, 0}}).y;
  y = y.reshape({B * size_.tokens(), F});
  return l.down(glu(y.columns(0, F / 2), y.columns(F / 2, F / 2), Act::silu));
}

Tensor VideoDit::worded(const Layer& l, Tensor x) const {
  const int64_t F = size_.ffn;
  return l.down(x.graph->record(Matmul{.x = x, .w = l.up.w.slice(F, F), .bias = l.up.bias.slice(F, F), .gate = l.up.w.slice(0, F),
                                       .gate_bias = l.up.bias.slice(0, F), .act = Act::silu}).y);
}

void VideoDit::record(Graph& graph, int64_t sequences, const Pools& pools) const {
  graph.scope("embed");
  const Step s(graph, size_, sequences, pools);
  const int64_t C = size_.dim;
  auto places = [&](int64_t count) { return s.table("place", count, [](int64_t, int64_t i) { return i; }); };
  Tensor xv = add(in_(s.z), embed(places(size_.tokens()), video_position_));              // [B·N, C]
  Tensor xt = add(embed(s.word, embed_), embed(places(size_.text), text_position_));      // [B·L, C]
  const Tensor c = conditions(graph, s), all = modulate_(c);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& l = layers_[i];
    const bool last = i + 1 == layers_.size();   // nobody reads the text after it
    graph.scope(join("layer.", i, ".mix"));
    const Tensor by = add(all, l.table);
    auto part = [&](int64_t n) { return by.columns(n * C, C); };
    auto modulate = [&](Tensor x, int64_t n, Tensor row) {
      return graph.record(Modulate{.x = x, .scale = part(n), .shift = part(n + 1), .index = row}).y;
    };
    auto gated = [&](Tensor x, Tensor z, int64_t n, Tensor row) {
      return graph.record(GatedAdd{.x = x, .z = z, .gate = part(n), .index = row}).y;
    };
    const Tensor o = mix(l, add(gather(modulate(xv, 0, s.row), s.video_in[l.reverse]), gather(modulate(xt, 0, s.text_row), s.text_in)), s);
    xv = gated(xv, gather(o, s.video_out[l.reverse]), 2, s.row);
    if (!last) xt = gated(xt, gather(o, s.text_out), 2, s.text_row);
    graph.scope(join("layer.", i, ".ffn"));
    xv = gated(xv, convolved(l, modulate(xv, 3, s.row), s), 5, s.row);
    if (!last) xt = gated(xt, worded(l, modulate(xt, 3, s.text_row)), 5, s.text_row);
  }
  graph.scope("out");
  const Tensor by = modulate_out_(c);
  graph.output("v", out_(graph.record(Modulate{.x = xv, .scale = by.columns(0, C), .shift = by.columns(C, C), .index = s.row}).y));
}

double VideoDit::flops(int64_t sequences) const {
  const double N = double(size_.tokens()), T = double(size_.sequence()), F = double(size_.ffn), C = double(size_.dim);
  const int64_t by_time = time0_.w.count() + time2_.w.count() + modulate_.w.count() + modulate_out_.w.count();
  double sum = 2 * N * double(in_.w.count()) + 2 * double(by_time) + double(caption0_.w.count() + caption2_.w.count());
  for (const Layer& l : layers_)
    sum += T * double(l.in.w.count() + l.gates.w.count() + l.out.w.count()) + T * 3 * C * F + N * 12 * 2 * F;
  return 2 * double(sequences) * sum;
}

// ---- latents ----------------------------------------------------------------------------------------------------------

// fn(number of the latent, number of the tokens)
template <class F> static void each_number(const VideoSize& s, F fn) {
  const int64_t p = s.patch, width = s.cols * p;
  for (int64_t t = 0; t < s.frames; ++t)
    for (int64_t i = 0; i < s.rows * p; ++i)
      for (int64_t j = 0; j < width; ++j)
        for (int64_t c = 0; c < s.latent; ++c)
          fn(size_t(((t * s.rows * p + i) * width + j) * s.latent + c),
             size_t(((t * s.rows + i / p) * s.cols + j / p) * s.channels() + c * p * p + i % p * p + j % p));
}

std::vector<float> VideoDit::to_tokens(std::span<const float> latent) const {
  check(int64_t(latent.size()) == size_.numbers(), "video: a latent of ", latent.size(), " numbers, expected ", size_.numbers());
  std::vector<float> tokens(latent.size());
  each_number(size_, [&](size_t from, size_t to) { tokens[to] = latent[from]; });
  return tokens;
}

void VideoDit::from_tokens(std::span<const float> tokens, std::span<float> latent) const {
  each_number(size_, [&](size_t to, size_t from) { latent[to] = tokens[from]; });
}

std::vector<float> VideoDit::normal_of(std::span<const float> latent) const {
  std::vector<float> x(latent.begin(), latent.end());
  for (size_t i = 0; i < x.size(); ++i)
    x[i] = (x[i] - mean_.at<float>()[i % size_t(size_.latent)]) / std_.at<float>()[i % size_t(size_.latent)];
  return x;
}

std::vector<float> VideoDit::latent_of(std::span<const float> normal) const {
  std::vector<float> x(normal.begin(), normal.end());
  for (size_t i = 0; i < x.size(); ++i)
    x[i] = x[i] * std_.at<float>()[i % size_t(size_.latent)] + mean_.at<float>()[i % size_t(size_.latent)];
  return x;
}

// ---- on a device ------------------------------------------------------------------------------------------------------

VideoFlow::~VideoFlow() {
  for (Compiled& one : compiled_) {
    one.program.reset();
    for (const auto& [at, bytes] : one.pools) device_.free(at, bytes);
  }
}

Program& VideoFlow::program(int64_t sequences) {
  Compiled& one = compiled_[sequences - 1];
  if (one.program) return *one.program;
  VideoDit::Pools pools = model_.pools(sequences);
  for (Tensor* t : {&pools.k, &pools.u, &pools.g, &pools.beta, &pools.S, &pools.c, &pools.H, &pools.G}) {
    t->data = device_.alloc(t->bytes());
    one.pools.emplace_back(t->data, t->bytes());
  }
  auto graph = std::make_unique<Graph>();
  model_.record(*graph, sequences, pools);
  one.program = device_.compile(std::move(graph));
  return *one.program;
}

int64_t VideoFlow::bytes(int64_t sequences) {
  int64_t bytes = program(sequences).arena_bytes();
  for (const auto& pool : compiled_[sequences - 1].pools) bytes += pool.second;
  return bytes;
}

Velocity VideoFlow::velocity(std::vector<int32_t> caption, std::vector<int32_t> without, std::vector<bool> clean) {
  const VideoSize& s = model_.size();
  check(int64_t(caption.size()) == s.text && int64_t(without.size()) == s.text, "video: captions of ", caption.size(), " and ",
        without.size(), " words, expected ", s.text);
  check(clean.empty() || int64_t(clean.size()) == s.frames, "video: ", clean.size(), " frames are given or not, of ", s.frames);
  return [this, caption, without, clean](std::span<const float> x, double t, std::span<float> with, std::span<float> no) {
    const VideoSize& size = model_.size();
    const int64_t B = no.empty() ? 1 : 2, N = size.tokens();
    Program& program = this->program(B);
    const std::vector<float> tokens = model_.to_tokens(x);
    for (int64_t b = 0; b < B; ++b) {
      std::copy(tokens.begin(), tokens.end(), program.input("z").at<float>() + b * size.numbers());
      std::copy_n((b ? without : caption).begin(), size.text, program.input("word").at<int32_t>() + b * size.text);
      program.input("t").at<float>()[2 * b] = float(t);
      program.input("t").at<float>()[2 * b + 1] = 0;
      for (int64_t i = 0; i < N; ++i) {
        const bool given = !clean.empty() && clean[size_t(i / (size.rows * size.cols))];
        program.input("row").at<int32_t>()[b * N + i] = int32_t(2 * b + given);
      }
    }
    program.run();
    const float* v = program.output("v").at<float>();
    model_.from_tokens({v, size_t(size.numbers())}, with);
    if (B == 2) model_.from_tokens({v + size.numbers(), size_t(size.numbers())}, no);
  };
}

}  // namespace folio
