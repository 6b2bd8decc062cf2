// SPDX-License-Identifier: MIT
// inspect: what is in a weight file, for people or as JSON; checks its hashes and numbers; statistics of one tensor. It reads and never writes.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "files/weights.h"
#include "tools/lib/main.h"

namespace folio {
namespace {

using Json = nlohmann::ordered_json;

// A path need not be UTF-8, all else here is.
void print_json(const Json& json) { std::printf("%s\n", json.dump(2, ' ', false, Json::error_handler_t::replace).c_str()); }

constexpr size_t most_items = 12;     // of a list that is printed
constexpr size_t most_letters = 72;   // of a text that is printed
constexpr int64_t most_values = 8;    // of a tensor that are printed

std::string number(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", x);
  return text;
}

std::string shown(int64_t n) { return std::to_string(n); }
std::string shown(double x) { return number(x); }
std::string shown(const std::string& text) {
  const std::string cut = one_line(text, most_letters);
  const bool whole = cut == one_line(text);
  return '"' + cut + '"' + (whole ? "" : " (" + with_commas(int64_t(text.size())) + " bytes)");
}
template <class T> std::string shown(const std::vector<T>& list) {
  std::string out = "[";
  for (size_t i = 0; i < list.size() && i < most_items; ++i) out += (i ? ", " : "") + shown(list[i]);
  if (list.size() <= most_items) return out + "]";
  return out + ", ...] (" + with_commas(int64_t(list.size())) + " entries)";
}

struct Total {
  int64_t tensors = 0, elements = 0, bytes = 0;
};

// Per format, in the order in which the formats are listed.
std::map<DType, Total> totals(const Weights& w) {
  std::map<DType, Total> sums;
  for (const WeightEntry& e : w.tensors()) {
    Total& sum = sums[e.tensor.type];
    ++sum.tensors, sum.elements += e.tensor.count(), sum.bytes += e.tensor.bytes();
  }
  return sums;
}

void print_file(const Weights& w) {
  std::printf("%s: .folio version %u, %s (%s bytes), index of %s bytes with hash %s\n", w.path().c_str(), Weights::version,
              human_bytes(double(w.file_bytes())).c_str(), with_commas(w.file_bytes()).c_str(),
              with_commas(w.index_bytes()).c_str(), hex64(w.index_hash()).c_str());
  std::vector<std::vector<std::string>> rows;
  for (const auto& [key, value] : w.metadata()) rows.push_back({key, std::visit([](const auto& v) { return shown(v); }, value)});
  std::printf("\nmetadata (%zu)\n%s", w.metadata().size(), table(rows, {}, "  ").c_str());

  rows = {{"name", "format", "shape", "bytes", "offset", "hash"}};
  for (const WeightEntry& e : w.tensors())
    rows.push_back({e.name, format(e.tensor.type).name, e.tensor.shape.text(), with_commas(e.tensor.bytes()),
                    with_commas(int64_t(e.offset)), hex64(e.hash)});
  std::printf("\ntensors (%zu)\n%s", w.tensors().size(), table(rows, {3, 4}, "  ").c_str());

  rows = {{"format", "tensors", "elements", "bytes", ""}};
  Total all;
  auto row = [](const char* name, const Total& t) -> std::vector<std::string> {
    return {name, with_commas(t.tensors), with_commas(t.elements), with_commas(t.bytes), human_bytes(double(t.bytes))};
  };
  for (const auto& [type, sum] : totals(w)) {
    rows.push_back(row(format(type).name, sum));
    all.tensors += sum.tensors, all.elements += sum.elements, all.bytes += sum.bytes;
  }
  rows.push_back(row("all", all));
  std::printf("\ntotals\n%s", table(rows, {1, 2, 3, 4}, "  ").c_str());
}

Json file_json(const Weights& w) {
  Json out = {{"file", w.path()},
              {"version", Weights::version},
              {"bytes", w.file_bytes()},
              {"index_bytes", w.index_bytes()},
              {"index_hash", hex64(w.index_hash())},
              {"metadata", Json::object()},
              {"tensors", Json::array()},
              {"totals", Json::object()}};
  for (const auto& [key, value] : w.metadata()) std::visit([&to = out["metadata"][key]](const auto& v) { to = v; }, value);
  for (const WeightEntry& e : w.tensors()) {
    const Shape& shape = e.tensor.shape;
    out["tensors"].push_back({{"name", e.name}, {"format", format(e.tensor.type).name},
                              {"shape", std::vector<int64_t>(shape.dim, shape.dim + shape.rank)}, {"bytes", e.tensor.bytes()},
                              {"offset", e.offset}, {"hash", hex64(e.hash)}});
  }
  for (const auto& [type, sum] : totals(w))
    out["totals"][format(type).name] = {{"tensors", sum.tensors}, {"elements", sum.elements}, {"bytes", sum.bytes}};
  return out;
}

int verify(const Weights& w, bool json) {
  const auto start = std::chrono::steady_clock::now();
  const std::vector<std::string> bad = w.verify(), broken = w.not_finite();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const bool ok = bad.empty() && broken.empty();
  if (json) {
    print_json({{"file", w.path()}, {"tensors", w.tensors().size()}, {"ok", ok}, {"bad", bad}, {"not_finite", broken}});
    return ok ? 0 : 1;
  }
  for (const std::string& name : bad) std::printf("BAD  %s\n", name.c_str());
  for (const std::string& what : broken) std::printf("BAD  %s\n", what.c_str());
  check(bad.empty(), w.path(), ": ", bad.size(), bad.size() == 1 ? " part does" : " parts do",
        " not agree with the index; copy or download the file again");
  check(broken.empty(), w.path(), ": ", broken.size(), broken.size() == 1 ? " tensor holds" : " tensors hold",
        " what is no number; the checkpoint that the file was made of is broken");
  const double bytes = double(w.file_bytes());
  std::printf("OK   %s: the index and all %zu tensors agree with their hashes, every weight is finite (%s in %.2f s, %s/s)\n",
              w.path().c_str(), w.tensors().size(), human_bytes(bytes).c_str(), seconds, human_bytes(bytes / seconds).c_str());
  return 0;
}

struct Statistics {
  int64_t nan = 0, infinite = 0, zero = 0, finite = 0;
  double min = 0, max = 0, mean = 0, deviation = 0;  // of the finite values
  std::vector<double> first;
};

// Calls use(value) for every element, in order.
template <class Use> void for_each_value(const Tensor& t, Use use) {
  constexpr int64_t chunk = 4096;
  const Format& f = format(t.type);
  std::vector<float> floats(chunk);
  for (int64_t i = 0; i < t.count(); i += chunk) {
    const int64_t n = std::min(chunk, t.count() - i);
    const std::byte* from = t.data + bytes_of(t.type, i);
    if (f.to_float) f.to_float(from, floats.data(), n);
    for (int64_t k = 0; k < n; ++k)
      use(f.to_float ? double(floats[size_t(k)]) : t.type == I32 ? double(t.at<int32_t>()[i + k]) : double(t.at<uint8_t>()[i + k]));
  }
}

// The mean first and the squares about it second: one pass over both loses the deviation of values far from zero.
Statistics statistics(const Tensor& t) {
  Statistics s;
  s.min = std::numeric_limits<double>::infinity(), s.max = -s.min;
  double sum = 0, squares = 0;
  for_each_value(t, [&](double x) {
    if (s.first.size() < size_t(most_values)) s.first.push_back(x);
    s.nan += std::isnan(x), s.infinite += std::isinf(x), s.zero += x == 0;
    if (!std::isfinite(x)) return;
    ++s.finite, sum += x;
    s.min = std::min(s.min, x), s.max = std::max(s.max, x);
  });
  if (s.finite == 0) {
    s.min = s.max = 0;
    return s;
  }
  s.mean = sum / double(s.finite);
  for_each_value(t, [&](double x) { squares += std::isfinite(x) ? (x - s.mean) * (x - s.mean) : 0; });
  s.deviation = std::sqrt(squares / double(s.finite));
  return s;
}

void print_tensor(const Weights& w, const std::string& name, bool json) {
  const Tensor t = w.require(name);
  const Statistics s = statistics(t);
  if (json) {
    // NaN and infinities are null: JSON has no word for them.
    const Json out = {{"name", name},
                      {"format", format(t.type).name},
                      {"shape", std::vector<int64_t>(t.shape.dim, t.shape.dim + t.rank())},
                      {"elements", t.count()},
                      {"finite", s.finite},
                      {"min", s.min},
                      {"max", s.max},
                      {"mean", s.mean},
                      {"std", s.deviation},
                      {"nan", s.nan},
                      {"inf", s.infinite},
                      {"zero", s.zero},
                      {"first", s.first}};
    print_json(out);
    return;
  }
  std::printf("%s: %s %s, %s elements, %s\n", name.c_str(), format(t.type).name, t.shape.text().c_str(),
              with_commas(t.count()).c_str(), human_bytes(double(t.bytes())).c_str());
  std::vector<std::vector<std::string>> rows;
  if (s.finite) rows = {{"min", number(s.min)}, {"max", number(s.max)}, {"mean", number(s.mean)}, {"std", number(s.deviation)}};
  for (const auto& [what, n] : {std::pair{"zero", s.zero}, {"NaN", s.nan}, {"inf", s.infinite}})
    rows.push_back({what, with_commas(n)});
  std::string first;
  for (const double x : s.first) first += (first.empty() ? "" : " ") + number(x);
  rows.push_back({"first", first});
  std::printf("%s", table(rows, {}, "  ").c_str());
}

}  // namespace
}  // namespace folio

int main(int argc, char** argv) {
  using namespace folio;
  CLI::App app("Prints what is in a .folio weight file: metadata, tensors, totals.", "inspect");
  std::string file, tensor;
  bool check_hashes = false, json = false;
  app.add_option("FILE", file, "the weight file")->required();
  auto* verify_flag = app.add_flag(
      "--verify", check_hashes, "check hash and numbers of every tensor instead; exit code 1 if one differs or holds NaN or infinity");
  app.add_option("--tensor", tensor, "statistics of this tensor instead: min, max, mean, std, NaNs, first values")
      ->type_name("NAME")->excludes(verify_flag);
  app.add_flag("--json", json, "print one JSON object");
  app.footer("Examples:\n"
             "  inspect model.folio\n"
             "  inspect --verify model.folio\n"
             "  inspect --tensor layer.0.mix.qkv.weight model.folio\n"
             "  inspect --json model.folio | jq .metadata.dim");
  return run_tool(argc, argv, app, [&] {
    const Weights weights(file);
    if (check_hashes) return verify(weights, json);
    if (!tensor.empty())
      print_tensor(weights, tensor, json);
    else if (json)
      print_json(file_json(weights));
    else
      print_file(weights);
    return 0;
  });
}
