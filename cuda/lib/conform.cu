// SPDX-License-Identifier: MIT
// The conformance program: every operation of cuda/lib whose meaning the simulator emulates (fragments of tensor cores, copies,
// descriptors, conversions), on random numbers, against plain loops on the host. Where a chip disagrees, the simulator is wrong and is
// mended before anything else. Prints a line for each operation; exit code 1 if one is WRONG, 0 without a GPU, where it says so.
#include "cuda/lib/conform.h"

#include <cmath>
#include <cstdio>
#include <functional>

#include "base/random.h"
#include "cuda/lib/buffer.h"
#include "cuda/lib/hopper.cuh"
#include "cuda/lib/kernel.cuh"

namespace folio {

namespace {

// --- Numbers on the host.

std::vector<uint32_t> words(int64_t n, uint64_t seed) {
  std::vector<uint32_t> all(static_cast<size_t>(n));
  for (size_t i = 0; i < all.size(); ++i) all[i] = philox(seed, i / 4, 0).word[i % 4];
  return all;
}

// Floating point with that many bits of exponent and mantissa, its value.
double decoded(uint32_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1, exponent = int(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = int(bits) & ((1 << mantissa_bits) - 1);
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, 1 - bias - mantissa_bits)
                                         : std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
  return bits >> (exponent_bits + mantissa_bits) & 1 ? -magnitude : magnitude;
}
double bf16_value(uint32_t bits) { return decoded(bits, 8, 7); }
double f16_value(uint32_t bits) { return decoded(bits, 5, 10); }

// Whether `bits` is the number nearest to x, the even one of two; x is within the format's range.
bool nearest(uint32_t bits, double x, int exponent_bits, int mantissa_bits) {
  const uint32_t magnitude = bits & ((1u << (exponent_bits + mantissa_bits)) - 1);
  const auto error = [&](uint32_t code) { return std::fabs(decoded(code, exponent_bits, mantissa_bits) - std::fabs(x)); };
  const double mine = error(magnitude), above = error(magnitude + 1), below = magnitude ? error(magnitude - 1) : INFINITY;
  const bool even = magnitude % 2 == 0;
  return (mine < above || (mine == above && even)) && (mine < below || (mine == below && even));
}

// 16-bit numbers between -1 and 1 with few bits, so that sums of products are exact in float: layouts are what is tested.
std::vector<uint16_t> halves(int64_t n, uint64_t seed, bool f16_bits) {
  std::vector<uint16_t> all;
  for (uint32_t w : words(n, seed)) {
    const int eighths = int(w % 17) - 8;
    const auto u = bits_of(float(eighths) / 8);
    if (!f16_bits) all.push_back(uint16_t(u >> 16));
    else all.push_back(eighths == 0 ? 0 : uint16_t((u >> 16 & 0x8000) | (((u >> 23 & 255) - 112) << 10) | (u >> 13 & 1023)));
  }
  return all;
}

template <class T> double wrong(const std::vector<T>& got, const std::function<T(int64_t)>& want) {
  double n = 0;
  for (size_t i = 0; i < got.size(); ++i) n += !(got[i] == want(int64_t(i)));
  return n;
}

// --- Warps.

__global__ void shuffles(int* out) {
  const int lane = lane_id();
  int n = 0;
  for (int width = 4; width <= 32; width *= 2) {
    out[n++ * 32 + lane] = __shfl_sync(all_lanes, lane, lane * 3 + 1, width);
    out[n++ * 32 + lane] = __shfl_up_sync(all_lanes, lane, 3, width);
    out[n++ * 32 + lane] = __shfl_down_sync(all_lanes, lane, 3, width);
    out[n++ * 32 + lane] = __shfl_xor_sync(all_lanes, lane, 3, width);
  }
  out[n * 32 + lane] = int(__ballot_sync(all_lanes, lane % 3 == 0));
}

double try_shuffles() {
  Buffer<int> out(17 * 32);
  launch<shuffles>({1, 32, 0, nullptr}, out.data());
  return wrong<int>(out.read(), [](int64_t i) {
    const int lane = int(i % 32), width = 4 << i / 128, first = lane / width * width;
    if (i >= 512) return 0x49249249;
    switch (i / 32 % 4) {
      case 0: return first + (lane * 3 + 1) % width;
      case 1: return lane - 3 < first ? lane : lane - 3;
      case 2: return lane + 3 >= first + width ? lane : lane + 3;
    }
    return lane ^ 3;
  });
}

constexpr int pitch = 40;  // of rows in shared memory, so that no two start in the same banks

template <int Tiles, bool Transposed> __global__ void load_tiles(const uint16_t* x, uint32_t* out) {
  Smem shared = Smem::here();
  uint16_t* rows = shared.take<uint16_t>(32 * pitch);
  for (int i = lane_id(); i < 32 * pitch; i += 32) rows[i] = x[i];
  __syncwarp();
  uint32_t tile[Tiles];
  if constexpr (Transposed) ldmatrix_transposed(tile, rows + lane_id() * pitch + 8);
  else ldmatrix(tile, rows + lane_id() * pitch + 8);
  for (int i = 0; i < Tiles; ++i) out[lane_id() * Tiles + i] = tile[i];
}

template <int Tiles, bool Transposed> double try_ldmatrix() {
  const auto x = halves(32 * pitch, 3, false);
  const Buffer<uint16_t> in(x);
  Buffer<uint32_t> out(32 * Tiles);
  launch<load_tiles<Tiles, Transposed>>({1, 32, 32 * pitch * 2, nullptr}, in.data(), out.data());
  return wrong<uint32_t>(out.read(), [&](int64_t i) {
    const auto lane = int(i / Tiles), tile = int(i % Tiles);
    const auto at = [&](int row, int column) -> uint32_t { return x[size_t((tile * 8 + row) * pitch + 8 + column)]; };
    const int r = lane / 4, c = lane % 4 * 2;
    return Transposed ? at(c, r) | at(c + 1, r) << 16 : at(r, c) | at(r, c + 1) << 16;
  });
}

enum class Kind { bf16, f16, tf32, s8 };

// A [16, 32 bytes] and B transposed [8, 32 bytes], whatever the numbers are.
template <Kind K> __global__ void multiply(const uint32_t* a, const uint32_t* b, uint32_t* d) {
  const int lane = lane_id(), g = lane / 4, t = lane % 4;
  uint32_t fa[4], fb[2];
  for (int i = 0; i < 4; ++i) fa[i] = a[(g + i % 2 * 8) * 8 + t + i / 2 * 4];
  for (int i = 0; i < 2; ++i) fb[i] = b[g * 8 + t + i * 4];
  float f[4] = {1, 2, 3, 4};
  int32_t n[4] = {1, 2, 3, 4};
  if constexpr (K == Kind::bf16) mma_bf16(f, fa, fb);
  if constexpr (K == Kind::f16) mma_f16(f, fa, fb);
  if constexpr (K == Kind::tf32) mma_tf32(f, fa, fb);
  if constexpr (K == Kind::s8) mma_s8(n, fa, fb);
  for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = K == Kind::s8 ? uint32_t(n[i]) : __float_as_uint(f[i]);
}

template <Kind K> double element(const std::vector<uint32_t>& m, int row, int k) {
  const uint32_t* words = m.data() + row * 8;
  if (K == Kind::s8) return int8_t(words[k / 4] >> k % 4 * 8);
  if (K == Kind::tf32) return float_of(words[k]);
  const uint32_t bits = words[k / 2] >> k % 2 * 16 & 0xffff;
  return K == Kind::bf16 ? bf16_value(bits) : f16_value(bits);
}

template <Kind K> double try_mma() {
  auto a = words(16 * 8, 4), b = words(8 * 8, 5);
  for (auto* m : {&a, &b})
    for (uint32_t& w : *m) {
      if (K == Kind::tf32) w = bits_of(float(int(w % 257) - 128) / 64);
      if (K == Kind::bf16 || K == Kind::f16) {
        const auto pair = halves(2, w, K == Kind::f16);
        w = pair[0] | uint32_t(pair[1]) << 16;
      }
    }
  const Buffer<uint32_t> in_a(a), in_b(b);
  Buffer<uint32_t> out(128);
  launch<multiply<K>>({1, 32, 0, nullptr}, in_a.data(), in_b.data(), out.data());
  constexpr int depth = K == Kind::s8 ? 32 : K == Kind::tf32 ? 8 : 16;
  return wrong<uint32_t>(out.read(), [&](int64_t i) {
    const auto row = int(i / 8), column = int(i % 8);
    double sum = 1 + row / 8 * 2 + column % 2;
    for (int k = 0; k < depth; ++k) sum += element<K>(a, row, k) * element<K>(b, column, k);
    return K == Kind::s8 ? uint32_t(int32_t(sum)) : bits_of(float(sum));
  });
}

// --- Conversions and functions of one number.

__global__ void convert(const float* x, uint32_t* out, int n) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  out[i] = to_bf16(x[i]).bits;
  out[n + i] = to_f16(x[i]).bits;
  out[2 * n + i] = to_e4m3(x[i]).bits;
  out[3 * n + i] = to_tf32(x[i]);
}

double try_conversions() {
  std::vector<float> x;
  for (uint32_t w : words(4096, 6)) x.push_back(float_of((w & 0x807fffffu) | (127 - 14 + w / 8192 % 23) << 23));  // 2^-14 .. 2^8
  for (float tie : {1.0625f, 1.1875f, 0.0009765625f, 0.0029296875f, 448.0f, 460.0f, 464.0f, 1e6f, -1e6f, 0.0f}) x.push_back(tie);
  const auto n = int(x.size());
  const Buffer<float> in(x);
  Buffer<uint32_t> out(4 * n);
  launch<convert>({unsigned(n + 127) / 128, 128, 0, nullptr}, in.data(), out.data(), n);
  const auto got = out.read();
  double bad = 0;
  for (int i = 0; i < n; ++i) {
    const float f = x[size_t(i)];
    const auto bits = [&](int which) { return got[size_t(which * n + i)]; };
    bad += !nearest(bits(0), f, 8, 7);
    if (std::fabs(f) < 65504) bad += !nearest(bits(1), f, 5, 10);
    if (std::fabs(f) <= 448) bad += !nearest(bits(2), f, 4, 3);
    else bad += (bits(2) & 0x7f) != 0x7e;
    const double cut = float_of(bits(3));
    bad += (bits(3) & 0x1fff) != 0 || std::fabs(cut - f) > std::ldexp(std::fabs(f), -11);
  }
  return bad;
}

__global__ void decode(float* out) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = to_float(bf16{uint16_t(i)});
  out[65536 + i] = to_float(f16{uint16_t(i)});
  if (i < 256) out[131072 + i] = to_float(e4m3{uint8_t(i)});
  if (i >= 256) return;
  const float4 four = unpack_e4m3(i * 0x01010101u ^ 0x00804001u);  // other bytes in every place
  out[131328 + i] = four.x, out[131584 + i] = four.y, out[131840 + i] = four.z, out[132096 + i] = four.w;
}

