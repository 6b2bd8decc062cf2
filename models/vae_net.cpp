// SPDX-License-Identifier: MIT
#include "models/vae_net.h"

#include <algorithm>
#include <cstdlib>

namespace folio {

namespace {

// Layers of TAEHV's layout: three levels, an `up` to each.
std::vector<std::string> usual_layers(const std::string& half) {
  std::vector<std::string> layers = {"clamp", "conv", "relu"};
  const std::vector<std::string> memories(3, "memory");
  if (half == "encoder") layers = {"conv", "relu"};
  for (int level = 0; level < 3; ++level) {
    if (half == "encoder") layers.insert(layers.end(), {"pool", "down"});
    layers.insert(layers.end(), memories.begin(), memories.end());
    if (half == "decoder") layers.insert(layers.end(), {"up", "grow", "conv"});
  }
  if (half == "decoder") layers.emplace_back("relu");
  layers.emplace_back("conv");
  return layers;
}

std::vector<float> floats(const Tensor& t) {
  std::vector<float> out(size_t(t.count()));
  format(t.type).to_float(t.data, out.data(), t.count());
  return out;
}

// a [s, I, M] and w [taps, M, O] -> [s, taps, I, O], summed in float64
std::vector<float> product(const Tensor& a, const Tensor& w) {
  const auto left = floats(a), right = floats(w);
  const int64_t taps = w.dim(0), I = a.dim(1), M = a.dim(2), O = w.dim(2);
  std::vector<float> out(size_t(a.dim(0) * taps * I * O));
  std::vector<double> sum(static_cast<size_t>(O));
  for (int64_t s = 0; s < a.dim(0); ++s)
    for (int64_t tap = 0; tap < taps; ++tap)
      for (int64_t i = 0; i < I; ++i) {
        std::fill(sum.begin(), sum.end(), 0.0);
        for (int64_t m = 0; m < M; ++m) {
          const double by = left[size_t((s * I + i) * M + m)];
          const float* row = right.data() + (tap * M + m) * O;
          for (int64_t o = 0; o < O; ++o) sum[size_t(o)] += by * row[o];
        }
        std::copy(sum.begin(), sum.end(), out.begin() + ((s * taps + tap) * I + i) * O);
      }
  return out;
}

// w [s, 9, n] of a 3×3 behind a nearest ×2 -> [s, 2, 2, 4, n]: F2, in rows and in columns
std::vector<float> enlarged(const std::vector<float>& w, int64_t s, int64_t n) {
  // Of tap k in phase p: which of the two small pixels it meets.
  const auto pixel = [](int64_t p, int64_t k) { return p == 0 ? (k > 0 ? 1 : 0) : (k > 1 ? 1 : 0); };
  std::vector<float> out(static_cast<size_t>(s * 16 * n));
  for (int64_t f = 0; f < s; ++f)
    for (int64_t a = 0; a < 2; ++a)
      for (int64_t b = 0; b < 2; ++b)
        for (int64_t tap = 0; tap < 9; ++tap) {
          const float* from = w.data() + (f * 9 + tap) * n;
          float* to = out.data() + (((f * 2 + a) * 2 + b) * 4 + pixel(a, tap / 3) * 2 + pixel(b, tap % 3)) * n;
          for (int64_t i = 0; i < n; ++i) to[i] += from[i];
        }
  return out;
}

}  // namespace

// Walks the list of layers and fills the net's units.
class VaeBuilder {
 public:
  VaeBuilder(VaeNet& net, const Weights& weights, const std::string& half, DType type)
      : net_(net), w_(weights), half_(half), type_(type), layers_(weights.texts("vae." + half)) {
    check(type == F32 || type == F16 || type == BF16, "autoencoder: weights of ", format(type).name, ", expected f32, f16 or bf16");
    if (layers_.empty()) layers_ = usual_layers(half);
    const int64_t patch = weights.integer("vae.patch", 1);
    check(patch >= 1 && patch <= 64, w_.path(), ": vae.patch is ", patch, ", expected 1 to 64");
    channels_ = half == "encoder" ? 3 : latent();
    if (half == "encoder" && patch > 1) shuffle(VaeStep::Kind::unshuffle, int(patch));
    for (at_ = 0; at_ < layers_.size(); ++at_) layer();
    if (half == "decoder" && patch > 1) shuffle(VaeStep::Kind::shuffle, int(patch));
    finish();
    check(!net_.units_.empty(), w_.path(), ": vae.", half, " has no layers");
    const int64_t out = half == "encoder" ? latent() : 3;
    check(channels_ == out, w_.path(), ": the ", half, " puts out ", channels_, " channels, expected ", out);
  }

