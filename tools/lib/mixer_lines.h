// SPDX-License-Identifier: MIT
// What the curves of `bench mixers` come to: where a mixer overtakes attention, and the lines that this project wants to reach, each with
// the number measured and the aim. Nothing here fails when a line is missed.
#pragma once
#include <string>
#include <vector>

#include "tools/lib/mixer_curve.h"

namespace folio {

// Where `mixer` is first faster than tiled attention; 0: nowhere, as far as was measured.
struct Crossing {
  std::string mixer;
  int64_t width = 0, prefill = 0, decode = 0;   // tokens
};
std::vector<Crossing> crossings(const std::vector<MixerCurve>& curves);

struct MixerLine {
  std::string what, measured, aim;
  bool known = true, reached = false;           // known false: not measured in this run; `measured` says why
};

// Lines that follow from the curves. One whose curves are not there is left out.
std::vector<MixerLine> curve_lines(const std::vector<MixerCurve>& curves);

// Gated delta's steps of one and of eight tokens beside the plain step: one layer whose state stays in the cache, and so many layers that
// their states come from memory.
std::vector<MixerLine> step_lines(const MixerSize& size, Device& device, int threads, int repeats);
MixerLine wide_prefill_line(Device& device, int repeats);

// Rounds of Mesa's solver on the golden numbers of a folder (mesanet*_T*.npz). Throws Error if there are none.
std::vector<MixerLine> golden_lines(const std::string& folder, Device& device);

}  // namespace folio