double try_decoding() {
  Buffer<float> out(131072 + 5 * 256);
  launch<decode>({512, 128, 0, nullptr}, out.data());
  const auto got = out.read();
  double bad = 0;
  for (uint32_t i = 0; i < 65536; ++i) {
    if ((i >> 7 & 255) != 255) bad += got[i] != float(bf16_value(i));
    if ((i >> 10 & 31) != 31) bad += got[65536 + i] != float(f16_value(i));
    const uint32_t code[5] = {i, i ^ 0x01, i ^ 0x40, i ^ 0x80, i};
    for (uint32_t j = 0; j < 5 && i < 256; ++j) {
      const float f = got[131072 + 256 * j + i];
      bad += (code[j] & 127) == 127 ? !std::isnan(f) : f != float(decoded(code[j], 4, 3));
    }
  }
  return bad;
}

__global__ void fast_functions(const float* x, float* out) {
  const int i = int(threadIdx.x);
  out[i] = exp2_fast(x[i]);
  out[256 + i] = log2_fast(exp2f(x[i]));
  out[512 + i] = rsqrt_fast(exp2f(x[i]));
  out[768 + i] = rcp_fast(exp2f(x[i]));
  out[1024 + i] = tanh_fast(x[i]);
}

double try_fast_functions() {
  std::vector<float> x;
  for (uint32_t w : words(256, 7)) x.push_back(float(w >> 8) * 0x1p-24f * 20 - 10);
  const Buffer<float> in(x);
  Buffer<float> out(5 * 256);
  launch<fast_functions>({1, 256, 0, nullptr}, in.data(), out.data());
  const auto got = out.read();
  double worst = 0;
  for (size_t i = 0; i < 256; ++i) {
    const double v = x[i], e = std::exp2(v);
    worst = std::fmax(worst, std::fabs(got[i] / e - 1) / 4e-7);
    worst = std::fmax(worst, std::fabs(got[256 + i] - v) / 2e-6);
    worst = std::fmax(worst, std::fabs(got[512 + i] * std::sqrt(e) - 1) / 4e-7);
    worst = std::fmax(worst, std::fabs(got[768 + i] * e - 1) / 4e-7);
    worst = std::fmax(worst, std::fabs(got[1024 + i] - std::tanh(v)) / 1e-3);
  }
  return worst;
}

