// SPDX-License-Identifier: MIT
#include "models/mixers/rotary.h"

#include <cmath>

namespace folio {

static RopeScaling read_scaling(const MixerSource& s, float& factor) {
  const Weights& w = s.weights;
  RopeScaling scaling;
  const std::string kind = w.text(s.profile + "rope_scaling", "none");
  if (kind == "linear") scaling.kind = RopeScaling::Kind::linear;
  else if (kind == "llama3") scaling.kind = RopeScaling::Kind::llama3;
  else if (kind == "yarn") scaling.kind = RopeScaling::Kind::yarn;
  else check(kind == "none", w.path(), ": rope scaling '", kind, "', expected none, linear, llama3 or yarn");
  if (kind != "none") {
    scaling.factor = w.real(s.profile + "rope_factor");
    check(scaling.factor > 0, w.path(), ": rope factor ", scaling.factor);
  }
  if (kind == "llama3" || kind == "yarn") {
    scaling.original_context = w.real(s.profile + "rope_original_context");
    check(scaling.original_context > 0, w.path(), ": rope original context ", scaling.original_context);
  }
  if (kind == "llama3") {
    scaling.low_freq_factor = w.real(s.profile + "rope_low_freq_factor");
    scaling.high_freq_factor = w.real(s.profile + "rope_high_freq_factor");
  }
  if (kind == "yarn") {
    scaling.beta_fast = w.real(s.profile + "rope_beta_fast", 32);
    scaling.beta_slow = w.real(s.profile + "rope_beta_slow", 1);
    scaling.whole_pairs = w.integer(s.profile + "rope_truncate", 1) != 0;
    factor = float(w.real(s.profile + "rope_mscale", 0.1 * std::log(scaling.factor) + 1));
  }
  return scaling;
}

Rotary::Rotary(const MixerSource& s, int64_t size) {
  const Weights& w = s.weights;
  const std::string style = w.text(s.profile + "rope", "none");
  check(style == "none" || style == "adjacent" || style == "half", w.path(), ": rope '", style, "', expected none, adjacent or half");
  if (style == "none") return;
  half_ = style == "half";
  const int64_t dims = w.integer(s.profile + "rope_dims", size);
  check(dims >= 2 && dims <= size && dims % 2 == 0, w.path(), ": rope over ", dims, " of ", size, " dimensions");
  const RopeScaling scaling = read_scaling(s, factor_);
  freq_ = rope_frequencies(dims, w.real(s.profile + "theta", 10000), scaling);
}

Tensor Rotary::operator()(Tensor x, const Step& step) const {
  if (freq_.empty()) return x;
  const Tensor freq = step.graph->constant("rope_freq", F32, {int64_t(freq_.size())}, freq_.data());
  return rope(x, step.pos, freq, half_, factor_);
}

}  // namespace folio
