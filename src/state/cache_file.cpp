// SPDX-License-Identifier: MIT
// What a cache remembers, as a file: the tree's nodes, and the pages that hang in them, as they lie in the pools.
//
//   "FOLIOKV1" · fingerprint u64 · bytes of the file u64 · XXH3 of all that follows u64 · kinds u32 · scopes u32 · nodes u64
//   bytes of a page of each kind u64[kinds]
//   scopes: length u32, text
//   nodes, each behind its parent: parent i64 (−1 − s: the root of scope s) · its 64 tokens i32 · whether its page is there u8[kinds]
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

void Cache::save(const std::string& path, uint64_t fingerprint) const {
  check(tree_ != nullptr, path, ": nothing is remembered that could be saved");
  std::string front;   // all but head and pages
  for (const Kind& kind : kinds_) put(front, uint64_t(kind.page_bytes));
  std::map<const RadixTree::Node*, int64_t> number;
  for (const auto& [scope, root] : tree_->roots()) {
    number[root] = -1 - int64_t(number.size());
    put(front, uint32_t(scope.size()));
    front += scope;
  }
  const auto scopes = uint32_t(number.size());
  std::vector<const RadixTree::Node*> nodes;
  tree_->each([&](const RadixTree::Node& node) {
    number[&node] = int64_t(nodes.size());
    nodes.push_back(&node);
    put(front, number.at(node.parent));
    put(front, node.tokens);
    for (int32_t id : node.page) put(front, uint8_t(id >= 0));
  });
  int64_t widest = 0;
  for (const Kind& kind : kinds_) widest = std::max(widest, kind.page_bytes);
  std::vector<std::byte> page(static_cast<size_t>(widest));
  // fn(bytes) for each page; twice, since the hash stands in front.
  auto each_page = [&](auto fn) {
    for (const RadixTree::Node* node : nodes)
      for (size_t k = 0; k < kinds_.size(); ++k) {
        if (node->page[k] < 0) continue;
        std::byte* to = page.data();
        each_pool(int(k), [&](const std::byte* pool, int64_t bytes) {
          device_.download(to, pool + node->page[k] * bytes, bytes);
          to += bytes;
        });
        fn(std::span<const std::byte>(page.data(), to));
      }
  };
  Hash64 hash;
  hash.add(front.data(), front.size());
  uint64_t bytes = sizeof(Head) + front.size();
  each_page([&](std::span<const std::byte> data) { hash.add(data.data(), data.size()), bytes += data.size(); });
  Head head{{}, fingerprint, bytes, hash.value(), uint32_t(kinds_.size()), scopes, nodes.size()};
  std::memcpy(head.magic, magic, sizeof magic);
  FileWriter out(path);
  out.write(&head, sizeof head);
  out.write(front);
  each_page([&](std::span<const std::byte> data) { out.write(data.data(), data.size()); });
  out.commit();
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
  std::vector<RadixTree::Node*> roots, nodes;
  for (uint32_t s = 0; s < head.scopes; ++s) {
    const auto length = in.take<uint32_t>();
    const auto* text = reinterpret_cast<const char*>(in.take(length));
    roots.push_back(tree_->root(std::string_view(text, length)));
  }
  const uint64_t each = sizeof(int64_t) + page_tokens * sizeof(Token) + head.kinds;
  check(head.nodes <= in.left() / each, path, ": damaged: it is too short for ", head.nodes, " pages of text");
  Reader table(in.take(head.nodes * each), size_t(head.nodes * each), path);
  int64_t tokens = 0;
  for (uint64_t i = 0; i < head.nodes; ++i) {
    const auto parent = table.take<int64_t>();
    check(parent < int64_t(i) && parent >= -int64_t(roots.size()), path, ": damaged: page ", i, " has no place");
    std::array<Token, page_tokens> text;
    std::memcpy(text.data(), table.take(sizeof text), sizeof text);
    RadixTree::Node* before = parent < 0 ? roots[size_t(-1 - parent)] : nodes[size_t(parent)];
    const auto* there = reinterpret_cast<const uint8_t*>(table.take(head.kinds));
    for (size_t k = 0; k < kinds_.size(); ++k) check(there[k] || !full_rows(int(k)), path, ": damaged: page ", i, " has no rows");
    bool fits = before != nullptr;   // else those before it had no room
    for (size_t k = 0; k < kinds_.size(); ++k) fits = fits && (!there[k] || kinds_[k].droppable() || !kinds_[k].free.empty());
    RadixTree::Node* node = fits ? tree_->child(before, text) : nullptr;
    const bool known = node != nullptr;
    if (fits && !known) node = tree_->add(before, text);
    for (size_t k = 0; k < kinds_.size(); ++k) {
      if (!there[k]) continue;
      const std::byte* data = in.take(uint64_t(kinds_[k].page_bytes));
      if (!node || node->page[k] >= 0 || kinds_[k].free.empty()) continue;
      const int32_t id = kinds_[k].free.back();
      kinds_[k].free.pop_back();
      each_pool(int(k), [&](std::byte* pool, int64_t bytes) {
        device_.upload(pool + id * bytes, data, bytes);
        data += bytes;
      });
      tree_->give(node, int(k), id, RadixTree::Worth::place);
    }
    tokens += fits && !known ? page_tokens : 0;
    nodes.push_back(node);
  }
  return tokens;
}

}  // namespace folio
