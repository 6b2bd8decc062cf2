// SPDX-License-Identifier: MIT
// Speed of whole models beside the limits of this machine, measured in the same run: how much of the memory bandwidth a decode step
// reaches, how much of the arithmetic peak a prefill. Weights are random and made in memory (--shape) or come from a file (-m).
// A figure is the best of several repeats; everything else on the machine should be quiet.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstring>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "files/weights.h"
#include "models/zoo.h"
#include "run/engine.h"
#include "tools/lib/machine.h"
#include "tools/lib/main.h"

namespace folio {
namespace {

struct ModelShape {
  int64_t layers, dim, heads, groups, ffn, vocab, context;
};

const std::map<std::string, ModelShape> shapes = {
    {"1b", {22, 2048, 32, 4, 5632, 32000, 8192}},      // TinyLlama
    {"0.5b", {24, 896, 14, 2, 4864, 151936, 8192}},    // Qwen2 0.5B
    {"15m", {6, 288, 6, 6, 768, 32000, 8192}},         // stories15M
    {"260k", {5, 64, 8, 4, 172, 512, 8192}},           // stories260K
};

// Lays random tensors out in one block of memory. The bytes of a format repeat every few MiB: their values do not matter for speed,
// only that they are finite and small enough for a forward pass.
class RandomWeights {
 public:
  RandomWeights(const ModelShape& s, DType type) : shape_(s), type_(type) {
    const int64_t head = s.dim / s.heads;
    add("embed.weight", type, {s.vocab, s.dim});
    add("head.weight", type, {s.vocab, s.dim});
    add("norm_out.weight", F32, {s.dim});
    for (int64_t l = 0; l < s.layers; ++l) {
      const std::string layer = join("layer.", l, ".");
      add(layer + "norm_mix.weight", F32, {s.dim});
      add(layer + "mix.qkv.weight", type, {(s.heads + 2 * s.groups) * head, s.dim});
      add(layer + "mix.out.weight", type, {s.dim, s.heads * head});
      add(layer + "norm_ffn.weight", F32, {s.dim});
      add(layer + "ffn.gate.weight", type, {s.ffn, s.dim});
      add(layer + "ffn.up.weight", type, {s.ffn, s.dim});
      add(layer + "ffn.down.weight", type, {s.dim, s.ffn});
    }
  }

  Weights make() {
    // Whole pages from the system, as a mapped file would have them.
    std::shared_ptr<std::byte> memory(static_cast<std::byte*>(std::aligned_alloc(4096, size_t((bytes_ + 4095) / 4096 * 4096))), std::free);
    check(memory != nullptr, "bench: no memory for ", bytes_ >> 20, " MiB of weights");
    for (auto& entry : entries_) {
      entry.tensor.data = memory.get() + entry.offset;
      fill(entry.tensor);
    }
    const ModelShape& s = shape_;
    std::map<std::string, MetaValue, std::less<>> meta = {
        {"arch", "decoder"}, {"dim", s.dim}, {"layers", s.layers}, {"vocab", s.vocab}, {"context", s.context}, {"norm.kind", "rms"},
        {"norm.eps", 1e-5}, {"mixer.0.kind", "attention"}, {"mixer.0.heads", s.heads}, {"mixer.0.groups", s.groups},
        {"mixer.0.head_size", s.dim / s.heads}, {"mixer.0.rope", "half"}, {"mixer.0.theta", 10000.0}, {"ffn.0.kind", "dense"}, {"ffn.0.dim", s.ffn},
        {"ffn.0.gated", int64_t(1)}, {"ffn.0.act", "silu"}, {"layer.mixer", std::vector<int64_t>(size_t(s.layers), 0)},
        {"layer.ffn", std::vector<int64_t>(size_t(s.layers), 0)}};
    return Weights("bench", std::move(meta), std::move(entries_), memory);
  }

