// SPDX-License-Identifier: MIT
#include "tools/lib/mixer_run.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>

#include "ops/ops.h"
#include "tools/lib/model.h"
#include "tools/lib/random_model.h"

namespace folio {

const std::vector<MixerKind>& mixer_kinds() {
  using K = MixerKind;
  static const std::vector<MixerKind> kinds = {
      {.name = "linear", .op = K::linear},
      {.name = "linear elu+1", .op = K::linear, .normalise = true},
      {.name = "retnet", .op = K::linear, .decay = K::constant},
      {.name = "mamba2", .op = K::linear, .decay = K::head},
      {.name = "gla", .op = K::linear, .decay = K::channel},
      {.name = "delta", .op = K::linear, .delta = true},
      {.name = "gated delta", .op = K::linear, .decay = K::head, .delta = true},
      {.name = "kda", .op = K::linear, .decay = K::channel, .delta = true},
      {.name = "log-linear mamba2", .op = K::log_linear, .decay = K::head},
      {.name = "log-linear gated delta", .op = K::log_linear, .decay = K::head, .delta = true},
      {.name = "mesa", .op = K::mesa, .decay = K::head},
      {.name = "attention tiled", .op = K::attend},
  };
  return kinds;
}

const MixerKind& mixer_kind(const std::string& name) {
  for (const MixerKind& kind : mixer_kinds())
    if (kind.name == name) return kind;
  fail("bench: there is no mixer '", name, "'");
}

double MixerKind::prefill_flops(int64_t tokens, const MixerSize& size, double rounds) const {
  const double T = double(tokens), D = double(size.width), C = double(page_tokens);
  double buckets = 0;   // matrices read, over all tokens
  for (int64_t n = 0; n < tokens / page_tokens; ++n) buckets += C * std::popcount(uint64_t(n));
  switch (op) {
    case attend: return double(size.heads) * 2 * D * T * (T + 1);
    case linear: return double(size.heads) * T * (delta ? 6 * D * D + 5 * C * D : 4 * D * D + 2 * C * D);
    case log_linear:
      return double(size.heads) * (delta ? T * (2 * D * D + 6 * C * D + C * C) + 6 * D * D * buckets
                                         : T * (2 * D * D + 2 * C * D) + 2 * D * D * buckets);
    case mesa: return double(size.heads) * T * (rounds * (2 * D * D + 2 * C * D) + 6 * D * D + 2 * C * D);
  }
  return 0;
}

double MixerKind::decode_flops(int64_t depth, const MixerSize& size, double rounds) const {
  const double D = double(size.width), H = double(size.heads);
  const int buckets = std::popcount(uint64_t(depth / page_tokens - 1));
  switch (op) {
    case attend: return H * 4 * D * double(depth);
    case linear: return H * (delta ? 7 : 4) * D * D;
    case log_linear: return H * D * D * (delta ? 7 * std::max(buckets, 1) : 2 * (1 + buckets));
    case mesa: return H * D * D * (2 * rounds + 6);
  }
  return 0;
}

// Buckets that a text of so many pages can have.
static int64_t buckets_of(int64_t pages) { return int64_t(std::bit_width(uint64_t(pages))); }

// As models/mixers have them; attention's rows in f16, the cache's default.
LayerSpec MixerRun::state(const MixerKind& kind, const MixerSize& size, int64_t context) {
  const int64_t H = size.heads, D = size.width;
  LayerSpec layer;
  if (kind.op == MixerKind::attend) {
    layer.rows = {{.name = "k", .type = F16, .shape = {H, D}}, {.name = "v", .type = F16, .shape = {H, D}}};
    return layer;
  }
  auto row = [&](const char* name, int64_t width) {
    layer.rows.push_back({.name = name, .type = F32, .shape = {H, width}, .window = int(page_tokens)});
  };
  auto slab = [&](const char* name, const Shape& shape, bool chain = false) { layer.slabs.push_back({name, F32, shape, chain}); };
  row("k", D), row("u", D);
  if (kind.decay == MixerKind::head || kind.decay == MixerKind::channel) row("g", kind.decay == MixerKind::channel ? D : 1);
  if (kind.op == MixerKind::mesa) {
    row("beta", 1), slab("H", {H, D, D}), slab("G", {H, D, D});
  } else if (kind.op == MixerKind::log_linear && kind.delta) {
    row("w", D), row("x", page_tokens);
    slab("S", {H, buckets_of((context + page_tokens - 1) / page_tokens) * D, D});
  } else if (kind.op == MixerKind::log_linear) {
    slab("S", {H, D, D}, true), slab("c", {H, 2}, true);
  } else {
    slab("S", {H, D, D});
    if (kind.normalise) slab("z", {H, D});
  }
  return layer;
}

MixerRun::MixerRun(const MixerKind& kind, const MixerSize& size, Device& device, int64_t context, int64_t chunk, int layers)
    : kind_(kind), size_(size), device_(device),
      cache_(device, StateSpec(size_t(layers), state(kind, size, context)), {.context = context, .step_tokens = int(chunk)}),
      given_(device) {
  make_inputs(chunk);
  restart();
}

MixerRun::~MixerRun() { cache_.close(seq_); }

void MixerRun::restart() {
  cache_.close(seq_);
  seq_ = cache_.open({});
}

void MixerRun::make_inputs(int64_t T) {
  const int64_t H = size_.heads, D = size_.width;
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform;
  auto drawn = [&](const Shape& shape, auto draw) {
    std::vector<float> numbers(static_cast<size_t>(shape.count()));
    for (float& x : numbers) x = draw();
    return numbers;
  };
  // Queries and keys of length 1, or all positive.
  auto feature = [&] {
    std::vector<float> rows = drawn({T, H, D}, [&] { return normal(random); });
    for (size_t at = 0; at < rows.size(); at += size_t(D)) {
      float square = 0;
      for (size_t i = 0; i < size_t(D); ++i) square += rows[at + i] * rows[at + i];
      for (size_t i = 0; i < size_t(D); ++i)
        rows[at + i] = kind_.normalise ? gate_function(GateKind::elu1, rows[at + i]) : rows[at + i] / std::sqrt(square + 1e-6f);
    }
    return given_.floats({T, H, D}, rows);
  };
  q_ = feature(), k_ = feature();
  v_ = given_.floats({T, H, D}, drawn({T, H, D}, [&] { return normal(random); }));
  auto slow = [&] { return -0.001f * uniform(random); };
  if (kind_.decay == MixerKind::constant) {   // RetNet's
    float head = 0;
    g_ = given_.floats({H}, drawn({H}, [&] { return std::log1p(-std::exp2(-5 - head++)); }));
  }
  if (kind_.decay == MixerKind::head) g_ = given_.floats({T, H}, drawn({T, H}, slow));
  if (kind_.decay == MixerKind::channel) g_ = given_.floats({T, H, D}, drawn({T, H, D}, slow));
  if (kind_.delta || kind_.op == MixerKind::mesa) beta_ = given_.floats({T, H}, drawn({T, H}, [&] { return uniform(random); }));
  if (kind_.op == MixerKind::log_linear) {
    const Shape shape = {T, H, LogLinear::fine + buckets_of(cache_.memory().most_pages)};
    lambda_ = given_.floats(shape, drawn(shape, [&] { return uniform(random); }));
  }
  if (kind_.op == MixerKind::mesa) lambda_ = given_.floats({H, D}, drawn({H, D}, [] { return 1.0f; }));
}

// Rows that nobody wrote would be the system's one page of zeros, read from a cache.
void MixerRun::fill_rows() {
  for (const LayerMemory& layer : cache_.memory().layers)
    for (const Pool& pool : layer.rows) {
      const std::vector<std::byte> piece = random_bytes(pool.tensor.type);
      for (int64_t at = 0; at < pool.tensor.bytes(); at += int64_t(piece.size()))
        device_.upload(pool.tensor.data + at, piece.data(), std::min(int64_t(piece.size()), pool.tensor.bytes() - at));
    }
}

void MixerRun::record(Graph& graph, const Step& s, int layer, int64_t tokens) {
  const LayerMemory& m = cache_.memory().layers[size_t(layer)];
  auto row = [&](const char* name, bool there = true) { return there ? m.row(name).tensor : Tensor(); };
  auto slab = [&](const char* name, bool there = true) { return there ? m.slab(name).tensor : Tensor(); };
  auto part = [&](const Tensor& t) { return t.present() ? t.slice(0, tokens) : t; };
  const Tensor q = part(q_), k = part(k_), v = part(v_), beta = part(beta_), page = s.page[size_t(m.row("k").kind)];
  const Tensor g = kind_.decay == MixerKind::constant ? g_ : part(g_);
  const Tensor slabs = m.slabs.empty() ? Tensor() : s.page[size_t(m.slabs[0].kind)];
  const float scale = 1 / std::sqrt(float(size_.width));
  Tensor o;
  switch (kind_.op) {
    case MixerKind::attend:
      for (const auto& [x, pool] : {std::pair{k, row("k")}, std::pair{v, row("v")}})
        graph.record(Append{.x = x, .page = page, .seq = s.seq, .pos = s.pos, .pool = pool});
      o = graph.record(Attend{.q = q, .k = row("k"), .v = row("v"), .page = page, .seq = s.seq, .pos = s.pos, .length = s.length,
                              .scale = scale}).o;
      break;
    case MixerKind::linear:
      o = graph.record(Linear{.q = q, .k = k, .v = v, .g = g, .beta = beta, .page = page, .slab = slabs, .seq = s.seq, .pos = s.pos,
                              .rows_k = row("k"), .rows_u = row("u"), .rows_g = row("g", g.present() && g.rank() > 1), .S = slab("S"),
                              .z = slab("z", kind_.normalise), .scale = scale}).o;
      break;
    case MixerKind::log_linear:
      o = graph.record(LogLinear{.q = q, .k = k, .v = v, .g = g, .beta = beta, .lambda = part(lambda_), .page = page, .slab = slabs,
                                 .seq = s.seq, .pos = s.pos, .rows_k = row("k"), .rows_u = row("u"), .rows_g = row("g"),
                                 .rows_w = row("w", kind_.delta), .rows_x = row("x", kind_.delta), .S = slab("S"),
                                 .c = slab("c", !kind_.delta)}).o;
      break;
    case MixerKind::mesa: {
      const Mesa mesa = graph.record(Mesa{.q = q, .k = k, .v = v, .g = g, .beta = beta, .lambda = lambda_, .page = page, .slab = slabs,
                                          .seq = s.seq, .pos = s.pos, .rows_k = row("k"), .rows_v = row("u"), .rows_g = row("g"),
                                          .rows_beta = row("beta"), .Hkk = slab("H"), .Hkv = slab("G")});
      graph.output(join("rounds", layer), mesa.iterations);
      o = mesa.o;
    }
  }
  graph.output(join("o", layer), o);
}

Program& MixerRun::program(int64_t tokens) {
  std::unique_ptr<Program>& program = programs_[tokens];
  if (!program) {
    auto graph = std::make_unique<Graph>();
    const Step step(*graph, {.tokens = int(tokens), .sequences = 1, .wanted = 1}, cache_.memory().kinds, cache_.memory().most_pages);
    for (int layer = 0; layer < int(cache_.memory().layers.size()); ++layer) record(*graph, step, layer, tokens);
    program = device_.compile(std::move(graph));
  }
  return *program;
}

double MixerRun::step(int64_t tokens, int64_t kept, bool drafted) {
  check(cache_.reserve(seq_, int(tokens), drafted ? 0 : int(tokens)), "bench: the cache is too small for ", seq_.length() + tokens,
        " tokens");
  Program& program = this->program(tokens);
  const Tensor pos = program.input("pos"), seq = program.input("seq");
  for (int64_t t = 0; t < tokens; ++t) pos.at<int32_t>()[t] = int32_t(seq_.length() + t), seq.at<int32_t>()[t] = 0;
  program.input("length").at<int32_t>()[0] = int32_t(seq_.length() + tokens);
  for (int k = 0; k < cache_.memory().kinds; ++k) cache_.table(seq_, k, program.input(Step::page_name(k)).at<int32_t>());
  const double start = seconds_now();
  program.run();
  const double seconds = seconds_now() - start;
  if (kind_.op == MixerKind::mesa) {
    const Tensor rounds = program.output("rounds0");
    const double before = rounds_ * solved_;
    double all = 0;
    for (int64_t i = 0; i < rounds.count(); ++i) all += rounds.at<int32_t>()[i];
    solved_ += double(rounds.count());
    rounds_ = (before + all) / solved_;
  }
  cache_.commit(seq_, std::vector<Token>(size_t(kept), 0));
  return seconds;
}

void MixerRun::skip(int64_t tokens) {
  if (!filled_) fill_rows();
  filled_ = true;
  for (int64_t n; tokens > 0; tokens -= n) {
    n = std::min<int64_t>(tokens, cache_.options().step_tokens);
    check(cache_.reserve(seq_, int(n), int(n)), "bench: the cache is too small for ", seq_.length() + n, " tokens");
    cache_.commit(seq_, std::vector<Token>(size_t(n), 0));
  }
}

MixerMemory MixerRun::memory(int64_t tokens) {
  MixerMemory memory{.beside = program(tokens).arena_bytes() + given_.bytes()};
  for (const LayerMemory& layer : cache_.memory().layers) {
    for (const Pool& pool : layer.rows) memory.rows += pool.tensor.bytes();
    for (const Pool& pool : layer.slabs) memory.beside += pool.tensor.bytes();
  }
  return memory;
}

}  // namespace folio
