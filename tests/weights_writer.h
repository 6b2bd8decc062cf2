// SPDX-License-Identifier: MIT
// Writes .folio files for tests. WeightsWriter w; w.meta("dim", 8).tensor("a", {2, 8}, floats, Q8_0); w.save(path);
// Every field of the index can be overruled before bytes() lays it out, so that a test can lie in exactly one place.
// The product's own writer is tools/convert.py; a test there reads this format's other end.
#pragma once
#include <concepts>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "files/weights.h"

namespace folio {

template <class T> void put(std::string& to, T number) { to.append(reinterpret_cast<const char*>(&number), sizeof number); }
template <class T> void put_at(std::string& to, size_t at, T number) { std::memcpy(to.data() + at, &number, sizeof number); }
template <class T> T number_at(const std::string& from, size_t at) {
  T number;
  std::memcpy(&number, from.data() + at, sizeof number);
  return number;
}

// Makes the head agree with what follows it: the file's length, and the hash of the index if that lies inside the file.
inline void repair_head(std::string& file) {
  if (file.size() < 64) return;
  put_at<uint64_t>(file, 24, file.size());
  const uint64_t index = number_at<uint64_t>(file, 16);
  if (index <= file.size() - 64) put_at<uint64_t>(file, 32, hash64(file.data() + 64, index));
}

inline std::span<const std::byte> as_bytes(const std::string& s) { return std::as_bytes(std::span(s.data(), s.size())); }

class WeightsWriter {
 public:
  struct Meta {
    std::string key;
    uint8_t type;
    std::string value;  // as in the file
  };
  struct Entry {
    std::string name, format;
    std::vector<uint64_t> shape;
    std::string data;
    std::optional<uint64_t> offset = {}, bytes = {}, hash = {};  // what the index says, if not the truth
  };
  std::vector<Meta> metadata;
  std::vector<Entry> tensors;
  std::optional<uint32_t> metadata_count, tensor_count;  // likewise
  std::string after_index;                               // put between the last tensor's entry and the index's end

  WeightsWriter& meta(const std::string& key, const MetaValue& value) {
    metadata.push_back({key, uint8_t(value.index()), std::visit([](const auto& v) { return encode(v); }, value)});
    return *this;
  }
  template <std::integral T> WeightsWriter& meta(const std::string& key, T value) { return meta(key, MetaValue(int64_t(value))); }
  WeightsWriter& meta(const std::string& key, double value) { return meta(key, MetaValue(value)); }
  WeightsWriter& meta(const std::string& key, const char* value) { return meta(key, MetaValue(std::string(value))); }

  WeightsWriter& raw(const std::string& name, const std::string& format, std::vector<uint64_t> shape, std::string data) {
    tensors.push_back({name, format, std::move(shape), std::move(data)});
    return *this;
  }
  WeightsWriter& tensor(const std::string& name, DType type, const Shape& shape, const void* data) {
    return raw(name, format(type).name, {shape.dim, shape.dim + shape.rank},
               {static_cast<const char*>(data), size_t(bytes_of(type, shape.count()))});
  }
  // Floats, converted to `type`.
  WeightsWriter& tensor(const std::string& name, const Shape& shape, const std::vector<float>& values, DType type = F32) {
    check(int64_t(values.size()) == shape.count(), name, ": ", values.size(), " values for ", shape.text());
    std::string data(size_t(bytes_of(type, shape.count())), '\0');
    format(type).from_float(values.data(), data.data(), shape.count());
    return tensor(name, type, shape, data.data());
  }
  WeightsWriter& integers(const std::string& name, const Shape& shape, const std::vector<int32_t>& values) {
    check(int64_t(values.size()) == shape.count(), name, ": ", values.size(), " values for ", shape.text());
    return tensor(name, I32, shape, values.data());
  }
  WeightsWriter& bytes(const std::string& name, const Shape& shape, std::string_view values) {
    check(int64_t(values.size()) == shape.count(), name, ": ", values.size(), " values for ", shape.text());
    return tensor(name, U8, shape, values.data());
  }

  Entry& entry(const std::string& name) {
    for (Entry& e : tensors)
      if (e.name == name) return e;
    fail("no entry ", name);
  }

  // The whole file.
  std::string bytes() const {
    const size_t index_bytes = index(0).size();
    const std::string index = this->index(64 + index_bytes);
    std::string file = "FOLIO\r\n\x1a";
    put<uint32_t>(file, 1);
    put<uint32_t>(file, 0);
    put<uint64_t>(file, index_bytes);
    file.append(64 - file.size(), '\0');
    file += index;
    for (const Entry& e : tensors) {
      file.append(aligned(file.size()) - file.size(), '\0');
      file += e.data;
    }
    repair_head(file);
    return file;
  }
  void save(const std::string& path) const {
    FileWriter out(path);
    out.write(bytes());
    out.commit();
  }

 private:
  static size_t aligned(size_t n) { return (n + 255) / 256 * 256; }
  static std::string encode(int64_t n) { return {reinterpret_cast<const char*>(&n), 8}; }
  static std::string encode(double x) { return {reinterpret_cast<const char*>(&x), 8}; }
  static std::string encode(const std::string& text) {
    std::string out;
    put<uint32_t>(out, uint32_t(text.size()));
    return out + text;
  }
  template <class T> static std::string encode(const std::vector<T>& list) {
    std::string out;
    put<uint32_t>(out, uint32_t(list.size()));
    for (const T& item : list) out += encode(item);
    return out;
  }

  std::string index(size_t data_from) const {
    std::string out;
    put<uint32_t>(out, metadata_count.value_or(uint32_t(metadata.size())));
    for (const Meta& m : metadata) {
      put<uint16_t>(out, uint16_t(m.key.size()));
      out += m.key;
      put<uint8_t>(out, m.type);
      out += m.value;
    }
    put<uint32_t>(out, tensor_count.value_or(uint32_t(tensors.size())));
    size_t end = data_from;
    for (const Entry& e : tensors) {
      put<uint16_t>(out, uint16_t(e.name.size()));
      out += e.name;
      put<uint8_t>(out, uint8_t(e.format.size()));
      out += e.format;
      put<uint8_t>(out, uint8_t(e.shape.size()));
      for (uint64_t d : e.shape) put<uint64_t>(out, d);
      put<uint64_t>(out, e.offset.value_or(aligned(end)));
      put<uint64_t>(out, e.bytes.value_or(e.data.size()));
      put<uint64_t>(out, e.hash.value_or(hash64(e.data.data(), e.data.size())));
      end = aligned(end) + e.data.size();
    }
    return out + after_index;
  }
};

}  // namespace folio
