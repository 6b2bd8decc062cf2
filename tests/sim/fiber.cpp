// SPDX-License-Identifier: MIT
#include "fiber.h"

#include <pthread.h>
#include <sys/mman.h>

#include "base/error.h"

#if FOLIO_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifdef FOLIO_SIM_TSAN
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);  // flag 1: the switch orders nothing
void __tsan_acquire(void* token);
void __tsan_release(void* token);
void __tsan_read_range(void* at, unsigned long bytes);
void __tsan_write_range(void* at, unsigned long bytes);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

// folio_sim_switch(from, to): saves what a call must preserve on the stack, stores the stack pointer in *from, takes `to` as the
// new one and restores from there.
extern "C" void folio_sim_switch(void** from, void* to);

#if defined(__x86_64__)
asm(R"(
  .text
  .globl folio_sim_switch
  .type folio_sim_switch, @function
folio_sim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size folio_sim_switch, .-folio_sim_switch
)");
static constexpr int words_saved = 8, word_of_entry = 6;  // six registers, the return address, and one for alignment as after a call
#elif defined(__aarch64__)
asm(R"(
  .text
  .globl folio_sim_switch
  .type folio_sim_switch, %function
folio_sim_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
  .size folio_sim_switch, .-folio_sim_switch
)");
static constexpr int words_saved = 20, word_of_entry = 11;  // x30 is where `ret` goes
#else
#error "the CUDA simulator switches stacks on x86-64 and aarch64 only"
#endif

namespace folio::sim {

namespace {

Fiber* current = nullptr;
#ifdef FOLIO_SIM_TSAN
bool disguised = false;
#endif

}  // namespace

Fiber& running() { return *current; }

void adopt_thread(Fiber& fiber) {
  pthread_attr_t attributes;
  void* stack = nullptr;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &stack, &fiber.stack_bytes);
  pthread_attr_destroy(&attributes);
  fiber.stack = static_cast<char*>(stack);
#ifdef FOLIO_SIM_TSAN
  fiber.tsan = __tsan_get_current_fiber();
#endif
  current = &fiber;
}

void make_fiber(Fiber& fiber, size_t stack_bytes) {
  constexpr size_t guard = 64 << 10;  // the largest page there is
  void* at = mmap(nullptr, stack_bytes + guard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  check(at != MAP_FAILED && mprotect(at, guard, PROT_NONE) == 0, "sim: no memory for the stacks of so many threads");
  fiber.stack = static_cast<char*>(at) + guard;
  fiber.stack_bytes = stack_bytes;
  fiber.tsan = tsan::new_thread();
}

void aim(Fiber& fiber, void (*entry)()) {
  allow(fiber.stack, fiber.stack_bytes);  // what an abandoned run has left there
  fiber.fake_stack = nullptr;
  void** top = reinterpret_cast<void**>(fiber.stack + fiber.stack_bytes) - words_saved;
  for (int i = 0; i < words_saved; ++i) top[i] = nullptr;
  top[word_of_entry] = reinterpret_cast<void*>(entry);
  fiber.stack_pointer = top;
}

void swap([[maybe_unused]] Fiber& from, Fiber& to, [[maybe_unused]] bool for_good) {
#if FOLIO_ASAN
  __sanitizer_start_switch_fiber(for_good ? nullptr : &from.fake_stack, to.stack, to.stack_bytes);
#endif
#ifdef FOLIO_SIM_TSAN
  disguised = false;  // by a failure in the middle
  __tsan_switch_to_fiber(to.tsan, 1);
#endif
  current = &to;
  folio_sim_switch(&from.stack_pointer, to.stack_pointer);
#if FOLIO_ASAN
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

void arrived() {
#if FOLIO_ASAN
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

#ifdef FOLIO_SIM_TSAN
namespace tsan {
void acquire(void* token) { __tsan_acquire(token); }
void release(void* token) { __tsan_release(token); }
// Even under a Quiet, for these are the kernel's.
static void loudly(void (*tell)(void*, unsigned long), const void* at, size_t bytes) {
  const int depth = disguised ? 0 : current->quiet;
  for (int i = 0; i < depth; ++i) AnnotateIgnoreWritesEnd("", 0), AnnotateIgnoreReadsEnd("", 0);
  tell(const_cast<void*>(at), bytes);
  for (int i = 0; i < depth; ++i) AnnotateIgnoreReadsBegin("", 0), AnnotateIgnoreWritesBegin("", 0);
}
void reads(const void* at, size_t bytes) { loudly(__tsan_read_range, at, bytes); }
void writes(const void* at, size_t bytes) { loudly(__tsan_write_range, at, bytes); }
void* new_thread() { return __tsan_create_fiber(0); }
As::As(void* thread) {
  __tsan_switch_to_fiber(thread, 1);
  disguised = true;
}
As::~As() {
  disguised = false;
  __tsan_switch_to_fiber(current->tsan, 1);
}
}  // namespace tsan
Quiet::Quiet() : fiber_(running()) {
  ++fiber_.quiet;
  AnnotateIgnoreReadsBegin("", 0);
  AnnotateIgnoreWritesBegin("", 0);
}
Quiet::~Quiet() {
  AnnotateIgnoreWritesEnd("", 0);
  AnnotateIgnoreReadsEnd("", 0);
  --fiber_.quiet;
}
void Quiet::close_all() {
  for (; current->quiet > 0; --current->quiet) AnnotateIgnoreWritesEnd("", 0), AnnotateIgnoreReadsEnd("", 0);
}
#else
namespace tsan {
void acquire(void*) {}
void release(void*) {}
void reads(const void*, size_t) {}
void writes(const void*, size_t) {}
void* new_thread() { return nullptr; }
As::As(void*) {}
As::~As() {}
}  // namespace tsan
Quiet::Quiet() : fiber_(running()) {}
Quiet::~Quiet() { (void)fiber_; }
void Quiet::close_all() {}
#endif

#if FOLIO_ASAN
void forbid(const void* at, size_t bytes) { __asan_poison_memory_region(at, bytes); }
void allow(const void* at, size_t bytes) { __asan_unpoison_memory_region(at, bytes); }
#else
void forbid(const void*, size_t) {}
void allow(const void*, size_t) {}
#endif

}  // namespace folio::sim
