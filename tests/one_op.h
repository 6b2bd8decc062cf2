// SPDX-License-Identifier: MIT
// A recurrent op as a model, and the same in float64. A token is a row of tables of q, k, v and gates, so the two sides read the same
// floats: an Engine feeds the op as it feeds any model, its results being the logits; the recurrence takes one token after the other.
// Mesa's float64 side solves each query exactly, by Cholesky's method; the op is asked for 1e-7.
#pragma once
#include <bit>
#include <cmath>
#include <ostream>

#include "base/larger.h"
#include "cases.h"
#include "run/engine.h"

namespace folio::one_op {

constexpr int64_t words = 1024, K = 16, V = 16;
static_assert(K == V);
constexpr int levels = 18;   // enough for 131,072 tokens

enum class Family { linear, log_linear, mesa };
enum class Decay { none, constant, scalar, channel };

struct Kind {
  const char* name;
  Family family;
  Decay decay;
  bool beta, normalise = false;
  double strength = 0.02;   // of the decays: logs lie between −strength and 0, mostly near 0, so that hundreds of tokens are remembered
};
inline void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }

// What a token brings: rows of tables [words, ...]; one head. Keys and queries have length 1.
struct Tables {
  Tensor q, k, v, g, beta, lambda, ridge;
  Tables(Inputs& in, const Kind& kind) {
    q = in.normal({words, K}), k = in.normal({words, K}), v = in.normal({words, V});
    for (const Tensor& t : {q, k})
      for (int64_t i = 0; i < words; ++i) {
        double sum = 1e-6;
        for (int64_t c = 0; c < K; ++c) sum += double(t.row<float>(i)[c]) * t.row<float>(i)[c];
        for (int64_t c = 0; c < K; ++c) {
          float& x = t.row<float>(i)[c];
          x = float(x / std::sqrt(sum));
          if (kind.normalise) x = std::fabs(x);
        }
      }
    if (kind.decay == Decay::constant) g = in.values({1}, {float(std::log1p(-1.0 / 512))});
    if (kind.decay == Decay::scalar || kind.decay == Decay::channel) {
      g = in.uniform(0, 1, {words, kind.decay == Decay::channel ? K : 1});
      for (int64_t i = 0; i < g.count(); ++i) g.at<float>()[i] *= -float(kind.strength) * g.at<float>()[i] * g.at<float>()[i];
    }
    if (kind.beta) beta = in.uniform(0, 1, {words, 1});
    if (kind.family == Family::log_linear) lambda = in.uniform(0, 1, {words, levels});
    if (kind.family == Family::mesa) ridge = in.uniform(0.25, 1, {1, K});
  }
};

// The op as a model: its results are the logits.
class OneOp final : public Model {
 public:
  OneOp(const Kind& kind, const Tables& tables) : kind_(kind), t_(tables) {
    auto row = [&](const char* name, int64_t width) {
      spec_.rows.push_back({.name = name, .type = F32, .shape = {1, width}, .window = int(page_tokens)});
    };
    auto slab = [&](const char* name, const Shape& shape, bool chain = false) { spec_.slabs.push_back({name, F32, shape, chain}); };
    const bool delta = kind.family == Family::log_linear && kind.beta;
    row("k", K), row("u", V);
    if (kind.decay == Decay::scalar || kind.decay == Decay::channel) row("g", t_.g.cols());
    if (delta) row("w", K), row("x", page_tokens);
    if (kind.family == Family::mesa) row("beta", 1), slab("H", {1, K, K});
    slab("S", {1, delta ? (levels - LogLinear::fine) * K : K, V}, kind.family == Family::log_linear && !delta);
    if (kind.normalise) slab("z", {1, K});
    if (kind.family == Family::log_linear && !delta) slab("c", {1, 2}, true);
  }
  StateSpec state(DType) const override { return {spec_}; }
  DType natural_rows() const override { return F32; }
  int64_t vocab() const override { return V; }
  int64_t context() const override { return LogLinear::reach(levels); }
  int64_t longest() const override { return context(); }
  int64_t weight_bytes() const override { return 0; }
  int64_t flops_per_token() const override { return 0; }
  Tensor draw(Tensor, const DrawInputs&) const override { fail("nothing is drawn here"); }
  Tensor logits(const Step& s, const Memory& memory) const override { return gather(record(s, memory.layers[0]).merge_last(), s.wanted); }

