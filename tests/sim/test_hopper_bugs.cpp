// SPDX-License-Identifier: MIT
// The kernels of the Hopper tier with one bug each, planted between them and cuda/lib: every one must be caught. Without a bug there must
// be no symptom, and the right result, for rows that lie further apart than they are long. The kernel files are compiled into this
// program once more, on functions of the lib that do something wrong.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "cuda/lib/buffer.h"
#include "cuda/lib/hopper.cuh"
#include "cuda/lib/kernel.cuh"
#include "schedules.h"

namespace folio {

enum class Bug {
  none,
  producer_does_not_wait,   // for a stage to be empty
  consumer_does_not_wait,   // for a stage to be full
  released_at_once,         // a stage, before its products are under way
  released_too_early,       // before they are there
  sums_read_too_early,      // no wait for wgmma at all
  wrong_stride, wrong_leading,   // in descriptors
  no_wgmma_fence, no_proxy_fence,
  values_not_cleared
};
static Bug bug;
static std::map<uint64_t*, unsigned> arrivals;          // of each barrier; more than one at those of empty stages
static std::map<uint64_t*, uint64_t*> empty_of;         // the barrier that was made after the one of the full stage
static uint64_t* made_last;

static bool is_producer() { return threadIdx.x >= 256; }
static bool is_empty(uint64_t* barrier) { return arrivals.at(barrier) > 1; }

static void planted_init(uint64_t* barrier, unsigned count, Here here = {}) {
  arrivals[barrier] = count;
  if (count > 1) empty_of[made_last] = barrier;
  made_last = barrier;
  mbarrier_init(barrier, count, here);
}
static void planted_wait(uint64_t* barrier, unsigned parity, Here here = {}) {
  if (bug == Bug::producer_does_not_wait && is_producer() && is_empty(barrier)) return;
  if (bug == Bug::consumer_does_not_wait && !is_producer()) return;
  mbarrier_wait(barrier, parity, here);
  if (bug == Bug::released_at_once && !is_producer() && lane_id() == 0) mbarrier_arrive(empty_of.at(barrier), here);
}
static void planted_arrive(uint64_t* barrier, Here here = {}) {
  if (bug == Bug::released_at_once && is_empty(barrier)) return;
  mbarrier_arrive(barrier, here);
}
template <int GroupsLeft> static void planted_wgmma_wait(Here here = {}) {
  if (bug == Bug::sums_read_too_early || (bug == Bug::released_too_early && GroupsLeft > 0)) return;
  wgmma_wait<GroupsLeft>(here);
}
static uint64_t planted_descriptor(const void* at, unsigned leading, unsigned stride, Swizzle swizzle, Here here = {}) {
  return wgmma_descriptor(at, bug == Bug::wrong_leading ? leading / 2 : leading, bug == Bug::wrong_stride ? stride / 2 : stride, swizzle, here);
}
static void planted_fence(Here here = {}) {
  if (bug != Bug::no_wgmma_fence) wgmma_fence(here);
}
[[maybe_unused]] static void planted_proxy_fence() {
  if (bug != Bug::no_proxy_fence) fence_async_proxy();
}
template <class V> static void planted_store(void* at, V v, Here here = {}) {
  if (bug == Bug::values_not_cleared && is_producer()) return;
  st_vec(at, v, here);
}

}  // namespace folio

#define mbarrier_init planted_init
#define mbarrier_wait planted_wait
#define mbarrier_arrive planted_arrive
#define wgmma_wait planted_wgmma_wait
#define wgmma_descriptor planted_descriptor
#define wgmma_fence planted_fence
#define fence_async_proxy planted_proxy_fence
#define st_vec planted_store
#include "cuda/attend.cu"
#include "cuda/attend_hopper.cu"
#include "cuda/matmul_hopper.cu"

