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
// Not here: computing (memory does not), and who shares a prefix (the radix tree joins behind open()).
#pragma once
#include <memory>
#include <span>
#include <vector>

#include "base/token.h"
#include "graph/device.h"
#include "state/spec.h"
#include "state/step.h"

namespace folio {

struct CacheOptions {
  int64_t context = 0;     // longest sequence, in tokens
  int sequences = 1;       // that may be open at full length at once
  int step_tokens = 512;   // most tokens proposed at once: what a windowed row must outlive
  int uncertain = 64;      // most of them that may not be committed, where layers fold
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
};

class Cache {
 public:
  Cache(Device& device, const StateSpec& spec, const CacheOptions& options);
  ~Cache();
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;

  // A sequence whose text will begin with `text`. It adopts the longest prefix that is remembered; length() says how long.
  Seq open(std::span<const Token> text);
  // Room for the next `tokens` tokens, of which the first `certain` will be committed whatever happens. False if the sequence would
  // be too long or no page is free. Throws Error if more than options().uncertain are uncertain and a layer folds.
  bool reserve(Seq& seq, int tokens, int certain = 0);
  // These tokens happened. What else was proposed never did.
  void commit(Seq& seq, std::span<const Token> kept);
  // Gives its pages back.
  void close(Seq& seq);

  const Memory& memory() const { return memory_; }
  const CacheOptions& options() const { return options_; }
  // Writes the sequence's page table of one kind: memory().most_pages ids.
  void table(const Seq& seq, int kind, int32_t* ids) const;
  int64_t bytes() const { return bytes_; }             // of all pools
  int64_t bytes_per_token() const { return per_token_; }
  int64_t free_pages(int kind) const { return int64_t(kinds_[size_t(kind)].free.size()); }

 private:
  struct Kind {
    enum class Keeps { rows, slabs, chain } keeps;
    int window, sinks;           // of rows
    int64_t pages;
    std::vector<int32_t> free;   // the next id is at the back
    // Whether page p is wanted once `length` tokens are committed.
    bool wants(int64_t p, int64_t length) const;
  };
  int kind_of(const RowSpec& row);
  int kind_of(const SlabSpec& slab);
  int add_kind(Kind kind);
  Pool pool(const std::string& name, DType type, const Shape& shape, int kind);
  void release_unread(Seq& seq);

  Device& device_;
  CacheOptions options_;
  Memory memory_;
  std::vector<Kind> kinds_;
  std::vector<std::pair<std::byte*, int64_t>> blocks_;
  int64_t bytes_ = 0, per_token_ = 0;
};

}  // namespace folio