__global__ void dot_bytes(const uint32_t* x, int* out) {
  const int i = int(threadIdx.x);
  out[i] = __dp4a(int(x[i]), int(x[32 + i]), i) + int(__byte_perm(x[i], x[32 + i], 0x6210) & 0xff);
}

double try_dot_bytes() {
  const auto x = words(64, 8);
  const Buffer<uint32_t> in(x);
  Buffer<int> out(32);
  launch<dot_bytes>({1, 32, 0, nullptr}, in.data(), out.data());
  return wrong<int>(out.read(), [&](int64_t i) {
    int sum = int(i) + int(x[size_t(i)] & 0xff);
    for (int j = 0; j < 4; ++j) sum += int8_t(x[size_t(i)] >> 8 * j) * int8_t(x[size_t(32 + i)] >> 8 * j);
    return sum;
  });
}

// --- cp.async: thread i takes i % (Bytes + 1) bytes.

template <int Bytes> __global__ void copy_some(const uint8_t* x, uint8_t* out) {
  FOLIO_SHARED(uint4, place, [128]);
  uint8_t* mine = reinterpret_cast<uint8_t*>(place) + threadIdx.x * Bytes;
  cp_async_part<Bytes>(mine, x + threadIdx.x * Bytes, int(threadIdx.x % (Bytes + 1)));
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  const uint8_t* other = reinterpret_cast<uint8_t*>(place) + (127 - threadIdx.x) * Bytes;
  for (int i = 0; i < Bytes; ++i) out[(127 - threadIdx.x) * Bytes + i] = other[i];
}

