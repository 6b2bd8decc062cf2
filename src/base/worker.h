// SPDX-License-Identifier: MIT
// What an op sees of the threads that run it: which of them it is, its share of the work, and where all of them meet.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

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

}  // namespace folio
