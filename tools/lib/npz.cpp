// SPDX-License-Identifier: MIT
#include "tools/lib/npz.h"

#include <charconv>
#include <cstring>

#include "base/error.h"
#include "base/file.h"

namespace folio {

namespace {

// Records of the zip format (APPNOTE 4.3): how long their fixed parts are, and how they begin.
constexpr size_t end_bytes = 22, entry_bytes = 46, local_bytes = 30;
constexpr std::string_view end_mark("PK\5\6", 4), entry_mark("PK\1\2", 4), local_mark("PK\3\4", 4), npy_mark("\x93NUMPY", 6);

uint32_t little(std::string_view s, size_t at, size_t bytes) {
  uint32_t n = 0;
  for (size_t i = 0; i < bytes; ++i) n |= uint32_t(uint8_t(s[at + i])) << 8 * i;
  return n;
}
bool begins(std::string_view s, size_t at, std::string_view mark, size_t bytes) {
  return at <= s.size() && s.size() - at >= bytes && s.substr(at, mark.size()) == mark;
}

// What stands behind 'key': in the dictionary that is the head of a .npy.
std::string_view value_of(std::string_view head, std::string_view key, const std::string& where) {
  const size_t at = head.find(join("'", key, "':"));
  check(at != std::string_view::npos, where, ": the array's head has no '", key, "'");
  std::string_view rest = head.substr(at + key.size() + 3);
  while (!rest.empty() && rest.front() == ' ') rest.remove_prefix(1);
  return rest;
}

// "(2, 64, 32)": the numbers, and their product, which must not pass `most`.
std::vector<int64_t> dims_of(std::string_view text, uint64_t most, uint64_t& count, const std::string& where) {
  const size_t end = text.find(')');
  check(!text.empty() && text.front() == '(' && end != std::string_view::npos, where, ": the array's shape cannot be read");
  std::vector<int64_t> dims;
  count = 1;
  bool empty = false;
  for (const char *p = text.data() + 1, *last = text.data() + end; p < last;) {
    if (*p == ' ' || *p == ',') {
      ++p;
      continue;
    }
    int64_t n = 0;
    const auto [behind, error] = std::from_chars(p, last, n);
    check(error == std::errc() && n >= 0 && dims.size() < 32, where, ": the array's shape cannot be read");
    check(n == 0 || count <= most / uint64_t(n), where, ": the array is larger than the file");
    empty |= n == 0;
    count *= uint64_t(n > 0 ? n : 1);
    dims.push_back(n);
    p = behind;
  }
  if (empty) count = 0;
  return dims;
}

template <class T> void convert(std::string_view data, std::vector<double>& to) {
  for (size_t i = 0; i < to.size(); ++i) {
    T x;
    std::memcpy(&x, data.data() + i * sizeof(T), sizeof(T));
    to[i] = double(x);
  }
}

Array parse(std::string_view npy, const std::string& where) {
  check(begins(npy, 0, npy_mark, 10) && (npy[6] == 1 || npy[6] == 2), where, ": not a .npy of version 1.0 or 2.0");
  const size_t length = npy[6] == 1 ? 2 : 4, begin = 8 + length;
  check(npy.size() >= begin && npy.size() - begin >= little(npy, 8, length), where, ": the array is cut off");
  const std::string_view head = npy.substr(begin, little(npy, 8, length)), data = npy.substr(begin + head.size());
  check(value_of(head, "fortran_order", where).substr(0, 5) == "False", where, ": the array is in Fortran order, which is not read here");
  const std::string_view type = value_of(head, "descr", where).substr(0, 5);
  const size_t bytes = type == "'<f4'" || type == "'<i4'" ? 4 : type == "'<f8'" || type == "'<i8'" ? 8 : type == "'|b1'" ? 1 : 0;
  check(bytes > 0, where, ": the array is of a type other than float32, float64, int32, int64 and bool");
  Array a;
  uint64_t count = 0;
  a.dims = dims_of(value_of(head, "shape", where), data.size() / bytes, count, where);
  check(count * bytes == data.size(), where, ": ", a.text(), " needs ", count * bytes, " bytes, there are ", data.size());
  a.numbers.resize(count);
  if (type == "'<f4'") convert<float>(data, a.numbers);
  else if (bytes == 4) convert<int32_t>(data, a.numbers);
  else if (bytes == 1) convert<uint8_t>(data, a.numbers);
  else if (type == "'<f8'") convert<double>(data, a.numbers);
  else convert<int64_t>(data, a.numbers);
  return a;
}

}  // namespace

std::string Array::text() const {
  std::string out = "(";
  for (size_t i = 0; i < dims.size(); ++i) out += (i ? ", " : "") + std::to_string(dims[i]);
  return out + (dims.size() == 1 ? ",)" : ")");
}

Array read_npy(const std::string& path) { return parse(read_file(path), path); }

std::string npy_head(const std::vector<int64_t>& dims) {
  std::string text = join("{'descr': '<f4', 'fortran_order': False, 'shape': ", Array{dims, {}}.text(), ", }");
  text.append(63 - (10 + text.size()) % 64, ' ') += '\n';   // the numbers begin at a multiple of 64
  return std::string(npy_mark) + '\1' + '\0' + char(text.size() % 256) + char(text.size() / 256) + text;
}

void write_npy(const std::string& path, const std::vector<int64_t>& dims, std::span<const float> numbers) {
  FileWriter file(path);
  file.write(npy_head(dims));
  file.write(numbers.data(), numbers.size_bytes());
  file.commit();
}

Npz::Npz(const std::string& path) : path_(path), file_(read_file(path)) {
  const std::string_view file = file_;
  // The end record is the last thing in the file but for a comment of up to 65535 bytes.
  size_t end = file.size() < end_bytes ? std::string_view::npos : file.rfind(end_mark, file.size() - end_bytes);
  check(end != std::string_view::npos && file.size() - end <= end_bytes + 65535, path, ": not a .npz file (no zip directory at its end)");
  const size_t entries = little(file, end + 10, 2);
  size_t at = little(file, end + 16, 4);
  for (size_t i = 0; i < entries; ++i) {
    check(at < end && begins(file.substr(0, end), at, entry_mark, entry_bytes), path, ": the zip directory is damaged");
    const size_t name_bytes = little(file, at + 28, 2), rest = name_bytes + little(file, at + 30, 2) + little(file, at + 32, 2);
    check(end - at - entry_bytes >= rest, path, ": the zip directory is damaged");
    std::string name(file.substr(at + entry_bytes, name_bytes));
    const size_t bytes = little(file, at + 24, 4), local = little(file, at + 42, 4);
    check(little(file, at + 10, 2) == 0 && little(file, at + 20, 4) == bytes, path, ": '", name,
          "' is compressed; numpy.savez stores plainly");
    check(begins(file, local, local_mark, local_bytes), path, ": '", name, "' lies outside the file");
    const size_t data = local + local_bytes + little(file, local + 26, 2) + little(file, local + 28, 2);
    check(data <= file.size() && file.size() - data >= bytes, path, ": '", name, "' lies outside the file");
    if (name.size() > 4 && name.ends_with(".npy")) name.resize(name.size() - 4);
    check(members_.emplace(name, Member{data, bytes}).second, path, ": there are two arrays '", name, "'");
    at += entry_bytes + rest;
  }
}

std::vector<std::string> Npz::names() const {
  std::vector<std::string> all;
  for (const auto& [name, member] : members_) all.push_back(name);
  return all;
}

Array Npz::read(const std::string& name) const {
  const auto found = members_.find(name);
  check(found != members_.end(), path_, ": there is no array '", name, "'");
  return parse(std::string_view(file_).substr(found->second.offset, found->second.bytes), join(path_, ": '", name, "'"));
}

}  // namespace folio
