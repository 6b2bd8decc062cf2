// SPDX-License-Identifier: MIT
// The sampler's flags, with the names and defaults that users of llama.cpp know.
#pragma once
#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "run/sampler.h"

namespace folio {

struct SamplingFlags {
  SamplerOptions options;
  std::string seed = "-1";
  std::vector<std::string> biases;   // "15043+1"
};

// --temp --top-k --top-p --min-p --typical --repeat-penalty --repeat-last-n --presence-penalty --frequency-penalty --logit-bias -s
void add_sampling_flags(CLI::App& app, SamplingFlags& flags);

// With biases read and a seed drawn if none was given. Throws Error.
SamplerOptions sampler_options(const SamplingFlags& flags);

// "ID+X", "ID-X", "ID=X" or "ID:X"; X may be "inf" after a minus. Throws Error.
std::pair<Token, float> parse_bias(const std::string& text);

}  // namespace folio
