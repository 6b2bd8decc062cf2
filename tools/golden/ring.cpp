// SPDX-License-Identifier: MIT
// Golden cases of ring attention: as many ranks as the file says, each a thread with a CPU of its own whatever device is named (a card is
// not shared between threads; attention in pieces is the same op there). Who owns which token is compared as well.
#include "models/ring.h"

#include <algorithm>
#include <exception>
#include <thread>

#include "base/error.h"
#include "tools/golden/golden.h"

namespace folio::golden {

namespace {

// Rows of sequence b, [T, row], of the rank's tokens.
std::vector<float> mine_of(const Rows& rows, int64_t b, int64_t tokens, const std::vector<Stretch>& share) {
  const int64_t row = rows.row.count();
  std::vector<float> mine;
  for (const Stretch& s : share) {
    const auto from = rows.numbers.begin() + (b * tokens + s.first) * row;
    mine.insert(mine.end(), from, from + s.count * row);
  }
  return mine;
}

// Results of the rank's tokens, [n, H, D], into all of [B, H, T, D].
void put(const std::vector<float>& mine, const std::vector<Stretch>& share, int64_t b, int64_t heads, int64_t tokens, int64_t width,
         std::vector<double>& all) {
  int64_t row = 0;
  for (const Stretch& s : share)
    for (int64_t t = s.first; t < s.first + s.count; ++t, ++row)
      for (int64_t i = 0; i < heads * width; ++i)
        all[size_t(((b * heads + i / width) * tokens + t) * width + i % width)] = mine[size_t(row * heads * width + i)];
}

// As the files name the tokens of a rank.
void expect_share(Case& c, int rank, const std::vector<Stretch>& share) {
  std::vector<double> tokens;
  for (const Stretch& s : share)
    for (int64_t t = s.first; t < s.first + s.count; ++t) tokens.push_back(double(t));
  check(c.file.read(join("out.idx_rank", rank)).numbers == tokens, c.file.path(), ": rank ", rank, " has other tokens");
}

}  // namespace

void ring(Case& c) {
  const Array in = c.in("q");
  check(in.dims.size() == 4, c.file.path(), ": 'in.q' is ", in.text(), ", expected (B, H, T, D)");
  const Rows q = rows_of(in), k = rows_of(c.in("k")), v = rows_of(c.in("v"));
  const int64_t B = in.dims[0], T = in.dims[2], H = q.row[0], width = v.row[1];
  const RingShape shape{.heads = H, .groups = k.row[0], .head_size = q.row[1], .value_size = width, .scale = float(c.meta("scale"))};
  const RingLayout layout = c.name == "ring_zigzag" ? RingLayout::zigzag : RingLayout::contiguous;
  const int ranks = int(c.meta("P"));
  std::vector<double> o(size_t(B * H * T * width)), lse(size_t(B * H * T));
  for (int64_t b = 0; b < B; ++b) {
    auto ring = thread_ring(ranks);
    std::vector<std::thread> threads;
    std::vector<std::exception_ptr> failed(static_cast<size_t>(ranks));
    const auto work = [&](int rank) {
      const std::unique_ptr<Ring> end = std::move(ring[size_t(rank)]);
      const auto share = ring_share(layout, T, ranks, rank);
      const auto mine_q = mine_of(q, b, T, share), mine_k = mine_of(k, b, T, share), mine_v = mine_of(v, b, T, share);
      std::vector<float> mine_o(mine_q.size() / size_t(shape.head_size) * size_t(width)), mine_lse(mine_q.size() / size_t(shape.head_size));
      const auto device = cpu(1);
      ring_attention(*end, *device, shape, layout, T, {mine_q, mine_k, mine_v, mine_o, mine_lse});
      put(mine_o, share, b, H, T, width, o);
      put(mine_lse, share, b, H, T, 1, lse);
    };
    for (int rank = 0; rank < ranks; ++rank)
      threads.emplace_back([&, rank] {
        try {
          work(rank);
        } catch (...) {
          failed[size_t(rank)] = std::current_exception();
        }
      });
    for (std::thread& thread : threads) thread.join();
    for (const std::exception_ptr& failure : failed)
      if (failure) std::rethrow_exception(failure);
  }
  for (int rank = 0; rank < ranks; ++rank) expect_share(c, rank, ring_share(layout, T, ranks, rank));
  c.expect("o", o);
  c.expect("lse", lse);
}

}  // namespace folio::golden
