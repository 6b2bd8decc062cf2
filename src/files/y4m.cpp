// SPDX-License-Identifier: MIT
// YUV4MPEG2: one line "YUV4MPEG2 W64 H48 F24:1 Ip A1:1 C444 Xkey=value", then for each frame a line "FRAME" and the planes Y, Cb, Cr, in
// bytes. The first line has no agreed length; ffmpeg reads 96 bytes and gives up, so notes are written only as far as that reaches.
#include <algorithm>
#include <charconv>
#include <cstring>

#include "base/error.h"
#include "base/file.h"
#include "files/image.h"
#include "files/video_formats.h"

namespace folio {

namespace {

constexpr size_t header_that_ffmpeg_reads = 96, most_header = 4096;

// RGB -> Y'CbCr after ITU-R BT.601, limited range, in 1/65536. Grey has no chroma: the last two rows sum to zero.
constexpr int from_rgb[3][3] = {{16829, 33039, 6416}, {-9714, -19070, 28784}, {28784, -24103, -4681}};
// And back: Y' times the first, then Cr into red, Cb and Cr into green, Cb into blue.
struct ToRgb { int dark, y, red, green_cb, green_cr, blue; };
constexpr ToRgb limited{16, 76309, 104597, 25675, 53279, 132201}, full{0, 65536, 91881, 22554, 46802, 116130};

uint8_t byte_of(int n) { return uint8_t(std::clamp((n + 32768) >> 16, 0, 255)); }

class Y4mWriter : public FrameWriter {
 public:
  Y4mWriter(const std::string& name, const Clip& clip)
      : FrameWriter(name), file_(name), width_(size_t(clip.width)), height_(size_t(clip.height)), half_(clip.half_chroma) {
    std::string head = join("YUV4MPEG2 W", clip.width, " H", clip.height, " F", clip.rate.num, ":", clip.rate.den, " Ip A1:1 C",
                            half_ ? "420jpeg" : "444", " XCOLORRANGE=LIMITED");
    for (const auto& [key, text] : clip.notes) {
      std::string word = " X" + key + "=" + text;
      for (size_t i = 1; i < word.size(); ++i)
        if (word[i] <= ' ' || word[i] > '~') word[i] = '_';
      if (head.size() + word.size() < header_that_ffmpeg_reads) head += word;
    }
    file_.write(head + "\n");
    for (auto& p : plane_) p.resize(width_ * height_);
  }

 private:
  void write(const uint8_t* rgb) override {
    for (size_t i = 0; i < width_ * height_; ++i)
      for (int p = 0; p < 3; ++p) {
        const int* w = from_rgb[p];
        plane_[p][i] = byte_of(w[0] * rgb[3 * i] + w[1] * rgb[3 * i + 1] + w[2] * rgb[3 * i + 2] + ((p == 0 ? 16 : 128) << 16));
      }
    file_.write("FRAME\n");
    file_.write(plane_[0].data(), plane_[0].size());
    for (int p = 1; p < 3; ++p) {
      const size_t bytes = half_ ? halve(plane_[p]) : plane_[p].size();
      file_.write(plane_[p].data(), bytes);
    }
  }
  // Means of two by two, in place; at an odd edge the last pixel counts twice.
  size_t halve(std::vector<uint8_t>& plane) const {
    size_t n = 0;
    for (size_t y = 0; y < height_; y += 2)
      for (size_t x = 0; x < width_; x += 2) {
        const size_t right = std::min(x + 1, width_ - 1), below = std::min(y + 1, height_ - 1) * width_;
        plane[n++] = uint8_t((plane[y * width_ + x] + plane[y * width_ + right] + plane[below + x] + plane[below + right] + 2) / 4);
      }
    return n;
  }
  void close() override { file_.commit(); }

  FileWriter file_;
  const size_t width_, height_;
  const bool half_;
  std::vector<uint8_t> plane_[3];
};

class Y4mReader : public FrameReader {
 public:
  Y4mReader(const std::string& name, ByteSource source) : name_(name), source_(std::move(source)) {
    std::string head;
    check(line(head, most_header) && head.starts_with("YUV4MPEG2 "), name_, ": not a y4m file (it does not begin with YUV4MPEG2)");
    for (size_t from = 10; from < head.size();) {
      const size_t end = std::min(head.find(' ', from), head.size());
      if (end > from) read_word(head.substr(from, end - from));
      from = end + 1;
    }
    check(clip_.width > 0 && clip_.height > 0, name_, ": the header has no ", clip_.width > 0 ? "height (H)" : "width (W)");
    check(int64_t(clip_.width) * clip_.height <= most_pixels, name_, ": frames of ", clip_.width, "x", clip_.height,
          " are too large; at most ", most_pixels, " pixels");
    chroma_width_ = grey_ ? 0 : size_t((clip_.width + across_ - 1) / across_);
    chroma_height_ = grey_ ? 0 : size_t((clip_.height + down_ - 1) / down_);
  }

