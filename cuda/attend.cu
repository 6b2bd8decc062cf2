// SPDX-License-Identifier: MIT
// Attend on the card: a kernel that plans (attend_plan.cuh), then one that attends. Which one is chosen from types, shapes and strides:
//   attend_hopper   prompts of pools of f16 and bf16, if the Hopper tier is chosen                       attend_hopper.cuh
//   attend_mma      pools of f16 and bf16, head sizes up to 256 that are multiples of 8, 16-byte rows    attend_mma.cuh
//   attend_any      everything else, in f32 arithmetic                                                   attend_any.cuh
// The last two come with many rows (a prompt) and with few (decoding, where the heads of a group and some drafted tokens make up 16 rows
// and the keys are split among the multiprocessors). Grids hang on shapes alone, so a captured launch serves every step.
#include <algorithm>

#include "cuda/attend_any.cuh"
#include "cuda/attend_kernel.h"
#include "cuda/attend_mma.cuh"
#include "cuda/table.h"

namespace folio {

namespace {

using attention::Args;
using attention::Tile;

constexpr int64_t part_keys = 256;    // of a part of a split tile at least: below that, joining costs more than splitting saves
constexpr int64_t most_blocks = 1 << 16;

int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

template <class S> AttendKernel mma_kernel() {
  Smem smem;
  S::layout(smem);
  return {[](const Attend&, const Args& a, const Launch& at) { launch<attention::mma::attend_mma<S>>(at, a); },
          S::rows, S::sums_pitch, S::step, S::threads, smem.bytes()};
}
template <class T, int Rows> AttendKernel any_kernel(const Attend& op) {
  using S = attention::any::AnyShape<T, Rows>;
  Smem smem;
  const int width = int(op.v.dim(3));
  S::layout(smem, int(op.q.dim(2)), width);
  return {[](const Attend&, const Args& a, const Launch& at) { launch<attention::any::attend_any<T, Rows>>(at, a); },
          S::rows, width, S::step, S::threads, smem.bytes()};
}

// Whether the tokens of a sequence are so few that a unit of 16 rows holds those of a group.
bool decoding(const Attend& op) {
  const int64_t heads = std::min<int64_t>(op.q.dim(1) / op.k.dim(2), 16);
  return op.q.dim(0) * heads <= 16 * std::max<int64_t>(op.page.dim(0), 1);
}

// Up to 128 columns a prompt's unit has 64 rows. Above, the sums of 16 rows fill a warp's registers: two warps share them by keys.
template <class T, int D, int W> AttendKernel mma_of(bool few) {
  if constexpr (D <= 128) {
    if (few) return mma_kernel<attention::mma::MmaShape<T, D, W, 1, 4, 64>>();
    return mma_kernel<attention::mma::MmaShape<T, D, W, 4, 1, 32>>();
  } else {
    if (few) return mma_kernel<attention::mma::MmaShape<T, D, W, 1, 2, 32>>();
    return mma_kernel<attention::mma::MmaShape<T, D, W, 2, 2, 32>>();
  }
}
template <class T> AttendKernel mma_of(const Attend& op) {
  const int64_t size = op.q.dim(2), width = op.v.dim(3), most = std::max(size, width);
  const bool few = decoding(op);
  if (most <= 64) return mma_of<T, 64, 64>(few);
  if (most <= 80) return mma_of<T, 80, 80>(few);
  if (most <= 96) return mma_of<T, 96, 96>(few);
  if (most <= 128) return mma_of<T, 128, 128>(few);
  if (size <= 192 && width <= 128) return mma_of<T, 192, 128>(few);
  if (most <= 192) return mma_of<T, 192, 192>(few);
  return mma_of<T, 256, 256>(few);
}
template <class T> AttendKernel any_of(const Attend& op) {
  return decoding(op) || op.q.dim(2) + op.v.dim(3) > 256 ? any_kernel<T, 16>(op) : any_kernel<T, 64>(op);
}
AttendKernel any_of(const Attend& op) {
  if (op.k.type == Q8_0) return any_of<BlockQ8_0>(op);   // latents of Mla
  return op.k.type == F32 ? any_of<float>(op) : op.k.type == F16 ? any_of<f16>(op) : any_of<bf16>(op);
}
AttendKernel mma_of(const Attend& op) { return op.k.type == F16 ? mma_of<f16>(op) : mma_of<bf16>(op); }

// By sizes alone; whether the pools lie suitably is asked when they have their addresses.
bool mma_can(const Attend& op) {
  const int64_t size = op.q.dim(2), width = op.v.dim(3);
  return (op.k.type == F16 || op.k.type == BF16) && size % 8 == 0 && width % 8 == 0 && std::max(size, width) <= 256;
}
bool vectors(const Tensor& pool) {
  if (format(pool.type).block > 1) return false;
  const int64_t numbers = 16 / bytes_of(pool.type, 1);
  bool good = reinterpret_cast<uintptr_t>(pool.data) % 16 == 0 && pool.dim(3) % numbers == 0;
  for (int i = 0; i < 3; ++i) good &= pool.stride[i] % numbers == 0;
  return good;
}

// How a kernel's units and the scratch are laid out.
struct Layout {
  int64_t groups, heads, share, chunks, slices, tile_tokens, least;
  int64_t shares;                                        // into how many parts the tiles of a slice are cut, about
  int64_t slots, slot_floats, most_units;                // of a slice; 2 · shares slots are always enough (attend_plan.cuh)
  int64_t at_unit_tile, at_tiles, at_tickets, at_slots, total;   // in bytes; `units` comes first

