// SPDX-License-Identifier: MIT
// wgmma: 128 threads issue D[64, N] (+)= A[64, 16] B[16, N]. Operands in shared memory are read element by element through their
// descriptors, at issue, at the wait or somewhere between; A's registers are taken at issue. The layouts behind descriptors (bits 0..13
// start, 16..29 leading and 32..45 stride byte offsets, all in units of 16; 62..63 swizzle) are those of the PTX manual's "asynchronous
// warpgroup level matrix shared memory layout", in words in cuda/lib/hopper.cuh.
#include <cstring>

#include "engine.h"
#include "graph/dtype.h"

namespace folio::sim {

struct WgmmaTask {
  Wgmma op;                  // the first thread's
  float* d[128];
  uint32_t registers[128][4];
  Here here;
};

Warpgroup::Warpgroup() = default;
Warpgroup::~Warpgroup() = default;

namespace {

float number(uint16_t bits, bool half) { return half ? f16_to_f32(bits) : bf16_to_f32(bits); }

// out[row][k], k < 16. TSan sees the reads of the unit beside the threads.
void read_operand(const WgmmaTask& task, uint64_t descriptor, bool mn_major, int rows, float* out) {
  const auto field = [&](int bit) { return uint32_t(descriptor >> bit & 0x3fff) << 4; };
  const uint32_t start = field(0), leading = field(16), stride = field(32);
  static constexpr int widths[] = {0, 128, 64, 32};
  const int swizzle = widths[descriptor >> 62], width = swizzle ? swizzle : 16, across = width / 2;
  if (descriptor >> 49 & 7) refuse("wgmma at ", task.here, ": descriptors with a base offset are not emulated");
  const tsan::As unit(async_proxy());
  for (int row = 0; row < rows; ++row)
    for (int k = 0; k < 16; ++k) {
      uint32_t at = start;
      if (!mn_major) at += row / 8 * stride + row % 8 * width + (swizzle ? 2 * k : k / 8 * leading + k % 8 * 2);
      else if (swizzle) at += row / across * leading + row % across * 2 + k / 8 * stride + k % 8 * width;
      else at += row / 8 * stride + row % 8 * 2 + k / 8 * leading + k % 8 * 16;
      const std::byte* from = window(swizzled(at, swizzle), 2, "an operand of wgmma", task.here);
      uint16_t bits;
      std::memcpy(&bits, from, 2);
      tsan::reads(from, 2);
      out[row * 16 + k] = number(bits, task.op.half);
    }
}

void compute(const WgmmaTask& task) {
  static float a[64 * 16], b[256 * 16], b_rows[16 * 256], c[64 * 256];
  const int n = task.op.n;
  {
    const tsan::As unit(async_proxy());
    tsan::acquire(&self().block->async_token);
  }
  if (task.op.a_registers) {
    for (int t = 0; t < 128; ++t)
      for (int i = 0; i < 8; ++i)
        a[(t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8) * 16 + t % 4 * 2 + i / 4 * 8 + i % 2] =
            number(uint16_t(task.registers[t][i / 2] >> 16 * (i % 2)), task.op.half);
  } else {
    read_operand(task, task.op.a, task.op.a_mn_major, 64, a);
  }
  read_operand(task, task.op.b, task.op.b_mn_major, n, b);
  for (int k = 0; k < 16; ++k)
    for (int column = 0; column < n; ++column) b_rows[k * n + column] = b[column * 16 + k];
  const auto place = [&](int t, int i) { return (t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8) * n + i / 4 * 8 + t % 4 * 2 + i % 2; };
  for (int t = 0; t < 128; ++t)
    for (int i = 0; i < n / 2; ++i) c[place(t, i)] = task.op.accumulate ? task.d[t][i] : 0;
  for (int row = 0; row < 64; ++row)
    for (int k = 0; k < 16; ++k)
      for (int column = 0; column < n; ++column) c[row * n + column] += a[row * 16 + k] * b_rows[k * n + column];
  for (int t = 0; t < 128; ++t)
    for (int i = 0; i < n / 2; ++i) task.d[t][i] = c[place(t, i)];
  ++stats().wgmma;
  stats().wgmma_flops += 2ull * 64 * 16 * uint64_t(n);
  {
    const tsan::As unit(async_proxy());
    tsan::release(&self().block->groups[self().rank / 128]->token);
  }
}

Warpgroup& my_group() { return *self().block->groups[self().rank / 128]; }

struct Call { Wgmma op; Here here; int left; };

void issue(void** argument) {
  const Call& first = *static_cast<Call*>(argument[0]);
  Warpgroup& group = my_group();
  if (!group.fenced) refuse("wgmma at ", first.here, " without wgmma_fence since the last full wait");
  WgmmaTask task{first.op, {}, {}, first.here};
  for (int t = 0; t < 128; ++t) {
    const Wgmma& op = static_cast<Call*>(argument[t])->op;
    if (op.a != first.op.a || op.b != first.op.b || op.accumulate != first.op.accumulate)
      refuse("wgmma at ", first.here, ": thread ", t, " has other descriptors than thread 0");
    task.d[t] = op.d;
    if (op.a_registers) std::memcpy(task.registers[t], op.a_registers, 16);
  }
  // Operations on the same accumulators keep their order, so one that lands early does so only with all before it.
  const bool none_waits = group.open.empty() && group.groups.empty();
  if (config().landing == Landing::early || (config().landing == Landing::any_time && none_waits && by_chance())) compute(task);
  else group.open.push_back(task);
}

void commit(void**) {
  Warpgroup& group = my_group();
  group.groups.push_back(std::move(group.open));
  group.open.clear();
}

void finish_groups(void** argument) {
  Warpgroup& group = my_group();
  const auto left = size_t(static_cast<Call*>(argument[0])->left);
  while (group.groups.size() > left) {
    for (const WgmmaTask& task : group.groups.front()) compute(task);
    group.groups.pop_front();
  }
  if (left == 0) group.fenced = false;
}

}  // namespace

void wgmma(const Wgmma& mine, Here here) {
  Call call{mine, here, 0};
  meet_warpgroup("wgmma", &call, issue, here);
}
void wgmma_fence(Here here) { meet_warpgroup("wgmma_fence", nullptr, [](void**) { my_group().fenced = true; }, here); }
void wgmma_commit(Here here) { meet_warpgroup("wgmma_commit", nullptr, commit, here); }
void wgmma_wait(int groups_left, Here here) {
  Call call{{}, here, groups_left};
  meet_warpgroup("wgmma_wait", &call, finish_groups, here);
}

}  // namespace folio::sim
