// SPDX-License-Identifier: MIT
// How long a mixer takes over T: for each T (a power of two from 64) the time of a prefill and of decoding one token there, what memory
// that takes, how many operations it is.
#pragma once
#include <string>
#include <vector>

#include "tools/lib/mixer_run.h"

namespace folio {

struct MixerPoint {
  int64_t tokens = 0;
  double prefill = 0, decode = 0;              // seconds; 0: not measured
  double prefill_flops = 0, decode_flops = 0;
  MixerMemory memory;
  std::string left_out;                        // why there is no prefill, or nothing at all
};

struct MixerCurve {
  std::string mixer;
  MixerSize size;
  std::vector<MixerPoint> points;              // ascending
  double rounds = 0;                           // of Mesa's solver, a token
  const MixerPoint* at(int64_t tokens) const;  // null if there is none
  double prefill(int64_t tokens) const;        // 0 if it was not measured
  double decode(int64_t tokens) const;
};

struct CurveLimits {
  int64_t tokens = 65536;                      // largest T
  int64_t chunk = 512;                         // tokens of a step
  double seconds = 20;                         // a prefill that would take longer is left out
  int64_t bytes = int64_t(2) << 30;            // of a square of scores; more is left out
  int repeats = 3;
};

// A text of T tokens is read in steps of `chunk`. Its time is the sum of its steps' times, each the best of several texts as far as a
// quarter of `seconds` allows. Decoding: the mean of the 64 tokens before place T (the page where Fenwick trees are fullest), or as many
// of them as half a second allows where rows are all there is; the best of the same texts. Everything is warm: one layer, alone.
MixerCurve measure_mixer(const MixerKind& kind, const MixerSize& size, Device& device, const CurveLimits& limits);

// The naive baseline: the best of several times, all at once.
MixerCurve measure_plain_attention(const MixerSize& size, int threads, const CurveLimits& limits);

// Seconds of one step of `tokens` tokens behind `depth`, in one layer of `layers`: the mean over a page of such steps, the best of several.
double measure_step(const MixerKind& kind, const MixerSize& size, Device& device, int64_t depth, int64_t tokens, int repeats,
                    int layers = 1);

}  // namespace folio
