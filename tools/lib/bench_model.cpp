// SPDX-License-Identifier: MIT
#include "tools/lib/bench_model.h"

#include <algorithm>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>

#include "models/zoo.h"
#include "run/engine.h"
#include "tools/lib/machine.h"
#include "tools/lib/model.h"
#include "tools/lib/random_model.h"

namespace folio {

namespace {

// What one model reaches. Shares are fractions of the limits of the device.
struct ModelRow {
  std::string type;
  double bytes = 0, prefill_tps = 0, prefill_share = 0, decode_tps = 0, decode_share = 0, deep_tps = 0, deep_share = 0;
  double memory_bytes = 0;                    // that the model holds: weights, cache, arenas
  int64_t cache_bytes = 0;                    // that a token leaves in it
  std::string unit;
  std::map<int, double> sequences, drafted;   // n -> total tokens/s
};

class ModelBench {
 public:
  ModelBench(const Model& model, Device& device, const BenchModelFlags& flags)
      : model_(model), flags_(flags),
        engine_(model, device, {.context = int64_t(flags.depth) + flags.generate + flags.prompt + 64, .chunk = std::max(flags.prompt, 8),
                                .sequences = *std::max_element(flags.batches.begin(), flags.batches.end()) + 1, .cache_type = rows_of(model, flags)}) {
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
      check(engine_.cache().reserve(seq, depth, depth), "bench: the cache is too small for depth ", depth);
      engine_.cache().commit(seq, std::vector<Token>(size_t(depth), 1));
      check(engine_.cache().reserve(seq, tokens, tokens), "bench: the cache is too small for depth ", depth);
      works.push_back({&seq, ids, all_wanted ? tokens : 1});
    }
    Program& program = engine_.prepare(works);
    largest_arena_ = std::max(largest_arena_, program.arena_bytes());
    program.run();
    double best = 0;
    for (int r = 0; r < flags_.repeats; ++r) {
      const double start = seconds_now();
      for (int s = 0; s < steps; ++s) program.run();
      best = std::max(best, steps * double(tokens) * sequences / (seconds_now() - start));
    }
    for (Seq& seq : seqs) engine_.cache().close(seq);
    return best;
  }

  ModelRow measure(const Limits& limits, DType type, int64_t weights_bytes) {
    ModelRow row{.type = format(type).name, .bytes = double(model_.weight_bytes())};
    row.prefill_tps = step_rate(flags_.prompt, 1, 0, 1, false);
    const UnitPeak peak = peak_for(limits, type);
    row.unit = peak.unit;
    row.prefill_share = row.prefill_tps * double(model_.flops_per_token()) / (peak.gops * 1e9);
    const int steps = std::max(8, flags_.generate / 4);
    row.decode_tps = step_rate(1, 1, flags_.generate / 2, steps, true);
    row.decode_share = row.decode_tps * row.bytes / (limits.read_gbps * 1e9);
    row.deep_tps = step_rate(1, 1, flags_.depth, steps, true);
    row.deep_share = row.deep_tps * (row.bytes + double(engine_.cache().bytes_per_token()) * flags_.depth) / (limits.read_gbps * 1e9);
    for (int n : flags_.batches) {
      row.sequences[n] = step_rate(1, n, flags_.generate / 2, steps / 2, true);
      row.drafted[n] = step_rate(n, 1, flags_.generate / 2, steps / 2, true);
    }
    row.cache_bytes = engine_.cache().bytes_per_token();
    row.memory_bytes = double(weights_bytes + engine_.kv_bytes() + largest_arena_);
    return row;
  }

  // The format of attention rows.
  static DType rows_of(const Model& model, const BenchModelFlags& flags) {
    DType type = model.natural_rows();
    parse_dtype(flags.cache_type, type);
    return type;
  }

