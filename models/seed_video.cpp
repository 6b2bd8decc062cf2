// SPDX-License-Identifier: MIT
#include "models/seed_video.h"

#include <bit>

#include "ops/ops.h"

namespace folio {

SeedVideo::SeedVideo(const Weights& w, Device& device, int64_t T) : device_(device) {
  check(T >= 1 && T <= 4096, "seed-8.5m: a clip of ", T, " frames, expected 1 to 4096");
  auto graph = std::make_unique<Graph>();
  Graph& g = *graph;
  auto weight = [&](const std::string& name, const Shape& shape) { return w.get("seed." + name + ".weight", shape); };
  auto bias = [&](const std::string& name, int64_t n) { return w.get("seed." + name + ".bias", {n}); };
  auto conv = [&](Tensor x, const char* name, int64_t in, int64_t out, Extent kernel, Extent stride) {
    return g.record(Conv{.x = x, .w = weight(name, {kernel.t * kernel.h * kernel.w, in, out}), .bias = bias(name, out), .kernel = kernel,
                         .stride = stride, .pad = {1, 1, 1}}).y;
  };
  g.scope("encoder");
  Tensor x = g.input("clip", F32, {T, side, side, 3});
  x = conv(x, "encoder.0", 3, 32, {3, 4, 4}, {1, 2, 2});    // [T, 32, 32, 32]
  x = conv(x, "encoder.1", 32, 32, {3, 3, 3}, {1, 1, 1});
  const int64_t flat = x.count() / T;
  g.scope("mix");
  x = g.record(Matmul{.x = x.reshape({T, flat}), .w = weight("in", {dim, flat}), .bias = bias("in", dim)}).y;
  x = mixed(x, g, w, T);
  x = g.record(Matmul{.x = x, .w = weight("out", {flat, dim}), .bias = bias("out", flat)}).y.reshape({T, side / 2, side / 2, 32});
  g.scope("decoder");
  x = conv(x, "decoder.0", 32, 8, {3, 3, 3}, {1, 1, 1});
  x = g.record(ConvTranspose{.x = x, .w = weight("decoder.1", {16, 8, 3}), .bias = bias("decoder.1", 3), .kernel = {1, 4, 4},
                             .stride = {1, 2, 2}, .pad = {0, 1, 1}}).y;
  g.output("made", x);
  program_ = device.compile(std::move(graph));
}

SeedVideo::~SeedVideo() {
  program_.reset();
  for (const auto& [at, bytes] : pools_) device_.free(at, bytes);
}

int64_t SeedVideo::bytes() const {
  int64_t sum = program_->arena_bytes();
  for (const auto& pool : pools_) sum += pool.second;
  return sum;
}

Tensor SeedVideo::pool(const Shape& shape) {
  Tensor t = Tensor::of(F32, shape);
  t.data = device_.alloc(t.bytes());
  pools_.emplace_back(t.data, t.bytes());
  return t;
}

Tensor SeedVideo::mixed(Tensor x, Graph& g, const Weights& w, int64_t T) {
  const int64_t H = heads, D = dim / heads, pages = (T + page_tokens - 1) / page_tokens, levels = std::bit_width(uint64_t(T - 1)) + 1;
  auto ids = [&](const char* name, int64_t count, auto fn) {
    std::vector<int32_t> all;
    for (int64_t i = 0; i < count; ++i) all.push_back(int32_t(fn(i)));
    return g.constant(name, I32, {count}, all.data());
  };
  auto floats = [&](const char* name, const Shape& shape, auto fn) {
    std::vector<float> all;
    for (int64_t i = 0; i < shape.count(); ++i) all.push_back(fn(i));
    return g.constant(name, F32, shape, all.data());
  };
  const Tensor seq = ids("seq", T, [](int64_t) { return 0; }), pos = ids("pos", T, [](int64_t i) { return i; });
  const Tensor page = ids("page", pages, [](int64_t i) { return i; }).reshape({1, pages});
  const Tensor none = ids("none", pages, [](int64_t) { return -1; }).reshape({1, pages});
  const Tensor still = floats("still", {T, H}, [](int64_t) { return 0.0f; }), whole = floats("whole", {T, H}, [](int64_t) { return 1.0f; });
  const Tensor lambda = floats("levels", {T, H, levels}, [&](int64_t i) { return 1 / float(1 + i % levels); });
  const Tensor ridge = floats("ridge", {H, D}, [](int64_t) { return 1.0f; });
  auto rows = [&](int64_t width) { return pool({pages, page_tokens, H, width}); };
  const Tensor k_rows = rows(D), u_rows = rows(D), g_rows = rows(1), beta_rows = rows(1);

  const Tensor qkv = matmul(x, w.get("seed.qkv.weight", {3 * dim, dim}));
  auto part = [&](int64_t n) { return qkv.columns(n * dim, dim).split_last(H); };
  Tensor o = g.record(LogLinear{.q = l2_norm(part(0)), .k = l2_norm(part(1)), .v = part(2), .g = still, .lambda = lambda, .page = page,
                                .slab = page, .seq = seq, .pos = pos, .rows_k = k_rows, .rows_u = u_rows, .rows_g = g_rows,
                                .S = pool({pages, H, D, D}), .c = pool({pages, H, 2})}).o;
  x = g.record(Matmul{.x = o.merge_last(), .w = w.get("seed.proj.weight", {dim, dim}), .bias = w.get("seed.proj.bias", {dim}), .add = x}).y;
  const Tensor y = layer_norm(x, w.get("seed.norm.weight", {dim}), w.get("seed.norm.bias", {dim}), 1e-5f);
  const Tensor weight = w.get("seed.mesa.weight", {dim, dim}), bias = w.get("seed.mesa.bias", {dim});
  const Tensor v = g.record(Matmul{.x = y, .w = weight, .bias = bias}).y.split_last(H);
  const Tensor k = l2_norm(v);
  o = g.record(Mesa{.q = k, .k = k, .v = v, .g = still, .beta = whole, .lambda = ridge, .page = page, .slab = none, .seq = seq, .pos = pos,
                    .rows_k = k_rows, .rows_v = u_rows, .rows_g = g_rows, .rows_beta = beta_rows, .Hkk = pool({1, H, D, D}),
                    .Hkv = pool({1, H, D, D})}).o;
  return add(o.merge_last(), x);
}

}  // namespace folio
