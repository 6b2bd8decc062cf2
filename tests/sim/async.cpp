// SPDX-License-Identifier: MIT
// Copies that go on beside the threads: cp.async, mbarriers, TMA and bulk copies. A copy that has not landed leaves 0xff where it
// will write, so whoever reads too soon reads NaN. To the thread sanitizer cp.async writes as the thread that asked, at the request and at
// its wait; TMA and wgmma are one unit, a thread of its own, ordered by mbarriers, waits and fence_async_proxy only.
#include <cstring>

#include "engine.h"

namespace folio::sim {

namespace {

std::vector<BulkCopy> flights;  // loads that TMA has still to do
constexpr uint64_t our_mark = 0x70616d20746e6573;

}  // namespace

void* async_proxy() {
  static void* const unit = tsan::new_thread();
  return unit;
}

// --- cp.async

namespace {

void land(Copy& c) {
  std::memcpy(c.to, c.from, size_t(c.valid));
  std::memset(c.to + c.valid, 0, size_t(c.bytes - c.valid));
  c.landed = true;
}

}  // namespace

void cp_async(void* to, const void* from, int bytes, int valid, Here here) {
  const Quiet quiet;
  if (valid < 0 || valid > bytes) refuse("cp_async at ", here, " of ", valid, " out of ", bytes, " bytes");
  shared_address(to, here);
  if (uintptr_t(to) % unsigned(bytes) || (valid > 0 && uintptr_t(from) % unsigned(bytes)))
    refuse("cp_async at ", here, " is not aligned to ", bytes, " bytes");
  if (valid > 0) check_global(from, size_t(valid), "cp_async", here);
  stats().cp_async_bytes += uint64_t(valid);
  Thread& me = self();
  Copy copy{static_cast<std::byte*>(to), static_cast<const std::byte*>(from), bytes, valid, me.copy_group, false, here};
  tsan::writes(to, size_t(bytes));
  if (config().landing == Landing::early || (config().landing == Landing::any_time && by_chance())) land(copy);
  else std::memset(to, 0xff, size_t(bytes));
  me.copies.push_back(copy);
}

void land_a_copy_of(Thread& thread) {
  for (Copy& c : thread.copies)
    if (!c.landed) return land(c);
}

void land_copies(Thread& thread, uint64_t before_group) {
  auto& copies = thread.copies;
  size_t n = 0;
  for (; n < copies.size() && copies[n].group < before_group; ++n) {
    if (!copies[n].landed) land(copies[n]);
    tsan::reads(copies[n].from, size_t(copies[n].valid));
    tsan::writes(copies[n].to, size_t(copies[n].bytes));
  }
  copies.erase(copies.begin(), copies.begin() + long(n));
}

void cp_async_commit() { ++self().copy_group; }

void cp_async_wait(int groups_left) {
  const Quiet quiet;
  Thread& me = self();
  if (me.copy_group > uint64_t(groups_left)) land_copies(me, me.copy_group - uint64_t(groups_left));
}

// --- mbarriers: eight bytes of shared memory, with bits of our own.

namespace {

struct Mbarrier {
  uint64_t parity : 1, pending : 20, count : 20, mark : 1;
  int64_t bytes : 22;
};
static_assert(sizeof(Mbarrier) == 8);

Mbarrier get(uint64_t* at, const char* what, Here here) {
  shared_address(at, here);
  uint64_t raw;
  std::memcpy(&raw, at, 8);
  Mbarrier m;
  std::memcpy(static_cast<void*>(&m), &raw, 8);
  if (uintptr_t(at) % 8 || raw == ~0ull || !m.mark) refuse(what, " at ", here, " on an mbarrier that was not initialised");
  return m;
}

// Ends the phase if all has come, and wakes those who wait for its end.
void put(Block& b, uint64_t* at, Mbarrier m) {
  if (m.pending == 0 && m.bytes == 0) {
    m.parity ^= 1;
    m.pending = m.count;
    auto waits = b.waiters.begin();
    for (auto& w : b.waiters) {
      if (w.barrier == at && w.parity != m.parity) wake(*w.thread);
      else *waits++ = w;
    }
    b.waiters.erase(waits, b.waiters.end());
  }
  std::memcpy(at, &m, 8);
}

}  // namespace

void mbarrier_init(uint64_t* at, unsigned count, Here here) {
  const Quiet quiet;
  shared_address(at, here);
  if (uintptr_t(at) % 8 || count == 0 || count >= 1u << 20) refuse("mbarrier_init at ", here, " of ", count, " arrivals");
  Mbarrier m{};
  m.pending = m.count = count;
  m.mark = 1;
  std::memcpy(at, &m, 8);
}

void mbarrier_arrive(uint64_t* at, unsigned count, unsigned expect_bytes, Here here) {
  const Quiet quiet;
  Mbarrier m = get(at, "arrival", here);
  if (count > m.pending) refuse("mbarrier at ", here, ": more arrivals than the ", unsigned(m.count), " of its phase");
  tsan::release(at);
  m.bytes += expect_bytes;
  m.pending -= count;
  put(*self().block, at, m);
  preempt(here);
}

bool mbarrier_test(uint64_t* at, unsigned parity, Here here) {
  const Quiet quiet;
  preempt(here);
  if (get(at, "wait", here).parity == (parity & 1)) return false;
  tsan::acquire(at);
  return true;
}

void mbarrier_wait(uint64_t* at, unsigned parity, Here here) {
  const Quiet quiet;
  while (get(at, "wait", here).parity == (parity & 1)) {
    self().block->waiters.push_back({&self(), at, parity & 1});
    wait(State::waiting, "mbarrier_wait", here);
  }
  tsan::acquire(at);
}

// --- TMA and bulk copies

uint32_t swizzled(uint32_t offset, int width) {  // bits 4.. are exchanged by bits 7..: 3, 2 or 1 of them
  return width ? offset ^ ((offset >> 7 & uint32_t(width / 16 - 1)) << 4) : offset;
}

bool encode_tensor_map(CUtensorMap* map, void* base, int rank, int element, const int64_t* extent, const int64_t* stride, const int* box,
                       int swizzle) {
  CUtensorMap m{};
  m.made_by_us = our_mark;
  m.base = static_cast<std::byte*>(base);
  m.rank = uint8_t(rank);
  m.element = uint8_t(element);
  m.swizzle = uint8_t(swizzle);
  const int inner = box[0] * element;
  if (uintptr_t(base) % 16 || inner % 16 || (swizzle && inner != swizzle)) return false;
  for (int i = 0; i < rank; ++i) {
    if (box[i] < 1 || box[i] > 256 || extent[i] < 1 || extent[i] > 1ll << 32) return false;
    m.extent[i] = extent[i];
    m.box[i] = uint16_t(box[i]);
    m.stride[i] = i == 0 ? element : stride[i - 1];
    if (i > 0 && (m.stride[i] % 16 || m.stride[i] < 16 || m.stride[i] >= 1ll << 40)) return false;
  }
  *map = m;
  return true;
}

namespace {

// Calls move(in shared memory, in the tensor or null if outside) for each element of the box.
template <class F> void each_element(const BulkCopy& c, F move) {
  const CUtensorMap& m = c.map;
  const auto base = uint32_t(c.shared - c.block->memory);
  const auto elements = int64_t(c.bytes) / m.element;
  for (int64_t i = 0; i < elements; ++i) {
    int64_t rest = i, offset = 0;
    bool inside = true;
    for (int d = 0; d < m.rank; ++d) {
      const int64_t x = c.at[d] + rest % m.box[d];
      rest /= m.box[d];
      inside &= x >= 0 && x < m.extent[d];
      offset += x * m.stride[d];
    }
    move(c.block->memory + swizzled(base + uint32_t(i * m.element), m.swizzle), inside ? m.base + offset : nullptr);
  }
}

// The bytes of a load or a store, told to the sanitizer as the unit's own.
void carry_out(const BulkCopy& c, bool load) {
  if (c.map.rank == 0) {
    std::memcpy(load ? c.shared : c.global, load ? c.global : c.shared, c.bytes);
  } else {
    const size_t n = c.map.element;
    each_element(c, [&](std::byte* shared, std::byte* global) {
      if (load && global) std::memcpy(shared, global, n);
      else if (load) std::memset(shared, 0, n);
      else if (global) std::memcpy(global, shared, n);
    });
  }
  if (!tsan::on) return;
  const tsan::As unit(async_proxy());
  tsan::acquire(load ? c.token : &c.block->async_token);  // a store reads what fences have shown
  if (load) tsan::writes(c.shared, c.bytes);
  else tsan::reads(c.shared, c.bytes);
  if (c.map.rank == 0) load ? tsan::reads(c.global, c.bytes) : tsan::writes(c.global, c.bytes);
  else
    each_element(c, [&](std::byte*, std::byte* global) {
      if (global) load ? tsan::reads(global, c.map.element) : tsan::writes(global, c.map.element);
    });
  tsan::release(load ? static_cast<void*>(c.barrier) : c.token);
}

void land_load(size_t i) {
  const BulkCopy c = flights[i];
  flights.erase(flights.begin() + long(i));
  carry_out(c, true);
  Mbarrier m;
  std::memcpy(static_cast<void*>(&m), c.barrier, 8);
  m.bytes -= int64_t(c.bytes);
  put(*c.block, c.barrier, m);
}

BulkCopy with_map(const CUtensorMap* map, const void* shared, const int* at, int rank, const char* what, Here here) {
  if (map->made_by_us != our_mark) refuse(what, " at ", here, ": the tensor map was never made");
  if (map->rank != rank) refuse(what, " at ", here, ": ", rank, " coordinates for a tensor of ", int(map->rank));
  const unsigned align = map->swizzle ? 8u * map->swizzle : 128;
  if (shared_address(shared, here) % align) refuse(what, " at ", here, ": shared memory must be aligned to ", align, " bytes");
  BulkCopy c{};
  c.block = self().block;
  c.shared = static_cast<std::byte*>(const_cast<void*>(shared));
  c.map = *map;
  c.bytes = map->element;
  for (int i = 0; i < rank; ++i) c.at[i] = at[i], c.bytes *= map->box[i];
  window(shared_address(shared, here), c.bytes, what, here);
  check_global(map->base, map->element, what, here);
  return c;
}

BulkCopy without_map(const void* shared, const void* global, unsigned bytes, const char* what, Here here) {
  if (bytes % 16 || shared_address(shared, here) % 16 || uintptr_t(global) % 16) refuse(what, " at ", here, " is not aligned to 16 bytes");
  window(shared_address(shared, here), bytes, what, here);
  check_global(global, bytes, what, here);
  BulkCopy c{};
  c.block = self().block;
  c.shared = static_cast<std::byte*>(const_cast<void*>(shared));
  c.global = static_cast<std::byte*>(const_cast<void*>(global));
  c.bytes = bytes;
  return c;
}

void start(const BulkCopy& copy, bool load) {
  BulkCopy c = copy;
  static char tokens[256];
  static unsigned turn = 0;
  c.token = &tokens[turn++ % 256];
  tsan::release(c.token);
  stats().tma_bytes += c.bytes;
  if (load) {
    flights.push_back(c);
    if (config().landing == Landing::early) return land_load(flights.size() - 1);
    if (c.map.rank == 0) std::memset(c.shared, 0xff, c.bytes);
    else each_element(c, [&](std::byte* shared, std::byte*) { std::memset(shared, 0xff, c.map.element); });
  } else {
    c.group = self().store_group;
    if (config().landing == Landing::early || (config().landing == Landing::any_time && by_chance())) carry_out(c, false);
    else self().stores.push_back(c);
  }
}

}  // namespace

bool land_one_somewhere() {
  if (flights.empty()) return false;
  land_load(config().landing == Landing::any_time ? random_word() % flights.size() : 0);
  return true;
}

void forget_flights() { flights.clear(); }

void finish_stores(Thread& thread, uint64_t before_group) {
  size_t n = 0;
  for (; n < thread.stores.size() && thread.stores[n].group < before_group; ++n) {
    carry_out(thread.stores[n], false);
    tsan::acquire(thread.stores[n].token);
  }
  thread.stores.erase(thread.stores.begin(), thread.stores.begin() + long(n));
}

void tma_load(void* to, const CUtensorMap* map, uint64_t* barrier, const int* at, int rank, Here here) {
  const Quiet quiet;
  get(barrier, "tma_load", here);
  BulkCopy c = with_map(map, to, at, rank, "tma_load", here);
  c.barrier = barrier;
  start(c, true);
}

void tma_store(const CUtensorMap* map, const void* from, const int* at, int rank, Here here) {
  const Quiet quiet;
  start(with_map(map, from, at, rank, "tma_store", here), false);
}

void bulk_load(void* to, const void* from, unsigned bytes, uint64_t* barrier, Here here) {
  const Quiet quiet;
  get(barrier, "bulk_load", here);
  BulkCopy c = without_map(to, from, bytes, "bulk_load", here);
  c.barrier = barrier;
  start(c, true);
}

void bulk_store(void* to, const void* from, unsigned bytes, Here here) {
  const Quiet quiet;
  start(without_map(from, to, bytes, "bulk_store", here), false);
}

void bulk_commit() { ++self().store_group; }

void bulk_wait(int groups_left) {
  const Quiet quiet;
  Thread& me = self();
  if (me.store_group > uint64_t(groups_left)) finish_stores(me, me.store_group - uint64_t(groups_left));
}

void fence_async_proxy() {
  const Quiet quiet;
  tsan::release(&self().block->async_token);
}

}  // namespace folio::sim
