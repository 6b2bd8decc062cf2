// SPDX-License-Identifier: MIT
// Ranks in a ring: each hands buffers to the next and takes them from the one before. Who the ranks are is behind the interface: here
// they are threads of one process, which is enough to prove what is built on them; other processes and cards join by the same three calls.
// What is sent and received between the calls goes on in the background, so a rank sends, computes, and receives.
#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

namespace folio {

class Ring {
 public:
  virtual ~Ring() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // Hands `bytes` to rank + 1. They must stay as they are until flush() returns. One send at a time.
  virtual void send(std::span<const std::byte> bytes) = 0;
  // Takes what rank − 1 has sent; waits for it. Throws Error if it sent another number of bytes.
  virtual void receive(std::span<std::byte> into) = 0;
  // Returns when the next rank has what was sent.
  virtual void flush() = 0;
};

// A ring of threads: entry i is for the thread that is rank i. A rank whose neighbour does not come within `patience` seconds, or has
// given up its end of the ring, throws Error that names both: nobody waits for ever.
std::vector<std::unique_ptr<Ring>> thread_ring(int ranks, double patience = 60);

}  // namespace folio
