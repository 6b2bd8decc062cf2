// SPDX-License-Identifier: MIT
// Sequences whose rows lie in pages of a pool, in any order, for the cases of ops that look back over them.
#pragma once
#include <cstring>

#include "cases.h"

namespace folio {

// Sequences of these lengths, of each of which the last `fresh` tokens ask, then `padding` tokens that belong to nobody.
struct Lengths {
  std::vector<int> each;
  int fresh = 1, padding = 0;
  bool shuffle = false;   // tokens in any order
};

struct Pages {
  Tensor page, seq, pos;   // [B, most], [T], [T]
  int64_t pages = 2;       // of the pool; some hold nothing
  std::vector<int> lengths;

  Pages(Inputs& in, const Lengths& wish) : lengths(wish.each) {
    std::vector<int32_t> whose, where, table;
    int64_t most = 1, next = 0;
    for (size_t b = 0; b < lengths.size(); ++b) {
      for (int j = std::max(0, lengths[b] - wish.fresh); j < lengths[b]; ++j) whose.push_back(int32_t(b)), where.push_back(j);
      const int64_t used = (lengths[b] + page_tokens - 1) / page_tokens;
      most = std::max(most, used + 1);
      pages += used;
    }
    whose.insert(whose.end(), size_t(wish.padding), -1);
    where.insert(where.end(), size_t(wish.padding), 0);
    const auto tokens = int64_t(whose.size());
    if (wish.shuffle)
      for (int64_t i = tokens - 1; i > 0; --i) {
        const auto j = size_t(in.random().below(i + 1));
        std::swap(whose[size_t(i)], whose[j]), std::swap(where[size_t(i)], where[j]);
      }
    const Tensor order = in.shuffled({pages});
    for (const int length : lengths)
      for (int64_t i = 0; i < most; ++i) table.push_back(i * page_tokens < length ? order.at<int32_t>()[next++] : -1);
    page = in.ints({int64_t(lengths.size()), most}, table);
    seq = in.ints({tokens}, whose);
    pos = in.ints({tokens}, where);
  }

  // A pool [pages, 64, groups, size] with random rows where the table says; all else in it is NaN.
  Tensor pool(Inputs& in, DType type, int64_t groups, int64_t size) const {
    Tensor t = in.store().zeros(type, {pages, page_tokens, groups, size});
    poison(type, t.data, t.count());
    for (size_t b = 0; b < lengths.size(); ++b)
      for (int j = 0; j < lengths[b]; ++j) {
        const int64_t row = page.row<int32_t>(int64_t(b))[j / page_tokens] * page_tokens + j % page_tokens;
        const Tensor rows = in.normal({groups, size}, type);
        for (int64_t g = 0; g < groups; ++g)
          std::memcpy(t.row_bytes(row * groups + g), rows.row_bytes(g), size_t(bytes_of(type, size)));
      }
    return t;
  }
};

}  // namespace folio