template <int Bytes> double try_cp_async() {
  std::vector<uint8_t> x;
  for (uint32_t w : words(128 * Bytes, 9)) x.push_back(uint8_t(w | 1));
  const Buffer<uint8_t> in(x);
  Buffer<uint8_t> out(128 * Bytes);
  launch<copy_some<Bytes>>({1, 128, 0, nullptr}, in.data(), out.data());
  return wrong<uint8_t>(out.read(), [&](int64_t i) { return i % Bytes < i / Bytes % (Bytes + 1) ? x[size_t(i)] : uint8_t(0); });
}

// --- TMA.

uint32_t swizzle_place(uint32_t byte, Swizzle s) {  // of a tile that begins at the swizzle's pattern
  const int width = width_of(s);
  return width ? byte ^ (byte >> 7 & uint32_t(width / 16 - 1)) << 4 : byte;
}

struct Corner { int c[5]; };

template <class T, int Rank> __global__ void load_box(const __grid_constant__ TensorMap map, T* out, int count, Corner corner) {
#if FOLIO_SM90
  Smem shared = Smem::here();
  T* box = shared.take<T>(count, 1024);
  uint64_t* full = shared.take<uint64_t>(1);
  if (threadIdx.x == 0) {
    mbarrier_init(full, 1);
    mbarrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    int at[Rank];
    for (int i = 0; i < Rank; ++i) at[i] = corner.c[i];
    mbarrier_expect(full, unsigned(count * int(sizeof(T))));
    tma_load(box, map, full, at);
  }
  mbarrier_wait(full, 0);
  for (int i = int(threadIdx.x); i < count; i += int(blockDim.x)) out[i] = box[i];
#endif
}

