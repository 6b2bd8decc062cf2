// SPDX-License-Identifier: MIT
// Op name → CPU launcher. A launcher unpacks the op and splits the work; the inner loops it calls see pointers and numbers.
// Every op of OPS_WITH_CPU_KERNEL has, in cpu/STEM.cpp,
//   void run(const Op&, Worker)                    called by every worker at once
//   int64_t scratch(const Op&, int workers)        bytes of shared scratch it wants, asked once when the graph is compiled
#pragma once
#include <string_view>

#include "ops/ops.h"

namespace folio {

#define FOLIO_DECLARE(OP)       \
  void run(const OP&, Worker);  \
  int64_t scratch(const OP&, int workers);
OPS_WITH_CPU_KERNEL(FOLIO_DECLARE)
#undef FOLIO_DECLARE

struct CpuLauncher {
  const char* name;
  void (*run)(const void* op, Worker);
  void (*reference)(const void* op, Worker);
  int64_t (*scratch)(const void* op, int workers);
};

// The launcher of that op. Every op of the list has one.
const CpuLauncher& cpu_launcher(std::string_view op);

}  // namespace folio
