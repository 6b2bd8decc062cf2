// SPDX-License-Identifier: MIT
// The loops of this file exist once per instruction set that matters to them, with target attributes, and the processor is asked
// at run time. The vectors are the compiler's own.
#include "tools/lib/machine.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/threads.h"

#define FOLIO_INLINE inline __attribute__((always_inline))

namespace folio {

namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Repeats job(worker) on all threads until the budget is spent; the work of one run divided by the shortest time.
template <class Job> double best_rate(ThreadPool& pool, double work, double budget, Job job) {
  const std::function<void(Worker)> run = job;
  pool.run(run);   // wakes the threads, brings the pages
  double best = 0;
  for (double start = now(), before = start, after = start; after - start < budget; before = after) {
    pool.run(run);
    after = now();
    best = std::max(best, work / (after - before));
  }
  return best;
}

// Eight independent sums, or the additions would be what is measured. Their result is used by nobody, so it goes where the
// compiler cannot know that.
FOLIO_INLINE uint64_t sum_words(const uint64_t* from, int64_t n) {
  typedef uint64_t Words __attribute__((vector_size(64), aligned(8)));
  Words sum[8] = {};
  const Words* at = reinterpret_cast<const Words*>(from);
  for (int64_t i = 0; i + 64 <= n; i += 64, at += 8)
    for (int j = 0; j < 8; ++j) sum[j] += at[j];
  Words all = sum[0];
  for (int j = 1; j < 8; ++j) all += sum[j];
  uint64_t total = 0;
  for (int j = 0; j < 8; ++j) total += all[j];
  return total;
}

uint64_t sum_plain(const uint64_t* from, int64_t n) { return sum_words(from, n); }
#ifdef __x86_64__
__attribute__((target("avx2"))) uint64_t sum_avx2(const uint64_t* from, int64_t n) { return sum_words(from, n); }
__attribute__((target("avx512f"))) uint64_t sum_avx512(const uint64_t* from, int64_t n) { return sum_words(from, n); }
#endif

auto best_sum() {
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx512f")) return &sum_avx512;
  if (__builtin_cpu_supports("avx2")) return &sum_avx2;
#endif
  return &sum_plain;
}

volatile uint64_t nobody;   // reads results

double read_bandwidth(ThreadPool& pool, std::span<const std::byte> area, double budget) {
  const auto begin = (reinterpret_cast<uintptr_t>(area.data()) + 63) / 64 * 64;
  const auto* words = reinterpret_cast<const uint64_t*>(begin);
  const int64_t n = (int64_t(area.size()) - 63) / 8 / 64 * 64;
  if (n <= 0) return 0;
  const int64_t rounds = std::max<int64_t>(1, (int64_t(8) << 20) / (8 * n));   // a run of the pool costs some microseconds
  const auto sum = best_sum();
  return best_rate(pool, double(rounds) * double(n) * 8, budget, [=](Worker w) {
    const Range part = w.share(n, 512);
    uint64_t total = 0;
    for (int64_t r = 0; r < rounds; ++r) total += sum(words + part.first, std::max<int64_t>(0, part.last - part.first));
    nobody = total;
  });
}

// Each loop: `steps` times twelve independent chains, as many as hide the latency on two ports. Returns operations done.
constexpr int chains = 12;
constexpr int64_t steps = 20000;

typedef float Floats16 __attribute__((vector_size(16)));
typedef float Floats32 __attribute__((vector_size(32)));
typedef float Floats64 __attribute__((vector_size(64)));

template <class Floats> FOLIO_INLINE double fma_loop() {
  Floats acc[chains] = {};
  float x = 0.999f, y = 1e-3f;
  asm volatile("" : "+m"(x), "+m"(y));   // not known while compiling
  const Floats b = x - Floats{}, c = y - Floats{};
  for (int64_t i = 0; i < steps; ++i)
    for (int j = 0; j < chains; ++j) acc[j] = acc[j] * b + c;
  Floats all = acc[0];
  for (int j = 1; j < chains; ++j) all += acc[j];
  nobody = uint64_t(all[0]);
  return double(steps) * chains * (sizeof(Floats) / 4) * 2;
}

double fma_plain() { return fma_loop<Floats16>(); }
#ifdef __x86_64__
__attribute__((target("avx2,fma"))) double fma_avx2() { return fma_loop<Floats32>(); }
__attribute__((target("avx512f"))) double fma_avx512() { return fma_loop<Floats64>(); }

// The dot products are written in assembly: as intrinsics, this compiler copies each accumulator before it adds to it.
__attribute__((target("avx512f,avx512bf16"))) double bf16_avx512() {
  Floats64 acc[chains] = {};
  const Floats64 b = 1e-3f - Floats64{};
  for (int64_t i = 0; i < steps; ++i)
    for (auto& a : acc) asm volatile("vdpbf16ps %1, %1, %0" : "+v"(a) : "v"(b));
  return double(steps) * chains * 32 * 2;
}

__attribute__((target("avx512f,avx512vnni"))) double int8_avx512() {
  Floats64 acc[chains] = {};
  const Floats64 b = {};
  for (int64_t i = 0; i < steps; ++i)
    for (auto& a : acc) asm volatile("vpdpbusd %1, %1, %0" : "+v"(a) : "v"(b));
  return double(steps) * chains * 64 * 2;
}

// Without VNNI: pairs of products to 16 bits, then to 32, as kernels for such machines do it.
__attribute__((target("avx2"))) double int8_avx2() {
  Floats32 acc[chains] = {};
  const Floats32 b = {};
  for (int64_t i = 0; i < steps; ++i)
    for (auto& a : acc) {
      Floats32 c;
      asm volatile("vpmaddubsw %2, %2, %1\n\tvpmaddwd %2, %1, %1\n\tvpaddd %1, %0, %0" : "+x"(a), "=&x"(c) : "x"(b));
    }
  return double(steps) * chains * 32 * 2;
}
#endif

double (*loop_of(Unit unit))() {
#ifdef __x86_64__
  const bool avx512 = __builtin_cpu_supports("avx512f"), avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  switch (unit) {
    case Unit::fp32: return avx512 ? &fma_avx512 : avx2 ? &fma_avx2 : &fma_plain;
    case Unit::bf16: return avx512 && __builtin_cpu_supports("avx512bf16") ? &bf16_avx512 : nullptr;
    case Unit::int8: return avx512 && __builtin_cpu_supports("avx512vnni") ? &int8_avx512 : avx2 ? &int8_avx2 : nullptr;
  }
#endif
  return unit == Unit::fp32 ? &fma_plain : nullptr;
}

}  // namespace

