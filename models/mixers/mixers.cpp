// SPDX-License-Identifier: MIT
#include "models/mixers/attention.h"
#include "models/mixers/mla.h"
#include "models/mixers/recurrent.h"

namespace folio {

std::unique_ptr<Mixer> make_mixer(const MixerSource& source) {
  const std::string kind = source.weights.text(source.profile + "kind");
  if (kind == "attention") return std::make_unique<Attention>(source);
  if (kind == "mla") return std::make_unique<LatentAttention>(source);
  if (kind == "linear" || kind == "log_linear" || kind == "mesa") return std::make_unique<Recurrent>(source);
  fail(source.weights.path(), ": mixer kind '", kind, "' is not known; known are: attention, mla, linear, log_linear, mesa");
}

}  // namespace folio
