// SPDX-License-Identifier: MIT
// bench: how fast models (bench model), single ops (bench ops), sequence mixers over the length of a text (bench mixers), attention in
// pieces (bench ring), many requests at once (bench serve) and convolutions of video decoders (bench vae) run on a device, beside the
// device's own limits, which are measured in the same run. tools/lib/bench_model.h, bench_ops.h, bench_mixers.h, bench_ring.h,
// bench_serve.h and bench_vae.h say what is measured and how.
#include "tools/lib/bench_mixers.h"
#include "tools/lib/bench_model.h"
#include "tools/lib/bench_ops.h"
#include "tools/lib/bench_ring.h"
#include "tools/lib/bench_serve.h"
#include "tools/lib/bench_vae.h"
#include "tools/lib/main.h"

using namespace folio;

static void add_common_flags(CLI::App& app, BenchFlags& flags) {
  app.add_option("--device", flags.device, "cpu, cuda (the first card) or cuda:N")->capture_default_str();
  app.add_option("-t,--threads", flags.threads, "threads of the CPU (default: all that this process may use)");
  app.add_option("--repeats", flags.repeats, "measure each figure so many times")->capture_default_str();
  app.add_flag("--json", flags.json, "JSON on one line");
  app.add_flag("--csv", flags.csv, "comma separated");
}

static void add_type_flag(CLI::App& app, BenchFlags& flags) {
  app.add_option("--type", flags.types,
                 "number format of the weights: " + weight_format_names() + "; may be given several times (default: all)");
}

int main(int argc, char** argv) {
  CLI::App app{"Speed of models, of single ops and of sequence mixers, beside the limits of the device.\n"
               "Examples:\n  bench model --shape 1b --type q8_0\n  bench model --shape 15m --type f32 --type q4_0 --json\n"
               "  bench model -m model.folio -t 4\n  bench model --device cuda --shape 8b --type bf16\n"
               "  bench ops --device cuda --only attend\n  bench mixers -t 2 --plot mixers.svg\n"
               "  bench ring --tokens 65536 --kv-bytes 4MB\n  bench serve --shape 1b --type q8_0 --max-batch 8\n  bench vae -t 2", "bench"};
  BenchModelFlags model_flags;
  BenchOpsFlags ops_flags;
  BenchMixersFlags mixers_flags;
  BenchRingFlags ring_flags;
  BenchServeFlags serve_flags;
  BenchVaeFlags vae_flags;
  auto* model = app.add_subcommand("model", "prefill, decode at depth 0 and deep, several sequences, drafted tokens");
  auto* ops = app.add_subcommand("ops", "matrix products, an MLP and attention, each by itself");
  auto* mixers = app.add_subcommand("mixers", "sequence mixers and attention over the length of a text: a table and a plot");
  auto* ring = app.add_subcommand("ring", "attention in pieces: a ring of ranks, and more keys than the device may hold");
  auto* serve = app.add_subcommand("serve", "many requests at once, with and without what is remembered");
  auto* vae = app.add_subcommand("vae", "convolutions of video decoders");
  add_common_flags(*vae, vae_flags);
  add_bench_vae_flags(*vae, vae_flags);
  add_common_flags(*model, model_flags);
  add_common_flags(*ops, ops_flags);
  add_common_flags(*mixers, mixers_flags);
  add_common_flags(*ring, ring_flags);
  add_common_flags(*serve, serve_flags);
  add_type_flag(*serve, serve_flags);
  add_bench_serve_flags(*serve, serve_flags);
  add_type_flag(*model, model_flags);
  add_type_flag(*ops, ops_flags);
  add_bench_model_flags(*model, model_flags);
  add_bench_ops_flags(*ops, ops_flags);
  add_bench_mixers_flags(*mixers, mixers_flags);
  add_bench_ring_flags(*ring, ring_flags);
  app.require_subcommand(0, 1);
  return run_tool(argc, argv, app, [&] {
    if (mixers->parsed()) return bench_mixers(mixers_flags);
    if (ring->parsed()) return bench_ring(ring_flags);
    if (serve->parsed()) return bench_serve(serve_flags);
    if (vae->parsed()) return bench_vae(vae_flags);
    return ops->parsed() ? bench_ops(ops_flags) : bench_model(model_flags);
  });
}
