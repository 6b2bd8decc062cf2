// SPDX-License-Identifier: MIT
// Cases of Linear. Rows that were not written yet and slabs that nobody may read are NaN: a kernel that lets them into a sum, were it
// with weight zero, is found out.
#include <algorithm>
#include <cmath>

#include "frame.h"

namespace folio {

namespace {

enum class Decay { none, constant, scalar, channel };

struct Part {
  int pos, count;   // tokens of one sequence in the step
};

struct Wish {
  std::vector<Part> parts;
  int groups = 1, heads = 2, keys = 16, width = 16, padding = 0;
  Decay decay = Decay::scalar;
  bool delta = false, normalise = false;
  double strength = 0.1;        // of the decay: a token's log decay lies between −strength and 0
  bool unkept = false;          // the slabs of the pages that fill are not wanted
};

// Rows of length one: what the delta rule expects of its keys.
Tensor unit_rows(Inputs& in, const Shape& shape) {
  const Tensor t = in.normal(shape);
  for (int64_t i = 0; i < t.rows(); ++i) {
    double sum = 0;
    for (int64_t c = 0; c < t.cols(); ++c) sum += double(t.row<float>(i)[c]) * t.row<float>(i)[c];
    for (int64_t c = 0; c < t.cols(); ++c) t.row<float>(i)[c] = float(t.row<float>(i)[c] / std::sqrt(sum));
  }
  return t;
}

// Where the sequences' pages lie, and the tables that say so.
struct Places {
  std::vector<int32_t> seq, pos, page, slab;
  int64_t most = 1, pages = 2;
};

Places places_of(Inputs& in, const Wish& wish) {
  Places at;
  for (size_t b = 0; b < wish.parts.size(); ++b) {
    const Part part = wish.parts[b];
    for (int i = 0; i < part.count; ++i) at.seq.push_back(int32_t(b)), at.pos.push_back(part.pos + i);
    const int64_t used = (part.pos + part.count + page_tokens - 1) / page_tokens;
    at.most = std::max(at.most, used);
    at.pages += used;
  }
  at.seq.insert(at.seq.end(), size_t(wish.padding), -1);
  at.pos.insert(at.pos.end(), size_t(wish.padding), 0);
  const Tensor pages = in.shuffled({at.pages}), slabs = in.shuffled({at.pages});
  int64_t next = 0;
  for (const Part& part : wish.parts)
    for (int64_t p = 0; p < at.most; ++p) {
      const bool used = p * page_tokens < part.pos + part.count, begun = p + 1 == part.pos / page_tokens;
      at.page.push_back(used ? pages.at<int32_t>()[next] : -1);
      at.slab.push_back(used && (begun || !wish.unkept) ? slabs.at<int32_t>()[next] : -1);
      next += used;
    }
  return at;
}

// A pool that is NaN but for the pages or rows that `wanted` names.
template <class Wanted>
Tensor pool(Inputs& in, const Shape& shape, const Tensor& from, int64_t units, Wanted wanted) {
  Tensor t = in.store().zeros(F32, shape);
  poison(F32, t.data, t.count());
  const int64_t each = t.count() / units;
  for (int64_t i = 0; i < units; ++i)
    if (wanted(i)) std::copy_n(from.at<float>() + i * each, each, t.at<float>() + i * each);
  return t;
}

Linear linear(Inputs& in, const Wish& wish) {
  const Places at = places_of(in, wish);
  const auto T = int64_t(at.seq.size()), B = int64_t(wish.parts.size()), N = at.pages;
  const int64_t G = wish.groups, H = wish.heads, K = wish.keys, V = wish.width;
  auto begins = [&](int64_t slab) {   // whether a run goes on from it
    for (int64_t b = 0; b < B; ++b) {
      const int64_t p = wish.parts[size_t(b)].pos / page_tokens;
      if (p > 0 && at.slab[size_t(b * at.most + p - 1)] == slab) return true;
    }
    return false;
  };
  auto written = [&](int64_t row) {   // whether it holds an earlier token of a page that a run goes on in
    for (int64_t b = 0; b < B; ++b) {
      const Part part = wish.parts[size_t(b)];
      if (part.count > 0 && at.page[size_t(b * at.most + part.pos / page_tokens)] == row / page_tokens)
        return row % page_tokens < part.pos % page_tokens;
    }
    return false;
  };
  auto positive = [&](Tensor t) {
    for (int64_t i = 0; wish.normalise && i < t.count(); ++i) t.at<float>()[i] = std::fabs(t.at<float>()[i]);
    return t;
  };
  auto keys = [&](const Shape& shape) { return positive(wish.delta ? unit_rows(in, shape) : in.normal(shape)); };
  Linear op{.q = positive(in.normal({T, G, K})),
            .k = keys({T, G, K}),
            .v = in.normal({T, H, V}),
            .page = in.ints({B, at.most}, at.page),
            .slab = in.ints({B, at.most}, at.slab),
            .seq = in.ints({T}, at.seq),
            .pos = in.ints({T}, at.pos),
            .scale = 1 / std::sqrt(float(K))};
  auto decays = [&](const Shape& shape) { return in.uniform(-wish.strength, 0, shape); };
  if (wish.decay == Decay::constant) op.g = decays({H});
  if (wish.decay == Decay::scalar) op.g = decays({T, H});
  if (wish.decay == Decay::channel) op.g = decays({T, H, K});
  if (wish.delta) op.beta = in.uniform(0, 2, {T, H});
  op.rows_k = pool(in, {N, page_tokens, G, K}, keys({N, page_tokens, G, K}), N * page_tokens, written);
  op.rows_u = pool(in, {N, page_tokens, H, V}, in.normal({N, page_tokens, H, V}), N * page_tokens, written);
  if (wish.decay == Decay::scalar || wish.decay == Decay::channel) {
    const Shape shape{N, page_tokens, H, wish.decay == Decay::channel ? K : 1};
    op.rows_g = pool(in, shape, decays(shape), N * page_tokens, written);
  }
  op.S = pool(in, {N, H, K, V}, in.normal({N, H, K, V}), N, begins);
  if (wish.normalise) op.z = pool(in, {N, H, K}, positive(in.normal({N, H, K})), N, begins);
  return op;
}

// Errors of f32 sums in any order and of a fast exponential: a few roundings of the largest number that the tensor holds.
std::vector<Tensor> allowed(Inputs& in, Linear op) {
  op.shape();
  op.o.data = in.store().zeros(F32, op.o.shape).data;
  std::vector<Tensor*> all = {&op.o};
  for (auto& [name, t] : fields(op).changed) *t = in.store().copy(*t), all.push_back(t);
  op.reference(Worker{});
  std::vector<Tensor> may;
  for (const Tensor* t : all) {
    double most = 0;
    for (double x : elements(*t)) most = std::isfinite(x) ? std::max(most, std::fabs(x)) : most;
    may.push_back(in.store().zeros(F32, t->shape));
    std::fill_n(may.back().at<float>(), t->count(), float(3e-6 * most));
  }
  return may;
}

void put_case(CaseList<Linear>& list, const Wish& wish) {
  const Linear op = linear(list, wish);
  list.add(op, allowed(list, op));
}

std::vector<float> rows_with(const std::vector<float>& first, size_t row) {   // a page's rows [64, ...] of zeros but for these
  std::vector<float> all(first.size() / 3 * 64);
  std::copy(first.begin(), first.end(), all.begin() + ptrdiff_t(first.size() / 3 * row));
  return all;
}

// Three tokens of the gated delta rule, decays 1, ½ and 1.
void known_delta(CaseList<Linear>& list) {
  const std::vector<float> k = {1, 0, 0.6f, 0.8f, 0, 1}, u = {1, 2, 1, 0, 0, 4}, g = {0, std::log(0.5f), 0};
  const Linear op{.q = list.values({3, 1, 2}, {1, 1, 1, -1, 0, 2}),
                  .k = list.values({3, 1, 2}, k),
                  .v = list.values({3, 1, 2}, {2, 4, 1.3f, 0.6f, 0.8f, 2}),
                  .g = list.values({3, 1}, g),
                  .beta = list.values({3, 1}, {0.5f, 1, 2}),
                  .page = list.ints({1, 1}, {0}),
                  .slab = list.ints({1, 1}, {0}),
                  .seq = list.ints({3}, {0, 0, 0}),
                  .pos = list.ints({3}, {0, 1, 2}),
                  .rows_k = list.values({1, 64, 1, 2}, std::vector<float>(128)),
                  .rows_u = list.values({1, 64, 1, 2}, std::vector<float>(128)),
                  .rows_g = list.values({1, 64, 1, 1}, std::vector<float>(64)),
                  .S = list.values({1, 1, 2, 2}, {9, 9, 9, 9}),
                  .scale = 0.5f};
  list.known(op, {list.values({3, 1, 2}, {0.5f, 1, 0.15f, 0.5f, 0.8f, 4}), list.values({1, 64, 1, 2}, rows_with(k, 0)),
                  list.values({1, 64, 1, 2}, rows_with(u, 0)), list.values({1, 64, 1, 1}, rows_with(g, 0)),
                  list.values({1, 1, 2, 2}, {9, 9, 9, 9})});
}

// The last token of the second page, the rows before it empty; it fills the page. And one of padding.
void known_slab(CaseList<Linear>& list) {
  std::vector<float> k(128), u(128);
  k[126] = 1, k[127] = 2, u[126] = 3, u[127] = 5;
  const Linear op{.q = list.values({2, 1, 2}, {1, 1, 7, 7}),
                  .k = list.values({2, 1, 2}, {1, 2, 7, 7}),
                  .v = list.values({2, 1, 2}, {3, 5, 7, 7}),
                  .page = list.ints({1, 2}, {-1, 0}),
                  .slab = list.ints({1, 2}, {1, 0}),
                  .seq = list.ints({2}, {0, -1}),
                  .pos = list.ints({2}, {127, 0}),
                  .rows_k = list.values({1, 64, 1, 2}, std::vector<float>(128)),
                  .rows_u = list.values({1, 64, 1, 2}, std::vector<float>(128)),
                  .S = list.values({2, 1, 2, 2}, {0, 0, 0, 0, 1, 0, 0, 2}),
                  .z = list.values({2, 1, 2}, {0, 0, 1, 1})};
  list.known(op, {list.values({2, 1, 2}, {2, 3.4f, 0, 0}), list.values({1, 64, 1, 2}, k), list.values({1, 64, 1, 2}, u),
                  list.values({2, 1, 2, 2}, {4, 5, 6, 12, 1, 0, 0, 2}), list.values({2, 1, 2}, {2, 3, 1, 1})});
}

}  // namespace

CASES(Linear) {
  known_delta(*this);
  known_slab(*this);
  // Every kind over a page border, from nothing and from a slab with rows behind it.
  for (Decay decay : {Decay::none, Decay::constant, Decay::scalar, Decay::channel})
    for (bool delta : {false, true}) {
      put_case(*this, {.parts = {{0, 7}}, .decay = decay, .delta = delta});
      put_case(*this, {.parts = {{0, 129}}, .decay = decay, .delta = delta});
      put_case(*this, {.parts = {{101, 65}, {64, 1}, {130, 62}, {0, 64}, {191, 1}},
                       .groups = 2,
                       .heads = 4,
                       .keys = 24,
                       .width = 40,
                       .padding = 3,
                       .decay = decay,
                       .delta = delta});
    }
  for (int T : {1, 7, 64, 65}) put_case(*this, {.parts = {{0, T}}, .delta = true});
  for (int pos : {1, 40, 63, 64, 100, 127}) put_case(*this, {.parts = {{pos, 1}, {pos + 64, 3}}, .delta = pos % 2 == 0});
  // The normaliser, with every decay that it goes with.
  for (Decay decay : {Decay::none, Decay::scalar, Decay::channel})
    put_case(*this, {.parts = {{100, 60}, {0, 5}, {63, 1}}, .keys = 9, .width = 17, .padding = 1, .decay = decay, .normalise = true});
  // Slabs that nobody wants, also where the run goes on behind them.
  put_case(*this, {.parts = {{70, 130}, {0, 64}}, .delta = true, .unkept = true});
  put_case(*this, {.parts = {{70, 130}}, .decay = Decay::channel, .unkept = true});
  put_case(*this, {.parts = {{10, 130}}, .decay = Decay::none, .normalise = true, .unkept = true});
  // Decays that leave nothing within a page.
  for (Decay decay : {Decay::constant, Decay::scalar, Decay::channel})
    put_case(*this, {.parts = {{90, 80}}, .decay = decay, .delta = true, .strength = 12});
  // Sizes that no register divides, and those of models.
  for (int size : {1, 3, 33}) put_case(*this, {.parts = {{60, 9}, {64, 20}}, .keys = size, .width = 36 - size, .delta = true});
  put_case(*this, {.parts = {{60, 70}}, .heads = 2, .keys = 64, .width = 64, .delta = true});
  put_case(*this, {.parts = {{32, 40}, {70, 1}}, .heads = 2, .keys = 128, .width = 128, .delta = true});
  put_case(*this, {.parts = {{32, 40}, {127, 1}}, .heads = 1, .keys = 128, .width = 128, .decay = Decay::channel, .delta = true});
  for (Decay decay : {Decay::scalar, Decay::channel})   // the widest keys that there are: over a page border, and deep in a page
    put_case(*this, {.parts = {{50, 20}, {127, 1}}, .heads = 1, .keys = 256, .width = 40, .decay = decay, .delta = true});
  put_case(*this, {.parts = {}, .padding = 2});
}

}  // namespace folio
