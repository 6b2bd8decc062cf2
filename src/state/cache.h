// SPDX-License-Identifier: MIT
// All that sequences remember, on one device, under the law of house.md 4.6: a sequence is a list of pages of 64 tokens; every
// step proposes n tokens and commits m ≤ n; nothing committed is ever overwritten. So there is no rollback here: what was proposed
// and not committed lies beyond the length and is written again, unread.
//
// Pages come in kinds: rows that live equally long (the same window and sinks) share one kind, one free list and one page table,
// and a page id of that kind indexes the pools of all its layers at once:
//
//   kind 0, window 0      table of a sequence   [ 4 | 0 | 7 ]            pool of layer 3, "k":  [N, 64, G, D]
//   kind 1, window 4096                         [-1 |-1 | 2 ]            -1: given back, nobody can read it any more
//
// Slabs have kinds of their own, one slab a page; those that nobody can go on from are given back, and within tokens that are certain
// to be committed none are made that would be given back at once.
//
// With options.remember, pages that are full and committed belong to a tree (state/tree.h): texts that begin alike share them, and they
// stay when their sequence is closed, until room is wanted. open() adopts as much as every layer can go on from: all full rows, the
// last W tokens of windowed rows, the slabs. What is kept for later texts: full rows always; slabs where texts ended (keep, close), where
// a text began to differ from another and of every 16th page; and whatever else nobody has needed the room of. With options.host_bytes what
// goes goes to host memory first (state/host.h), and open() brings it back.
//
// Not here: computing (memory does not).
#pragma once
#include <memory>
#include <span>
#include <vector>

#include "base/token.h"
#include "graph/device.h"
#include "state/host.h"
#include "state/spec.h"
#include "state/step.h"

namespace folio {

struct CacheOptions {
  int64_t context = 0;     // longest sequence, in tokens
  int sequences = 1;       // that may be open at full length at once
  int step_tokens = 512;   // most tokens proposed at once: what a windowed row must outlive
  int uncertain = 64;      // most of them that may not be committed, where layers fold
  int64_t bytes = 0;       // of all pools; 0: what `sequences` at full length want
  bool remember = false;   // pages of closed sequences
  int64_t host_bytes = 0;  // of host memory for remembered pages that the pools have no room for; 0: none
  Evict evict = Evict::lru;
  double depth_cost = 0.01;   // for Evict::cost: state/tree.h
};

// A sequence that is being read or written. Made by Cache::open, ended by Cache::close.
class Seq {
 public:
  int64_t length() const { return int64_t(text_.size()); }   // committed tokens
  std::span<const Token> text() const { return text_; }

 private:
  friend class Cache;
  std::vector<Token> text_;
  std::vector<std::vector<int32_t>> pages_;   // [kind][page number] -> id, -1 given back or never made
  std::vector<RadixTree::Node*> path_;        // the first pages, which are the tree's
  RadixTree::Node* at_ = nullptr;             // the last of them, or the root; null without a tree
  int64_t wish_ = -1;                         // page whose slab others will want
};

class Cache {
 public:
  Cache(Device& device, const StateSpec& spec, const CacheOptions& options);
  ~Cache();
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;

  // A sequence whose text will begin with `text`. It adopts the longest prefix that is remembered and that every layer can go on from;
  // length() says how long. Texts of different scopes (adapters, tenants) share nothing.
  Seq open(std::span<const Token> text, std::string_view scope = "");
  // How much of it open() would adopt now.
  int64_t match(std::span<const Token> text, std::string_view scope = "") const;
  // At most `most` tokens with which another text went on that began with all of this one; none if nothing is remembered of such.
  std::vector<Token> continuation(std::span<const Token> text, int most, std::string_view scope = "") const;
  // Room for the next `tokens` tokens, of which the first `certain` will be committed whatever happens. False, and nothing is changed
  // for the sequence, if it would be too long or no page can be had; what is only remembered goes first. Throws Error if more than
  // options().uncertain are uncertain and a layer folds.
  bool reserve(Seq& seq, int tokens, int certain = 0);
  // These tokens happened. What else was proposed never did.
  void commit(Seq& seq, std::span<const Token> kept);
  // A text that others will begin with ends here (a prompt, say): the last full page is worth keeping.
  void keep(Seq& seq);
  // Gives its pages back.
  void close(Seq& seq);

  // Writes what is remembered to a file (state/cache_file.cpp), and takes it up again, as far as there is room; tokens that were new.
  // `fingerprint`: of all that the rows hang on, the weights above all. Throws Error if the file cannot be written, or is not ours, damaged,
  // or of another fingerprint; nothing is remembered of it then but what stood before the damage.
  void save(const std::string& path, uint64_t fingerprint) const;
  int64_t restore(const std::string& path, uint64_t fingerprint);

