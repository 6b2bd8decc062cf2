#!/usr/bin/env bash
# What a kernel may not do outside cuda/lib, so that every kernel runs unchanged in the simulator: raw PTX, <<<>>>, shared memory that
# poison and red zones do not know, code that asks for its architecture; and what its file may include: cuda/lib, the headers of its own
# family (attend_mma.cuh is of the family attend), rows.cuh, select.cuh, the device's headers (*.h), and below cuda/ the rooms ops, graph and base.
# `kernel_rules.sh ROOT` lists every sin and fails; `kernel_rules.sh --self-test` plants sins in an empty tree and fails unless each is
# found, and only those.
set -euo pipefail

sins() {  # PATTERN WORDS: one line for each line of code outside cuda/lib that matches; comments are not code
  grep -rnE --include='*.cu' --include='*.cuh' --include='*.h' --include='*.cpp' --exclude-dir=lib "$1" cuda 2>/dev/null |
    grep -vE '^[^:]*:[0-9]*:[[:space:]]*(//|\*)' |
    sed -E 's|//.*||' | grep -E "$1" | sed "s|\$|   <- $2|" || true
}

includes() {
  local file family target line
  grep -rHoE --include='*.cu' --include='*.cuh' --exclude-dir=lib '^[[:space:]]*#[[:space:]]*include[[:space:]]*["<][^">]*' cuda |
    while IFS= read -r line; do
      file=${line%%:*}
      family=$(basename "$file" | sed -E 's/[._].*//')
      target=${line#*[\"<]}
      case $line in
        *'"'*)
          case $target in
            cuda/lib/* | cuda/rows.cuh | cuda/select.cuh | cuda/[a-z_]*.h | "cuda/$family".* | "cuda/$family"_* | ops/* | graph/* | base/*) ;;
            *) echo "$file includes \"$target\": a kernel file includes cuda/lib and its own family" ;;
          esac ;;
        *'<'*)
          case $target in
            *.* | */* | cooperative_groups) echo "$file includes <$target>: a kernel file includes cuda/lib and the standard library" ;;
          esac ;;
      esac
    done || true
}

check() {
  cd "$1"
  sins '\basm\b|\b__asm__\b' 'inline PTX belongs in cuda/lib'
  sins '<<<' 'launch<kernel>() launches'
  sins '__shared__' 'Smem or FOLIO_SHARED give shared memory'
  sins '__CUDA_ARCH' 'FOLIO_SM90 tells the tiers apart'
  includes
}

self_test() {
  local tree found planted=0 file line
  tree=$(mktemp -d)
  trap "rm -rf '$tree'" EXIT
  mkdir -p "$tree/cuda/lib"
  plant() { printf '%s\n' "$2" >> "$tree/$1"; }
  plant cuda/lib/copy.cuh 'asm volatile("cp.async.commit_group;"); extern __shared__ int s[];'
  plant cuda/lib/launch.cuh 'kernel<<<1, 2>>>(); #if __CUDA_ARCH__'
  plant cuda/attend.cu '#include "cuda/attend_mma.cuh"'
  plant cuda/attend.cu '#include "cuda/table.h"'
  plant cuda/attend.cu '#include <algorithm>'
  plant cuda/attend_mma.cuh '#include "cuda/attend_plan.cuh"'
  plant cuda/attend_mma.cuh '#include "cuda/lib/kernel.cuh"'
  plant cuda/norm.cu '#include "cuda/rows.cuh"'
  plant cuda/norm.cu '#include "ops/norm.h"'
  plant cuda/norm.cu '// not an asm, and no <<<, __shared__ or __CUDA_ARCH__ either'
  plant cuda/norm.cu 'int assembled = 3;  // asm'
  found=$(check "$tree")
  [ -z "$found" ] || { echo "kernel_rules.sh: complains about a clean tree:"; echo "$found"; return 1; }
  while IFS='|' read -r file line; do
    plant "$file" "$line"
    planted=$((planted + 1))
    found=$(check "$tree" | wc -l)
    [ "$found" = "$planted" ] || { echo "kernel_rules.sh: '$line' in $file was not found"; return 1; }
  done <<'SINS'
cuda/norm.cu|  asm volatile("membar.gl;" ::: "memory");
cuda/rows.cuh|  asm("mov.u32 %0, %laneid;" : "=r"(lane));
cuda/norm.cu|  rms_norm<<<grid, block, 0, stream>>>(x);
cuda/attend_mma.cuh|  __shared__ float part[32];
cuda/attend_mma.cuh|  extern __shared__ unsigned char memory[];
cuda/attend_hopper.cuh|#if __CUDA_ARCH__ >= 900
cuda/attend_hopper.cuh|#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
cuda/attend_hopper.cuh|#include "cuda/matmul_many.cuh"
cuda/norm.cu|#include <cuda_runtime.h>
cuda/norm.cu|  #  include <mma.h>
cuda/matmul.cu|#include <cooperative_groups.h>
cuda/matmul.cu|#include <cub/cub.cuh>
cuda/matmul.cu|#include "cpu/table.h"
SINS
  echo "kernel_rules.sh: found all $planted planted"
}

if [ "${1:-}" = --self-test ]; then
  self_test
else
  found=$(check "${1:-$(dirname "$0")/..}")
  [ -z "$found" ] || { echo "$found"; exit 1; }
fi
