// SPDX-License-Identifier: MIT
// The inner loops that a processor can run fast, as one table of function pointers per instruction set. simd/kernels.cpp is
// compiled once for each set; the best one that this processor knows is picked once, FOLIO_SIMD=name asks for another.
#pragma once
#include <string_view>
#include <vector>

#include "cpu/simd/table.h"

namespace folio {

const Simd& simd();                              // the active table. Throws Error if FOLIO_SIMD names one that cannot run here
std::vector<const Simd*> simd_sets();            // those that this build has and this processor can run, best first
bool force_simd(std::string_view name);          // makes it the active table, "" the one at the start; false if it cannot run here

}  // namespace folio
