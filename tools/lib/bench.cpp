// SPDX-License-Identifier: MIT
#include "tools/lib/bench.h"

#include <algorithm>
#include <cstdio>
#include <iostream>

#include "tools/lib/random_model.h"

namespace folio {

static std::vector<DType> all_weight_formats() {
  std::vector<DType> all;
  for (int i = 0; i < kinds_of_dtype; ++i)
    if (format(DType(i)).from_float) all.push_back(DType(i));
  return all;
}

std::string weight_format_names() {
  std::string names;
  for (DType type : all_weight_formats()) names += join(names.empty() ? "" : ", ", format(type).name);
  return names;
}

std::vector<DType> weight_formats(const std::vector<std::string>& names) {
  std::vector<DType> wanted;
  for (const std::string& name : names) {
    DType type;
    check(parse_dtype(name, type) && format(type).from_float, "bench: no weight format '", name, "'; there are ", weight_format_names());
    wanted.push_back(type);
  }
  return names.empty() ? all_weight_formats() : wanted;
}

nlohmann::json limits_json(const Limits& l) {
  return {{"read_gbps", l.read_gbps}, {"copy_gbps", l.copy_gbps}, {"fp32_gflops", l.fp32_gflops}, {"f16_gflops", l.f16_gflops},
          {"bf16_gflops", l.bf16_gflops}, {"int8_gops", l.int8_gops}};
}

void print_cells(const std::vector<std::vector<std::string>>& rows, bool csv) {
  const auto line = [&](const std::vector<std::string>& cells) {
    std::string text = csv ? "" : "| ";
    for (size_t i = 0; i < cells.size(); ++i) text += (i == 0 ? "" : csv ? "," : " | ") + cells[i];
    std::cout << text << (csv ? "\n" : " |\n");
  };
  for (size_t i = 0; i < rows.size(); ++i) {
    line(rows[i]);
    if (i == 0 && !csv) line(std::vector<std::string>(rows[i].size(), "---"));
  }
}

std::string fixed(double value, int digits) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.*f", digits, value);
  return buffer;
}

DeviceTensors::~DeviceTensors() {
  for (const auto& [at, bytes] : blocks_) device_.free(at, bytes);
}

Tensor DeviceTensors::make(DType type, const Shape& shape) {
  const int64_t bytes = bytes_of(type, shape.count());
  blocks_.emplace_back(device_.alloc(bytes), bytes);
  return Tensor::of(type, shape, blocks_.back().first);
}

Tensor DeviceTensors::random(DType type, const Shape& shape) {
  const Tensor t = make(type, shape);
  std::vector<std::byte>& piece = pieces_[type];
  if (piece.empty()) piece = random_bytes(type);
  for (int64_t at = 0; at < t.bytes(); at += int64_t(piece.size()))
    device_.upload(t.data + at, piece.data(), std::min(t.bytes() - at, int64_t(piece.size())));
  return t;
}

Tensor DeviceTensors::floats(const Shape& shape, const std::vector<float>& numbers) {
  const Tensor t = make(F32, shape);
  device_.upload(t.data, numbers.data(), t.bytes());
  return t;
}

Tensor DeviceTensors::ints(const Shape& shape, const std::vector<int32_t>& numbers) {
  const Tensor t = make(I32, shape);
  device_.upload(t.data, numbers.data(), t.bytes());
  return t;
}

int64_t DeviceTensors::bytes() const {
  int64_t all = 0;
  for (const auto& [at, bytes] : blocks_) all += bytes;
  return all;
}

}  // namespace folio
