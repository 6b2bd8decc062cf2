// SPDX-License-Identifier: MIT
#include "state/cache.h"

#include <algorithm>
#include <bit>
#include <cassert>

namespace folio {

static int64_t pages_for(int64_t tokens) { return (tokens + page_tokens - 1) / page_tokens; }

constexpr int64_t place_pages = 16;   // how far apart slabs are kept along a text

Cache::Cache(Device& device, const StateSpec& spec, const CacheOptions& options) : device_(device), options_(options) {
  check(options.context > 0 && options.context <= int64_t(1) << 30, "cache: a context of ", options.context, " tokens; expected 1 to 2^30");
  check(options.sequences > 0 && options.step_tokens > 0, "cache: ", options.sequences, " sequences, ", options.step_tokens, " tokens a step");
  check(options.uncertain > 0, "cache: ", options.uncertain, " uncertain tokens");
  check(options.bytes >= 0, "cache: ", options.bytes, " bytes");
  memory_.most_pages = pages_for(options.context);
  register_kinds(spec);
  if (kinds_.empty()) kinds_.push_back({Kind::Keeps::rows, 0, 0, 0});
  memory_.kinds = int(kinds_.size());
  size_kinds();
  for (const LayerSpec& layer : spec) {
    LayerMemory& memory = memory_.layers.emplace_back();
    for (const RowSpec& row : layer.rows) {
      const int kind = kind_of(row);
      memory.rows.push_back(pool(row.name, row.type, {kinds_[size_t(kind)].pages, page_tokens, row.shape[0], row.shape[1]}, kind));
      per_token_ += bytes_of(row.type, row.shape.count());
    }
    for (const SlabSpec& slab : layer.slabs) {
      const int kind = kind_of(slab);
      Shape shape = {kinds_[size_t(kind)].pages};
      for (int d = 0; d < slab.shape.rank; ++d) shape.dim[shape.rank++] = slab.shape[d];
      memory.slabs.push_back(pool(slab.name, slab.type, shape, kind));
    }
  }
  if (!options.remember) return;
  std::vector<bool> droppable;
  for (const Kind& kind : kinds_) droppable.push_back(kind.droppable());
  tree_ = std::make_unique<RadixTree>(droppable, options.evict, options.depth_cost);
}

void Cache::register_kinds(const StateSpec& spec) {
  for (const LayerSpec& layer : spec) {
    for (const RowSpec& row : layer.rows) {
      check(row.shape.rank == 2, "cache: row '", row.name, "' has shape ", row.shape.text(), ", expected [G,D]");
      kinds_[size_t(kind_of(row))].page_bytes += bytes_of(row.type, page_tokens * row.shape.count());
    }
    for (const SlabSpec& slab : layer.slabs) {
      check(slab.shape.rank >= 1 && slab.shape.rank <= 3, "cache: slab '", slab.name, "' has shape ", slab.shape.text());
      kinds_[size_t(kind_of(slab))].page_bytes += bytes_of(slab.type, slab.shape.count());
    }
  }
}

// What all sequences want at full length, and to remember slabs and windows some more; or as many as options().bytes hold, where what
// may be dropped comes first, so that a long text starves for rows and not for a slab.
void Cache::size_kinds() {
  int64_t fixed = 0, page = 0;   // bytes of what may be dropped; of a page of all else
  for (Kind& kind : kinds_) {
    const int64_t extra = options_.remember && kind.droppable() ? std::max<int64_t>(2, memory_.most_pages / place_pages) : 0;
    kind.pages = (kind.pages + extra) * options_.sequences;
    if (kind.droppable()) fixed += kind.pages * kind.page_bytes;
    else page += kind.page_bytes;
  }
  if (options_.bytes > 0) {
    check(fixed + page <= options_.bytes, "cache: ", options_.bytes, " bytes for ", options_.sequences, " sequences, but states and windows take ",
          fixed, " and a page of ", page_tokens, " tokens ", page);
    for (Kind& kind : kinds_)
      if (!kind.droppable() && page > 0) kind.pages = std::min((options_.bytes - fixed) / page, int64_t(INT32_MAX));
  }
  for (Kind& kind : kinds_)
    for (int64_t id = kind.pages; id-- > 0;) kind.free.push_back(int32_t(id));
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
  kinds_.push_back(std::move(kind));
  return int(kinds_.size()) - 1;
}

int Cache::kind_of(const RowSpec& row) {
  const int sinks = row.window > 0 ? row.sinks : 0;
  int64_t pages = memory_.most_pages;
  // Behind the newest token W rows are readable and up to a whole step is written at once; both may begin inside a page.
  if (row.window > 0) pages = std::min(pages, pages_for(sinks) + pages_for(int64_t(row.window) + options_.step_tokens) + 2);
  return add_kind({Kind::Keeps::rows, row.window, sinks, pages});
}

// The slab one goes on from and that of the page at hand; the two of the same sort where the certain tokens of a step end; and those of
// the pages that uncertain tokens reach.
int Cache::kind_of(const SlabSpec& slab) {
  int64_t pages = 4 + pages_for(std::min(options_.uncertain, options_.step_tokens));
  if (slab.chain) pages += std::bit_width(uint64_t(memory_.most_pages));
  return add_kind({slab.chain ? Kind::Keeps::chain : Kind::Keeps::slabs, 0, 0, std::min(pages, memory_.most_pages)});
}

// The next token stands at `length` and reads back to length − window + 1.
bool Cache::Kind::wants(int64_t p, int64_t length) const {
  if (keeps != Keeps::rows) return slab_wanted(p, length / page_tokens, keeps == Keeps::chain);
  return window == 0 || p < pages_for(sinks) || (p + 1) * page_tokens > length - window + 1;
}

// Whether all that the token behind these pages reads is there. Full rows are, since nodes go from the leaves.
bool Cache::resumable(std::span<RadixTree::Node* const> path) const {
  const auto full = int64_t(path.size());
  for (size_t k = 0; k < kinds_.size(); ++k) {
    const Kind& kind = kinds_[k];
    const auto missing = [&](int64_t p) { return path[size_t(p)]->page[k] < 0; };
    if (kind.folds()) {   // the newest, and with a chain its other digits
      for (int64_t digit = full; digit > 0; digit = kind.keeps == Kind::Keeps::chain ? digit & (digit - 1) : 0)
        if (missing(digit - 1)) return false;
    } else if (kind.window > 0) {
      for (int64_t p = 0; p < full; ++p) {
        if (p == pages_for(kind.sinks)) p = std::max(p, (full * page_tokens - kind.window + 1) / page_tokens);
        if (kind.wants(p, full * page_tokens) && missing(p)) return false;
      }
    }
  }
  return true;
}

std::pair<std::vector<RadixTree::Node*>, size_t> Cache::find(std::span<const Token> text, std::string_view scope) const {
  std::vector<RadixTree::Node*> path;
  for (RadixTree::Node* node = tree_->root(scope); text.size() >= (path.size() + 1) * page_tokens; path.push_back(node)) {
    node = tree_->child(node, text.subspan(path.size() * page_tokens, page_tokens));
    if (!node) break;
  }
  size_t adopted = path.size();
  while (adopted > 0 && !resumable(std::span(path).first(adopted))) --adopted;
  return {std::move(path), adopted};
}

int64_t Cache::match(std::span<const Token> text, std::string_view scope) const {
  return tree_ ? int64_t(find(text, scope).second) * page_tokens : 0;
}

std::vector<Token> Cache::continuation(std::span<const Token> text, int most, std::string_view scope) const {
  if (!tree_) return {};
  const RadixTree::Node* node = tree_->root(scope);
  for (; text.size() >= page_tokens; text = text.subspan(page_tokens)) {
    node = tree_->child(node, text.first(page_tokens));
    if (!node) return {};
  }
  return tree_->continuation(node, text, most);
}

Seq Cache::open(std::span<const Token> text, std::string_view scope) {
  Seq seq;
  seq.pages_.resize(kinds_.size());
  if (!tree_) return seq;
  auto [path, adopted] = find(text, scope);
  if (path.size() > adopted) {   // where this text begins to differ others will, and this time its slab shall be there
    path.back()->wished = true;
    seq.wish_ = int64_t(path.size()) - 1;
  }
  path.resize(adopted);
  seq.at_ = path.empty() ? tree_->root(scope) : path.back();
  seq.path_ = std::move(path);
  for (RadixTree::Node* node : seq.path_) tree_->lock(node);
  tree_->touch(seq.at_);
  const auto length = int64_t(adopted) * page_tokens;
  seq.text_.assign(text.begin(), text.begin() + length);
  for (size_t k = 0; k < kinds_.size(); ++k) {
    seq.pages_[k].assign(adopted, -1);
    for (size_t p = 0; p < adopted; ++p) {
      if (!kinds_[k].wants(int64_t(p), length)) continue;
      seq.pages_[k][p] = seq.path_[p]->page[k];
      tree_->pin(seq.path_[p], int(k));
    }
  }
  return seq;
}

bool Cache::make_room(int kind, size_t pages, bool only_passed) {
  std::vector<RadixTree::Freed> freed;
  while (kinds_[size_t(kind)].free.size() < pages) {
    freed.clear();
    if (!tree_ || !tree_->evict(kind, freed, only_passed)) return false;
    for (const RadixTree::Freed& f : freed) kinds_[size_t(f.kind)].free.push_back(f.id);
  }
  return true;
}

void Cache::take(Seq& seq, size_t kind, size_t page) {
  seq.pages_[kind][page] = kinds_[kind].free.back();
  kinds_[kind].free.pop_back();
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
        // All rows of a step are written; slabs only if they can be read.
        if (!there && (!kinds_[k].folds() || kinds_[k].wants(p, seq.length() + certain))) fn(k, size_t(p));
      }
  };
  std::vector<size_t> missing(kinds_.size());
  each_missing([&](size_t k, size_t) { ++missing[k]; });
  for (size_t k = 0; k < kinds_.size(); ++k) {
    check(!kinds_[k].folds() || tokens - certain <= options_.uncertain, "cache: ", tokens - certain, " uncertain tokens in a step, at most ",
          options_.uncertain);
    if (!make_room(int(k), missing[k])) return false;
  }
  for (auto& pages : seq.pages_) pages.resize(std::max(pages.size(), size_t(want)), -1);
  each_missing([&](size_t k, size_t p) { take(seq, k, p); });
  if (tree_) take_wished(seq, first, seq.length() + certain);
  return true;
}

