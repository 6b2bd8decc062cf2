// SPDX-License-Identifier: MIT
// The two loops of this file exist once per instruction set that matters to them, with target attributes, as those of machine.cpp.
#include "tools/lib/mixer_plain.h"

#include <cmath>
#include <cstring>
#include <random>

#include "ops/matmul.h"
#include "tools/lib/model.h"

#define FOLIO_INLINE inline __attribute__((always_inline))

namespace folio {

namespace {

// Registers of N bytes; what stands in memory need not be aligned. (Types, not arguments of templates: those lose their attributes.)
template <int N> struct Registers {
  typedef float Floats __attribute__((vector_size(N), aligned(4), may_alias));
  typedef int32_t Ints __attribute__((vector_size(N), aligned(4), may_alias));
};

// The first `seen` of a row's numbers become their softmax, the others 0.
template <int Bytes> FOLIO_INLINE void softmax(float* row, int64_t seen, int64_t width) {
  using Floats = typename Registers<Bytes>::Floats;
  using Ints = typename Registers<Bytes>::Ints;
  constexpr int64_t lanes = sizeof(Floats) / 4;
  const int64_t whole = seen / lanes * lanes;
  float most = row[0];
  Floats highest = most - Floats{};
  for (int64_t i = 0; i < whole; i += lanes) {
    const Floats x = *reinterpret_cast<const Floats*>(row + i);
    highest = x > highest ? x : highest;
  }
  for (int64_t i = 0; i < lanes; ++i) most = std::max(most, highest[i]);
  for (int64_t i = whole; i < seen; ++i) most = std::max(most, row[i]);
  float total = 0;
  Floats sum = {};
  for (int64_t i = 0; i < whole; i += lanes) {   // 2^x = 2^n · 2^r: adding 1.5·2^23 rounds, and leaves n in the low bits
    Floats x = (*reinterpret_cast<const Floats*>(row + i) - most) * 1.44269504f;
    x = x > -120.0f ? x : -120.0f - Floats{};
    const Floats shifted = x + 12582912.0f, r = x - (shifted - 12582912.0f);
    Floats p = 1.33335581e-3f * r + 9.61812911e-3f;
    p = p * r + 5.55041087e-2f;
    p = p * r + 2.40226507e-1f;
    p = p * r + 6.93147181e-1f;
    p = p * r + 1.0f;
    p = Floats(Ints(p) + (Ints(shifted) << 23));   // the bits
    *reinterpret_cast<Floats*>(row + i) = p;
    sum += p;
  }
  for (int64_t i = 0; i < lanes; ++i) total += sum[i];
  for (int64_t i = whole; i < seen; ++i) total += row[i] = std::exp(row[i] - most);
  const float by = 1 / total;
  for (int64_t i = 0; i < whole; i += lanes) *reinterpret_cast<Floats*>(row + i) *= by;
  for (int64_t i = whole; i < seen; ++i) row[i] *= by;
  for (int64_t i = seen; i < width; ++i) row[i] = 0;
}

struct DeltaHead {
  int64_t width;
  const float *q, *k, *v;
  float decay, beta, scale;
  float *S, *o;
};

// N registers of columns, from column `at` on.
template <int Bytes, int N> FOLIO_INLINE void delta_columns(const DeltaHead& h, int64_t at) {
  using Floats = typename Registers<Bytes>::Floats;
  constexpr int64_t lanes = sizeof(Floats) / 4;
  Floats u[N] = {}, o[N] = {};
  float* S = h.S + at;
  for (int64_t c = 0; c < h.width; ++c)
    for (int i = 0; i < N; ++i) u[i] += h.k[c] * *reinterpret_cast<const Floats*>(S + c * h.width + i * lanes);
  for (int i = 0; i < N; ++i) u[i] = h.beta * (*reinterpret_cast<const Floats*>(h.v + at + i * lanes) - h.decay * u[i]);
  for (int64_t c = 0; c < h.width; ++c)
    for (int i = 0; i < N; ++i) {
      Floats& s = *reinterpret_cast<Floats*>(S + c * h.width + i * lanes);
      const Floats now = h.decay * s + h.k[c] * u[i];
      s = now;
      o[i] += h.q[c] * now;
    }
  for (int i = 0; i < N; ++i) *reinterpret_cast<Floats*>(h.o + at + i * lanes) = h.scale * o[i];
}

template <int Bytes> FOLIO_INLINE void delta_head(const DeltaHead& h) {
  constexpr int64_t lanes = Bytes / 4;
  int64_t at = 0;
  for (; at + 4 * lanes <= h.width; at += 4 * lanes) delta_columns<Bytes, 4>(h, at);
  for (; at < h.width; at += lanes) delta_columns<Bytes, 1>(h, at);
}

#define FOLIO_LOOPS(SET, BYTES)                                                                              \
  void softmax_##SET(float* row, int64_t seen, int64_t width) { softmax<BYTES>(row, seen, width); }          \
  void delta_##SET(const DeltaHead& h) { delta_head<BYTES>(h); }
FOLIO_LOOPS(plain, 16)
#ifdef __x86_64__
#pragma GCC push_options
#pragma GCC target("avx2,fma")
FOLIO_LOOPS(avx2, 32)
#pragma GCC target("avx512f")
FOLIO_LOOPS(avx512, 64)
#pragma GCC pop_options
#endif
#undef FOLIO_LOOPS

struct Loops {
  void (*softmax)(float*, int64_t, int64_t);
  void (*delta)(const DeltaHead&);
};
Loops best_loops() {
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx512f")) return {softmax_avx512, delta_avx512};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return {softmax_avx2, delta_avx2};
#endif
  return {softmax_plain, delta_plain};
}

}  // namespace

PlainAttention::PlainAttention(const MixerSize& size, int64_t tokens, int64_t depth, int threads)
    : tokens_(tokens), depth_(depth), pool_(threads) {
  for (int i = 0; i < pool_.size(); ++i) devices_.push_back(cpu(1));
  given_ = std::make_unique<DeviceTensors>(*devices_[0]);
  const int64_t H = size.heads, D = size.width;
  q = given_->random(F32, {H, tokens, D}), k = given_->random(F32, {H, depth, D}), v = given_->random(F32, {H, D, depth});
  auto product = [&](int64_t h, const Tensor& x, const Tensor& w) {
    auto graph = std::make_unique<Graph>();
    graph->output("y", graph->record(Matmul{.x = x, .w = w}).y);
    return devices_[size_t(h % pool_.size())]->compile(std::move(graph));
  };
  for (int64_t h = 0; h < H; ++h) {
    auto head = [&](const Tensor& x) { return x.slice(h, 1).reshape({x.dim(1), x.dim(2)}); };
    Head& made = heads_.emplace_back();
    made.scores = product(h, head(q), head(k));
    made.at = made.scores->output("y");
    made.mix = product(h, made.at, head(v));
  }
}

double PlainAttention::run() {
  const auto softmax = best_loops().softmax;
  const double start = seconds_now();
  pool_.run([&](Worker w) {
    for (size_t h = size_t(w.index); h < heads_.size(); h += size_t(w.count)) {
      heads_[h].scores->run();
      for (int64_t t = 0; t < tokens_; ++t) softmax(heads_[h].at.row<float>(t), depth_ - tokens_ + t + 1, depth_);
      heads_[h].mix->run();
    }
  });
  return seconds_now() - start;
}

Tensor PlainAttention::output(int64_t head) const { return heads_[size_t(head)].mix->output("y"); }

MixerMemory PlainAttention::memory() const {
  MixerMemory memory{.rows = k.bytes() + v.bytes(), .beside = q.bytes()};
  for (const Head& head : heads_) memory.beside += head.scores->arena_bytes() + head.mix->arena_bytes();
  return memory;
}

PlainDelta::PlainDelta(const MixerSize& size, ThreadPool& pool)
    : size_(size), pool_(pool), device_(cpu(1)), given_(std::make_unique<DeviceTensors>(*device_)) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal;
  const auto H = size_t(size.heads), D = size_t(size.width);
  auto drawn = [&](size_t n, float deviation) {
    std::vector<float> numbers(n);
    for (float& x : numbers) x = deviation * normal(random);
    return numbers;
  };
  const float length_one = 1 / std::sqrt(float(D));
  q = drawn(H * D, length_one), k = drawn(H * D, length_one), v = drawn(H * D, 1);
  g.assign(H, -0.001f), beta.assign(H, 0.5f), o.assign(H * D, 0);
  S = given_->floats({size.heads, size.width, size.width}, std::vector<float>(H * D * D));
}

double PlainDelta::run() {
  const auto delta = best_loops().delta;
  const int64_t D = size_.width;
  const double start = seconds_now();
  pool_.run([&](Worker w) {
    for (int64_t h : w.share(size_.heads)) {
      const auto head = size_t(h);
      delta({.width = D, .q = q.data() + h * D, .k = k.data() + h * D, .v = v.data() + h * D, .decay = std::exp(g[head]),
             .beta = beta[head], .scale = 1 / std::sqrt(float(D)), .S = S.row<float>(h * D), .o = o.data() + h * D});
    }
  });
  return seconds_now() - start;
}

}  // namespace folio
