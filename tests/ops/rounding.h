// SPDX-License-Identifier: MIT
// How far the kernels of a matrix product may be from exact arithmetic, because they round activations.
#pragma once
#include <algorithm>
#include <cmath>

#include "cases.h"

namespace folio {

using Row = std::vector<double>;

// How far rounding may move each x of a token (a standard deviation), as the kernels of that weight format round it: to int8 in
// blocks of 32 for Q8_0 and Q4_0, to bf16 for bf16 and F8_E4M3 (which the CPU's do not), not at all for the others.
inline Row rounding(const double* x, size_t n, DType type) {
  Row e(n, 0.0);
  for (size_t k = 0; k < n; ++k) {
    double most = 0;
    for (size_t j = k / 32 * 32; j < std::min(n, k / 32 * 32 + 32); ++j) most = std::max(most, std::fabs(x[j]));
    if (type == Q8_0 || type == Q4_0) e[k] = most / 127 / std::sqrt(12.0);
    if ((type == BF16 || type == F8_E4M3) && x[k] != 0) e[k] = std::ldexp(1.0, std::ilogb(x[k]) - 7) / std::sqrt(12.0);  // of a step
  }
  return e;
}

struct Sum {
  double value, error;
};

// x·w + bias, and six standard deviations of what rounding x does to it, plus f32 sums in any order.
inline Sum product(const double* x, const Row& e, const double* w, double bias) {
  double sum = bias, square = 0, magnitude = std::fabs(bias);
  for (size_t k = 0; k < e.size(); ++k) {
    sum += x[k] * w[k];
    square += e[k] * w[k] * e[k] * w[k];
    magnitude += std::fabs(x[k] * w[k]);
  }
  return {sum, 6 * std::sqrt(square) + 1e-6 * magnitude};
}

inline Sum through(Act act, const Sum& s) {
  const double at = activate(act, float(s.value));
  const double up = activate(act, float(s.value + s.error)), down = activate(act, float(s.value - s.error));
  return {at, std::max(std::fabs(up - at), std::fabs(down - at)) + 1e-6 * std::fabs(at)};
}

// The error of beside(act, u) ⊙ open.
inline double error_of(Act act, const Sum& u, const Sum& open) {
  return std::fabs(open.value) * u.error + open.error * (std::fabs(beside(act, float(u.value))) + u.error);
}

}  // namespace folio
