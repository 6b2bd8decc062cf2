// SPDX-License-Identifier: MIT
// Memory that the CUDA device owns: blocks on the card, and host memory that the card copies from and to by itself.
#pragma once
#include <cstring>

#include "cuda/lib/runtime.h"

namespace folio {

// Throws Error if the card has no room for that.
class CardMemory {
 public:
  explicit CardMemory(int64_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    if (cudaMalloc(reinterpret_cast<void**>(&data_), size_t(bytes)) == cudaSuccess) return;
    cudaGetLastError();
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    fail("cuda: out of memory: could not get ", bytes >> 20, " MiB of the card's ", total >> 20, ", of which ", free >> 20, " are free");
  }
  ~CardMemory() { cudaFree(data_); }
  CardMemory(const CardMemory&) = delete;
  CardMemory& operator=(const CardMemory&) = delete;
  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_;
};

class PinnedMemory {
 public:
  explicit PinnedMemory(int64_t bytes) {
    if (bytes == 0) return;
    cuda_check(cudaHostAlloc(reinterpret_cast<void**>(&data_), size_t(bytes), cudaHostAllocDefault), "pinned memory");
    std::memset(data_, 0xff, size_t(bytes));   // ids of -1: the first run of a program's nodes is padding only and changes no pool
  }
  ~PinnedMemory() { cudaFreeHost(data_); }
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;
  std::byte* data() const { return data_; }

 private:
  std::byte* data_ = nullptr;
};

}  // namespace folio
