// SPDX-License-Identifier: MIT
#include "models/mixers/mla.h"

#include <cmath>

namespace folio {

LatentAttention::LatentAttention(const MixerSource& s) {
  const Weights& w = s.weights;
  heads_ = size_in(w, s.profile + "heads", 1 << 16);
  nope_ = size_in(w, s.profile + "key_size", 1 << 12);
  rope_ = size_in(w, s.profile + "rope_size", 1 << 12);
  value_ = size_in(w, s.profile + "value_size", 1 << 12);
  rank_ = size_in(w, s.profile + "rank", 1 << 14);
  q_rank_ = w.integer(s.profile + "q_rank", 0);
  check(q_rank_ >= 0 && q_rank_ <= 1 << 20, w.path(), ": '", s.profile, "q_rank' is ", q_rank_, ", expected 0 to 2^20");
  scale_ = float(w.real(s.profile + "scale", 1 / std::sqrt(double(nope_ + rope_))));
  norm_eps_ = float(w.real(s.profile + "norm_eps", w.real("norm.eps")));
  rotate_ = Rotary(s, rope_);
  check(!rotate_.present() || rotate_.dims() == rope_, w.path(), ": '", s.profile, "rope' must turn all ", rope_, " numbers of mla's rotated part, but turns ",
        rotate_.dims());

  const int64_t q = heads_ * (nope_ + rope_);
  in_ = w.get(s.layer + "in.weight", {(q_rank_ ? q_rank_ : q) + rank_ + rope_, s.dim});
  in_bias_ = w.find(s.layer + "in.bias");
  if (q_rank_) {
    q_norm_ = w.get(s.layer + "q_norm.weight", {q_rank_});
    q_up_ = w.get(s.layer + "q_up.weight", {q, q_rank_});
  }
  latent_norm_ = w.get(s.layer + "latent_norm.weight", {rank_});
  k_up_ = w.get(s.layer + "k_up.weight", {heads_ * nope_, rank_}).reshape({heads_, nope_, rank_});
  v_up_ = w.get(s.layer + "v_up.weight", {heads_ * value_, rank_}).reshape({heads_, value_, rank_});
  out_ = w.get(s.layer + "out.weight", {s.dim, heads_ * value_});
  out_bias_ = w.find(s.layer + "out.bias");
}

LayerSpec LatentAttention::state(DType rows) const {
  const int block = format(rows).block;
  check(rank_ % block == 0 && rope_ % block == 0, "cache: rows of ", rank_, " + ", rope_, " numbers are not whole blocks of ",
        format(rows).name, "; give f32, f16 or bf16");
  return {.rows = {{.name = "latent", .type = rows, .shape = {1, rank_ + rope_}}}};
}

int64_t LatentAttention::weight_bytes() const {
  return in_.bytes() + (q_rank_ ? q_up_.bytes() : 0) + k_up_.bytes() + v_up_.bytes() + out_.bytes();
}
int64_t LatentAttention::weight_count() const {
  return in_.count() + (q_rank_ ? q_up_.count() : 0) + k_up_.count() + v_up_.count() + out_.count();
}

// Expanded where a step brings a sequence so many tokens that it is less work; that hangs on the step's shape alone, and changes the last
// digits, so where they must not change nothing is.
Tensor LatentAttention::extend(Tensor x, Tensor residual, const LayerMemory& memory, const Step& s) const {
  const Tensor in = s.graph->record(Matmul{.x = x, .w = in_, .bias = in_bias_}).y;   // [T, q | c | r]
  const int64_t wide = in.cols() - rank_ - rope_;
  Tensor q = in.columns(0, wide);
  if (q_rank_) q = matmul(rms_norm(q, q_norm_, norm_eps_), q_up_);
  q = q.split_last(heads_);   // [T, H, dn + dr]
  const Pool& latent = memory.row("latent");
  auto part = [&](int64_t from, int64_t n) { return Pool{latent.name, latent.tensor.columns(from, n), latent.kind}; };
  append(rms_norm(in.columns(wide, rank_), latent_norm_, norm_eps_).split_last(1), part(0, rank_), s);
  append(rotate_(in.columns(wide + rank_, rope_).split_last(1), s), part(rank_, rope_), s);
  const Tensor page = s.page[size_t(latent.kind)];
  const bool many = s.token.dim(0) / page.dim(0) >= Mla::crossover(rank_, nope_, value_);
  const bool expand = s.expand_latents || (!s.deterministic && many);
  const Mla mla = s.graph->record(Mla{.q = q.columns(0, nope_), .q_rope = rotate_(q.columns(nope_, rope_), s), .latent = latent.tensor,
                                      .page = page, .seq = s.seq, .pos = s.pos, .k_up = k_up_, .v_up = v_up_, .scale = scale_,
                                      .expand = expand});
  return s.graph->record(Matmul{.x = mla.o.merge_last(), .w = out_, .bias = out_bias_, .add = residual}).y;
}

}  // namespace folio
