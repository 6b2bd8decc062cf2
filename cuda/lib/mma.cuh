// SPDX-License-Identifier: MIT
// Tensor cores of sm_80: ldmatrix, which spreads 8x8 tiles of 16-bit numbers over a warp, and mma.sync, D = A·B + D on the pieces.
// All 32 lanes call together. Lane l holds, with g = l / 4 and t = l % 4 (PTX manual, "Matrix fragments for mma"):
//
//   C, D 16x8   d[i]        row g + 8 (i / 2), column 2t + i % 2
//   A 16x16     word i      rows g + 8 (i % 2), columns 2t and 2t + 1, plus 8 (i / 2)           bf16, f16; row-major
//   B 16x8      word i      rows 2t and 2t + 1, plus 8 i, column g                              column-major: b is [8, 16] by rows
//   A 16x8      word i      row g + 8 (i % 2), column t + 4 (i / 2)                             tf32;  B 8x8: row t + 4 i, column g
//   A 16x32     word i      row g + 8 (i % 2), columns 4t .. 4t + 3, plus 16 (i / 2)            s8;    B 32x8: rows 4t .. + 16 i
#pragma once
#include "cuda/lib/copy.cuh"

namespace folio {

// Fragment i is the tile whose row r lane 8 i + r points at (16 bytes, aligned): of the row l / 4 the pair l % 4; transposed, of
// the column l / 4. Lanes past the last tile may pass anything.
template <int Tiles> FOLIO_DEVICE void ldmatrix(uint32_t (&tile)[Tiles], const void* row, [[maybe_unused]] Here here = {}) {
  static_assert(Tiles == 1 || Tiles == 2 || Tiles == 4);
#ifdef FOLIO_CUDA_SIM
  sim::ldmatrix(tile, Tiles, false, row, here);
#else
  const uint32_t at = shared_address(row);
  if constexpr (Tiles == 4)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(tile[0]), "=r"(tile[1]), "=r"(tile[2]), "=r"(tile[3]) : "r"(at) : "memory");
  else if constexpr (Tiles == 2)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(tile[0]), "=r"(tile[1]) : "r"(at) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(tile[0]) : "r"(at) : "memory");
#endif
}
template <int Tiles> FOLIO_DEVICE void ldmatrix_transposed(uint32_t (&tile)[Tiles], const void* row, [[maybe_unused]] Here here = {}) {
  static_assert(Tiles == 1 || Tiles == 2 || Tiles == 4);
#ifdef FOLIO_CUDA_SIM
  sim::ldmatrix(tile, Tiles, true, row, here);
#else
  const uint32_t at = shared_address(row);
  if constexpr (Tiles == 4)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(tile[0]), "=r"(tile[1]), "=r"(tile[2]), "=r"(tile[3]) : "r"(at) : "memory");
  else if constexpr (Tiles == 2)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];" : "=r"(tile[0]), "=r"(tile[1]) : "r"(at) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(tile[0]) : "r"(at) : "memory");
#endif
}

// The instruction's operands, which are the same words for all four kinds but for D's type.
#define FOLIO_MMA(SHAPE_AND_TYPES, LETTER)                                                                                           \
  asm volatile("mma.sync.aligned." SHAPE_AND_TYPES " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                \
               : LETTER(d[0]), LETTER(d[1]), LETTER(d[2]), LETTER(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

// d[16, 8] += a[16, 16] b[16, 8], products and sums in f32 as the tensor core rounds them.
FOLIO_DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], [[maybe_unused]] Here here = {}) {
  FOLIO_SIM(sim::mma(sim::Mma::bf16, d, a, b, here);)
  FOLIO_GPU(FOLIO_MMA("m16n8k16.row.col.f32.bf16.bf16.f32", "+f");)
}
FOLIO_DEVICE void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], [[maybe_unused]] Here here = {}) {
  FOLIO_SIM(sim::mma(sim::Mma::f16, d, a, b, here);)
  FOLIO_GPU(FOLIO_MMA("m16n8k16.row.col.f32.f16.f16.f32", "+f");)
}
// d[16, 8] += a[16, 8] b[8, 8] of floats cut to 10 bits of mantissa; to_tf32 rounds them first.
FOLIO_DEVICE void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], [[maybe_unused]] Here here = {}) {
  FOLIO_SIM(sim::mma(sim::Mma::tf32, d, a, b, here);)
  FOLIO_GPU(FOLIO_MMA("m16n8k8.row.col.f32.tf32.tf32.f32", "+f");)
}
// d[16, 8] += a[16, 32] b[32, 8] of signed bytes, exact; sums wrap.
FOLIO_DEVICE void mma_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], [[maybe_unused]] Here here = {}) {
  FOLIO_SIM(sim::mma(sim::Mma::s8, d, a, b, here);)
  FOLIO_GPU(FOLIO_MMA("m16n8k32.row.col.s32.s8.s8.s32", "+r");)
}
#undef FOLIO_MMA

}  // namespace folio
