// SPDX-License-Identifier: MIT
#include "state/tree.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "base/error.h"

namespace folio {

static int compare(const Token* a, const Token* b) { return std::memcmp(a, b, page_tokens * sizeof(Token)); }

bool RadixTree::Node::Before::operator()(const Node* a, const Node* b) const { return compare(a->tokens.data(), b->tokens.data()) < 0; }
bool RadixTree::Node::Before::operator()(const Node* a, std::span<const Token> b) const { return compare(a->tokens.data(), b.data()) < 0; }
bool RadixTree::Node::Before::operator()(std::span<const Token> a, const Node* b) const { return compare(a.data(), b->tokens.data()) < 0; }

Evict evict_policy(std::string_view name) {
  if (name == "lru") return Evict::lru;
  if (name == "lfu") return Evict::lfu;
  if (name == "fifo") return Evict::fifo;
  if (name == "cost") return Evict::cost;
  fail("cache policy '", name, "', expected lru, lfu, fifo or cost");
}

RadixTree::RadixTree(std::vector<bool> droppable, Evict policy, double depth_cost)
    : droppable_(std::move(droppable)), policy_(policy), depth_cost_(depth_cost), loose_(droppable_.size()), pages_(droppable_.size()),
      locked_(droppable_.size()) {}

RadixTree::Node* RadixTree::root(std::string_view scope) {
  if (const auto it = roots_.find(scope); it != roots_.end()) return it->second;
  return roots_[std::string(scope)] = &nodes_.emplace_back();
}

const std::string& RadixTree::scope(const Node& node) const {
  const Node* root = &node;
  while (root->parent) root = root->parent;
  return std::find_if(roots_.begin(), roots_.end(), [&](const auto& r) { return r.second == root; })->first;
}

RadixTree::Node* RadixTree::child(const Node* node, std::span<const Token> tokens) const {
  assert(tokens.size() == page_tokens);
  const auto it = node->children.find(tokens);
  return it == node->children.end() ? nullptr : *it;
}

std::vector<Token> RadixTree::continuation(const Node* node, std::span<const Token> behind, int most) const {
  std::vector<Token> out;
  std::array<Token, page_tokens> key{};   // ids are not negative: nothing that begins with `behind` stands before it
  std::copy(behind.begin(), behind.end(), key.begin());
  while (int(out.size()) < most) {
    const auto it = node->children.lower_bound(std::span<const Token>(key));
    if (it == node->children.end() || !std::equal(behind.begin(), behind.end(), (*it)->tokens.begin())) break;
    node = *it;
    const auto from = node->tokens.begin() + ptrdiff_t(behind.size());
    out.insert(out.end(), from, from + std::min<ptrdiff_t>(node->tokens.end() - from, most - ptrdiff_t(out.size())));
    behind = {};
    key.fill(0);
  }
  return out;
}

RadixTree::Node* RadixTree::add(Node* parent, std::span<const Token> tokens) {
  assert(tokens.size() == page_tokens);
  Node& node = nodes_.emplace_back();
  node.self = std::prev(nodes_.end());
  std::copy(tokens.begin(), tokens.end(), node.tokens.begin());
  node.parent = parent;
  node.depth = parent->depth + 1;
  node.page.assign(droppable_.size(), -1);
  node.pins.assign(droppable_.size(), 0);
  node.loose.assign(droppable_.size(), {0, 0});
  node.born = node.last = ++clock_;
  unlist(parent);
  parent->children.insert(&node);
  list(&node);
  return &node;
}

void RadixTree::give(Node* node, int kind, int32_t id, Worth worth) {
  assert(node->page[size_t(kind)] < 0 && id >= 0);
  node->page[size_t(kind)] = id;
  ++pages_[size_t(kind)];
  locked_[size_t(kind)] += node->locks > 0;
  node->worthless = false;
  if (node->pins[size_t(kind)] == 0) loosen(node, kind, worth);
}

// Nobody before a node is older than it, so that leaves go before what they stand on.
void RadixTree::touch(Node* node) {
  ++clock_;
  for (Node* n = node; n->parent; n = n->parent) {
    const bool spare = n->spare;
    if (spare) unlist(n);
    n->last = clock_;
    ++n->hits;
    if (spare) list(n);
  }
}

void RadixTree::lock(Node* node) {
  if (node->locks++ > 0) return;
  unlist(node);
  for (size_t k = 0; k < droppable_.size(); ++k) locked_[k] += node->page[k] >= 0;
}

void RadixTree::unlock(Node* node) {
  assert(node->locks > 0);
  if (--node->locks > 0) return;
  for (size_t k = 0; k < droppable_.size(); ++k) locked_[k] -= node->page[k] >= 0;
  list(node);
}

int64_t RadixTree::evictable(int kind) const {
  return droppable_[size_t(kind)] ? int64_t(loose_[size_t(kind)].size()) : pages_[size_t(kind)] - locked_[size_t(kind)];
}

void RadixTree::pin(Node* node, int kind) {
  if (node->pins[size_t(kind)]++ == 0) fasten(node, kind);
}

void RadixTree::unpin(Node* node, int kind, Worth worth) {
  assert(node->pins[size_t(kind)] > 0);
  if (--node->pins[size_t(kind)] == 0 && node->page[size_t(kind)] >= 0) loosen(node, kind, worth);
}

RadixTree::Key RadixTree::key_of(const Node& node) const {
  if (node.worthless) return {-1, node.last};
  switch (policy_) {
    case Evict::lru: return {double(node.last), 0};
    case Evict::lfu: return {double(node.hits), node.last};
    case Evict::fifo: return {double(node.born), 0};
    case Evict::cost: return {inflation_ + 1 + depth_cost_ * double(node.depth), node.last};
  }
  return {};
}

void RadixTree::list(Node* node) {
  if (!node->parent || node->spare || node->locks > 0 || !node->children.empty()) return;
  node->key = key_of(*node);
  node->spare = true;
  spare_.insert({node->key, node});
}

void RadixTree::unlist(Node* node) {
  if (!node->spare) return;
  spare_.erase({node->key, node});
  node->spare = false;
}

void RadixTree::loosen(Node* node, int kind, Worth worth) {
  if (!droppable_[size_t(kind)]) return;
  node->loose[size_t(kind)] = {int(worth), ++clock_};
  loose_[size_t(kind)].insert({node->loose[size_t(kind)], node});
}

void RadixTree::fasten(Node* node, int kind) {
  auto& at = node->loose[size_t(kind)];
  if (at.second == 0) return;
  loose_[size_t(kind)].erase({at, node});
  at = {0, 0};
}

int32_t RadixTree::drop_page(Node* node, int kind) {
  const auto& loose = node->loose[size_t(kind)];
  if (leaving) leaving(*node, kind, loose.second ? Worth(loose.first) : Worth::end);
  fasten(node, kind);
  const int32_t id = node->page[size_t(kind)];
  node->page[size_t(kind)] = -1;
  --pages_[size_t(kind)];
  locked_[size_t(kind)] -= node->locks > 0;
  return id;
}

void RadixTree::drop_leaf(Node* node, std::vector<Freed>& freed) {
  assert(node->locks == 0 && node->children.empty());
  unlist(node);
  inflation_ = std::max(inflation_, node->key.first);
  for (int k = 0; k < int(droppable_.size()); ++k) {
    assert(node->pins[size_t(k)] == 0);
    if (node->page[size_t(k)] >= 0) freed.push_back({k, drop_page(node, k)});
  }
  Node* parent = node->parent;
  parent->children.erase(node);
  nodes_.erase(node->self);
  list(parent);
}

bool RadixTree::evict(int kind, std::vector<Freed>& freed, bool only_passed) {
  if (droppable_[size_t(kind)]) {
    auto& loose = loose_[size_t(kind)];
    if (loose.empty() || (only_passed && loose.begin()->first.first > int(Worth::passed))) return false;
    Node* node = loose.begin()->second;
    freed.push_back({kind, drop_page(node, kind)});
    if (!node->spare) return true;
    unlist(node);
    node->worthless = true;   // a leaf from which nobody can go on: what else it has is the next to go
    list(node);
    while (node->spare && std::all_of(node->page.begin(), node->page.end(), [](int32_t id) { return id < 0; })) {
      Node* parent = node->parent;
      drop_leaf(node, freed);
      node = parent;
    }
    return true;
  }
  const size_t before = freed.size();
  auto found = [&] { return std::any_of(freed.begin() + int64_t(before), freed.end(), [&](const Freed& f) { return f.kind == kind; }); };
  while (!found() && !spare_.empty()) drop_leaf(spare_.begin()->second, freed);
  return found();
}

}  // namespace folio
