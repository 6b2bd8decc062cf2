// SPDX-License-Identifier: MIT
#include "models/mixers/recurrent.h"

#include <cmath>

namespace folio {

// The place of `name` among the words a profile may say.
static int one_of(const Weights& w, const std::string& key, const std::string& absent, const std::vector<std::string>& words) {
  const std::string word = w.text(key, absent);
  for (size_t i = 0; i < words.size(); ++i)
    if (words[i] == word) return int(i);
  std::string known;
  for (const std::string& each : words) known += (known.empty() ? "" : ", ") + each;
  fail(w.path(), ": '", key, "' is '", word, "'; known are: ", known);
}

static Tensor f32_of(const Weights& w, const std::string& name, const Shape& shape) {
  const Tensor t = w.get(name, shape);
  check(t.type == F32, w.path(), ": '", name, "' is ", format(t.type).name, ", expected f32");
  return t;
}
static Tensor f32_if_there(const Weights& w, const std::string& name, const Shape& shape) {
  return w.find(name).present() ? f32_of(w, name, shape) : Tensor();
}
static Tensor matrix_of(const Weights& w, const std::string& name, const Shape& shape) {
  const Tensor t = w.get(name, shape);
  check(format(t.type).to_float, w.path(), ": '", name, "' is ", format(t.type).name, ", expected a format of weights");
  return t;
}

// Decays only shrink, a ridge only lifts: numbers of the other sign (or none, if `or_zero` is false) would let a memory explode.
static Tensor signed_of(const Weights& w, const std::string& name, const Shape& shape, float sign, bool or_zero) {
  const Tensor t = f32_of(w, name, shape);
  for (int64_t i = 0; i < t.count(); ++i) {
    const float x = sign * t.at<float>()[i];
    check(!(x < 0) && (or_zero || x != 0), w.path(), ": '", name, "' holds ", t.at<float>()[i], ", expected numbers ",
          sign < 0 ? "below" : "above", " 0", or_zero ? " or 0" : "");
  }
  return t;
}

Recurrent::Recurrent(const MixerSource& s) {
  const Weights& w = s.weights;
  const std::string& p = s.profile;
  kind_ = Kind(one_of(w, p + "kind", "", {"linear", "log_linear", "mesa"}));
  heads_ = size_in(w, p + "heads", 1 << 16);
  groups_ = w.integer(p + "groups", heads_);
  key_size_ = size_in(w, p + "key_size", 1 << 12);
  value_size_ = size_in(w, p + "value_size", 1 << 12);
  check(groups_ >= 1 && heads_ % groups_ == 0, w.path(), ": ", heads_, " heads cannot share ", groups_, " key groups");
  scale_ = float(w.real(p + "scale", 1 / std::sqrt(double(key_size_))));
  norm_eps_ = float(w.real(p + "norm_eps", w.real("norm.eps")));
  act_ = one_of(w, p + "act", "none", {"none", "silu"}) ? Act::silu : Act::none;
  const int features = one_of(w, p + "features", "none", {"none", "elu1", "relu"});
  features_ = features == 1;
  relu_features_ = features == 2;
  l2_ = one_of(w, p + "qk_norm", "none", {"none", "l2"}) == 1;
  normalise_ = w.integer(p + "normalise", 0) != 0;
  check(!normalise_ || kind_ == Kind::linear, w.path(), ": only linear attention has a normaliser");
  check(!normalise_ || w.integer(p + "beta", 0) == 0, w.path(), ": the delta rule has no normaliser");
  conv_values_ = w.integer(p + "conv_values", 1) != 0;
  if (const int64_t width = w.integer(p + "conv", 0)) {
    check(width >= 1 && width <= page_tokens, w.path(), ": a convolution over ", width, " tokens, expected 1 to ", page_tokens);
    conv_ = f32_of(w, s.layer + "conv.weight", {width, conv_channels()});
    conv_bias_ = f32_if_there(w, s.layer + "conv.bias", {conv_channels()});
  }
  const int rope = one_of(w, p + "rope", "none", {"none", "half", "adjacent"});
  half_ = rope == 1;
  check(!rope || key_size_ % 2 == 0, w.path(), ": rope turns pairs, and '", p, "key_size' is ", key_size_);
  if (rope) freq_ = rope_frequencies(key_size_, w.real(p + "theta", 10000), {});
  if (kind_ == Kind::log_linear) {
    levels_ = size_in(w, p + "levels", 46);
    const int64_t context = w.integer("context", 1);
    check(reach() >= context, w.path(), ": '", p, "levels' is ", levels_, ": the table ends after ", reach(), " tokens, and 'context' is ",
          context);
    level_weight_ = f32_of(w, s.layer + "level.weight", {heads_ * levels_});
  }
  if (kind_ == Kind::mesa) {
    check(groups_ == heads_, w.path(), ": mesa heads do not share keys");
    ridge_ = signed_of(w, s.layer + "ridge", {heads_, key_size_}, 1, false);
    tolerance_ = float(w.real(p + "tolerance", 1e-4));
    iterations_ = int(w.integer(p + "iterations", 30));
    mode_ = one_of(w, p + "solver", "exact", {"exact", "fla_prefill", "fla_decode"});
    check(tolerance_ >= 0 && iterations_ >= 1 && iterations_ <= 1000, w.path(), ": mesa with tolerance ", tolerance_, ", ", iterations_, " iterations");
  }
  read_decay(s);
  read_output(s);
}

Recurrent::LowRank Recurrent::low_rank(const MixerSource& s, const std::string& name, int64_t rows) const {
  const Tensor down = s.weights.find(s.layer + name + ".down.weight");
  if (!down.present()) return {};
  check(down.rank() == 2 && down.cols() == s.dim, s.weights.path(), ": '", s.layer, name, ".down.weight' is ", down.shape.text());
  return {matrix_of(s.weights, s.layer + name + ".down.weight", down.shape),
          matrix_of(s.weights, s.layer + name + ".up.weight", {rows, down.dim(0)}),
          f32_if_there(s.weights, s.layer + name + ".up.bias", {rows})};
}

void Recurrent::read_decay(const MixerSource& s) {
  const Weights& w = s.weights;
  decay_ = Decay(one_of(w, s.profile + "decay", "none", {"none", "constant", "head", "channel"}));
  decay_sign_ = float(w.real(s.profile + "decay_sign", 1));
  step_ = w.integer(s.profile + "step", 0) != 0;
  step_low_ = float(w.real(s.profile + "step_low", 0));
  step_high_ = float(w.real(s.profile + "step_high", 3.4e38));
  beta_ = w.integer(s.profile + "beta", 0) != 0;
  beta_factor_ = float(w.real(s.profile + "beta_factor", 1));
  check(decay_ == Decay::head || (!step_ && kind_ == Kind::linear), w.path(), ": step sizes, levels and Mesa want a decay for each head");
  check(decay_ != Decay::channel || kind_ == Kind::linear, w.path(), ": only linear mixers have a decay for each channel");
  check(kind_ != Kind::mesa || beta_, w.path(), ": mesa wants write strengths");
  const int64_t rates = decay_ == Decay::channel ? heads_ * key_size_ : heads_;
  if (decay_ == Decay::constant) decay_rate_ = signed_of(w, s.layer + "decay.log", {heads_}, -1, true);
  if (decay_ == Decay::head || decay_ == Decay::channel) {
    decay_rate_ = signed_of(w, s.layer + "decay.rate", {rates}, -1, true);
    decay_bias_ = f32_if_there(w, s.layer + "decay.bias", {rates});
  }
  if (decay_ == Decay::channel) {
    decay_from_ = low_rank(s, "decay", rates);
    check(decay_from_.present(), w.path(), ": '", s.layer, "decay.down.weight' is missing");
  }
  const int64_t rows = (decay_ == Decay::head ? heads_ : 0) + (beta_ ? heads_ : 0) + heads_ * levels_;
  if (rows == 0) return;
  gates_ = matrix_of(w, s.layer + "gates.weight", {rows, s.dim});
  gates_bias_ = f32_if_there(w, s.layer + "gates.bias", {rows});
}

void Recurrent::read_output(const MixerSource& s) {
  const Weights& w = s.weights;
  gate_at_ = GateAt(one_of(w, s.profile + "gate", "none", {"none", "after", "before"}));
  gate_sigmoid_ = one_of(w, s.profile + "gate_act", "silu", {"silu", "sigmoid"}) == 1;
  norm_of_ = NormOf(one_of(w, s.profile + "norm", "head", {"none", "head", "group"}));
  norm_groups_ = w.integer(s.profile + "norm_groups", 1);
  check(norm_groups_ >= 1 && value_width() % norm_groups_ == 0, w.path(), ": ", value_width(), " values in ", norm_groups_, " groups");
  if (norm_of_ != NormOf::none) norm_ = f32_of(w, s.layer + "norm.weight", {norm_of_ == NormOf::head ? value_size_ : value_width()});
  if (w.integer(s.profile + "skip", 0)) skip_ = f32_of(w, s.layer + "skip", {value_width()});
  if (gate_at_ != GateAt::none) gate_from_ = low_rank(s, "gate", value_width());
  const bool z = gate_at_ != GateAt::none && !gate_from_.present();
  const int64_t rows = 2 * key_width() + (z ? 2 : 1) * value_width();
  in_ = matrix_of(w, s.layer + "in.weight", {rows, s.dim});
  in_bias_ = f32_if_there(w, s.layer + "in.bias", {rows});
  out_ = matrix_of(w, s.layer + "out.weight", {s.dim, value_width()});
  out_bias_ = f32_if_there(w, s.layer + "out.bias", {s.dim});
}

int64_t Recurrent::weight_bytes() const {
  int64_t bytes = 0;
  for (const Tensor* t : {&in_, &out_, &gates_, &decay_from_.down, &decay_from_.up, &gate_from_.down, &gate_from_.up})
    if (t->present()) bytes += t->bytes();
  return bytes;
}

int64_t Recurrent::weight_count() const {
  int64_t count = 0;
  for (const Tensor* t : {&in_, &out_, &gates_, &decay_from_.down, &decay_from_.up, &gate_from_.down, &gate_from_.up})
    if (t->present()) count += t->count();
  return count;
}

// Rows live no longer than their page; in f32, for what they say goes into the slab.
LayerSpec Recurrent::state(DType) const {
  LayerSpec spec;
  auto row = [&](const char* name, int64_t heads, int64_t width) {
    spec.rows.push_back({.name = name, .type = F32, .shape = {heads, width}, .window = int(page_tokens)});
  };
  auto slab = [&](const char* name, const Shape& shape, bool chain = false) { spec.slabs.push_back({name, F32, shape, chain}); };
  if (conv_.present()) row("conv", 1, conv_channels());
  row("k", groups_, key_size_);
  row("u", heads_, value_size_);
  if (decay_ == Decay::head || decay_ == Decay::channel) row("g", heads_, decay_ == Decay::channel ? key_size_ : 1);
  switch (kind_) {
    case Kind::linear:
      slab("S", {heads_, key_size_, value_size_});
      if (normalise_) slab("z", {heads_, key_size_});
      break;
    case Kind::log_linear:
      if (beta_) {
        row("w", heads_, key_size_);
        row("x", heads_, page_tokens);
        slab("S", {heads_, buckets() * key_size_, value_size_});
      } else {
        slab("S", {heads_, key_size_, value_size_}, true);
        slab("c", {heads_, 2}, true);
      }
      break;
    case Kind::mesa:
      row("beta", heads_, 1);
      slab("H", {heads_, key_size_, key_size_});
      slab("G", {heads_, key_size_, value_size_});
      break;
  }
  return spec;
}

Tensor Recurrent::LowRank::operator()(Tensor x) const {
  return x.graph->record(Matmul{.x = matmul(x, down), .w = up, .bias = bias}).y;
}

Tensor Recurrent::keys(Tensor x, const Step& s) const {
  Tensor y = x.split_last(groups_);
  if (relu_features_) y = activate(y, Act::relu);
  if (features_) y = gate(y, GateKind::elu1);
  if (l2_) y = l2_norm(y);
  if (freq_.empty()) return y;
  return rope(y, s.pos, s.graph->constant("rope_freq", F32, {int64_t(freq_.size())}, freq_.data()), half_);
}

// The gates' rows lie side by side in one product: a | b | l.
void Recurrent::gates(Tensor x, Inputs& to) const {
  Graph& graph = *x.graph;
  if (decay_ == Decay::channel)
    to.g = graph.record(Gate{.x = decay_from_(x), .bias = decay_bias_, .rate = decay_rate_, .kind = GateKind::softplus, .sign = decay_sign_}).y.split_last(heads_);
  if (decay_ == Decay::constant) to.g = decay_rate_;
  if (!gates_.present()) return;
  const Tensor all = graph.record(Matmul{.x = x, .w = gates_, .bias = gates_bias_}).y;
  int64_t at = 0;
  auto take = [&](int64_t n) { return all.columns(std::exchange(at, at + n), n); };
  if (decay_ == Decay::head) {
    const Tensor a = take(heads_);
    if (step_) {
      const Tensor size = graph.record(Gate{.x = a, .bias = decay_bias_, .kind = GateKind::softplus, .low = step_low_, .high = step_high_}).y;
      to.g = mul(size, decay_rate_);
      to.v = scale_rows(to.v, size);
    } else {
      to.g = graph.record(Gate{.x = a, .bias = decay_bias_, .rate = decay_rate_, .kind = GateKind::softplus, .sign = decay_sign_}).y;
    }
  }
  if (beta_) to.beta = gate(take(heads_), GateKind::sigmoid, beta_factor_);
  if (levels_) to.lambda = graph.record(Gate{.x = take(heads_ * levels_), .weight = level_weight_, .kind = GateKind::softplus}).y.split_last(heads_);
}

Recurrent::Inputs Recurrent::inputs(Tensor x, Tensor in, const LayerMemory& memory, const Step& s) const {
  const int64_t channels = conv_channels(), width = 2 * key_width() + value_width();
  Tensor seen = in.columns(0, channels), values = conv_values_ ? Tensor() : in.columns(channels, width - channels);
  if (conv_.present()) {
    const Pool& rows = memory.row("conv");
    seen = s.graph->record(ShortConv{.x = seen, .w = conv_, .bias = conv_bias_, .page = s.page[size_t(rows.kind)], .seq = s.seq, .pos = s.pos,
                                     .rows = rows.tensor, .act = act_}).y;
  } else if (act_ != Act::none) {
    seen = activate(seen, act_);
  }
  if (conv_values_) values = seen.columns(2 * key_width(), value_width());
  Inputs to{.q = keys(seen.columns(0, key_width()), s), .k = keys(seen.columns(key_width(), key_width()), s), .v = values.split_last(heads_)};
  to.unscaled = to.v;
  gates(x, to);
  return to;
}

Tensor Recurrent::remember(const Inputs& in, const LayerMemory& m, const Step& s) const {
  auto row = [&](const char* name, bool there = true) { return there ? m.row(name).tensor : Tensor(); };
  auto kept = [&](const char* name, bool there = true) { return there ? m.slab(name).tensor : Tensor(); };
  const Tensor page = s.page[size_t(m.row("k").kind)], slab = s.page[size_t(m.slab(kind_ == Kind::mesa ? "H" : "S").kind)];
  switch (kind_) {
    case Kind::linear:
      return s.graph->record(Linear{.q = in.q, .k = in.k, .v = in.v, .g = in.g, .beta = in.beta, .page = page, .slab = slab, .seq = s.seq, .pos = s.pos,
                                    .rows_k = row("k"), .rows_u = row("u"), .rows_g = row("g", in.g.present() && in.g.rank() > 1), .S = kept("S"),
                                    .z = kept("z", normalise_), .scale = scale_}).o;
    case Kind::log_linear:
      return s.graph->record(LogLinear{.q = in.q, .k = in.k, .v = in.v, .g = in.g, .beta = in.beta, .lambda = in.lambda, .page = page, .slab = slab,
                                       .seq = s.seq, .pos = s.pos, .rows_k = row("k"), .rows_u = row("u"), .rows_g = row("g"), .rows_w = row("w", beta_),
                                       .rows_x = row("x", beta_), .S = kept("S"), .c = kept("c", !beta_)}).o;
    case Kind::mesa:
      return s.graph->record(Mesa{.q = in.q, .k = in.k, .v = in.v, .g = in.g, .beta = in.beta, .lambda = ridge_, .page = page, .slab = slab,
                                  .seq = s.seq, .pos = s.pos, .rows_k = row("k"), .rows_v = row("u"), .rows_g = row("g"), .rows_beta = row("beta"),
                                  .Hkk = kept("H"), .Hkv = kept("G"), .tolerance = tolerance_, .cap = iterations_, .mode = mode_}).o;
  }
  return {};
}

Tensor Recurrent::finish(Tensor o, Tensor z) const {
  auto gated = [&](Tensor y) {
    if (gate_sigmoid_) return mul(y, gate(z, GateKind::sigmoid));
    return glu(z, y, Act::silu);
  };
  Tensor y = o.merge_last();
  if (gate_at_ == GateAt::before) y = gated(y);
  if (norm_of_ == NormOf::head) y = rms_norm(y.split_last(heads_), norm_, norm_eps_).merge_last();
  if (norm_of_ == NormOf::group && norm_groups_ == 1) y = rms_norm(y, norm_, norm_eps_);
  if (norm_of_ == NormOf::group && norm_groups_ > 1) {   // each group has weights of its own
    const std::vector<float> ones(size_t(value_width() / norm_groups_), 1.0f);
    const Tensor one = y.graph->constant("ones", F32, {int64_t(ones.size())}, ones.data());
    y = mul(rms_norm(y.split_last(norm_groups_), one, norm_eps_).merge_last(), norm_);
  }
  return gate_at_ == GateAt::after ? gated(y) : y;
}

Tensor Recurrent::extend(Tensor x, Tensor residual, const LayerMemory& memory, const Step& s) const {
  const Tensor in = s.graph->record(Matmul{.x = x, .w = in_, .bias = in_bias_}).y;   // [T, q | k | v | z]
  const Inputs to = inputs(x, in, memory, s);
  Tensor o = remember(to, memory, s);
  if (skip_.present()) o = add(o.merge_last(), mul(to.unscaled.merge_last(), skip_)).split_last(heads_);
  Tensor z;
  if (gate_at_ != GateAt::none) z = gate_from_.present() ? gate_from_(x) : in.columns(2 * key_width() + value_width(), value_width());
  return s.graph->record(Matmul{.x = finish(o, z), .w = out_, .bias = out_bias_, .add = residual}).y;
}

}  // namespace folio
