// SPDX-License-Identifier: MIT
#include "cuda/table.h"

#include <string>
#include <unordered_map>

namespace folio {

namespace {

template <class Op> void run_kernel(const void* op, const CudaQueue& queue) { run(*static_cast<const Op*>(op), queue); }
template <class Op> int64_t kernel_scratch(const void* op, int processors) {
  if constexpr (requires(const Op& o) { cuda_scratch(o, 1); }) return cuda_scratch(*static_cast<const Op*>(op), processors);
  else return 0;
}

std::unordered_map<std::string_view, CudaLauncher> make_table() {
  std::unordered_map<std::string_view, CudaLauncher> table;
#define FOLIO_KERNEL(OP) table.emplace(OP::name, CudaLauncher{run_kernel<OP>, kernel_scratch<OP>});
  ALL_OPS(FOLIO_KERNEL)
#undef FOLIO_KERNEL
  return table;
}

}  // namespace

const CudaLauncher& cuda_launcher(std::string_view op) {
  static const auto table = make_table();
  const auto found = table.find(op);
  check(found != table.end(), "cuda: no launcher for op '", std::string(op), "'");
  return found->second;
}

}  // namespace folio
