// SPDX-License-Identifier: MIT
// Golden cases of ring attention: as many ranks as the file says, each a thread with a CPU of its own whatever device is named (a card is
// not shared between threads; attention in pieces is the same op there). Who owns which token is compared as well.
#include "base/error.h"
#include "tools/golden/golden.h"
#include "tools/lib/ring_run.h"

namespace folio::golden {

namespace {

// Rows of sequence b, [T, row].
std::vector<float> of_sequence(const Rows& rows, int64_t b, int64_t tokens) {
  const auto from = rows.numbers.begin() + b * tokens * rows.row.count();
  return {from, from + tokens * rows.row.count()};
}

// Results of sequence b, [T, H, width], into all of [B, H, T, width].
void put(const std::vector<float>& from, int64_t b, int64_t heads, int64_t tokens, int64_t width, std::vector<double>& all) {
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < heads * width; ++i)
      all[size_t(((b * heads + i / width) * tokens + t) * width + i % width)] = from[size_t(t * heads * width + i)];
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
    RingText text(shape, T);
    text.q = of_sequence(q, b, T), text.k = of_sequence(k, b, T), text.v = of_sequence(v, b, T);
    run_ring(text, layout, ranks);
    put(text.o, b, H, T, width, o);
    put(text.lse, b, H, T, 1, lse);
  }
  for (int rank = 0; rank < ranks; ++rank) expect_share(c, rank, ring_share(layout, T, ranks, rank));
  c.expect("o", o);
  c.expect("lse", lse);
}

}  // namespace folio::golden