  const Memory& memory() const { return memory_; }
  const CacheOptions& options() const { return options_; }
  // Writes the sequence's page table of one kind: memory().most_pages ids.
  void table(const Seq& seq, int kind, int32_t* ids) const;
  int64_t bytes() const { return bytes_; }             // of all pools
  int64_t bytes_per_token() const { return per_token_; }
  int64_t host_bytes() const { return host_ ? host_->bytes() : 0; }   // of pages in host memory
  int64_t brought_back() const { return brought_back_; }               // pages that open() copied from there
  bool full_rows(int kind) const { return !kinds_[size_t(kind)].droppable() && kinds_[size_t(kind)].pages > 0; }
  int64_t pages(int kind) const { return kinds_[size_t(kind)].pages; }
  int64_t free_pages(int kind) const { return int64_t(kinds_[size_t(kind)].free.size()); }
  int64_t available_pages(int kind) const { return free_pages(kind) + (tree_ ? tree_->evictable(kind) : 0); }   // or made free if wanted
  int64_t page_bytes(int kind) const { return kinds_[size_t(kind)].page_bytes; }   // in all layers together
  int64_t remembered_pages(int kind) const { return tree_ ? tree_->pages(kind) : 0; }   // shared with sequences or only remembered

 private:
  struct Kind {
    enum class Keeps { rows, slabs, chain } keeps;
    int window, sinks;           // of rows
    int64_t pages;               // of a sequence at full length, then of the pools
    int64_t page_bytes = 0;      // in all layers together
    std::vector<int32_t> free{};   // the next id is at the back
    bool folds() const { return keeps != Keeps::rows; }
    bool droppable() const { return folds() || window > 0; }   // later tokens can do without it
    // Whether page p is wanted once `length` tokens are committed.
    bool wants(int64_t p, int64_t length) const;
  };
  int kind_of(const RowSpec& row);
  int kind_of(const SlabSpec& slab);
  int add_kind(Kind kind);
  void register_kinds(const StateSpec& spec);
  void size_kinds();
  template <class F> void each_pool(int kind, F f) const;   // f(its bytes, bytes of a page in it)
  Pool pool(const std::string& name, DType type, const Shape& shape, int kind);
  static bool holds(const RadixTree::Node* node, size_t kind) { return node && node->page[kind] >= 0; }
  // Where a page of a text is remembered: the tree's node, and the host's; null: not there.
  struct Place {
    RadixTree::Node *node, *host;   // in the pools, in host memory
    bool has(size_t kind) const { return holds(node, kind); }
    bool hosts(size_t kind) const { return holds(host, kind); }
  };
  bool resumable(std::span<const Place> path) const;
  // The places of the text's full pages as far as they are remembered, and how many of them one can go on from.
  std::pair<std::vector<Place>, size_t> find(std::span<const Token> text, std::string_view scope, bool with_host) const;
  bool adopt(Seq& seq, std::span<Place> path, std::span<const Token> text, std::string_view scope);
  bool bring_back(Seq& seq, Place& place, size_t page, int64_t length, std::span<const Token> tokens);
  void leave(const RadixTree::Node& node, int kind, RadixTree::Worth worth);
  // What stands in a cache file of a node; `parent`: which of those before it, −1 − s: the root of scope s.
  struct Entry {
    int64_t parent;
    const RadixTree::Node *node, *host;
  };
  std::vector<Entry> entries() const;
  Place take_up(const Place& before, std::span<const Token> text, const uint8_t* there, const std::byte* data, int64_t& taken);
  void copy_out(int kind, int32_t id, std::byte* to) const;
  void copy_in(int kind, int32_t id, const std::byte* from);
  bool make_room(int kind, size_t pages, bool only_passed = false);
  void take(Seq& seq, size_t kind, size_t page);
  void take_wished(Seq& seq, int64_t first, int64_t end);
  void share(Seq& seq);
  void release(Seq& seq, size_t kind, size_t page, RadixTree::Worth worth);
  void release_unread(Seq& seq);
  void drop_all(Seq& seq);   // gives its pages back and leaves it empty

  Device& device_;
  CacheOptions options_;
  Memory memory_;
  std::vector<Kind> kinds_;
  std::unique_ptr<RadixTree> tree_;   // null: nothing is remembered
  std::unique_ptr<HostTier> host_;    // null: nothing is kept in host memory
  int64_t brought_back_ = 0;
  std::vector<std::pair<std::byte*, int64_t>> blocks_;
  int64_t bytes_ = 0, per_token_ = 0;
};

}  // namespace folio
