// SPDX-License-Identifier: MIT
// Texts for tests of the page law, where a token is a number from which all its inputs are drawn: equal texts are equal vectors.
#pragma once
#include <cstring>
#include <random>
#include <vector>

namespace folio {

using Text = std::vector<int>;
using Rows = std::vector<float>;   // results, one token's behind the other's

inline Text text_of(int seed, size_t tokens) {
  std::mt19937 random{unsigned(seed)};
  Text text;
  for (size_t i = 0; i < tokens; ++i) text.push_back(int(random() % 100000));
  return text;
}
inline Text part_of(const Text& text, size_t from, size_t n) {
  return {text.begin() + ptrdiff_t(from), text.begin() + ptrdiff_t(std::min(from + n, text.size()))};
}
inline void add(Rows& to, const Rows& more) { to.insert(to.end(), more.begin(), more.end()); }
inline bool same(const Rows& a, const Rows& b) { return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0; }

}  // namespace folio
