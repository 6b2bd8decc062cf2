// SPDX-License-Identifier: MIT
// Cases of sampling. That the reference draws what the host's sampler draws is tested in test_sampler.cpp; here are rows whose token is
// plain to see, and rows of every kind for the kernels: each processor alone and together, ties, few numbers, none, long rows.
#include "base/draw.h"
#include "cases.h"

namespace folio {

namespace {

constexpr DrawOptions off = {.temperature = 1, .repeat_penalty = 1, .presence_penalty = 0, .frequency_penalty = 0, .typical = 1, .top_p = 1, .min_p = 0};

// One row's options as a tensor's rows, repeated; seeds differ by row.
struct Settings {
  DrawOptions options = off;
  int top_k = 0;
};

Sample sample(CaseList<Sample>& list, const Tensor& logits, const Settings& s) {
  const int64_t rows = logits.dim(0);
  Tensor options = list.store().zeros(F32, {rows, draw_options}), place = list.store().zeros(I32, {rows, draw_places});
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(options.row<float>(r), &s.options, sizeof s.options);
    const DrawPlace p = {.top_k = s.top_k, .seed_low = list.random().word(), .seed_high = uint32_t(r), .position_low = uint32_t(10 * r),
                         .position_high = 0};
    std::memcpy(place.row<int32_t>(r), &p, sizeof p);
  }
  return {.logits = logits, .options = options, .place = place};
}

DrawOptions with(void (*set)(DrawOptions&)) {
  DrawOptions o = off;
  set(o);
  return o;
}

void add_known(CaseList<Sample>& list) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const DrawOptions greedy = with([](DrawOptions& o) { o.temperature = 0; });
  const Tensor rows = list.values({5, 5}, {1, 3, 2, 3, 0, nan, -inf, -2, nan, -2, 0, inf, nan, inf, 9, nan, -inf, nan, nan, -inf, -0.0f, 0, -1, 0, -0.0f});
  list.known(sample(list, rows, {greedy}), {list.ints({5}, {1, 2, 1, -1, 0})});
  list.known(sample(list, rows, {off, 1}), {list.ints({5}, {1, 2, 1, -1, 0})});   // top-k 1: nothing is left to chance
  for (auto set : {+[](DrawOptions& o) { o.top_p = 0; }, +[](DrawOptions& o) { o.min_p = 1; }})
    list.known(sample(list, list.values({1, 4}, {2, 1, 2.5f, 0}), {with(set)}), {list.ints({1}, {2})});
  // Of probabilities 1/2, 1/4, 1/8, 1/16, 1/16 the second is nearest to the mean surprise.
  const Tensor logs = list.values({1, 5}, {-0.693147f, -1.386294f, -2.079442f, -2.772589f, -2.772589f});
  list.known(sample(list, logs, {with([](DrawOptions& o) { o.typical = 0.2f; })}), {list.ints({1}, {1})});
  // 3/1.5 - 0.5 - 2·0.25 = 1 and -2·1.5 - 0.5 - 0.25 = -3.75: token 2 wins; with biases +1.5 and then -1 token 0 has 1.5.
  Sample penal = sample(list, list.values({1, 3}, {3, -2, 1.25f}),
                        {with([](DrawOptions& o) { o.temperature = 0, o.repeat_penalty = 1.5f, o.presence_penalty = 0.5f, o.frequency_penalty = 0.25f; })});
  penal.seen = list.ints({1, 3, 2}, {0, 2, -1, 7, 1, 1});
  list.known(penal, {list.ints({1}, {2})});
  penal.biased = list.ints({1, 4}, {0, 0, -1, 2}), penal.bias = list.values({1, 4}, {1.5f, -1, 99, 0});
  list.known(penal, {list.ints({1}, {0})});
  penal.bias = list.values({1, 4}, {-inf, 99, 99, -inf});
  list.known(penal, {list.ints({1}, {1})});
}

}  // namespace

CASES(Sample) {
  add_known(*this);
  const Settings all[] = {{off, 0},
                          {off, 40},
                          {off, 300},
                          {with([](DrawOptions& o) { o.temperature = 0.8f, o.top_p = 0.95f, o.min_p = 0.05f; }), 40},   // the tools' defaults
                          {with([](DrawOptions& o) { o.top_p = 0.9f; }), 0},
                          {with([](DrawOptions& o) { o.top_p = 0.999f, o.temperature = 2; }), 0},
                          {with([](DrawOptions& o) { o.min_p = 0.02f; }), 0},
                          {with([](DrawOptions& o) { o.typical = 0.7f; }), 0},
                          {with([](DrawOptions& o) { o.typical = 0.5f, o.top_p = 0.6f, o.min_p = 0.3f; }), 25}};
  const Settings &top_k = all[1], &larger_k = all[2], &defaults = all[3], &top_p = all[4], &typical = all[7], &every = all[8];
  for (const Settings& s : all) add(sample(*this, normal({2, 264}, F32, 3), s));
  for (int64_t vocab : {1, 3, 1001}) add(sample(*this, normal({2, vocab}, F32, 3), defaults));
  for (const Settings& s : all) add(sample(*this, normal({1, 5000}, F32, 3), s));   // 1024 threads; more than the list holds
  for (const Settings& s : {top_p, typical}) add(sample(*this, normal({2, 9999}, F32, 3), s));
  add(sample(*this, normal({1, 5000}, F32, 0.5), {off, 3000}));
  add(sample(*this, normal({1, 9999}), {off, 1000}));   // the list is full before all that reach the bound are in it
  Tensor ties = normal({2, 300}), spread = uniform(-1e5, 1e5, {2, 300});   // in the latter the highest has all the mass
  for (int64_t i = 0; i < ties.count(); ++i) ties.at<float>()[i] = std::round(ties.at<float>()[i] * 2);
  for (const Settings& s : {top_k, defaults, top_p, typical, every}) add(sample(*this, ties, s));
  for (const Settings& s : {defaults, top_p, typical}) add(sample(*this, spread, s));
  Tensor sorted = normal({1, 6000}, F32, 4);   // the largest all in few threads' parts: the bound is a poor one
  for (int64_t i = 0; i < 6000; ++i) sorted.at<float>()[i] = i % 4096 < 4 ? 20 + 0.01f * float(i) : -float(i % 97);
  for (const Settings& s : {top_k, larger_k, defaults}) add(sample(*this, sorted, s));
  add(sample(*this, values({1, 3000}, std::vector<float>(3000, 2.5f)), top_p));   // flat
  for (const Settings& s : {defaults, every}) {   // and with penalties and biases
    Sample op = sample(*this, normal({3, 250}, F32, 2), s);
    for (int64_t r = 0; r < 3; ++r) op.options.row<float>(r)[1] = 1.3f, op.options.row<float>(r)[2] = 0.1f, op.options.row<float>(r)[3] = 0.2f;
    Tensor seen = store().zeros(I32, {3, 20, 2});
    for (int64_t i = 0; i < 60; ++i) seen.at<int32_t>()[2 * i] = i % 20 < 17 ? int32_t(i * 7 % 250) : -1, seen.at<int32_t>()[2 * i + 1] = int32_t(1 + i % 3);
    op.seen = seen, op.biased = ints({3, 3}, {4, 4, 249, 0, 1, 2, -1, -1, -1}), op.bias = values({3, 3}, {3, -1, 2, -1, 1, 30, 5, 5, 5});
    add(op);
  }
}

}  // namespace folio
