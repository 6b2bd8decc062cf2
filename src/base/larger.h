// SPDX-License-Identifier: MIT
// How far off the worst of many results is: a comparison that a NaN must not slip through.
#pragma once
#include <cmath>

namespace folio {

// The larger of two errors; NaN if one of them is, whatever follows it.
inline double larger(double a, double b) { return std::isnan(a) || b <= a ? a : b; }

// max|a − b| over `count` numbers.
template <class A, class B>
double worst_of(const A* a, const B* b, size_t count) {
  double worst = 0;
  for (size_t i = 0; i < count; ++i) worst = larger(worst, std::fabs(double(a[i]) - double(b[i])));
  return worst;
}

}  // namespace folio
