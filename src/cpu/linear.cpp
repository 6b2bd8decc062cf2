// SPDX-License-Identifier: MIT
// Linear on the CPU. A unit of work is one head of one run: it walks the run's pages, the state of one being the beginning of the next.
// Whoever is free takes the next unit, but where steps are short (decoding) a worker keeps its heads, whose states lie in its cache;
// none reads what another writes, so which worker takes which changes no bit. A page knows which one its worker computes next, whose
// inputs are taken meanwhile.
#include <algorithm>

#include "cpu/simd/simd.h"
#include "cpu/table.h"

namespace folio {

namespace {

float* pool_row(const Tensor& pool, int64_t page, int64_t head) { return pool.at<float>() + page * pool.stride[0] + head * pool.stride[2]; }

// A worker's way through its units, page by page.
class Walk {
 public:
  Walk(const Linear& op, Worker w);
  // The next page to compute. False: there is none.
  bool next(LinearPage& p);
  // Whether to ask for it while this one is still to be computed: not where it would be a unit that another worker may begin sooner.
  bool early() const { return decodes_ || done_ < run_.count || mine_ + 2 * w_.count < units_; }

 private:
  bool next_unit();
  void inputs(LinearPage& p, const Piece& piece) const;
  void rows(LinearPage& p, int64_t id) const;
  const Linear& op_;
  const Worker w_;
  float *scratch_, *S_, *z_;   // what the inner loops want; a state that no slab keeps
  bool decodes_;
  Range own_;                  // decoding: its units
  int64_t units_ = 0, mine_ = 0, claimed_ = 0;   // of all; the one at hand; alone or decoding: units so far
  Run run_;
  int64_t index_ = 0, h_ = 0, done_ = 0;   // the run's number; the unit's head; tokens of it that are done
  const float *last_S_ = nullptr, *last_z_ = nullptr;   // behind the last page
  int64_t last_stride_ = 0;
  int side_ = 0;
};

int64_t own_floats(const Linear& op) {
  const int64_t K = op.q.dim(2), V = op.v.dim(2);
  return (linear_floats(K, V) + linear_state_floats(K, V) + K + 15) / 16 * 16;
}

Walk::Walk(const Linear& op, Worker w)
    : op_(op), w_(w), scratch_(reinterpret_cast<float*>(w.scratch) + own_floats(op) * w.index),
      S_(scratch_ + linear_floats(op.q.dim(2), op.v.dim(2))), z_(S_ + linear_state_floats(op.q.dim(2), op.v.dim(2))),
      run_(run_at(op.seq, op.pos, 0)) {
  int64_t runs = 0;
  each_run(op.seq, op.pos, [&](const Run&, int64_t) { ++runs; });
  decodes_ = op.q.dim(0) <= 8 * runs;
  units_ = runs * op.heads();
  own_ = w.share(units_);
  if (decodes_) claimed_ = own_.first;
  done_ = run_.count;
}

bool Walk::next_unit() {
  mine_ = !decodes_ && w_.team ? w_.next() : claimed_++;
  if (mine_ >= (decodes_ ? own_.last : units_)) return false;
  for (; mine_ >= (index_ + 1) * op_.heads(); ++index_) run_ = run_at(op_.seq, op_.pos, run_.first + run_.count);
  h_ = mine_ % op_.heads(), done_ = 0;
  return true;
}

void Walk::inputs(LinearPage& p, const Piece& piece) const {
  const int64_t h = h_, group = h / (op_.heads() / op_.q.dim(1)), t = piece.first;
  auto head = [&](const Tensor& x, int64_t i) { return x.at<float>() + t * x.stride[0] + i * x.stride[1]; };
  p.q = head(op_.q, group), p.q_stride = op_.q.stride[0];
  p.k = head(op_.k, group), p.k_stride = op_.k.stride[0];
  p.v = head(op_.v, h), p.v_stride = op_.v.stride[0];
  p.o = head(op_.o, h), p.o_stride = op_.o.stride[0];
  p.decay = !op_.g.present() ? LinearPage::none
            : op_.constant() ? LinearPage::constant
            : op_.channels() ? LinearPage::channel
                             : LinearPage::scalar;
  if (p.decay == LinearPage::constant) p.rate = op_.g.at<float>()[h];
  else if (op_.g.present()) p.g = head(op_.g, h), p.g_stride = op_.g.stride[0];
  if (op_.beta.present()) p.beta = head(op_.beta, h), p.beta_stride = op_.beta.stride[0];
}

void Walk::rows(LinearPage& p, int64_t id) const {
  const int64_t h = h_, share = op_.heads() / op_.q.dim(1);
  p.rows_k = pool_row(op_.rows_k, id, h / share), p.rows_k_stride = op_.rows_k.stride[1];
  p.rows_u = pool_row(op_.rows_u, id, h), p.rows_u_stride = op_.rows_u.stride[1];
  if (op_.rows_g.present()) p.rows_g = pool_row(op_.rows_g, id, h), p.rows_g_stride = op_.rows_g.stride[1];
  p.writes_k = h % share == 0;
}

bool Walk::next(LinearPage& p) {
  if (done_ == run_.count && !next_unit()) return false;
  const int64_t K = op_.q.dim(2), V = op_.v.dim(2);
  const int32_t *pages = op_.page.row<int32_t>(run_.seq), *slabs = op_.slab.row<int32_t>(run_.seq);
  auto slab = [&](int64_t id) { return op_.S.at<float>() + id * op_.S.stride[0] + h_ * op_.S.stride[1]; };
  auto norm = [&](int64_t id) { return op_.z.at<float>() + id * op_.z.stride[0] + h_ * op_.z.stride[1]; };
  const Piece piece = piece_at(run_, done_);
  p = {.K = int(K), .V = int(V), .from = int(piece.from), .to = int(piece.to), .scale = op_.scale, .normalise = op_.z.present(),
       .side = side_ ^= 1, .scratch = scratch_};
  if (done_ > 0) {
    p.S = last_S_, p.S_stride = last_stride_, p.z = last_z_;
  } else if (piece.page > 0) {
    p.S = slab(slabs[piece.page - 1]), p.S_stride = op_.S.stride[2];
    if (p.normalise) p.z = norm(slabs[piece.page - 1]);
  }
  inputs(p, piece);
  rows(p, pages[piece.page]);
  done_ += piece.to - piece.from;
  const bool kept = piece.fills() && slabs[piece.page] >= 0, needed = kept || (piece.fills() && done_ < run_.count);
  p.S_to = kept ? slab(slabs[piece.page]) : needed ? S_ : nullptr;
  p.S_to_stride = kept ? op_.S.stride[2] : 0;
  p.z_to = !p.normalise || !needed ? nullptr : kept ? norm(slabs[piece.page]) : z_;
  last_S_ = p.S_to, last_stride_ = p.S_to_stride, last_z_ = p.z_to;
  return true;
}

}  // namespace

int64_t scratch(const Linear& op, int workers) { return own_floats(op) * int64_t(sizeof(float)) * workers; }

void run(const Linear& op, Worker w) {
  const int32_t* seq = op.seq.at<int32_t>();
  for (int64_t t : w.share(op.q.dim(0)))
    for (int64_t h = 0; seq[t] < 0 && h < op.heads(); ++h) std::fill_n(op.o.row<float>(t * op.heads() + h), op.v.dim(2), 0.0f);
  Walk walk(op, w);
  LinearPage pages[2];
  bool there = walk.next(pages[0]), ready = false;
  for (int i = 0; there; i ^= 1) {
    LinearPage& p = pages[i];
    const bool early = walk.early() && walk.next(pages[i ^ 1]);
    p.next = early ? &pages[i ^ 1] : nullptr;
    p.ready = ready;
    ready = simd().linear.page(p);
    there = early || walk.next(pages[i ^ 1]);
  }
}

}  // namespace folio