template <class T, int Rank> __global__ void store_box(const __grid_constant__ TensorMap map, const T* in, int count, Corner corner) {
#if FOLIO_SM90
  Smem shared = Smem::here();
  T* box = shared.take<T>(count, 1024);
  for (int i = int(threadIdx.x); i < count; i += int(blockDim.x)) box[i] = in[i];
  fence_async_proxy();
  __syncthreads();
  if (threadIdx.x == 0) {
    int at[Rank];
    for (int i = 0; i < Rank; ++i) at[i] = corner.c[i];
    tma_store(map, box, at);
    bulk_commit();
    bulk_wait_read<0>();
  }
#endif
}

// A tensor of uneven extents, a box that leaves it on all sides, both ways.
template <class T, int Rank> double try_tma(Swizzle swizzle) {
  const int inner = swizzle == Swizzle::none ? 32 / int(sizeof(T)) : width_of(swizzle) / int(sizeof(T));
  const int64_t extent[5] = {inner * 2 + 16 / int64_t(sizeof(T)), 7, 5, 3, 2};
  const int box[5] = {inner, 8, 4, 2, 2};
  int64_t stride[5] = {sizeof(T)}, elements = extent[0];
  int count = box[0];
  for (int i = 1; i < Rank; ++i) {
    stride[i] = stride[i - 1] * extent[i - 1];
    elements *= extent[i];
    count *= box[i];
  }
  std::vector<T> x;
  for (uint32_t w : words(elements, 10)) x.push_back(T{decltype(T::bits)(w | 1)});
  Buffer<T> tensor(x), tile(count);
  const auto map = [&]() -> TensorMap {
    if constexpr (Rank == 1) return tensor_map(tensor.data(), {extent[0]}, {}, {box[0]}, swizzle);
    if constexpr (Rank == 2) return tensor_map(tensor.data(), {extent[0], extent[1]}, {stride[1]}, {box[0], box[1]}, swizzle);
    if constexpr (Rank == 3)
      return tensor_map(tensor.data(), {extent[0], extent[1], extent[2]}, {stride[1], stride[2]}, {box[0], box[1], box[2]}, swizzle);
    if constexpr (Rank == 4)
      return tensor_map(tensor.data(), {extent[0], extent[1], extent[2], extent[3]}, {stride[1], stride[2], stride[3]},
                        {box[0], box[1], box[2], box[3]}, swizzle);
    return tensor_map(tensor.data(), {extent[0], extent[1], extent[2], extent[3], extent[4]}, {stride[1], stride[2], stride[3], stride[4]},
                      {box[0], box[1], box[2], box[3], box[4]}, swizzle);
  }();
  // Which element of the tensor lies at place i of the box; -1: none.
  const auto source = [&](int64_t i, const Corner& corner) {
    int64_t offset = 0, step = 1;
    for (int d = 0; d < Rank; ++d) {
      const int64_t at = corner.c[d] + i % box[d];
      if (at < 0 || at >= extent[d]) return int64_t(-1);
      offset += at * step;
      step *= extent[d];
      i /= box[d];
    }
    return offset;
  };
  double bad = 0;
  for (const Corner& corner : {Corner{{0, 0, 0, 0, 0}}, Corner{{-int(8 / sizeof(T)), -3, 2, -1, 1}}, Corner{{inner + 8, 4, -2, 2, -1}}}) {
    const Launch at{1, 64, size_t(count) * sizeof(T) + 16, nullptr};
    launch<load_box<T, Rank>>(at, map, tile.data(), count, corner);
    const auto got = tile.read();
    for (int64_t i = 0; i < count; ++i) {
      const int64_t from = source(i, corner);
      const uint32_t place = swizzle_place(uint32_t(i) * uint32_t(sizeof(T)), swizzle) / uint32_t(sizeof(T));
      bad += got[place].bits != (from < 0 ? 0 : x[size_t(from)].bits);
    }
    Buffer<T> other(elements);
    const std::vector<T> untouched = other.read();
    // The same map on other memory: build it again on `tensor`, cleared.
    cuda_check(cudaMemcpy(tensor.data(), other.data(), size_t(elements) * sizeof(T), cudaMemcpyDeviceToDevice), "clear");
    launch<store_box<T, Rank>>(at, map, static_cast<const T*>(tile.data()), count, corner);
    std::vector<T> want = untouched;
    for (int64_t i = 0; i < count; ++i)
      if (const int64_t to = source(i, corner); to >= 0) want[size_t(to)] = x[size_t(to)];
    const auto stored = tensor.read();
    for (size_t i = 0; i < want.size(); ++i) bad += stored[i].bits != want[i].bits;
    tensor.write(x);
  }
  return bad;
}

