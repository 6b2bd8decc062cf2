// SPDX-License-Identifier: MIT
// Mesa on the CPU. First the step's rows go into their pools. Then a unit of work is a run and a head: page by page it is solved
// (simd/mesa_inner.h) and, where the run goes on or the page fills, folded. From the first page that fills the slabs stand in the
// worker's scratch; the same floats go to the pool if the page's slab is kept. If there are fewer units than workers, several share
// a unit: each folds for itself, which is little beside solving, and solves some of a page's rows.
#include <algorithm>

#include "cpu/simd/simd.h"
#include "cpu/table.h"

namespace folio {

namespace {

int64_t state_floats(const Mesa& op) {
  const int64_t K = op.k.dim(2);
  return K * (mesa_padded(K) + mesa_padded(op.v.dim(2)));
}
int64_t worker_floats(const Mesa& op) { return (mesa_floats(op.k.dim(2)) + state_floats(op) + 31) / 16 * 16; }

// The step's rows of one head into the pools.
void append(const Mesa& op, const Run& run, int64_t h) {
  const int64_t K = op.k.dim(2), V = op.v.dim(2), H = op.heads();
  for (int64_t i = 0; i < run.count; ++i) {
    const int64_t t = run.first + i, row = (run.pos + i) % page_tokens, id = op.page.row<int32_t>(run.seq)[(run.pos + i) / page_tokens];
    std::copy_n(op.k.row<float>(t * H + h), K, Mesa::pool_row(op.rows_k, id, row, h));
    std::copy_n(op.v.row<float>(t * H + h), V, Mesa::pool_row(op.rows_v, id, row, h));
    *Mesa::pool_row(op.rows_g, id, row, h) = op.g.row<float>(t)[h];
    *Mesa::pool_row(op.rows_beta, id, row, h) = op.beta.row<float>(t)[h];
  }
}

MesaPage page_of(const Mesa& op, int64_t id, int64_t h, int64_t rows) {
  return {.keys = int(op.k.dim(2)), .values = int(op.v.dim(2)), .rows = int(rows),
          .k = Mesa::pool_row(op.rows_k, id, 0, h), .v = Mesa::pool_row(op.rows_v, id, 0, h), .g = Mesa::pool_row(op.rows_g, id, 0, h),
          .beta = Mesa::pool_row(op.rows_beta, id, 0, h), .k_row = op.rows_k.stride[1], .v_row = op.rows_v.stride[1],
          .g_row = op.rows_g.stride[1], .beta_row = op.rows_beta.stride[1], .kk = nullptr, .kv = nullptr, .kk_row = 0, .kv_row = 0};
}

MesaAsk ask_of(const Mesa& op, const Piece& piece, int64_t h, int part, int parts) {
  const int64_t item = piece.first * op.heads() + h;
  return {.from = int(piece.from), .count = int(piece.to - piece.from), .part = part, .parts = parts, .q = op.q.row<float>(item),
          .o = op.o.row<float>(item), .iterations = op.iterations.row<int32_t>(piece.first) + h, .q_row = op.q.stride[0],
          .o_row = op.o.stride[0], .iterations_row = op.iterations.stride[0], .lambda = op.lambda.row<float>(h),
          .tolerance = op.tolerance, .epsilon = op.epsilon(), .cap = op.cap, .mode = op.mode};
}

// What one worker does for a run and a head.
void one_unit(const Mesa& op, const Run& run, int64_t h, int part, int parts, float* scratch) {
  const int64_t K = op.k.dim(2), V = op.v.dim(2), kk_row = mesa_padded(K), kv_row = mesa_padded(V);
  const int32_t *rows = op.page.row<int32_t>(run.seq), *slabs = op.slab.row<int32_t>(run.seq);
  float *kk = scratch + mesa_floats(K), *kv = kk + K * kk_row;
  for (int64_t done = 0; done < run.count;) {
    const Piece piece = piece_at(run, done);
    MesaPage page = page_of(op, rows[piece.page], h, piece.to);
    if (done > 0) {
      page.kk = kk, page.kk_row = kk_row;
      page.kv = kv, page.kv_row = kv_row;
    } else if (piece.page > 0) {
      page.kk = Mesa::slab_row(op.Hkk, slabs[piece.page - 1], h, 0), page.kk_row = op.Hkk.stride[2];
      page.kv = Mesa::slab_row(op.Hkv, slabs[piece.page - 1], h, 0), page.kv_row = op.Hkv.stride[2];
    }
    simd().mesa.solve(page, ask_of(op, piece, h, part, parts), scratch);
    done += piece.to - piece.from;
    const bool keeps = part == 0 && slabs[piece.page] >= 0;
    if (!piece.fills() || (done == run.count && !keeps)) continue;
    simd().mesa.fold(page, kk, kk_row, kv, kv_row, scratch);
    for (int64_t c = 0; keeps && c < K; ++c) {
      std::copy_n(kk + c * kk_row, K, Mesa::slab_row(op.Hkk, slabs[piece.page], h, c));
      std::copy_n(kv + c * kv_row, V, Mesa::slab_row(op.Hkv, slabs[piece.page], h, c));
    }
  }
}

}  // namespace

int64_t scratch(const Mesa& op, int workers) { return workers * worker_floats(op) * int64_t(sizeof(float)); }

void run(const Mesa& op, Worker w) {
  const int64_t H = op.heads();
  for (int64_t t : w.share(op.q.dim(0)))
    for (int64_t h = 0; op.seq.at<int32_t>()[t] < 0 && h < H; ++h) {
      std::fill_n(op.o.row<float>(t * H + h), op.v.dim(2), 0.0f);
      op.iterations.row<int32_t>(t)[h] = 0;
    }
  int64_t runs = 0, longest = 0;
  each_run(op.seq, op.pos, [&](const Run& one, int64_t index) {
    for (int64_t h = 0; h < H; ++h)
      if ((index * H + h) % w.count == w.index) append(op, one, h);
    ++runs;
    longest = std::max(longest, one.count);
  });
  w.barrier();
  const int64_t units = std::max<int64_t>(runs * H, 1), shared = longest < 8 ? 1 : std::min<int64_t>((w.count + units - 1) / units, 4);
  float* scratch = reinterpret_cast<float*>(w.scratch) + w.index * worker_floats(op);
  int64_t claimed = 0, at = 0;
  auto claim = [&] { return w.team ? w.next() : claimed++; };
  int64_t mine = claim();
  each_run(op.seq, op.pos, [&](const Run& one, int64_t) {
    for (int64_t i = 0; i < H * shared; ++i, ++at) {
      if (at != mine) continue;
      one_unit(op, one, i / shared, int(i % shared), int(shared), scratch);
      mine = claim();
    }
  });
}

}  // namespace folio
