// SPDX-License-Identifier: MIT
#include "models/mixers/attention.h"

namespace folio {

std::unique_ptr<Mixer> make_mixer(const MixerSource& source) {
  const std::string kind = source.weights.text(source.profile + "kind");
  if (kind == "attention") return std::make_unique<Attention>(source);
  fail(source.weights.path(), ": mixer kind '", kind, "' is not known; known are: attention");
}

}  // namespace folio
