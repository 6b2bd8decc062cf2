// SPDX-License-Identifier: MIT
// The chunks of a PNG file (PNG specification, third edition, section 5): length, four letters, data, CRC. What image.cpp reads and
// writes them with, and apng.cpp, whose frames are such chunks.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace folio {

// What is written down with a picture or a clip: {"seed", "42"}, ...
using Notes = std::vector<std::pair<std::string, std::string>>;

inline constexpr std::string_view png_signature("\x89PNG\r\n\x1a\n", 8);

void put_big(std::string& to, uint32_t number, int bytes = 4);   // the highest byte first
uint32_t big(std::string_view from, size_t at);                  // four bytes

void put_chunk(std::string& to, std::string_view type, std::string_view data);
// tEXt chunks; iTXt for text that is not plain ASCII. A key is cut after 79 letters, and characters that a key may not have become '_'.
void put_notes(std::string& to, const Notes& notes);

struct PngChunk { std::string_view type, data; };
// The chunks behind the signature up to IEND, with length and CRC of each checked. Throws Error "NAME: ..." if one is cut off or damaged,
// or if the file is no PNG.
std::vector<PngChunk> png_chunks(std::string_view file, const std::string& name);

}  // namespace folio
