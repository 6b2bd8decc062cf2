// SPDX-License-Identifier: MIT
// The requests of an ablation study, and the texts whose perplexity is taken.
#pragma once
#include "tools/lib/ablate.h"

namespace folio {

// Of flags.data, lines as generate --batch takes them; without it requests that are built in: five that share a beginning of some pages,
// two of which are asked twice; four that repeat themselves; three that have nothing in common. The texts are those of flags.text, or
// the prompts. Says in words where both are from. Throws Error for the first line that is none, with its number.
Workload ablate_workload(const OpenModel& model, const AblateFlags& flags, Study& in_words);

}  // namespace folio
