// SPDX-License-Identifier: MIT
// A team of threads that walk the same list of small jobs and meet at a spin barrier after each. Waking a thread costs more
// than a small op, so workers spin for a while between runs before they sleep; a barrier that waits long yields, so that
// a machine with other work on it stays usable.
//
// Workers never throw: by the time they run, everything has been checked.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace folio {

// begin <= i < end, for range-for.
struct Range {
  int64_t first, last;
  struct Iterator {
    int64_t i;
    int64_t operator*() const { return i; }
    Iterator& operator++() { ++i; return *this; }
    bool operator!=(const Iterator& other) const { return i != other.i; }
  };
  Iterator begin() const { return {first}; }
  Iterator end() const { return {last > first ? last : first}; }
};

// What the workers of one run share.
class Team {
 public:
  explicit Team(int count) : count_(count) {}
  int count() const { return count_; }
  void barrier();                                              // returns when all have come; resets next()
  int64_t next() { return next_.fetch_add(1, std::memory_order_relaxed); }

 private:
  const int count_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  alignas(64) std::atomic<int64_t> next_{0};
};

// One of the threads that run an op together: worker `index` of `count`.
struct Worker {
  int index = 0, count = 1;
  Team* team = nullptr;            // null: alone
  std::byte* scratch = nullptr;    // shared by the team, as many bytes as the op asked for

  // This worker's contiguous part of 0..n-1; parts begin at multiples of `grain`.
  Range share(int64_t n, int64_t grain = 1) const {
    const int64_t blocks = (n + grain - 1) / grain;
    const int64_t from = blocks * index / count * grain, to = blocks * (index + 1) / count * grain;
    return {from, to < n ? to : n};
  }
  void barrier() const { if (team) team->barrier(); }
  // Counts 0, 1, 2, ... over the whole team from the beginning of the op and from each barrier. Needs a team.
  int64_t next() const { return team->next(); }
};

class ThreadPool {
 public:
  explicit ThreadPool(int threads);   // this thread is one of them
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  int size() const { return team_.count(); }
  // Calls job(worker) on every thread, this one as worker 0, and returns when all are done. One run at a time.
  void run(const std::function<void(Worker)>& job);

 private:
  void serve(int index);
  Team team_;
  const std::function<void(Worker)>* job_ = nullptr;
  std::atomic<uint32_t> round_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

// Threads that this process may run at once.
int hardware_threads();

}  // namespace folio
