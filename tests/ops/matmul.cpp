// SPDX-License-Identifier: MIT
// Cases of the matrix product: all formats, token counts on both sides of every tile, odd sizes, all epilogues.
#include "compare.h"
#include "rounding.h"

namespace folio {

static const std::vector<Act> acts = {Act::none, Act::relu, Act::relu2, Act::silu, Act::gelu, Act::gelu_tanh, Act::swiglu_oai};

// The error of each result that follows from it, through activation and gate.
static Tensor allowed(Inputs& in, const Matmul& op) {
  const Row x = elements(op.x), w = elements(op.w), gate = op.gate.present() ? elements(op.gate) : Row();
  const size_t n = size_t(op.x.cols());
  auto bias = [](const Tensor& b, int64_t f) { return b.present() ? double(b.at<float>()[f]) : 0; };
  Tensor t = in.store().zeros(F32, {op.x.dim(0), op.w.dim(0)});
  for (int64_t i = 0; i < t.dim(0); ++i) {
    const double* token = &x[size_t(i) * n];
    const Row e = rounding(token, n, op.w.type);
    for (int64_t f = 0; f < t.dim(1); ++f) {
      const Sum u = product(token, e, &w[size_t(f) * n], bias(op.bias, f));
      if (op.gate.present())
        t.row<float>(i)[f] = float(error_of(op.act, u, through(op.act, product(token, e, &gate[size_t(f) * n], bias(op.gate_bias, f)))));
      else t.row<float>(i)[f] = float(through(op.act, u).error);
    }
  }
  return t;
}

// x [T,K], w [N,K]; `parts` says which of bias, gate, gate_bias, add are there, as bits.
static Matmul random_op(Inputs& in, DType type, int64_t tokens, int64_t n, int64_t k, int parts, Act act) {
  Matmul op{.x = in.normal({tokens, k}), .w = in.normal({n, k}, type, 1 / std::sqrt(double(k))), .act = act};
  if (parts & 1) op.bias = in.normal({n});
  if (parts & 2) op.gate = in.normal({n, k}, type, 1 / std::sqrt(double(k)));
  if ((parts & 6) == 6) op.gate_bias = in.normal({n});
  if (parts & 8) op.add = in.normal({tokens, n});
  return op;
}

// Everything at its limit: x of one magnitude, so that its int8 form is ±127, and weights at the far end of their format.
static std::vector<uint8_t> extreme(DType type, int64_t blocks) {
  std::vector<uint8_t> bytes;
  for (int64_t b = 0; b < blocks; ++b) {
    if (type == F8_E4M3) {
      bytes.insert(bytes.end(), {0x00, 0x00, 0x80, 0x3f});
      bytes.insert(bytes.end(), 64, b % 2 ? 0x7e : 0xfe);                                          // 448, −448
      continue;
    }
    bytes.insert(bytes.end(), {0x00, 0x3c});                                                       // a scale of 1
    bytes.insert(bytes.end(), type == Q8_0 ? 32 : 16, type == Q8_0 ? 0x80 : b % 2 ? 0x00 : 0xff);  // −128; −8 or 7
  }
  return bytes;
}

CASES(Matmul) {
  auto put = [this](const Matmul& op) { add(op, {allowed(*this, op)}); };
  // [1,2]·[3,4]ᵀ = 11, [1,2]·[-1,1]ᵀ = 1; then with bias, relu and add; then gated: silu(11)·(…)
  const Tensor x = values({1, 2}, {1, 2}), w = values({2, 2}, {3, 4, -1, 1}), gate = values({2, 2}, {0, -2, 2, 0});
  known({.x = x, .w = w}, {values({1, 2}, {11, 1})});
  known({.x = x, .w = w, .bias = values({2}, {-12, 0.5f}), .add = values({1, 2}, {100, 200}), .act = Act::relu},
        {values({1, 2}, {100, 201.5f})});
  known({.x = x,
         .w = w,
         .bias = values({2}, {-1, 0}),
         .gate = gate,
         .gate_bias = values({2}, {3, 0}),
         .add = values({1, 2}, {1, 1}),
         .act = Act::silu},
        {values({1, 2}, {-1.68941421f, 2.76159416f})});  // silu(−1)·10 + 1, silu(2)·1 + 1
  // −1·σ(−1.702)·(7 + 1) and 2·σ(3.404)·(1 + 1); then 7·σ(11.914)·(−7 + 1).
  known({.x = x, .w = w, .bias = values({2}, {-1, 0}), .gate = gate, .gate_bias = values({2}, {3, 0}), .act = Act::swiglu_oai},
        {values({1, 2}, {-1.23363387f, 3.87131725f})});
  known({.x = values({1, 2}, {1, -40}), .w = values({1, 2}, {3, 4}), .gate = values({1, 2}, {0, -2}), .act = Act::swiglu_oai},
        {values({1, 1}, {-41.9997188f})});
  known({.x = values({1, 32}, std::vector<float>(32, 2.0f)), .w = raw(Q8_0, {1, 32}, extreme(Q8_0, 1))}, {values({1, 1}, {-128 * 64})});
  known({.x = values({1, 64}, std::vector<float>(64, 2.0f)), .w = raw(Q4_0, {1, 64}, extreme(Q4_0, 2))}, {values({1, 1}, {(7 - 8) * 64})});
  known({.x = values({1, 192}, std::vector<float>(192, 2.0f)), .w = raw(F8_E4M3, {1, 192}, extreme(F8_E4M3, 3))},
        {values({1, 1}, {-448 * 128})});

  for (DType type : {F32, F16, BF16, Q8_0, Q4_0, F8_E4M3}) {
    const bool blocks = format(type).block > 1;
    auto whole = [&](int64_t k) { return (k + format(type).block - 1) / format(type).block * format(type).block; };
    int turn = 0;
    for (int64_t tokens : {1, 2, 3, 5, 8, 9, 17, 64, 130}) {
      const int64_t k = tokens > 20 ? 96 : 288;  // many tokens and long rows at once are the last of `sizes`
      put(random_op(*this, type, tokens, 67, blocks ? whole(k) : k - 31, 0, Act::none));
      for (int i = 0; i < 2; ++i, ++turn) {  // epilogues take turns
        static constexpr int parts[] = {1, 8, 2, 10, 15, 7, 9, 3, 11};
        put(random_op(*this, type, tokens, 20, blocks ? 64 : 50, parts[turn % 9], acts[size_t(turn % 7)]));
      }
    }
    for (Act act : acts)
      for (int parts : {9, 15}) put(random_op(*this, type, 3, 33, whole(96), parts, act));
    static constexpr int64_t sizes[][3] = {{1, 1, 32}, {2, 4, 160}, {1, 16, 1024}, {3, 31, 96}, {1, 128, 64}, {15, 21, 1024}};
    for (const auto& [tokens, n, k] : sizes) put(random_op(*this, type, tokens, n, whole(k), 0, Act::none));
    // Tiles of 128 tokens and 128 or 256 rows, several for each block; many steps of k.
    static constexpr int64_t tiles[][4] = {{65, 200, 136, 0}, {140, 600, 72, 9}, {70, 136, 600, 1}, {200, 70, 64, 15}, {130, 520, 40, 11}};
    if (type == F16 || type == BF16)
      for (const auto& [tokens, n, k, parts] : tiles) put(random_op(*this, type, tokens, n, k, int(parts), acts[size_t(turn++ % 7)]));
    if (!blocks)
      for (int64_t k : {1, 7, 15, 33, 63}) put(random_op(*this, type, 4, 5, k, 1, Act::none));
    for (int64_t tokens : {1, 2, 8}) put(random_op(*this, type, tokens, 24, 64, 15, Act::silu));  // gated, rows of whole vectors
    if (!blocks) put(random_op(*this, type, 1, 20, 50, 15, Act::silu));
    for (int parts : {8, 15}) put(random_op(*this, type, 129, 200, 64, parts, Act::gelu));  // the widest tiles
    Matmul op = random_op(*this, type, 6, 40, 128, 0, Act::none);
    std::memset(op.x.row_bytes(1), 0, 128 * sizeof(float));  // a token of zeros, one with an outlier, small and large ones
    op.x.row<float>(2)[77] = 1000;
    for (int64_t k = 0; k < 128; ++k) op.x.row<float>(3)[k] *= 1e-20f, op.x.row<float>(4)[k] *= 1e15f;
    put(op);
    if (blocks) put({.x = uniform(2, 2.0001, {5, 128}), .w = raw(type, {4, 128}, extreme(type, 4 * 128 / format(type).block))});
  }
}

}  // namespace folio
