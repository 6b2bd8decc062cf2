// SPDX-License-Identifier: MIT
// What texts have left behind, as a tree: a node is one full page of 64 tokens behind all those on the way to it, and holds the page of
// each kind (rows, windows, slabs; state/cache.h) that its tokens made. Nodes are immutable and never split, and a slab can only hang
// where its own tokens put it.
//
//   root ── [The quick …] ── [jumped over …] ── [and then …]          children by their 64 tokens, compared whole: no hash is trusted
//                        └── [sat down …]
//
// Sequences hold the nodes of their text (lock, unlock) and read pages of some of them (pin, unpin). What nobody reads goes when room is
// wanted: rows of all tokens go leaf by leaf, since nobody can go on behind a gap; what may miss (windows and slabs) goes by itself,
// that which a text only passed through first, that where a text ended last. Everything dropped is computed again, never wrong.
//
// Not here: free pages and who may go on from where (Cache), and what the pages hold.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/token.h"
#include "graph/tensor.h"

namespace folio {

// Which leaf goes first: the one used longest ago; the one used least often; the oldest; or the one that is cheapest to compute again,
// counted from its last use (GreedyDual: Young 1994).
enum class Evict { lru, lfu, fifo, cost };
// By its name. Throws Error for one that is not known.
Evict evict_policy(std::string_view name);

class RadixTree {
 public:
  // How much a page that is let go is worth to later texts.
  enum class Worth { passed, place, end };
  struct Key {
    double first = 0;
    uint64_t second = 0;
    auto operator<=>(const Key&) const = default;
  };
  struct Node {
    std::array<Token, page_tokens> tokens{};
    Node* parent = nullptr;
    int64_t depth = 0;                // pages up to this one
    std::vector<int32_t> page;        // [kind]: its id, -1: not there
    std::vector<int32_t> pins;        // [kind]: sequences that read it
    int32_t locks = 0;                // sequences whose text goes through here
    bool wished = false;              // a text ended or began to differ here: going on from here is likely
    struct Before {
      using is_transparent = void;
      bool operator()(const Node* a, const Node* b) const;
      bool operator()(const Node* a, std::span<const Token> b) const;
      bool operator()(std::span<const Token> a, const Node* b) const;
    };
    std::set<Node*, Before> children;

   private:
    friend class RadixTree;
    uint64_t last = 0, hits = 0, born = 0;
    Key key;                                   // as it stands among the leaves
    bool spare = false;                        // whether it does
    bool worthless = false;                    // nobody can go on from here any more
    std::vector<std::pair<int, uint64_t>> loose;   // [kind]: as it stands among the loose pages; second 0: it does not
    std::list<Node>::iterator self;
  };
  // A page that nobody has any more.
  struct Freed {
    int kind;
    int32_t id;
  };

  // `droppable` says of each kind whether its pages may go one by one. `depth_cost`: how much dearer a page is to compute for each page
  // before it, as a part of a first page's price (for Evict::cost).
  RadixTree(std::vector<bool> droppable, Evict policy, double depth_cost);
  RadixTree(const RadixTree&) = delete;
  RadixTree& operator=(const RadixTree&) = delete;
  // Called with each page that evict() is about to let go, while it still hangs in its node.
  std::function<void(const Node&, int kind, Worth)> leaving;

  // Where texts of a scope (an adapter, a tenant) begin. Scopes share nothing.
  Node* root(std::string_view scope);
  Node* child(const Node* node, std::span<const Token> tokens) const;   // null: not remembered
  // At most `most` tokens that went on from the node and some tokens behind it, fewer than a page: of the children that fit, the first.
  std::vector<Token> continuation(const Node* node, std::span<const Token> behind, int most) const;
  Node* add(Node* node, std::span<const Token> tokens);                 // a new one, without pages
  void give(Node* node, int kind, int32_t id, Worth worth = Worth::passed);   // its page from now on
  const std::map<std::string, Node*, std::less<>>& roots() const { return roots_; }
  const std::string& scope(const Node& node) const;                     // of the root before it
  // f(node) for each but the roots, parents first.
  template <class F> void each(F f) const {
    for (const Node& node : nodes_)
      if (node.parent) f(node);
  }
  void touch(Node* node);                                               // it and all before it were used
  void lock(Node* node);                                                // whoever locks a node has locked those before it, too
  void unlock(Node* node);
  void pin(Node* node, int kind);
  void unpin(Node* node, int kind, Worth worth);

  // Lets something go so that at least one page of the kind is freed; false if everything of that kind is in use, or if `only_passed`
  // and nothing worth so little is left.
  bool evict(int kind, std::vector<Freed>& freed, bool only_passed = false);

  int64_t nodes() const { return int64_t(nodes_.size()) - int64_t(roots_.size()); }
  int64_t pages(int kind) const { return pages_[size_t(kind)]; }        // that nodes hold
  int64_t evictable(int kind) const;                                    // of them, those that could go

 private:
  Key key_of(const Node& node) const;
  void list(Node* node);       // among the leaves that may go, if it is one
  void unlist(Node* node);
  void loosen(Node* node, int kind, Worth worth);
  void fasten(Node* node, int kind);
  int32_t drop_page(Node* node, int kind);
  void drop_leaf(Node* node, std::vector<Freed>& freed);

  const std::vector<bool> droppable_;
  const Evict policy_;
  const double depth_cost_;
  std::list<Node> nodes_;
  std::map<std::string, Node*, std::less<>> roots_;
  std::set<std::pair<Key, Node*>> spare_;                                      // leaves that nobody holds, the next to go first
  std::vector<std::set<std::pair<std::pair<int, uint64_t>, Node*>>> loose_;    // [kind]: pages that nobody reads, by worth and age
  std::vector<int64_t> pages_, locked_;   // [kind]; locked_: of nodes that somebody holds
  uint64_t clock_ = 0;
  double inflation_ = 0;
};

}  // namespace folio
