// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "files/image.h"
#include "files/video_formats.h"
#include "fuzz.h"

namespace folio::fuzz {

bool try_picture(std::span<const std::byte> file, std::string* why) {
  try {
    const Image image = decode_png({reinterpret_cast<const char*>(file.data()), file.size()}, "fuzz.png");
    if (image.width < 1 || image.height < 1 || image.rgb.size() != size_t(image.width) * size_t(image.height) * 3) std::abort();
    if (image.rgb.size() < 1 << 16 && fit(image, 5, 3).rgb.size() != 45) std::abort();
    return true;
  } catch (const Error& error) {
    if (why) *why = error.what();
    return false;
  }
}

bool try_clip(std::span<const std::byte> file, std::string* why) {
  size_t at = 0;
  const ByteSource source = [&](void* to, size_t bytes) {
    const size_t got = std::min(bytes, file.size() - at);
    if (got > 0) std::memcpy(to, file.data() + at, got);
    at += got;
    return got;
  };
  try {
    const auto reader = read_y4m("fuzz.y4m", source);
    const Clip& clip = reader->clip();
    const auto pixels = size_t(clip.width) * size_t(clip.height);
    if (pixels == 0 || clip.rate.num < 1 || clip.rate.den < 1) std::abort();
    // Frames of more pixels than the file has bytes cannot be whole: nothing may be written then, not even where there is no room.
    std::vector<uint8_t> rgb(pixels <= file.size() ? pixels * 3 : 0);
    while (reader->next(rgb.data())) {
    }
    return true;
  } catch (const Error& error) {
    if (why) *why = error.what();
    return false;
  }
}

}  // namespace folio::fuzz
