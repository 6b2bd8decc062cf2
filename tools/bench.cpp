// SPDX-License-Identifier: MIT
// bench: how fast models (bench model) and single ops (bench ops) run on a device, beside the device's own limits, which are measured
// in the same run. tools/lib/bench_model.h and bench_ops.h say what is measured and how.
#include "tools/lib/bench_model.h"
#include "tools/lib/bench_ops.h"
#include "tools/lib/main.h"

using namespace folio;

static void add_common_flags(CLI::App& app, BenchFlags& flags) {
  app.add_option("--device", flags.device, "cpu, cuda (the first card) or cuda:N")->capture_default_str();
  app.add_option("--type", flags.types,
                 "number format of the weights: " + weight_format_names() + "; may be given several times (default: all)");
  app.add_option("-t,--threads", flags.threads, "threads of the CPU (default: all that this process may use)");
  app.add_option("--repeats", flags.repeats, "measure each figure so many times")->capture_default_str();
  app.add_flag("--json", flags.json, "JSON on one line");
  app.add_flag("--csv", flags.csv, "comma separated");
}

<<<<<<< HEAD
=======
void print_rows(const std::vector<Row>& rows, const Options& options) {
  const char* between = options.csv ? "," : " | ";
  auto line = [&](const std::vector<std::string>& cells) {
    std::string text = options.csv ? "" : "| ";
    for (size_t i = 0; i < cells.size(); ++i) text += (i ? between : "") + cells[i];
    std::cout << text << (options.csv ? "" : " |") << "\n";
  };
  auto number = [](double v, int digits) {
    char buffer[32];
    std::snprintf(buffer, sizeof buffer, "%.*f", digits, v);
    return std::string(buffer);
  };
  std::vector<std::string> head = {"type", "GB/token", "prefill " + std::to_string(options.prompt) + " t/s", "share of peak", "unit", "decode t/s",
                                   "share of bandwidth", "decode at " + std::to_string(options.depth) + " t/s", "share of bandwidth (deep)"};
  for (int n : options.batches) head.push_back(std::to_string(n) + " sequences t/s"), head.push_back(std::to_string(n) + " drafted t/s");
  line(head);
  if (!options.csv) line(std::vector<std::string>(head.size(), "---"));
  for (const Row& r : rows) {
    std::vector<std::string> cells = {r.type, number(r.bytes / 1e9, 3), number(r.prefill_tps, 1), number(r.prefill_share, 3), r.unit, number(r.decode_tps, 2),
                                      number(r.decode_share, 3), number(r.deep_tps, 2), number(r.deep_share, 3)};
    for (int n : options.batches) cells.push_back(number(r.sequences.at(n), 1)), cells.push_back(number(r.drafted.at(n), 1));
    line(cells);
  }
}

int bench_model(const Options& options) {
  check(options.prompt > 0 && options.generate > 0 && options.depth > 0 && options.repeats > 0 && !options.batches.empty() &&
        *std::min_element(options.batches.begin(), options.batches.end()) > 0, "bench: --prompt, --gen, --depth, --repeats and --batch must be positive");
  auto device = cpu(options.threads);
  const MachineLimits limits = measure_limits(options.threads);
  if (!options.json)
    std::cerr << device->name() << "; read " << limits.read_gbps << " GB/s, fp32 FMA " << limits.fp32_gflops << " GFLOP/s, bf16 dot "
              << limits.bf16_gflops << " GFLOP/s, int8 VNNI " << limits.int8_gops << " GOP/s (0: this processor has none)\n";
  std::vector<Row> rows;
  auto add = [&](const Weights& weights, DType type) {
    const auto model = load_model(weights);
    rows.push_back(ModelBench(*model, *device, options).measure(limits, type));
    if (!options.json) std::cerr << format(type).name << " done\n";
  };
  if (!options.file.empty()) {
    const Weights weights(options.file);
    add(weights, weights.require("layer.0.mix.out.weight").type);
  } else {
    const auto shape = shapes.find(options.shape);
    check(shape != shapes.end(), "bench: no shape '", options.shape, "'; there are 1b, 0.5b, 15m, 260k");
    for (const std::string& name : options.types) {
      DType type;
      check(parse_dtype(name, type) && format(type).from_float, "bench: no weight format '", name,
            "'; there are f32, f16, bf16, q8_0, q4_0, f8_e4m3");
      add(RandomWeights(shape->second, type).make(), type);
    }
  }
  if (options.json) print_json(rows, limits, options);
  else print_rows(rows, options);
  return 0;
}

}  // namespace
}  // namespace folio

>>>>>>> h-fp8
int main(int argc, char** argv) {
  CLI::App app{"Speed of models and of single ops, beside the limits of the device.\n"
               "Examples:\n  bench model --shape 1b --type q8_0\n  bench model --shape 15m --type f32 --type q4_0 --json\n"
               "  bench model -m model.folio -t 4\n  bench model --device cuda --shape 8b --type bf16\n"
               "  bench ops --device cuda --only attend", "bench"};
  BenchModelFlags model_flags;
  BenchOpsFlags ops_flags;
  auto* model = app.add_subcommand("model", "prefill, decode at depth 0 and deep, several sequences, drafted tokens");
  auto* ops = app.add_subcommand("ops", "matrix products, an MLP and attention, each by itself");
  add_common_flags(*model, model_flags);
  add_common_flags(*ops, ops_flags);
  add_bench_model_flags(*model, model_flags);
  add_bench_ops_flags(*ops, ops_flags);
  app.require_subcommand(0, 1);
  return run_tool(argc, argv, app, [&] { return ops->parsed() ? bench_ops(ops_flags) : bench_model(model_flags); });
}
