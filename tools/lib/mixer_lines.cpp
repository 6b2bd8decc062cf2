// SPDX-License-Identifier: MIT
#include "tools/lib/mixer_lines.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>

#include "ops/mesa.h"
#include "tools/lib/main.h"
#include "tools/lib/mixer_plain.h"
#include "tools/lib/npz.h"

namespace folio {

namespace {

const MixerCurve* find(const std::vector<MixerCurve>& curves, const std::string& mixer, int64_t width) {
  for (const MixerCurve& c : curves)
    if (c.mixer == mixer && c.size.width == width) return &c;
  return nullptr;
}

std::vector<int64_t> widths_of(const std::vector<MixerCurve>& curves) {
  std::vector<int64_t> widths;
  for (const MixerCurve& c : curves)
    if (std::find(widths.begin(), widths.end(), c.size.width) == widths.end()) widths.push_back(c.size.width);
  return widths;
}

std::string times(double factor) { return fixed(factor, 2) + "x"; }
std::string at_width(int64_t width) { return join(" (D = ", width, ")"); }

MixerLine at_least(const std::string& what, double got, double aim) {
  return {what, times(got), "at least " + times(aim), true, got >= aim};
}
MixerLine at_most(const std::string& what, double got, double aim) {
  return {what, times(got), "at most " + times(aim), true, got <= aim};
}
MixerLine unknown(const std::string& what, const std::string& aim) { return {what, "not measured", aim, false, false}; }

void against_naive(std::vector<MixerLine>& lines, const MixerCurve& linear, const MixerCurve& naive) {
  for (const auto& [T, aim] : {std::pair<int64_t, double>{256, 1.56}, {512, 3.52}, {1024, 6.55}}) {
    const std::string what = join("linear attention against naive, prefill of ", T, at_width(linear.size.width));
    const double a = linear.prefill(T), b = naive.prefill(T);
    lines.push_back(a > 0 && b > 0 ? at_least(what, b / a, aim) : unknown(what, "at least " + times(aim)));
  }
}

// The limit: both at the same share of peak do their arithmetic in a ratio of T/(2D).
void against_tiled(std::vector<MixerLine>& lines, const MixerCurve& linear, const MixerCurve& tiled) {
  const int64_t D = linear.size.width;
  double least = std::numeric_limits<double>::infinity();
  int64_t where = 0, last = 0;
  for (const MixerPoint& p : linear.points) {
    if (p.tokens < 4096 || p.prefill == 0 || tiled.prefill(p.tokens) == 0) continue;
    const double share = tiled.prefill(p.tokens) / p.prefill / (double(p.tokens) / double(2 * D));
    if (share < least) least = share, where = p.tokens;
    last = p.tokens;
  }
  const std::string what = join("linear attention against tiled, share of T/(2D) from T = 4096 on", at_width(D));
  if (!where) return lines.push_back(unknown(what, "at least 80%"));
  lines.push_back({what, join(fixed(100 * least, 0), "% at ", where, ", the least up to ", last), "at least 80%", true, least >= 0.8});
}

// Both ends of a long text.
void log_linear(std::vector<MixerLine>& lines, const MixerCurve& curve) {
  constexpr int64_t from = 4096, to = 65536, decode_from = 1024;
  const double most = double(to) * std::log2(double(to)) / (double(from) * std::log2(double(from))), most_slope = std::log2(most) / 4;
  std::string what = join(curve.mixer, ", slope of prefill from ", from, " to ", to, at_width(curve.size.width));
  const std::string aim = join("at most ", fixed(most_slope, 3), " (T log T)");
  if (curve.prefill(from) > 0 && curve.prefill(to) > 0) {
    const double slope = std::log2(curve.prefill(to) / curve.prefill(from)) / 4;
    lines.push_back({what, fixed(slope, 3), aim, true, slope <= most_slope});
  } else {
    lines.push_back(unknown(what, aim));
  }
  what = join(curve.mixer, ", decoding at ", to, " against ", decode_from, at_width(curve.size.width));
  const double a = curve.decode(decode_from), b = curve.decode(to);
  lines.push_back(a > 0 && b > 0 ? at_most(what, b / a, 3) : unknown(what, "at most 3.00x"));
}

// Flat but for page tables, and for attention's slots, whose limit lies beyond 1024 tokens; with levels, no steeper than their number.
void flat_memory(std::vector<MixerLine>& lines, const MixerCurve& curve, bool levels) {
  const MixerPoint *first = nullptr, *last = nullptr;
  std::string measured;
  for (int64_t T : {int64_t(1024), int64_t(16384), int64_t(65536)}) {
    const MixerPoint* p = curve.at(T);
    if (!p || p->memory.beside == 0) continue;
    measured += join(measured.empty() ? "" : ", ", human_bytes(double(p->memory.beside)), " at ", T);
    if (!first) first = p;
    last = p;
  }
  if (first == last) return;
  const double growth = double(last->memory.beside) / double(first->memory.beside);
  const double most = levels ? std::log2(double(last->tokens)) / std::log2(double(first->tokens)) * 1.5 : 1.2;
  lines.push_back({join(curve.mixer, ", memory beside the rows", at_width(curve.size.width)), measured,
                   levels ? "grows as log T" : "flat within 20%", true, growth <= most});
}

std::vector<float> floats(const Array& a) { return {a.numbers.begin(), a.numbers.end()}; }

// (B, H, T, D) or (B, H, T) of sequence b as [T, H, D] or [T, H]; `unit`: rows of length 1.
Tensor tokens_of(DeviceTensors& memory, const Array& a, int64_t b, bool unit) {
  const int64_t H = a.dims[1], T = a.dims[2], D = a.dims.size() > 3 ? a.dims[3] : 1;
  std::vector<float> rows(size_t(T * H * D));
  for (int64_t h = 0; h < H; ++h)
    for (int64_t t = 0; t < T; ++t) {
      const double* from = a.numbers.data() + ((b * H + h) * T + t) * D;
      double square = 1e-6;
      for (int64_t d = 0; d < D; ++d) square += from[d] * from[d];
      for (int64_t d = 0; d < D; ++d) rows[size_t((t * H + h) * D + d)] = float(unit ? from[d] / std::sqrt(square) : from[d]);
    }
  return memory.floats(a.dims.size() > 3 ? Shape({T, H, D}) : Shape({T, H}), rows);
}

// Mean rounds a token for a residual of 1e-4, sequence after sequence from nothing.
double golden_rounds(const std::string& path, Device& device) {
  const Npz file(path);
  const Array q = file.read("in.q"), v = file.read("in.v");
  check(q.dims.size() == 4 && v.dims.size() == 4, path, ": 'in.q' is ", q.text(), ", expected (B, H, T, D)");
  const int64_t H = q.dims[1], T = q.dims[2], K = q.dims[3], V = v.dims[3], pages = (T + page_tokens - 1) / page_tokens;
  std::vector<int32_t> ids, pos;
  for (int32_t p = 0; p < pages; ++p) ids.push_back(p);
  for (int32_t t = 0; t < T; ++t) pos.push_back(t);
  double all = 0, solved = 0;
  for (int64_t b = 0; b < q.dims[0]; ++b) {
    DeviceTensors memory(device);
    auto zeros = [&](const Shape& shape) { return memory.floats(shape, std::vector<float>(size_t(shape.count()))); };
    auto rows = [&](const char* name, bool unit = false) { return tokens_of(memory, file.read(name), b, unit); };
    auto graph = std::make_unique<Graph>();
    const Tensor table = memory.ints({1, pages}, ids);
    const Mesa mesa = graph->record(Mesa{
        .q = rows("in.q", true), .k = rows("in.k", true), .v = rows("in.v"), .g = rows("in.g"), .beta = rows("in.beta"),
        .lambda = memory.floats({H, K}, floats(file.read("in.lam"))), .page = table, .slab = table,
        .seq = memory.ints({T}, std::vector<int32_t>(size_t(T))), .pos = memory.ints({T}, pos),
        .rows_k = zeros({pages, page_tokens, H, K}), .rows_v = zeros({pages, page_tokens, H, V}),
        .rows_g = zeros({pages, page_tokens, H, 1}), .rows_beta = zeros({pages, page_tokens, H, 1}), .Hkk = zeros({pages, H, K, K}),
        .Hkv = zeros({pages, H, K, V}), .tolerance = 1e-4f});
    graph->output("rounds", mesa.iterations);
    const std::unique_ptr<Program> program = device.compile(std::move(graph));
    program->run();
    const Tensor rounds = program->output("rounds");
    for (int64_t i = 0; i < rounds.count(); ++i) all += rounds.at<int32_t>()[i];
    solved += double(rounds.count());
  }
  return all / solved;
}

}  // namespace

std::vector<Crossing> crossings(const std::vector<MixerCurve>& curves) {
  std::vector<Crossing> all;
  for (const MixerCurve& c : curves) {
    const MixerCurve* tiled = find(curves, "attention tiled", c.size.width);
    if (!tiled || tiled == &c) continue;
    Crossing crossing{c.mixer, c.size.width};
    for (const MixerPoint& p : c.points) {
      const MixerPoint* other = tiled->at(p.tokens);
      if (!other) continue;
      if (!crossing.prefill && p.prefill > 0 && other->prefill > p.prefill) crossing.prefill = p.tokens;
      if (!crossing.decode && p.decode > 0 && other->decode > p.decode) crossing.decode = p.tokens;
    }
    all.push_back(crossing);
  }
  return all;
}

std::vector<MixerLine> curve_lines(const std::vector<MixerCurve>& curves) {
  std::vector<MixerLine> lines;
  for (int64_t D : widths_of(curves)) {
    auto curve = [&](const char* mixer) { return find(curves, mixer, D); };
    const MixerCurve *linear = curve("linear"), *naive = curve("attention naive"), *tiled = curve("attention tiled");
    if (linear && naive) against_naive(lines, *linear, *naive);
    if (linear && tiled) against_tiled(lines, *linear, *tiled);
    for (const char* mixer : {"log-linear mamba2", "log-linear gated delta"})
      if (curve(mixer)) log_linear(lines, *curve(mixer));
    if (const MixerCurve* mesa = curve("mesa")) {
      lines.push_back({"mesa, rounds of the solver a token, tolerance 1e-4" + at_width(D), fixed(mesa->rounds, 1), "at most 12", true,
                       mesa->rounds <= 12});
      const MixerCurve* delta = curve("gated delta");
      const MixerPoint& last = mesa->points.back();
      if (delta && last.decode > 0 && delta->decode(last.tokens) > 0)
        lines.push_back(at_most(join("mesa, decoding at ", last.tokens, " against gated delta", at_width(D)),
                                last.decode / delta->decode(last.tokens), 4));
    }
    for (const char* mixer : {"attention tiled", "linear", "gated delta", "kda", "mesa"})
      if (curve(mixer)) flat_memory(lines, *curve(mixer), false);
    for (const char* mixer : {"log-linear mamba2", "log-linear gated delta"})
      if (curve(mixer)) flat_memory(lines, *curve(mixer), true);
  }
  return lines;
}

namespace {

// Gated delta's decoding beside the plain step, and drafts, on `layers` layers one behind the other.
void add_steps(std::vector<MixerLine>& lines, const MixerSize& size, Device& device, int threads, int layers, int repeats) {
  const MixerKind& delta = mixer_kind("gated delta");
  double plain = std::numeric_limits<double>::infinity();
  {
    std::vector<std::unique_ptr<PlainDelta>> steps;
    ThreadPool pool(threads);
    for (int i = 0; i < layers; ++i) steps.push_back(std::make_unique<PlainDelta>(size, pool));
    for (int r = 0; r <= repeats; ++r) {
      double seconds = 0;
      for (int64_t i = 0; i < page_tokens; ++i)
        for (const auto& step : steps) seconds += step->run();
      if (r > 0) plain = std::min(plain, seconds / double(page_tokens) / layers);
    }
  }
  const double one = measure_step(delta, size, device, page_tokens, 1, repeats, layers);
  const double eight = measure_step(delta, size, device, page_tokens, 8, repeats, layers);
  const std::string where = join(" (", size.heads, " heads of ", size.width, layers > 1 ? ", states from memory)" : ", in the cache)");
  lines.push_back({"gated delta, decoding against a plain recurrent step" + where,
                   join(fixed(one * 1e6, 1), " us, plain ", fixed(plain * 1e6, 1), " us"), "no slower", true, one <= plain});
  lines.push_back(at_most("gated delta, 8 drafted tokens against one" + where, eight / one, 2));
}

}  // namespace

std::vector<MixerLine> step_lines(const MixerSize& size, Device& device, int threads, int repeats) {
  std::vector<MixerLine> lines;
  add_steps(lines, size, device, threads, 1, 3 * repeats);
  // As many layers as make 128 MB of state: what a model's step finds in no cache.
  const double state = 4.0 * double(size.heads * size.width * size.width);
  add_steps(lines, size, device, threads, int(std::clamp(std::ceil(128e6 / state), 2.0, 512.0)), repeats);
  return lines;
}

MixerLine wide_prefill_line(Device& device, int repeats) {
  const double wide = measure_step(mixer_kind("gated delta"), {.heads = 32, .width = 128}, device, 0, 512, 5 * repeats);
  return {"gated delta, prefill of 512 tokens, 32 heads of 128", fixed(wide * 1e3, 1) + " ms", "at most 8 ms", true, wide <= 8e-3};
}

std::vector<MixerLine> golden_lines(const std::string& folder, Device& device) {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("mesanet") && name.ends_with(".npz")) paths.push_back(entry.path().string());
  }
  check(!paths.empty(), "bench: --golden: there is no mesanet*.npz in '", folder, "'");
  std::sort(paths.begin(), paths.end());
  double worst = 0;
  std::string measured;
  for (const std::string& path : paths) {
    const double rounds = golden_rounds(path, device);
    worst = std::max(worst, rounds);
    measured += join(measured.empty() ? "" : ", ", std::filesystem::path(path).stem().string(), " ", fixed(rounds, 1));
  }
  return {{"mesa, mean rounds of the solver on golden numbers, tolerance 1e-4", measured, "at most 12", true, worst <= 12}};
}

}  // namespace folio