 private:
  int64_t latent() const {
    const int64_t z = w_.integer("vae.latent");
    check(z >= 1 && z <= 1 << 16, w_.path(), ": vae.latent is ", z, ", expected 1 to 65536");
    return z;
  }
  std::string name(size_t at, const std::string& rest) const { return join(half_, ".", at, ".", rest); }
  bool next_is(const char* word) const { return at_ + 1 < layers_.size() && layers_[at_ + 1] == word; }

  // Weights [taps, channels_, out], or depthwise [taps, channels_].
  Tensor weight(const std::string& name, int64_t taps, int64_t in, int64_t out) const {
    const Tensor t = w_.require(name);
    const bool deep = out == 0, any = out < 0;
    const bool fits = deep ? t.rank() == 2 && t.dim(1) == in : t.rank() == 3 && t.dim(1) == in && (any || t.dim(2) == out);
    const std::string taps_text = taps > 0 ? std::to_string(taps) : "taps", out_text = any ? "any" : std::to_string(out);
    check(fits && (taps <= 0 || t.dim(0) == taps) && format(t.type).to_float, w_.path(), ": '", name, "' is ", format(t.type).name, " ",
          t.shape.text(), ", expected [", taps_text, ",", in, deep ? "" : ",", deep ? "" : out_text, "]");
    return t;
  }
  Tensor bias(const std::string& name, int64_t n, bool needed) const {
    if (!needed && !w_.find(name).present()) return {};
    const Tensor t = w_.get(name, {n});
    check(t.type == F32, w_.path(), ": '", name, "' is ", format(t.type).name, ", expected f32");
    return t;
  }
  // In the format that the ops are to read.
  Tensor kept(const Tensor& t) { return t.type == type_ ? t : keep(floats(t), t.shape); }
  Tensor keep(const std::vector<float>& numbers, const Shape& shape) {
    const int64_t bytes = bytes_of(type_, shape.count());
    std::shared_ptr<std::byte> memory(static_cast<std::byte*>(std::aligned_alloc(256, size_t((bytes + 255) / 256 * 256))), std::free);
    check(memory != nullptr, "autoencoder: out of memory for ", bytes >> 20, " MiB of weights");
    format(type_).from_float(numbers.data(), memory.get(), shape.count());
    net_.made_.push_back(memory);
    return Tensor::of(type_, shape, memory.get());
  }

  VaeStep& step(VaeStep::Kind kind, size_t at) {
    if (unit_.steps.empty()) unit_.in = channels_;
    unit_.steps.push_back({.kind = kind, .scope = join(half_, ".", at), .x = int(unit_.steps.size())});
    return unit_.steps.back();
  }
  // A convolution of value x of the unit.
  VaeStep& conv(const std::string& part, int size, int64_t out, bool biased, Act act, int time = 1) {
    VaeStep& s = step(VaeStep::Kind::conv, at_);
    const Tensor t = weight(name(at_, part + ".weight"), int64_t(time) * size * size, channels_, out);
    s.w = kept(t);
    channels_ = t.rank() == 3 ? t.dim(2) : channels_;
    if (biased) s.bias = bias(name(at_, part + ".bias"), channels_, true);
    s.size = size, s.time = time, s.act = act;
    return s;
  }
  void shuffle(VaeStep::Kind kind, int factor) {
    const int64_t by = int64_t(factor) * factor;
    check(kind == VaeStep::Kind::unshuffle || channels_ % by == 0, w_.path(), ": ", channels_, " channels cannot be shuffled by ", factor);
    step(kind, at_).factor = factor;
    if (kind == VaeStep::Kind::shuffle) channels_ /= by, unit_.up *= factor;
    else channels_ *= by, unit_.down *= factor;
  }
  // Closes the unit, if one is begun.
  void finish() {
    if (unit_.steps.empty()) return;
    unit_.out = channels_;
    net_.units_.push_back(std::move(unit_));
    unit_ = {};
  }