 private:
  void add(const std::string& name, DType type, const Shape& shape) {
    WeightEntry entry{.name = name, .tensor = Tensor::of(shape[shape.rank - 1] % format(type).block ? F16 : type, shape), .offset = uint64_t(bytes_)};
    bytes_ += (entry.tensor.bytes() + 255) / 256 * 256;
    entries_.push_back(entry);
  }
  void fill(const Tensor& t) {
    auto& block = blocks_[t.type];
    if (block.empty()) {
      const int64_t n = 1 << 20;
      std::vector<float> numbers(static_cast<size_t>(n));
      std::mt19937 random(1);
      std::uniform_real_distribution<float> uniform(-0.03f, 0.03f);
      for (float& x : numbers) x = uniform(random);
      block.resize(size_t(bytes_of(t.type, n)));
      format(t.type).from_float(numbers.data(), block.data(), n);
    }
    for (int64_t at = 0; at < t.bytes(); at += int64_t(block.size()))
      std::memcpy(t.data + at, block.data(), size_t(std::min(t.bytes() - at, int64_t(block.size()))));
  }
  ModelShape shape_;
  DType type_;
  int64_t bytes_ = 0;
  std::vector<WeightEntry> entries_;
  std::map<DType, std::vector<std::byte>> blocks_;
};

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct Options {
  std::string shape = "1b", file;
  std::vector<std::string> types;
  std::vector<int> batches = {2, 4, 8};
  int threads = 0, prompt = 512, generate = 128, depth = 4096, repeats = 3;
  bool json = false, csv = false;
};

// What one model reaches. Shares are fractions of the limits of this machine.
struct Row {
  std::string type;
  double bytes = 0, prefill_tps = 0, prefill_share = 0, decode_tps = 0, decode_share = 0, deep_tps = 0, deep_share = 0;
  std::string unit;
  std::map<int, double> sequences, drafted;   // n -> total tokens/s
};

class ModelBench {
 public:
  ModelBench(const Model& model, Device& device, const Options& options)
      : model_(model), options_(options),
        engine_(model, device, {.context = int64_t(options.depth) + options.generate + options.prompt + 64, .chunk = std::max(options.prompt, 8),
                                .sequences = *std::max_element(options.batches.begin(), options.batches.end()) + 1}) {
    fill_cache(device);
  }

  // Tokens per second of one step of `tokens` proposed tokens on each of `sequences` sequences, none committed, at that depth.
  double step_rate(int tokens, int sequences, int depth, int steps, bool all_wanted) {
    std::vector<Seq> seqs(static_cast<size_t>(sequences));
    std::vector<Token> ids(static_cast<size_t>(tokens));
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = Token(i * 7919 % size_t(model_.vocab()));
    std::vector<Work> works;
    for (Seq& seq : seqs) {
      seq = engine_.cache().open({});
      check(engine_.cache().reserve(seq, depth + tokens), "bench: the cache is too small for depth ", depth);
      engine_.cache().commit(seq, std::vector<Token>(size_t(depth), 1));
      check(engine_.cache().reserve(seq, tokens), "bench: the cache is too small for depth ", depth);
      works.push_back({&seq, ids, all_wanted ? tokens : 1});
    }
    Program& program = engine_.prepare(works);
    program.run();
    double best = 0;
    for (int r = 0; r < options_.repeats; ++r) {
      const double start = seconds();
      for (int s = 0; s < steps; ++s) program.run();
      best = std::max(best, steps * double(tokens) * sequences / (seconds() - start));
    }
    for (Seq& seq : seqs) engine_.cache().close(seq);
    return best;
  }

  Row measure(const MachineLimits& limits, DType type) {
    Row row{.type = format(type).name, .bytes = double(model_.weight_bytes())};
    row.prefill_tps = step_rate(options_.prompt, 1, 0, 1, false);
    double peak = limits.fp32_gflops;
    row.unit = "fp32";
    if (type == BF16 && limits.bf16_gflops > 0) peak = limits.bf16_gflops, row.unit = "bf16";
    if ((type == Q8_0 || type == Q4_0) && limits.int8_gops > 0) peak = limits.int8_gops, row.unit = "int8";
    row.prefill_share = row.prefill_tps * double(model_.flops_per_token()) / (peak * 1e9);
    const int steps = std::max(8, options_.generate / 4);
    row.decode_tps = step_rate(1, 1, options_.generate / 2, steps, true);
    row.decode_share = row.decode_tps * row.bytes / (limits.read_gbps * 1e9);
    row.deep_tps = step_rate(1, 1, options_.depth, steps, true);
    row.deep_share = row.deep_tps * (row.bytes + double(engine_.cache().bytes_per_token()) * options_.depth) / (limits.read_gbps * 1e9);
    for (int n : options_.batches) {
      row.sequences[n] = step_rate(1, n, options_.generate / 2, steps / 2, true);
      row.drafted[n] = step_rate(n, 1, options_.generate / 2, steps / 2, true);
    }
    return row;
  }

