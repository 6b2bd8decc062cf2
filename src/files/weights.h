// SPDX-License-Identifier: MIT
// Folio's weight file, read through a map. This comment is the one description of the format; tools/convert.py writes it.
//
//   head, 64 bytes, all numbers little endian
//      0  char[8]  "FOLIO\r\n\x1a"       catches a transfer in text mode, as PNG's does
//      8  u32      version               1
//     12  u32      zero
//     16  u64      index bytes           the index follows the head at once
//     24  u64      file bytes            the whole file
//     32  u64      XXH3-64 of the index
//     40  24 zero bytes
//   index
//     u32 count of metadata, each entry:
//        u16 key length, key (UTF-8 without control characters, not empty, no two alike) · u8 type · value
//        type 0 integer  i64            3 integers  u32 count, i64 each
//             1 real     f64, finite    4 reals     u32 count, f64 each, finite
//             2 text     u32 length,    5 texts     u32 count, (u32 length, UTF-8) each
//                        UTF-8
//     u32 count of tensors, each entry:
//        u16 name length, name (as a key) · u8 format length, format ("f32", "f16", "bf16", "q8_0", "q4_0", "f8_e4m3", "i32", "u8")
//        u8 rank (1 to 4) · u64 shape[rank], outermost first · u64 offset from the file's start · u64 bytes · u64 XXH3-64 of data
//     nothing after the last tensor
//   data: in the order of the index, each tensor at the first multiple of 256 after what stands before it; the gaps are zero.
//     No tensor is empty. The file ends with the last byte of the last tensor (of the index, if there is none).
//
// Quantised formats are blocks of 32 or 64 along the last dimension, row after row (graph/dtype.h).
// Loading reads the index as if an enemy had written it: every count, size and offset is checked before it is used, and nothing
// is allocated that the file's length does not justify. The data's hashes are checked by verify() only, its numbers by not_finite().
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "graph/tensor.h"

namespace folio {

using MetaValue = std::variant<int64_t, double, std::string, std::vector<int64_t>, std::vector<double>, std::vector<std::string>>;

using Metadata = std::map<std::string, MetaValue, std::less<>>;

struct WeightEntry {
  std::string name;
  Tensor tensor;       // type, shape; data points into the map, read only
  uint64_t offset = 0; // from the file's start
  uint64_t hash = 0;   // XXH3-64 of the data
};

class Weights {
 public:
  // Maps the file and checks all but the data's hashes. Throws Error "weights: FILE: ..." on anything wrong. The map lives as long
  // as the longest-lived copy of this object.
  explicit Weights(const std::string& path);
  // The same of a file's bytes, which are copied: for fuzzing and for tests. `name` is what the errors call the file.
  Weights(std::string name, std::span<const std::byte> file);
  // Weights that never were a file (bench, tests): their tensors lie in `memory`, which is kept alive. Hashes are not looked at.
  Weights(std::string name, Metadata metadata, std::vector<WeightEntry> tensors, std::shared_ptr<const std::byte> memory);

  // The tensor of that name. Throws if it is absent or if its shape is not `want`, naming both shapes.
  Tensor get(std::string_view name, const Shape& want) const;
  Tensor find(std::string_view name) const;  // rank 0 if absent
  Tensor require(std::string_view name) const;  // any shape; throws if absent

  // Metadata. The forms without a default throw, naming the key, if it is absent; all throw if it is of another type. An integer
  // passes for a real, integers pass for reals, and no integers for no texts (a writer cannot tell empty lists apart).
  bool has(std::string_view key) const;
  int64_t integer(std::string_view key) const;
  int64_t integer(std::string_view key, int64_t absent) const;
  double real(std::string_view key) const;
  double real(std::string_view key, double absent) const;
  std::string text(std::string_view key) const;
  std::string text(std::string_view key, std::string_view absent) const;
  std::vector<int64_t> integers(std::string_view key) const;
  std::vector<double> reals(std::string_view key) const;
  std::vector<std::string> texts(std::string_view key) const;  // empty if absent

  // Hashes every tensor's data, on all cores; returns the names of those that differ from the index, and "gap before NAME" where
  // the padding is not zero. Empty: the file is as it was written, to the last bit.
  std::vector<std::string> verify() const;
  // Looks at every number of every float format, on all cores; returns "NAME holds NaN at [3,5]" (or "infinity", where the first stands)
  // for each tensor that has such. A checkpoint whose training broke down may have them: every layer behind them puts out NaN.
  std::vector<std::string> not_finite() const;

  const std::string& path() const { return path_; }
  int64_t file_bytes() const { return int64_t(bytes_); }
  int64_t index_bytes() const { return int64_t(index_bytes_); }
  uint64_t index_hash() const { return index_hash_; }
  static constexpr uint32_t version = 1;  // of the format
  const Metadata& metadata() const { return metadata_; }
  const std::vector<WeightEntry>& tensors() const { return tensors_; }

 private:
  void read();
  std::string_view read_head();  // the index
  const WeightEntry* entry(std::string_view name) const;
  template <class F> void each_tensor(F fn) const;
  template <class T> const T& need(std::string_view key) const;
  const std::vector<int64_t>* integers_instead(std::string_view key) const;
  template <class... Parts> [[noreturn]] void bad(const Parts&... parts) const;

  std::string path_;
  std::shared_ptr<const std::byte> file_;  // the map, the copy, or the memory
  size_t bytes_ = 0, index_bytes_ = 0;     // 0: there is no file
  uint64_t index_hash_ = 0;
  Metadata metadata_;
  std::vector<WeightEntry> tensors_;                   // in file order
  std::map<std::string, size_t, std::less<>> by_name_;
};

}  // namespace folio
