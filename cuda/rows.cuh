// SPDX-License-Identifier: MIT
// What kernels that walk over rows have in common: where a row of a strided tensor lies, how the elements of every format are read
// as floats and written from floats, how threads are laid over rows and columns; and the activation functions.
//
// Elements are taken N at a time: four where the launcher has seen that all addresses allow it, else one. The blocks of Q8_0 and
// Q4_0 are aligned to 2 bytes only, so they are read in pieces of 2 bytes at most, four elements of one block at a time if N is 4.
// Those of F8_E4M3 are aligned to 4. Blocks are written by a whole warp, lane i holding element i, or of 64 elements 2 i and 2 i + 1, and
// come out bit for bit as from_float makes them.
#pragma once
#include <algorithm>
#include <bit>
#include <type_traits>

#include "cuda/lib/kernel.cuh"
#include "graph/tensor.h"
#include "ops/elementwise.h"

namespace folio {

// The rows of a tensor, counted over all outer dimensions as Tensor::row_bytes counts them. Dimensions that lie within each other
// without gaps are one level here: most tensors have one, and finding a row takes no division. A tensor of rank 1 has the same row
// for every i.
struct Rows {
  std::byte* data;
  int64_t stride[3];  // of the levels, innermost first, in bytes
  unsigned size[3];
  int levels;