__global__ void bulk_both_ways(const uint32_t* x, uint32_t* out) {
#if FOLIO_SM90
  Smem shared = Smem::here();
  uint32_t* place = shared.take<uint32_t>(256, 128);
  uint64_t* full = shared.take<uint64_t>(1);
  if (threadIdx.x == 0) {
    mbarrier_init(full, 33);
    mbarrier_init_fence();
  }
  __syncthreads();
  for (unsigned turn = 0; turn < 2; ++turn) {  // both parities
    if (threadIdx.x == 0) {
      mbarrier_expect(full, 1024);
      bulk_load(place, x + turn * 256, 1024, full);
    }
    mbarrier_arrive(full);
    mbarrier_wait(full, turn);
    for (int i = int(threadIdx.x); i < 256; i += 32) place[i] ^= 5;
    fence_async_proxy();
    __syncwarp();
    if (threadIdx.x == 0) {
      bulk_store(out + turn * 256, place, 1024);
      bulk_commit();
      bulk_wait_read<0>();
    }
    __syncwarp();
  }
#endif
}

double try_bulk() {
  const auto x = words(512, 11);
  const Buffer<uint32_t> in(x);
  Buffer<uint32_t> out(512);
  launch<bulk_both_ways>({1, 32, 1024 + 16, nullptr}, in.data(), out.data());
  return wrong<uint32_t>(out.read(), [&](int64_t i) { return x[size_t(i)] ^ 5; });
}

// --- wgmma. The host lays the operands out as their descriptors say; the kernel copies these images as they are.

// k of one tile.
__host__ __device__ constexpr int depth_of(Swizzle s) { return s == Swizzle::none ? 32 : width_of(s) / 2; }

template <Swizzle S> std::vector<uint16_t> image(const std::vector<uint16_t>& x, int rows, Major major) {  // x[rows, depth]
  constexpr int depth = depth_of(S), width = width_of(S);
  std::vector<uint16_t> all(x.size());
  for (int r = 0; r < rows; ++r)
    for (int k = 0; k < depth; ++k) {
      int byte;
      if constexpr (width == 0)
        byte = (r / 8 * (depth / 8) + k / 8) * 128 + (major == Major::k ? r % 8 * 16 + k % 8 * 2 : k % 8 * 16 + r % 8 * 2);
      else byte = major == Major::k ? r * width + 2 * k : r / (width / 2) * depth * width + k * width + r % (width / 2) * 2;
      all[swizzle_place(uint32_t(byte), S) / 2] = x[size_t(r * depth + k)];
    }
  return all;
}

