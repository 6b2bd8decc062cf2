// SPDX-License-Identifier: MIT
// What this machine can do at most, measured: how fast threads read memory, and how fast their arithmetic units run when nothing
// else holds them up. The yardsticks beside which generate and bench print their figures.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "graph/device.h"

namespace folio {

// Bytes per second at which `threads` threads together read `area`, over and over; the best pass of about `budget` seconds. An
// area that fits into a cache gives the cache's speed.
double read_bandwidth(std::span<const std::byte> area, int threads, double budget = 0.04);

// The same of `bytes` fresh bytes: of memory, if they are far more than the caches hold.
double memory_bandwidth(int threads, int64_t bytes = int64_t(512) << 20, double budget = 0.3);

// Operations per second of all threads together, a multiply and an add counted as two; 0 where the machine has no such unit.
enum class Unit { fp32, bf16, int8 };
const char* name(Unit unit);   // "fp32 FMA", "bf16 dot", "int8 dot"
double peak(Unit unit, int threads, double budget = 0.1);

// All of it, for `bench`: what the device says of itself, or what `threads` threads of this machine reach (0: all that this process may
// use). "read 4,100 GB/s, fp32 FMA 52,000 GFLOP/s ..." is the line that a person reads.
Limits measure_limits(Device& device, int threads);
std::string text(const Limits& limits);

// The unit that multiplies weights of a format, as the limits have it: 10^9 operations a second and "bf16"; fp32 where there is none.
struct UnitPeak { double gops; const char* unit; };
UnitPeak peak_for(const Limits& limits, DType weights);

int64_t peak_memory();   // bytes that this process has held at most (VmHWM); 0 if the system does not say
bool reset_peak_memory();   // from now on; false if the system does not let us

}  // namespace folio
