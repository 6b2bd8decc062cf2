// SPDX-License-Identifier: MIT
#include "tools/lib/bench_mixers.h"

#include <algorithm>
#include <filesystem>
#include <iostream>

#include "base/file.h"
#include "tools/lib/machine.h"
#include "tools/lib/main.h"
#include "tools/lib/mixer_layers.h"
#include "tools/lib/mixer_lines.h"
#include "tools/lib/mixer_plain.h"
#include "tools/lib/model.h"
#include "tools/lib/plot.h"

namespace folio {

namespace {

constexpr const char* naive_name = "attention naive";

// All that one run has found.
struct Findings {
  std::string device, plot;
  Limits limits;
  std::vector<MixerCurve> curves;
  std::vector<Crossing> crossings;
  std::vector<MixerLine> lines;
  std::vector<LayerRow> layers;
  const MixerPoint* baseline(const char* mixer, const MixerCurve& of, int64_t tokens) const {
    for (const MixerCurve& c : curves)
      if (c.mixer == mixer && c.size.width == of.size.width) return c.at(tokens);
    return nullptr;
  }
};

double ratio(double a, double b) { return a > 0 && b > 0 ? a / b : 0; }
std::string cell(double value, int digits) { return value > 0 ? fixed(value, digits) : "-"; }

void print_table(const Findings& found, bool csv) {
  std::vector<std::vector<std::string>> rows = {
      {"mixer", "D", "T", "prefill ms", "x tiled", "x naive", "GFLOP/s", "share of peak", "memory MB", "beside rows MB", "decode us",
       "x tiled", "decode GFLOP/s", "left out"}};
  for (const MixerCurve& c : found.curves)
    for (const MixerPoint& p : c.points) {
      const MixerPoint *tiled = found.baseline("attention tiled", c, p.tokens), *naive = found.baseline(naive_name, c, p.tokens);
      const double gflops = ratio(p.prefill_flops, p.prefill) / 1e9;
      rows.push_back({c.mixer, std::to_string(c.size.width), std::to_string(p.tokens), cell(p.prefill * 1e3, 3),
                      cell(ratio(tiled ? tiled->prefill : 0, p.prefill), 2), cell(ratio(naive ? naive->prefill : 0, p.prefill), 2),
                      cell(gflops, 1), cell(ratio(gflops, found.limits.fp32_gflops), 3),
                      cell(double(p.memory.rows + p.memory.beside) / 1e6, 2), cell(double(p.memory.beside) / 1e6, 2),
                      cell(p.decode * 1e6, 1), cell(ratio(tiled ? tiled->decode : 0, p.decode), 2),
                      cell(ratio(p.decode_flops, p.decode) / 1e9, 1), p.left_out});
    }
  print_cells(rows, csv);
}

void print_layers(const Findings& found, bool csv) {
  std::vector<std::vector<std::string>> rows = {{"layer", "ms", "GB/s", "share of bandwidth", "GFLOP/s", "share of peak", "what"}};
  for (const LayerRow& r : found.layers) {
    const double gbps = ratio(r.bytes, r.seconds) / 1e9, gflops = ratio(r.flops, r.seconds) / 1e9;
    rows.push_back({r.name, cell(r.seconds * 1e3, 3), cell(gbps, 2), cell(ratio(gbps, found.limits.read_gbps), 3), cell(gflops, 1),
                    cell(ratio(gflops, found.limits.fp32_gflops), 3), r.note});
  }
  print_cells(rows, csv);
}

void print_findings(const Findings& found, std::ostream& out) {
  auto place = [](int64_t tokens) { return tokens ? std::to_string(tokens) : std::string("nowhere"); };
  if (!found.crossings.empty()) out << "\nFaster than tiled attention from T on (of those measured):\n";
  for (const Crossing& c : found.crossings)
    out << "  " << c.mixer << ", D = " << c.width << ": prefill " << place(c.prefill) << ", decoding " << place(c.decode) << "\n";
  out << "\nLines to reach:\n";
  for (const MixerLine& l : found.lines)
    out << "  " << l.what << ": " << l.measured << "; aim " << l.aim << (l.known ? l.reached ? ": reached" : ": missed" : "") << "\n";
  if (!found.curves.empty()) out << "plot: " << found.plot << "\n";
}

nlohmann::json point_json(const Findings& found, const MixerCurve& c, const MixerPoint& p) {
  nlohmann::json j = {{"tokens", p.tokens}, {"memory_bytes", p.memory.rows + p.memory.beside}, {"beside_rows_bytes", p.memory.beside}};
  const MixerPoint *tiled = found.baseline("attention tiled", c, p.tokens), *naive = found.baseline(naive_name, c, p.tokens);
  auto add = [&](const std::string& what, double seconds, double flops, double against_tiled, double against_naive) {
    if (seconds == 0) return;
    j.update({{what + "_s", seconds}, {what + "_flops", flops}, {what + "_gflops", flops / seconds / 1e9}});
    if (against_tiled > 0) j[what + "_x_tiled"] = against_tiled / seconds;
    if (against_naive > 0) j[what + "_x_naive"] = against_naive / seconds;
  };
  add("prefill", p.prefill, p.prefill_flops, tiled ? tiled->prefill : 0, naive ? naive->prefill : 0);
  add("decode", p.decode, p.decode_flops, tiled ? tiled->decode : 0, naive ? naive->decode : 0);
  if (p.prefill > 0) j["prefill_share_of_peak"] = ratio(p.prefill_flops / p.prefill / 1e9, found.limits.fp32_gflops);
  if (!p.left_out.empty()) j["left_out"] = p.left_out;
  return j;
}

void print_json(const Findings& found, const BenchMixersFlags& flags) {
  nlohmann::json curves = nlohmann::json::array(), crossings = curves, lines = curves;
  for (const MixerCurve& c : found.curves) {
    nlohmann::json points = nlohmann::json::array();
    for (const MixerPoint& p : c.points) points.push_back(point_json(found, c, p));
    curves.push_back({{"mixer", c.mixer}, {"head_size", c.size.width}, {"heads", c.size.heads}, {"points", points}});
    if (c.rounds > 0) curves.back()["rounds"] = c.rounds;
  }
  for (const Crossing& c : found.crossings)
    crossings.push_back({{"mixer", c.mixer}, {"head_size", c.width}, {"prefill", c.prefill}, {"decode", c.decode}});
  for (const MixerLine& l : found.lines) {
    lines.push_back({{"line", l.what}, {"measured", l.measured}, {"aim", l.aim}});
    if (l.known) lines.back()["reached"] = l.reached;
  }
  nlohmann::json layers = nlohmann::json::array();
  for (const LayerRow& r : found.layers)
    layers.push_back({{"layer", r.name}, {"seconds", r.seconds}, {"bytes", r.bytes}, {"flops", r.flops}, {"what", r.note}});
  std::cout << nlohmann::json{{"device", found.device}, {"limits", limits_json(found.limits)}, {"max_tokens", flags.max_tokens},
                              {"curves", curves}, {"crossings", crossings}, {"lines", lines}, {"layers", layers},
                              {"plot", found.plot}}.dump() << "\n";
}

// Families by colour: linear blue, delta green, log-linear orange, Mesa purple, attention dark.
const std::vector<std::pair<std::string, std::string>>& colours() {
  static const std::vector<std::pair<std::string, std::string>> all = {
      {"linear", "#1f77b4"}, {"linear elu+1", "#6baed6"}, {"retnet", "#17becf"}, {"mamba2", "#08519c"}, {"gla", "#9e9ac8"},
      {"delta", "#74c476"}, {"gated delta", "#238b45"}, {"kda", "#a1a600"}, {"log-linear mamba2", "#fd8d3c"},
      {"log-linear gated delta", "#d94801"}, {"mesa", "#984ea3"}, {"attention tiled", "#222222"}, {naive_name, "#888888"}};
  return all;
}

void write_plot(const Findings& found, const BenchMixersFlags& flags) {
  std::vector<std::vector<PlotPanel>> rows(2);
  for (int64_t D : flags.sizes)
    for (const bool decode : {false, true}) {
      PlotPanel panel{.title = join(decode ? "decoding one token, D = " : "prefill, D = ", D),
                      .across = decode ? "tokens before it" : "tokens of the text (T)", .up = decode ? "seconds a token" : "seconds"};
      for (const MixerCurve& c : found.curves) {
        if (c.size.width != D) continue;
        PlotLine line{.name = c.mixer, .colour = "#000000", .dashed = c.mixer == naive_name};
        for (const auto& [name, colour] : colours())
          if (name == c.mixer) line.colour = colour;
        for (const MixerPoint& p : c.points)
          if (const double y = decode ? p.decode : p.prefill; y > 0) line.points.emplace_back(double(p.tokens), y);
        panel.lines.push_back(line);
      }
      rows[decode].push_back(panel);
    }
  FileWriter file(flags.plot);
  file.write(svg_plot(join("Sequence mixers, ", flags.heads, " heads, one layer: ", found.device), rows));
  file.commit();
}

void check_flags(const BenchMixersFlags& flags) {
  check(flags.max_tokens >= page_tokens && flags.max_tokens <= 1 << 20, "bench: --max-tokens is ", flags.max_tokens,
        "; expected 64 to 1048576");
  check(!flags.sizes.empty(), "bench: --sizes names no head size");
  for (int64_t D : flags.sizes) check(D >= 16 && D <= 256 && D % 16 == 0, "bench: --sizes has ", D, "; expected multiples of 16 up to 256");
  check(flags.heads >= 1 && flags.heads <= 1024, "bench: --heads is ", flags.heads, "; expected 1 to 1024");
  check(flags.repeats > 0, "bench: --repeats must be positive");
  check(!flags.plot.empty(), "bench: --plot wants the name of a file");
  const std::filesystem::path folder = std::filesystem::path(flags.plot).parent_path();
  check(flags.golden.empty() || std::filesystem::is_directory(flags.golden), "bench: --golden: '", flags.golden, "' is no folder");
  check(folder.empty() || std::filesystem::is_directory(folder), "bench: --plot: there is no folder '", folder.string(), "'");
}

}  // namespace

void add_bench_mixers_flags(CLI::App& app, BenchMixersFlags& flags) {
  app.footer("Examples:\n  bench mixers -t 2\n  bench mixers --max-tokens 4096 -D 64 --only delta --csv\n"
             "  bench mixers --max-tokens 16384 --seconds 5 --json --plot mixers.svg");
  app.add_option("--max-tokens", flags.max_tokens, "longest text; T goes from 64 up to it in powers of two")->capture_default_str();
  app.add_option("-D,--sizes", flags.sizes, "head sizes")->delimiter(',')->capture_default_str();
  app.add_option("--heads", flags.heads, "heads")->capture_default_str();
  app.add_option("--only", flags.only, "only mixers with this in their name; mla, experts and ring are rows of their own");
  app.add_option("--seconds", flags.seconds, "leave out prefills that take longer")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--plot", flags.plot, "where the picture goes (SVG)")->capture_default_str();
  app.add_option("--golden", flags.golden, "a folder with golden numbers (mesanet*.npz): rounds of Mesa's solver on them");
}

int bench_mixers(const BenchMixersFlags& flags) {
  check_flags(flags);
  auto wanted = [&](const std::string& name) { return name.find(flags.only) != std::string::npos; };
  const bool layers = std::any_of(layer_kinds().begin(), layer_kinds().end(), wanted);
  const bool curves = wanted(naive_name) || std::any_of(mixer_kinds().begin(), mixer_kinds().end(),
                                                         [&](const MixerKind& k) { return wanted(k.name); });
  check(curves || layers, "bench: no mixer has '", flags.only, "' in its name");
  const auto device = open_device(flags.device, flags.threads);
  const int threads = flags.threads > 0 ? flags.threads : hardware_threads();
  Findings found{.device = device->name(), .plot = curves ? flags.plot : "", .limits = measure_limits(*device, flags.threads)};
  if (!flags.json) std::cerr << device->name() << "; " << text(found.limits) << "\n";
  const CurveLimits limits{.tokens = flags.max_tokens, .seconds = flags.seconds, .repeats = flags.repeats};
  for (int64_t D : flags.sizes) {
    const MixerSize size{.heads = flags.heads, .width = D};
    auto add = [&](const std::string& name, auto measure) {
      if (!wanted(name)) return;
      const double start = seconds_now();
      found.curves.push_back(measure());
      if (!flags.json) std::cerr << name << ", D = " << D << ": measured in " << fixed(seconds_now() - start, 1) << " s\n";
    };
    for (const MixerKind& kind : mixer_kinds()) add(kind.name, [&] { return measure_mixer(kind, size, *device, limits); });
    add(naive_name, [&] { return measure_plain_attention(size, threads, limits); });
  }
  found.crossings = crossings(found.curves);
  found.lines = curve_lines(found.curves);
  const auto also = [&](const std::vector<MixerLine>& lines) { found.lines.insert(found.lines.end(), lines.begin(), lines.end()); };
  if (flags.only.empty() && flags.max_tokens >= 1024) {   // a short run is for a quick look
    for (int64_t D : flags.sizes) also(step_lines({.heads = flags.heads, .width = D}, *device, threads, flags.repeats));
    also({wide_prefill_line(*device, flags.repeats)});
  }
  if (!flags.golden.empty()) also(golden_lines(flags.golden, *device));
  if (layers && (!flags.only.empty() || flags.max_tokens >= 1024)) {
    const LayerFindings more = measure_layers(flags.only, LayerSizes::up_to(flags.max_tokens), *device, found.limits, flags.repeats);
    found.layers = more.rows;
    also(more.lines);
  }
  if (curves) write_plot(found, flags);
  if (flags.json) return print_json(found, flags), 0;
  if (curves) print_table(found, flags.csv);
  if (curves && !found.layers.empty()) std::cout << "\n";
  if (!found.layers.empty()) print_layers(found, flags.csv);
  print_findings(found, flags.csv ? std::cerr : std::cout);
  return 0;
}

}  // namespace folio