// Slabs that this sequence will not read and later ones may: where there is room, or something worth less.
void Cache::take_wished(Seq& seq, int64_t first, int64_t end) {
  for (size_t k = 0; k < kinds_.size(); ++k)
    for (int64_t p = first; kinds_[k].folds() && p < end / page_tokens; ++p)
      if (seq.pages_[k][size_t(p)] < 0 && (p == seq.wish_ || (p + 1) % place_pages == 0) && make_room(int(k), 1, true)) take(seq, k, size_t(p));
}

void Cache::commit(Seq& seq, std::span<const Token> kept) {
  assert(size_t(pages_for(seq.length() + int64_t(kept.size()))) <= seq.pages_[0].size() && "commit without reserve");
  seq.text_.insert(seq.text_.end(), kept.begin(), kept.end());
  const size_t want = size_t(pages_for(seq.length()));
  for (size_t k = 0; k < kinds_.size(); ++k)
    for (; seq.pages_[k].size() > want; seq.pages_[k].pop_back())
      if (seq.pages_[k].back() >= 0) kinds_[k].free.push_back(seq.pages_[k].back());
  while (tree_ && int64_t(seq.path_.size() + 1) * page_tokens <= seq.length()) share(seq);
  release_unread(seq);
}

// The next page, full and committed, becomes the tree's; where the tree has it already, from another sequence, ours goes.
void Cache::share(Seq& seq) {
  const size_t p = seq.path_.size();
  const auto tokens = std::span<const Token>(seq.text_).subspan(p * page_tokens, page_tokens);
  RadixTree::Node* node = tree_->child(seq.at_, tokens);
  if (!node) node = tree_->add(seq.at_, tokens);
  for (size_t k = 0; k < kinds_.size(); ++k) {
    int32_t& id = seq.pages_[k][p];
    if (id < 0) continue;
    tree_->pin(node, int(k));
    if (node->page[k] < 0) tree_->give(node, int(k), id);
    else kinds_[k].free.push_back(id);
    id = node->page[k];
  }
  tree_->lock(node);
  seq.at_ = node;
  seq.path_.push_back(node);
}

