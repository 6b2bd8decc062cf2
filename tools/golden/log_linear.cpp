// SPDX-License-Identifier: MIT
// Golden cases of LogLinear: Mamba-2 and gated DeltaNet with a weight for each level of the text.
#include "ops/log_linear.h"

#include <algorithm>

#include "base/error.h"
#include "tools/golden/golden.h"

namespace folio::golden {

namespace {

// A case as the op sees it.
struct Setting {
  Rows q, k, v, g, beta, lambda;   // beta: rank 0 for Mamba-2
  int64_t sequences, tokens;
  bool delta() const { return beta.row.rank > 0; }
  int64_t groups() const { return q.row[0]; }
  int64_t heads() const { return v.row[0]; }
  int64_t keys() const { return q.row[1]; }
  int64_t width() const { return v.row[1]; }
  int64_t buckets() const { return delta() ? std::max<int64_t>(lambda.row[1] - LogLinear::fine, 1) : 1; }
};

struct Pools {
  Tensor k, u, g, w, x, S, c;
};

Pools make_pools(Memory& memory, const Setting& s, const Text& text) {
  const int64_t N = text.pools, H = s.heads(), K = s.keys();
  Pools p{.k = memory.zeros(F32, {N, page_tokens, s.groups(), K}), .u = memory.zeros(F32, {N, page_tokens, H, s.width()}),
          .g = memory.zeros(F32, {N, page_tokens, H, 1}), .w = {}, .x = {},
          .S = memory.zeros(F32, {N, H, s.buckets() * K, s.width()}), .c = {}};
  if (s.delta()) p.w = memory.zeros(F32, {N, page_tokens, H, K}), p.x = memory.zeros(F32, {N, page_tokens, H, page_tokens});
  else p.c = memory.zeros(F32, {N, H, 2});
  return p;
}

// The levels behind the last token, from the slabs of the pages before its own and the rows of that (ops/log_linear.h).
class Levels {
 public:
  Levels(const Memory& memory, const Setting& s, const Text& text, const Pools& p)
      : s_(s), text_(text), page_((text.end() - 1) / page_tokens), last_((text.end() - 1) % page_tokens), k_(memory.read(p.k)),
        u_(memory.read(p.u)), g_(memory.read(p.g)), S_(memory.read(p.S)) {
    if (s.delta()) w_ = memory.read(p.w), x_ = memory.read(p.x);
    else c_ = memory.read(p.c);
  }
  // [K, V] of a level; zeros if nobody is in it.
  std::vector<double> level(int64_t l, int64_t b, int64_t h) const {
    const int64_t K = s_.keys(), V = s_.width(), m = l - LogLinear::fine;
    std::vector<double> to(size_t(K * V));
    const double end = decay(b, h, last_);
    if (m < 0) {
      for (int64_t r = 0; r <= last_; ++r)
        for (int64_t j = r; LogLinear::level_of(last_, r) == l && j <= last_; ++j) {
          const double x = s_.delta() ? x_[row(b, h, j, page_tokens) + size_t(r)] : j == r;
          for (int64_t e = 0; x != 0 && e < V; ++e) outer(to, b, h, j, end, e, x * u_[row(b, h, r, V) + size_t(e)]);
        }
    } else if (page_ >> m & 1) {
      const int64_t full = page_ >> m << m, id = slab(b, s_.delta() ? page_ : full);
      const double by = s_.delta() ? 1 : std::exp(until(b, h, page_) - until(b, h, full));
      const auto from = size_t(((id * s_.heads() + h) * s_.buckets() + (s_.delta() ? m : 0)) * K * V);
      for (int64_t i = 0; i < K * V; ++i) to[size_t(i)] = by * std::exp(end) * S_[from + size_t(i)];
      for (int64_t j = 0; s_.delta() && j <= last_; ++j)
        for (int64_t e = 0; e < V; ++e) {
          double part = 0;
          for (int64_t i = 0; i < K; ++i) part += w_[row(b, h, j, K) + size_t(i)] * S_[from + size_t(i * V + e)];
          outer(to, b, h, j, end, e, -part);
        }
    }
    return to;
  }

