// SPDX-License-Identifier: MIT
#include "models/ring.h"

#include <algorithm>
#include <chrono>
#include <limits>

#include "ops/ops.h"

namespace folio {

namespace {

constexpr int64_t query_tokens = 2048;   // of a stretch at a time: what their results take does not grow with the text

class Stopwatch {
 public:
  explicit Stopwatch(double& seconds) : seconds_(seconds) {}
  ~Stopwatch() { seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  double& seconds_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

int64_t pages_of(int64_t tokens) { return (tokens + page_tokens - 1) / page_tokens; }

// Pages of keys, then pages of values: token i of a stretch in row i % 64 of page i / 64.
struct Pages {
  explicit Pages(Device& device, const RingShape& shape, int64_t pages) : device(device), bytes(pages * shape.page_bytes()) {
    if (bytes > 0) data = device.alloc(bytes);
  }
  ~Pages() { if (data) device.free(data, bytes); }
  Pages(const Pages&) = delete;
  Device& device;
  int64_t bytes;
  std::byte* data = nullptr;
};

// Rows of a stretch as pages in the number format of the shape, at `to`.
void pack(const RingShape& s, const float* k, const float* v, int64_t tokens, std::byte* to) {
  const int64_t k_row = s.groups * s.head_size, v_row = s.groups * s.value_size;
  std::byte* values = to + bytes_of(s.rows, pages_of(tokens) * page_tokens * k_row);
  format(s.rows).from_float(k, to, tokens * k_row);
  format(s.rows).from_float(v, values, tokens * v_row);
}

// All pairs of one rank: queries of its stretches, keys wherever they come from.
class Pairs {
 public:
  Pairs(Device& device, const RingShape& shape, const RingTensors& mine) : device_(device), s_(shape), mine_(mine) {
    std::fill(mine.o.begin(), mine.o.end(), 0.0f);
    std::fill(mine.lse.begin(), mine.lse.end(), -std::numeric_limits<float>::infinity());
  }

  // Queries of a stretch, whose rows begin at row `at` of ours, over the keys of another that lie at `pages` in the device's memory.
  void attend(const Stretch& queries, int64_t at, const Stretch& keys, std::byte* pages, RingTimes& times) {
    for (int64_t from = 0; from < queries.count; from += query_tokens) {
      const Stretch part = {queries.first + from, std::min(query_tokens, queries.count - from)};
      if (keys.count > 0 && (!s_.causal || keys.first < part.first + part.count)) pair(part, at + from, keys, pages, times);
    }
  }

 private:
  void pair(const Stretch& queries, int64_t at, const Stretch& keys, std::byte* pages, RingTimes& times) {
    const bool masked = s_.causal && keys.first + keys.count > queries.first;
    check(!masked || keys.first <= queries.first, "ring: keys from ", keys.first, " on begin among queries from ", queries.first, " on");
    const int64_t n = queries.count, H = s_.heads, N = pages_of(keys.count);
    std::vector<int32_t> page(static_cast<size_t>(N)), seq(static_cast<size_t>(n)), pos(static_cast<size_t>(n));
    for (int64_t i = 0; i < N; ++i) page[size_t(i)] = int32_t(i);
    for (int64_t i = 0; i < n; ++i) pos[size_t(i)] = int32_t(queries.first - keys.first + i);
    const auto length = int32_t(keys.count);
    auto graph = std::make_unique<Graph>();
    const auto ints = [&](const char* name, const Shape& shape, const int32_t* from) { return graph->constant(name, I32, shape, from); };
    const Tensor k = Tensor::of(s_.rows, {N, page_tokens, s_.groups, s_.head_size}, pages);
    const Tensor v = Tensor::of(s_.rows, {N, page_tokens, s_.groups, s_.value_size}, pages + k.bytes());
    const Attend part = graph->record(Attend{
        .q = graph->input("q", F32, {n, H, s_.head_size}), .k = k, .v = v, .page = ints("page", {1, N}, page.data()),
        .seq = ints("seq", {n}, seq.data()), .pos = ints("pos", {n}, pos.data()), .length = ints("length", {1}, &length), .scale = s_.scale,
        .softcap = s_.softcap, .window = s_.window, .causal = masked});
    graph->output("o", part.o), graph->output("lse", part.lse);
    const std::unique_ptr<Program> program = device_.compile(std::move(graph));
    const int64_t q_row = H * s_.head_size;
    std::copy_n(mine_.q.begin() + at * q_row, n * q_row, program->input("q").at<float>());
    {
      const Stopwatch watch(times.attend);
      program->run();
    }
    const Stopwatch watch(times.merge);
    merge(program->output("o"), program->output("lse"), at);
    ++times.pairs;
  }

  // Into what is there. A few numbers for each of a pair's many products: the host does it.
  void merge(const Tensor& o, const Tensor& lse, int64_t at) {
    Merge op{.a = Tensor::of(F32, o.shape, mine_.o.data() + at * o.dim(1) * o.dim(2)), .b = o,
             .a_lse = Tensor::of(F32, lse.shape, mine_.lse.data() + at * o.dim(1)), .b_lse = lse};
    op.shape();
    op.o = op.a, op.lse = op.a_lse;
    op.reference({});
  }

  Device& device_;
  const RingShape& s_;
  const RingTensors& mine_;
};

void check_sizes(const RingShape& s, int64_t tokens, const RingTensors& t) {
  check(s.heads > 0 && s.groups > 0 && s.heads % s.groups == 0, "ring: ", s.heads, " heads cannot share ", s.groups, " key groups");
  check(s.rows == F32 || s.rows == F16 || s.rows == BF16, "ring: keys and values of ", format(s.rows).name, ", expected f32, f16 or bf16");
  const auto fits = [&](size_t have, int64_t row, const char* what) {
    check(int64_t(have) == tokens * row, "ring: ", what, " has ", have, " numbers, expected ", tokens, " tokens of ", row);
  };
  fits(t.q.size(), s.heads * s.head_size, "q"), fits(t.k.size(), s.groups * s.head_size, "k");
  fits(t.v.size(), s.groups * s.value_size, "v"), fits(t.o.size(), s.heads * s.value_size, "o"), fits(t.lse.size(), s.heads, "lse");
}

}  // namespace

int64_t RingShape::page_bytes() const { return bytes_of(rows, page_tokens * groups * (head_size + value_size)); }

std::vector<Stretch> ring_share(RingLayout layout, int64_t tokens, int ranks, int rank) {
  const int64_t blocks = layout == RingLayout::zigzag ? 2 * int64_t(ranks) : ranks, size = (tokens + blocks - 1) / blocks;
  const auto block = [&](int64_t i) {
    const int64_t first = std::min(i * size, tokens);
    return Stretch{first, std::min(first + size, tokens) - first};
  };
  if (layout == RingLayout::contiguous) return {block(rank)};
  return {block(rank), block(blocks - 1 - rank)};
}

RingTimes ring_attention(Ring& ring, Device& device, const RingShape& shape, RingLayout layout, int64_t tokens, const RingTensors& mine) {
  const auto share = [&](int rank) { return ring_share(layout, tokens, ring.size(), rank); };
  const std::vector<Stretch> queries = share(ring.rank());
  int64_t own = 0, most = 0;
  for (const Stretch& part : queries) own += part.count;
  check_sizes(shape, own, mine);
  for (int rank = 0; rank < ring.size(); ++rank) {
    int64_t its = 0;
    for (const Stretch& part : share(rank)) its += pages_of(part.count);
    most = std::max(most, its);
  }
  std::vector<std::byte> here(size_t(most * shape.page_bytes())), next(here.size());
  int64_t at = 0, byte = 0;
  for (const Stretch& part : queries) {
    pack(shape, mine.k.data() + at * shape.groups * shape.head_size, mine.v.data() + at * shape.groups * shape.value_size, part.count,
         here.data() + byte);
    at += part.count, byte += pages_of(part.count) * shape.page_bytes();
  }
  Pages pages(device, shape, most);
  Pairs pairs(device, shape, mine);
  RingTimes times;
  for (int round = 0; round < ring.size(); ++round) {
    const bool more = round + 1 < ring.size();
    if (more) ring.send(here), times.bytes_sent += int64_t(here.size());
    if (pages.bytes > 0) device.upload(pages.data, here.data(), pages.bytes);
    byte = 0;
    for (const Stretch& keys : share((ring.rank() - round + ring.size()) % ring.size())) {
      at = 0;
      for (const Stretch& part : queries) {
        pairs.attend(part, at, keys, pages.data + byte, times);
        at += part.count;
      }
      byte += pages_of(keys.count) * shape.page_bytes();
    }
    if (!more) break;
    const Stopwatch watch(times.exchange);
    ring.receive(next);
    ring.flush();
    here.swap(next);
  }
  return times;
}

RingTimes attend_streamed(Device& device, const RingShape& shape, int64_t tokens, const RingTensors& all, int64_t kv_bytes) {
  check_sizes(shape, tokens, all);
  const int64_t held = std::min(kv_bytes / shape.page_bytes(), pages_of(tokens));
  check(held > 0 || tokens == 0, "ring: ", kv_bytes, " bytes for keys and values, but one page of ", page_tokens, " tokens takes ",
        shape.page_bytes());
  Pages pages(device, shape, held);
  std::vector<std::byte> staged(size_t(pages.bytes));
  Pairs pairs(device, shape, all);
  RingTimes times;
  for (int64_t first = 0; first < tokens; first += held * page_tokens) {
    const Stretch keys = {first, std::min(held * page_tokens, tokens - first)};
    {
      const Stopwatch watch(times.exchange);
      pack(shape, all.k.data() + first * shape.groups * shape.head_size, all.v.data() + first * shape.groups * shape.value_size, keys.count,
           staged.data());
      const int64_t bytes = pages_of(keys.count) * shape.page_bytes();
      device.upload(pages.data, staged.data(), bytes);
      times.bytes_sent += bytes;
    }
    const int64_t begin = shape.causal ? first : 0;   // queries before these keys do not see them; those among them come with them
    pairs.attend({begin, std::min(keys.first + keys.count, tokens) - begin}, begin, keys, pages.data, times);
    const int64_t rest = keys.first + keys.count;
    if (rest < tokens) pairs.attend({rest, tokens - rest}, rest, keys, pages.data, times);
  }
  return times;
}

}  // namespace folio
