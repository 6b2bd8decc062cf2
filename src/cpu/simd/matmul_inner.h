// SPDX-License-Identifier: MIT
// Matmul's inner loops: the products of each format, and what is done to a sum before it is stored.
#pragma once

#include "cpu/simd/matmul_panel_inner.h"
// the walk first
#include "cpu/simd/matmul_float_inner.h"
#include "cpu/simd/matmul_quant_inner.h"

namespace folio {
namespace {

// The numbers of Act (ops/elementwise.h). GELU: x·Φ(x); its tanh form x/2·(1 + tanh z) = x·sigmoid(2z), which keeps its digits for
// large negative x.
template <int act>
FOLIO_INLINE Vec activate(Vec x) {
  if constexpr (act == 1) return max(x, zero());
  if constexpr (act == 2) return max(x, zero()) * max(x, zero());
  if constexpr (act == 3) return x * sigmoid(x);
  if constexpr (act == 4) return x * normal_cdf(x);
  if constexpr (act == 5) return x * sigmoid(splat(1.59576912f) * fma(splat(0.044715f) * x * x, x, x));
  if constexpr (act == 6) {
    const Vec c = min(splat(7), x);   // in this order NaN stays
    return c * sigmoid(splat(1.702f) * c);
  }
  return x;
}
template <int act>
FOLIO_INLINE Vec beside(Vec up) {
  if constexpr (act == 6) return max(splat(-7), min(splat(7), up)) + splat(1);
  return up;
}

template <int act>
void finish_with(const MatmulFinish& f) {
  auto at = [&](int64_t i, auto get, auto put) {
    Vec u = get(f.u + i);
    if (f.bias) u += get(f.bias + i);
    if (f.gate) {
      Vec g = get(f.gate + i);
      if (f.gate_bias) g += get(f.gate_bias + i);
      u = activate<act>(g) * beside<act>(u);
    } else {
      u = activate<act>(u);
    }
    if (f.add) u += get(f.add + i);
    put(f.y + i, u);
  };
  int64_t i = 0;
  for (; i + Vec::lanes <= f.n; i += Vec::lanes) at(i, [](const float* p) { return load(p); }, [](float* p, Vec v) { store(p, v); });
  const int rest = int(f.n - i);
  if (rest > 0) at(i, [&](const float* p) { return load_n(p, rest); }, [&](float* p, Vec v) { store_n(p, v, rest); });
}

void matmul_finish(const MatmulFinish& f) {
  switch (f.act) {
    case 1: return finish_with<1>(f);
    case 2: return finish_with<2>(f);
    case 3: return finish_with<3>(f);
    case 4: return finish_with<4>(f);
    case 5: return finish_with<5>(f);
    case 6: return finish_with<6>(f);
    default: return finish_with<0>(f);
  }
}

constexpr MatmulInner matmul_inner = {matmul_f32, matmul_f16, matmul_bf16, matmul_q8_0, matmul_q4_0, matmul_f8, matmul_finish};

}  // namespace
}  // namespace folio
