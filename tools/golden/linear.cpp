// SPDX-License-Identifier: MIT
// Golden cases of Linear: linear attention, RetNet, simple GLA, GLA, Mamba-2's SSD, the delta rule and its gated forms.
#include "ops/linear.h"

#include <algorithm>

#include "base/error.h"
#include "tools/golden/golden.h"

namespace folio::golden {

namespace {

// A case as the op sees it.
struct Setting {
  Rows q, k, v, g, beta;              // g, beta: rank 0 if absent
  std::vector<float> constant;        // g of every token, if there is one a head
  std::vector<float> S0, z0;          // [B, H, K, V], [B, H, K]
  float scale = 1;
  bool normalise = false;
  int64_t sequences, tokens;
  int64_t groups() const { return q.row[0]; }
  int64_t heads() const { return v.row[0]; }
  int64_t keys() const { return q.row[1]; }
  int64_t width() const { return v.row[1]; }
};

struct Outcome {
  std::vector<double> o, S, z;   // [B, H, T, V], [B, H, K, V], [B, H, K]
};

struct Pools {
  Tensor k, u, g, S, z;
};

Pools make_pools(Memory& memory, const Setting& s, const Text& text) {
  const int64_t N = text.pools, H = s.heads(), K = s.keys(), V = s.width();
  Pools p{
      .k = memory.zeros(F32, {N, page_tokens, s.groups(), K}), .u = memory.zeros(F32, {N, page_tokens, H, V}), .g = {}, .S = {}, .z = {}};
  if (s.g.row.rank > 0) p.g = memory.zeros(F32, {N, page_tokens, H, s.g.row.rank == 2 ? K : 1});
  const auto states = size_t(text.sequences * H * K);
  check(s.S0.size() == states * size_t(V) && (s.z0.empty() || s.z0.size() == states) &&
            (s.constant.empty() || s.constant.size() == size_t(H)),
        "golden: the state before the text is not of ", text.sequences, " sequences, ", H, " heads, ", K, " times ", V);
  // The state before the text is the slab of page 0.
  std::vector<float> S(size_t(N * H * K * V)), z(size_t(N * H * K));
  for (int64_t b = 0; text.begin > 0 && b < text.sequences; ++b) {
    const int64_t id = text.slab[size_t(b * text.most)];
    std::copy_n(s.S0.begin() + b * H * K * V, H * K * V, S.begin() + id * H * K * V);
    if (!s.z0.empty()) std::copy_n(s.z0.begin() + b * H * K, H * K, z.begin() + id * H * K);
  }
  p.S = memory.floats({N, H, K, V}, S);
  if (s.normalise) p.z = memory.floats({N, H, K}, z);
  return p;
}

// The state behind the last token: the slab of the last full page, and the rows of the page that is not.
void final_state(const Memory& memory, const Setting& s, const Text& text, const Pools& pools, Outcome& out) {
  const int64_t H = s.heads(), G = s.groups(), K = s.keys(), V = s.width(), full = text.end() / page_tokens,
                rest = text.end() % page_tokens;
  const std::vector<double> S = memory.read(pools.S), k = memory.read(pools.k), u = memory.read(pools.u);
  const std::vector<double> g = pools.g.present() ? memory.read(pools.g) : std::vector<double>();
  const std::vector<double> z = s.normalise ? memory.read(pools.z) : std::vector<double>();
  const int64_t wide = g.empty() ? 1 : pools.g.dim(3);
  for (int64_t n = 0; n < text.sequences; ++n)
    for (int64_t item = 0; item < H * K; ++item) {
      const int64_t h = item / K, c = item % K, page = rest > 0 ? text.page[size_t(n * text.most + full)] : 0;
      const int64_t before = full > 0 ? text.slab[size_t(n * text.most + full - 1)] : -1;
      double norm = before >= 0 && !z.empty() ? z[size_t((before * H + h) * K + c)] : 0;
      std::vector<double> line(static_cast<size_t>(V));
      for (int64_t e = 0; before >= 0 && e < V; ++e) line[size_t(e)] = S[size_t(((before * H + h) * K + c) * V + e)];
      for (int64_t row = 0; row < rest; ++row) {
        const int64_t at = page * page_tokens + row;
        double decay = g.empty() ? 0 : g[size_t((at * H + h) * wide + (wide > 1 ? c : 0))];
        if (!s.constant.empty()) decay = double(s.constant[size_t(h)]);
        const double by = std::exp(decay), key = k[size_t((at * G + h / (H / G)) * K + c)];
        for (int64_t e = 0; e < V; ++e) line[size_t(e)] = line[size_t(e)] * by + key * u[size_t((at * H + h) * V + e)];
        norm = norm * by + key;
      }
      out.S.insert(out.S.end(), line.begin(), line.end());
      out.z.push_back(norm);
    }
}

Outcome run_case(Case& c, const Setting& s, bool begun, bool pieces) {
  std::mt19937_64 random(7 + 2 * uint64_t(begun) + uint64_t(pieces));
  const Text text(s.sequences, s.tokens, begun ? page_tokens : 0, random);
  Memory memory(c.device);
  const Pools pools = make_pools(memory, s, text);
  const Tensor page = memory.ints({text.sequences, text.most}, text.page), slab = memory.ints({text.sequences, text.most}, text.slab);
  Outcome out;
  for (const Step& step : pieces ? in_pieces(text, random) : one_go(text)) {
    Memory brief(c.device);
    const auto n = int64_t(step.seq.size());
    auto given = [&](const Rows& rows) { return rows.row.rank > 0 ? rows_of(brief, rows, text, step) : Tensor(); };
    const Linear op{.q = given(s.q), .k = given(s.k), .v = given(s.v),
                    .g = s.constant.empty() ? given(s.g) : brief.floats({s.heads()}, s.constant), .beta = given(s.beta),
                    .page = page, .slab = slab, .seq = brief.ints({n}, step.seq), .pos = brief.ints({n}, step.pos),
                    .rows_k = pools.k, .rows_u = pools.u, .rows_g = pools.g, .S = pools.S, .z = pools.z, .scale = s.scale, .o = {}};
    scatter(run(brief, op), text, step, s.heads(), s.width(), out.o);
  }
  final_state(memory, s, text, pools, out);
  return out;
}

std::vector<float> floats(const Array& a) { return {a.numbers.begin(), a.numbers.end()}; }

// φ of linear attention: elu(x) + 1, relu or nothing.
void feature_map(Rows& rows, const std::string& name) {
  for (float& x : rows.numbers) {
    if (name == "linattn_elu1") x = x > 0 ? x + 1 : std::exp(x);
    else if (name == "linattn_relu") x = std::max(x, 0.0f);
  }
}

Setting setting_of(const Case& c) {
  const Array v = c.in("v");
  check(v.dims.size() == 4, c.file.path(), ": 'in.v' is ", v.text(), ", expected (B, H, T, D)");
  Setting s{.q = rows_of(c.in("q")),
            .k = rows_of(c.in("k")),
            .v = rows_of(v),
            .g = {},
            .beta = {},
            .constant = {},
            .S0 = floats(c.in("S0")),
            .z0 = {},
            .scale = float(c.meta("scale")),
            .sequences = v.dims[0],
            .tokens = v.dims[2]};
  if (c.file.has("in.gk")) s.g = rows_of(c.in("gk"));
  else if (c.file.has("in.g")) s.g = rows_of(c.in("g"));
  if (c.name == "retention" && v.dims[1] <= int64_t(s.g.numbers.size())) {   // γ of a head is the same for every token
    s.constant.assign(s.g.numbers.begin(), s.g.numbers.begin() + v.dims[1]);
    s.g = {};
  }
  if (c.file.has("in.beta")) s.beta = rows_of(c.in("beta"));
  if (c.file.has("in.z0")) s.z0 = floats(c.in("z0"));
  if (c.file.has("meta.l2norm_eps")) l2norm(s.q), l2norm(s.k);
  feature_map(s.q, c.name);
  feature_map(s.k, c.name);
  return s;
}

}  // namespace

void linear(Case& c) {
  Setting s = setting_of(c);
  for (bool normalise : {false, true}) {
    s.normalise = normalise;
    if (normalise && !c.wants("o_norm")) continue;
    for (bool begun : {false, true})
      for (bool pieces : {false, true}) {
        const Outcome got = run_case(c, s, begun, pieces);
        const std::string init = begun ? "_init" : "";
        c.expect((normalise ? "o_norm" : "o") + init, got.o);
        c.expect("S" + init, got.S);
        if (normalise) c.expect("z" + init, got.z);
      }
  }
}

namespace {

// (B, T, H, …) of Mamba-2 as rows of B·T tokens.
Rows tokens_first(const Array& a) {
  check(a.dims.size() == 3 || a.dims.size() == 4, "golden: an input is ", a.text(), ", expected (B, T, H) or (B, T, H, D)");
  return {a.dims.size() == 4 ? Shape{a.dims[2], a.dims[3]} : Shape{a.dims[2]}, {a.numbers.begin(), a.numbers.end()}};
}

double softplus(double x) { return x > 20 ? x : std::log1p(std::exp(x)); }

}  // namespace

// SSD: dt = softplus(dt_raw + dt_bias), g = −dt·e^A_log, k = B, q = C, v = dt·x, y = o + D·x, and h is S with rows and columns swapped.
void mamba2_ssd(Case& c) {
  const Array x = c.in("x"), bias = c.in("dt_bias"), A_log = c.in("A_log"), D = c.in("D"), h0 = c.in("h0");
  check(x.dims.size() == 4 && h0.dims.size() == 4 && h0.dims[0] == x.dims[0] && h0.dims[1] == x.dims[2] && h0.dims[2] == x.dims[3] &&
        int64_t(bias.numbers.size()) == x.dims[2] && A_log.numbers.size() == bias.numbers.size() && D.numbers.size() == bias.numbers.size(),
        c.file.path(), ": 'in.x' is ", x.text(), ", 'in.h0' ", h0.text(), ", 'in.dt_bias' ", bias.text());
  const int64_t B = x.dims[0], T = x.dims[1], H = x.dims[2], P = x.dims[3], N = h0.dims[3];
  Setting s{.q = tokens_first(c.in("Cm")),
            .k = tokens_first(c.in("Bm")),
            .v = tokens_first(x),
            .g = tokens_first(c.in("dt_raw")),
            .beta = {},
            .constant = {},
            .S0 = {},
            .z0 = {},
            .sequences = B,
            .tokens = T};
  check(int64_t(s.g.numbers.size()) == B * T * H, c.file.path(), ": 'in.dt_raw' has ", s.g.numbers.size(), " numbers, expected ",
        B * T * H);
  for (int64_t i = 0; i < B * T * H; ++i) {
    const auto h = size_t(i % H);
    const double dt = softplus(double(s.g.numbers[size_t(i)]) + bias.numbers[h]);
    s.g.numbers[size_t(i)] = float(-dt * std::exp(A_log.numbers[h]));
    for (int64_t p = 0; p < P; ++p) s.v.numbers[size_t(i * P + p)] = float(dt * x.numbers[size_t(i * P + p)]);
  }
  auto swapped = [&](const auto& from, int64_t rows, int64_t columns) {   // of each head
    auto to = from;
    for (int64_t bh = 0; bh < B * H; ++bh)
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t n = 0; n < columns; ++n) to[size_t((bh * columns + n) * rows + r)] = from[size_t((bh * rows + r) * columns + n)];
    return to;
  };
  s.S0 = swapped(floats(h0), P, N);
  for (bool begun : {false, true})
    for (bool pieces : {false, true}) {
      const Outcome got = run_case(c, s, begun, pieces);
      std::vector<double> y = x.numbers;
      for (int64_t i = 0; i < B * T * H; ++i)
        for (int64_t p = 0; p < P; ++p) {
          const int64_t b = i / (T * H), t = i / H % T, h = i % H;
          y[size_t(i * P + p)] = got.o[size_t(((b * H + h) * T + t) * P + p)] + D.numbers[size_t(h)] * x.numbers[size_t(i * P + p)];
        }
      c.expect(begun ? "y_init" : "y", y);
      c.expect(begun ? "h_init" : "h", swapped(got.S, N, P));
    }
}

}  // namespace folio::golden
