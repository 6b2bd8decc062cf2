// SPDX-License-Identifier: MIT
// Linear on the CPU. A unit of work is one head of one run: it walks the run's pages, the state of one being the beginning of the next.
// Whoever is free takes the next unit, but where steps are short (decoding) a worker keeps its heads, whose states lie in its cache;
// none reads what another writes, so which worker takes which changes no bit.
#include <algorithm>

#include "cpu/simd/simd.h"
#include "cpu/table.h"

namespace folio {

namespace {

float* pool_row(const Tensor& pool, int64_t page, int64_t head) { return pool.at<float>() + page * pool.stride[0] + head * pool.stride[2]; }

class Walk {
 public:
  Walk(const Linear& op, float* scratch)
      : op_(op), scratch_(scratch), S_(scratch + linear_floats(op.q.dim(2), op.v.dim(2))), z_(S_ + op.q.dim(2) * op.v.dim(2)) {}
  void run(const Run& run, int64_t h);

 private:
  void inputs(LinearPage& p, const Piece& piece, int64_t h) const;
  void rows(LinearPage& p, int64_t id, int64_t h) const;
  const Linear& op_;
  float *scratch_, *S_, *z_;   // what the inner loops want; a state that no slab keeps
};

void Walk::inputs(LinearPage& p, const Piece& piece, int64_t h) const {
  const int64_t group = h / (op_.heads() / op_.q.dim(1)), t = piece.first;
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

void Walk::rows(LinearPage& p, int64_t id, int64_t h) const {
  const int64_t share = op_.heads() / op_.q.dim(1);
  p.rows_k = pool_row(op_.rows_k, id, h / share), p.rows_k_stride = op_.rows_k.stride[1];
  p.rows_u = pool_row(op_.rows_u, id, h), p.rows_u_stride = op_.rows_u.stride[1];
  if (op_.rows_g.present()) p.rows_g = pool_row(op_.rows_g, id, h), p.rows_g_stride = op_.rows_g.stride[1];
  p.writes_k = h % share == 0;
}

void Walk::run(const Run& run, int64_t h) {
  const int64_t K = op_.q.dim(2), V = op_.v.dim(2);
  const int32_t *pages = op_.page.row<int32_t>(run.seq), *slabs = op_.slab.row<int32_t>(run.seq);
  auto slab = [&](int64_t id) { return op_.S.at<float>() + id * op_.S.stride[0] + h * op_.S.stride[1]; };
  auto norm = [&](int64_t id) { return op_.z.at<float>() + id * op_.z.stride[0] + h * op_.z.stride[1]; };
  LinearPage p{.K = int(K), .V = int(V), .scale = op_.scale, .normalise = op_.z.present(), .scratch = scratch_};
  for (int64_t done = 0; done < run.count;) {
    const Piece piece = piece_at(run, done);
    if (done == 0 && piece.page > 0) {
      p.S = slab(slabs[piece.page - 1]), p.S_stride = op_.S.stride[2];
      if (p.normalise) p.z = norm(slabs[piece.page - 1]);
    }
    p.from = int(piece.from), p.to = int(piece.to);
    inputs(p, piece, h);
    rows(p, pages[piece.page], h);
    done += piece.to - piece.from;
    p.ahead = int(std::min(page_tokens, run.count - done));
    p.rows_k_ahead = p.ahead > 0 && p.writes_k ? pool_row(op_.rows_k, pages[piece.page + 1], h / (op_.heads() / op_.q.dim(1))) : nullptr;
    const bool kept = piece.fills() && slabs[piece.page] >= 0, needed = kept || (piece.fills() && done < run.count);
    p.S_to = kept ? slab(slabs[piece.page]) : needed ? S_ : nullptr;
    p.S_to_stride = kept ? op_.S.stride[2] : V;
    p.z_to = !p.normalise || !needed ? nullptr : kept ? norm(slabs[piece.page]) : z_;
    simd().linear.page(p);
    p.S = p.S_to, p.S_stride = p.S_to_stride, p.z = p.z_to;
  }
}

int64_t own_floats(const Linear& op) {
  const int64_t K = op.q.dim(2), V = op.v.dim(2);
  return (linear_floats(K, V) + K * V + K + 15) / 16 * 16;
}

}  // namespace

int64_t scratch(const Linear& op, int workers) { return own_floats(op) * int64_t(sizeof(float)) * workers; }

void run(const Linear& op, Worker w) {
  const int32_t* seq = op.seq.at<int32_t>();
  for (int64_t t : w.share(op.q.dim(0)))
    for (int64_t h = 0; seq[t] < 0 && h < op.heads(); ++h) std::fill_n(op.o.row<float>(t * op.heads() + h), op.v.dim(2), 0.0f);
  Walk walk(op, reinterpret_cast<float*>(w.scratch) + own_floats(op) * w.index);
  int64_t runs = 0;
  each_run(op.seq, op.pos, [&](const Run&, int64_t) { ++runs; });
  const bool decodes = op.q.dim(0) <= 8 * runs;
  const Range own = w.share(runs * op.heads());
  int64_t unit = 0, claimed = decodes ? own.first : 0;
  auto claim = [&] { return decodes ? claimed < own.last ? claimed++ : -1 : w.team ? w.next() : claimed++; };
  int64_t mine = claim();
  each_run(op.seq, op.pos, [&](const Run& run, int64_t) {
    for (int64_t h = 0; h < op.heads(); ++h)
      if (unit++ == mine) walk.run(run, h), mine = claim();
  });
}

}  // namespace folio
