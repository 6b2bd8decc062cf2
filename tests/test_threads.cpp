// SPDX-License-Identifier: MIT
// Teams of threads: every part of the work is done once, barriers separate what is before from what is after, next() counts from
// zero after each, and a machine with fewer processors than threads still gets through.
#include <gtest/gtest.h>

#include <atomic>
#include <set>

#include "base/threads.h"

namespace folio {
namespace {

TEST(Share, CoversEveryIndexOnce) {
  for (int count : {1, 2, 3, 7, 16})
    for (int64_t n : {0, 1, 2, 5, 16, 100, 1001})
      for (int64_t grain : {1, 4, 64}) {
        std::vector<int> hits(size_t(n) + 1, 0);
        int64_t before = 0, most = 0, least = n + 1;
        for (int index = 0; index < count; ++index) {
          const Range part = Worker{index, count}.share(n, grain);
          EXPECT_TRUE(part.first >= before || part.first >= n);
          EXPECT_TRUE(part.first % grain == 0);
          before = part.last;
          int64_t size = 0;
          for (int64_t i : part) ++hits[size_t(i)], ++size;
          most = std::max(most, size), least = std::min(least, size);
        }
        for (int64_t i = 0; i < n; ++i) EXPECT_EQ(hits[size_t(i)], 1) << i << " of " << n << " over " << count;
        EXPECT_EQ(hits[size_t(n)], 0);
        EXPECT_LE(most - least, 2 * grain);  // fair
      }
}

TEST(ThreadPool, RunsEveryWorkerOnce) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (int round = 0; round < 200; ++round) {
      std::vector<int> seen(size_t(threads), 0);
      pool.run([&](Worker w) {
        EXPECT_EQ(w.count, threads);
        ++seen[size_t(w.index)];
      });
      EXPECT_EQ(seen, std::vector<int>(size_t(threads), 1));
    }
  }
}

TEST(ThreadPool, AtLeastOneThread) {
  EXPECT_EQ(ThreadPool(0).size(), 1);
  EXPECT_EQ(ThreadPool(-3).size(), 1);
  EXPECT_GE(hardware_threads(), 1);
}

// Plain numbers, written before a barrier by one and read after it by all: a thread sanitizer sees whether the barrier orders them.
TEST(Team, BarrierSeparates) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    std::vector<int> value(size_t(threads), 0);
    std::atomic<int> wrong{0};
    for (int run = 0; run < 20; ++run) {
      std::fill(value.begin(), value.end(), 0);
      pool.run([&](Worker w) {
        for (int round = 1; round <= 20; ++round) {
          value[size_t(w.index)] = round;
          w.barrier();
          for (int v : value) wrong += v != round;
          w.barrier();
        }
      });
    }
    EXPECT_EQ(wrong, 0) << threads;
  }
}

TEST(Team, NextHandsOutEachNumberOnceAndStartsAgainAfterABarrier) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    constexpr int items = 300;
    for (int run = 0; run < 20; ++run) {
      std::vector<int> hits(2 * items, 0);
      pool.run([&](Worker w) {
        for (int part = 0; part < 2; ++part) {
          for (int64_t i; (i = w.next()) < items;) ++hits[size_t(part * items + i)];
          w.barrier();
        }
      });
      ASSERT_EQ(hits, std::vector<int>(2 * items, 1)) << threads << " threads, run " << run;
    }
  }
}

// What one run leaves in next() must not be seen by the following run, which may be another op.
TEST(Team, NextStartsAgainInEveryRun) {
  ThreadPool pool(3);
  for (int run = 0; run < 200; ++run) {
    std::atomic<int64_t> sum{0};
    pool.run([&](Worker w) { sum += w.next(); });
    ASSERT_EQ(sum, 0 + 1 + 2) << run;
  }
}

TEST(ThreadPool, SleepsAndWakes) {
  ThreadPool pool(3);
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> done{0};
    pool.run([&](Worker) { ++done; });
    EXPECT_EQ(done, 3);
    std::this_thread::sleep_for(std::chrono::milliseconds(round % 3 * 2));  // long enough for the workers to go to sleep
  }
}

TEST(ThreadPool, MoreThreadsThanProcessors) {
  ThreadPool pool(8);
  int64_t total = 0;
  std::vector<int64_t> sums(8 * 16, 0);
  for (int round = 0; round < 100; ++round)
    pool.run([&](Worker w) {
      for (int node = 0; node < 5; ++node) {
        for (int64_t i : w.share(1000)) sums[size_t(w.index) * 16] += i;
        w.barrier();
      }
    });
  for (int64_t s : sums) total += s;
  EXPECT_EQ(total, int64_t(100) * 5 * 999 * 1000 / 2);
}

TEST(ThreadPool, ComesAndGoes) {
  for (int i = 0; i < 100; ++i) {
    ThreadPool pool(1 + i % 5);
    if (i % 2) pool.run([](Worker w) { w.barrier(); });
  }
}

// Two pools of one process, as two devices have them.
TEST(ThreadPool, TwoAtOnce) {
  auto work = [](int64_t* sum) {
    ThreadPool pool(2);
    for (int i = 0; i < 200; ++i) {
      int64_t part[2] = {};
      pool.run([&](Worker w) { part[w.index] = w.index + 1; });
      *sum += part[0] + part[1];
    }
  };
  int64_t a = 0, b = 0;
  std::thread other(work, &a);
  work(&b);
  other.join();
  EXPECT_EQ(a, 600);
  EXPECT_EQ(b, 600);
}

}  // namespace
}  // namespace folio
