// SPDX-License-Identifier: MIT
#include "tools/lib/mixer_layers.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <set>

#include "ops/ops.h"
#include "tools/lib/bench.h"
#include "tools/lib/main.h"
#include "tools/lib/model.h"
#include "tools/lib/ring_run.h"

namespace folio {

namespace {

constexpr double cold = 128e6;   // bytes that no cache holds

// Seconds of one node: the best of `repeats`, of programs that hold it as often as `nodes`.
double best_of(Device& device, int nodes, int repeats, const std::function<void(Graph&, int)>& record) {
  auto graph = std::make_unique<Graph>();
  for (int i = 0; i < nodes; ++i) record(*graph, i);
  const auto program = device.compile(std::move(graph));
  program->run();
  double best = std::numeric_limits<double>::infinity();
  for (int r = 0; r < 2 * repeats; ++r) best = std::min(best, program->time(1) / nodes);
  return best;
}

int copies(double bytes) { return int(std::clamp(std::ceil(cold / bytes), 1.0, 32.0)); }

std::string percent(double share) { return fixed(100 * share, 0) + "%"; }
MixerLine share_line(const std::string& what, double share, double aim) {
  return {what, percent(share), "at least " + percent(aim), true, share >= aim};
}

// A step's place: the last `tokens` of a sequence of `depth`, its pages anywhere in the pools.
struct Place {
  Tensor page, seq, pos;
  int64_t pages;
  Place(DeviceTensors& memory, int64_t depth, int64_t tokens) : pages((depth + page_tokens - 1) / page_tokens) {
    std::vector<int32_t> ids(static_cast<size_t>(pages)), at(static_cast<size_t>(tokens));
    std::iota(ids.begin(), ids.end(), 0), std::iota(at.begin(), at.end(), int32_t(depth - tokens));
    std::shuffle(ids.begin(), ids.end(), std::mt19937(1));
    page = memory.ints({1, pages}, ids), pos = memory.ints({tokens}, at), seq = memory.ints({tokens}, std::vector<int32_t>(size_t(tokens)));
  }
};

int64_t row_bytes(const Tensor& pool) { return pool.bytes() / (pool.dim(0) * page_tokens); }

// Bytes that a token leaves in a layer, as it is measured.
struct Cached { int64_t latent = 0, multi_head = 0; };

LayerRow mla_row(const LayerSizes& z, Device& device, int repeats, int64_t depth, int64_t tokens, Cached& cached) {
  DeviceTensors memory(device);
  const Place at(memory, depth, tokens);
  const Tensor q = memory.random(F32, {tokens, z.heads, z.nope}), r = memory.random(F32, {tokens, z.heads, z.rope});
  const double rows = double(depth) * 2 * double(z.rank + z.rope), ups = 2 * double(z.heads * (z.nope + z.value) * z.rank);
  struct Set { Tensor latent, k_up, v_up; };
  std::vector<Set> sets(size_t(copies(rows + ups)));
  for (Set& s : sets)
    s = {memory.random(F16, {at.pages, page_tokens, 1, z.rank + z.rope}), memory.random(F16, {z.heads, z.nope, z.rank}),
         memory.random(F16, {z.heads, z.value, z.rank})};
  cached.latent = row_bytes(sets[0].latent);
  const bool expand = tokens >= Mla::crossover(z.rank, z.nope, z.value);
  LayerRow row{.name = tokens == 1 ? join("mla, decoding at ", depth) : join("mla, prefill of ", tokens)};
  row.seconds = best_of(device, int(sets.size()), repeats, [&](Graph& graph, int i) {
    const Set& s = sets[size_t(i)];
    graph.record(Mla{.q = q, .q_rope = r, .latent = s.latent, .page = at.page, .seq = at.seq, .pos = at.pos, .k_up = s.k_up,
                     .v_up = s.v_up, .scale = 0.1f, .expand = expand});
  });
  const double H = double(z.heads), R = double(z.rank), up = double(z.nope + z.value), T = double(tokens);
  const double seen = T * double(depth) - T * (T - 1) / 2;
  const double raise = R * up * (expand ? double(depth) : T), attend = ((expand ? up : 2 * R) + double(z.rope)) * seen;
  row.flops = 2 * H * (raise + attend);
  if (tokens == 1) row.bytes = rows + ups;
  row.note = expand ? "expanded" : "absorbed";
  return row;
}

LayerRow multi_head_row(const LayerSizes& z, Device& device, int repeats, Cached& cached) {
  DeviceTensors memory(device);
  const Place at(memory, z.depth, 1);
  const int64_t size = z.nope + z.rope;
  const Tensor q = memory.random(F32, {1, z.heads, size});
  const double bytes = double(z.depth) * 2 * double(z.heads * (size + z.value));
  std::vector<std::pair<Tensor, Tensor>> sets(size_t(copies(bytes)));
  for (auto& [k, v] : sets)
    k = memory.random(F16, {at.pages, page_tokens, z.heads, size}), v = memory.random(F16, {at.pages, page_tokens, z.heads, z.value});
  cached.multi_head = row_bytes(sets[0].first) + row_bytes(sets[0].second);
  const double seconds = best_of(device, int(sets.size()), repeats, [&](Graph& graph, int i) {
    const auto& [k, v] = sets[size_t(i)];
    graph.record(Attend{.q = q, .k = k, .v = v, .page = at.page, .seq = at.seq, .pos = at.pos, .scale = 0.1f});
  });
  return {join("multi-head attention, decoding at ", z.depth), seconds, 2 * double(z.heads * (size + z.value) * z.depth), bytes,
          "the same heads"};
}

void measure_mla(LayerFindings& found, const LayerSizes& z, Device& device, const Limits& limits, int repeats) {
  Cached cached;
  LayerRow one = mla_row(z, device, repeats, z.depth, 1, cached);
  const double room = limits.fp32_gflops * 1e9 / one.flops / (limits.read_gbps * 1e9 / one.bytes);   // reading, as fp32's peak could follow
  if (room > 0 && room < 1) one.note += join(", arithmetic at fp32's peak reads at ", percent(room));
  found.rows.push_back(one);
  found.rows.push_back(multi_head_row(z, device, repeats, cached));
  found.rows.push_back(mla_row(z, device, repeats, z.prompt, z.prompt, cached));
  const std::string where = join(" (", z.heads, " heads, rank ", z.rank, ")");
  found.lines.push_back(share_line(join("mla, decoding at ", z.depth, ", share of bandwidth", where),
                                   one.bytes / one.seconds / limits.read_gbps / 1e9, 0.6));
  found.lines.push_back({"mla, cache of a token and layer" + where, join(cached.latent, " B, multi-head ", cached.multi_head, " B"),
                         "1152 B against 10240 B", z.rank == 512, cached.latent == 1152 && cached.multi_head == 10240});
}

// A step of `tokens` through router, the experts that it chooses, and their sum.
LayerRow experts_row(const LayerSizes& z, Device& device, int repeats, int64_t tokens) {
  DeviceTensors memory(device);
  std::vector<float> drawn(size_t(tokens * z.dim)), rows(size_t(z.experts * z.dim));
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  for (std::vector<float>* numbers : {&drawn, &rows})
    for (float& x : *numbers) x = normal(random);
  const Tensor x = memory.floats({tokens, z.dim}, drawn), router = memory.floats({z.experts, z.dim}, rows);
  const Tensor gate = memory.random(F16, {z.experts, z.width, z.dim}), up = memory.random(F16, {z.experts, z.width, z.dim}),
               down = memory.random(F16, {z.experts, z.dim, z.width});
  auto graph = std::make_unique<Graph>();
  const Route route = graph->record(Route{.logits = graph->record(Matmul{.x = x, .w = router}).y, .k = int(z.chosen), .normalise = true});
  const Tensor h = graph->record(ExpertMatmul{.x = x, .chosen = route.chosen, .w = up, .gate = gate, .act = Act::silu}).y;
  const Tensor y = graph->record(ExpertMatmul{.x = h, .chosen = route.chosen, .w = down}).y;
  graph->output("chosen", route.chosen);
  graph->output("out", graph->record(Combine{.y = y, .weight = route.weight, .add = x}).out);
  const auto program = device.compile(std::move(graph));
  program->run();
  LayerRow row{.name = join("experts, ", tokens, tokens == 1 ? " token" : " tokens"), .seconds = std::numeric_limits<double>::infinity()};
  for (int r = 0; r < 2 * repeats; ++r) row.seconds = std::min(row.seconds, program->time(1));
  const Tensor chosen = program->output("chosen");
  const std::set<int32_t> met(chosen.at<int32_t>(), chosen.at<int32_t>() + chosen.count());
  row.flops = double(tokens) * 2 * double(z.dim) * double(z.experts + 3 * z.chosen * z.width);
  row.bytes = double(router.bytes()) + double(met.size()) / double(z.experts) * double(gate.bytes() + up.bytes() + down.bytes());
  row.note = join(met.size(), " of ", z.experts, " experts met, ", human_bytes(row.bytes), " of ",
                  human_bytes(double(router.bytes() + gate.bytes() + up.bytes() + down.bytes())));
  return row;
}

void measure_experts(LayerFindings& found, const LayerSizes& z, Device& device, const Limits& limits, int repeats) {
  found.rows.push_back(experts_row(z, device, repeats, 1));
  const LayerRow& one = found.rows.back();
  const double share = one.bytes / one.seconds / limits.read_gbps / 1e9;
  found.lines.push_back(share_line(join("experts, one token, bytes of the ", z.chosen, " chosen of ", z.experts, ", share of bandwidth"),
                                   share, 0.85));
  found.rows.push_back(experts_row(z, device, repeats, z.prompt));
}

// A processor for each rank is asked for, as threads of this machine: shares, not times, say something where there are fewer.
void measure_ring(LayerFindings& found, const LayerSizes& z) {
  const RingShape shape{.heads = 4, .groups = 1, .head_size = 64, .value_size = 64, .scale = 0.125f, .rows = F16};
  RingText text = RingText::random(shape, z.ring_tokens);
  for (const RingLayout layout : {RingLayout::contiguous, RingLayout::zigzag}) {
    const char* name = layout == RingLayout::zigzag ? "zigzag" : "contiguous";
    const double start = seconds_now();
    const std::vector<RingTimes> times = run_ring(text, layout, int(z.ranks), 600);
    LayerRow row{.name = join("ring, ", name, ", ", z.ring_tokens, " tokens"), .seconds = seconds_now() - start};
    double attend = 0, merge = 0, busiest = 0;
    int64_t sent = 0;
    for (const RingTimes& t : times) attend += t.attend, merge += t.merge, sent += t.bytes_sent, busiest = std::max(busiest, t.attend);
    row.flops = 2 * double(shape.heads * shape.head_size) * double(z.ring_tokens) * double(z.ring_tokens + 1);
    row.note = join(z.ranks, " ranks, merging ", fixed(100 * merge / (attend + merge), 2), "%, the busiest attends ",
                    fixed(busiest / attend * double(z.ranks), 2), "x the mean, ", human_bytes(double(sent)), " sent");
    found.rows.push_back(row);
    const double share = merge / (attend + merge);
    found.lines.push_back({join("ring of ", z.ranks, " virtual ranks, ", name, ", share of merging"), fixed(100 * share, 2) + "%",
                           "less than 5%", true, share < 0.05});
  }
}

}  // namespace

LayerSizes LayerSizes::up_to(int64_t tokens) {
  if (tokens >= 1024) return {.depth = std::min<int64_t>(4096, tokens), .ring_tokens = std::min<int64_t>(16384, tokens)};
  return {.heads = 2, .rank = 32, .rope = 16, .nope = 16, .value = 16, .dim = 64, .width = 32, .experts = 8, .chosen = 2, .depth = tokens,
          .prompt = 40, .ring_tokens = 2 * tokens};
}

const std::vector<std::string>& layer_kinds() {
  static const std::vector<std::string> kinds = {"mla", "experts", "ring"};
  return kinds;
}

LayerFindings measure_layers(const std::string& only, const LayerSizes& sizes, Device& device, const Limits& limits, int repeats) {
  LayerFindings found;
  const auto wanted = [&](const std::string& kind) { return kind.find(only) != std::string::npos; };
  if (wanted("mla")) measure_mla(found, sizes, device, limits, repeats);
  if (wanted("experts")) measure_experts(found, sizes, device, limits, repeats);
  if (wanted("ring")) measure_ring(found, sizes);
  return found;
}

}  // namespace folio