 private:
  // Rows that nobody wrote would be the system's one page of zeros, read from the cache: write them.
  void fill_cache(Device& device) {
    std::vector<float> numbers(4096);
    std::mt19937 random(2);
    std::normal_distribution<float> normal(0, 0.5f);
    for (float& x : numbers) x = normal(random);
    for (const LayerMemory& layer : engine_.cache().memory().layers)
      for (const Pool& pool : layer.rows) {
        std::vector<std::byte> bytes(size_t(bytes_of(pool.tensor.type, int64_t(numbers.size()))));
        format(pool.tensor.type).from_float(numbers.data(), bytes.data(), int64_t(numbers.size()));
        for (int64_t at = 0; at < pool.tensor.bytes(); at += int64_t(bytes.size()))
          device.upload(pool.tensor.data + at, bytes.data(), std::min<int64_t>(int64_t(bytes.size()), pool.tensor.bytes() - at));
      }
  }
  const Model& model_;
  const Options& options_;
  Engine engine_;
};

void print_json(const std::vector<Row>& rows, const MachineLimits& limits, const Options& options) {
  nlohmann::json all = nlohmann::json::array();
  for (const Row& r : rows) {
    nlohmann::json j = {{"shape", options.file.empty() ? options.shape : options.file}, {"type", r.type}, {"prefill_unit", r.unit},
                        {"weight_bytes", r.bytes}, {"prefill_tps", r.prefill_tps}, {"prefill_compute_share", r.prefill_share},
                        {"decode_tps", r.decode_tps}, {"decode_bandwidth_share", r.decode_share}, {"decode_deep_tps", r.deep_tps},
                        {"decode_deep_bandwidth_share", r.deep_share}};
    for (const auto& [n, tps] : r.sequences) j["sequences_tps"][std::to_string(n)] = tps;
    for (const auto& [n, tps] : r.drafted) j["drafted_tps"][std::to_string(n)] = tps;
    j["limits"] = {{"read_gbps", limits.read_gbps}, {"fp32_gflops", limits.fp32_gflops}, {"bf16_gflops", limits.bf16_gflops}, {"int8_gops", limits.int8_gops}};
    all.push_back(j);
  }
  std::cout << (all.size() == 1 ? all[0] : all).dump() << "\n";
}

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

int main(int argc, char** argv) {
  using namespace folio;
  CLI::App app{"Speed of models on this machine, beside the machine's own limits.\n"
               "Examples:\n  bench model --shape 1b --type q8_0\n  bench model --shape 15m --type f32 --type q4_0 --json\n  bench model -m model.folio -t 4", "bench"};
  Options options;
  auto* model = app.add_subcommand("model", "prefill, decode at depth 0 and deep, several sequences, drafted tokens");
  model->add_option("--shape", options.shape, "random weights of this shape: 1b, 0.5b, 15m, 260k")->capture_default_str();
  model->add_option("-m,--model", options.file, "a .folio file in place of a shape");
  model->add_option("--type", options.types, "f32, f16, bf16, q8_0, q4_0, f8_e4m3; may be given several times (default: all)");
  model->add_option("-t,--threads", options.threads, "threads (default: all this process may use)");
  model->add_option("--prompt", options.prompt, "tokens of the prefill")->capture_default_str();
  model->add_option("--gen", options.generate, "tokens of the decode")->capture_default_str();
  model->add_option("--depth", options.depth, "tokens before the deep decode")->capture_default_str();
  model->add_option("--batch", options.batches, "how many sequences, and how many drafted tokens, at once")->delimiter(',')->capture_default_str();
  model->add_option("--repeats", options.repeats, "the best of so many")->capture_default_str();
  model->add_flag("--json", options.json, "one JSON object for one format, else an array");
  model->add_flag("--csv", options.csv, "comma separated");
  app.require_subcommand(0, 1);
  return run_tool(argc, argv, app, [&] {
    if (options.types.empty()) options.types = {"f32", "f16", "bf16", "q8_0", "q4_0", "f8_e4m3"};
    return bench_model(options);
  });
}