  FOLIO_DEVICE std::byte* row(int64_t i) const {
    if (levels <= 1) return data + i * stride[0];
    const unsigned n = unsigned(i), outer = n / size[0];
    std::byte* const at = data + (n % size[0]) * stride[0];
    if (levels == 2) return at + outer * stride[1];
    return at + outer % size[1] * stride[1] + outer / size[1] * stride[2];
  }
};

inline Rows rows_of(const Tensor& t) {
  check(t.rows() <= INT32_MAX, "cuda: a tensor of shape ", t.shape.text(), " has too many rows");
  Rows rows{t.data, {}, {}, 0};
  for (int d = t.rank() - 2; d >= 0; --d) {
    if (t.dim(d) == 1) continue;
    const int64_t bytes = bytes_of(t.type, t.stride[d]);
    const int last = rows.levels - 1;
    if (last >= 0 && bytes == rows.stride[last] * rows.size[last]) {
      rows.size[last] *= unsigned(t.dim(d));
      continue;
    }
    rows.stride[rows.levels] = bytes;
    rows.size[rows.levels++] = unsigned(t.dim(d));
  }
  return rows;
}

// Whether every row of t begins at a multiple of `bytes`.
inline bool aligned(const Tensor& t, int bytes) {
  bool yes = reinterpret_cast<uintptr_t>(t.data) % uintptr_t(bytes) == 0;
  for (int d = 0; d + 1 < t.rank(); ++d) yes = yes && (t.dim(d) <= 1 || bytes_of(t.type, t.stride[d]) % bytes == 0);
  return yes;
}
// Whether four elements at a time can be read from every row, and of plain numbers also be written.
inline bool by_four(const Tensor& t) {
  const Format& f = format(t.type);
  return t.cols() % 4 == 0 && (f.block > 1 || aligned(t, 4 * f.bytes));
}
inline bool absent_or_by_four(const Tensor& t) { return !t.present() || by_four(t); }

// A launch of threads over rows × columns, N columns to a thread: `across` threads of a block along a row, the rest over rows. Threads
// go on in steps of the grid. By default as many across as a row needs, up to a block.
inline Launch over_rows(int64_t rows, int64_t cols, int n, cudaStream_t stream, unsigned across = 0) {
  constexpr int64_t threads = 256;
  const int64_t units = (cols + n - 1) / n;
  if (across == 0) across = unsigned(std::bit_ceil(uint64_t(std::min(units, threads))));
  const unsigned down = unsigned(threads) / across;
  const int64_t wide = (units + across - 1) / across, high = (rows + down - 1) / down;
  const dim3 grid(unsigned(std::min<int64_t>(wide, INT32_MAX)), unsigned(std::min<int64_t>(high, 65535)));
  return {grid, dim3(across, down), 0, stream};
}
FOLIO_DEVICE int64_t first_row() { return int64_t(blockIdx.y) * blockDim.y + threadIdx.y; }
FOLIO_DEVICE int64_t row_step() { return int64_t(gridDim.y) * blockDim.y; }
template <int N> FOLIO_DEVICE int64_t first_col() { return (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * N; }
template <int N> FOLIO_DEVICE int64_t col_step() { return int64_t(gridDim.x) * blockDim.x * N; }

template <class T> inline constexpr bool is_f8 = std::is_same_v<T, BlockF8_E4M3>;
template <class T> inline constexpr bool is_block = std::is_same_v<T, BlockQ8_0> || std::is_same_v<T, BlockQ4_0> || is_f8<T>;
template <class T> inline constexpr int of_lane = is_f8<T> ? 2 : 1;  // elements of a block, when a warp writes it

// Calls f with a value of the type that a format's elements or blocks are stored as.
template <class F> void with_storage(DType type, F f) {
  switch (type) {
    case F32: return f(float{});
    case F16: return f(f16{});
    case BF16: return f(bf16{});
    case Q8_0: return f(BlockQ8_0{});
    case Q4_0: return f(BlockQ4_0{});
    case F8_E4M3: return f(BlockF8_E4M3{});
    default: fail("cuda: rows of ", format(type).name, " are not numbers");
  }
}

// Elements c .. c + N - 1 of a row.
template <int N, class T> FOLIO_DEVICE void read_plain(float (&x)[N], const std::byte* row, int64_t c, Here here) {
  static_assert(N == 1 || N == 2 || N == 4);
  const std::byte* at = row + c * int64_t(sizeof(T));
  if constexpr (N < 4) {
    for (int j = 0; j < N; ++j) x[j] = to_float(ld_vec<T>(at + j * sizeof(T), here));
  } else if constexpr (sizeof(T) == 4) {
    const auto v = ld_vec<float4>(at, here);
    x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
  } else {
    const auto v = ld_vec<uint2>(at, here);
    const float2 low = std::is_same_v<T, f16> ? unpack_f16(v.x) : unpack_bf16(v.x);
    const float2 high = std::is_same_v<T, f16> ? unpack_f16(v.y) : unpack_bf16(v.y);
    x[0] = low.x, x[1] = low.y, x[2] = high.x, x[3] = high.y;
  }
}
template <int N, class T> FOLIO_DEVICE void read_block(float (&x)[N], const std::byte* row, int64_t c, Here here) {
  const std::byte* block = row + c / 32 * int64_t(sizeof(T));
  const float d = to_float(ld_vec<f16>(block, here));
  constexpr bool bytes = std::is_same_v<T, BlockQ8_0>;
  const int i = int(c % 32);
  const std::byte* at = block + 2 + (bytes ? i : i % 16);
  uint32_t word;
  if constexpr (N == 1) word = ld_vec<uint8_t>(at, here);
  else word = ld_vec<uint16_t>(at, here) | uint32_t(ld_vec<uint16_t>(at + 2, here)) << 16;
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const uint32_t byte = word >> 8 * j & 0xff;
    x[j] = d * float(bytes ? int(int8_t(byte)) : int(i < 16 ? byte & 15 : byte >> 4) - 8);
  }
}
template <int N> FOLIO_DEVICE void read_f8(float (&x)[N], const std::byte* row, int64_t c, Here here) {
  const std::byte *block = row + c / 64 * int64_t(sizeof(BlockF8_E4M3)), *at = block + 4 + c % 64;
  const float d = ld_vec<float>(block, here);
  if constexpr (N == 1) {
    x[0] = d * to_float(e4m3{ld_vec<uint8_t>(at, here)});
  } else {
    const float4 v = unpack_e4m3(ld_vec<uint32_t>(at, here));
    x[0] = d * v.x, x[1] = d * v.y, x[2] = d * v.z, x[3] = d * v.w;
  }
}
template <int N, class T> FOLIO_DEVICE void read(float (&x)[N], const std::byte* row, int64_t c, Here here = {}) {
  if constexpr (is_f8<T>) read_f8(x, row, c, here);
  else if constexpr (is_block<T>) read_block<N, T>(x, row, c, here);
  else read_plain<N, T>(x, row, c, here);
}

// A product that is rounded before anything is added to it.
FOLIO_DEVICE float product(float a, float b) {
  FOLIO_SIM(return a * b;)
  FOLIO_GPU(return __fmul_rn(a, b);)
}

// The inverse of a block's scale, or 0 where that is no number.
FOLIO_DEVICE float inverse_of(float d) {
  const float inverse = 1.0f / d;
  return fabsf(inverse) < INFINITY ? inverse : 0.0f;
}

// Lane i of the warp has element i of the block. NaN counts as 0 for the scale.
FOLIO_DEVICE void write_q8(std::byte* block, float x, Here here) {
  const float d = warp_max(fmaxf(fabsf(x), 0.0f), here) / 127.0f;
  if (lane_id() == 0) st_vec(block, to_f16(d), here);
  st_vec(block + 2 + lane_id(), int8_t(int(roundf(x * inverse_of(d)))), here);
}
FOLIO_DEVICE void write_q4(std::byte* block, float x, Here here) {
  const float size = fmaxf(fabsf(x), 0.0f), most = warp_max(size, here);
  const float widest = __shfl_sync(all_lanes, x, __ffs(int(__ballot_sync(all_lanes, size == most))) - 1);  // the first of its size
  const float d = (most > 0 ? widest : 0.0f) / -8.0f;
  const int q = min(int(product(x, inverse_of(d)) + 8.5f), 15), above = shuffle_xor(q, 16, here);
  if (lane_id() == 0) st_vec(block, to_f16(d), here);
  if (lane_id() < 16) st_vec(block + 2 + lane_id(), uint8_t(q | above << 4), here);
}

FOLIO_DEVICE void write_f8(std::byte* block, float low, float high, Here here) {
  const auto size = [](float x) { return fabsf(x) < INFINITY ? fabsf(x) : 0.0f; };
  const float d = warp_max(fmaxf(size(low), size(high)), here) / 448.0f, unit = d > 0 ? d : 1.0f;
  if (lane_id() == 0) st_vec(block, d, here);
  st_vec(block + 4 + 2 * lane_id(), uint16_t(to_e4m3(low / unit).bits | to_e4m3(high / unit).bits << 8), here);
}

// Writes elements c .. c + N - 1 of a row. Blocks: N is of_lane, and the lanes of the warp have the elements of one block.
template <int N, class T> FOLIO_DEVICE void write(std::byte* row, int64_t c, const float (&x)[N], Here here = {}) {
  static_assert(is_block<T> ? N == of_lane<T> : N == 1 || N == 4);
  std::byte* const at = row + (is_block<T> ? c / (32 * of_lane<T>) : c) * int64_t(sizeof(T));
  if constexpr (std::is_same_v<T, BlockQ8_0>) write_q8(at, x[0], here);
  else if constexpr (std::is_same_v<T, BlockQ4_0>) write_q4(at, x[0], here);
  else if constexpr (is_f8<T>) write_f8(at, x[0], x[1], here);
  else if constexpr (N == 1) st_vec(at, from_float<T>(x[0]), here);
  else if constexpr (sizeof(T) == 4) st_vec(at, make_float4(x[0], x[1], x[2], x[3]), here);
  else if constexpr (std::is_same_v<T, f16>) st_vec(at, make_uint2(pack_f16(x[0], x[1]), pack_f16(x[2], x[3])), here);
  else st_vec(at, make_uint2(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3])), here);
}

// As activate() and beside() of ops/elementwise.h.
FOLIO_DEVICE float activated(Act act, float x) {
  switch (act) {
    case Act::none: return x;
    case Act::relu: return x > 0 ? x : 0;
    case Act::relu2: return x > 0 ? x * x : 0;
    case Act::silu: return x / (1 + expf(-x));
    case Act::gelu: return 0.5f * x * (1 + erff(x * 0.70710678f));
    case Act::gelu_tanh: return 0.5f * x * (1 + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    case Act::swiglu_oai: {
      const float c = x > 7 ? 7 : x;
      return c / (1 + expf(-1.702f * c));
    }
  }
  return x;
}
FOLIO_DEVICE float beside_activated(Act act, float up) {
  return act == Act::swiglu_oai ? (up > 7 ? 7 : up < -7 ? -7 : up) + 1 : up;
}

}  // namespace folio
