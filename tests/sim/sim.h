// SPDX-License-Identifier: MIT
// The CUDA simulator, as tests see it: how kernels shall be scheduled, what they did, and the loop over all schedules.
//
// One fiber per CUDA thread, one block at a time (or `resident_blocks` of them, for barriers over the grid), one thread of the
// system. Memory that nobody wrote is 0xff, which is NaN in every float format. What the hardware leaves open is a choice here: who
// runs next, and when asynchronous copies, wgmma and the work in streams take place. A correct kernel gives the same bits under every
// choice; a forgotten barrier, wait or hand-over changes the result, or ends in a report that names source lines and threads.
// Built with -fsanitize=thread, CUDA threads are threads to the sanitizer, ordered only by what orders them on the chip.
//
// Not seen: weak memory order (a fence too weak), plain loads and stores at other moments than at calls of the lib, coalescing and
// bank conflicts of ordinary accesses, the rounding of tensor cores and approximate functions, clusters.
#pragma once
#include <string>
#include <vector>

#include "base/error.h"
#include "cuda/lib/runtime.h"

namespace folio::sim {

struct Failure : Error { using Error::Error; };

enum class Order { forward, reverse, round_robin, random };  // who runs next: threads, and nodes of a graph
enum class Landing { late, early, any_time };                // when asynchronous work is done: at the wait for it, at once, at random

struct Config {
  Order order = Order::forward;
  Landing landing = Landing::late;
  uint64_t seed = 1;
  unsigned resident_blocks = 1;   // blocks alive at once
  bool reverse_blocks = false;    // the last block first
  int compute_capability = 90;    // what cudaGetDeviceProperties says: 80 makes launchers choose the portable tier
  int multiprocessors = 4;
  // Where set, it is called for every launch, and no kernel runs.
  void (*instead_of_running)(const std::string& kernel, unsigned threads, size_t shared_bytes) = nullptr;
  size_t memory = size_t(2) << 30;      // bytes of the device
  bool registers_host_memory = true;    // what cudaHostRegister can do here
};
Config& config();
std::string describe(const Config& config);

struct Stats {
  uint64_t launches, blocks, switches, barriers, warp_operations;
  uint64_t loaded_bytes, stored_bytes;      // by ld_vec, ld_stream, st_vec, from and to global memory
  uint64_t cp_async_bytes, tma_bytes;       // read from or written to global memory; of TMA whole boxes, also past the edges
  uint64_t ldmatrix_tiles, ldmatrix_waves;  // equal where no 8x8 tile has a bank conflict
  uint64_t mma, wgmma, wgmma_flops;
  uint64_t shared_peak;                     // bytes of dynamic shared memory
  uint64_t copies_to_device, copies_to_host, bytes_to_device, bytes_to_host, syncs;
  // All traffic between a kernel and global memory that goes through the lib.
  uint64_t global_bytes() const { return loaded_bytes + stored_bytes + cp_async_bytes + tma_bytes; }
};
Stats& stats();

// Live blocks of cudaMalloc; 0 when all was freed.
size_t device_allocations();
size_t device_bytes();   // of them

// All orders and landings, 12 in all; under the thread sanitizer, which is some 30 times slower, four that differ most.
std::vector<Config> schedules(const Config& base = {});

// Whether the kernels that this simulator runs are compiled with a sanitizer.
bool sanitized();

// Sets the configuration for its lifetime.
class Use {
 public:
  explicit Use(const Config& now) : before_(config()) { config() = now; }
  ~Use() { config() = before_; }
  Use(const Use&) = delete;

 private:
  Config before_;
};

}  // namespace folio::sim
