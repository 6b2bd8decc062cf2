// SPDX-License-Identifier: MIT
// The inner loops, compiled once per instruction set with -DSIMD_NAME=avx2 and so on. Everything in here and in what it
// includes is static and no library header is used: an inline function compiled for AVX-512 and chosen by the linker for
// everybody would crash older processors (numpy #25274). tests/no_weak_symbols.sh checks it.
#include "cpu/simd/table.h"
#include "cpu/simd/vec.h"
// the vectors first
#if FOLIO_SET == FOLIO_SET_avx512_bf16   // avx512 in all but one product: simd.cpp puts it into that set's table
#include "cpu/simd/matmul_panel_inner.h"
// the walk first
#include "cpu/simd/matmul_float_inner.h"

namespace folio {

extern const MatmulFormat matmul_of_bf16;
const MatmulFormat matmul_of_bf16 = matmul_bf16;

}  // namespace folio
#else
#include "cpu/simd/attend_inner.h"
#include "cpu/simd/attend_shared_inner.h"
#include "cpu/simd/conv_inner.h"
#include "cpu/simd/linear_inner.h"
#include "cpu/simd/log_linear_inner.h"
#include "cpu/simd/matmul_inner.h"
#include "cpu/simd/mesa_inner.h"
#include "cpu/simd/mla_inner.h"

#define FOLIO_TEXT(x) #x
#define FOLIO_NAME(x) FOLIO_TEXT(x)
#define FOLIO_PASTE(a, b) a##b
#define FOLIO_SYMBOL(a, b) FOLIO_PASTE(a, b)

namespace folio {

extern const Simd FOLIO_SYMBOL(simd_, SIMD_NAME);
const Simd FOLIO_SYMBOL(simd_, SIMD_NAME) = {FOLIO_NAME(SIMD_NAME), matmul_inner, attend_inner, linear_inner, log_linear_inner, mesa_inner,
                                                mla_inner, conv_inner};

}  // namespace folio
#endif
