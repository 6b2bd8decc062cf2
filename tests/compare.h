// SPDX-License-Identifier: MIT
// The one comparator of the tests: NaN and infinities must sit in the same places; then each element within
// absolute + relative·|want| + allowed (an extra error per element that the case has worked out, for kernels that round
// activations); then the whole: its length along what is wanted (a wrong scale hides within every element's tolerance) and its
// cosine distance (so do errors that are all as large as may be).
// It answers with an empty string, or with one line that names the worst element, its coordinates and both values.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "graph/tensor.h"

namespace folio {

struct Tolerance {
  double absolute = 1e-6, relative = 1e-5, cosine = 1e-10;
};

// What one rounding of that format may cost; of the quantised ones, one step of the largest element.
inline Tolerance tolerance_of(DType type, double largest) {
  switch (type) {
    case F16:
      return {1e-7, 1e-3, 1e-6};
    case BF16:
      return {1e-7, 8e-3, 1e-4};
    case Q8_0:
      return {largest / 127 * 1.01, 0, 1e-4};
    case Q4_0:
      return {largest / 8 * 1.01, 0, 1e-2};
    case F8_E4M3:
      return {largest / 448 * 0x1.1p-9, 0.127, 1e-2};
    default:
      return {};
  }
}

// All elements as double, in the order of the shape; also of strided views and of integers.
inline std::vector<double> elements(const Tensor& t) {
  std::vector<double> all;
  std::vector<float> row(static_cast<size_t>(t.cols()));
  for (int64_t i = 0; i < t.rows(); ++i) {
    if (t.type == I32) all.insert(all.end(), t.row<int32_t>(i), t.row<int32_t>(i) + t.cols());
    else if (t.type == U8) all.insert(all.end(), t.row<uint8_t>(i), t.row<uint8_t>(i) + t.cols());
    else {
      format(t.type).to_float(t.row_bytes(i), row.data(), t.cols());
      all.insert(all.end(), row.begin(), row.end());
    }
  }
  return all;
}

// "[2,0,5]": where element i of that shape stands.
inline std::string coordinates(const Shape& shape, int64_t i) {
  std::string text;
  for (int d = shape.rank - 1; d >= 0; --d) {
    text = std::to_string(i % shape[d]) + (text.empty() ? "" : "," + text);
    i /= shape[d];
  }
  return "[" + text + "]";
}

inline bool same_kind(double a, double b) {  // both NaN, or the same infinity, or both finite
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  if (std::isinf(a) || std::isinf(b)) return a == b;
  return true;
}

// Empty if equal in type, shape and every bit.
inline std::string bit_difference(const Tensor& got, const Tensor& want) {
  if (got.type != want.type || !(got.shape == want.shape))
    return std::string("is ") + format(got.type).name + " " + got.shape.text() + ", expected " + format(want.type).name + " " +
           want.shape.text();
  const auto bytes = size_t(bytes_of(want.type, want.cols()));
  for (int64_t i = 0; i < want.rows(); ++i) {
    if (std::memcmp(got.row_bytes(i), want.row_bytes(i), bytes) == 0) continue;
    const std::vector<double> a = elements(got), b = elements(want);
    size_t at = size_t(i * want.cols());
    const size_t end = at + size_t(want.cols());
    while (at + 1 < end && (a[at] == b[at] || (std::isnan(a[at]) && std::isnan(b[at])))) ++at;
    std::ostringstream text;
    text.precision(9);
    text << "bits differ at " << coordinates(want.shape, int64_t(at)) << ": " << a[at] << ", expected " << b[at];
    return text.str();
  }
  return "";
}

// *worst_ratio: the largest error of an element, as a multiple of what is allowed; infinite if it has no size.
inline std::string difference(const Tensor& got, const Tensor& want, Tolerance t, const Tensor* allowed = nullptr,
                              double* worst_ratio = nullptr) {
  const bool counts = (want.type == I32 || want.type == U8) && !allowed;   // whole numbers are equal unless the case says otherwise
  if (got.type != want.type || !(got.shape == want.shape) || counts) {
    std::string text = bit_difference(got, want);
    if (worst_ratio) *worst_ratio = text.empty() ? 0 : std::numeric_limits<double>::infinity();
    return text;
  }
  const std::vector<double> a = elements(got), b = elements(want),
                            extra = allowed ? elements(*allowed) : std::vector<double>(b.size(), 0.0);
  std::ostringstream text;
  text.precision(9);
  if (extra.size() != b.size()) return "the allowed errors are " + allowed->shape.text() + ", the result " + want.shape.text();
  double worst = 0, ab = 0, aa = 0, bb = 0, ee = 0, eebb = 0, count = 0;
  size_t at = 0, wrong = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    double excess;  // error as a multiple of what is allowed
    if (!same_kind(a[i], b[i])) excess = std::numeric_limits<double>::infinity();
    else if (!std::isfinite(b[i])) continue;
    else {
      const double may = t.absolute + t.relative * std::fabs(b[i]) + extra[i], error = std::fabs(a[i] - b[i]);
      excess = error == 0 ? 0 : may > 0 ? error / may : std::numeric_limits<double>::infinity();
      ab += a[i] * b[i], aa += a[i] * a[i], bb += b[i] * b[i], ee += extra[i] * extra[i], eebb += extra[i] * extra[i] * b[i] * b[i],
          ++count;
    }
    if (excess > 1) ++wrong;
    if (excess > worst) worst = excess, at = i;
  }
  if (worst_ratio) *worst_ratio = worst;
  if (wrong > 0) {
    text << wrong << " of " << b.size() << " elements differ; worst at " << coordinates(want.shape, int64_t(at)) << ": " << a[at]
         << ", expected " << b[at] << ", off by " << std::fabs(a[at] - b[at]) << ", " << worst << " times what is allowed";
    return text.str();
  }
  if (want.type == I32) return "";                       // counts differ by whole steps, and may all go one way
  if (bb <= t.absolute * t.absolute * count) return "";  // all-but-zero results have no direction
  // `allowed` is six standard deviations of an error without a lean. Σ error·want then has sqrt(Σ allowed²·want²)/6; twice six of
  // these, since the results of one token share the rounding of its x.
  const double lean = std::fabs(ab / bb - 1), may_lean = t.relative + t.absolute * std::sqrt(count / bb) + 2 * std::sqrt(eebb) / bb;
  if (lean > may_lean) text << "longer or shorter by " << ab / bb - 1 << " as a whole, allowed " << may_lean;
  // Over many elements an error of six deviations in one is under two in the mean.
  const double sure = b.size() >= 64 ? 1.0 / 3 : 1.0, may = t.cosine + 0.5 * sure * sure * ee / bb;
  const double distance = aa > 0 ? 1 - ab / std::sqrt(aa * bb) : 1;
  if (distance > may) text << (lean > may_lean ? "; " : "") << "cosine distance " << distance << ", allowed " << may;
  return text.str();
}

}  // namespace folio
