// SPDX-License-Identifier: MIT
// Readers for what the frame writers write, made from the formats' descriptions alone: GIF with its codes, animated PNG taken apart into
// PNGs; and a maker of odd PNGs.
#pragma once
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "files/image.h"
#include "files/video.h"

namespace folio {

using Picture = std::vector<uint8_t>;   // [H, W, 3]

// All frames of a clip, by the project's own reader.
inline std::vector<Picture> read_clip(const std::string& name) {
  auto reader = read_frames(name);
  std::vector<Picture> all;
  Picture next(size_t(reader->clip().width) * size_t(reader->clip().height) * 3);
  while (reader->next(next.data())) all.push_back(next);
  EXPECT_FALSE(reader->next(next.data()));
  return all;
}

struct DecodedClip {
  int width = 0, height = 0, plays = -1;
  std::vector<Picture> frames;
  std::vector<double> seconds;
  std::string comment;
};

class GifDecoder {
 public:
  explicit GifDecoder(std::string_view file) : rest_(file) {}
  DecodedClip run() {
    check(take(6) == "GIF89a", "no GIF");
    clip_.width = number();
    clip_.height = number();
    check(!(uint8_t(take(3)[0]) & 0x80), "a global palette");
    int delay = 0;
    for (;;) {
      const char kind = take(1)[0];
      if (kind == 0x3b) break;
      if (kind == 0x21) {
        const uint8_t label = uint8_t(take(1)[0]);
        if (label == 0xf9) {
          check(take(2) == std::string_view("\x04\x04", 2), "control block");
          delay = number();
          check(take(2) == std::string_view("\0\0", 2), "control block");
        } else if (label == 0xfe) {
          clip_.comment = blocks();
        } else {
          check(take(12) == "\x0bNETSCAPE2.0", "application");
          const std::string loop = blocks();
          clip_.plays = uint8_t(loop[1]) | uint8_t(loop[2]) << 8;
        }
        continue;
      }
      check(kind == 0x2c, "what is this block?");
      image();
      clip_.seconds.push_back(delay / 100.0);
    }
    check(rest_.empty(), "bytes behind the end");
    return std::move(clip_);
  }

