// SPDX-License-Identifier: MIT
// Matmul on the CPU. Weights are never copied as a whole: few tokens (decoding, drafts) read each row once, straight from the file;
// for many, a worker puts some rows at a time into the form that the inner loops like best (a panel in its second-level cache) and
// runs all tokens past them. Workers take rows by a counter, so one that is interrupted holds nobody up; which worker computed a
// result, and beside which others, changes no bit of it (simd/matmul.h).
#include <algorithm>

#include "cpu/simd/simd.h"
#include "cpu/table.h"

namespace folio {

namespace {

constexpr int64_t fewest_packed_tokens = 12;       // from here on a panel pays
constexpr int64_t panel_budget = 512 << 10;        // of a second-level cache of 1 MiB, which tokens pass through too
constexpr int64_t most_plain_tokens = 2;           // more are packed, for their places in the cache
constexpr int64_t tokens_at_once = 48;             // sums of so many tokens wait in the first-level cache for the rest

const MatmulFormat& inner(DType type) {
  const MatmulInner& m = simd().matmul;
  switch (type) {
    case F16: return m.f16;
    case BF16: return m.bf16;
    case Q8_0: return m.q8_0;
    case Q4_0: return m.q4_0;
    case F8_E4M3: return m.f8_e4m3;
    default: return m.f32;
  }
}

int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// How one Matmul is cut up.
struct Cut {
  const MatmulFormat& format;
  int64_t tokens, features, k;
  bool packs;            // rows go into panels
  int64_t rows;          // of a part: what one call of the inner loops sees
  int64_t parts;         // in a row for one worker, between two looks at the counter
  int64_t token_bytes;   // of a packed token; 0: plain

  Cut(const Matmul& op, int workers) : format(inner(op.w.type)), tokens(op.x.dim(0)), features(op.w.dim(0)), k(op.w.cols()) {
    packs = tokens >= fewest_packed_tokens;
    token_bytes = packs ? format.panel_token_bytes(k) : format.plain_tokens && tokens <= most_plain_tokens ? 0 : format.token_bytes(k);
    const int64_t share = features / (4 * workers), step = packs ? format.panel_rows : 4;
    // Many tokens: the part's panels fit the cache. Few: rows stream past, and what is fetched ahead should be the same worker's.
    const int64_t most = packs ? panel_budget / std::max<int64_t>(1, format.panel_bytes(k)) * step : MatmulFormat::most_rows;
    rows = std::clamp<int64_t>(std::min(most, share) / step * step, step, MatmulFormat::most_rows);
    parts = packs ? 1 : std::max<int64_t>(1, features / (8 * workers * rows));
  }
  int64_t tokens_bytes() const { return aligned(token_bytes * tokens); }
  int64_t panels_bytes() const { return packs ? aligned(format.panel_bytes(k)) * (rows / format.panel_rows) : 0; }   // of a part
};

struct Weights {
  const Tensor& rows;
  const float* bias;
};

// Sums of one chunk's rows with some tokens, for both matrices of a gated product.
class Chunks {
 public:
  Chunks(const Matmul& op, const Cut& cut, const uint8_t* x, int64_t x_stride, uint8_t* panel)
      : op_(op), cut_(cut), x_(x), x_stride_(x_stride), panel_(panel) {}

  void run(int64_t first) {
    const int64_t n = std::min(cut_.rows, cut_.features - first);
    const bool gated = op_.gate.present();
    pack(op_.w, first, n, panel_);
    if (gated) pack(op_.gate, first, n, panel_ + cut_.panels_bytes());
    for (int64_t t = 0; t < cut_.tokens; t += tokens_at_once) {
      const int64_t tokens = std::min(tokens_at_once, cut_.tokens - t);
      sums(op_.w, first, n, t, tokens, panel_, u_);
      if (gated) sums(op_.gate, first, n, t, tokens, panel_ + cut_.panels_bytes(), gate_);
      for (int64_t i = 0; i < tokens; ++i) finish(first, n, t + i, u_ + i * n, gated ? gate_ + i * n : nullptr);
    }
  }

 private:
  void pack(const Tensor& w, int64_t first, int64_t n, uint8_t* to) const {
    if (!cut_.packs) return;
    const int rows = cut_.format.panel_rows;
    for (int64_t i = 0; i < n; i += rows, to += aligned(cut_.format.panel_bytes(cut_.k)))
      cut_.format.pack_panel(w.row<const uint8_t>(first + i), bytes_of(w.type, w.stride[0]), int(std::min<int64_t>(rows, n - i)), cut_.k, to);
  }
  void sums(const Tensor& w, int64_t first, int64_t n, int64_t t, int64_t tokens, const uint8_t* panels, float* out) const {
    const bool packs = cut_.packs;
    const MatmulPart part = {.w = packs ? panels : w.row<const uint8_t>(first),
                             .w_stride = packs ? aligned(cut_.format.panel_bytes(cut_.k)) : bytes_of(w.type, w.stride[0]),
                             .x = x_ + t * x_stride_, .x_stride = x_stride_, .k = cut_.k, .rows = int(n), .tokens = int(tokens),
                             .out = out, .out_stride = n};
    (packs ? cut_.format.many : cut_.format.few)(part);
  }
  void finish(int64_t first, int64_t n, int64_t t, const float* u, const float* gate) const {
    auto from = [&](const Tensor& v, int64_t row) { return v.present() ? v.at<const float>() + row * v.stride[0] + first : nullptr; };
    simd().matmul.finish({.u = u, .gate = gate, .bias = from(op_.bias, 0), .gate_bias = from(op_.gate_bias, 0), .add = from(op_.add, t),
                          .y = op_.y.at<float>() + t * op_.y.stride[0] + first, .n = n, .act = int(op_.act)});
  }

  const Matmul& op_;
  const Cut& cut_;
  const uint8_t* x_;
  int64_t x_stride_;
  uint8_t* panel_;
  alignas(64) float u_[tokens_at_once * MatmulFormat::most_rows];
  alignas(64) float gate_[tokens_at_once * MatmulFormat::most_rows];
};

}  // namespace

// Packed tokens, then a panel (with a gate, two) for each worker.
int64_t scratch(const Matmul& op, int workers) {
  const Cut cut(op, workers);
  return cut.tokens_bytes() + workers * cut.panels_bytes() * (op.gate.present() ? 2 : 1);
}

void run(const Matmul& op, Worker w) {
  const Cut cut(op, w.count);
  if (cut.tokens == 0 || cut.features == 0) return;
  uint8_t* scratch = reinterpret_cast<uint8_t*>(w.scratch);
  if (cut.token_bytes > 0) {
    const auto pack = cut.packs ? cut.format.pack_panel_token : cut.format.pack_token;
    for (int64_t t : w.share(cut.tokens)) pack(op.x.row<const float>(t), cut.k, scratch + t * cut.token_bytes);
    w.barrier();
  }
  uint8_t* panel = scratch + cut.tokens_bytes() + w.index * cut.panels_bytes() * (op.gate.present() ? 2 : 1);
  Chunks chunks(op, cut, cut.token_bytes > 0 ? scratch : op.x.row<const uint8_t>(0),
                cut.token_bytes > 0 ? cut.token_bytes : op.x.stride[0] * int64_t(sizeof(float)), panel);
  const int64_t stretch = cut.parts * cut.rows;
  for (int64_t i = 0;; ++i) {
    const int64_t first = (w.team ? w.next() : i) * stretch;
    if (first >= cut.features) break;
    for (int64_t row = first; row < std::min(first + stretch, cut.features); row += cut.rows) chunks.run(row);
  }
}

}  // namespace folio
