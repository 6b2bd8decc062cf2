// SPDX-License-Identifier: MIT
// The name in a weight file -> the architecture that understands it.
#pragma once
#include <memory>

#include "files/weights.h"
#include "run/model.h"

namespace folio {

// The model that the file holds; the file must stay open as long as the model. Throws Error, listing what is known, if the
// architecture is not.
std::unique_ptr<Model> load_model(const Weights& weights);

}  // namespace folio