 private:
  std::string_view take(size_t n) {
    check(rest_.size() >= n, "cut off");
    const std::string_view out = rest_.substr(0, n);
    rest_.remove_prefix(n);
    return out;
  }
  int number() {
    const std::string_view two = take(2);
    return uint8_t(two[0]) | uint8_t(two[1]) << 8;
  }
  std::string blocks() {
    std::string all;
    while (const size_t n = uint8_t(take(1)[0])) all += take(n);
    return all;
  }
  void image() {
    check(number() == 0 && number() == 0 && number() == clip_.width && number() == clip_.height, "not a whole frame");
    const uint8_t flags = uint8_t(take(1)[0]);
    check(flags & 0x80, "no palette");
    const std::string_view palette = take(size_t(3) << ((flags & 7) + 1));
    const int bits = take(1)[0];
    const std::string data = blocks();
    Picture picture;
    for (uint8_t index : unpack(data, bits)) {
      check(size_t(index) * 3 < palette.size(), "an index beyond the palette");
      for (size_t c = 0; c < 3; ++c) picture.push_back(uint8_t(palette[size_t(index) * 3 + c]));
    }
    check(picture.size() == size_t(clip_.width) * size_t(clip_.height) * 3, "too few or too many pixels");
    clip_.frames.push_back(std::move(picture));
  }
  static std::string unpack(const std::string& data, int bits) {
    const int clear = 1 << bits, end = clear + 1;
    std::vector<std::string> table;
    auto begin = [&] {
      table.assign(size_t(end) + 1, "");
      for (int i = 0; i < clear; ++i) table[size_t(i)] = std::string(1, char(i));
    };
    begin();
    std::string out, before;
    size_t at = 0;
    for (int width = bits + 1;;) {
      int code = 0;
      for (int i = 0; i < width; ++i, ++at) {
        check(at / 8 < data.size(), "codes without an end");
        code |= (uint8_t(data[at / 8]) >> at % 8 & 1) << i;
      }
      if (code == end) break;
      if (code == clear) {
        begin();
        before.clear();
        width = bits + 1;
        continue;
      }
      check(size_t(code) < table.size() || (size_t(code) == table.size() && !before.empty()), "a code that is not there yet");
      const std::string word = size_t(code) < table.size() ? table[size_t(code)] : before + before[0];
      if (!before.empty() && table.size() < 4096) table.push_back(before + word[0]);
      if (table.size() == size_t(1) << width && width < 12) ++width;
      before = word;
      out += word;
    }
    check(at / 8 + 1 >= data.size(), "bytes behind the last code");
    return out;
  }
  std::string_view rest_;
  DecodedClip clip_;
};

inline DecodedClip decode_gif(std::string_view file) { return GifDecoder(file).run(); }

// Each frame becomes a PNG of its own, which the PNG reader decodes.
inline DecodedClip decode_apng(const std::string& file) {
  DecodedClip clip;
  std::string_view head;
  std::string data;
  uint32_t sequence = 0, frames = 0;
  auto two = [](std::string_view s, size_t at) { return double(uint8_t(s[at]) << 8 | uint8_t(s[at + 1])); };
  auto finish_frame = [&] {
    if (data.empty()) return;
    std::string png(png_signature);
    put_chunk(png, "IHDR", head);
    put_chunk(png, "IDAT", data);
    put_chunk(png, "IEND", "");
    clip.frames.push_back(decode_png(png, "frame").rgb);
    data.clear();
  };
  for (const PngChunk& c : png_chunks(file, "apng")) {
    if (c.type == "IHDR") {
      head = c.data;
      clip.width = int(big(head, 0)), clip.height = int(big(head, 4));
    } else if (c.type == "acTL") {
      frames = big(c.data, 0), clip.plays = int(big(c.data, 4));
    } else if (c.type == "fcTL") {
      finish_frame();
      check(c.data.size() == 26 && big(c.data, 0) == sequence++ && int(big(c.data, 4)) == clip.width && int(big(c.data, 8)) == clip.height,
            "fcTL");
      clip.seconds.push_back(two(c.data, 20) / two(c.data, 22));
    } else if (c.type == "IDAT") {
      data += c.data;
    } else if (c.type == "fdAT") {
      check(big(c.data, 0) == sequence++, "the order of chunks");
      data += c.data.substr(4);
    } else if (c.type == "tEXt" || c.type == "iTXt") {
      clip.comment += c.data;
    }
  }
  finish_frame();
  check(frames == clip.frames.size() && frames == clip.seconds.size(), "acTL says ", frames, " frames, there are ", clip.frames.size());
  return clip;
}

// A PNG of any kind whose rows (each behind its filter byte) are stored without compression.
inline std::string odd_png(uint32_t width, uint32_t height, int depth, int colour, const std::string& rows,
                           const std::string& palette = "") {
  std::string head, file(png_signature), data("\x78\x01", 2);
  put_big(head, width);
  put_big(head, height);
  head += {char(depth), char(colour), 0, 0, 0};
  put_chunk(file, "IHDR", head);
  if (!palette.empty()) put_chunk(file, "PLTE", palette);
  data += {1, char(rows.size() & 255), char(rows.size() >> 8), char(~rows.size() & 255), char(~rows.size() >> 8 & 255)};
  uint32_t a = 1, b = 0;   // Adler-32
  for (char c : rows) a = (a + uint8_t(c)) % 65521, b = (b + a) % 65521;
  data += rows;
  put_big(data, b << 16 | a);
  put_chunk(file, "IDAT", data);
  put_chunk(file, "IEND", "");
  return file;
}

}  // namespace folio