  void layer() {
    const std::string& word = layers_[at_];
    if (word == "clamp") {
      step(VaeStep::Kind::clamp, at_);
    } else if (word == "conv" || word == "down") {
      plain(word == "down" ? 2 : 1);
    } else if (word == "volume") {
      volume();
    } else if (word == "shuffle") {
      shuffle(VaeStep::Kind::shuffle, 2);
    } else if (word == "up" || word == "grow") {
      enlarge(word);
    } else if (word == "pool") {
      pool();
    } else if (word == "memory" || word == "block" || word == "block_norm" || word == "wide_memory") {
      finish();
      word == "wide_memory" ? wide() : block(word);
      unit_.block = true;
      finish();
    } else {
      fail(w_.path(), ": vae.", half_, " has the layer '", word, "' at ", at_, ", which is not known there");
    }
  }

  int side(const std::string& name, const Tensor& t) const {
    for (int k : {1, 3, 5, 7})
      if (t.dim(0) == k * k) return k;
    fail(w_.path(), ": '", name, "' has ", t.dim(0), " taps, expected 1, 9, 25 or 49");
  }
  Act act_behind() {
    if (!next_is("relu")) return Act::none;
    ++at_;
    return Act::relu;
  }
  void plain(int stride) {
    const std::string name = this->name(at_, "weight");
    VaeStep& s = step(VaeStep::Kind::conv, at_);
    const Tensor t = weight(name, 0, channels_, -1);
    s.w = kept(t), s.size = side(name, t), s.stride = stride;
    channels_ = t.dim(2);
    s.bias = bias(this->name(at_, "bias"), channels_, false);
    unit_.down *= stride;
    s.act = act_behind();
  }
  void volume() {
    finish();
    const std::string name = this->name(at_, "weight");
    VaeStep& s = step(VaeStep::Kind::conv, at_);
    const Tensor t = weight(name, 27, channels_, -1);
    s.w = kept(t), s.time = s.size = 3;
    channels_ = t.dim(2);
    s.bias = bias(this->name(at_, "bias"), channels_, false);
    s.act = act_behind();
    unit_.late = unit_.whole = true;
    finish();
  }
  // [up] [grow] conv: one convolution with phases, or a grow that stands alone.
  void enlarge(const std::string& word) {
    const int up = word == "up" ? 2 : 1;
    if (up == 2) ++at_;
    const bool grows = at_ < layers_.size() && layers_[at_] == "grow";
    Tensor first;
    if (grows) {
      first = weight(name(at_, "conv.weight"), 0, channels_, -1);
      check(first.dim(0) <= 8, w_.path(), ": '", name(at_, "conv.weight"), "' makes ", first.dim(0), " frames of one, expected at most 8");
      if (first.dim(0) > 1) finish();
    }
    const bool conv = grows ? next_is("conv") : at_ < layers_.size() && layers_[at_] == "conv";
    check(conv || up == 1, w_.path(), ": vae.", half_, " has an 'up' that no 'conv' follows");
    unit_.up *= up;
    if (!conv) {
      VaeStep& s = step(VaeStep::Kind::conv, at_);
      s.w = kept(first), channels_ = first.dim(2), unit_.grow = int(first.dim(0));
      return;
    }
    if (grows) ++at_;
    folded(first, up);
  }
  // The conv at at_ with what stands in front of it.
  void folded(const Tensor& first, int up) {
    const std::string name = this->name(at_, "weight");
    VaeStep& s = step(VaeStep::Kind::conv, at_);
    const int64_t in = channels_, frames = first.present() ? first.dim(0) : 1;
    const Tensor t = weight(name, 0, first.present() ? first.dim(2) : in, -1);
    s.size = side(name, t), s.up = up;
    check(up == 1 || s.size == 3, w_.path(), ": '", name, "' stands behind an 'up' and has ", t.dim(0), " taps, expected 9");
    std::vector<float> w = first.present() ? product(first, t) : floats(t);
    if (up == 2) w = enlarged(w, frames, in * t.dim(2)), s.size = 2;
    channels_ = t.dim(2);
    s.w = keep(w, {frames * up * up * s.size * s.size, in, channels_});
    s.bias = bias(this->name(at_, "bias"), channels_, false);
    unit_.grow = int(frames);
    s.act = act_behind();
  }
  void pool() {
    check(next_is("down"), w_.path(), ": vae.", half_, " has a 'pool' that no 'down' follows");
    const Tensor first = weight(name(at_, "conv.weight"), 0, channels_, -1);
    check(first.dim(0) <= 8, w_.path(), ": '", name(at_, "conv.weight"), "' makes one frame of ", first.dim(0), ", expected at most 8");
    const std::string name = this->name(++at_, "weight");
    const Tensor t = weight(name, 9, first.dim(2), -1);
    check(!w_.find(this->name(at_, "bias")).present() || first.dim(0) == 1, w_.path(), ": '", this->name(at_, "bias"), "' is not expected");
    VaeStep& s = step(VaeStep::Kind::conv, at_);
    s.size = 3, s.stride = 2, s.time = int(first.dim(0));
    s.w = keep(product(first, t), {first.dim(0) * 9, channels_, t.dim(2)});
    channels_ = t.dim(2);
    unit_.pool = s.time, unit_.down *= 2;
    if (unit_.pool > 1) finish();
  }
  void block(const std::string& word) {
    const int64_t c = channels_;
    int x = 0;
    unit_.memory = word == "memory";
    if (word == "block_norm") {
      unit_.whole = true;
      conv("pool.0", 1, 4 * c, false, Act::none);
      VaeStep& n = step(VaeStep::Kind::norm, at_);
      n.w = w_.get(name(at_, "pool.1.weight"), {4 * c}), n.bias = bias(name(at_, "pool.1.bias"), 4 * c, true);
      check(n.w.type == F32, w_.path(), ": '", name(at_, "pool.1.weight"), "' is ", format(n.w.type).name, ", expected f32");
      conv("pool.3", 1, c, false, Act::none).add = 0;
      x = 3;
    }
    conv("conv.0", 3, c, true, Act::relu, unit_.memory ? 2 : 1);
    conv("conv.2", 3, c, true, Act::relu);
    conv("conv.4", 3, c, true, Act::relu).add = x;
  }
  // The depthwise convolution of the frame before and of this one are two, whose results go into one 1×1: the pair of them is never made.
  void wide() {
    const int64_t c = channels_;
    unit_.memory = true;
    std::vector<float> taps = floats(weight(name(at_, "conv.0.weight"), 98, c, 0));
    VaeStep& past = step(VaeStep::Kind::conv, at_);
    past.size = 7, past.time = 2;
    const std::vector<float> now(taps.begin() + 49 * c, taps.end());
    std::fill(taps.begin() + 49 * c, taps.end(), 0.0f);   // as seen from the frame before alone
    past.w = keep(taps, {98, c});
    const Tensor both = weight(name(at_, "conv.1.weight"), 2, c, 4 * c);
    VaeStep& from_past = step(VaeStep::Kind::conv, at_);
    from_past.w = kept(both).slice(0, 1);
    VaeStep& seen = step(VaeStep::Kind::conv, at_);
    seen.w = keep(now, {49, c}), seen.size = 7, seen.x = 0;
    VaeStep& wide = step(VaeStep::Kind::conv, at_);
    wide.w = kept(both).slice(1, 1), wide.bias = bias(name(at_, "conv.1.bias"), 4 * c, true), wide.act = Act::relu, wide.add = 2;
    channels_ = 4 * c;
    conv("conv.3", 1, c, false, Act::none).add = 0;
  }

