// SPDX-License-Identifier: MIT
#include "state/cache.h"

#include <algorithm>
#include <cassert>

namespace folio {

static int64_t pages_for(int64_t tokens) { return (tokens + page_tokens - 1) / page_tokens; }

Cache::Cache(Device& device, const StateSpec& spec, const CacheOptions& options) : device_(device), options_(options) {
  check(options.context > 0 && options.context <= int64_t(1) << 30, "cache: a context of ", options.context, " tokens; expected 1 to 2^30");
  check(options.sequences > 0 && options.step_tokens > 0, "cache: ", options.sequences, " sequences, ", options.step_tokens, " tokens a step");
  memory_.most_pages = pages_for(options.context);
  for (const LayerSpec& layer : spec) {
    LayerMemory& memory = memory_.layers.emplace_back();
    check(layer.slabs.empty(), "cache: slabs are not supported yet");
    for (const RowSpec& row : layer.rows) {
      check(row.shape.rank == 2, "cache: row '", row.name, "' has shape ", row.shape.text(), ", expected [G,D]");
      const int kind = kind_of(row);
      const int64_t pages = kinds_[size_t(kind)].pages;
      Tensor pool = Tensor::of(row.type, {pages, page_tokens, row.shape[0], row.shape[1]});
      pool.data = device.alloc(pool.bytes());
      blocks_.emplace_back(pool.data, pool.bytes());
      bytes_ += pool.bytes();
      per_token_ += bytes_of(row.type, row.shape.count());
      memory.rows.push_back({row.name, pool, kind});
    }
  }
  if (kinds_.empty()) kinds_.push_back({0, 0, 0, {}});
  memory_.kinds = int(kinds_.size());
}

Cache::~Cache() {
  for (const auto& [at, bytes] : blocks_) device_.free(at, bytes);
}

int Cache::kind_of(const RowSpec& row) {
  const int sinks = row.window > 0 ? row.sinks : 0;
  for (size_t k = 0; k < kinds_.size(); ++k)
    if (kinds_[k].window == row.window && kinds_[k].sinks == sinks) return int(k);
  int64_t pages = memory_.most_pages;
  // Behind the newest token W rows are readable and up to a whole step is written at once; both may begin inside a page.
  if (row.window > 0) pages = std::min(pages, pages_for(sinks) + pages_for(int64_t(row.window) + options_.step_tokens) + 2);
  pages *= options_.sequences;
  Kind kind{row.window, sinks, pages, {}};
  for (int64_t id = pages; id-- > 0;) kind.free.push_back(int32_t(id));
  kinds_.push_back(std::move(kind));
  return int(kinds_.size()) - 1;
}

Seq Cache::open(std::span<const Token>) {
  Seq seq;
  seq.pages_.resize(kinds_.size());
  return seq;
}

bool Cache::reserve(Seq& seq, int tokens) {
  const int64_t end = seq.length() + tokens;
  if (end > options_.context) return false;
  const size_t want = size_t(pages_for(end));
  for (size_t k = 0; k < kinds_.size(); ++k)
    if (want > seq.pages_[k].size() && want - seq.pages_[k].size() > kinds_[k].free.size()) return false;
  for (size_t k = 0; k < kinds_.size(); ++k)
    while (seq.pages_[k].size() < want) {
      seq.pages_[k].push_back(kinds_[k].free.back());
      kinds_[k].free.pop_back();
    }
  return true;
}

void Cache::commit(Seq& seq, std::span<const Token> kept) {
  assert(size_t(pages_for(seq.length() + int64_t(kept.size()))) <= seq.pages_[0].size() && "commit without reserve");
  seq.text_.insert(seq.text_.end(), kept.begin(), kept.end());
  const size_t want = size_t(pages_for(seq.length()));
  for (size_t k = 0; k < kinds_.size(); ++k)
    while (seq.pages_[k].size() > want) {
      kinds_[k].free.push_back(seq.pages_[k].back());
      seq.pages_[k].pop_back();
    }
  release_behind_window(seq);
}

// The next token stands at length() and reads back to length() - window + 1; pages that end before that are given back, but for sinks.
void Cache::release_behind_window(Seq& seq) {
  for (size_t k = 0; k < kinds_.size(); ++k) {
    if (kinds_[k].window == 0) continue;
    const int64_t readable = seq.length() - kinds_[k].window + 1;
    for (int64_t p = pages_for(kinds_[k].sinks); (p + 1) * page_tokens <= readable; ++p) {
      int32_t& id = seq.pages_[k][size_t(p)];
      if (id < 0) continue;
      kinds_[k].free.push_back(id);
      id = -1;
    }
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
