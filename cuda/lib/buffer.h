// SPDX-License-Identifier: MIT
// Device memory that programs beside the engine own: the conformance program, tests of kernels.
#pragma once
#include <vector>

#include "cuda/lib/runtime.h"

namespace folio {

// n numbers on the device. What was not written is 0xff in every byte: NaN, or -1. Throws Error if there is no room.
template <class T> class Buffer {
 public:
  explicit Buffer(int64_t n) : size_(n) {
    cuda_check(cudaMalloc(&data_, size_t(n) * sizeof(T)), "cudaMalloc");
    cuda_check(cudaMemset(data_, 0xff, size_t(n) * sizeof(T)), "cudaMemset");
    cuda_check(cudaStreamSynchronize(nullptr), "cudaMemset");  // streams that do not wait for the default one would come before
  }
  explicit Buffer(const std::vector<T>& from) : Buffer(int64_t(from.size())) { write(from); }
  ~Buffer() { cudaFree(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() { return data_; }
  const T* data() const { return data_; }
  void write(const std::vector<T>& from) {
    check(int64_t(from.size()) == size_, "buffer: ", from.size(), " numbers into ", size_);
    cuda_check(cudaMemcpy(data_, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice), "copy to the device");
  }
  // Waits for the default stream, and with it for all that block it.
  std::vector<T> read() const {
    std::vector<T> to(size_t(size_), T{});
    cuda_check(cudaMemcpy(to.data(), data_, to.size() * sizeof(T), cudaMemcpyDeviceToHost), "copy from the device");
    return to;
  }

 private:
  T* data_ = nullptr;
  int64_t size_;
};

}  // namespace folio
