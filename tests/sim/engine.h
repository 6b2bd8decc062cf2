// SPDX-License-Identifier: MIT
// Inside the simulator: threads, blocks, the scheduler, and how threads wait for each other. One launch runs at a time.
#pragma once
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "fiber.h"
#include "sim.h"

namespace folio::sim {

struct Block;

enum class State : uint8_t { ready, waiting, yielding, done };

// A copy that a thread has asked for with cp.async; `group` counts its commits.
struct Copy {
  std::byte* to;
  const std::byte* from;
  int bytes, valid;
  uint64_t group;
  bool landed;
  Here here;
};

// A copy by the unit beside the threads, either way, with or without a map.
struct BulkCopy {
  Block* block;
  std::byte* shared;
  std::byte* global;    // of a copy without a map
  CUtensorMap map;      // rank 0: none
  int at[5];
  uint64_t bytes;       // that pass through shared memory
  uint64_t* barrier;    // of loads
  uint64_t group;       // of stores
  char* token;          // orders it after its issue
};

struct Thread : Fiber {
  uint3 index, block_index;
  unsigned rank, slot;            // in the block; among the resident threads
  Block* block = nullptr;         // null for the host
  State state = State::done;
  const char* doing = "";
  Here where;
  int vote = 0;                   // result of the barrier
  unsigned impatience = 0;        // calls of preempt() since it last waited for something
  std::vector<Copy> copies;
  std::vector<BulkCopy> stores;
  uint64_t copy_group = 0, store_group = 0;
  unsigned lane() const { return rank % 32; }
  unsigned warp() const { return rank / 32; }
};

struct Barrier {
  int need = 0, arrived = 0, ayes = 0;
  Vote vote = Vote::none;
  Here where;
  std::vector<Thread*> waiting;
  unsigned round = 0;
  char token[2];
};

// Lanes on their way into operations of a warp; each waits until all lanes of its mask have come.
struct Warp {
  uint32_t present, waiting = 0;  // lanes that exist and have not exited; lanes that wait
  struct {
    const char* name;
    Here where;
    uint32_t mask;
    void* argument;
    Thread* thread;
  } lane[32];
  char token[32];                 // by the first lane of the mask
};

struct Warpgroup {
  int arrived = 0;
  const char* name = nullptr;
  Here where;
  void* argument[128];
  Thread* thread[128];
  char token;
  bool fenced = false;
  std::vector<struct WgmmaTask> open;
  std::deque<std::vector<WgmmaTask>> groups;
  Warpgroup();
  ~Warpgroup();
};

struct Block {
  unsigned present;                           // threads that have not exited
  std::byte* memory = nullptr;                // what the shared window shows; never unmapped
  size_t launch_bytes, static_bytes;
  std::vector<std::pair<const void*, std::byte*>> statics;
  Barrier barriers[16];
  std::vector<Warp> warps;
  std::vector<std::unique_ptr<Warpgroup>> groups;
  struct Waiter { Thread* thread; uint64_t* barrier; unsigned parity; };
  std::vector<Waiter> waiters;                // at mbarriers
  char async_token;                           // what fences have shown to the unit beside the threads
};

// The shared window: dynamic memory from 1024, then static arrays. Descriptors of wgmma reach 256 KB.
inline constexpr size_t dynamic_at = 1024, dynamic_room = 384 << 10, static_room = 64 << 10;
inline constexpr size_t window_bytes = dynamic_at + dynamic_room + static_room;
inline constexpr size_t largest_shared_sm90 = 232448, largest_shared_sm80 = 166912;  // bytes of dynamic memory a block may have

Thread& self();                               // who runs
bool on_host();
uint64_t random_word();
bool by_chance();                             // one of two

// The running thread stops in `state` and returns when it has been made ready and chosen.
void wait(State state, const char* doing, Here here);
void wake(Thread& thread);

// Ends the launch with a message about the running thread; join(parts...) is what is said.
[[noreturn]] void abandon();
void note_failure(const std::string& what);
template <class... Parts> [[noreturn]] void refuse(const Parts&... parts) {
  note_failure(join(parts...));
  abandon();  // the stack is left as it is, so nothing on it may own memory
}

// All lanes of `mask`, or all threads of a warpgroup, call with an argument each; the last calls finish on all of them.
void meet_warp(uint32_t mask, const char* name, void* argument, void (*finish)(void** argument, uint32_t mask), Here here);
void meet_warpgroup(const char* name, void* argument, void (*finish)(void** argument), Here here);

// Runs a kernel to its end. Throws Failure.
void run_grid(const std::string& kernel, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body);

// async.cpp
void land_copies(Thread& thread, uint64_t before_group);
bool land_one_somewhere();                    // of what TMA has to do; false if nothing
void forget_flights();
void finish_stores(Thread& thread, uint64_t before_group);
void land_a_copy_of(Thread& thread);
void* async_proxy();                          // TSan's name of the unit beside the threads
uint32_t swizzled(uint32_t offset, int width);
std::byte* window(uint32_t offset, size_t bytes, const char* what, Here here);

// runtime.cpp: what the running thread reads or writes must lie in one block of device or pinned memory.
void check_global(const void* at, size_t bytes, const char* what, Here here);
class OpenDevice {                            // device memory may be touched while one lives
 public:
  OpenDevice();
  ~OpenDevice();
};

}  // namespace folio::sim
