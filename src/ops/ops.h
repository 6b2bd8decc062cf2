// SPDX-License-Identifier: MIT
// THE LIST: every op there is. One include for a family, one name for an op. A device makes its table of launchers from it,
// the tests their table of cases; whoever forgets a kernel or a case is told by the linker.
#pragma once
#include "ops/attend.h"
#include "ops/elementwise.h"
#include "ops/matmul.h"
#include "ops/mesa.h"
#include "ops/norm.h"
#include "ops/rope.h"
#include "ops/rows.h"
#include "ops/top_k.h"

#define OPS_WITH_CPU_KERNEL(OP) OP(Matmul) OP(Attend) OP(Mesa)
// Their reference is fast enough.
#define OPS_PLAIN_ON_CPU(OP)                                                                          \
  OP(Embed) OP(Gather) OP(Append) OP(Add) OP(Scale) OP(Cast) OP(Activate) OP(Glu) OP(Softcap)         \
  OP(RmsNorm) OP(LayerNorm) OP(Rope) OP(Merge) OP(TopK)
#define ALL_OPS(OP) OPS_WITH_CPU_KERNEL(OP) OPS_PLAIN_ON_CPU(OP)
