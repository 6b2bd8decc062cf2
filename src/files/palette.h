// SPDX-License-Identifier: MIT
// A frame in at most 256 colours. Where it has no more, they are kept as they are. Else the colours, in a cube of 32x32x32 bins, are cut
// into boxes (after Heckbert, "Color image quantization for frame buffer display", 1982, who cut at the median; here the box that
// errs most is cut at its mean along its widest spread, after Wu 1991), each box gives its mean, and the error of a pixel is handed to
// its neighbours (Floyd and Steinberg, 1976), on every second row from right to left.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

namespace folio {

using Colour = std::array<uint8_t, 3>;

struct Indexed {
  std::vector<Colour> palette;   // 1 to 256
  std::vector<uint8_t> pixels;   // [height, width]
};

Indexed index_colours(const uint8_t* rgb, int width, int height);

}  // namespace folio
