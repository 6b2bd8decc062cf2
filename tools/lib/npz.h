// SPDX-License-Identifier: MIT
// Reads NumPy's .npz as numpy.savez writes it: a zip archive of stored (uncompressed) members NAME.npy of version 1.0 or 2.0, C order,
// little endian, float32, float64, int32, int64 or bool; and such a member that is a file of its own. Made for reference numbers: all come
// as double, whole numbers exactly up to 2^53. Files are not trusted: every offset, size and count is checked before it is used.
#pragma once
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace folio {

struct Array {
  std::vector<int64_t> dims;      // outermost first; none for a scalar
  std::vector<double> numbers;    // C order
  std::string text() const;       // "(2, 64, 32)"
};

Array read_npy(const std::string& path);   // Throws Error if it is damaged or of another kind

// How a .npy of float32 in C order begins (version 1.0); the numbers follow.
std::string npy_head(const std::vector<int64_t>& dims);
void write_npy(const std::string& path, const std::vector<int64_t>& dims, std::span<const float> numbers);

class Npz {
 public:
  explicit Npz(const std::string& path);   // reads the list of members. Throws Error if the file is no such archive
  const std::string& path() const { return path_; }
  bool has(const std::string& name) const { return members_.count(name) > 0; }
  std::vector<std::string> names() const;
  Array read(const std::string& name) const;   // Throws Error if there is no such array, or if it is damaged or of another kind

 private:
  struct Member { size_t offset, bytes; };
  std::string path_, file_;
  std::map<std::string, Member> members_;   // without ".npy"
};

}  // namespace folio
