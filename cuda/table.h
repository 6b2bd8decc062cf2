// SPDX-License-Identifier: MIT
// Op name → CUDA launcher. Every op of ALL_OPS has, in cuda/STEM.cu, the STEM of its header in ops/,
//   void run(const Op&, const CudaQueue&)                    queues its kernels; called eagerly or while a graph is captured
// and those of OPS_WITH_CUDA_SCRATCH also
//   int64_t cuda_scratch(const Op&, int processors)          bytes of device memory it wants while it runs, asked once
// A launcher unpacks the op and splits the work; a kernel sees pointers and numbers. Whoever forgets one is told by the linker.
#pragma once
#include <string>
#include <string_view>

#include "cuda/lib/runtime.h"
#include "ops/ops.h"

namespace folio {

// What a launcher may use. Nothing in it changes between two runs of a program, so a captured launch never needs an update: what
// differs from step to step (positions, lengths, page ids) is read by the kernels from device memory.
struct CudaQueue {
  cudaStream_t stream;
  std::byte* scratch;      // of the op, aligned to 256, its content undefined: the ops before have used it, too
  int processors;          // multiprocessors of the card
  bool hopper = false;     // kernels of the Hopper tier are wanted, and the card has what they need
  size_t shared = 0;       // bytes of shared memory that a block may have
  // For kernels whose blocks want the more the wider the op's heads are. `heads` says how wide, for the Error that is thrown if the
  // card has not so much.
  void expect_shared(size_t bytes, const char* op, const std::string& heads) const {
    check(bytes <= shared, op, ": with ", heads, " a block of the CUDA kernel wants ", bytes, " bytes of shared memory, and this card has ",
          shared, "; run the model with --device cpu");
  }
};

#define OPS_WITH_CUDA_SCRATCH(OP) OP(Matmul) OP(ExpertMatmul) OP(Attend) OP(Sample) OP(LogLinear) OP(Mesa) OP(Mla)

#define FOLIO_DECLARE(OP) void run(const OP&, const CudaQueue&);
ALL_OPS(FOLIO_DECLARE)
#undef FOLIO_DECLARE
#define FOLIO_DECLARE(OP) int64_t cuda_scratch(const OP&, int processors);
OPS_WITH_CUDA_SCRATCH(FOLIO_DECLARE)
#undef FOLIO_DECLARE

struct CudaLauncher {
  void (*run)(const void* op, const CudaQueue&);
  int64_t (*scratch)(const void* op, int processors);
};

// The launcher of that op. Every op of the list has one.
const CudaLauncher& cuda_launcher(std::string_view op);

}  // namespace folio