template <int N, Swizzle S, Major A, Major B, class T, bool Registers>
__global__ void __launch_bounds__(128) product(const uint16_t* a_image, const uint16_t* b_image, const uint16_t* a, float* d) {
#if FOLIO_SM90
  constexpr int depth = depth_of(S), width = width_of(S);
  constexpr unsigned leading = width ? depth * width : 128, stride = width ? 8 * width : depth / 8 * 128;
  constexpr int step_k = width ? 32 : 256, step_mn = width ? 16 * width : 256;  // bytes to the next 16 of k
  Smem shared = Smem::here();
  uint16_t* a_tile = shared.take<uint16_t>(64 * depth, 1024);
  uint16_t* b_tile = shared.take<uint16_t>(N * depth, 1024);
  for (int i = int(threadIdx.x); i < 64 * depth; i += 128) a_tile[i] = a_image[i];
  for (int i = int(threadIdx.x); i < N * depth; i += 128) b_tile[i] = b_image[i];
  fence_async_proxy();
  __syncthreads();
  const int row = warp_id() * 16 + lane_id() / 4, t = lane_id() % 4;
  uint32_t fragment[depth / 16][4];
#pragma unroll
  for (int k = 0; k < depth / 16; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) memcpy(&fragment[k][i], a + (row + i % 2 * 8) * depth + k * 16 + 2 * t + i / 2 * 8, 4);
  float sum[N / 2];
#pragma unroll
  for (int i = 0; i < N / 2; ++i) sum[i] = 1;
  wgmma_pin(sum);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < depth / 16; ++k) {
    const uint64_t from_b = wgmma_descriptor(b_tile + k * (B == Major::k ? step_k : step_mn) / 2, leading, stride, S);
    if constexpr (Registers) wgmma<B, T>(sum, fragment[k], from_b, k > 0);
    else wgmma<A, B, T>(sum, wgmma_descriptor(a_tile + k * (A == Major::k ? step_k : step_mn) / 2, leading, stride, S), from_b, k > 0);
  }
  wgmma_commit();
  wgmma_wait<0>();
  wgmma_pin(sum);
#pragma unroll
  for (int i = 0; i < N / 2; ++i) d[(row + i / 2 % 2 * 8) * N + i / 4 * 8 + 2 * t + i % 2] = sum[i];
#endif
}

template <int N, Swizzle S = Swizzle::bytes128, Major A = Major::k, Major B = Major::k, class T = bf16, bool Registers = false>
double try_wgmma() {
  constexpr int depth = depth_of(S);
  constexpr bool half = std::is_same_v<T, f16>;
  const auto a = halves(64 * depth, 12, half), b = halves(N * depth, 13, half);
  const Buffer<uint16_t> a_image(image<S>(a, 64, A)), b_image(image<S>(b, N, B)), a_rows(a);
  Buffer<float> d(64 * N);
  Smem shared;
  shared.take<uint16_t>(64 * depth, 1024);
  shared.take<uint16_t>(N * depth, 1024);
  launch<product<N, S, A, B, T, Registers>>({1, 128, shared.bytes(), nullptr}, a_image.data(), b_image.data(), a_rows.data(), d.data());
  return wrong<float>(d.read(), [&](int64_t i) {
    double sum = 0;
    for (int k = 0; k < depth; ++k) {
      const uint32_t x = a[size_t(i / N * depth + k)], y = b[size_t(i % N * depth + k)];
      sum += half ? f16_value(x) * f16_value(y) : bf16_value(x) * bf16_value(y);
    }
    return float(sum);
  });
}

void portable(std::vector<Conformity>& all) {
  all.push_back({"shuffles and ballot", try_shuffles(), 0});
  all.push_back({"ldmatrix x1", try_ldmatrix<1, false>(), 0});
  all.push_back({"ldmatrix x2", try_ldmatrix<2, false>(), 0});
  all.push_back({"ldmatrix x4", try_ldmatrix<4, false>(), 0});
  all.push_back({"ldmatrix x1 transposed", try_ldmatrix<1, true>(), 0});
  all.push_back({"ldmatrix x2 transposed", try_ldmatrix<2, true>(), 0});
  all.push_back({"ldmatrix x4 transposed", try_ldmatrix<4, true>(), 0});
  all.push_back({"mma bf16", try_mma<Kind::bf16>(), 0});
  all.push_back({"mma f16", try_mma<Kind::f16>(), 0});
  all.push_back({"mma tf32", try_mma<Kind::tf32>(), 0});
  all.push_back({"mma s8", try_mma<Kind::s8>(), 0});
  all.push_back({"float to bf16, f16, e4m3, tf32", try_conversions(), 0});
  all.push_back({"bf16, f16, e4m3 to float", try_decoding(), 0});
  all.push_back({"exp2, log2, rsqrt, rcp, tanh", try_fast_functions(), 1});
  all.push_back({"dp4a and byte_perm", try_dot_bytes(), 0});
  all.push_back({"cp.async of 4 bytes", try_cp_async<4>(), 0});
  all.push_back({"cp.async of 8 bytes", try_cp_async<8>(), 0});
  all.push_back({"cp.async of 16 bytes", try_cp_async<16>(), 0});
}

