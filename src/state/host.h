// SPDX-License-Identifier: MIT
// Host memory behind a cache's pools: what the pools have no room for any more is copied here before it goes, and comes back when a
// text begins with it again. Copying a page is far cheaper than computing it, on a card and on the CPU alike.
//
//   pools of the device   root ── a ── b                 a text a b c d: a and b are adopted where they are,
//   host memory           root ── · ── · ── c ── d       c and d are copied into pages of the pools first (Cache::open)
//
// The same tree (state/tree.h) keeps the books; its page ids are places in host memory here. A node may stand here without its pages (·):
// those are still in the pools, or nobody has them any more, and what stands behind is then out of reach until they are computed again.
// What came back stays here as well, so letting it go a second time costs nothing.
#pragma once
#include <memory>
#include <vector>

#include "state/tree.h"

namespace folio {

class HostTier {
 public:
  using Node = RadixTree::Node;
  // `page_bytes` of each kind, at most `bytes` in all; the others are those of RadixTree.
  HostTier(std::vector<int64_t> page_bytes, std::vector<bool> droppable, Evict policy, double depth_cost, int64_t bytes);

  RadixTree& tree() { return tree_; }
  const RadixTree& tree() const { return tree_; }
  std::byte* at(const Node& node, int kind) const { return places_[size_t(kind)][size_t(node.page[size_t(kind)])].get(); }
  Node* child(Node* node, std::span<const Token> tokens);   // made if it is not there
  // The node at the end of the pages of another tree's node, made if it is not there.
  Node* counterpart(std::string_view scope, const Node& other);
  // A new place for the node's page of that kind, to be written at once; null if there is no room, and nobody to give way.
  std::byte* add(Node* node, int kind, RadixTree::Worth worth);
  bool has_room(int64_t bytes) const { return used_ + bytes <= limit_; }   // though nobody gives way
  int64_t bytes() const { return used_; }   // of all pages here

 private:
  bool make_room(int kind);
  bool evict(int kind);

  const std::vector<int64_t> page_bytes_;
  const int64_t limit_;
  RadixTree tree_;
  std::vector<std::vector<std::unique_ptr<std::byte[]>>> places_;   // [kind][id]
  std::vector<std::vector<int32_t>> free_;                          // [kind]: ids without memory
  int64_t used_ = 0;
};

}  // namespace folio