  bool next(uint8_t* rgb) override {
    std::string head;
    if (!line(head, most_header)) return false;
    check(head == "FRAME" || head.starts_with("FRAME "), name_, ": damaged: frame ", frame_, " does not begin with FRAME");
    const size_t luma = size_t(clip_.width) * size_t(clip_.height), chroma = chroma_width_ * chroma_height_, bytes = luma + 2 * chroma;
    for (data_.clear(); data_.size() < bytes;) {   // by and by: a header alone is no reason to hold much memory
      const size_t old = data_.size(), piece = std::min(bytes - old, size_t(1) << 20);
      data_.resize(old + piece);
      const size_t got = source_(data_.data() + old, piece);
      check(got == piece, name_, ": frame ", frame_, " is cut off: ", old + got, " of ", bytes, " bytes are there");
    }
    convert(rgb, data_.data(), data_.data() + luma, data_.data() + luma + chroma);
    ++frame_;
    return true;
  }

 private:
  // Up to the next newline; false at the end of the file.
  bool line(std::string& to, size_t most) {
    for (char c; source_(&c, 1) == 1; to += c) {
      if (c == '\n') return true;
      check(to.size() < most, name_,
            frame_ > 0 ? ": damaged: there is no FRAME line where one should stand" : ": not a y4m file (its first line has no end)");
    }
    check(to.empty(), name_, ": the file is cut off in the line '", to.substr(0, 20), "'");
    return false;
  }

  void read_word(const std::string& word) {
    const std::string value = word.substr(1);
    if (word[0] == 'W' || word[0] == 'H') {
      int& side = word[0] == 'W' ? clip_.width : clip_.height;
      const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), side);
      check(error == std::errc() && end == value.data() + value.size() && side > 0 && side <= most_pixels_per_side, name_, ": '", word,
            "' in the header is no ", word[0] == 'W' ? "width" : "height", " of 1 to ", most_pixels_per_side);
    } else if (word[0] == 'F') {
      clip_.rate = value == "0:0" ? Rate{25, 1} : parse_rate(value, name_ + ": the header's rate");   // not known: 25, as ffmpeg takes it
    } else if (word[0] == 'I') {
      check(value == "p" || value == "?", name_, ": interlaced frames (", word, ") are not read; deinterlace them first");
    } else if (word[0] == 'C') {
      read_colours(value);
    } else if (word[0] == 'X') {
      if (value == "COLORRANGE=FULL") to_rgb_ = full;
    }   // A, the shape of a pixel, is left aside
  }

  void read_colours(const std::string& value) {
    const bool half = value == "420" || value == "420jpeg" || value == "420mpeg2" || value == "420paldv";
    grey_ = value == "mono";
    check(half || grey_ || value == "422" || value == "444", name_, ": colours C", value,
          " are not read; 8-bit C420jpeg, C420mpeg2, C420paldv, C422, C444 and Cmono are");
    across_ = value == "444" ? 1 : 2;
    down_ = half ? 2 : 1;
  }

  void convert(uint8_t* rgb, const uint8_t* luma, const uint8_t* cb, const uint8_t* cr) const {
    const ToRgb m = to_rgb_;
    for (int y = 0; y < clip_.height; ++y)
      for (int x = 0; x < clip_.width; ++x, rgb += 3) {
        const size_t at = size_t(y / down_) * chroma_width_ + size_t(x / across_);
        const int light = m.y * (*luma++ - m.dark), u = grey_ ? 0 : cb[at] - 128, v = grey_ ? 0 : cr[at] - 128;
        rgb[0] = byte_of(light + m.red * v);
        rgb[1] = byte_of(light - m.green_cb * u - m.green_cr * v);
        rgb[2] = byte_of(light + m.blue * u);
      }
  }

  const std::string name_;
  ByteSource source_;
  int across_ = 2, down_ = 2;   // a header without C is 4:2:0
  bool grey_ = false;
  ToRgb to_rgb_ = limited;
  size_t chroma_width_ = 0, chroma_height_ = 0;
  int64_t frame_ = 0;
  std::vector<uint8_t> data_;
};

}  // namespace

std::unique_ptr<FrameWriter> write_y4m(const std::string& name, const Clip& clip) { return std::make_unique<Y4mWriter>(name, clip); }

std::unique_ptr<FrameReader> read_y4m(const std::string& name, ByteSource source) {
  return std::make_unique<Y4mReader>(name, std::move(source));
}

}  // namespace folio
