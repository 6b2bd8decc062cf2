// SPDX-License-Identifier: MIT
// What the launchers of Matmul and ExpertMatmul share.
#pragma once
#include <type_traits>

#include "graph/tensor.h"

namespace folio {

inline constexpr int64_t most_few_tokens = 8;   // more are tiles

inline bool meets_bytes(DType weights) { return weights == Q8_0 || weights == Q4_0; }   // its tokens become int8
inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
inline unsigned parts(int64_t n, int64_t size) { return unsigned((n + size - 1) / size); }

// Whether every row begins at a multiple of 16 bytes.
inline bool by_vectors(const Tensor& t) {
  bool yes = !t.present() || reinterpret_cast<uintptr_t>(t.data) % 16 == 0;
  for (int d = 0; d + 1 < t.rank(); ++d) yes = yes && bytes_of(t.type, t.stride[d]) % 16 == 0;
  return yes;
}

// Where rounded tokens lie in scratch: planes of rows, then a float for each token.
struct Planes {
  int64_t pitch, plane, back, bytes;
  Planes(int64_t tokens, int64_t k, int terms)
      : pitch(round_up(k, 128)), plane(round_up(tokens * pitch * 2, 256)), back(terms * plane), bytes(back + tokens * 4) {}
};

// Calls f with a constant true or false.
void either(bool which, auto f) {
  if (which) f(std::true_type());
  else f(std::false_type());
}

template <int N> using Int = std::integral_constant<int, N>;

}  // namespace folio
