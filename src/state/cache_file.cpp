// SPDX-License-Identifier: MIT
// What a cache remembers, as a file: the tree's nodes, and the pages that hang in them, as they lie in the pools.
//
//   "FOLIOKV1" · fingerprint u64 · bytes of the file u64 · XXH3 of all that follows u64 · kinds u32 · scopes u32 · nodes u64
//   bytes of a page of each kind u64[kinds]
//   scopes: length u32, text
//   nodes, each behind its parent: parent i64 (−1 − s: the root of scope s) · its 64 tokens i32 · whether its page is there u8[kinds];
//   of the pools and of host memory, where each page stood once
//   pages: node after node, kind after kind, each that is there
//
// Little-endian, as the machines are. Written beside and renamed; read only if every count, size and hash fits: what is in it is trusted by
// nobody.
#include <cstring>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "state/cache.h"

namespace folio {

namespace {

constexpr char magic[8] = {'F', 'O', 'L', 'I', 'O', 'K', 'V', '1'};

struct Head {
  char magic[8];
  uint64_t fingerprint, bytes, hash;
  uint32_t kinds, scopes;
  uint64_t nodes;
};

template <class T> void put(std::string& to, const T& value) { to.append(reinterpret_cast<const char*>(&value), sizeof value); }

// Takes pieces off the front; nothing behind the end is ever looked at.
class Reader {
 public:
  Reader(const std::byte* at, size_t bytes, const std::string& path) : at_(at), left_(bytes), path_(path) {}
  const std::byte* take(uint64_t bytes) {
    check(bytes <= left_, path_, ": no cache file of ours: it ends too early");
    const std::byte* here = at_;
    at_ += bytes, left_ -= size_t(bytes);
    return here;
  }
  template <class T> T take() {
    T value;
    std::memcpy(&value, take(sizeof value), sizeof value);
    return value;
  }
  size_t left() const { return left_; }