 private:
  Tensor record(const Step& s, const LayerMemory& m) const {
    auto of = [&](const Tensor& table) { return table.present() ? embed(s.token, table) : Tensor(); };
    auto row = [&](const char* name, bool there = true) { return there ? m.row(name).tensor : Tensor(); };
    auto slab = [&](const char* name, bool there = true) { return there ? m.slab(name).tensor : Tensor(); };
    const Tensor q = of(t_.q).split_last(1), k = of(t_.k).split_last(1), v = of(t_.v).split_last(1), beta = of(t_.beta);
    const Tensor page = s.page[size_t(m.row("k").kind)], ends = s.page[size_t(m.slab("S").kind)];
    const bool of_token = kind_.decay == Decay::scalar || kind_.decay == Decay::channel;
    const Tensor g = kind_.decay == Decay::constant ? t_.g : kind_.decay == Decay::channel ? of(t_.g).split_last(1) : of(t_.g);
    switch (kind_.family) {
      case Family::linear:
        return s.graph->record(Linear{.q = q, .k = k, .v = v, .g = g, .beta = beta, .page = page, .slab = ends, .seq = s.seq, .pos = s.pos,
                                      .rows_k = row("k"), .rows_u = row("u"), .rows_g = row("g", of_token), .S = slab("S"),
                                      .z = slab("z", kind_.normalise)}).o;
      case Family::log_linear:
        return s.graph->record(LogLinear{.q = q, .k = k, .v = v, .g = g, .beta = beta, .lambda = of(t_.lambda).split_last(1), .page = page,
                                         .slab = ends, .seq = s.seq, .pos = s.pos, .rows_k = row("k"), .rows_u = row("u"), .rows_g = row("g"),
                                         .rows_w = row("w", kind_.beta), .rows_x = row("x", kind_.beta), .S = slab("S"),
                                         .c = slab("c", !kind_.beta)}).o;
      case Family::mesa:
        return s.graph->record(Mesa{.q = q, .k = k, .v = v, .g = g, .beta = beta, .lambda = t_.ridge, .page = page, .slab = ends,
                                    .seq = s.seq, .pos = s.pos, .rows_k = row("k"), .rows_v = row("u"), .rows_g = row("g"), .rows_beta = row("beta"), .Hkk = slab("H"),
                                    .Hkv = slab("S"), .tolerance = 1e-7f}).o;
    }
    return {};
  }
  const Kind& kind_;
  const Tables& t_;
  LayerSpec spec_;
};

// The same in float64, token by token. Copies go on by themselves.
class Recurrence {
 public:
  Recurrence(const Kind& kind, const Tables& tables) : kind_(kind), t_(tables), S_(K * V), z_(K), H_(K * K), level_(levels + 1) {}
  // What some published code does behind a prompt: log-linear levels are kept, and how many tokens there were is not.
  void drop_counter() { at_ = 0; }
  std::vector<double> step(Token token) {
    q_ = t_.q.row<float>(token), k_ = t_.k.row<float>(token), v_ = t_.v.row<float>(token);
    beta_ = kind_.beta ? t_.beta.row<float>(token)[0] : 1;
    for (int64_t c = 0; c < K; ++c) {
      const double g = kind_.decay == Decay::none ? 0 : kind_.decay == Decay::constant ? t_.g.at<float>()[0]
                                                    : t_.g.row<float>(token)[kind_.decay == Decay::channel ? c : 0];
      decay_[size_t(c)] = std::exp(g);
    }
    return kind_.family == Family::linear ? linear() : kind_.family == Family::mesa ? mesa() : log_linear(t_.lambda.row<float>(token));
  }