void hopper(std::vector<Conformity>& all) {
  constexpr auto none = Swizzle::none, s128 = Swizzle::bytes128, s64 = Swizzle::bytes64, s32 = Swizzle::bytes32;
  constexpr auto k = Major::k, mn = Major::mn;
  all.push_back({"TMA 1-D", try_tma<bf16, 1>(none), 0});
  all.push_back({"TMA 2-D, swizzle 128", try_tma<bf16, 2>(s128), 0});
  all.push_back({"TMA 2-D, swizzle 64, bytes", try_tma<e4m3, 2>(s64), 0});
  all.push_back({"TMA 3-D, swizzle 32", try_tma<f16, 3>(s32), 0});
  all.push_back({"TMA 4-D", try_tma<bf16, 4>(none), 0});
  all.push_back({"TMA 5-D, swizzle 128", try_tma<bf16, 5>(s128), 0});
  all.push_back({"bulk copies, mbarrier parity", try_bulk(), 0});
  all.push_back({"wgmma n64", try_wgmma<64>(), 0});
  all.push_back({"wgmma n8", try_wgmma<8>(), 0});
  all.push_back({"wgmma n96", try_wgmma<96>(), 0});
  all.push_back({"wgmma n176", try_wgmma<176>(), 0});
  all.push_back({"wgmma n256", try_wgmma<256>(), 0});
  all.push_back({"wgmma n256, A in registers", try_wgmma<256, s128, k, k, bf16, true>(), 0});
  all.push_back({"wgmma f16", try_wgmma<64, s128, k, k, f16>(), 0});
  all.push_back({"wgmma f16, A in registers", try_wgmma<64, s128, k, k, f16, true>(), 0});
  all.push_back({"wgmma f16, A M-major, B N-major", try_wgmma<64, s128, mn, mn, f16>(), 0});
  all.push_back({"wgmma swizzle 64", try_wgmma<64, s64>(), 0});
  all.push_back({"wgmma swizzle 32", try_wgmma<64, s32>(), 0});
  all.push_back({"wgmma no swizzle", try_wgmma<64, none>(), 0});
  all.push_back({"wgmma B N-major", try_wgmma<128, s128, k, mn>(), 0});
  all.push_back({"wgmma A M-major", try_wgmma<64, s128, mn, k>(), 0});
  all.push_back({"wgmma A in registers, B N-major", try_wgmma<128, s128, k, mn, bf16, true>(), 0});
  all.push_back({"wgmma B N-major, swizzle 64", try_wgmma<64, s64, k, mn>(), 0});
  all.push_back({"wgmma both M/N-major, swizzle 32", try_wgmma<32, s32, mn, mn>(), 0});
  all.push_back({"wgmma both M/N-major, no swizzle", try_wgmma<32, none, mn, mn>(), 0});
}

}  // namespace

std::vector<Conformity> conformance(int compute_capability) {
  std::vector<Conformity> all;
  portable(all);
  if (compute_capability == 90) hopper(all);
  return all;
}

}  // namespace folio

#ifndef FOLIO_CUDA_SIM
int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::puts("conform: no GPU here, nothing was compared");
    return 0;
  }
  try {
    cudaDeviceProp properties;
    folio::cuda_check(cudaGetDeviceProperties(&properties, 0), "properties");
    std::printf("%s, compute capability %d.%d\n", properties.name, properties.major, properties.minor);
    int bad = 0;
    for (const folio::Conformity& c : folio::conformance(properties.major * 10 + properties.minor)) {
      std::printf("%-36s %-6s %g\n", c.operation, c.good() ? "ok" : "WRONG", c.worst);
      bad += !c.good();
    }
    std::printf("%d wrong\n", bad);
    return bad != 0;
  } catch (const folio::Error& error) {
    std::fprintf(stderr, "conform: %s\n", error.what());
    return 1;
  }
}
#endif
