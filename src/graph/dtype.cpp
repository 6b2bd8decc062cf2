// SPDX-License-Identifier: MIT
#include "graph/dtype.h"

#include <cmath>
#include <cstring>

namespace folio {

float f16_to_f32(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ff;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
  if (exponent) return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
  const float tiny = float(fraction) * 0x1p-24f;
  return sign ? -tiny : tiny;
}

uint16_t f32_to_f16(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f), sign = u >> 16 & 0x8000, magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return uint16_t(sign | 0x7e00);
  if (magnitude >= 0x477ff000u) return uint16_t(sign | 0x7c00);  // 65520 and more round to infinity
  if (magnitude < 0x38800000u) {  // below 2^-14: the sum with 0.5 rounds to a multiple of 2^-24, the step of f16's subnormals
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return uint16_t(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1);
  return uint16_t(sign | ((rounded - 0x38000000u) >> 13));
}

// Exponent and fraction in their places of an f32 are 2^120 too small, denormals too: so far do the biases lie apart.
float e4m3_to_f32(uint8_t b) {
  const uint32_t sign = uint32_t(b & 0x80) << 24, magnitude = b & 0x7f;
  if (magnitude == 0x7f) return std::bit_cast<float>(sign | 0x7fc00000u);
  return std::bit_cast<float>(sign | magnitude << 20) * 0x1p120f;
}

uint8_t f32_to_e4m3(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f), sign = u >> 24 & 0x80, magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7f;
  if (magnitude < 0x3c800000u)  // below 2^-6: the sum with 2^14 rounds to a multiple of 2^-9, the step of e4m3's subnormals
    return uint8_t(sign | (std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 16384.0f) - 0x46800000u));
  const uint32_t code = (magnitude + 0x7ffffu + (magnitude >> 20 & 1) - 0x3c000000u) >> 20;
  return uint8_t(sign | (code < 0x7e ? code : 0x7e));
}

namespace {

void f32_to(const void* from, float* to, int64_t n) { std::memcpy(to, from, size_t(n) * 4); }
void f32_from(const float* from, void* to, int64_t n) { std::memcpy(to, from, size_t(n) * 4); }

template <float convert(uint16_t)> void half_to(const void* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = convert(static_cast<const uint16_t*>(from)[i]);
}
template <uint16_t convert(float)> void half_from(const float* from, void* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) static_cast<uint16_t*>(to)[i] = convert(from[i]);
}

// 1/d, or 0 where that is no number: a block whose scale is zero or too small to invert becomes zeros.
float inverse_of(float d) {
  const float inverse = 1.0f / d;
  return std::isfinite(inverse) ? inverse : 0.0f;
}

void q8_to(const void* from, float* to, int64_t n) {
  const auto* block = static_cast<const BlockQ8_0*>(from);
  for (int64_t b = 0; b < n / 32; ++b)
    for (int i = 0; i < 32; ++i) to[b * 32 + i] = f16_to_f32(block[b].d) * float(block[b].q[i]);
}

void q8_from(const float* from, void* to, int64_t n) {
  auto* block = static_cast<BlockQ8_0*>(to);
  for (int64_t b = 0; b < n / 32; ++b) {
    const float* x = from + b * 32;
    float most = 0;
    for (int i = 0; i < 32; ++i) most = std::fmax(most, std::fabs(x[i]));
    const float d = most / 127.0f, inverse = inverse_of(d);
    block[b].d = f32_to_f16(d);
    for (int i = 0; i < 32; ++i) block[b].q[i] = int8_t(std::round(x[i] * inverse));
  }
}

void q4_to(const void* from, float* to, int64_t n) {
  const auto* block = static_cast<const BlockQ4_0*>(from);
  for (int64_t b = 0; b < n / 32; ++b)
    for (int i = 0; i < 16; ++i) {
      const float d = f16_to_f32(block[b].d);
      to[b * 32 + i] = d * float((block[b].q[i] & 15) - 8);
      to[b * 32 + i + 16] = d * float((block[b].q[i] >> 4) - 8);
    }
}

void q4_from(const float* from, void* to, int64_t n) {
  auto* block = static_cast<BlockQ4_0*>(to);
  for (int64_t b = 0; b < n / 32; ++b) {
    const float* x = from + b * 32;
    float widest = 0;  // the element of largest magnitude, with its sign: it becomes −8 exactly
    for (int i = 0; i < 32; ++i)
      if (std::fabs(x[i]) > std::fabs(widest)) widest = x[i];
    const float d = widest / -8.0f, inverse = inverse_of(d);
    auto nibble = [&](float v) { const int q = int(v * inverse + 8.5f); return uint8_t(q > 15 ? 15 : q); };
    block[b].d = f32_to_f16(d);
    for (int i = 0; i < 16; ++i) block[b].q[i] = uint8_t(nibble(x[i]) | nibble(x[i + 16]) << 4);
  }
}

void f8_to(const void* from, float* to, int64_t n) {
  const auto* block = static_cast<const BlockF8_E4M3*>(from);
  for (int64_t b = 0; b < n / 64; ++b)
    for (int i = 0; i < 64; ++i) to[b * 64 + i] = block[b].d * e4m3_to_f32(block[b].q[i]);
}

// The largest finite number becomes ±448; infinities go with it, and NaN stays.
void f8_from(const float* from, void* to, int64_t n) {
  auto* block = static_cast<BlockF8_E4M3*>(to);
  for (int64_t b = 0; b < n / 64; ++b) {
    const float* x = from + b * 64;
    float most = 0;
    for (int i = 0; i < 64; ++i)
      if (std::isfinite(x[i])) most = std::fmax(most, std::fabs(x[i]));
    block[b].d = most / 448.0f;
    const float unit = block[b].d > 0 ? block[b].d : 1.0f;
    for (int i = 0; i < 64; ++i) block[b].q[i] = f32_to_e4m3(x[i] / unit);
  }
}

constexpr Format formats[kinds_of_dtype] = {
    {"f32", 1, 4, f32_to, f32_from},
    {"f16", 1, 2, half_to<f16_to_f32>, half_from<f32_to_f16>},
    {"bf16", 1, 2, half_to<bf16_to_f32>, half_from<f32_to_bf16>},
    {"i32", 1, 4, nullptr, nullptr},
    {"u8", 1, 1, nullptr, nullptr},
    {"q8_0", 32, 34, q8_to, q8_from},
    {"q4_0", 32, 18, q4_to, q4_from},
    {"f8_e4m3", 64, 68, f8_to, f8_from},
};

}  // namespace

const Format& format(DType type) { return formats[type]; }

bool parse_dtype(std::string_view name, DType& type) {
  for (int i = 0; i < kinds_of_dtype; ++i)
    if (name == formats[i].name) {
      type = DType(i);
      return true;
    }
  return false;
}

}  // namespace folio
