// SPDX-License-Identifier: MIT
// Every number format there is, behind one list: its name, how many bytes a block of its elements takes, and the plain
// conversion to and from float that all fast kernels are held against.
//
//   Q8_0     34 bytes: f16 scale d, 32 × i8 q        x = d·q
//   Q4_0     18 bytes: f16 scale d, 16 bytes         x = d·(nibble − 8); byte j holds element j (low) and j + 16 (high)
//   F8_E4M3  68 bytes: f32 scale d, 64 × e4m3 q      x = d·q
// The first two are bit-compatible with GGUF's blocks of the same name.
//
// e4m3 is OCP's e4m3fn: sign, 4 bits of exponent with bias 7, 3 of mantissa; largest 448, no infinity, NaN is 0x7f and 0xff. A scale
// lies in every block, so that a tensor stays one thing with one description, whatever is stacked or cut out of it. It is an f32, for
// checkpoints have theirs in f32, one to a tensor, to a row or to 128×128 weights: bytes and scales carry over as they are. 64 numbers,
// for that divides their 128 and the rows of nearly all models (576, 896, 1600), and makes 8.5 bits a weight, as Q8_0 does; what a
// shorter block would win for int8, e4m3's own exponent does already.
#pragma once
#include <bit>
#include <cstdint>
#include <string_view>

namespace folio {

enum DType : uint8_t { F32, F16, BF16, I32, U8, Q8_0, Q4_0, F8_E4M3 };
inline constexpr int kinds_of_dtype = 8;

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
struct BlockF8_E4M3 { float d; uint8_t q[64]; };
static_assert(sizeof(BlockQ8_0) == 34 && sizeof(BlockQ4_0) == 18 && sizeof(BlockF8_E4M3) == 68);

inline float bf16_to_f32(uint16_t h) { return std::bit_cast<float>(uint32_t(h) << 16); }

// Rounds to nearest, ties to even; NaN stays NaN.
inline uint16_t f32_to_bf16(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return uint16_t(u >> 16 | 64);
  return uint16_t((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f);  // nearest, ties to even; overflow to infinity

float e4m3_to_f32(uint8_t b);
uint8_t f32_to_e4m3(float f);  // nearest, ties to even; what is too large becomes ±448, NaN 0x7f

}  // namespace folio
