// SPDX-License-Identifier: MIT
#include "tools/lib/bench_ops.h"

#include <algorithm>
#include <iostream>
#include <numeric>
#include <random>

#include "ops/ops.h"
#include "tools/lib/machine.h"
#include "tools/lib/model.h"

namespace folio {

namespace {

// The nodes of one case, each on the next of several sets of weights or pools.
class CaseNodes {
 public:
  CaseNodes(const OpCase& c, Device& device, int sets) : c_(c), memory_(device), sets_(size_t(sets)) {
    if (c.op == "attend") make_pools();
    else make_matrices();
  }

  void record(Graph& graph, int i) const {
    const Set& set = sets_[size_t(i) % sets_.size()];
    if (c_.op == "attend") {
      graph.record(Attend{.q = x_, .k = set.a, .v = set.b, .page = page_, .seq = seq_, .pos = pos_, .length = length_,
                          .scale = 1 / std::sqrt(float(c_.head_size))});
    } else if (c_.op == "mlp") {
      const Tensor h = graph.record(Matmul{.x = x_, .w = set.a, .gate = set.b, .act = Act::silu}).y;
      graph.record(Matmul{.x = h, .w = set.c, .add = x_});
    } else {
      graph.record(Matmul{.x = x_, .w = set.a});
    }
  }

 private:
  struct Set { Tensor a, b, c; };   // w; up, gate, down; k, v

  void make_matrices() {
    x_ = memory_.random(F32, {c_.tokens, c_.inputs});
    for (Set& set : sets_) {
      set.a = memory_.random(c_.type, {c_.features, c_.inputs});
      if (c_.op != "mlp") continue;
      set.b = memory_.random(c_.type, {c_.features, c_.inputs});
      set.c = memory_.random(c_.type, {c_.inputs, c_.features});
    }
  }
  // Pages of the sequences lie anywhere in a pool.
  void make_pools() {
    const int64_t most = (c_.depth + page_tokens - 1) / page_tokens, pages = c_.sequences * most, all = c_.sequences * c_.tokens;
    x_ = memory_.random(F32, {all, c_.heads, c_.head_size});
    for (Set& set : sets_) {
      set.a = memory_.random(c_.type, {pages, page_tokens, c_.groups, c_.head_size});
      set.b = memory_.random(c_.type, {pages, page_tokens, c_.groups, c_.head_size});
    }
    std::vector<int32_t> ids(static_cast<size_t>(pages)), seq, pos;
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), std::mt19937(1));
    for (int64_t i = 0; i < all; ++i) {
      seq.push_back(int32_t(i / c_.tokens));
      pos.push_back(int32_t(c_.depth - c_.tokens + i % c_.tokens));
    }
    page_ = memory_.ints({c_.sequences, most}, ids);
    seq_ = memory_.ints({all}, seq);
    pos_ = memory_.ints({all}, pos);
    length_ = memory_.ints({c_.sequences}, std::vector<int32_t>(size_t(c_.sequences), int32_t(c_.depth)));
  }

  const OpCase& c_;
  DeviceTensors memory_;
  std::vector<Set> sets_;
  Tensor x_, page_, seq_, pos_, length_;   // x: [T, K] or q [T, H, D]
};