 private:
  int64_t slab(int64_t b, int64_t full) const { return text_.slab[size_t(b * text_.most + full - 1)]; }
  size_t row(int64_t b, int64_t h, int64_t j, int64_t width) const {
    return size_t(((text_.page[size_t(b * text_.most + page_)] * page_tokens + j) * s_.heads() + h) * width);
  }
  double decay(int64_t b, int64_t h, int64_t j) const {
    double sum = 0;
    for (int64_t i = 0; i <= j; ++i) sum += g_[row(b, h, i, 1)];
    return sum;
  }
  double until(int64_t b, int64_t h, int64_t full) const {
    const auto at = size_t((slab(b, full) * s_.heads() + h) * 2);
    return c_[at] + c_[at + 1];
  }
  // Column e of `to` += (k_j e^(end − b_j))ᵀ u
  void outer(std::vector<double>& to, int64_t b, int64_t h, int64_t j, double end, int64_t e, double u) const {
    const double by = u * std::exp(end - decay(b, h, j));
    const int64_t K = s_.keys(), page = text_.page[size_t(b * text_.most + page_)], group = h / (s_.heads() / s_.groups());
    const auto key = size_t(((page * page_tokens + j) * s_.groups() + group) * K);
    for (int64_t i = 0; i < K; ++i) to[size_t(i * s_.width() + e)] += by * k_[key + size_t(i)];
  }
  const Setting& s_;
  const Text& text_;
  const int64_t page_, last_;
  const std::vector<double> k_, u_, g_, S_;
  std::vector<double> w_, x_, c_;
};

// o [B, H, T, V], and `levels` levels of all sequences and heads.
struct Outcome {
  std::vector<double> o, levels;
};

Outcome run_case(Case& c, const Setting& s, bool pieces, int64_t levels) {
  std::mt19937_64 random(11 + uint64_t(pieces));
  const Text text(s.sequences, s.tokens, 0, random);
  Memory memory(c.device);
  const Pools pools = make_pools(memory, s, text);
  const Tensor page = memory.ints({text.sequences, text.most}, text.page), slab = memory.ints({text.sequences, text.most}, text.slab);
  Outcome out;
  for (const Step& step : pieces ? in_pieces(text, random) : one_go(text)) {
    Memory brief(c.device);
    const auto n = int64_t(step.seq.size());
    auto given = [&](const Rows& rows) { return rows.row.rank > 0 ? rows_of(brief, rows, text, step) : Tensor(); };
    const LogLinear op{.q = given(s.q), .k = given(s.k), .v = given(s.v), .g = given(s.g), .beta = given(s.beta), .lambda = given(s.lambda),
                       .page = page, .slab = slab, .seq = brief.ints({n}, step.seq), .pos = brief.ints({n}, step.pos), .rows_k = pools.k,
                       .rows_u = pools.u, .rows_g = pools.g, .rows_w = pools.w, .rows_x = pools.x, .S = pools.S, .c = pools.c, .o = {}};
    scatter(run(brief, op), text, step, s.heads(), s.width(), out.o);
  }
  const Levels states(memory, s, text, pools);
  for (int64_t l = 0; l < levels; ++l)
    for (int64_t bh = 0; bh < s.sequences * s.heads(); ++bh) {
      const std::vector<double> one = states.level(l, bh / s.heads(), bh % s.heads());
      out.levels.insert(out.levels.end(), one.begin(), one.end());
    }
  return out;
}

// The first `levels` weights of each row alone.
Rows cut(const Rows& lambda, int64_t levels) {
  Rows few{{lambda.row[0], levels}, {}};
  for (size_t at = 0; at < lambda.numbers.size(); at += size_t(lambda.row[1]))
    few.numbers.insert(few.numbers.end(), lambda.numbers.begin() + ptrdiff_t(at), lambda.numbers.begin() + ptrdiff_t(at) + levels);
  return few;
}

}  // namespace

void log_linear(Case& c) {
  const Array v = c.in("v"), states = c.file.read("out.level_states");
  check(v.dims.size() == 4 && states.dims.size() == 5, c.file.path(), ": 'in.v' is ", v.text(), ", 'out.level_states' ", states.text());
  Setting s{.q = rows_of(c.in("q")), .k = rows_of(c.in("k")), .v = rows_of(v), .g = rows_of(c.in("g")), .beta = {},
            .lambda = rows_of(c.in("lam")), .sequences = v.dims[0], .tokens = v.dims[2]};
  if (c.file.has("in.beta")) s.beta = rows_of(c.in("beta"));
  if (c.file.has("meta.l2norm_eps")) l2norm(s.q), l2norm(s.k);
  for (bool pieces : {false, true}) {
    const Outcome got = run_case(c, s, pieces, states.dims[0]);
    c.expect("o", got.o);
    c.expect("level_states", got.levels);
    if (!c.wants("o_trunc5")) continue;
    Setting few = s;
    few.lambda = cut(s.lambda, 5);
    c.expect("o_trunc5", run_case(c, few, pieces, 0).o);
  }
}

}  // namespace folio::golden
