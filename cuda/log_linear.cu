// SPDX-License-Identifier: MIT
// LogLinear on the card: one kernel for prompts, decoding and drafts (log_linear.cuh). Its grid hangs on shapes alone; blocks take
// several units if there are more than the card holds at once, so that scratch grows with the card and not with the batch.
#include "cuda/log_linear.cuh"

#include <algorithm>

#include "cuda/table.h"

namespace folio {

namespace {

using log_linear::Args;
using log_linear::Pool;
using log_linear::Scratch;

int64_t parts(const LogLinear& op) { return (op.v.dim(2) + log_linear::width - 1) / log_linear::width; }
int64_t blocks(const LogLinear& op, int processors) {
  return std::max<int64_t>(1, std::min<int64_t>(op.page.dim(0) * op.heads() * parts(op), 2 * processors));
}

// With matrices for the buckets of pages that the run goes on from and nobody keeps.
Scratch scratch_of(const LogLinear& op) {
  const int64_t pages = op.q.dim(0) < 2 ? 0 : 1 + (op.q.dim(0) - 2) / page_tokens;
  return {int(op.q.dim(2)), op.beta.present(), op.beta.present() ? (pages > 0 ? op.buckets() : 0) : std::min<int64_t>(pages, op.buckets())};
}

Pool pool(const Tensor& t) { return {t.present() ? t.at<float>() : nullptr, t.stride[0], t.stride[1], t.stride[2]}; }

}  // namespace

int64_t cuda_scratch(const LogLinear& op, int processors) { return blocks(op, processors) * scratch_of(op).total * 4; }

void run(const LogLinear& op, const CudaQueue& queue) {
  if (op.o.count() == 0) return;
  const bool delta = op.beta.present();
  const Args args{.q = op.q.at<float>(), .k = op.k.at<float>(), .v = op.v.at<float>(), .g = op.g.at<float>(),
                  .beta = delta ? op.beta.at<float>() : nullptr, .lambda = op.lambda.at<float>(), .q_token = op.q.stride[0],
                  .q_group = op.q.stride[1], .k_token = op.k.stride[0], .k_group = op.k.stride[1], .v_token = op.v.stride[0],
                  .v_head = op.v.stride[1], .g_token = op.g.stride[0], .beta_token = op.beta.stride[0], .lambda_token = op.lambda.stride[0],
                  .lambda_head = op.lambda.stride[1], .page = op.page.at<int32_t>(), .slab = op.slab.at<int32_t>(),
                  .seq = op.seq.at<int32_t>(), .pos = op.pos.at<int32_t>(), .page_seq = op.page.stride[0], .slab_seq = op.slab.stride[0],
                  .rows_k = pool(op.rows_k), .rows_u = pool(op.rows_u), .rows_g = pool(op.rows_g), .rows_w = pool(op.rows_w),
                  .rows_x = pool(op.rows_x), .S = op.S.at<float>(), .c = delta ? nullptr : op.c.at<float>(), .o = op.o.at<float>(),
                  .S_page = op.S.stride[0], .S_head = op.S.stride[1], .S_row = op.S.stride[2], .c_page = op.c.stride[0],
                  .c_head = op.c.stride[1], .scratch = reinterpret_cast<float*>(queue.scratch), .block_floats = scratch_of(op).total,
                  .tokens = int(op.q.dim(0)), .sequences = int(op.page.dim(0)), .heads = int(op.heads()),
                  .share = int(op.heads() / op.q.dim(1)), .K = int(op.q.dim(2)), .V = int(op.v.dim(2)), .levels = int(op.lambda.dim(2)),
                  .buckets = op.buckets(), .parts = int(parts(op))};
  launch<log_linear::log_linear>({dim3(unsigned(blocks(op, queue.processors))), dim3(log_linear::threads), 0, queue.stream}, args);
}

}  // namespace folio
