// SPDX-License-Identifier: MIT
#include "state/cache.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <numeric>

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
  if (options.host_bytes == 0) return;
  std::vector<int64_t> page_bytes;
  for (const Kind& kind : kinds_) page_bytes.push_back(kind.page_bytes);
  const int64_t least = std::accumulate(page_bytes.begin(), page_bytes.end(), int64_t(0));
  check(options.host_bytes >= least, "cache: ", options.host_bytes, " bytes of host memory, but the pages of ", page_tokens, " tokens take ", least);
  host_ = std::make_unique<HostTier>(page_bytes, droppable, options.evict, options.depth_cost, options.host_bytes);
  tree_->leaving = [this](const RadixTree::Node& node, int kind, RadixTree::Worth worth) { leave(node, kind, worth); };
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
  // Behind the newest token W rows are readable and up to a whole step is written at once; both may begin inside a page. With a tree those
  // of the last page border stay, too.
  if (row.window > 0) pages = std::min(pages, pages_for(sinks) + pages_for(int64_t(row.window) + options_.step_tokens) + 2 + options_.remember);
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

// Whether all that the token behind these pages reads is there. Full rows are (find).
bool Cache::resumable(std::span<const Place> path) const {
  const auto full = int64_t(path.size());
  for (size_t k = 0; k < kinds_.size(); ++k) {
    const Kind& kind = kinds_[k];
    const auto missing = [&](int64_t p) { return !path[size_t(p)].has(k) && !path[size_t(p)].hosts(k); };
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

// In the pools a node has its full rows, since nodes go from the leaves; in host memory it may be without.
std::pair<std::vector<Cache::Place>, size_t> Cache::find(std::span<const Token> text, std::string_view scope, bool with_host) const {
  std::vector<Place> path;
  size_t adopted = 0;
  Place place = {tree_->root(scope), with_host && host_ ? host_->tree().root(scope) : nullptr};
  for (; text.size() >= page_tokens; text = text.subspan(page_tokens)) {
    if (place.node) place.node = tree_->child(place.node, text.first(page_tokens));
    if (place.host) place.host = host_->tree().child(place.host, text.first(page_tokens));
    if (!place.node && !place.host) break;
    path.push_back(place);
    bool rows = adopted + 1 == path.size();
    for (size_t k = 0; rows && !place.node && k < kinds_.size(); ++k) rows = kinds_[k].droppable() || place.hosts(k);
    if (rows) adopted = path.size();
  }
  while (adopted > 0 && !resumable(std::span(path).first(adopted))) --adopted;
  return {std::move(path), adopted};
}

int64_t Cache::match(std::span<const Token> text, std::string_view scope) const {
  return tree_ ? int64_t(find(text, scope, true).second) * page_tokens : 0;
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
  for (bool with_host : {true, false}) {
    auto [path, adopted] = find(text, scope, with_host);
    if (with_host && path.size() > adopted) seq.wish_ = int64_t(path.size()) - 1;   // where this text begins to differ others will, too
    if (adopt(seq, std::span(path).first(adopted), text, scope)) break;
  }
  return seq;
}

// Makes them the first pages of a new sequence. False, and nothing is held, if what is in host memory finds no room.
bool Cache::adopt(Seq& seq, std::span<Place> path, std::span<const Token> text, std::string_view scope) {
  const auto length = int64_t(path.size()) * page_tokens;
  // fn(kind, page number, place) for each page that the sequence will read.
  const auto each_wanted = [&](auto fn) {
    for (size_t k = 0; k < kinds_.size(); ++k)
      for (size_t p = 0; p < path.size(); ++p)
        if (kinds_[k].wants(int64_t(p), length)) fn(k, p, path[p]);
  };
  for (const Place& place : path) {   // first all that is there is held, so that nothing of it goes for the sake of the others
    if (place.node) tree_->lock(place.node);
    if (place.host) host_->tree().lock(place.host);
  }
  for (auto& pages : seq.pages_) pages.assign(path.size(), -1);
  each_wanted([&](size_t k, size_t p, const Place& place) {
    if (place.hosts(k)) host_->tree().pin(place.host, int(k));
    if (!place.has(k)) return;
    seq.pages_[k][p] = place.node->page[k];
    tree_->pin(place.node, int(k));
  });
  seq.at_ = tree_->root(scope);
  bool fits = true;
  for (size_t p = 0; p < path.size(); ++p) {
    fits = fits && bring_back(seq, path[p], p, length, text.subspan(p * page_tokens, page_tokens));
    if (path[p].node) seq.path_.push_back(seq.at_ = path[p].node);
  }
  each_wanted([&](size_t k, size_t, const Place& place) {
    if (place.hosts(k)) host_->tree().unpin(place.host, int(k), RadixTree::Worth::place);
  });
  for (const Place& place : path)
    if (place.host) host_->tree().unlock(place.host);
  if (!path.empty() && path.back().host) host_->tree().touch(path.back().host);
  tree_->touch(seq.at_);
  if (fits) seq.text_.assign(text.begin(), text.begin() + length);
  else drop_all(seq);
  return fits;
}

// Copies what the sequence will read of a page, and the pools lack, into free pages of the pools.
bool Cache::bring_back(Seq& seq, Place& place, size_t page, int64_t length, std::span<const Token> tokens) {
  const auto lacks = [&](size_t k) { return kinds_[k].wants(int64_t(page), length) && !place.has(k); };
  for (size_t k = 0; k < kinds_.size(); ++k)
    if (lacks(k) && !make_room(int(k), 1)) return false;
  if (!place.node) {
    place.node = tree_->add(seq.at_, tokens);
    tree_->lock(place.node);
  }
  for (size_t k = 0; k < kinds_.size(); ++k) {
    if (!lacks(k)) continue;
    take(seq, k, page);
    copy_in(int(k), seq.pages_[k][page], host_->at(*place.host, int(k)));
    tree_->give(place.node, int(k), seq.pages_[k][page]);
    tree_->pin(place.node, int(k));
    ++brought_back_;
  }
  return true;
}

// A page is about to leave the pools: to host memory, unless nobody will go on from it.
void Cache::leave(const RadixTree::Node& node, int kind, RadixTree::Worth worth) {
  if (kinds_[size_t(kind)].droppable() && worth == RadixTree::Worth::passed) return;
  RadixTree::Node* to = host_->counterpart(tree_->scope(node), node);
  host_->tree().touch(to);
  if (to->page[size_t(kind)] >= 0) return;
  if (std::byte* at = host_->add(to, kind, worth)) copy_out(kind, node.page[size_t(kind)], at);
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
  node->wished |= int64_t(p) == seq.wish_;
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

// What the next token does not read; nor, where others may go on, the one behind the last page border.
void Cache::release_unread(Seq& seq) {
  const int64_t border = tree_ ? seq.length() / page_tokens * page_tokens : seq.length();
  for (size_t k = 0; k < kinds_.size(); ++k)
    for (size_t p = 0; p < seq.pages_[k].size(); ++p) {
      if (seq.pages_[k][p] < 0 || kinds_[k].wants(int64_t(p), border)) continue;
      const bool place = p < seq.path_.size() && kinds_[k].folds() && (seq.path_[p]->wished || (p + 1) % place_pages == 0);
      release(seq, k, p, place ? RadixTree::Worth::place : RadixTree::Worth::passed);
    }
}

void Cache::keep(Seq& seq) {
  if (!seq.path_.empty()) seq.at_->wished = true;
}

void Cache::close(Seq& seq) {
  drop_all(seq);
  seq = Seq();
}

void Cache::drop_all(Seq& seq) {
  for (size_t k = 0; k < seq.pages_.size(); ++k)
    for (size_t p = seq.pages_[k].size(); p-- > 0;) release(seq, k, p, RadixTree::Worth::end);
  if (seq.at_) tree_->touch(seq.at_);
  for (size_t p = seq.path_.size(); p-- > 0;) tree_->unlock(seq.path_[p]);
  seq.path_.clear();
}

void Cache::table(const Seq& seq, int kind, int32_t* ids) const {
  const auto& pages = seq.pages_[size_t(kind)];
  std::copy(pages.begin(), pages.end(), ids);
  std::fill(ids + pages.size(), ids + memory_.most_pages, -1);
}

}  // namespace folio
