// SPDX-License-Identifier: MIT
// The scheduler and everything by which threads of a block wait for each other. Fibers switch straight to the next that is ready;
// when none is, asynchronous copies land, then those that only yielded go on, and if even that leads nowhere it is a deadlock.
#include "engine.h"

#include <sys/mman.h>

#include <cstring>
#include <utility>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace folio {

Here::operator std::string() const {
  const char* slash = std::strrchr(file, '/');
  return join(slash ? slash + 1 : file, ':', line);
}

}  // namespace folio

namespace folio::sim {

namespace {

constexpr size_t stack_bytes = 256 << 10;
constexpr unsigned patience = 20000;      // rounds of nothing but yields, before it is a deadlock

struct Engine {
  Thread host;
  Thread* self = nullptr;
  std::vector<std::unique_ptr<Thread>> pool;
  std::vector<std::unique_ptr<Block>> blocks;
  std::vector<uint64_t> ready;            // a bit for each slot
  size_t first_of_pool = 0;               // where the resident threads begin
  unsigned slots = 0, done = 0, last = 0, idle_rounds = 0;
  std::string kernel;
  const std::function<void()>* body = nullptr;
  std::string failure;
  uint64_t random = 1;
  char start_token, end_token;
  Engine() {
    adopt_thread(host);
    self = &host;
  }
  Thread& at(unsigned slot) { return *pool[first_of_pool + slot]; }
};

Engine& engine() {
  static Engine* const one = new Engine;  // lives as long as the process: stacks and windows are never given back
  return *one;
}

void set_ready(Thread& t) {
  t.state = State::ready;
  engine().ready[t.slot / 64] |= 1ull << t.slot % 64;
}

int first_ready(unsigned from) {  // at or after `from`, then from the beginning; -1: none
  const auto& ready = engine().ready;
  const unsigned words = unsigned(ready.size());
  unsigned w = from / 64;
  uint64_t bits = ready[w] & ~0ull << from % 64;
  for (unsigned i = 0; i <= words; ++i) {
    if (bits) return int(w * 64 + unsigned(__builtin_ctzll(bits)));
    w = w + 1 == words ? 0 : w + 1;
    bits = ready[w];
  }
  return -1;
}

int last_ready() {
  const auto& ready = engine().ready;
  for (size_t w = ready.size(); w-- > 0;)
    if (ready[w]) return int(w * 64 + 63 - size_t(__builtin_clzll(ready[w])));
  return -1;
}

int choose() {
  Engine& e = engine();
  switch (config().order) {
    case Order::forward: return first_ready(0);
    case Order::reverse: return last_ready();
    case Order::round_robin: return first_ready((e.last + 1) % e.slots);
    case Order::random: return first_ready(unsigned(random_word() % e.slots));
  }
  return -1;
}

// Who runs next; the host if nobody can.
Thread& next() {
  Engine& e = engine();
  for (;;) {
    if (config().landing == Landing::any_time && random_word() % 8 == 0) {
      land_one_somewhere();
      land_a_copy_of(e.at(unsigned(random_word() % e.slots)));
    }
    const int slot = choose();
    if (slot >= 0) {
      e.last = unsigned(slot);
      e.ready[size_t(slot) / 64] &= ~(1ull << slot % 64);
      return e.at(unsigned(slot));
    }
    if (land_one_somewhere()) {
      e.idle_rounds = 0;
      continue;
    }
    bool any = false;
    if (e.idle_rounds++ < patience)
      for (unsigned i = 0; i < e.slots; ++i)
        if (e.at(i).state == State::yielding) set_ready(e.at(i)), any = true;
    if (!any) return e.host;
  }
}

void go_to(Thread& to, bool for_good = false) {
  Engine& e = engine();
  Thread& from = *e.self;
  if (&to == &from) return;
  ++stats().switches;
  e.self = &to;
  threadIdx = to.index;
  blockIdx = to.block_index;
  swap(from, to, for_good);
}

void release_all(Block& b, Barrier& barrier) {
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  if (barrier.need == 0 && b.present < threads)
    refuse("barrier at ", barrier.where, " reached by ", b.present, " threads, ", threads - b.present, " of the block have exited");
  const int ayes = barrier.ayes;
  const int result = barrier.vote == Vote::all ? ayes == barrier.arrived : barrier.vote == Vote::any ? ayes > 0 : ayes;
  for (Thread* t : barrier.waiting) {
    t->vote = result;
    if (t != &self()) wake(*t);
  }
  ++stats().barriers;
  ++barrier.round;
  barrier.waiting.clear();
  barrier.arrived = barrier.ayes = barrier.need = 0;
}

// What a thread leaves behind.
void leave() {
  Engine& e = engine();
  Thread& me = self();
  Block& b = *me.block;
  land_copies(me, ~0ull);
  finish_stores(me, ~0ull);
  Warp& warp = b.warps[me.warp()];
  for (uint32_t waiting = warp.waiting; waiting; waiting &= waiting - 1) {
    const auto& other = warp.lane[__builtin_ctz(waiting)];
    if (other.mask >> me.lane() & 1) refuse("lane ", me.lane(), " exits while others need it in ", other.name, " at ", other.where);
  }
  warp.present &= ~(1u << me.lane());
  tsan::release(&e.end_token);
  me.state = State::done;
  ++e.done;
  --b.present;
  if (b.barriers[0].arrived && b.barriers[0].need == 0 && b.barriers[0].arrived == int(b.present)) release_all(b, b.barriers[0]);
}

void thread_main() {
  arrived();
  Quiet::close_all();
  tsan::acquire(&engine().start_token);
  (*engine().body)();
  const Quiet quiet;
  leave();
  go_to(next(), true);
  __builtin_unreachable();
}

std::string who_waits_where() {
  Engine& e = engine();
  std::map<std::string, std::vector<unsigned>> places;
  for (unsigned i = 0; i < e.slots; ++i) {
    const Thread& t = e.at(i);
    places[t.state == State::done ? "have exited" : join("wait in ", t.doing, " at ", t.where)].push_back(i);
  }
  std::string text;
  for (const auto& [place, who] : places)
    text += join("\n  ", who.size(), " threads (first ", who.front(), ", last ", who.back(), ") ", place);
  return text;
}

void begin_block(Block& b, uint64_t number, unsigned threads, size_t shared_bytes) {
  if (!b.memory) {
    void* at = mmap(nullptr, window_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(at != MAP_FAILED, "sim: no memory for shared memory");
    b.memory = static_cast<std::byte*>(at);
  } else if (tsan::on) {  // a block's shared memory is new to the thread sanitizer
    mmap(b.memory, window_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  }
  allow(b.memory, window_bytes);
  std::memset(b.memory, 0xff, std::min(dynamic_room, dynamic_at + shared_bytes + (64 << 10)));  // red zones lie between the arrays
  forbid(b.memory, window_bytes);
  b.present = threads;
  b.launch_bytes = shared_bytes;
  b.static_bytes = 0;
  b.statics.clear();
  b.waiters.clear();
  for (Barrier& barrier : b.barriers) barrier.need = barrier.arrived = barrier.ayes = 0, barrier.waiting.clear();
  b.warps.resize((threads + 31) / 32);
  for (size_t w = 0; w < b.warps.size(); ++w) {
    b.warps[w].waiting = 0;
    b.warps[w].present = threads - w * 32 >= 32 ? ~0u : (1u << (threads - w * 32)) - 1;
  }
  b.groups.clear();
  for (unsigned i = 0; i < threads / 128; ++i) b.groups.push_back(std::make_unique<Warpgroup>());
  const uint3 index = {unsigned(number % gridDim.x), unsigned(number / gridDim.x % gridDim.y), unsigned(number / gridDim.x / gridDim.y)};
  Engine& e = engine();
  for (unsigned rank = 0; rank < threads; ++rank) {
    const unsigned slot = e.slots++;
    Thread& t = e.at(slot);
    t.index = {rank % blockDim.x, rank / blockDim.x % blockDim.y, rank / blockDim.x / blockDim.y};
    t.block_index = index;
    t.rank = rank;
    t.slot = slot;
    t.block = &b;
    t.doing = "start";
    t.copies.clear();
    t.stores.clear();
    t.copy_group = t.store_group = t.impatience = 0;
    aim(t, thread_main);
  }
  ++stats().blocks;
}

// After a failure, the threads that never ended: to the thread sanitizer, what they did is over now.
void bury_the_rest() {
  Engine& e = engine();
  for (unsigned i = 0; i < e.slots; ++i)
    if (e.at(i).state != State::done) {
      const tsan::As them(e.at(i).tsan);
      tsan::release(&e.end_token);
    }
  tsan::acquire(&e.end_token);
}

}  // namespace

Thread& self() { return *engine().self; }
bool on_host() { return self().block == nullptr; }

uint64_t random_word() {  // xorshift64, Marsaglia 2003
  uint64_t& x = engine().random;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return x;
}
bool by_chance() { return random_word() >> 40 & 1; }

void wait(State state, const char* doing, Here here) {
  Thread& me = self();
  me.doing = doing;
  me.where = here;
  me.impatience = 0;
  if (state == State::ready) set_ready(me);
  else me.state = state;
  go_to(next());
}

void wake(Thread& t) {
  set_ready(t);
  engine().idle_rounds = 0;
}

void note_failure(const std::string& what) {
  Engine& e = engine();
  if (!e.failure.empty()) return;
  const Thread& t = self();
  e.failure = join(e.kernel, ": ", what);
  if (!on_host())
    e.failure += join(" [block ", t.block_index.x, ",", t.block_index.y, ",", t.block_index.z, " thread ", t.rank, "]");
}

void abandon() {
  Engine& e = engine();
  if (on_host()) throw Failure(std::exchange(e.failure, ""));
  go_to(e.host, true);
  __builtin_unreachable();
}

void stop(const char* message, Here here) {
  const Quiet quiet;
  refuse(message, " at ", here);
}

int barrier(int id, int count, Vote vote, bool mine, const char* name, Here here) {
  const Quiet quiet;
  Thread& me = self();
  if (id < 0 || id > 15 || count < 0 || count % 32) refuse(name, " at ", here, ": no barrier ", id, " of ", count, " threads");
  Barrier& b = me.block->barriers[id];
  if (b.arrived && count != b.need)
    refuse("barrier ", id, ": ", count, " threads at ", here, ", ", b.need, " at ", b.where);
  if (b.arrived && count == 0 && (b.where.line != here.line || std::strcmp(b.where.file, here.file) || b.vote != vote))
    refuse("divergent barrier: ", name, " at ", here, " while others wait at ", b.where);
  b.need = count;
  b.vote = vote;
  b.where = here;
  b.ayes += mine;
  b.waiting.push_back(&me);
  char* const token = &b.token[b.round & 1];
  tsan::release(token);
  if (++b.arrived == (count ? count : int(me.block->present))) {
    release_all(*me.block, b);
    wait(State::ready, name, here);
  } else {
    wait(State::waiting, name, here);
  }
  tsan::acquire(token);
  return me.vote;
}

void barrier_arrive(int id, int count, Here here) {
  const Quiet quiet;
  Thread& me = self();
  if (id < 1 || id > 15 || count <= 0 || count % 32) refuse("arrival at ", here, ": no barrier ", id, " of ", count, " threads");
  Barrier& b = me.block->barriers[id];
  if (b.arrived && count != b.need)
    refuse("barrier ", id, ": ", count, " threads at ", here, ", ", b.need, " at ", b.where);
  b.need = count;
  b.where = here;
  tsan::release(&b.token[b.round & 1]);
  if (++b.arrived == count) release_all(*me.block, b);
  preempt(here);
}

void yield(Here here) {
  const Quiet quiet;
  wait(State::yielding, "__nanosleep", here);
}

void preempt(Here here) {
  const Quiet quiet;
  if (on_host()) return;
  const unsigned calls = ++self().impatience;
  if (calls > 1000) {  // a loop that would keep others from running
    wait(State::yielding, "a loop without __nanosleep", here);
  } else if (config().order == Order::reverse || config().order == Order::round_robin || (config().order == Order::random && by_chance())) {
    wait(State::ready, "preempted", here);
    self().impatience = calls;
  }
}

void meet_warp(uint32_t mask, const char* name, void* argument, void (*finish)(void**, uint32_t), Here here) {
  const Quiet quiet;
  Thread& me = self();
  Warp& warp = me.block->warps[me.warp()];
  const unsigned lane = me.lane();
  if (!(mask >> lane & 1)) refuse(name, " at ", here, ": the calling lane ", lane, " is not in the mask");
  if (const uint32_t gone = mask & ~warp.present)
    refuse(name, " at ", here, " needs lane ", __builtin_ctz(gone), ", which has exited or never was");
  for (uint32_t others = warp.waiting & mask; others; others &= others - 1) {  // those that wait for us must do so in the same place
    const auto& other = warp.lane[__builtin_ctz(others)];
    const bool same = other.mask == mask && other.where.line == here.line && (other.name == name || !std::strcmp(other.name, name));
    if (same) break;
    if (other.mask >> lane & 1)
      refuse("divergent warp: ", name, " at ", here, ", while lane ", __builtin_ctz(others), " waits in ", other.name, " at ", other.where);
  }
  warp.lane[lane] = {name, here, mask, argument, &me};
  warp.waiting |= 1u << lane;
  char* const token = &warp.token[__builtin_ctz(mask)];
  tsan::release(token);
  if ((warp.waiting & mask) == mask) {
    tsan::acquire(token);
    if (finish) {
      void* arguments[32];
      for (int i = 0; i < 32; ++i) arguments[i] = mask >> i & 1 ? warp.lane[i].argument : nullptr;
      finish(arguments, mask);
    }
    tsan::release(token);
    ++stats().warp_operations;
    warp.waiting &= ~mask;
    for (int i = 0; i < 32; ++i)
      if (mask >> i & 1 && warp.lane[i].thread != &me) wake(*warp.lane[i].thread);
    wait(State::ready, name, here);
  } else {
    wait(State::waiting, name, here);
  }
  tsan::acquire(token);
}

void meet_warpgroup(const char* name, void* argument, void (*finish)(void**), Here here) {
  const Quiet quiet;
  Thread& me = self();
  if (me.rank / 128 >= me.block->groups.size()) refuse(name, " at ", here, ": the block has no whole warpgroup here");
  Warpgroup& group = *me.block->groups[me.rank / 128];
  if (group.arrived && (group.where.line != here.line || std::strcmp(group.name, name)))
    refuse("divergent warpgroup: ", name, " at ", here, ", others in ", group.name, " at ", group.where);
  group.name = name;
  group.where = here;
  group.argument[me.rank % 128] = argument;
  group.thread[me.rank % 128] = &me;
  tsan::release(&group.token);
  if (++group.arrived == 128) {
    group.arrived = 0;
    tsan::acquire(&group.token);
    finish(group.argument);
    tsan::release(&group.token);
    for (Thread* t : group.thread)
      if (t != &me) wake(*t);
    wait(State::ready, name, here);
  } else {
    wait(State::waiting, name, here);
  }
  tsan::acquire(&group.token);
}

std::byte* shared_base() { return self().block->memory + dynamic_at; }

void take_shared(const void* at, size_t bytes, size_t end, Here here) {
  const Quiet quiet;
  const Block& b = *self().block;
  if (end > b.launch_bytes) refuse("the layout at ", here, " needs ", end, " bytes of shared memory, the launch gave ", b.launch_bytes);
  allow(at, bytes);
}

void* static_shared(const void* site, size_t bytes, size_t align) {
  const Quiet quiet;
  Block& b = *self().block;
  for (const auto& [known, at] : b.statics)
    if (known == site) return at;
  const size_t begin = (b.static_bytes + 64 + std::max<size_t>(align, 16) - 1) / std::max<size_t>(align, 16) * std::max<size_t>(align, 16);
  if (begin + bytes > 48 << 10) refuse("static shared memory of more than 48 KB");
  b.static_bytes = begin + bytes;
  std::byte* at = b.memory + dynamic_at + dynamic_room + begin;
  allow(at, bytes);
  std::memset(at, 0xff, bytes);
  b.statics.emplace_back(site, at);
  return at;
}

uint32_t shared_address(const void* at, Here here) {
  const Quiet quiet;
  const size_t offset = size_t(static_cast<const std::byte*>(at) - self().block->memory);
  if (offset >= window_bytes) refuse("an address at ", here, " is not in the block's shared memory");
  return uint32_t(offset);
}

std::byte* window(uint32_t offset, size_t bytes, const char* what, Here here) {
  if (offset + bytes > window_bytes) refuse(what, " at ", here, " leaves shared memory");
  return self().block->memory + offset;
}

void access(const void* at, size_t bytes, Access kind, Here here) {
  const Quiet quiet;
  const char* name = kind == Access::load ? "vector load" : "vector store";
  if (uintptr_t(at) % bytes) refuse(name, " of ", bytes, " bytes at ", here, " is misaligned: address ", at);
  const Thread& me = self();
  if (size_t(static_cast<const std::byte*>(at) - me.block->memory) < window_bytes) return;
  if (size_t(static_cast<const char*>(at) - me.stack) < me.stack_bytes) return;  // the thread's own variables
  check_global(at, bytes, name, here);
  (kind == Access::load ? stats().loaded_bytes : stats().stored_bytes) += bytes;
}

void run_grid(const std::string& kernel, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body) {
  Engine& e = engine();
  const unsigned threads = block.x * block.y * block.z;
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  const auto resident = unsigned(std::min<uint64_t>(std::max(1u, config().resident_blocks), blocks));
  const size_t sets = tsan::on ? 2 : 1;  // blocks that follow each other are different threads to the sanitizer
  while (e.pool.size() < sets * resident * threads) {
    e.pool.push_back(std::make_unique<Thread>());
    make_fiber(*e.pool.back(), stack_bytes - e.pool.size() % 64 * 320);  // tops at the same address modulo 4096 share few cache lines
  }
  while (e.blocks.size() < resident) e.blocks.push_back(std::make_unique<Block>());
  const OpenDevice open;
  const Quiet quiet;
  blockDim = block;
  gridDim = grid;
  e.kernel = kernel;
  e.body = &body;
  e.failure.clear();
  e.random = config().seed * 0x9e3779b97f4a7c15ull | 1;
  ++stats().launches;
  stats().shared_peak = std::max<uint64_t>(stats().shared_peak, shared_bytes);
  tsan::release(&e.start_token);
  for (uint64_t first = 0; first < blocks; first += resident) {
    const auto now = unsigned(std::min<uint64_t>(resident, blocks - first));
    e.first_of_pool = sets > 1 && first / resident % 2 ? size_t(resident) * threads : 0;
    e.slots = e.done = e.idle_rounds = 0;
    forget_flights();
    for (unsigned i = 0; i < now; ++i)
      begin_block(*e.blocks[i], config().reverse_blocks ? blocks - 1 - first - i : first + i, threads, shared_bytes);
    e.last = e.slots - 1;
    e.ready.assign((e.slots + 63) / 64, 0);
    for (unsigned i = 0; i < e.slots; ++i) set_ready(e.at(i));
    go_to(next());
    if (e.failure.empty() && e.done < e.slots) e.failure = join(kernel, ": deadlock:", who_waits_where());
    if (!e.failure.empty()) {
      bury_the_rest();
      throw Failure(std::exchange(e.failure, ""));
    }
  }
  while (land_one_somewhere()) {}
  {
    const tsan::As unit(async_proxy());
    tsan::release(&e.end_token);
  }
  tsan::acquire(&e.end_token);
}

Config& config() {
  static Config now;
  return now;
}

Stats& stats() {
  static Stats now;
  return now;
}

bool sanitized() {
#ifdef FOLIO_SIM_TSAN
  return true;
#else
  return FOLIO_ASAN;
#endif
}

std::string describe(const Config& c) {
  static constexpr const char* orders[] = {"forward", "reverse", "round robin", "random"};
  static constexpr const char* landings[] = {"late", "early", "any time"};
  return join("threads ", orders[int(c.order)], ", asynchronous work ", landings[int(c.landing)], ", seed ", c.seed, ", ",
              c.resident_blocks, " resident, blocks ", c.reverse_blocks ? "backward" : "forward");
}

std::vector<Config> schedules(const Config& base) {
  std::vector<Config> all;
  for (Order order : {Order::forward, Order::reverse, Order::round_robin, Order::random})
    for (Landing landing : {Landing::late, Landing::early, Landing::any_time}) {
      if (tsan::on && int(order) % 3 != int(landing)) continue;
      Config c = base;
      c.order = order;
      c.landing = landing;
      all.push_back(c);
    }
  return all;
}

}  // namespace folio::sim