void Cache::release(Seq& seq, size_t kind, size_t page, RadixTree::Worth worth) {
  int32_t& id = seq.pages_[kind][page];
  if (id < 0) return;
  if (page < seq.path_.size()) tree_->unpin(seq.path_[page], int(kind), worth);
  else kinds_[kind].free.push_back(id);
  id = -1;
}

void Cache::release_unread(Seq& seq) {
  for (size_t k = 0; k < kinds_.size(); ++k)
    for (size_t p = 0; p < seq.pages_[k].size(); ++p) {
      if (seq.pages_[k][p] < 0 || kinds_[k].wants(int64_t(p), seq.length())) continue;
      const bool place = p < seq.path_.size() && kinds_[k].folds() && (seq.path_[p]->wished || (p + 1) % place_pages == 0);
      release(seq, k, p, place ? RadixTree::Worth::place : RadixTree::Worth::passed);
    }
}

void Cache::keep(Seq& seq) {
  if (!seq.path_.empty()) seq.at_->wished = true;
}

void Cache::close(Seq& seq) {
  for (size_t k = 0; k < seq.pages_.size(); ++k)
    for (size_t p = seq.pages_[k].size(); p-- > 0;) release(seq, k, p, RadixTree::Worth::end);
  if (seq.at_) tree_->touch(seq.at_);
  for (size_t p = seq.path_.size(); p-- > 0;) tree_->unlock(seq.path_[p]);
  seq = Seq();
}

void Cache::table(const Seq& seq, int kind, int32_t* ids) const {
  const auto& pages = seq.pages_[size_t(kind)];
  std::copy(pages.begin(), pages.end(), ids);
  std::fill(ids + pages.size(), ids + memory_.most_pages, -1);
}

}  // namespace folio
