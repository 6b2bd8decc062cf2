// SPDX-License-Identifier: MIT
// Noise for a whole vocabulary: the loop of random.h, compiled twice. Without FMA in the processor every fused() is a call into
// libm, equal bits and slow; both give what gumbel() gives.
#include "base/random.h"

namespace folio {

namespace {

// 64 counters side by side, so that the compiler turns each loop over them into vectors.
inline __attribute__((always_inline)) void fill(uint64_t seed, uint64_t position, uint32_t first, int n, float* out) {
  constexpr int lanes = 64, block = 4 * lanes;
  for (int done = 0; done < n; done += block) {
    uint32_t word[4][lanes];
    for (int i = 0; i < lanes; ++i) {
      word[0][i] = uint32_t(position);
      word[1][i] = uint32_t(position >> 32);
      word[2][i] = (first + uint32_t(done)) / 4 + uint32_t(i);
      word[3][i] = 0;
    }
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      for (int i = 0; i < lanes; ++i) philox_round(word[0][i], word[1][i], word[2][i], word[3][i], k0, k1);
      philox_next(k0, k1);
    }
    float noise[4][lanes];
    for (int j = 0; j < 4; ++j) {
      for (int i = 0; i < lanes; ++i) noise[j][i] = gumbel_of(word[j][i]);
    }
    const int left = n - done < block ? n - done : block;
    for (int i = 0; i < left; ++i) out[done + i] = noise[i % 4][i / 4];
  }
}

void fill_plain(uint64_t seed, uint64_t position, uint32_t first, int n, float* out) { fill(seed, position, first, n, out); }

#ifdef __x86_64__
__attribute__((target("avx2,fma"))) void fill_fma(uint64_t seed, uint64_t position, uint32_t first, int n, float* out) {
  fill(seed, position, first, n, out);
}
#endif

}  // namespace

void gumbel_row(uint64_t seed, uint64_t position, uint32_t first, int n, float* out) {
#ifdef __x86_64__
  static const bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (fma) return fill_fma(seed, position, first, n, out);
#endif
  fill_plain(seed, position, first, n, out);
}

}  // namespace folio
