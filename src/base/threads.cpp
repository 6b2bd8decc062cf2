// SPDX-License-Identifier: MIT
#include "base/threads.h"

#include <sched.h>

namespace folio {

static void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

void Team::barrier() {
  if (count_ == 1) {
    next_.store(0, std::memory_order_relaxed);
    return;
  }
  const uint32_t phase = phase_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
    arrived_.store(0, std::memory_order_relaxed);
    next_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    return;
  }
  for (int spins = 0; phase_.load(std::memory_order_acquire) == phase; ++spins) {
    if (spins < 4000) pause();
    else std::this_thread::yield();
  }
}

ThreadPool::ThreadPool(int threads) : team_(threads < 1 ? 1 : threads) {
  for (int i = 1; i < size(); ++i) threads_.emplace_back([this, i] { serve(i); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void ThreadPool::run(const std::function<void(Worker)>& job) {
  job_ = &job;
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  job(Worker{0, size(), &team_});
  team_.barrier();
}

void ThreadPool::serve(int index) {
  for (uint32_t seen = 0;; ++seen) {
    // 20,000 pauses are about half a millisecond: longer than a sampler needs between two tokens.
    for (int spins = 0; spins < 20000 && round_.load(std::memory_order_acquire) == seen; ++spins) pause();
    round_.wait(seen, std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
    (*job_)(Worker{index, size(), &team_});
    team_.barrier();
  }
}

int hardware_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return int(std::thread::hardware_concurrency());
}

}  // namespace folio