  VaeNet& net_;
  const Weights& w_;
  std::string half_;
  DType type_;
  std::vector<std::string> layers_;
  size_t at_ = 0;
  int64_t channels_ = 0;
  VaeUnit unit_;
};

VaeNet::VaeNet(const Weights& weights, const std::string& half, DType type) { VaeBuilder(*this, weights, half, type); }

template <class F> static int product_of(const std::vector<VaeUnit>& units, F factor) {
  int n = 1;
  for (const VaeUnit& unit : units) n *= factor(unit);
  return n;
}
int VaeNet::up() const { return product_of(units_, [](const VaeUnit& u) { return u.up; }); }
int VaeNet::down() const { return product_of(units_, [](const VaeUnit& u) { return u.down; }); }
int VaeNet::grow() const { return product_of(units_, [](const VaeUnit& u) { return u.grow; }); }
int VaeNet::pool() const { return product_of(units_, [](const VaeUnit& u) { return u.pool; }); }

int64_t VaeNet::weight_bytes() const {
  int64_t bytes = 0;
  for (const VaeUnit& unit : units_)
    for (const VaeStep& step : unit.steps) bytes += step.w.bytes() + step.bias.bytes();
  return bytes;
}

Tensor record_step(Graph& graph, const VaeUnit& unit, size_t i, Tensor x, const VaeCut& cut) {
  const VaeStep& s = unit.steps[i];
  graph.scope(s.scope);
  switch (s.kind) {
    case VaeStep::Kind::clamp: return graph.record(Softcap{.x = x, .cap = 3}).y;
    case VaeStep::Kind::shuffle: return graph.record(PixelShuffle{.x = x, .factor = s.factor}).y;
    case VaeStep::Kind::unshuffle: return graph.record(PixelUnshuffle{.x = x, .factor = s.factor}).y;
    case VaeStep::Kind::norm: return activate(graph.record(GroupNorm{.x = x, .w = s.w, .b = s.bias, .groups = 4}).y, Act::relu);
    case VaeStep::Kind::conv: break;
  }
  const int pad = s.size == 2 ? 1 : s.size / 2;   // 2: a 3×3 behind an enlargement
  Conv op{.x = x, .w = s.w, .bias = s.bias, .add = cut.add, .window = cut.window, .past = cut.past, .kernel = {s.time, s.size, s.size},
          .stride = {1, s.stride, s.stride}, .pad = {0, cut.pad ? pad : 0, pad}, .up = s.up, .act = s.act};
  const bool first = i == 0, last = i + 1 == unit.steps.size();
  if (first && unit.memory) {
    if (!cut.past.present() && !cut.pad) op.pad.t = 0;   // x holds both frames
    else op.pad.t = 1, op.causal = true;
  } else if (unit.late) {
    op.causal = cut.past.present();
    op.pad.t = op.causal ? 2 : 1;
  } else if (first && unit.grow > 1) {
    const int64_t part = s.w.dim(0) / unit.grow;
    if (cut.phase >= 0) op.w = s.w.slice(cut.phase * part, part);
    else op.grow = unit.grow;
  } else if (last && unit.pool > 1) {
    const int64_t part = s.w.dim(0) / unit.pool;
    if (cut.phase >= 0) op.w = s.w.slice(cut.phase * part, part), op.kernel.t = 1;
    else op.stride.t = unit.pool;
  }
  return graph.record(op).y;
}

Tensor record_unit(Graph& graph, const VaeUnit& unit, Tensor x, Tensor past, int phase, Tensor acc) {
  std::vector<Tensor> values = {x};
  for (size_t i = 0; i < unit.steps.size(); ++i) {
    const VaeStep& s = unit.steps[i];
    VaeCut cut{.phase = phase};
    if (i == 0) cut.past = past;
    if (s.add >= 0) cut.add = values[size_t(s.add)];
    else if (i + 1 == unit.steps.size() && unit.pool > 1 && phase > 0) cut.add = acc;
    values.push_back(record_step(graph, unit, i, values[size_t(s.x)], cut));
  }
  return values.back();
}

Tensor VaeNet::record_full(Tensor x) const {
  for (const VaeUnit& unit : units_) x = record_unit(*x.graph, unit, x, {}, -1, {});
  return x;
}

}  // namespace folio