 private:
  const std::byte* at_;
  size_t left_;
  const std::string& path_;
};

}  // namespace

template <class F> void Cache::each_pool(int kind, F f) const {
  for (const LayerMemory& layer : memory_.layers)
    for (const auto* pools : {&layer.rows, &layer.slabs})
      for (const Pool& pool : *pools)
        if (pool.kind == kind) f(pool.tensor.data, pool.tensor.bytes() / pool.tensor.dim(0));
}

// A page in all its layers, one behind the other.
void Cache::copy_out(int kind, int32_t id, std::byte* to) const {
  each_pool(kind, [&](const std::byte* pool, int64_t bytes) {
    device_.download(to, pool + id * bytes, bytes);
    to += bytes;
  });
}

void Cache::copy_in(int kind, int32_t id, const std::byte* from) {
  each_pool(kind, [&](std::byte* pool, int64_t bytes) {
    device_.upload(pool + id * bytes, from, bytes);
    from += bytes;
  });
}

// All that is remembered, in the pools and in host memory, each page once; parents first.
std::vector<Cache::Entry> Cache::entries() const {
  std::vector<Entry> entries;
  std::map<const RadixTree::Node*, int64_t> number;   // of the nodes of both trees
  for (const auto& [scope, root] : tree_->roots()) {
    const auto id = -1 - int64_t(number.size());
    number[root] = id;
  }
  tree_->each([&](const RadixTree::Node& node) {
    number[&node] = int64_t(entries.size());
    entries.push_back({number.at(node.parent), &node, nullptr});
  });
  if (!host_) return entries;
  std::map<const RadixTree::Node*, const RadixTree::Node*> twin;   // of a host's node in the pools' tree
  for (const auto& [scope, root] : host_->tree().roots()) {
    const auto it = tree_->roots().find(scope);
    if (it != tree_->roots().end()) twin[root] = it->second, number[root] = number.at(it->second);
  }
  host_->tree().each([&](const RadixTree::Node& node) {
    const auto before = twin.find(node.parent);
    if (RadixTree::Node* same = before == twin.end() ? nullptr : tree_->child(before->second, node.tokens)) {
      twin[&node] = same, number[&node] = number.at(same);
      entries[size_t(number.at(same))].host = &node;
      return;
    }
    bool rows = number.contains(node.parent);
    for (size_t k = 0; rows && k < kinds_.size(); ++k) rows = kinds_[k].droppable() || holds(&node, k);
    if (!rows) return;   // out of reach
    number[&node] = int64_t(entries.size());
    entries.push_back({number.at(node.parent), nullptr, &node});
  });
  return entries;
}

void Cache::save(const std::string& path, uint64_t fingerprint) const {
  check(tree_ != nullptr, path, ": nothing is remembered that could be saved");
  const std::vector<Entry> all = entries();
  std::string front;   // all but head and pages
  int64_t widest = 0;
  for (const Kind& kind : kinds_) {
    put(front, uint64_t(kind.page_bytes));
    widest = std::max(widest, kind.page_bytes);
  }
  for (const auto& [scope, root] : tree_->roots()) {
    put(front, uint32_t(scope.size()));
    front += scope;
  }
  for (const Entry& entry : all) {
    put(front, entry.parent);
    put(front, (entry.node ? entry.node : entry.host)->tokens);
    for (size_t k = 0; k < kinds_.size(); ++k) put(front, uint8_t(holds(entry.node, k) || holds(entry.host, k)));
  }
  std::vector<std::byte> page(static_cast<size_t>(widest));
  // fn(bytes) for each page; twice, since the hash stands in front.
  auto each_page = [&](auto fn) {
    for (const Entry& entry : all)
      for (size_t k = 0; k < kinds_.size(); ++k) {
        const auto bytes = size_t(kinds_[k].page_bytes);
        if (holds(entry.node, k)) {
          copy_out(int(k), entry.node->page[k], page.data());
          fn(std::span<const std::byte>(page.data(), bytes));
        } else if (holds(entry.host, k)) {
          fn(std::span<const std::byte>(host_->at(*entry.host, int(k)), bytes));
        }
      }
  };
  Hash64 hash;
  hash.add(front.data(), front.size());
  uint64_t bytes = sizeof(Head) + front.size();
  each_page([&](std::span<const std::byte> data) { hash.add(data.data(), data.size()), bytes += data.size(); });
  Head head{{}, fingerprint, bytes, hash.value(), uint32_t(kinds_.size()), uint32_t(tree_->roots().size()), all.size()};
  std::memcpy(head.magic, magic, sizeof magic);
  FileWriter out(path);
  out.write(&head, sizeof head);
  out.write(front);
  each_page([&](std::span<const std::byte> data) { out.write(data.data(), data.size()); });
  out.commit();
}

// Takes one node up: into the pools where there is room for its rows, else into host memory, else not at all. Nothing gives way for it.
Cache::Place Cache::take_up(const Place& before, std::span<const Token> text, const uint8_t* there, const std::byte* data, int64_t& taken) {
  Place place = {before.node ? tree_->child(before.node, text) : nullptr, nullptr};
  if (before.node && !place.node) {
    bool fits = true;
    for (size_t k = 0; k < kinds_.size(); ++k) fits = fits && (!there[k] || kinds_[k].droppable() || !kinds_[k].free.empty());
    if (fits) place.node = tree_->add(before.node, text), taken += page_tokens;
  }
  if (!place.node && host_ && (before.node || before.host)) {
    int64_t bytes = 0;
    for (size_t k = 0; k < kinds_.size(); ++k) bytes += there[k] ? kinds_[k].page_bytes : 0;
    if (host_->has_room(bytes))
      place.host = host_->child(before.host ? before.host : host_->counterpart(tree_->scope(*before.node), *before.node), text);
  }
  bool copied = false;
  for (size_t k = 0; k < kinds_.size(); ++k) {
    if (!there[k]) continue;
    if (place.node && !place.has(k) && !kinds_[k].free.empty()) {
      const int32_t id = kinds_[k].free.back();
      kinds_[k].free.pop_back();
      copy_in(int(k), id, data);
      tree_->give(place.node, int(k), id, RadixTree::Worth::place);
    }
    if (place.host && !place.hosts(k)) {
      std::memcpy(host_->add(place.host, int(k), RadixTree::Worth::place), data, size_t(kinds_[k].page_bytes));
      copied = true;
    }
    data += kinds_[k].page_bytes;
  }
  taken += copied ? page_tokens : 0;
  return place;
}

int64_t Cache::restore(const std::string& path, uint64_t fingerprint) {
  check(tree_ != nullptr, path, ": this cache remembers nothing");
  const MappedFile file(path);
  Reader in(file.data(), file.bytes(), path);
  const Head head = in.take<Head>();
  check(std::memcmp(head.magic, magic, sizeof magic) == 0, path, ": no cache file of ours, or of another version");
  check(head.bytes == file.bytes() && head.hash == hash64(file.data() + sizeof(Head), in.left()), path, ": damaged");
  check(head.fingerprint == fingerprint && head.kinds == kinds_.size(), path, ": is of another model, or of other cache settings");
  for (const Kind& kind : kinds_)
    check(in.take<uint64_t>() == uint64_t(kind.page_bytes), path, ": is of another model, or of other cache settings");
  std::vector<Place> roots, nodes;
  for (uint32_t s = 0; s < head.scopes; ++s) {
    const auto length = in.take<uint32_t>();
    const auto* text = reinterpret_cast<const char*>(in.take(length));
    roots.push_back({tree_->root(std::string_view(text, length)), nullptr});
  }
  const uint64_t each = sizeof(int64_t) + page_tokens * sizeof(Token) + head.kinds;
  check(head.nodes <= in.left() / each, path, ": damaged: it is too short for ", head.nodes, " pages of text");
  Reader table(in.take(head.nodes * each), size_t(head.nodes * each), path);
  int64_t taken = 0;
  for (uint64_t i = 0; i < head.nodes; ++i) {
    const auto parent = table.take<int64_t>();
    check(parent < int64_t(i) && parent >= -int64_t(roots.size()), path, ": damaged: page ", i, " has no place");
    std::array<Token, page_tokens> text;
    std::memcpy(text.data(), table.take(sizeof text), sizeof text);
    const auto* there = reinterpret_cast<const uint8_t*>(table.take(head.kinds));
    int64_t bytes = 0;
    for (size_t k = 0; k < kinds_.size(); ++k) {
      check(there[k] || !full_rows(int(k)), path, ": damaged: page ", i, " has no rows");
      bytes += there[k] ? kinds_[k].page_bytes : 0;
    }
    nodes.push_back(take_up(parent < 0 ? roots[size_t(-1 - parent)] : nodes[size_t(parent)], text, there, in.take(uint64_t(bytes)), taken));
  }
  return taken;
}

}  // namespace folio
