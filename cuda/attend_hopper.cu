// SPDX-License-Identifier: MIT
// Which prompts the Hopper tier attends to, by which kernel, and the tensor maps of the pools. Pools never move, so a captured launch
// never needs an update: page ids are read on the card.
#include "cuda/attend_hopper.cuh"

#include <algorithm>

#include "cuda/attend_kernel.h"

namespace folio {

namespace {

using attention::Args;
using attention::hopper::HopperShape;

template <class S> TensorMap map_of(const Tensor& pool) {
  using T = typename S::Number;
  return tensor_map(pool.at<T>(), {pool.dim(3), pool.dim(2), pool.dim(1), pool.dim(0)},
                    {2 * pool.stride[2], 2 * pool.stride[1], 2 * pool.stride[0]}, {S::columns, 1, S::step, 1}, S::swizzle);
}

template <class S> AttendKernel kernel() {
  Smem smem;
  S::layout(smem);
  return {[](const Attend& op, const Args& a, const Launch& at) {
            launch<attention::hopper::attend_hopper<S>>(at, a, attention::hopper::PoolMaps{map_of<S>(op.k), map_of<S>(op.v)});
          },
          S::rows, S::sums_pitch, S::step, S::threads, smem.bytes(), true};
}
template <class T> AttendKernel kernel_of(const Attend& op) {
  const int64_t size = op.q.dim(2), width = op.v.dim(3), most = std::max(size, width);
  if (most <= 64) return kernel<HopperShape<T, 64, 64>>();
  if (most <= 96) return kernel<HopperShape<T, 96, 96>>();
  if (most <= 128) return kernel<HopperShape<T, 128, 128>>();
  if (width <= 128) return kernel<HopperShape<T, 192, 128>>();
  return kernel<HopperShape<T, 192, 192>>();
}

}  // namespace

// Of a unit's 128 rows a sequence's tokens fill more than half; fewer are better off with the 64 rows of the portable tier. Of larger
// heads the queries' terms leave no room for stages.
bool hopper_can(const Attend& op) {
  const int64_t size = op.q.dim(2), width = op.v.dim(3), heads = op.q.dim(1) / op.k.dim(2);
  return (op.k.type == F16 || op.k.type == BF16) && size % 8 == 0 && width % 8 == 0 && std::max(size, width) <= 192 &&
         op.q.dim(0) * heads > 64 * std::max<int64_t>(op.page.dim(0), 1);
}
AttendKernel hopper_of(const Attend& op) { return op.k.type == F16 ? kernel_of<f16>(op) : kernel_of<bf16>(op); }

}  // namespace folio
