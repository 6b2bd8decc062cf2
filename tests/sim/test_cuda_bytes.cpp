// SPDX-License-Identifier: MIT
// What kernels read from and write to global memory, to the byte, against the formula of the op: weights once, activations as often as
// there are tiles, results once. The simulator counts every access through the lib as a thread makes it: what a cache would spare is
// counted each time, so what threads read together (a row's id, a block's scale) stands in the formulas as often as they do. Not counted
// are the ids and plans of attention, plain ints that all threads of a block read alike: some hundred bytes for each block of keys.
#include <gtest/gtest.h>

#include "cuda/matmul_few.cuh"
#include "cuda/matmul_many.cuh"
#include "frame.h"
#include "sim.h"

namespace folio {
namespace {

struct Traffic {
  int64_t read = 0, written = 0;
  bool operator==(const Traffic&) const = default;
  Traffic& operator+=(const Traffic& more) { return read += more.read, written += more.written, *this; }
};
std::ostream& operator<<(std::ostream& out, const Traffic& t) { return out << t.read << " read, " << t.written << " written"; }

constexpr int processors = 4;

// Of one run of a graph of that op, by the kernels of a chip that can do `tier`.
template <class Op> Traffic traffic(const Op& op, int tier = 80) {
  const sim::Use use(sim::Config{.compute_capability = tier, .multiprocessors = processors});
  auto graph = std::make_unique<Graph>();
  graph->record(op);
  const auto program = cuda()->compile(std::move(graph));
  sim::stats() = {};
  program->run();
  const sim::Stats& s = sim::stats();
  EXPECT_EQ(s.tma_bytes, 0u);  // which has no direction here
  return {int64_t(s.loaded_bytes + s.cp_async_bytes), int64_t(s.stored_bytes)};
}

int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
int64_t over(int64_t n, int64_t by) { return (n + by - 1) / by; }
constexpr DType plain[] = {F32, F16, BF16};

// --- Elements and rows.

TEST(Bytes, OfElements) {
  Inputs in;
  for (int64_t cols : {1000, 33}) {  // four at a time, and one
    const int64_t n = 7 * cols;
    const Tensor x = in.normal({7, cols}), y = in.normal({7, cols}), row = in.normal({cols});
    EXPECT_EQ(traffic(Add{.a = x, .b = y}), (Traffic{8 * n, 4 * n}));
    EXPECT_EQ(traffic(Add{.a = x, .b = row}), (Traffic{8 * n, 4 * n}));  // the row comes from L1 after its first time
    EXPECT_EQ(traffic(Glu{.gate = x, .up = y}), (Traffic{8 * n, 4 * n}));
    EXPECT_EQ(traffic(Scale{.x = x, .factor = 2}), (Traffic{4 * n, 4 * n}));
    EXPECT_EQ(traffic(Activate{.x = x, .act = Act::silu}), (Traffic{4 * n, 4 * n}));
    EXPECT_EQ(traffic(Softcap{.x = x, .cap = 30}), (Traffic{4 * n, 4 * n}));
  }
}

TEST(Bytes, OfCasts) {
  Inputs in;
  const int64_t n = 5 * 320;
  for (DType type : {F32, F16, BF16, Q8_0, Q4_0}) {
    const bool blocks = format(type).block > 1;
    EXPECT_EQ(traffic(Cast{.x = in.normal({5, 320}), .to = type}), (Traffic{4 * n, bytes_of(type, n)})) << format(type).name;
    // Of a block four elements at a time: two words of two bytes and, each time, the scale.
    const int64_t read = blocks ? n / 4 * 6 : bytes_of(type, n);
    EXPECT_EQ(traffic(Cast{.x = in.normal({5, 320}, type), .to = F32}), (Traffic{read, 4 * n})) << format(type).name;
  }
}

// A row is read again for each sum over it, and once more for the result; weights and shifts once for each row.
TEST(Bytes, OfNorms) {
  Inputs in;
  for (int64_t cols : {64, 300, 2048, 515}) {  // a warp to a row, a block to a row
    const int64_t n = 6 * cols;
    const Tensor x = in.normal({6, cols}), w = in.near(1, {cols}), b = in.normal({cols});
    EXPECT_EQ(traffic(RmsNorm{.x = x, .w = w}), (Traffic{(4 + 4 + 4) * n, 4 * n})) << cols;
    EXPECT_EQ(traffic(LayerNorm{.x = x, .w = w}), (Traffic{(3 * 4 + 4) * n, 4 * n})) << cols;
    EXPECT_EQ(traffic(LayerNorm{.x = x, .w = w, .b = b}), (Traffic{(3 * 4 + 4 + 4) * n, 4 * n})) << cols;
  }
}

// Threads that stand along a row of that many columns, `each` to a thread.
int64_t along(int64_t cols, int64_t each) {
  const int64_t units = over(cols, each), block = int64_t(std::bit_ceil(uint64_t(std::min<int64_t>(units, 256))));
  return up(units, block);
}

TEST(Bytes, OfRowsThatMove) {
  Inputs in;
  for (int64_t cols : {2048, 96}) {
    const int64_t n = 9 * cols, ids = 4 * 9 * along(cols, 4);
    const Tensor token = in.ids(0, 50, {9});
    for (DType type : {F32, F16, BF16, Q8_0, Q4_0}) {
      const int64_t read = format(type).block > 1 ? n / 4 * 6 : bytes_of(type, n);
      EXPECT_EQ(traffic(Embed{.token = token, .w = in.normal({50, cols}, type)}), (Traffic{read + ids, 4 * n})) << format(type).name;
      // seq, pos and page id; blocks of a quantised format are written by a warp, a lane to an element.
      const int64_t places = 3 * 4 * 9 * (format(type).block > 1 ? cols : along(cols, 4));
      const Append append{.x = in.normal({9, 1, cols}), .page = in.ints({1, 2}, {1, 0}), .seq = in.ids(0, 1, {9}),
                          .pos = in.ints({9}, {60, 61, 62, 63, 64, 65, 66, 67, 68}), .pool = in.normal({2, 64, 1, cols}, type)};
      EXPECT_EQ(traffic(append), (Traffic{4 * n + places, bytes_of(type, n)})) << format(type).name;
    }
    EXPECT_EQ(traffic(Gather{.x = in.normal({20, cols}), .index = in.ids(0, 20, {9})}), (Traffic{4 * n + ids, 4 * n}));
    const Tensor none = in.ints({9}, std::vector<int32_t>(9, -1));
    EXPECT_EQ(traffic(Gather{.x = in.normal({20, cols}), .index = none}), (Traffic{ids, 4 * n}));  // zeros are not read
  }
}

// --- Matmul.

Matmul product(Inputs& in, DType type, int64_t tokens, int64_t features, int64_t k, bool gate, bool extras = false) {
  Matmul op{.x = in.normal({tokens, k}), .w = in.normal({features, k}, type)};
  if (gate) op.gate = in.normal({features, k}, type);
  if (extras) op.bias = in.normal({features}), op.add = in.normal({tokens, features});
  return op;
}

// The way of a sum into y: bias and add for each result, and the result.
Traffic results(const Matmul& op) {
  const int64_t n = op.x.dim(0) * op.w.dim(0);
  return {4 * n * (op.bias.present() + op.add.present()), 4 * n};
}

// A row's blocks in stages of `blocks`, each copied as whole vectors from the one that holds its first byte on.
int64_t row_in_stages(DType type, int64_t row, int64_t k, int64_t blocks, int64_t vectors) {
  const int64_t begin = row * bytes_of(type, k), end = begin + bytes_of(type, k);
  int64_t sum = 0;
  for (int64_t at = begin; at < end; at += blocks * format(type).bytes) {
    const int64_t low = at / 16 * 16;
    sum += std::min(16 * vectors, end - low);
  }
  return sum;
}

// Tokens in int8: read once, written as whole records of 32 blocks.
Traffic rounding_to_bytes(const Matmul& op) {
  return {4 * op.x.count(), op.x.dim(0) * over(op.x.cols(), 32 * TokenRecord::blocks) * TokenRecord::bytes};
}
constexpr int64_t record_block = TokenRecord::bytes / TokenRecord::blocks;  // a block and its scale

// Few tokens. A warp takes FewTile::rows rows at a time; padded to 1, 2, 4 or 8, all tokens meet them. Where rows are split among
// the warps of a block, each warp meets its part of a token, so nothing changes.
template <int Tokens, bool Gate> Traffic few(const Matmul& op) {
  using Tile = FewTile<Tokens, Gate>;
  const DType type = op.w.type;
  const int64_t features = op.w.dim(0), k = op.x.cols();
  const int64_t worth = 64 * (format(type).block > 1 ? 32 : 16 / format(type).bytes);
  const bool split = features <= 16 * processors && k >= worth;
  const int64_t tiles = split ? over(features, Tile::features) : up(over(features, Tile::features), few_warps);
  Traffic sum = results(op);
  for (int64_t tile = 0; tile < tiles; ++tile)
    for (int64_t f = 0; f < Tile::features; ++f) {
      const int64_t row = std::min(tile * Tile::features + f, features - 1);  // tiles past the end read the last row, and drop it
      const int64_t once = format(type).block > 1 ? row_in_stages(type, row, k, 32, 32 * format(type).bytes / 16 + 1) : bytes_of(type, k);
      sum.read += (Gate ? 2 : 1) * once;
    }
  sum.read += tiles * Tokens * (format(type).block > 1 ? k / 32 * record_block : 4 * k);
  if (format(type).block > 1) sum += rounding_to_bytes(op);
  return sum;
}

template <bool Gate> void expect_few(Inputs& in, DType type) {
  SCOPED_TRACE(std::string(format(type).name) + (Gate ? ", gated" : ""));
  const auto check = [&](auto tokens, int64_t most, int64_t features, int64_t k, bool extras) {
    const Matmul op = product(in, type, most, features, k, Gate, extras);
    EXPECT_EQ(traffic(op), (few<tokens(), Gate>(op))) << most << " tokens, " << features << " features, k " << k;
  };
  using std::integral_constant;
  check(integral_constant<int, 1>(), 1, 96, 512, true);
  check(integral_constant<int, 1>(), 1, 24, 4096, false);  // rows split among warps
  check(integral_constant<int, 1>(), 1, 67, 288, false);
  check(integral_constant<int, 2>(), 2, 96, 512, false);
  check(integral_constant<int, 4>(), 3, 96, 512, true);
  check(integral_constant<int, 8>(), 8, 96, 544, false);
  check(integral_constant<int, 8>(), 5, 67, 288, false);
}

TEST(Bytes, OfMatmulWithFewTokens) {
  Inputs in;
  for (DType type : {F32, F16, BF16, Q8_0, Q4_0}) expect_few<false>(in, type), expect_few<true>(in, type);
  // What that comes to where nothing is ragged: the weights once, and for each two rows a token.
  const Matmul one = product(in, F16, 1, 128, 1024, false);
  EXPECT_EQ(traffic(one), (Traffic{one.w.bytes() + 64 * 4 * 1024, 4 * 128}));
}

// --- Experts.

// One token reads, of each stack, what its experts have: as many Matmuls of one token. And which they are, each thread for itself.
template <bool Gate> void expect_experts(Inputs& in, DType type) {
  SCOPED_TRACE(std::string(format(type).name) + (Gate ? ", gated" : ""));
  const int64_t experts = 16, features = 96, k = 512;
  ExpertMatmul op{.x = in.normal({1, k}), .chosen = in.ints({1, 3}, {9, 0, 4}), .w = in.normal({experts, features, k}, type)};
  if (Gate) op.gate = in.normal({experts, features, k}, type);
  const Matmul one = product(in, type, 1, features, k, Gate);
  Traffic want;
  for (int i = 0; i < 3; ++i) want += few<1, Gate>(one);
  want.read += 3 * over(features, FewTile<1, Gate>::features * few_warps) * 32 * few_warps * 4;
  EXPECT_EQ(traffic(op), want);
}

TEST(Bytes, OfTheExpertsOfOneToken) {
  Inputs in;
  for (DType type : {F32, F16, BF16, Q8_0, Q4_0}) expect_experts<false>(in, type), expect_experts<true>(in, type);
}

// Of 64 experts all tokens choose two: with activations and ids it is less than a quarter of the stack.
TEST(Bytes, OfExpertsOfManyTokens) {
  Inputs in;
  for (DType type : {F32, F16, BF16, Q8_0, Q4_0, F8_E4M3}) {
    ExpertMatmul op{.x = in.normal({40, 512}), .chosen = in.ids(0, 1, {40, 2}), .w = in.normal({64, 96, 512}, type)};
    for (int64_t t = 0; t < 40; ++t) op.chosen.row<int32_t>(t)[0] = 5, op.chosen.row<int32_t>(t)[1] = 9;
    ExpertMatmul few = op;
    few.w = op.w.slice(0, 10);   // the 54 experts behind them would add 54/64; what comes is blocks that look for work
    EXPECT_LT(traffic(op).read - traffic(few).read, op.w.bytes() / 4) << format(type).name;
  }
}

// --- Matmul again.

// Many tokens: a block for each tile; all of its rows for each tile of tokens, all tokens for each tile of rows.
template <class Tile> Traffic many(const Matmul& op) {
  const DType type = op.w.type;
  const int64_t gates = op.gate.present() ? 2 : 1, tokens = op.x.dim(0), k = op.x.cols(), features = op.w.dim(0);
  const int64_t token_tiles = over(tokens, Tile::tokens), row_tiles = over(features, Tile::rows / gates);
  const auto all_rows = [&](auto bytes_of_row) {
    int64_t sum = 0;
    for (int64_t f = 0; f < row_tiles * (Tile::rows / gates); ++f) sum += gates * bytes_of_row(std::min(f, features - 1));
    return sum;
  };
  Traffic sum = results(op);
  if constexpr (std::is_same_v<Tile, FloatTile>) {
    sum.read += token_tiles * all_rows([&](int64_t) { return 4 * k; }) + row_tiles * tokens * 4 * k;
  } else if (format(type).block > 1) {
    const int64_t blocks = 4, vectors = (14 + blocks * format(type).bytes + 15) / 16;
    sum.read += token_tiles * all_rows([&](int64_t row) { return row_in_stages(type, row, k, blocks, vectors); });
    sum.read += row_tiles * tokens * up(k / 32, blocks) * record_block;
    sum += rounding_to_bytes(op);
  } else {
    const bool half = type == F16;
    const int64_t terms = half ? 2 : 1, step = 32 * Tile::k_warps;
    sum.read += token_tiles * all_rows([&](int64_t) { return 2 * k; }) + row_tiles * tokens * terms * 2 * up(k, step);
    // Rounding: read, for f16 once more to find the largest; written as rows of 128 numbers, with a factor for f16.
    sum += {terms * 4 * tokens * k, tokens * (terms * 2 * up(k, 128) + (half ? 4 : 0))};
    if (half) sum.read += token_tiles * row_tiles * (Tile::threads / Tile::k_warps) * Tile::M * 2 * 4;  // each thread its tokens' factors
  }
  return sum;
}

template <class Wide> void expect_many(Inputs& in, DType type) {
  for (bool gate : {false, true}) {
    SCOPED_TRACE(std::string(format(type).name) + (gate ? ", gated" : ""));
    const Matmul wide = product(in, type, 129, 256, 96, gate), middle = product(in, type, 50, 128, 96, gate, true);
    const Matmul narrow = product(in, type, 20, 40, 320, gate);
    EXPECT_EQ(traffic(wide), many<Wide>(wide));
    EXPECT_EQ(traffic(middle), (many<std::conditional_t<std::is_same_v<Wide, FloatTile>, FloatTile, MiddleTile>>(middle)));
    EXPECT_EQ(traffic(narrow), (many<std::conditional_t<std::is_same_v<Wide, FloatTile>, FloatTile, NarrowTile>>(narrow)));
  }
}

TEST(Bytes, OfMatmulWithManyTokens) {
  Inputs in;
  expect_many<FloatTile>(in, F32);
  for (DType type : {F16, BF16}) expect_many<WideTile>(in, type);
  for (DType type : {Q8_0, Q4_0}) expect_many<WideByteTile>(in, type);
}

// --- Attention.

// Sequences of that length, of each the last `fresh` tokens.
Attend attention(Inputs& in, DType type, int64_t sequences, int length, int fresh, int64_t heads, int64_t groups, int64_t size) {
  const int64_t pages = over(length, page_tokens), tokens = sequences * fresh;
  std::vector<int32_t> seq, pos;
  for (int64_t i = 0; i < tokens; ++i) seq.push_back(int32_t(i / fresh)), pos.push_back(int32_t(length - fresh + i % fresh));
  return {.q = in.normal({tokens, heads, size}),
          .k = in.normal({sequences * pages, page_tokens, groups, size}, type),
          .v = in.normal({sequences * pages, page_tokens, groups, size}, type),
          .page = in.shuffled({sequences, pages}),
          .seq = in.ints({tokens}, seq),
          .pos = in.ints({tokens}, pos),
          .scale = 1 / std::sqrt(float(size))};
}

// Tokens of a sequence that stand together in a unit of `rows` rows, with all heads of a group, read their keys once: those that the last
// of them sees. A sequence of many keys is cut into parts (attend_plan.cuh), which read the queries each, leave their sums in slots, and
// have them read by the last: of each part a weight, twice the maximum, and the sum, for every number.
Traffic attends(const Attend& op, int64_t rows, int64_t step) {
  const int64_t groups = op.k.dim(2), heads = op.q.dim(1) / groups, size = op.q.dim(2), width = op.v.dim(3), tokens = op.q.dim(0);
  const int64_t at_once = rows / heads, slices = groups;
  struct Tile { int64_t tokens, keys; };
  std::vector<Tile> tiles;
  for (int64_t t = 0; t < tokens; ++t) {
    const bool starts = t == 0 || op.seq.at<int32_t>()[t] != op.seq.at<int32_t>()[t - 1] || tiles.back().tokens == at_once;
    if (starts) tiles.push_back({0, 0});
    ++tiles.back().tokens;
    tiles.back().keys = op.pos.at<int32_t>()[t] + 1;
  }
  int64_t blocks = 0;
  for (const Tile& tile : tiles) blocks += over(tile.keys, step);
  const int64_t shares = std::max<int64_t>(processors * (size + width <= 128 ? 4 : 2) / slices, 1);
  const int64_t fair = std::max(256 / step, blocks / shares + 1);
  Traffic sum{0, 4 * op.q.rows() * (width + 1)};  // o and lse
  for (const Tile& tile : tiles) {
    const int64_t parts = over(over(tile.keys, step), fair), real = slices * tile.tokens * heads;
    sum.read += slices * tile.keys * (bytes_of(op.k.type, size) + bytes_of(op.v.type, width)) + parts * real * 4 * size;
    if (parts > 1) sum += {parts * real * width * 4 * 4, parts * real * 4 * (width + 2)};
  }
  return sum;
}

TEST(Bytes, OfAttentionWhenDecoding) {
  Inputs in;
  for (DType type : plain) {
    const int64_t step = type == F32 ? 32 : 64;
    for (int length : {1, 63, 200, 256}) {  // one part
      const Attend op = attention(in, type, 3, length, 1, 6, 2, 64);
      EXPECT_EQ(traffic(op), attends(op, 16, step)) << format(type).name << " " << length;
    }
    const Attend drafts = attention(in, type, 2, 150, 3, 8, 2, 64), far = attention(in, type, 1, 1500, 1, 4, 1, 64);
    EXPECT_EQ(traffic(drafts), attends(drafts, 16, step)) << format(type).name;
    EXPECT_EQ(traffic(far), attends(far, 16, step)) << format(type).name;  // six parts
  }
}

TEST(Bytes, OfAttentionOverAPrompt) {
  Inputs in;
  for (DType type : plain)
    for (int64_t size : {64, 96, 128}) {
      const Attend op = attention(in, type, 1, 150, 130, 4, 2, size);
      EXPECT_EQ(traffic(op), attends(op, 64, 32)) << format(type).name << " " << size;
    }
}

}  // namespace
}  // namespace folio
