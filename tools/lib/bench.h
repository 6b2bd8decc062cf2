// SPDX-License-Identifier: MIT
// What the measurements of `bench` have in common: where they run, and the three forms in which their tables come.
#pragma once
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "graph/device.h"

namespace folio {

struct BenchFlags {
  std::string device = "cpu";
  std::vector<std::string> types;   // number formats of weights
  int threads = 0, repeats = 3;
  bool json = false, csv = false;
};

// The formats of those names; all of them if there is no name. Throws Error with the list for one that cannot be measured.
std::string weight_format_names();   // "f32, f16, ..."
std::vector<DType> weight_formats(const std::vector<std::string>& names);

nlohmann::json limits_json(const Limits& limits);

// Rows of cells, the first of them the head: a Markdown table, or lines of comma-separated cells.
void print_cells(const std::vector<std::vector<std::string>>& rows, bool csv);

std::string fixed(double value, int digits);

// Tensors in the memory of a device, given back at the end.
class DeviceTensors {
 public:
  explicit DeviceTensors(Device& device) : device_(device) {}
  ~DeviceTensors();
  DeviceTensors(const DeviceTensors&) = delete;
  DeviceTensors& operator=(const DeviceTensors&) = delete;
  Tensor random(DType type, const Shape& shape);   // numbers near zero (random_bytes)
  Tensor floats(const Shape& shape, const std::vector<float>& numbers);
  Tensor ints(const Shape& shape, const std::vector<int32_t>& numbers);
  int64_t bytes() const;                           // of all

 private:
  Tensor make(DType type, const Shape& shape);
  Device& device_;
  std::vector<std::pair<std::byte*, int64_t>> blocks_;
  std::map<DType, std::vector<std::byte>> pieces_;
};

}  // namespace folio