 private:
  // Rows that nobody wrote would be the system's one page of zeros, read from the cache: write them.
  void fill_cache(Device& device) {
    std::vector<float> numbers(1 << 16);
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
  const BenchModelFlags& flags_;
  Engine engine_;
  int64_t largest_arena_ = 0;
};

void print_json(const std::vector<ModelRow>& rows, const std::string& device, const Limits& limits, const BenchModelFlags& flags) {
  nlohmann::json all = nlohmann::json::array();
  for (const ModelRow& r : rows) {
    nlohmann::json j = {{"shape", flags.file.empty() ? flags.shape : flags.file}, {"device", device}, {"type", r.type},
                        {"prefill_unit", r.unit}, {"weight_bytes", r.bytes}, {"memory_bytes", r.memory_bytes},
                        {"cache_bytes_per_token", r.cache_bytes}, {"prompt", flags.prompt},
                        {"depth", flags.depth}, {"prefill_tps", r.prefill_tps}, {"prefill_compute_share", r.prefill_share},
                        {"decode_tps", r.decode_tps}, {"decode_bandwidth_share", r.decode_share}, {"decode_deep_tps", r.deep_tps},
                        {"decode_deep_bandwidth_share", r.deep_share}, {"limits", limits_json(limits)}};
    for (const auto& [n, tps] : r.sequences) j["sequences_tps"][std::to_string(n)] = tps;
    for (const auto& [n, tps] : r.drafted) j["drafted_tps"][std::to_string(n)] = tps;
    all.push_back(j);
  }
  std::cout << (all.size() == 1 ? all[0] : all).dump() << "\n";
}

void print_rows(const std::vector<ModelRow>& rows, const BenchModelFlags& flags) {
  const std::string depth = std::to_string(flags.depth);
  std::vector<std::vector<std::string>> cells = {
      {"type", "GB/token", "prefill " + std::to_string(flags.prompt) + " t/s", "share of peak", "unit", "decode t/s", "share of bandwidth",
       "decode at " + depth + " t/s", "share of bandwidth (deep)"}};
  for (int n : flags.batches) {
    cells[0].push_back(std::to_string(n) + " sequences t/s");
    cells[0].push_back(std::to_string(n) + " drafted t/s");
  }
  for (const ModelRow& r : rows) {
    cells.push_back({r.type, fixed(r.bytes / 1e9, 3), fixed(r.prefill_tps, 1), fixed(r.prefill_share, 3), r.unit, fixed(r.decode_tps, 2),
                     fixed(r.decode_share, 3), fixed(r.deep_tps, 2), fixed(r.deep_share, 3)});
    for (int n : flags.batches) {
      cells.back().push_back(fixed(r.sequences.at(n), 1));
      cells.back().push_back(fixed(r.drafted.at(n), 1));
    }
  }
  print_cells(cells, flags.csv);
}

// Latent attention is there for this: what a token leaves in the cache, beside keys and values of all heads in the same format.
void print_cache(const ModelRow& row, const ModelShape& shape, const StateSpec& state) {
  const int64_t all = bytes_of(state[0].rows[0].type, shape.layers * shape.multi_head_row());
  std::cout << "cache: " << row.cache_bytes << " bytes a token in " << format(state[0].rows[0].type).name << ", "
            << fixed(double(all) / double(row.cache_bytes), 1) << " times less than the " << all << " that keys and values of all heads would take\n";
}

}  // namespace

void add_bench_model_flags(CLI::App& app, BenchModelFlags& flags) {
  app.add_option("--shape", flags.shape, "random weights of this shape: " + model_shapes())->capture_default_str();
  app.add_option("-m,--model", flags.file, "a .folio file in place of a shape");
  app.add_option("--cache-type", flags.cache_type, 
                 "number format of the attention cache: auto, f32, f16, bf16 or (latent attention alone) q8_0")
      ->check(CLI::IsMember({"auto", "f32", "f16", "bf16", "q8_0"}))->capture_default_str();
  app.add_option("--prompt", flags.prompt, "tokens of the prefill")->capture_default_str();
  app.add_option("--gen", flags.generate, "tokens of the decode")->capture_default_str();
  app.add_option("--depth", flags.depth, "tokens before the deep decode")->capture_default_str();
  app.add_option("--batch", flags.batches, "how many sequences, and how many drafted tokens, at once")
      ->delimiter(',')->capture_default_str();
}

int bench_model(const BenchModelFlags& flags) {
  check(flags.prompt > 0 && flags.generate > 0 && flags.depth > 0 && flags.repeats > 0 && !flags.batches.empty() &&
        *std::min_element(flags.batches.begin(), flags.batches.end()) > 0,
        "bench: --prompt, --gen, --depth, --repeats and --batch must be positive");
  const ModelShape& shape = model_shape(flags.shape);
  std::optional<Weights> weights;
  if (!flags.file.empty()) weights.emplace(flags.file);
  const std::vector<DType> types = weight_formats(flags.types);
  const auto device = open_device(flags.device, flags.threads);
  const Limits limits = measure_limits(*device, flags.threads);
  if (!flags.json) std::cerr << device->name() << "; " << text(limits) << "\n";
  std::vector<ModelRow> rows;
  StateSpec state;
  auto add = [&](const Weights& of, DType type) {
    const auto model = load_model(of);
    int64_t bytes = 0;
    for (const WeightEntry& entry : of.tensors()) bytes += entry.tensor.bytes();
    state = model->state(ModelBench::rows_of(*model, flags));
    rows.push_back(ModelBench(*model, *device, flags).measure(limits, type, bytes));
    if (!flags.json) std::cerr << format(type).name << " done\n";
  };
  if (weights) add(*weights, weights->require("layer.0.mix.out.weight").type);
  else for (DType type : types) add(random_weights(shape, type), type);
  if (flags.json) print_json(rows, device->name(), limits, flags);
  else print_rows(rows, flags);
  if (!flags.json && !weights && shape.rank) print_cache(rows.back(), shape, state);
  return 0;
}

}  // namespace folio
