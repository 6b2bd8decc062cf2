// SPDX-License-Identifier: MIT
// What the launcher of Attend knows of a kernel: how it is started, and the shape of its units (attend_plan.cuh).
#pragma once
#include "cuda/attend_plan.cuh"
#include "ops/attend.h"

namespace folio {

struct AttendKernel {
  void (*start)(const Attend&, const attention::Args&, const Launch&);
  int rows, pitch, step, threads;
  size_t shared;
  bool alone = false;  // a multiprocessor holds one block of it
};

// attend_hopper.cu: prompts in the Hopper tier, by types and sizes alone. Pools must allow 16-byte loads.
bool hopper_can(const Attend& op);
AttendKernel hopper_of(const Attend& op);

}  // namespace folio
