// SPDX-License-Identifier: MIT
// Matmul on the CPU (cpu/matmul.h). Workers take rows by a counter, so one that is interrupted holds nobody up.
#include "cpu/matmul.h"

#include "cpu/table.h"

namespace folio {

namespace {

MatmulCut cut_of(const Matmul& op, int workers) {
  return MatmulCut(op.w.type, op.x.dim(0), op.w.dim(0), op.w.cols(), op.w.dim(0), workers);
}
int64_t tokens_bytes(const MatmulCut& cut) { return up_to_line(cut.token_bytes * cut.tokens); }

}  // namespace

// Packed tokens, then a panel (with a gate, two) for each worker.
int64_t scratch(const Matmul& op, int workers) {
  const MatmulCut cut = cut_of(op, workers);
  return tokens_bytes(cut) + workers * cut.panels_bytes() * (op.gate.present() ? 2 : 1);
}

void run(const Matmul& op, Worker w) {
  const MatmulCut cut = cut_of(op, w.count);
  if (cut.tokens == 0 || cut.features == 0) return;
  uint8_t* scratch = reinterpret_cast<uint8_t*>(w.scratch);
  if (cut.token_bytes > 0) {
    const auto pack = cut.packs ? cut.format.pack_panel_token : cut.format.pack_token;
    for (int64_t t : w.share(cut.tokens)) pack(op.x.row<const float>(t), cut.k, scratch + t * cut.token_bytes);
    w.barrier();
  }
  uint8_t* panel = scratch + tokens_bytes(cut) + w.index * cut.panels_bytes() * (op.gate.present() ? 2 : 1);
  MatmulRows rows(op, cut, cut.token_bytes > 0 ? scratch : op.x.row<const uint8_t>(0),
                  cut.token_bytes > 0 ? cut.token_bytes : op.x.stride[0] * int64_t(sizeof(float)), panel);
  for (int64_t i = w.team ? w.next() : 0; i < cut.stretches(); i = w.team ? w.next() : i + 1) rows.run(i);
}

}  // namespace folio
