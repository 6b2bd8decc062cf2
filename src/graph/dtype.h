// SPDX-License-Identifier: MIT
// Every number format there is, behind one list: its name, how many bytes a block of its elements takes, and the plain
// conversion to and from float that all fast kernels are held against.
//
//   Q8_0   34 bytes: f16 scale d, 32 × i8 q          x = d·q
//   Q4_0   18 bytes: f16 scale d, 16 bytes           x = d·(nibble − 8); byte j holds element j (low) and j + 16 (high)
// Both are bit-compatible with GGUF's blocks of the same name.
#pragma once
#include <bit>
#include <cstdint>
#include <string_view>

namespace folio {

enum DType : uint8_t { F32, F16, BF16, I32, U8, Q8_0, Q4_0 };
inline constexpr int kinds_of_dtype = 7;

struct Format {
  const char* name;
  int block;  // elements in a block; 1 for plain numbers
  int bytes;  // bytes of a block
  // n is a multiple of `block`. Null for I32 and U8.
  void (*to_float)(const void* from, float* to, int64_t n);
  void (*from_float)(const float* from, void* to, int64_t n);
};

const Format& format(DType type);
bool parse_dtype(std::string_view name, DType& type);  // false if there is no such format

// Bytes of n elements; n must be a multiple of the block.
inline int64_t bytes_of(DType type, int64_t n) {
  const Format& f = format(type);
  return f.block == 1 ? n * f.bytes : n / f.block * f.bytes;
}

struct BlockQ8_0 { uint16_t d; int8_t q[32]; };
struct BlockQ4_0 { uint16_t d; uint8_t q[16]; };
static_assert(sizeof(BlockQ8_0) == 34 && sizeof(BlockQ4_0) == 18);

inline float bf16_to_f32(uint16_t h) { return std::bit_cast<float>(uint32_t(h) << 16); }

// Rounds to nearest, ties to even; NaN stays NaN.
inline uint16_t f32_to_bf16(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return uint16_t(u >> 16 | 64);
  return uint16_t((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f);  // nearest, ties to even; overflow to infinity

}  // namespace folio
