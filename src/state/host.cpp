// SPDX-License-Identifier: MIT
#include "state/host.h"

namespace folio {

HostTier::HostTier(std::vector<int64_t> page_bytes, std::vector<bool> droppable, Evict policy, double depth_cost, int64_t bytes)
    : page_bytes_(std::move(page_bytes)), limit_(bytes), tree_(std::move(droppable), policy, depth_cost), places_(page_bytes_.size()),
      free_(page_bytes_.size()) {}

HostTier::Node* HostTier::child(Node* node, std::span<const Token> tokens) {
  Node* next = tree_.child(node, tokens);
  return next ? next : tree_.add(node, tokens);
}

HostTier::Node* HostTier::counterpart(std::string_view scope, const Node& other) {
  std::vector<const Node*> path;
  for (const Node* n = &other; n->parent; n = n->parent) path.push_back(n);
  Node* node = tree_.root(scope);
  for (; !path.empty(); path.pop_back()) node = child(node, path.back()->tokens);
  return node;
}

std::byte* HostTier::add(Node* node, int kind, RadixTree::Worth worth) {
  tree_.lock(node);   // or it would be the next to give way
  const bool fits = make_room(kind);
  tree_.unlock(node);
  if (!fits) return nullptr;
  auto& places = places_[size_t(kind)];
  auto& free = free_[size_t(kind)];
  if (free.empty()) {
    free.push_back(int32_t(places.size()));
    places.emplace_back();
  }
  const int32_t id = free.back();
  free.pop_back();
  places[size_t(id)] = std::make_unique_for_overwrite<std::byte[]>(size_t(page_bytes_[size_t(kind)]));
  used_ += page_bytes_[size_t(kind)];
  tree_.give(node, kind, id, worth);
  return at(*node, kind);
}

// Pages of its own kind give way first, so that a flood of one kind leaves the others alone.
bool HostTier::make_room(int kind) {
  while (!has_room(page_bytes_[size_t(kind)])) {
    bool gone = evict(kind);
    for (int k = 0; !gone && k < int(page_bytes_.size()); ++k) gone = k != kind && evict(k);
    if (!gone) return false;
  }
  return true;
}

bool HostTier::evict(int kind) {
  std::vector<RadixTree::Freed> freed;
  const bool gone = tree_.evict(kind, freed);
  for (const RadixTree::Freed& f : freed) {
    places_[size_t(f.kind)][size_t(f.id)].reset();
    free_[size_t(f.kind)].push_back(f.id);
    used_ -= page_bytes_[size_t(f.kind)];
  }
  return gone;
}

}  // namespace folio