// Seconds of one node: the median of `repeats`. `floor`: what it takes at least. Sets together are more than a cache holds.
double measure(const OpCase& c, Device& device, double floor, int repeats, bool quick) {
  const double cache = quick ? 1e6 : 128e6;
  const int sets = int(std::clamp(std::ceil(cache / c.bytes()), 1.0, 32.0));
  const int nodes = std::max(sets, int(std::min(64.0, (quick ? 0 : 2e-4) / floor)));
  const CaseNodes made(c, device, sets);
  auto graph = std::make_unique<Graph>();
  for (int i = 0; i < nodes; ++i) made.record(*graph, i);
  const auto program = device.compile(std::move(graph));
  program->run();
  const int times = quick ? 1 : int(std::clamp(0.01 / (nodes * floor), 1.0, 100.0));
  std::vector<double> seconds;
  for (int r = 0; r < repeats; ++r) seconds.push_back(program->time(times) / nodes);
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

struct OpResult {
  OpCase what;
  double seconds = 0, floor = 0;
  std::string limit, left_out;   // "bandwidth" or the unit; why it was not measured
};

OpResult run_case(const OpCase& c, Device& device, const Limits& limits, const BenchOpsFlags& flags) {
  const UnitPeak peak = peak_for(limits, c.type);
  const double moving = c.bytes() / (limits.read_gbps * 1e9), working = c.flops() / (peak.gops * 1e9);
  OpResult result{.what = c, .floor = std::max(moving, working), .limit = moving >= working ? "bandwidth" : peak.unit};
  if (result.floor > flags.most) {
    result.left_out = join("takes ", fixed(result.floor, 1), " s here at least, --most is ", flags.most);
    return result;
  }
  try {
    result.seconds = measure(c, device, result.floor, flags.repeats, flags.quick);
  } catch (const Error& error) {
    if (std::string(error.what()).find("out of memory") == std::string::npos) throw;
    result.left_out = error.what();
  }
  return result;
}

nlohmann::json case_json(const OpCase& c) {
  nlohmann::json j = {{"case", c.name()}, {"op", c.op}, {"type", format(c.type).name}, {"tokens", c.tokens}, {"flops", c.flops()},
                      {"bytes", c.bytes()}};
  if (c.op == "attend") {
    j.update({{"sequences", c.sequences}, {"depth", c.depth}, {"heads", c.heads}, {"groups", c.groups}, {"head_size", c.head_size}});
  } else {
    j.update({{"inputs", c.inputs}, {"features", c.features}});
  }
  return j;
}

nlohmann::json result_json(const OpResult& r) {
  nlohmann::json j = case_json(r.what);
  if (!r.left_out.empty()) return j.update({{"left_out", r.left_out}}), j;
  j.update({{"seconds", r.seconds}, {"gbps", r.what.bytes() / r.seconds / 1e9}, {"gflops", r.what.flops() / r.seconds / 1e9},
            {"share", r.floor / r.seconds}, {"limit", r.limit}});
  return j;
}

int list_cases(const std::vector<OpCase>& cases, bool as_json) {
  nlohmann::json all = nlohmann::json::array();
  for (const OpCase& c : cases) {
    all.push_back(case_json(c));
    if (!as_json) std::cout << c.name() << "\n";
  }
  if (as_json) std::cout << nlohmann::json{{"cases", all}}.dump() << "\n";
  return 0;
}

}  // namespace

std::string OpCase::name() const {
  const std::string begin = join(op, " ", format(type).name, " ");
  if (op != "attend") return join(begin, "T=", tokens, " ", inputs, "->", features);
  if (tokens == depth) return join(begin, "D=", head_size, " prefill T=", tokens);
  return join(begin, "D=", head_size, " decode ", sequences, " x ", depth);
}

double OpCase::flops() const {
  if (op != "attend") return 2.0 * double(tokens) * double(inputs) * double(features) * (op == "mlp" ? 3 : 1);
  const double seen = double(tokens) * double(depth) - double(tokens) * double(tokens - 1) / 2;   // keys of all tokens of a sequence
  return 4.0 * double(heads * head_size) * seen * double(sequences);
}

double OpCase::bytes() const {
  if (op == "attend")
    return double(2 * bytes_of(type, sequences * depth * groups * head_size)) + 2.0 * 4 * double(sequences * tokens * heads * head_size);
  const double weights = double(bytes_of(type, inputs * features));
  if (op == "mlp") return 3 * weights + 2.0 * 4 * double(tokens * inputs);   // what lies between the two products may stay on the chip
  return weights + 4.0 * double(tokens * (inputs + features));
}

