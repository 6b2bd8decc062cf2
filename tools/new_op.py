#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The files of a new op, with their first lines: `make op NAME=group_norm`, or `tools/new_op.py group_norm [--cpu] [--cuda]`.

Writes src/ops/NAME.h and tests/ops/NAME.cpp, with --cpu and --cuda also the kernels' files, and says which line to add to
src/ops/ops.h. Nothing that exists is overwritten: then nothing is written at all.
"""
import argparse
import pathlib
import re
import sys

OP = """// SPDX-License-Identifier: MIT
// What it is for, the one idea, and what it is not.
#pragma once
#include "base/worker.h"
#include "graph/graph.h"

namespace folio {{

// y[t,:] = x[t,:]   (the formula, and the paper it is from)
struct {type} {{
  static constexpr const char* name = "{name}";
  Tensor x;  // [..., C] f32
  Tensor y;  // like x

  void visit(auto& v) {{ v.in("x", x); v.out("y", y, &x); }}
  void shape() {{
    check(x.type == F32, "{name}: x is ", format(x.type).name);
    y = like(x);
  }}
  void reference(Worker w) const {{
    for (int64_t t : w.share(x.rows()))
      for (int64_t c = 0; c < x.cols(); ++c) y.row<float>(t)[c] = x.row<float>(t)[c];
  }}
}};
inline Tensor {name}(Tensor x) {{ return x.graph->record({type}{{.x = x}}).y; }}

}}  // namespace folio
"""

CASES = """// SPDX-License-Identifier: MIT
// Cases of {name}.
#include "cases.h"

namespace folio {{

CASES({type}) {{
  known({{.x = values({{1, 2}}, {{3, 4}})}}, {{values({{1, 2}}, {{3, 4}})}});  // by hand
  for (int64_t rows : {{1, 3, 64}})
    for (int64_t cols : {{1, 32, 1000}}) add({{.x = normal({{rows, cols}})}});
}}

}}  // namespace folio
"""

CPU = """// SPDX-License-Identifier: MIT
// {type} on the CPU: unpacks the op and splits the work; inner loops stand in cpu/simd.
#include "cpu/table.h"

namespace folio {{

int64_t scratch(const {type}&, int) {{ return 0; }}
void run(const {type}& op, Worker w) {{ op.reference(w); }}

}}  // namespace folio
"""

CUDA = """// SPDX-License-Identifier: MIT
// {type} on the GPU.
#include "cuda/table.h"

namespace folio {{

static __global__ void {name}_rows(const float* x, float* y, int cols, int64_t x_stride, int64_t y_stride) {{
  for (int c = threadIdx.x; c < cols; c += blockDim.x) y[blockIdx.x * y_stride + c] = x[blockIdx.x * x_stride + c];
}}

void run(const {type}& op, cudaStream_t stream) {{
  {name}_rows<<<op.x.rows(), 256, 0, stream>>>(op.x.at<float>(), op.y.at<float>(), int(op.x.cols()), op.x.stride[0], op.y.stride[0]);
}}

}}  // namespace folio
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="snake_case, the word of the literature: group_norm")
    parser.add_argument("--cpu", action="store_true", help="also src/cpu/NAME.cpp, for a kernel of its own")
    parser.add_argument("--cuda", action="store_true", help="also cuda/NAME.cu")
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", args.name):
        print(f"new_op: '{args.name}' is not a snake_case name", file=sys.stderr)
        return 1
    kind = "".join(part.capitalize() for part in args.name.split("_"))
    files = {f"src/ops/{args.name}.h": OP, f"tests/ops/{args.name}.cpp": CASES}
    if args.cpu:
        files[f"src/cpu/{args.name}.cpp"] = CPU
    if args.cuda:
        files[f"cuda/{args.name}.cu"] = CUDA
    for path in files:
        if (args.root / path).exists():
            print(f"new_op: {path} exists; nothing written", file=sys.stderr)
            return 1
    if re.search(rf"\b{kind}\b", (args.root / "src/ops/ops.h").read_text()):
        print(f"new_op: src/ops/ops.h already lists {kind}; nothing written", file=sys.stderr)
        return 1
    for path, text in files.items():
        (args.root / path).write_text(text.format(name=args.name, type=kind))
        print(f"wrote {path}")
    where = "OPS_WITH_CPU_KERNEL" if args.cpu else "OPS_PLAIN_ON_CPU"
    print(f'Add to src/ops/ops.h:  #include "ops/{args.name}.h"  and, in {where},  OP({kind})')
    return 0


if __name__ == "__main__":
    sys.exit(main())
