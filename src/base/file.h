// SPDX-License-Identifier: MIT
// Files of the world: a read-only map, the whole of a small file as text, and a writer that leaves no half file behind.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

namespace folio {

// A file mapped for reading, its pages shared with the system's cache. Throws Error if it cannot be opened or is empty.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  const std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  const std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

// The whole file ("-" is standard input). Throws Error if it cannot be read.
std::string read_file(const std::string& path);

// Writes to PATH.part and renames it to PATH in commit(); without commit() the part is removed. Throws Error on any failure,
// a full disk included.
class FileWriter {
 public:
  explicit FileWriter(std::string path);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;
  void write(const void* data, size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  void overwrite(int64_t offset, std::string_view bytes);   // what has been written already, at `offset` from the beginning
  const std::string& part() const { return part_; }         // what the file is called until then
  void commit();

 private:
  std::string path_, part_;
  std::FILE* file_ = nullptr;
};

}  // namespace folio
