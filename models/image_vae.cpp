// SPDX-License-Identifier: MIT
#include "models/image_vae.h"

#include <algorithm>
#include <cmath>

#include "models/mixers/mixer.h"

namespace folio {

namespace {

Tensor table(Graph& graph, const char* name, const std::vector<int32_t>& ids) {
  return graph.constant(name, I32, {int64_t(ids.size())}, ids.data());
}

// Images x [B·n·n, C] made anew: place (i, j) of one of m·m is place (row(i), column(j)) of the one of n·n. [B·m·m, C]
template <class F, class G> Tensor places(Tensor x, int64_t images, int64_t n, int64_t m, F row, G column) {
  std::vector<int32_t> from;
  for (int64_t b = 0; b < images; ++b)
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < m; ++j) from.push_back(int32_t((b * n + row(i)) * n + column(j)));
  return gather(x, table(*x.graph, "from", from));
}
template <class F> Tensor places(Tensor x, int64_t images, int64_t n, int64_t m, F at) { return places(x, images, n, m, at, at); }

// Where place i of a padded row of n lies in the row: a mirror stands on the first and on the last.
int64_t mirrored(int64_t i, int64_t n) {
  const int64_t at = i - 1;
  return at < 0 ? -at : at < n ? at : 2 * n - 2 - at;
}

Tensor larger(Tensor a, Tensor b) { return add(b, activate(add(a, scale(b, -1)), Act::relu)); }

}  // namespace

ImageVae::ImageVae(const Weights& w, Device& device)
    : device_(device), side_(size_in(w, "image.side", 1 << 10)), latent_(size_in(w, "vae.side", 1 << 8)),
      heads_(size_in(w, "vae.heads", 1 << 8)) {
  const std::string arch = w.text("arch");
  check(arch == "image_vae", w.path(), ": architecture '", arch, "', expected image_vae");
  const int64_t C = size_in(w, "vae.channels", 1 << 12), c = size_in(w, "vae.inner", 1 << 12), F = size_in(w, "vae.ffn", 1 << 14),
                A = size_in(w, "vae.attention", 1 << 12), layers = size_in(w, "vae.layers", 1 << 8);
  check(A % heads_ == 0, w.path(), ": 'vae.attention' is ", A, ", which ", heads_, " heads cannot share");
  check(latent_ >= 2 && (side_ - 5) / 2 + 1 == 2 * latent_, w.path(), ": latents of ", latent_, "x", latent_,
        " are not those of images of ", side_, "x", side_);
  const auto part = [&](const std::string& name, const Tensor& t, int64_t out) {
    const Tensor bias = w.get(name + ".bias", {out});
    check(bias.type == F32, w.path(), ": '", name, ".bias' is ", format(bias.type).name, ", expected f32");
    return Part{t, bias};
  };
  const auto matrix = [&](const std::string& name, int64_t out, int64_t in) {
    const Tensor t = w.get(name + ".weight", {out, in});
    check(format(t.type).to_float, w.path(), ": '", name, ".weight' is ", format(t.type).name, ", expected a format of weights");
    return part(name, t, out);
  };
  const auto taps = [&](const std::string& name, const Shape& shape) {
    const Tensor t = w.get(name + ".weight", shape);
    check(t.type == F32, w.path(), ": '", name, ".weight' is ", format(t.type).name, ", expected f32");
    return part(name, t, t.cols());
  };
  halves_[0].in = taps("encoder.in", {25, 1, c}), halves_[0].conv = taps("encoder.conv", {9, c, C});
  halves_[0].out = matrix("encoder.out", 2, C);
  halves_[1].in = matrix("decoder.in", C, 1), halves_[1].conv = taps("decoder.conv", {9, C, c});
  halves_[1].out = taps("decoder.out", {25, c, 1});
  for (size_t h : {0, 1})
    for (int64_t i = 0; i < layers; ++i) {
      const std::string l = join(h == 0 ? "encoder" : "decoder", ".layer.", i, ".");
      halves_[h].layers.push_back({.qkv = matrix(l + "mix.qkv", 3 * A, C), .out = matrix(l + "mix.out", C, A),
                                   .up = matrix(l + "ffn.up", F, C), .space = taps(l + "ffn.space", {9, F}),
                                   .down = matrix(l + "ffn.down", C, F)});
    }
}

static Tensor product(Tensor x, Tensor w, Tensor bias, Act act = Act::none, Tensor sum = {}) {
  return x.graph->record(Matmul{.x = x, .w = w, .bias = bias, .add = sum, .act = act}).y;
}
// A convolution of images x [B·n·n, C], none of which is seen beyond its edge but for `pad` zeros. [B·m·m, C']
static Tensor convolution(Tensor x, int64_t images, Tensor w, Tensor bias, int side, int stride, int pad, Act act) {
  const auto n = int64_t(std::lround(std::sqrt(double(x.dim(0) / images))));
  const Tensor y = x.graph->record(Conv{.x = x.reshape({images, n, n, x.cols()}), .w = w, .bias = bias, .kernel = {1, side, side},
                                        .stride = {1, stride, stride}, .pad = {0, pad, pad}, .act = act}).y;
  return y.reshape({y.rows(), y.cols()});
}