std::vector<OpCase> op_cases(const std::vector<DType>& types, bool quick) {
  using Sides = std::vector<std::pair<int64_t, int64_t>>;
  std::vector<OpCase> cases;
  const auto wanted = [&](DType type) { return std::find(types.begin(), types.end(), type) != types.end(); };
  const std::vector<int64_t> tokens = quick ? std::vector<int64_t>{1, 8, 40} : std::vector<int64_t>{1, 8, 512};
  const Sides sides = quick ? Sides{{256, 192}} : Sides{{4096, 14336}, {14336, 4096}, {2048, 5632}};   // the FFNs of 8b and 1b
  for (DType type : types)
    for (const auto& [in, out] : sides)
      for (int64_t t : tokens) cases.push_back({.op = "matmul", .type = type, .tokens = t, .inputs = in, .features = out});
  for (DType type : {BF16, F16, Q8_0})
    if (wanted(type) && !quick) cases.push_back({.op = "matmul", .type = type, .tokens = 8192, .inputs = 8192, .features = 8192});
  for (DType type : {BF16, Q8_0})
    if (wanted(type))
      for (int64_t t : tokens)
        cases.push_back({.op = "mlp", .type = type, .tokens = t, .inputs = sides[0].first, .features = sides[0].second});
  const auto attend = [&](int64_t size, int64_t sequences, int64_t t, int64_t depth) {   // rows of f16, as the cache has them by default
    cases.push_back({.op = "attend", .type = F16, .tokens = t, .sequences = sequences, .depth = depth, .heads = quick ? 4 : 32,
                     .groups = quick ? 2 : 8, .head_size = size});
  };
  for (int64_t size : {64, 128}) {
    for (int64_t t : quick ? std::vector<int64_t>{96} : std::vector<int64_t>{512, 1024, 2048, 4096, 8192, 16384}) attend(size, 1, t, t);
    for (int64_t depth : quick ? std::vector<int64_t>{200} : std::vector<int64_t>{4096, 16384, 65536, 131072}) attend(size, 1, 1, depth);
    attend(size, quick ? 3 : 16, 1, quick ? 100 : 8192);
  }
  return cases;
}

void add_bench_ops_flags(CLI::App& app, BenchOpsFlags& flags) {
  app.add_option("--only", flags.only, "only cases with this in their name");
  app.add_option("--most", flags.most, "leave out cases that take longer here than so many seconds, however good the kernel")
      ->check(CLI::PositiveNumber)->capture_default_str();
  app.add_flag("--quick", flags.quick, "a few tiny cases, once: to see that everything works, not how fast");
  app.add_flag("--list", flags.list, "the cases, unmeasured");
}

int bench_ops(const BenchOpsFlags& flags) {
  check(flags.repeats > 0, "bench: --repeats must be positive");
  std::vector<OpCase> cases = op_cases(weight_formats(flags.types), flags.quick);
  std::erase_if(cases, [&](const OpCase& c) { return c.name().find(flags.only) == std::string::npos; });
  check(!cases.empty(), "bench: no case has '", flags.only, "' in its name; bench ops --list shows all names");
  if (flags.list) return list_cases(cases, flags.json);
  const auto device = open_device(flags.device, flags.threads);
  const Limits limits = measure_limits(*device, flags.threads);
  if (!flags.json) std::cerr << device->name() << "; " << text(limits) << "\n";
  nlohmann::json all = nlohmann::json::array();
  std::vector<std::vector<std::string>> table = {{"case", "us", "GB/s", "TFLOP/s", "share of limit", "limit"}};
  for (const OpCase& c : cases) {
    const OpResult r = run_case(c, *device, limits, flags);
    all.push_back(result_json(r));
    if (!r.left_out.empty()) std::cerr << c.name() << " left out: " << r.left_out << "\n";
    else table.push_back({c.name(), fixed(r.seconds * 1e6, 1), fixed(c.bytes() / r.seconds / 1e9, 1),
                          fixed(c.flops() / r.seconds / 1e12, 3), fixed(r.floor / r.seconds, 3), r.limit});
  }
  if (flags.json) std::cout << nlohmann::json{{"device", device->name()}, {"limits", limits_json(limits)}, {"cases", all}}.dump() << "\n";
  else print_cells(table, flags.csv);
  return 0;
}

}  // namespace folio