  Layout(const Attend& op, const AttendKernel& kernel, int processors) {
    const int64_t tokens = op.q.dim(0), capacity = op.page.dim(1) * page_tokens;
    groups = op.k.dim(2);
    heads = op.q.dim(1) / groups;
    chunks = std::max<int64_t>((heads + kernel.rows - 1) / kernel.rows, 1);
    share = std::max<int64_t>((heads + chunks - 1) / chunks, 1);
    slices = groups * chunks;
    tile_tokens = kernel.rows / share;
    least = part_keys / kernel.step;
    shares = std::max<int64_t>(processors * (kernel.alone ? 1 : op.q.dim(2) + op.v.dim(3) <= 128 ? 4 : 2) / slices, 1);
    const int64_t parts = (capacity / kernel.step + least - 1) / least;   // of a tile at most
    slots = parts > 1 && shares > 1 ? std::min(2 * shares, tokens * parts) : 0;
    slot_floats = up(kernel.rows * (kernel.pitch + 2), 32);
    most_units = tokens + slots;
    at_unit_tile = 256;
    at_tiles = up(at_unit_tile + most_units * 4, 256);
    at_tickets = up(at_tiles + tokens * int64_t(sizeof(Tile)), 256);
    at_slots = up(at_tickets + slots * slices * 4, 256);
    total = at_slots + slots * slices * slot_floats * 4;
  }
  // Blocks for as many units as tokens in neighbourly order make; if there are more, blocks take several.
  int64_t blocks(const Attend& op) const {
    const int64_t tokens = op.q.dim(0), tiles = tokens / tile_tokens + op.page.dim(0) + 2;
    return std::min({std::min(tiles, tokens) + slots, most_units, most_blocks});
  }
};

Args arguments(const Attend& op, const AttendKernel& kernel, const Layout& at, std::byte* scratch) {
  const Tensor &q = op.q, &k = op.k, &v = op.v;
  return {.q = q.at<float>(), .k = k.data, .v = v.data, .page = op.page.at<int32_t>(), .seq = op.seq.at<int32_t>(),
          .pos = op.pos.at<int32_t>(), .length = op.length.present() ? op.length.at<int32_t>() : nullptr,
          .slopes = op.slopes.present() ? op.slopes.at<float>() : nullptr, .sink = op.sink.present() ? op.sink.at<float>() : nullptr,
          .o = op.o.at<float>(), .lse = op.lse.at<float>(),
          .q_token = q.stride[0], .q_head = q.stride[1], .k_page = k.stride[0], .k_row = k.stride[1], .k_group = k.stride[2],
          .v_page = v.stride[0], .v_row = v.stride[1], .v_group = v.stride[2], .page_seq = op.page.stride[0],
          .o_token = op.o.stride[0], .o_head = op.o.stride[1], .lse_token = op.lse.stride[0],
          .scale = op.scale, .softcap = op.softcap, .window = op.window, .sinks = op.sinks, .causal = op.causal,
          .vectors = vectors(k) && vectors(v), .tokens = int(q.dim(0)), .heads = int(at.heads), .size = int(q.dim(2)),
          .width = int(v.dim(3)), .capacity = int(op.page.dim(1) * page_tokens), .share = int(at.share), .chunks = int(at.chunks),
          .slices = int(at.slices),
          .rows = kernel.rows, .pitch = kernel.pitch, .tile_tokens = int(at.tile_tokens),
          .step = kernel.step, .least = int(at.least), .fair = 1.000001f / float(at.shares), .slot_floats = at.slot_floats, .units = reinterpret_cast<int*>(scratch),
          .unit_tile = reinterpret_cast<int*>(scratch + at.at_unit_tile), .tiles = reinterpret_cast<Tile*>(scratch + at.at_tiles),
          .tickets = reinterpret_cast<unsigned*>(scratch + at.at_tickets), .slots = reinterpret_cast<float*>(scratch + at.at_slots)};
}

}  // namespace

int64_t cuda_scratch(const Attend& op, int processors) {
  int64_t most = Layout(op, any_of(op), processors).total;
  if (mma_can(op)) most = std::max(most, Layout(op, mma_of(op), processors).total);
  if (hopper_can(op)) most = std::max(most, Layout(op, hopper_of(op), processors).total);
  return most;
}

void run(const Attend& op, const CudaQueue& queue) {
  if (op.q.dim(0) == 0 || op.q.dim(1) == 0) return;
  const bool tensor_cores = mma_can(op) && vectors(op.k) && vectors(op.v);
  const AttendKernel kernel = !tensor_cores ? any_of(op) : queue.hopper && hopper_can(op) ? hopper_of(op) : mma_of(op);
  const Layout at(op, kernel, queue.processors);
  const Args args = arguments(op, kernel, at, queue.scratch);
  launch<attention::make_plan>({dim3(1), dim3(attention::plan_threads), 0, queue.stream}, args);
  const dim3 grid{unsigned(at.blocks(op)), unsigned(at.slices)};
  kernel.start(op, args, {grid, dim3(unsigned(kernel.threads)), kernel.shared, queue.stream});
}

}  // namespace folio
