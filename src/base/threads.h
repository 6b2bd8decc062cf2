// SPDX-License-Identifier: MIT
// A team of threads that walk the same list of small jobs and meet at a spin barrier after each. Waking a thread costs more
// than a small op, so workers spin for a while between runs before they sleep; a barrier that waits long yields, so that
// a machine with other work on it stays usable.
//
// Workers never throw: by the time they run, everything has been checked.
#pragma once
#include <functional>
#include <thread>
#include <vector>

#include "base/worker.h"

namespace folio {

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
