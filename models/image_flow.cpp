// SPDX-License-Identifier: MIT
#include "models/image_flow.h"

#include <algorithm>
#include <cmath>

#include "models/mixers/mixer.h"

namespace folio {

static constexpr int64_t told = 4;   // tokens that say time and class

static Tensor f32_of(const Weights& w, const std::string& name, const Shape& shape) {
  const Tensor t = w.get(name, shape);
  check(t.type == F32, w.path(), ": '", name, "' is ", format(t.type).name, ", expected f32");
  return t;
}

ImageFlow::ImageFlow(const Weights& w, Device& device)
    : device_(device), channels_(size_in(w, "image.channels", 64)), height_(size_in(w, "image.height", 4096)),
      width_(size_in(w, "image.width", 4096)), patch_(size_in(w, "image.patch", 4096)), dim_(size_in(w, "image.dim", 1 << 16)),
      heads_(size_in(w, "image.heads", 1 << 12)),
      classes_(size_in(w, "image.classes")) {
  const std::string arch = w.text("arch");
  check(arch == "image_flow", w.path(), ": architecture '", arch, "', expected image_flow");
  check(height_ % patch_ == 0 && width_ % patch_ == 0, w.path(), ": patches of ", patch_, " do not tile ", height_, "x", width_);
  check(dim_ % heads_ == 0, w.path(), ": 'image.dim' is ", dim_, ", which ", heads_, " heads cannot share");
  const int64_t c = channels_ * patch_ * patch_, F = size_in(w, "image.ffn", 1 << 18);
  auto linear = [&](const std::string& name, int64_t out, int64_t in) {
    const Tensor t = w.get(name + ".weight", {out, in});
    check(format(t.type).to_float, w.path(), ": '", name, ".weight' is ", format(t.type).name, ", expected a format of weights");
    return Linear{t, f32_of(w, name + ".bias", {out})};
  };
  in_ = linear("flow.in", dim_, c);
  out_ = linear("flow.out", c, dim_);
  position_ = f32_of(w, "flow.position", {patches(), dim_});
  class_ = w.get("flow.class.weight", {classes_ + 1, 2 * dim_});
  check(format(class_.type).to_float, w.path(), ": 'flow.class.weight' is ", format(class_.type).name, ", expected a format of weights");
  const int64_t layers = size_in(w, "image.layers", 1 << 12);
  for (int64_t i = 0; i < layers; ++i) {
    const std::string l = join("layer.", i, ".");
    auto row = [&](const char* name) { return f32_of(w, l + name, {dim_}); };
    layers_.push_back({.qkv = linear(l + "mix.qkv", 3 * dim_, dim_), .out = linear(l + "mix.out", dim_, dim_),
                       .up = linear(l + "ffn.up", F, dim_), .down = linear(l + "ffn.down", dim_, F), .norm_mix = row("norm_mix.weight"),
                       .norm_mix_bias = row("norm_mix.bias"), .norm_ffn = row("norm_ffn.weight"), .norm_ffn_bias = row("norm_ffn.bias")});
  }
}

ImageFlow::~ImageFlow() {
  program_.reset();
  for (std::byte* pool : pools_)
    if (pool) device_.free(pool, pool_bytes_);
}

Tensor ImageFlow::Linear::operator()(Tensor x, Act act, Tensor add) const {
  return x.graph->record(Matmul{.x = x, .w = w, .bias = bias, .add = add, .act = act}).y;
}

// A sequence is an image's patches, then the tokens of time and class; attention sees no order among them.
void ImageFlow::compile(int64_t B) {
  program_.reset();
  const int64_t C = dim_, N = patches(), T = N + told, H = heads_, pages = (T + page_tokens - 1) / page_tokens;
  const Tensor pool = Tensor::of(F32, {B * pages, page_tokens, H, C / H});
  for (std::byte*& at : pools_) {
    if (at) device_.free(at, pool_bytes_);
    at = nullptr;
  }
  pool_bytes_ = pool.bytes();
  for (std::byte*& at : pools_) at = device_.alloc(pool_bytes_);
  auto graph = std::make_unique<Graph>();
  Graph& g = *graph;
  auto table = [&](const char* name, int64_t count, auto fn) {
    std::vector<int32_t> ids;
    for (int64_t b = 0; b < B; ++b)
      for (int64_t i = 0; i < count; ++i) ids.push_back(int32_t(fn(b, i)));
    return g.constant(name, I32, {int64_t(ids.size())}, ids.data());
  };
  g.scope("embed");
  const Tensor z = g.input("z", F32, {B * N, in_.w.cols()}), t = g.input("t", F32, {B}), which = g.input("class", I32, {B});
  const Tensor page = table("page", pages, [&](int64_t b, int64_t i) { return b * pages + i; }).reshape({B, pages});
  const Tensor seq = table("seq", T, [](int64_t b, int64_t) { return b; }), pos = table("pos", T, [](int64_t, int64_t i) { return i; });
  const Tensor length = table("length", 1, [&](int64_t, int64_t) { return T; });
  const Tensor x0 = add(in_(z), embed(table("place", N, [](int64_t, int64_t i) { return i; }), position_));
  const Tensor time = g.record(TimestepEmbed{.t = t, .dim = int(2 * C), .scale = 1, .gap = 1, .sine_first = true}).y.reshape({2 * B, C});
  const Tensor kind = embed(which, class_).reshape({2 * B, C});
  auto from = [&](int64_t first, int64_t count) {   // where each token of a sequence stands among `count` of each image; −1: not there
    return table("from", T, [=](int64_t b, int64_t i) { return i >= first && i < first + count ? b * count + i - first : -1; });
  };
  Tensor x = add(add(gather(x0, from(0, N)), gather(time, from(N, 2))), gather(kind, from(N + 2, 2)));
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& l = layers_[i];
    g.scope(join("layer.", i, ".mix"));
    const Tensor qkv = l.qkv(x);
    Tensor part[3];
    for (int64_t n = 0; n < 3; ++n) part[n] = qkv.columns(n * C, C).split_last(H);
    Tensor rows[2];
    for (int n : {0, 1}) {
      rows[n] = pool;
      rows[n].data = pools_[n];
      g.record(Append{.x = part[n + 1], .page = page, .seq = seq, .pos = pos, .pool = rows[n]});
    }
    const Tensor o = g.record(Attend{.q = part[0], .k = rows[0], .v = rows[1], .page = page, .seq = seq, .pos = pos, .length = length,
                                     .scale = 1 / std::sqrt(float(C / H)), .causal = false}).o;
    x = layer_norm(l.out(o.merge_last(), Act::none, x), l.norm_mix, l.norm_mix_bias, 1e-5f);
    g.scope(join("layer.", i, ".ffn"));
    x = layer_norm(l.down(l.up(x, Act::gelu), Act::none, x), l.norm_ffn, l.norm_ffn_bias, 1e-5f);
  }
  g.scope("out");
  g.output("image", out_(gather(x, table("patch", N, [&](int64_t b, int64_t i) { return b * T + i; }))));
  program_ = device_.compile(std::move(graph));
  images_ = B;
}