 private:
  using Numbers = std::vector<double>;
  void decay(Numbers& S) const {
    for (int64_t c = 0; c < K; ++c)
      for (int64_t e = 0; e < V; ++e) S[size_t(c * V + e)] *= decay_[size_t(c)];
  }
  static void add_outer(Numbers& S, const float* a, const auto& b, double by = 1) {
    for (int64_t c = 0; c < K; ++c)
      for (int64_t e = 0; e < V; ++e) S[size_t(c * V + e)] += by * a[c] * b[size_t(e)];
  }
  static Numbers times(const auto& a, const Numbers& S) {
    Numbers o(V);
    for (int64_t c = 0; c < K; ++c)
      for (int64_t e = 0; e < V; ++e) o[size_t(e)] += a[size_t(c)] * S[size_t(c * V + e)];
    return o;
  }
  Numbers linear() {
    decay(S_);
    Numbers u(v_, v_ + V);
    const Numbers foretold = times(k_, S_);
    for (int64_t e = 0; kind_.beta && e < V; ++e) u[size_t(e)] = beta_ * (v_[e] - foretold[size_t(e)]);
    add_outer(S_, k_, u);
    double norm = 0;
    for (int64_t c = 0; c < K; ++c) {
      z_[size_t(c)] = decay_[size_t(c)] * z_[size_t(c)] + k_[c];
      norm += q_[c] * z_[size_t(c)];
    }
    Numbers o = times(q_, S_);
    for (double& x : o) x /= kind_.normalise ? norm + 1e-10 : 1;
    return o;
  }
  Numbers log_linear(const float* lambda) {
    if (at_ > 0) {   // levels 0 .. j become level j + 1
      const auto j = size_t(std::countr_zero(uint64_t(at_)));
      Numbers sum(K * V);
      for (size_t l = 0; l <= j; ++l) {
        for (size_t i = 0; i < level_[l].size(); ++i) sum[i] += level_[l][i];
        level_[l].clear();
      }
      level_[j + 1] = sum;
    }
    ++at_;
    for (Numbers& S : level_) {
      if (S.empty()) continue;
      if (kind_.beta) add_outer(S, k_, times(k_, S), -beta_);
      decay(S);
    }
    level_[0].assign(K * V, 0);
    add_outer(level_[0], k_, v_, beta_);
    Numbers o(V);
    for (size_t l = 0; l < size_t(levels); ++l) {
      if (level_[l].empty()) continue;
      const Numbers part = times(q_, level_[l]);
      for (size_t e = 0; e < V; ++e) o[e] += lambda[l] * part[e];
    }
    return o;
  }
  Numbers mesa() {
    decay(S_), decay(H_);   // K = V
    add_outer(S_, k_, v_, beta_), add_outer(H_, k_, k_, beta_);
    Numbers L(K * K), x(q_, q_ + K);   // (H + Λ) = L Lᵀ
    for (size_t i = 0; i < K; ++i) {
      for (size_t j = 0; j <= i; ++j) {
        double sum = H_[i * K + j] + (i == j ? t_.ridge.at<float>()[i] : 0);
        for (size_t m = 0; m < j; ++m) sum -= L[i * K + m] * L[j * K + m];
        L[i * K + j] = i == j ? std::sqrt(sum) : sum / L[j * K + j];
      }
      for (size_t j = 0; j < i; ++j) x[i] -= L[i * K + j] * x[j];
      x[i] /= L[i * K + i];
    }
    for (size_t i = K; i-- > 0;) {
      for (size_t j = i + 1; j < K; ++j) x[i] -= L[j * K + i] * x[j];
      x[i] /= L[i * K + i];
    }
    return times(x, S_);
  }
  const Kind& kind_;
  const Tables& t_;
  Numbers S_, z_, H_;
  std::vector<Numbers> level_;
  int64_t at_ = 0;
  const float *q_ = nullptr, *k_ = nullptr, *v_ = nullptr;
  double beta_ = 1, decay_[K] = {};
};

}  // namespace folio::one_op