Tensor ImageVae::layer(Tensor x, const Layer& l, int64_t B) const {
  Graph& g = *x.graph;
  const int64_t n = latent_, T = n * n, pages = (T + page_tokens - 1) / page_tokens, A = l.out.w.cols();
  std::vector<int32_t> seq, pos, page, paged;
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t t = 0; t < T; ++t) seq.push_back(int32_t(b)), pos.push_back(int32_t(t));
    for (int64_t p = 0; p < pages; ++p) page.push_back(int32_t(b * pages + p));
    for (int64_t t = 0; t < pages * page_tokens; ++t) paged.push_back(t < T ? int32_t(b * T + t) : -1);
  }
  const Tensor qkv = product(x, l.qkv.w, l.qkv.bias), rows = table(g, "paged", paged);
  const auto pool = [&](int64_t i) {   // an image's keys are few: its pages are made for this step alone
    return gather(qkv.columns(i * A, A), rows).reshape({B * pages, page_tokens, heads_, A / heads_});
  };
  const Tensor o = g.record(Attend{.q = qkv.columns(0, A).split_last(heads_), .k = pool(1), .v = pool(2),
                                   .page = table(g, "page", page).reshape({B, pages}), .seq = table(g, "seq", seq),
                                   .pos = table(g, "pos", pos), .length = table(g, "length", std::vector<int32_t>(size_t(B), int32_t(T))),
                                   .scale = 1 / std::sqrt(float(A / heads_)), .causal = false}).o;
  x = product(o.merge_last(), l.out.w, l.out.bias, Act::none, x);
  Tensor y = product(x, l.up.w, l.up.bias, Act::gelu);
  y = places(y, B, n, n + 2, [n](int64_t i) { return mirrored(i, n); });
  y = convolution(y, B, l.space.w, l.space.bias, 3, 1, 0, Act::gelu);
  return product(y, l.down.w, l.down.bias, Act::none, x);
}

Tensor ImageVae::encoded(Tensor x, int64_t B) const {
  const Half& half = halves_[0];
  const int64_t n = 2 * latent_;
  x = convolution(x, B, half.in.w, half.in.bias, 5, 2, 0, Act::gelu);
  x = places(x, B, n, n + 2, [n](int64_t i) { return mirrored(i, n); });
  x = convolution(x, B, half.conv.w, half.conv.bias, 3, 1, 0, Act::gelu);
  Tensor four[4];
  for (int64_t k = 0; k < 4; ++k)
    four[k] = places(x, B, n, latent_, [k](int64_t i) { return 2 * i + k / 2; }, [k](int64_t j) { return 2 * j + k % 2; });
  x = larger(larger(four[0], four[1]), larger(four[2], four[3]));
  for (const Layer& l : half.layers) x = layer(x, l, B);
  return product(x, half.out.w, half.out.bias);
}

Tensor ImageVae::decoded(Tensor z, int64_t B) const {
  const Half& half = halves_[1];
  const int64_t n = latent_, m = 2 * n, side = side_;
  Tensor x = product(z, half.in.w, half.in.bias);
  for (const Layer& l : half.layers) x = layer(x, l, B);
  x = places(x, B, n, m + 2, [m](int64_t i) { return mirrored(i, m) / 2; });
  x = convolution(x, B, half.conv.w, half.conv.bias, 3, 1, 0, Act::none);
  x = places(x, B, m, side, [m, side](int64_t i) { return i * m / side; });
  return convolution(x, B, half.out.w, half.out.bias, 5, 1, 2, Act::none);
}

std::vector<float> ImageVae::run(size_t which, std::span<const float> in, int64_t from, int64_t to) {
  Half& half = halves_[which];
  const auto B = int64_t(in.size()) / (from * from);
  check(B >= 1 && B * from * from == int64_t(in.size()), "autoencoder: ", in.size(), " numbers are no whole images of ", from, "x", from);
  if (B != half.images) {
    half.program.reset();
    auto graph = std::make_unique<Graph>();
    const Tensor x = graph->input("x", F32, {B * from * from, 1});
    graph->output("y", which == 0 ? encoded(x, B) : decoded(x, B));
    half.program = device_.compile(std::move(graph));
    half.images = B;
  }
  std::copy(in.begin(), in.end(), half.program->input("x").at<float>());
  half.program->run();
  const Tensor y = half.program->output("y");   // of an encoder the mean, and what goes with it
  std::vector<float> out(size_t(B * to * to));
  for (size_t i = 0; i < out.size(); ++i) out[i] = *y.row<float>(int64_t(i));
  return out;
}

}  // namespace folio