template <class F> void ImageFlow::each_number(int64_t images, F fn) const {
  const int64_t p = patch_, across = width_ / p, size = channels_ * p * p;
  for (int64_t b = 0; b < images; ++b)
    for (int64_t c = 0; c < channels_; ++c)
      for (int64_t i = 0; i < height_; ++i)
        for (int64_t j = 0; j < width_; ++j)
          fn(size_t(((b * channels_ + c) * height_ + i) * width_ + j),
             size_t((b * patches() + i / p * across + j / p) * size + c * p * p + i % p * p + j % p));
}

std::vector<float> ImageFlow::predict(std::span<const float> x, double t, const std::vector<int32_t>& classes) {
  const auto B = int64_t(classes.size());
  check(B >= 1 && int64_t(x.size()) == B * numbers(), "image: ", x.size(), " numbers for ", B, " images of ", numbers());
  for (int32_t c : classes)
    check(c >= -1 && c < classes_, "image: there is no class ", c, "; expected 0 to ", classes_ - 1, ", or -1 for none");
  if (B != images_) compile(B);
  float* z = program_->input("z").at<float>();
  each_number(B, [&](size_t from, size_t to) { z[to] = x[from]; });
  for (int64_t b = 0; b < B; ++b) {
    program_->input("t").at<float>()[b] = float(1 - t);   // its time goes the other way
    program_->input("class").at<int32_t>()[b] = int32_t(classes[size_t(b)] < 0 ? classes_ : classes[size_t(b)]);
  }
  program_->run();
  const float* image = program_->output("image").at<float>();
  std::vector<float> out(x.size());
  each_number(B, [&](size_t to, size_t from) { out[to] = image[from]; });
  return out;
}

Velocity ImageFlow::velocity(std::vector<int32_t> classes) {
  return [this, classes](std::span<const float> x, double t, std::span<float> with, std::span<float> without) {
    for (std::span<float> v : {with, without}) {
      if (v.empty()) continue;
      const bool guided = v.data() == without.data();
      const std::vector<float> clean = predict(x, t, guided ? std::vector<int32_t>(classes.size(), -1) : classes);
      for (size_t i = 0; i < v.size(); ++i) v[i] = float((x[i] - clean[i]) / t);
    }
  };
}

}  // namespace folio
