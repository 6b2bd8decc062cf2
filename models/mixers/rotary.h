// SPDX-License-Identifier: MIT
// Rotary embedding as a profile tells it (the keys .rope, .rope_dims, .theta, .rope_scaling ... of models/decoder.h), read once.
#pragma once
#include <vector>

#include "models/mixers/mixer.h"

namespace folio {

class Rotary {
 public:
  Rotary() = default;   // none
  // Of heads of `size` numbers. Throws Error for settings that are not known.
  Rotary(const MixerSource& source, int64_t size);
  bool present() const { return !freq_.empty(); }
  int64_t dims() const { return 2 * int64_t(freq_.size()); }
  Tensor operator()(Tensor x, const Step& step) const;   // x [T, heads, size]; x itself if there is none

 private:
  bool half_ = false;
  float factor_ = 1;
  std::vector<float> freq_;
};

}  // namespace folio
