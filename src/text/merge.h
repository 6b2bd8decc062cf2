// SPDX-License-Identifier: MIT
// The loop that both BPE kinds share: symbols in a row, of all neighbours that may merge always the best pair first, of equally
// good ones the leftmost. A linked list holds the row and a heap the candidates, so n symbols cost O(n log n).
//
//   u n l u c k y   →   un l u c k y   →   un l u ck y   →   un luck y ...      a merged symbol lives on in its left one
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/token.h"

namespace folio {

struct Symbol {
  uint32_t from, size;   // the bytes it stands for; size 0: merged into the one before it
  int32_t before, next;  // −1: none
  Token id;              // −1: not a token
};

struct PairMerge {
  double cost;  // least first
  Token id;     // what the pair becomes; −1: it does not merge
};

class Merger {
 public:
  std::vector<Symbol> symbols;  // filled by add(), read from symbols[0] along `next`

  void clear() { symbols.clear(); }
  void add(uint32_t from, uint32_t size, Token id) {
    const auto at = int32_t(symbols.size());
    if (at) symbols.back().next = at;
    symbols.push_back({from, size, at - 1, -1, id});
  }

  // `pair(left, right)` says what two neighbouring symbols become, as a PairMerge.
  template <class Pair>
  void run(Pair&& pair) {
    heap_.clear();
    for (size_t i = 1; i < symbols.size(); ++i) propose(int32_t(i) - 1, int32_t(i), pair);
    while (!heap_.empty()) {
      std::pop_heap(heap_.begin(), heap_.end());
      const Candidate best = heap_.back();
      heap_.pop_back();
      Symbol &left = symbols[size_t(best.left)], &right = symbols[size_t(best.right)];
      // One of them has grown or gone since: the candidate is a thing of the past.
      if (left.size == 0 || right.size == 0 || left.size + right.size != best.size || left.next != best.right) continue;
      left.size = best.size;
      left.id = best.id;
      left.next = right.next;
      right.size = 0;
      if (left.next >= 0) symbols[size_t(left.next)].before = best.left;
      propose(left.before, best.left, pair);
      propose(best.left, left.next, pair);
    }
  }

 private:
  struct Candidate {
    double cost;
    int32_t left, right;
    uint32_t size;
    Token id;
    bool operator<(const Candidate& other) const { return cost > other.cost || (cost == other.cost && left > other.left); }
  };

  template <class Pair>
  void propose(int32_t left, int32_t right, Pair&& pair) {
    if (left < 0 || right < 0) return;
    const Symbol &a = symbols[size_t(left)], &b = symbols[size_t(right)];
    const PairMerge merge = pair(a, b);
    if (merge.id < 0) return;
    heap_.push_back({merge.cost, left, right, a.size + b.size, merge.id});
    std::push_heap(heap_.begin(), heap_.end());
  }

  std::vector<Candidate> heap_;
};

}  // namespace folio
