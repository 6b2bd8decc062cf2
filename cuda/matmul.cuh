// SPDX-License-Identifier: MIT
// What the kernels of Matmul and ExpertMatmul share: where weights lie, how a quantised block is read, and what happens to a sum before it
// is stored (bias, activation, gate, add).
#pragma once
#include "cuda/lib/kernel.cuh"
#include "ops/matmul.h"

namespace folio {

// Both matrices of a gated product, or one. Rows lie `stride` bytes apart and are as aligned as their elements, no more.
struct MatmulWeights {
  const std::byte *w, *gate;
  int64_t w_stride, gate_stride;
  int features;
  int64_t k;

  FOLIO_DEVICE const std::byte* row(bool of_gate, int n) const {
    n = min(n, features - 1);  // past the end any row will do: its sums are not stored
    return of_gate ? gate + n * gate_stride : w + n * w_stride;
  }
};

// Row j of a tile that begins at feature `first`. With a gate, groups of eight alternate: w, gate, w, gate; so the two sums of a
// result meet in one thread.
template <bool Gate> FOLIO_DEVICE const std::byte* tile_row(const MatmulWeights& w, int first, int j) {
  return Gate ? w.row(j / 8 % 2 != 0, first + j / 16 * 8 + j % 8) : w.row(false, first + j);
}

// Of `left`, not less than 0.
FOLIO_DEVICE int at_most(int n, int64_t left) { return left >= n ? n : left > 0 ? int(left) : 0; }

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

// The way of a sum into y. What is absent is null. add and y may be the same bytes: who writes an element has read it before.
struct MatmulOut {
  const float *bias, *gate_bias, *add;
  float* y;
  int64_t add_stride, y_stride;  // elements
  int tokens, features;
  Act act;

  template <bool Gate> FOLIO_DEVICE void put(int t, int n, float u, float gate) const {
    if (t < tokens && n < features) put_row<Gate>(t, n, u, gate);
  }
  // The same in a row that is there.
  template <bool Gate> FOLIO_DEVICE void put_row(int64_t t, int n, float u, float gate) const {
    if (bias) u += ld_vec<float>(bias + n);
    float factor = 1;
    if constexpr (Gate) {
      factor = activated(act, gate_bias ? gate + ld_vec<float>(gate_bias + n) : gate);
      u = beside_activated(act, u);
    } else {
      u = activated(act, u);
    }
    u = fmaf(u, factor, add ? ld_vec<float>(add + t * add_stride + n) : -0.0f);  // −0 changes nothing
    st_vec(y + t * y_stride + n, u);
  }
};

// A patch of shared memory for the sums of 16 tokens and 32 rows, of one warp: by way of it, lanes write 128 bytes of one token side by
// side, and the code of what happens to a sum stands there once. With a gate, groups of eight rows alternate: w, gate, w, gate.
inline constexpr int patch_rows = 32, patch_pitch = patch_rows + 4, patch_floats = 16 * patch_pitch;

// Stores a patch that begins at that token and feature. The warp has written it and called __syncwarp().
template <bool Gate, class Out> FOLIO_DEVICE void put_patch(const Out& out, const float* patch, int token, int feature) {
  constexpr int features = patch_rows >> Gate;
#pragma unroll 1
  for (int i = lane_id(); i < 16 * features; i += 32) {
    const int f = i % features;
    const float* at = patch + i / features * patch_pitch + (Gate ? f / 8 * 16 + f % 8 : f);
    out.template put<Gate>(token + i / features, feature + f, at[0], Gate ? at[8] : 0.0f);
  }
}

// Blocks of 32 weights, read from shared memory at even addresses into eight words of four signed bytes, in order.
struct BlocksQ8 {
  static constexpr int bytes = 34, words = 8;
  static constexpr float unit = 1;  // of the bytes
  static FOLIO_DEVICE void spread(uint32_t (&)[8]) {}
};
struct BlocksQ4 {
  static constexpr int bytes = 18, words = 4;
  static constexpr float unit = 1.0f / 16;
  // n·16 with its top bit turned is 16·(n − 8) as a signed byte.
  static FOLIO_DEVICE void spread(uint32_t (&q)[8]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      q[4 + i] = (q[i] & 0xf0f0f0f0u) ^ 0x80808080u;
      q[i] = (q[i] << 4 & 0xf0f0f0f0u) ^ 0x80808080u;
    }
  }
};

// Half a block of F8_E4M3, for what only copies rows.
struct BlocksE4m3 {
  static constexpr int bytes = 34;
};

// The block at byte `at` (even) of `from`; returns what its bytes are multiples of. Reads up to two bytes before and after it.
template <class Q> FOLIO_DEVICE float read_block(const uint32_t* from, int at, uint32_t (&q)[8]) {
  const bool late = at % 4 != 0;  // the scale in the upper half of a word, and bytes aligned to words
  uint32_t word = from[at / 4];
  const float scale = to_float(f16{uint16_t(late ? word >> 16 : word)});
#pragma unroll
  for (int i = 0; i < Q::words; ++i) {
    const uint32_t next = from[at / 4 + 1 + i];
    q[i] = __byte_perm(word, next, late ? 0x7654 : 0x5432);
    word = next;
  }
  Q::spread(q);
  return scale * Q::unit;
}

// Copies `vectors` times 16 bytes, of which the first holds byte `from` of memory; what lies at `end` or behind becomes zero. The thread
// takes each `step`th. Bytes before `from` are those of another row, or of whatever stands before the matrix in its allocation.
FOLIO_DEVICE void copy_bytes(uint4* to, const std::byte* from, const std::byte* end, int vectors, int start, int step) {
  const std::byte* low = from - reinterpret_cast<uintptr_t>(from) % 16;
#pragma unroll 1
  for (int v = start; v < vectors; v += step) cp_async_part(to + v, low + 16 * v, at_most(16, end - (low + 16 * v)));
}

// Tokens in int8: records of 32 blocks each, one after the other, then those of the next token. The two halves of a block lie in
// planes, so that the lanes of a warp, a block each, read neighbouring vectors.
//
//   16 bytes of each block's first half | of its second half | f32 scales        zeros where the token has no more blocks
struct TokenRecord {
  static constexpr int blocks = 32, second = 512, scales = 1024, bytes = 1152;
  static __host__ __device__ int64_t of(int64_t k) { return (k / 32 + blocks - 1) / blocks; }
};

}  // namespace folio
