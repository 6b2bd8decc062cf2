// SPDX-License-Identifier: MIT
#include "ops/rope.h"

#include <algorithm>
#include <numbers>

namespace folio {

using std::numbers::pi;

// Llama 3: wavelengths longer than original/low are stretched by the factor, shorter than original/high kept, in between mixed.
static double llama3(double freq, const RopeScaling& s) {
  const double wavelength = 2 * pi / freq, turns = s.original_context / wavelength;
  if (turns < s.low_freq_factor) return freq / s.factor;
  if (turns > s.high_freq_factor) return freq;
  const double keep = (turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
  return (1 - keep) * freq / s.factor + keep * freq;
}

// YaRN, section 3.2: the pair index at which a frequency makes `turns` turns over the original context, as a real number.
static double yarn_pair(double turns, int64_t n, double theta, const RopeScaling& s) {
  return double(n) * std::log(s.original_context / (turns * 2 * pi)) / (2 * std::log(theta));
}

std::vector<float> rope_frequencies(int64_t n, double theta, const RopeScaling& scaling) {
  std::vector<float> freq(static_cast<size_t>(n / 2));
  double low = 0, high = 0;
  if (scaling.kind == RopeScaling::Kind::yarn) {
    low = yarn_pair(scaling.beta_fast, n, theta, scaling), high = yarn_pair(scaling.beta_slow, n, theta, scaling);
    if (scaling.whole_pairs) low = std::floor(low), high = std::ceil(high);
    low = std::max(low, 0.0), high = std::min(high, double(n - 1));
    if (high == low) high += 0.001;  // the ramp has no width: avoid 0/0, as the published code does
  }
  for (int64_t i = 0; i < n / 2; ++i) {
    double f = std::pow(theta, -2.0 * double(i) / double(n));
    switch (scaling.kind) {
      case RopeScaling::Kind::none: break;
      case RopeScaling::Kind::linear: f /= scaling.factor; break;
      case RopeScaling::Kind::llama3: f = llama3(f, scaling); break;
      case RopeScaling::Kind::yarn: {
        const double stretched = std::clamp((double(i) - low) / (high - low), 0.0, 1.0);
        f = f / scaling.factor * stretched + f * (1 - stretched);
        break;
      }
    }
    freq[size_t(i)] = float(f);
  }
  return freq;
}

}  // namespace folio
