// SPDX-License-Identifier: MIT
// Golden cases of Attend: softmax attention with and without shared keys, causal, with a window, and over the whole text.
#include "ops/attend.h"

#include "ops/rows.h"
#include "tools/golden/golden.h"

namespace folio::golden {

namespace {

struct Outcome {
  std::vector<double> o, lse;   // [B, H, T, D], [B, H, T]
};

// Every step leaves its rows in the pools, then asks.
Outcome attend(Case& c, const Text& text, const std::vector<Step>& steps) {
  const Rows q = rows_of(c.in("q")), k = rows_of(c.in("k")), v = rows_of(c.in("v"));
  const int64_t H = q.row[0], G = k.row[0], D = q.row[1], B = text.sequences;
  const bool causal = c.meta("causal") != 0;
  const int window = std::max(0, int(c.meta("window")));
  Memory memory(c.device);
  const Tensor keys = memory.zeros(F32, {text.pools, page_tokens, G, D}), values = memory.zeros(F32, {text.pools, page_tokens, G, v.row[1]});
  const Tensor page = memory.ints({B, text.most}, text.page);
  Outcome all;
  for (const Step& step : steps) {
    Memory of_step(c.device);
    const auto n = int64_t(step.seq.size());
    const Tensor seq = of_step.ints({n}, step.seq), pos = of_step.ints({n}, step.pos);
    auto graph = std::make_unique<Graph>();
    graph->record(Append{.x = rows_of(of_step, k, text, step), .page = page, .seq = seq, .pos = pos, .pool = keys});
    graph->record(Append{.x = rows_of(of_step, v, text, step), .page = page, .seq = seq, .pos = pos, .pool = values});
    Attend op{.q = rows_of(of_step, q, text, step), .k = keys, .v = values, .page = page, .seq = seq, .pos = pos,
              .scale = float(c.meta("scale")), .window = window, .causal = causal};
    if (!causal) op.length = of_step.ints({B}, std::vector<int32_t>(size_t(B), int32_t(text.end())));
    op = graph->record(op);
    graph->output("o", op.o);
    graph->output("lse", op.lse);
    const auto program = c.device.compile(std::move(graph));
    program->run();
    const Tensor o = program->output("o"), lse = program->output("lse");
    scatter({o.at<float>(), o.at<float>() + o.count()}, text, step, H, v.row[1], all.o);
    scatter({lse.at<float>(), lse.at<float>() + lse.count()}, text, step, H, 1, all.lse);
  }
  return all;
}

}  // namespace

void softmax(Case& c) {
  const Array q = c.in("q");
  check(q.dims.size() == 4, c.file.path(), ": 'in.q' is ", q.text(), ", expected (B, H, T, D)");
  std::mt19937_64 random(13);
  for (bool pieces : {false, true}) {
    if (pieces && c.meta("causal") == 0) continue;   // a token that looks ahead wants all keys in its step
    const Text text(q.dims[0], q.dims[2], 0, random);
    const Outcome got = attend(c, text, pieces ? in_pieces(text, random) : one_go(text));
    c.expect("o", got.o);
    c.expect("lse", got.lse);
  }
}

}  // namespace folio::golden
