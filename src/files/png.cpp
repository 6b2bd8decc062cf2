// SPDX-License-Identifier: MIT
#include "files/png.h"

#include <algorithm>
#include <array>

#include "base/error.h"

namespace folio {

// CRC-32 of ISO 3309 with the polynomial 0xEDB88320 (bits reversed), eight bits at a time.
static uint32_t crc(std::string_view bytes) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> t{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int bit = 0; bit < 8; ++bit) c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
      t[i] = c;
    }
    return t;
  }();
  uint32_t c = 0xFFFFFFFFu;
  for (char b : bytes) c = table[(c ^ uint8_t(b)) & 255] ^ (c >> 8);
  return ~c;
}

void put_big(std::string& to, uint32_t number, int bytes) {
  for (int i = bytes - 1; i >= 0; --i) to += char(number >> 8 * i & 255);
}

uint32_t big(std::string_view from, size_t at) {
  uint32_t n = 0;
  for (size_t i = 0; i < 4; ++i) n = n << 8 | uint8_t(from[at + i]);
  return n;
}

void put_chunk(std::string& to, std::string_view type, std::string_view data) {
  put_big(to, uint32_t(data.size()));
  const size_t from = to.size();
  to.append(type).append(data);
  put_big(to, crc(std::string_view(to).substr(from)));
}

void put_notes(std::string& to, const Notes& notes) {
  auto plain = [](char c) { return c >= ' ' && c <= '~'; };
  for (const auto& [name, text] : notes) {
    std::string key = name.substr(0, 79);
    for (char& c : key)
      if (!plain(c) || c == ' ') c = '_';
    if (std::all_of(text.begin(), text.end(), [&](char c) { return plain(c) || c == '\n'; })) put_chunk(to, "tEXt", key + '\0' + text);
    else put_chunk(to, "iTXt", key + std::string(5, '\0') + text);   // not compressed, no language, no translated key: UTF-8
  }
}

std::vector<PngChunk> png_chunks(std::string_view file, const std::string& name) {
  check(file.starts_with(png_signature), name, ": not a PNG file");
  std::vector<PngChunk> chunks;
  for (size_t at = png_signature.size();;) {
    const std::string_view rest = file.substr(at);
    check(rest.size() >= 12 && big(rest, 0) <= rest.size() - 12, name, ": the file is cut off after ", file.size(), " bytes");
    const size_t bytes = big(rest, 0);
    const PngChunk chunk{rest.substr(4, 4), rest.substr(8, bytes)};
    check(crc(rest.substr(4, 4 + bytes)) == big(rest, 8 + bytes), name, ": damaged: the checksum of the chunk at byte ", at, " is wrong");
    if (chunk.type == "IEND") return chunks;
    chunks.push_back(chunk);
    at += 12 + bytes;
  }
}

}  // namespace folio
