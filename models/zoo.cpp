// SPDX-License-Identifier: MIT
#include "models/zoo.h"

#include "models/decoder.h"

namespace folio {

std::unique_ptr<Model> load_model(const Weights& weights) {
  const std::string arch = weights.text("arch");
  if (arch == "decoder") return std::make_unique<Decoder>(weights);
  fail(weights.path(), ": architecture '", arch, "' is not known; known are: decoder");
}

}  // namespace folio
