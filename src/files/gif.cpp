// SPDX-License-Identifier: MIT
// GIF89a (CompuServe, 1990): header · screen · "NETSCAPE2.0" (played for ever) · comment · for each frame: control (delay), image with
// a palette of its own, LZW codes · trailer. A delay is a whole number of hundredths of a second: frame n begins at round(100 n / fps), so
// that the clip as a whole keeps its time. No delay is below two hundredths, which players take for "slow".
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "files/palette.h"
#include "files/video_formats.h"

namespace folio {

namespace {

void put_little(std::string& to, int number) {
  to += char(number & 255);
  to += char(number >> 8 & 255);
}

// Blocks of up to 255 bytes, each behind its length, and an empty one.
void put_blocks(std::string& to, std::string_view data) {
  for (; !data.empty(); data.remove_prefix(std::min<size_t>(255, data.size()))) {
    const std::string_view block = data.substr(0, 255);
    to += char(block.size());
    to.append(block);
  }
  to += '\0';
}

// Lempel, Ziv and Welch's codes with GIF's widths: from bits + 1 up to 12, then the table is begun anew.
class Lzw {
 public:
  std::string encode(const std::vector<uint8_t>& pixels, int bits) {
    const int clear = 1 << bits, end = clear + 1;
    int next = end + 1, width = bits + 1;
    forget();
    put(clear, width);
    int prefix = pixels[0];
    for (size_t i = 1; i < pixels.size(); ++i) {
      const int key = prefix << 8 | pixels[i];
      const size_t at = place(key);
      if (key_[at] == key) {
        prefix = code_[at];
        continue;
      }
      put(prefix, width);
      prefix = pixels[i];
      if (next == most_codes) {
        put(clear, width);
        forget();
        next = end + 1;
        width = bits + 1;
        continue;
      }
      key_[at] = key;
      code_[at] = next;
      if (next++ == 1 << width) ++width;   // the reader knows this code one step later
    }
    put(prefix, width);
    if (next == 1 << width && width < 12) ++width;
    put(end, width);
    if (filled_ > 0) out_ += char(held_);
    return std::move(out_);
  }

 private:
  static constexpr int most_codes = 4096;
  static constexpr size_t places = 16384;

  void forget() { key_.assign(places, -1); }
  size_t place(int key) const {   // where this key stands, or where it would
    size_t at = size_t(uint32_t(key) * 2654435761u >> 18);
    while (key_[at] >= 0 && key_[at] != key) at = (at + 1) % places;
    return at;
  }
  void put(int code, int width) {
    held_ |= uint32_t(code) << filled_;
    for (filled_ += width; filled_ >= 8; filled_ -= 8, held_ >>= 8) out_ += char(held_ & 255);
  }

  std::vector<int> key_ = std::vector<int>(places), code_ = std::vector<int>(places);
  std::string out_;
  uint32_t held_ = 0;
  int filled_ = 0;
};

class GifWriter : public FrameWriter {
 public:
  GifWriter(const std::string& name, const Clip& clip) : FrameWriter(name), file_(name), clip_(clip) {
    std::string head = "GIF89a";
    put_little(head, clip.width);
    put_little(head, clip.height);
    head.append("\x70\0\0", 3);   // eight bits a colour, no palette for all, background 0, square pixels
    head.append("\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0", 19);
    if (!clip.notes.empty()) {
      head += "\x21\xfe";
      put_blocks(head, joined(clip.notes));
    }
    file_.write(head);
  }

 private:
  void write(const uint8_t* rgb) override {
    const Indexed frame = index_colours(rgb, clip_.width, clip_.height);
    int bits = 1;
    while (1 << bits < int(frame.palette.size())) ++bits;
    std::string out("\x21\xf9\x04\x04", 4);   // left as it is when the next one comes
    put_little(out, delay());
    out.append("\0\0\x2c\0\0\0\0", 7);
    put_little(out, clip_.width);
    put_little(out, clip_.height);
    out += char(0x80 | (bits - 1));
    for (int i = 0; i < 1 << bits; ++i)
      for (size_t c = 0; c < 3; ++c) out += size_t(i) < frame.palette.size() ? char(frame.palette[size_t(i)][c]) : '\0';
    out += char(std::max(bits, 2));
    put_blocks(out, Lzw().encode(frame.pixels, std::max(bits, 2)));
    file_.write(out);
  }
  int delay() const {
    auto begin = [this](int64_t n) { return std::llround(100.0 * double(n) / clip_.rate.fps()); };
    return int(std::clamp<long long>(begin(frames() + 1) - begin(frames()), 2, 65535));
  }
  void close() override {
    file_.write("\x3b");
    file_.commit();
  }

  FileWriter file_;
  const Clip clip_;
};

}  // namespace

std::unique_ptr<FrameWriter> write_gif(const std::string& name, const Clip& clip) { return std::make_unique<GifWriter>(name, clip); }

}  // namespace folio
