// SPDX-License-Identifier: MIT
#include "text/index.h"

#include <algorithm>

namespace folio {

Prefixes::Prefixes(const Vocabulary& v, std::initializer_list<TokenType> types) : v_(v) {
  for (Token id = 0; id < v.size(); ++id)
    if (std::find(types.begin(), types.end(), TokenType(v.types[size_t(id)])) != types.end() && !v.text(id).empty()) order_.push_back(id);
  std::sort(order_.begin(), order_.end(), [&](Token a, Token b) {
    const int order = v.text(a).compare(v.text(b));
    return order != 0 ? order < 0 : a < b;
  });
  const auto same = [&](Token a, Token b) { return v.text(a) == v.text(b); };
  order_.erase(std::unique(order_.begin(), order_.end(), same), order_.end());
  size_t at = 0;
  for (int byte = 0; byte <= 256; ++byte) {
    while (at < order_.size() && uint8_t(v.text(order_[at])[0]) < byte) ++at;
    first_[byte] = at;
  }
}

void Prefixes::narrow(size_t& from, size_t& to, size_t depth, uint8_t byte) const {
  const auto at = [&](Token id) { return uint8_t(v_.text(id)[depth]); };
  const auto begin = order_.begin() + ptrdiff_t(from), end = order_.begin() + ptrdiff_t(to);
  const auto low = std::lower_bound(begin, end, byte, [&](Token id, uint8_t b) { return at(id) < b; });
  const auto high = std::upper_bound(low, end, byte, [&](uint8_t b, Token id) { return b < at(id); });
  from = size_t(low - order_.begin());
  to = size_t(high - order_.begin());
}

}  // namespace folio
