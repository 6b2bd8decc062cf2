// SPDX-License-Identifier: MIT
#include "base/ring.h"

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>

#include "base/error.h"

namespace folio {

namespace {

// What lies between a rank and the next.
struct Link {
  std::span<const std::byte> bytes;
  bool full = false;        // sent and not yet taken
  bool gone[2] = {};        // the sender, the receiver
};

struct Shared {
  explicit Shared(int ranks) : links(size_t(ranks)) {}
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<Link> links;  // [i]: from rank i to rank i + 1
};

class ThreadRing final : public Ring {
 public:
  ThreadRing(std::shared_ptr<Shared> shared, int rank, double patience) : shared_(std::move(shared)), rank_(rank), patience_(patience) {}
  ~ThreadRing() override {
    const std::lock_guard lock(shared_->mutex);
    out().gone[0] = in().gone[1] = true;
    shared_->changed.notify_all();
  }
  int rank() const override { return rank_; }
  int size() const override { return int(shared_->links.size()); }

  void send(std::span<const std::byte> bytes) override {
    flush();
    const std::lock_guard lock(shared_->mutex);
    out().bytes = bytes;
    out().full = true;
    shared_->changed.notify_all();
  }
  void receive(std::span<std::byte> into) override {
    const int before = (rank_ + size() - 1) % size();
    std::unique_lock lock(shared_->mutex);
    wait(lock, "receive from", before, [&] { return in().full; }, in().gone[0]);
    check(in().bytes.size() == into.size(), "ring: rank ", rank_, " expects ", into.size(), " bytes from rank ", before, ", which sent ",
          in().bytes.size());
    std::memcpy(into.data(), in().bytes.data(), into.size());
    in().full = false;
    shared_->changed.notify_all();
  }
  void flush() override {
    std::unique_lock lock(shared_->mutex);
    wait(lock, "send to", (rank_ + 1) % size(), [&] { return !out().full; }, out().gone[1]);
  }

 private:
  Link& out() { return shared_->links[size_t(rank_)]; }
  Link& in() { return shared_->links[size_t((rank_ + size() - 1) % size())]; }
  template <class Done> void wait(std::unique_lock<std::mutex>& lock, const char* what, int other, Done done, const bool& gone) {
    const bool in_time = shared_->changed.wait_for(lock, std::chrono::duration<double>(patience_), [&] { return done() || gone; });
    check(in_time, "ring: rank ", rank_, " waited ", patience_, " s to ", what, " rank ", other);
    check(done(), "ring: rank ", rank_, " cannot ", what, " rank ", other, ", which has left the ring");
  }

  std::shared_ptr<Shared> shared_;
  int rank_;
  double patience_;
};

}  // namespace

std::vector<std::unique_ptr<Ring>> thread_ring(int ranks, double patience) {
  check(ranks >= 1, "ring: ", ranks, " ranks, expected at least 1");
  const auto shared = std::make_shared<Shared>(ranks);
  std::vector<std::unique_ptr<Ring>> all;
  for (int rank = 0; rank < ranks; ++rank) all.push_back(std::make_unique<ThreadRing>(shared, rank, patience));
  return all;
}

}  // namespace folio
