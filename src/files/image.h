// SPDX-License-Identifier: MIT
// Pictures: PNG in and out by stb_image and stb_image_write (image.cpp is the only file that knows them), and a change of size.
// A picture is 8-bit RGB in rows from the top, [H, W, 3]. PNGs from outside are not trusted: chunks, checksums, sizes and the room that a
// picture would take are checked before the decoder sees a byte.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "files/png.h"

namespace folio {

inline constexpr int most_pixels_per_side = 16384;
inline constexpr int64_t most_pixels = int64_t(1) << 26;

struct Image {
  int width = 0, height = 0;
  std::vector<uint8_t> rgb;   // [height, width, 3]
};

// Grey, palettes, 16 bits and interlacing become 8-bit RGB; transparency is left away. Throws Error "NAME: ...".
Image decode_png(std::string_view file, const std::string& name);
Image read_png(const std::string& path);

// The bytes of a PNG file with `notes` in it. rgb: [height, width, 3].
std::string encode_png(const uint8_t* rgb, int width, int height, const Notes& notes = {});
void write_png(const std::string& path, const Image& image, const Notes& notes = {});

// The picture at another size: the largest middle part of the same shape, scaled with a triangle filter as wide as the larger of two
// pixels' distances, so that nothing is skipped when it becomes smaller.
Image fit(const Image& image, int width, int height);

}  // namespace folio
