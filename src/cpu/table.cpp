// SPDX-License-Identifier: MIT
#include "cpu/table.h"

#include <string>
#include <unordered_map>

namespace folio {

namespace {

template <class Op> void run_reference(const void* op, Worker w) { static_cast<const Op*>(op)->reference(w); }
template <class Op> void run_kernel(const void* op, Worker w) { run(*static_cast<const Op*>(op), w); }
template <class Op> int64_t kernel_scratch(const void* op, int workers) { return scratch(*static_cast<const Op*>(op), workers); }
int64_t no_scratch(const void*, int) { return 0; }

template <class Op> CpuLauncher with_kernel() { return {Op::name, run_kernel<Op>, run_reference<Op>, kernel_scratch<Op>}; }
template <class Op> CpuLauncher plain() { return {Op::name, run_reference<Op>, run_reference<Op>, no_scratch}; }

std::unordered_map<std::string_view, CpuLauncher> make_table() {
  std::unordered_map<std::string_view, CpuLauncher> table;
#define FOLIO_KERNEL(OP) table.emplace(OP::name, with_kernel<OP>());
#define FOLIO_PLAIN(OP) table.emplace(OP::name, plain<OP>());
  OPS_WITH_CPU_KERNEL(FOLIO_KERNEL)
  OPS_PLAIN_ON_CPU(FOLIO_PLAIN)
#undef FOLIO_KERNEL
#undef FOLIO_PLAIN
  return table;
}

}  // namespace

const CpuLauncher& cpu_launcher(std::string_view op) {
  static const auto table = make_table();
  const auto found = table.find(op);
  check(found != table.end(), "cpu: no launcher for op '", std::string(op), "'");
  return found->second;
}

}  // namespace folio
