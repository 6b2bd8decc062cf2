// SPDX-License-Identifier: MIT
#include "state/cache.h"

#include <algorithm>
#include <bit>
#include <cassert>

namespace folio {

static int64_t pages_for(int64_t tokens) { return (tokens + page_tokens - 1) / page_tokens; }

Cache::Cache(Device& device, const StateSpec& spec, const CacheOptions& options) : device_(device), options_(options) {
  check(options.context > 0 && options.context <= int64_t(1) << 30, "cache: a context of ", options.context, " tokens; expected 1 to 2^30");
  check(options.sequences > 0 && options.step_tokens > 0, "cache: ", options.sequences, " sequences, ", options.step_tokens, " tokens a step");
  check(options.uncertain > 0, "cache: ", options.uncertain, " uncertain tokens");
  memory_.most_pages = pages_for(options.context);
  for (const LayerSpec& layer : spec) {
    LayerMemory& memory = memory_.layers.emplace_back();
    for (const RowSpec& row : layer.rows) {
      check(row.shape.rank == 2, "cache: row '", row.name, "' has shape ", row.shape.text(), ", expected [G,D]");
      const int kind = kind_of(row);
      memory.rows.push_back(pool(row.name, row.type, {kinds_[size_t(kind)].pages, page_tokens, row.shape[0], row.shape[1]}, kind));
      per_token_ += bytes_of(row.type, row.shape.count());
    }
    for (const SlabSpec& slab : layer.slabs) {
      check(slab.shape.rank >= 1 && slab.shape.rank <= 3, "cache: slab '", slab.name, "' has shape ", slab.shape.text());
      const int kind = kind_of(slab);
      Shape shape = {kinds_[size_t(kind)].pages};
      for (int d = 0; d < slab.shape.rank; ++d) shape.dim[shape.rank++] = slab.shape[d];
      memory.slabs.push_back(pool(slab.name, slab.type, shape, kind));
    }
  }
  if (kinds_.empty()) kinds_.push_back({Kind::Keeps::rows, 0, 0, 0, {}});
  memory_.kinds = int(kinds_.size());
}

Pool Cache::pool(const std::string& name, DType type, const Shape& shape, int kind) {
  Tensor pool = Tensor::of(type, shape);
  pool.data = device_.alloc(pool.bytes());
  blocks_.emplace_back(pool.data, pool.bytes());
  bytes_ += pool.bytes();
  return {name, pool, kind};
}

Cache::~Cache() {
  for (const auto& [at, bytes] : blocks_) device_.free(at, bytes);
}

int Cache::add_kind(Kind kind) {
  for (size_t k = 0; k < kinds_.size(); ++k)
    if (kinds_[k].keeps == kind.keeps && kinds_[k].window == kind.window && kinds_[k].sinks == kind.sinks) return int(k);
  kind.pages *= options_.sequences;
  for (int64_t id = kind.pages; id-- > 0;) kind.free.push_back(int32_t(id));
  kinds_.push_back(std::move(kind));
  return int(kinds_.size()) - 1;
}

int Cache::kind_of(const RowSpec& row) {
  const int sinks = row.window > 0 ? row.sinks : 0;
  int64_t pages = memory_.most_pages;
  // Behind the newest token W rows are readable and up to a whole step is written at once; both may begin inside a page.
  if (row.window > 0) pages = std::min(pages, pages_for(sinks) + pages_for(int64_t(row.window) + options_.step_tokens) + 2);
  return add_kind({Kind::Keeps::rows, row.window, sinks, pages, {}});
}

// The slab one goes on from and that of the page at hand; the two of the same sort where the certain tokens of a step end; and those of
// the pages that uncertain tokens reach.
int Cache::kind_of(const SlabSpec& slab) {
  int64_t pages = 4 + pages_for(std::min(options_.uncertain, options_.step_tokens));
  if (slab.chain) pages += std::bit_width(uint64_t(memory_.most_pages));
  return add_kind({slab.chain ? Kind::Keeps::chain : Kind::Keeps::slabs, 0, 0, std::min(pages, memory_.most_pages), {}});
}

// The next token stands at `length` and reads back to length − window + 1.
bool Cache::Kind::wants(int64_t p, int64_t length) const {
  if (keeps != Keeps::rows) return slab_wanted(p, length / page_tokens, keeps == Keeps::chain);
  return window == 0 || p < pages_for(sinks) || (p + 1) * page_tokens > length - window + 1;
}

Seq Cache::open(std::span<const Token>) {
  Seq seq;
  seq.pages_.resize(kinds_.size());
  return seq;
}

bool Cache::reserve(Seq& seq, int tokens, int certain) {
  assert(certain >= 0 && certain <= tokens);
  const int64_t end = seq.length() + tokens;
  if (end > options_.context) return false;
  const int64_t first = seq.length() / page_tokens, want = pages_for(end);
  // fn(kind, page number) for each page that is wanted and not there.
  auto each_missing = [&](auto fn) {
    for (size_t k = 0; k < kinds_.size(); ++k)
      for (int64_t p = first; p < want; ++p) {
        const bool there = p < int64_t(seq.pages_[k].size()) && seq.pages_[k][size_t(p)] >= 0;
        const bool rows = kinds_[k].keeps == Kind::Keeps::rows;   // all of a step's are written; slabs only if they can be read
        if (!there && (rows || kinds_[k].wants(p, seq.length() + certain))) fn(k, size_t(p));
      }
  };
  std::vector<size_t> missing(kinds_.size());
  each_missing([&](size_t k, size_t) { ++missing[k]; });
  for (size_t k = 0; k < kinds_.size(); ++k) {
    check(kinds_[k].keeps == Kind::Keeps::rows || tokens - certain <= options_.uncertain, "cache: ", tokens - certain,
          " uncertain tokens in a step, at most ", options_.uncertain);
    if (missing[k] > kinds_[k].free.size()) return false;
  }
  for (auto& pages : seq.pages_) pages.resize(std::max(pages.size(), size_t(want)), -1);
  each_missing([&](size_t k, size_t p) {
    seq.pages_[k][p] = kinds_[k].free.back();
    kinds_[k].free.pop_back();
  });
  return true;
}

void Cache::commit(Seq& seq, std::span<const Token> kept) {
  assert(size_t(pages_for(seq.length() + int64_t(kept.size()))) <= seq.pages_[0].size() && "commit without reserve");
  seq.text_.insert(seq.text_.end(), kept.begin(), kept.end());
  const size_t want = size_t(pages_for(seq.length()));
  for (size_t k = 0; k < kinds_.size(); ++k)
    for (; seq.pages_[k].size() > want; seq.pages_[k].pop_back())
      if (seq.pages_[k].back() >= 0) kinds_[k].free.push_back(seq.pages_[k].back());
  release_unread(seq);
}

void Cache::release_unread(Seq& seq) {
  for (size_t k = 0; k < kinds_.size(); ++k)
    for (size_t p = 0; p < seq.pages_[k].size(); ++p) {
      int32_t& id = seq.pages_[k][p];
      if (id < 0 || kinds_[k].wants(int64_t(p), seq.length())) continue;
      kinds_[k].free.push_back(id);
      id = -1;
    }
}

void Cache::close(Seq& seq) {
  for (size_t k = 0; k < seq.pages_.size(); ++k)
    for (auto id = seq.pages_[k].rbegin(); id != seq.pages_[k].rend(); ++id)
      if (*id >= 0) kinds_[k].free.push_back(*id);
  seq = Seq();
}

void Cache::table(const Seq& seq, int kind, int32_t* ids) const {
  const auto& pages = seq.pages_[size_t(kind)];
  std::copy(pages.begin(), pages.end(), ids);
  std::fill(ids + pages.size(), ids + memory_.most_pages, -1);
}

}  // namespace folio
