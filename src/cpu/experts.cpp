// SPDX-License-Identifier: MIT
// ExpertMatmul on the CPU: pairs of a token and a slot are sorted by expert, and each expert that somebody chose is a small Matmul of its
// own (cpu/matmul.h), with few tokens or with many. Workers take stretches of rows of one expert after the other by a counter, so eight
// experts of one token keep all of them busy as well as one expert with many tokens does. The rows of an expert that nobody chose are
// never touched.
//
//   scratch   | packed tokens, sorted by expert | of each worker: panels | order of the pairs |
#include "cpu/matmul.h"
#include "cpu/table.h"

namespace folio {

namespace {

// Matrix or row e of a stack.
Tensor of_expert(const Tensor& stack, int64_t e) {
  if (!stack.present()) return {};
  Tensor t = stack;
  t.shape.rank = stack.rank() - 1;
  for (int d = 0; d < t.rank(); ++d) t.shape.dim[d] = stack.dim(d + 1), t.stride[d] = stack.stride[d + 1];
  t.data += bytes_of(stack.type, e * stack.stride[0]);
  return t;
}

// How scratch is laid out, for any choice.
struct Room {
  int64_t pairs, experts, token, panels, order;   // counts; bytes of a packed token, of a worker's panels, of its order

  Room(const ExpertMatmul& op, int workers) : pairs(op.chosen.count()), experts(op.w.dim(0)) {
    const MatmulFormat& format = matmul_format(op.w.type);
    const int64_t k = op.w.cols(), features = op.w.dim(1);
    token = up_to_line(std::max(format.token_bytes(k), format.panel_token_bytes(k)));
    const MatmulCut cut(op.w.type, std::max(pairs, MatmulCut::fewest_packed_tokens), features, k, features * experts, workers);
    panels = (op.gate.present() ? 2 : 1) * cut.panels_bytes();   // no cut of fewer experts has more rows in a part
    order = up_to_line((experts + 1 + pairs) * int64_t(sizeof(int32_t)));
  }
};

// What one worker knows of the op.
class Experts {
 public:
  Experts(const ExpertMatmul& op, Worker w) : op_(op), w_(w), room_(op, w.count), tokens_(reinterpret_cast<uint8_t*>(w.scratch)) {
    uint8_t* mine = tokens_ + room_.pairs * room_.token + w.index * (room_.panels + room_.order);
    panel_ = mine;
    first_ = reinterpret_cast<int32_t*>(mine + room_.panels);
    pair_ = first_ + room_.experts + 1;
    order_pairs(op.chosen, room_.experts, first_, pair_);
    for (int64_t e = 0; e < room_.experts; ++e) chosen_ += count(e) > 0;
  }

  void run() {
    clear_the_rest();
    if (pack()) w_.barrier();
    Matmul one;
    one.act = op_.act;
    one.y = op_.y.reshape({room_.pairs, op_.w.dim(1)});
    int64_t job = next(-1), before = 0;   // jobs of experts before this one
    for (int64_t e = 0; e < room_.experts; ++e) {
      if (count(e) == 0) continue;
      const MatmulCut cut = cut_of(e);
      const int64_t behind = before + cut.stretches();
      if (job < behind) {
        one.w = of_expert(op_.w, e), one.bias = of_expert(op_.bias, e);
        one.gate = of_expert(op_.gate, e), one.gate_bias = of_expert(op_.gate_bias, e);
        const auto [x, stride] = tokens_of(e, cut);
        MatmulRows rows(one, cut, x, stride, panel_, pair_ + first_[e]);
        for (; job < behind; job = next(job)) rows.run(job - before);
      }
      before = behind;
    }
  }

 private:
  int64_t count(int64_t e) const { return first_[e + 1] - first_[e]; }
  int64_t next(int64_t job) const { return w_.team ? w_.next() : job + 1; }
  MatmulCut cut_of(int64_t e) const {
    return MatmulCut(op_.w.type, count(e), op_.w.dim(1), op_.w.cols(), op_.w.dim(1) * chosen_, w_.count);
  }
  void clear_the_rest() const {   // pairs whose id names no expert
    for (int64_t p : w_.share(room_.pairs)) {
      const int32_t e = op_.chosen.row<int32_t>(p / op_.chosen.cols())[p % op_.chosen.cols()];
      if (e < 0 || e >= room_.experts) std::memset(op_.y.row_bytes(p), 0, size_t(op_.y.cols()) * sizeof(float));
    }
  }
  // Packs this worker's share of the tokens, each in the form that its expert's cut wants; whether any of the op's is packed.
  bool pack() const {
    bool any = false;
    const Range mine = w_.share(first_[room_.experts]);
    for (int64_t e = 0; e < room_.experts; ++e) {
      if (count(e) == 0) continue;
      const MatmulCut cut = cut_of(e);
      if (cut.token_bytes == 0) continue;
      any = true;
      const auto pack = cut.packs ? cut.format.pack_panel_token : cut.format.pack_token;
      for (int64_t i = std::max<int64_t>(first_[e], mine.first); i < std::min<int64_t>(first_[e + 1], mine.last); ++i)
        pack(op_.token(pair_[i]), cut.k, tokens_ + first_[e] * room_.token + (i - first_[e]) * cut.token_bytes);
    }
    return any;
  }
  // Where an expert's tokens lie, and how far apart: packed side by side, or one or two where they are.
  std::pair<const uint8_t*, int64_t> tokens_of(int64_t e, const MatmulCut& cut) const {
    if (cut.token_bytes > 0) return {tokens_ + first_[e] * room_.token, cut.token_bytes};
    const auto at = [&](int64_t i) { return reinterpret_cast<const uint8_t*>(op_.token(pair_[first_[e] + i])); };
    return {at(0), count(e) > 1 ? at(1) - at(0) : 0};
  }

  const ExpertMatmul& op_;
  const Worker w_;
  const Room room_;
  uint8_t *tokens_, *panel_;
  int32_t *first_, *pair_;
  int64_t chosen_ = 0;   // experts
};

}  // namespace

int64_t scratch(const ExpertMatmul& op, int workers) {
  const Room room(op, workers);
  return room.pairs * room.token + workers * (room.panels + room.order);
}

void run(const ExpertMatmul& op, Worker w) {
  if (op.chosen.count() == 0 || op.w.dim(1) == 0) return;
  Experts(op, w).run();
}

}  // namespace folio
