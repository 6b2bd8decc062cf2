// SPDX-License-Identifier: MIT
#include "tools/lib/ring_run.h"

#include <cmath>
#include <exception>
#include <random>
#include <thread>

namespace folio {

namespace {

// The rows of a rank's stretches, out of a whole text or back into it.
std::vector<float> take(const std::vector<float>& all, const std::vector<Stretch>& share, int64_t row) {
  std::vector<float> mine;
  for (const Stretch& s : share) mine.insert(mine.end(), all.begin() + s.first * row, all.begin() + (s.first + s.count) * row);
  return mine;
}
void put_back(const std::vector<float>& mine, const std::vector<Stretch>& share, int64_t row, std::vector<float>& all) {
  auto from = mine.begin();
  for (const Stretch& s : share) {
    std::copy_n(from, s.count * row, all.begin() + s.first * row);
    from += s.count * row;
  }
}

RingTimes run_rank(Ring& ring, RingText& text, RingLayout layout) {
  const RingShape& s = text.shape;
  const auto share = ring_share(layout, text.tokens, ring.size(), ring.rank());
  const std::vector<float> q = take(text.q, share, s.heads * s.head_size), k = take(text.k, share, s.groups * s.head_size),
                           v = take(text.v, share, s.groups * s.value_size);
  std::vector<float> o = take(text.o, share, s.heads * s.value_size), lse = take(text.lse, share, s.heads);
  const auto device = cpu(1);
  const RingTimes times = ring_attention(ring, *device, s, layout, text.tokens, {q, k, v, o, lse});
  put_back(o, share, s.heads * s.value_size, text.o);
  put_back(lse, share, s.heads, text.lse);
  return times;
}

}  // namespace

RingText::RingText(const RingShape& s, int64_t tokens)
    : shape(s), tokens(tokens), q(size_t(tokens * s.heads * s.head_size)), k(size_t(tokens * s.groups * s.head_size)),
      v(size_t(tokens * s.groups * s.value_size)), o(size_t(tokens * s.heads * s.value_size)), lse(size_t(tokens * s.heads)) {}

RingText RingText::random(const RingShape& shape, int64_t tokens) {
  RingText text(shape, tokens);
  std::mt19937 engine(7);
  std::normal_distribution<float> normal;
  for (std::vector<float>* rows : {&text.q, &text.k, &text.v})
    for (float& number : *rows) number = normal(engine);
  return text;
}

ExactRow exact_row(const RingText& text, int64_t t, int64_t h) {
  const RingShape& s = text.shape;
  const int64_t g = h / (s.heads / s.groups), first = s.window > 0 ? std::max<int64_t>(0, t - s.window + 1) : 0;
  const float* q = &text.q[size_t((t * s.heads + h) * s.head_size)];
  ExactRow row{std::vector<double>(size_t(s.value_size)), 0};
  double total = 0;
  for (int64_t j = first; j < (s.causal ? t + 1 : text.tokens); ++j) {
    const float *k = &text.k[size_t((j * s.groups + g) * s.head_size)], *v = &text.v[size_t((j * s.groups + g) * s.value_size)];
    double dot = 0;
    for (int64_t d = 0; d < s.head_size; ++d) dot += double(q[d]) * k[d];
    const double p = std::exp(s.scale * dot);   // small enough that nothing overflows
    total += p;
    for (int64_t d = 0; d < s.value_size; ++d) row.o[size_t(d)] += p * v[d];
  }
  for (double& x : row.o) x /= total;
  row.lse = std::log(total);
  return row;
}

std::vector<RingTimes> run_ring(RingText& text, RingLayout layout, int ranks, double patience) {
  auto ring = thread_ring(ranks, patience);
  std::vector<RingTimes> times(static_cast<size_t>(ranks));
  std::vector<std::exception_ptr> failed(static_cast<size_t>(ranks));
  std::vector<std::thread> threads;
  for (size_t r = 0; r < size_t(ranks); ++r)
    threads.emplace_back([&, r] {
      const std::unique_ptr<Ring> mine = std::move(ring[r]);   // left at the end, so that nobody waits for a rank that failed
      try {
        times[r] = run_rank(*mine, text, layout);
      } catch (...) {
        failed[r] = std::current_exception();
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& failure : failed)
    if (failure) std::rethrow_exception(failure);
  return times;
}

}  // namespace folio
