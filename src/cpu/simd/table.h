// SPDX-License-Identifier: MIT
// struct Simd alone, without library headers: what simd/kernels.cpp may include (see tests/no_weak_symbols.sh).
#pragma once
#include "cpu/simd/attend.h"
#include "cpu/simd/conv.h"
#include "cpu/simd/linear.h"
#include "cpu/simd/log_linear.h"
#include "cpu/simd/matmul.h"
#include "cpu/simd/mesa.h"
#include "cpu/simd/mla.h"

namespace folio {

struct Simd {
  const char* name;      // "plain", "avx2", "avx512", "avx512_bf16", "neon"
  MatmulInner matmul;
  AttendInner attend;
  LinearInner linear;
  LogLinearInner log_linear;
  MesaInner mesa;
  MlaInner mla;
  ConvInner conv;
};

}  // namespace folio
