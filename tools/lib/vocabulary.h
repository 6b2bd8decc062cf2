// SPDX-License-Identifier: MIT
// The tokenizer that a weight file carries, as text/tokenizer.h wants it. It stands here because text/ knows no files and files/
// knows no tokenizers.
#pragma once
#include "files/weights.h"
#include "text/tokenizer.h"

namespace folio {

// Reads tensors and keys "tokenizer.*". Throws Error if there is no tokenizer, if something of it is absent or of another form, or
// if it has more tokens than the model has rows for. What the parts mean together is checked by Tokenizer.
Vocabulary read_vocabulary(const Weights& weights);

}  // namespace folio
