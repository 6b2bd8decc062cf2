// SPDX-License-Identifier: MIT
// What an ablation study found, in the form that a file's name asks for: .md (tables), .json (everything), .csv (a line for each
// configuration) or .svg (bars).
#pragma once
#include <string>

#include "tools/lib/ablate.h"

namespace folio {

// Throws Error for a name that ends in none of them.
void check_report_name(const std::string& path);
// `metrics`: the groups of figures that are wanted; none: all.
std::string ablate_report(const Study& study, const std::string& path);

}  // namespace folio
