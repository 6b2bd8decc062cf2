// SPDX-License-Identifier: MIT
// Fibers: stacks that are switched by hand (x86-64 and aarch64), and what the sanitizers must be told about it. To the thread
// sanitizer each fiber is a thread of its own, and a switch orders nothing; acquire and release order, as they do for threads.
// The simulator is compiled without -fsanitize=thread (with FOLIO_SIM_TSAN instead): its own accesses are not the kernel's.
#pragma once
#include <cstddef>

#include "sanitizers.h"

namespace folio::sim {

struct Fiber {
  void* stack_pointer = nullptr;  // while it does not run
  char* stack = nullptr;
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;     // ASan's
  void* tsan = nullptr;           // TSan's name of it
  int quiet = 0;                  // Quiets that are open on it
};

void adopt_thread(Fiber& fiber);                        // describes the thread of the system that calls
void make_fiber(Fiber& fiber, size_t stack_bytes);      // gives it a stack with a guard page; never freed
void aim(Fiber& fiber, void (*entry)());                // it will begin at entry, which calls arrived() first and never returns
void swap(Fiber& from, Fiber& to, bool for_good);       // for_good: `from` is never resumed
void arrived();
Fiber& running();                                       // the fiber that runs

// What the thread sanitizer is told; nothing otherwise.
namespace tsan {
#ifdef FOLIO_SIM_TSAN
inline constexpr bool on = true;
#else
inline constexpr bool on = false;
#endif
void acquire(void* token);
void release(void* token);
void reads(const void* at, size_t bytes);   // by the running fiber
void writes(const void* at, size_t bytes);
void* new_thread();
class As {                                  // for its lifetime, what is told is told of that thread
 public:
  explicit As(void* thread);
  ~As();
};
}  // namespace tsan

// While one is open, accesses of the running fiber are the simulator's and not the kernel's. Every entry to the simulator opens one.
class Quiet {
 public:
  Quiet();
  ~Quiet();
  Quiet(const Quiet&) = delete;
  static void close_all();  // those of a fiber that starts anew, which never left the simulator

 private:
  Fiber& fiber_;
};

// What the address sanitizer is told.
void forbid(const void* at, size_t bytes);
void allow(const void* at, size_t bytes);

}  // namespace folio::sim