double read_bandwidth(std::span<const std::byte> area, int threads, double budget) {
  ThreadPool pool(threads);
  return read_bandwidth(pool, area, budget);
}

double memory_bandwidth(int threads, int64_t bytes, double budget) {
  ThreadPool pool(threads);
  const std::unique_ptr<std::byte[], decltype(&std::free)> area(static_cast<std::byte*>(std::aligned_alloc(1 << 21, size_t(bytes))),
                                                                &std::free);
  if (!area) return 0;
  pool.run([&](Worker w) {   // each thread touches what it will read; and not zeros, which the system may keep in one page
    const Range part = w.share(bytes, 4096);
    if (part.last > part.first) std::memset(area.get() + part.first, 1, size_t(part.last - part.first));
  });
  return read_bandwidth(pool, {area.get(), size_t(bytes)}, budget);
}

const char* name(Unit unit) { return unit == Unit::fp32 ? "fp32 FMA" : unit == Unit::bf16 ? "bf16 dot" : "int8 dot"; }

double peak(Unit unit, int threads, double budget) {
  const auto loop = loop_of(unit);
  if (!loop) return 0;
  ThreadPool pool(threads);
  const double work = loop() * threads;
  return best_rate(pool, work, budget, [=](Worker) { loop(); });
}

Limits measure_limits(Device& device, int threads) {
  if (const std::optional<Limits> own = device.limits()) return *own;
  if (threads <= 0) threads = hardware_threads();
  return {.read_gbps = memory_bandwidth(threads) / 1e9, .fp32_gflops = peak(Unit::fp32, threads) / 1e9,
          .bf16_gflops = peak(Unit::bf16, threads) / 1e9, .int8_gops = peak(Unit::int8, threads) / 1e9};
}

std::string text(const Limits& limits) {
  std::string line = join("read ", std::llround(limits.read_gbps), " GB/s");
  const auto add = [&](const char* what, double rate, const char* unit) {
    if (rate > 0) line += join(", ", what, " ", std::llround(rate), " ", unit);
  };
  add("copy", limits.copy_gbps, "GB/s");
  add("fp32", limits.fp32_gflops, "GFLOP/s");
  add("f16", limits.f16_gflops, "GFLOP/s");
  add("bf16", limits.bf16_gflops, "GFLOP/s");
  add("int8", limits.int8_gops, "GOP/s");
  return line;
}

UnitPeak peak_for(const Limits& limits, DType weights) {
  if (weights == F16 && limits.f16_gflops > 0) return {limits.f16_gflops, "f16"};
  if (weights == BF16 && limits.bf16_gflops > 0) return {limits.bf16_gflops, "bf16"};
  if ((weights == Q8_0 || weights == Q4_0) && limits.int8_gops > 0) return {limits.int8_gops, "int8"};
  return {limits.fp32_gflops, "fp32"};
}

int64_t peak_memory() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return std::stoll(line.substr(6)) * 1024;
  return 0;
}

bool reset_peak_memory() {
  std::ofstream file("/proc/self/clear_refs");
  file << "5" << std::flush;   // proc(5): the peak begins again at what is held now
  return file.good();
}

}  // namespace folio