namespace folio {
namespace {

using sim::Failure, sim::Use;

constexpr int processors = 2;

float wave(size_t i) { return std::sin(float(i) * 0.37f); }
std::vector<float> waves(size_t n) {
  std::vector<float> x(n);
  for (size_t i = 0; i < n; ++i) x[i] = wave(i);
  return x;
}
std::vector<bf16> rounded(size_t n) {
  std::vector<bf16> x(n);
  for (size_t i = 0; i < n; ++i) x[i] = to_bf16(wave(i));
  return x;
}

Tensor tensor(DType type, const Shape& shape, const void* at, int64_t gap = 0) {  // `gap` elements between rows
  Tensor t = Tensor::of(type, shape, static_cast<std::byte*>(const_cast<void*>(at)));
  for (int d = 0; gap > 0 && d + 1 < shape.rank; ++d) t.stride[d] = t.stride[d] / shape[shape.rank - 1] * (shape[shape.rank - 1] + gap);
  return t;
}

// 130 tokens, 264 features, 640 columns: ten steps in a ring of four or six stages, several tiles for a block. By the kernel or by the
// plain reference.
std::vector<float> product(bool plain) {
  constexpr int tokens = 130, features = 264, k = 640, gap = 8;
  const std::vector<bf16> x = rounded(tokens * k), w = rounded(features * (k + gap));
  if (plain) {
    std::vector<float> floats, y(tokens * features);
    for (bf16 v : x) floats.push_back(to_float(v));
    const Matmul op{.x = tensor(F32, {tokens, k}, floats.data()), .w = tensor(BF16, {features, k}, w.data(), gap),
                    .y = tensor(F32, {tokens, features}, y.data())};
    op.reference(Worker{});
    return y;
  }
  const Buffer<bf16> x_there(x), w_there(w);
  Buffer<float> y(tokens * features);
  const auto bytes = [](const Buffer<bf16>& b) { return reinterpret_cast<const std::byte*>(b.data()); };
  const MatmulWeights weights = {bytes(w_there), nullptr, 2 * (k + gap), 0, features, k};
  const MatmulOut out = {nullptr, nullptr, nullptr, y.data(), 0, features, tokens, features, Act::none};
  EXPECT_TRUE(run_hopper(BF16, weights, {bytes(x_there), nullptr, k, tokens * k * 2}, out, {nullptr, nullptr, processors, true}));
  return y.read();
}

// Two heads on one group, 400 tokens in seven pages of which the last 90 ask; pages in backward order, rows past the end NaN.
std::vector<float> prompt(bool plain) {
  constexpr int tokens = 90, length = 400, pages = 7, size = 128, heads = 2, gap = 16;
  const std::vector<float> queries = waves(tokens * heads * size);
  std::vector<bf16> rows = rounded(pages * 64 * (size + gap));
  std::vector<int> page, seq(tokens, 0), pos;
  for (int i = 0; i < pages; ++i) page.push_back(pages - 1 - i);
  for (int i = length - tokens; i < length; ++i) pos.push_back(i);
  for (size_t i = length % 64 * (size + gap); i < 64 * (size + gap); ++i) rows[i] = to_bf16(NAN);
  const auto op_on = [&](const void* q, const void* pool, const void* ids, const void* whose, const void* where, void* o, void* lse) {
    Attend op{.q = tensor(F32, {tokens, heads, size}, q), .k = tensor(BF16, {pages, 64, 1, size}, pool, gap),
              .v = tensor(BF16, {pages, 64, 1, size}, pool, gap), .page = tensor(I32, {1, pages}, ids),
              .seq = tensor(I32, {tokens}, whose), .pos = tensor(I32, {tokens}, where), .scale = 0.1f};
    op.shape();
    op.o.data = static_cast<std::byte*>(o);
    op.lse.data = static_cast<std::byte*>(lse);
    return op;
  };
  if (plain) {
    std::vector<float> o(tokens * heads * size), lse(tokens * heads);
    op_on(queries.data(), rows.data(), page.data(), seq.data(), pos.data(), o.data(), lse.data()).reference(Worker{});
    return o;
  }
  Buffer<float> q(queries), o(tokens * heads * size), lse(tokens * heads);
  const Buffer<bf16> pool(rows);
  const Buffer<int> ids(page), whose(seq), where(pos);
  const Attend op = op_on(q.data(), pool.data(), ids.data(), whose.data(), where.data(), o.data(), lse.data());
  Buffer<std::byte> scratch(cuda_scratch(op, processors));
  run(op, {nullptr, scratch.data(), processors, true});
  return o.read();
}

using Program = std::vector<float> (*)(bool plain);

// What shows that something is wrong; empty if nothing does.
std::string symptom(Program program, Bug planted) {
  bug = Bug::none;
  sim::stats() = {};
  const std::vector<float> want = program(false);
  EXPECT_GT(sim::stats().wgmma, 0u);
  for (const sim::Config& way : sim::schedules()) {
    const Use use(way);
    bug = planted;
    try {
      const std::vector<float> got = program(false);
      for (size_t i = 0; i < want.size(); ++i) {
        if (std::isnan(got[i])) return "NaN in the result";
        if (got[i] != want[i]) return "another result";
      }
    } catch (const Failure& failure) {
      return failure.what();
    }
  }
  return "";
}

class Hopper : public testing::TestWithParam<Program> {};

TEST_P(Hopper, NoBugNoSymptom) {
  EXPECT_EQ(symptom(GetParam(), Bug::none), "");
  const std::vector<float> got = GetParam()(false), want = GetParam()(true);
  float most = 0;
  for (float v : want) most = std::max(most, std::fabs(v));
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 1e-5 * most) << i;
}

#if defined(__SANITIZE_THREAD__)
// Only the sanitizer sees this one, and the others are data races to it, which end the process. The product's operands come by TMA alone.
TEST(Hopper, NoFenceBetweenStoresAndWgmma) {
  EXPECT_EXIT({ symptom(prompt, Bug::no_proxy_fence); std::exit(0); }, [](int status) { return status != 0; }, "data race");
}
#else
TEST_P(Hopper, BugsAreCaught) {
  for (Bug each : {Bug::producer_does_not_wait, Bug::consumer_does_not_wait, Bug::released_at_once, Bug::released_too_early,
                   Bug::sums_read_too_early, Bug::wrong_stride, Bug::no_wgmma_fence})
    EXPECT_NE(symptom(GetParam(), each), "") << "bug " << int(each);
}
TEST(HopperAttend, BugsOfItsOwnAreCaught) {
  EXPECT_NE(symptom(prompt, Bug::wrong_leading), "");
  EXPECT_EQ(symptom(prompt, Bug::values_not_cleared), "NaN in the result");
}
#endif

INSTANTIATE_TEST_SUITE_P(Kernels, Hopper, testing::Values(product, prompt),
                         [](const auto& info) { return info.index == 0 ? "Matmul" : "Attend"; });

}  // namespace
}  // namespace folio
