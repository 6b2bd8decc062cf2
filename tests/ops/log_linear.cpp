// SPDX-License-Identifier: MIT
// Cases of log-linear attention. Rows and slabs that a step may not read are NaN. Earlier rows are random: what follows from them
// is the same sum whether or not a text could have left them.
#include <algorithm>

#include "frame.h"
#include "state/spec.h"

namespace folio {

// Sequences of these lengths, of each of which the last `fresh` tokens are new, then `padding` tokens that belong to nobody.
struct LogLinearWish {
  std::vector<int> lengths;
  int fresh = 1, heads = 2, groups = 1, K = 16, V = 16, levels = 12, padding = 0;
  int buckets = 0;           // of a slab: the delta rule; 0: Mamba-2
  bool kept = true;          // every new page has a slab; false: only those that a following step would read
  int most = 0;              // width of the page tables; 0: as wide as needed
};

namespace {

struct Builder {
  Inputs& in;
  const LogLinearWish& wish;
  std::vector<int32_t> seq, pos, page, slab;
  int64_t pages = 1, slabs = 1, most = 1;

  Tensor poisoned(const Shape& shape) {
    Tensor t = in.store().zeros(F32, shape);
    poison(F32, t.data, t.count());
    return t;
  }
  void copy_rows(const Tensor& from, const Tensor& to, int64_t row) {
    for (int64_t i = 0; i < from.rows(); ++i) std::copy_n(from.row<float>(i), from.cols(), to.row<float>(row * from.rows() + i));
  }
  void tables() {
    for (size_t b = 0; b < wish.lengths.size(); ++b)
      for (int j = std::max(0, wish.lengths[b] - wish.fresh); j < wish.lengths[b]; ++j) seq.push_back(int32_t(b)), pos.push_back(j);
    seq.insert(seq.end(), size_t(wish.padding), -1);
    pos.insert(pos.end(), size_t(wish.padding), 0);
    for (int length : wish.lengths) most = std::max<int64_t>({most, (length + page_tokens - 1) / page_tokens, wish.most});
    for (int length : wish.lengths) {
      const int64_t first = std::max(0, length - wish.fresh) / page_tokens, full = length / page_tokens;
      const bool chain = wish.buckets == 0;
      for (int64_t p = 0; p < most; ++p) {
        const bool there = p * page_tokens < length;
        page.push_back(there && p >= first ? int32_t(pages++) : -1);
        const bool before = p < first && slab_wanted(p, first, chain);
        slab.push_back(there && (before || (p >= first && (wish.kept || slab_wanted(p, full, chain)))) ? int32_t(slabs++) : -1);
      }
    }
  }
  void fill(LogLinear& op) {
    const int64_t H = wish.heads, K = wish.K, V = wish.V;
    op.rows_k = poisoned({pages, page_tokens, wish.groups, K});
    op.rows_u = poisoned({pages, page_tokens, H, V});
    op.rows_g = poisoned({pages, page_tokens, H, 1});
    if (wish.buckets > 0) op.rows_w = poisoned({pages, page_tokens, H, K}), op.rows_x = poisoned({pages, page_tokens, H, page_tokens});
    op.S = poisoned({slabs, H, wish.buckets > 0 ? wish.buckets * K : K, V});
    if (wish.buckets == 0) op.c = poisoned({slabs, H, 2});
    for (size_t b = 0; b < wish.lengths.size(); ++b) {
      const int64_t start = std::max(0, wish.lengths[b] - wish.fresh), first = start / page_tokens;
      earlier_rows(op, page[b * size_t(most) + size_t(first)], start % page_tokens);
      for (int64_t p = 0; p < first; ++p)
        if (const int32_t id = slab[b * size_t(most) + size_t(p)]; id >= 0) earlier_slab(op, id, p);
    }
  }
  void earlier_rows(const LogLinear& op, int64_t id, int64_t count) {
    const int64_t H = wish.heads;
    for (int64_t row = 0; row < count; ++row) {
      const int64_t at = id * page_tokens + row;
      copy_rows(in.normal({wish.groups, wish.K}, F32, 1 / std::sqrt(wish.K)), op.rows_k, at);
      copy_rows(in.normal({H, wish.V}), op.rows_u, at);
      copy_rows(in.uniform(-0.3, 0, {H, 1}), op.rows_g, at);
      if (!op.beta.present()) continue;
      copy_rows(in.normal({H, wish.K}, F32, 0.5 / std::sqrt(wish.K)), op.rows_w, at);
      Tensor x = in.normal({H, page_tokens}, F32, 0.05);
      for (int64_t h = 0; h < H; ++h) {
        std::fill_n(x.row<float>(h) + row, page_tokens - row, 0.0f);
        x.row<float>(h)[row] = 1;
      }
      copy_rows(x, op.rows_x, at);
    }
  }
  void earlier_slab(const LogLinear& op, int64_t id, int64_t p) {
    for (int64_t h = 0; h < wish.heads; ++h) {
      for (int m = 0; m < std::max(wish.buckets, 1); ++m)
        if (wish.buckets == 0 || ((p + 1) >> m & 1))
          copy_rows(in.normal({wish.K, wish.V}), op.S, (id * wish.heads + h) * std::max(wish.buckets, 1) + m);
      if (!op.c.present()) continue;
      // Far on, so that floats alone could not tell how much has decayed since.
      const double sum = -100000 - 0.3 * double(p) - 0.01 * in.random().uniform();
      op.c.row<float>(id * wish.heads + h)[0] = float(sum);
      op.c.row<float>(id * wish.heads + h)[1] = float(sum - float(sum));
    }
  }
};

}  // namespace

LogLinear log_linear(Inputs& in, const LogLinearWish& wish) {
  Builder make{in, wish};
  make.tables();
  const auto T = int64_t(make.seq.size()), B = int64_t(wish.lengths.size());
  const double one = 1 / std::sqrt(wish.K);   // keys about as long as normalised ones
  LogLinear op{.q = in.normal({T, wish.groups, wish.K}), .k = in.normal({T, wish.groups, wish.K}, F32, one),
               .v = in.normal({T, wish.heads, wish.V}), .g = in.uniform(-0.3, 0, {T, wish.heads}),
               .lambda = in.uniform(0, 2, {T, wish.heads, wish.levels})};
  if (wish.buckets > 0) op.beta = in.uniform(0, 1, {T, wish.heads});
  op.page = in.ints({B, make.most}, make.page);
  op.slab = in.ints({B, make.most}, make.slab);
  op.seq = in.ints({T}, make.seq);
  op.pos = in.ints({T}, make.pos);
  make.fill(op);
  return op;
}

// Sums in f32 may be off by this much of the largest number.
static std::vector<Tensor> allowed(Inputs& in, const LogLinear& op) {
  Instance<LogLinear> plain(op, Layout::packed, 1);
  Results want;
  run_plain(plain, want);
  std::vector<Tensor> all;
  for (const Tensor& t : want.tensors) {
    float most = 0;
    for (double x : elements(t)) most = std::isfinite(x) ? std::max(most, std::fabs(float(x))) : most;
    Tensor may = in.store().zeros(F32, t.shape);
    std::fill_n(may.at<float>(), may.count(), (op.beta.present() ? 1e-5f : 5e-6f) * most);
    all.push_back(may);
  }
  return all;
}

// Three tokens of one number: o_t = λ_t[0] u_t + …, levels of (1, 0) and (2, 0), (2, 1) are 1, 2 and 2.
static void known_numbers(CaseList<LogLinear>& list) {
  const float half = std::log(0.5f);
  auto numbers = [&](const Shape& shape, std::vector<float> first) {
    first.resize(size_t(shape.count()));
    return list.values(shape, first);
  };
  LogLinear op{.q = list.values({3, 1, 1}, {1, 1, 1}), .k = list.values({3, 1, 1}, {1, 1, 1}), .v = list.values({3, 1, 1}, {1, 2, 4}),
               .g = list.values({3, 1}, {0, half, half}), .lambda = list.values({3, 1, 3}, {1, 0, 0, 1, 2, 0, 0.5f, 7, 3}),
               .page = list.ints({1, 1}, {0}), .slab = list.ints({1, 1}, {-1}), .seq = list.ints({3}, {0, 0, 0}),
               .pos = list.ints({3}, {0, 1, 2})};
  const Shape rows = {1, 64, 1, 1}, slab = {1, 1, 1, 1};
  op.rows_k = numbers(rows, {}), op.rows_u = numbers(rows, {}), op.rows_g = numbers(rows, {});
  op.S = numbers(slab, {9}), op.c = numbers({1, 1, 2}, {8});
  auto put = [&](std::vector<float> o) {
    list.known(op, {list.values({3, 1, 1}, o), numbers(rows, {1, 1, 1}), numbers(rows, {1, 2, 4}), numbers(rows, {0, half, half}),
                    numbers(slab, {9}), numbers({1, 1, 2}, {8})});
  };
  put({1, 3, 5.75f});
  op.lambda = list.values({3, 1, 2}, {1, 0, 1, 2, 0.5f, 7});   // level 2 is beyond the table
  put({1, 3, 2});
  op.lambda = list.values({3, 1, 3}, {1, 0, 0, 1, 2, 0, 0.5f, 7, 3});
  op.beta = list.values({3, 1}, {0.5f, 0.5f, 0.5f}), op.g = numbers({3, 1}, {}), op.c = {};
  op.rows_w = numbers(rows, {}), op.rows_x = numbers({1, 64, 1, 64}, {});
  std::vector<float> x(3 * 64);
  x[0] = 1, x[64] = -0.5f, x[65] = 1, x[128] = -0.25f, x[129] = -0.5f, x[130] = 1;
  list.known(op, {list.values({3, 1, 1}, {0.5f, 1.5f, 2.875f}), numbers(rows, {1, 1, 1}), numbers(rows, {0.5f, 1, 2}),
                  numbers(rows, {}), numbers(rows, {0.5f, 0.25f, 0.125f}), numbers({1, 64, 1, 64}, x), numbers(slab, {9})});
  // The 129th token: bucket 1, that of both pages, made at the end of the second.
  op = {.q = list.values({1, 1, 1}, {2}), .k = list.values({1, 1, 1}, {1}), .v = list.values({1, 1, 1}, {3}),
        .g = list.values({1, 1}, {half}), .lambda = list.values({1, 1, 9}, {1, 5, 5, 5, 5, 5, 5, 7, 3}),
        .page = list.ints({1, 3}, {-1, -1, 0}), .slab = list.ints({1, 3}, {-1, 0, -1}), .seq = list.ints({1}, {0}), .pos = list.ints({1}, {128})};
  op.rows_k = numbers(rows, {}), op.rows_u = numbers(rows, {}), op.rows_g = numbers(rows, {});
  op.S = numbers(slab, {2}), op.c = numbers({1, 1, 2}, {-5});
  list.known(op, {list.values({1, 1, 1}, {12}), numbers(rows, {1}), numbers(rows, {3}), numbers(rows, {half}), numbers(slab, {2}),
                  numbers({1, 1, 2}, {-5})});
}

CASES(LogLinear) {
  known_numbers(*this);
  auto put = [this](const LogLinearWish& wish) {
    const LogLinear op = log_linear(*this, wish);
    add(op, allowed(*this, op));
  };
  for (int buckets : {0, 3}) {
    for (int length : {1, 7, 64, 65, 129, 200}) put({.lengths = {length}, .fresh = length, .buckets = buckets});       // prompts
    for (int length : {64, 65, 128, 193, 448, 512}) put({.lengths = {length}, .buckets = buckets});                    // decoding
    put({.lengths = {300}, .fresh = 100, .buckets = buckets, .kept = false});                                          // pages nobody keeps
    put({.lengths = {8 * 64 + 5}, .fresh = 4 * 64 + 9, .buckets = buckets, .kept = false});
    put({.lengths = {8 * 64}, .fresh = 8 * 64, .heads = 1, .buckets = buckets, .kept = false});
    put({.lengths = {5, 64, 1, 130, 257}, .fresh = 3, .padding = 2, .buckets = buckets});                              // a batch
    put({.lengths = {70, 200, 66}, .fresh = 68, .padding = 1, .buckets = buckets, .kept = false});
    put({.lengths = {130}, .fresh = 67, .heads = 4, .groups = 2, .K = 5, .V = 7, .buckets = buckets});                 // odd sizes
    put({.lengths = {200}, .fresh = 30, .heads = 3, .groups = 3, .K = 19, .V = 33, .levels = 5, .buckets = buckets});  // short tables
    put({.lengths = {460}, .fresh = 80, .levels = 8, .buckets = buckets > 0 ? 1 : 0});
    put({.lengths = {130}, .fresh = 3, .K = 128, .V = 128, .levels = 15, .buckets = buckets, .most = 40});             // as in models
    put({.lengths = {140}, .fresh = 80, .heads = 1, .K = 128, .V = 64, .levels = 15, .buckets = buckets});
  }
}

}  // namespace folio
