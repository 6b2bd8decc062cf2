// SPDX-License-Identifier: MIT
// THE LIST: every op there is. One include for a family, one name for an op. A device makes its table of launchers from it,
// the tests their table of cases; whoever forgets a kernel or a case is told by the linker.
#pragma once
#include "ops/attend.h"
#include "ops/conv.h"
#include "ops/elementwise.h"
#include "ops/experts.h"
#include "ops/gates.h"
#include "ops/image.h"
#include "ops/linear.h"
#include "ops/log_linear.h"
#include "ops/matmul.h"
#include "ops/mesa.h"
#include "ops/mla.h"
#include "ops/modulate.h"
#include "ops/norm.h"
#include "ops/rope.h"
#include "ops/rows.h"
#include "ops/sample.h"
#include "ops/short_conv.h"
#include "ops/top_k.h"

#define OPS_WITH_CPU_KERNEL(OP) OP(Matmul) OP(ExpertMatmul) OP(Attend) OP(Linear) OP(LogLinear) OP(Mesa) OP(Mla) OP(Conv)
// Their reference is fast enough.
#define OPS_PLAIN_ON_CPU(OP)                                                                          \
  OP(Embed) OP(Gather) OP(Append) OP(Add) OP(Mul) OP(Scale) OP(Cast) OP(Activate) OP(Glu) OP(Softcap) \
  OP(RmsNorm) OP(LayerNorm) OP(L2Norm) OP(Rope) OP(Merge) OP(TopK) OP(Gate) OP(ScaleRows)             \
  OP(ShortConv) OP(Sample) OP(Route) OP(Combine) OP(ConvTranspose)                                    \
  OP(Upsample) OP(PixelShuffle) OP(PixelUnshuffle) OP(GroupNorm) OP(Modulate) OP(GatedAdd) OP(TimestepEmbed)
#define ALL_OPS(OP) OPS_WITH_CPU_KERNEL(OP) OPS_PLAIN_ON_CPU(OP)
