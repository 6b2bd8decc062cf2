// SPDX-License-Identifier: MIT
#include "files/video.h"

#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "files/image.h"
#include "files/video_formats.h"

namespace folio {

namespace {

// The frames and nothing else, to a file or to standard output.
class RawWriter : public FrameWriter {
 public:
  RawWriter(const std::string& name, const Clip& clip) : FrameWriter(name), bytes_(size_t(clip.width) * size_t(clip.height) * 3) {
    if (name != "-") file_.emplace(name);
  }

 private:
  void write(const uint8_t* rgb) override {
    if (file_) return file_->write(rgb, bytes_);
    // Not through stdio: Ctrl-C in the middle of a write would leave it with an error and a piece of the frame lost.
    for (size_t done = 0; done < bytes_;) {
      const ssize_t n = ::write(STDOUT_FILENO, rgb + done, bytes_ - done);
      const int why = errno;
      check(n >= 0 || why == EINTR, "cannot write to standard output: ", std::strerror(why));
      if (n > 0) done += size_t(n);
    }
  }
  void close() override {
    if (file_) file_->commit();
  }
  std::optional<FileWriter> file_;
  const size_t bytes_;
};

// A PNG for each frame, under its name as soon as it is whole.
class PngWriter : public FrameWriter {
 public:
  PngWriter(const std::string& name, const Clip& clip) : FrameWriter(name), clip_(clip), numbered_(has_number(name)) {
    const std::filesystem::path folder = std::filesystem::path(name).parent_path();
    std::error_code why;
    if (numbered_ && !folder.empty()) std::filesystem::create_directories(folder, why);
    check(!why, folder.string(), ": cannot make this folder: ", why.message());
    check(numbered_ || clip.frames <= 1, name, ": a PNG is one frame and the clip has ", clip.frames,
          "; name it like out/%04d.png, or x.apng");
    if (!numbered_) first_.emplace(name);
    else FileWriter(numbered(name, 0));   // is the folder one that can be written to?
  }

 private:
  void write(const uint8_t* rgb) override {
    check(numbered_ || frames() == 0, name_, ": a PNG is one frame; name it like out/%04d.png, or x.apng");
    const std::string png = encode_png(rgb, clip_.width, clip_.height, clip_.notes);
    if (!numbered_) return first_->write(png);
    FileWriter file(numbered(name_, frames()));
    file.write(png);
    file.commit();
  }
  void close() override {
    if (first_) first_->commit();
  }
  const Clip clip_;
  const bool numbered_;
  std::optional<FileWriter> first_;
};

class PngReader : public FrameReader {
 public:
  explicit PngReader(const std::string& name) : name_(name), numbered_(has_number(name)) {
    if (numbered_ && !std::filesystem::exists(numbered(name, 0))) number_ = 1;
    const std::string first = numbered_ ? numbered(name, number_) : name;
    if (numbered_ && !std::filesystem::exists(first)) fail(name, ": there is neither ", numbered(name, 0), " nor ", first);
    ahead_ = read_png(first);
    clip_.width = ahead_.width;
    clip_.height = ahead_.height;
    if (!numbered_) clip_.frames = 1;
  }
  bool next(uint8_t* rgb) override {
    if (ahead_.rgb.empty()) return false;
    std::memcpy(rgb, ahead_.rgb.data(), ahead_.rgb.size());
    ahead_ = {};
    const std::string name = numbered_ ? numbered(name_, ++number_) : "";
    if (!numbered_ || !std::filesystem::exists(name)) return true;
    ahead_ = read_png(name);
    check(ahead_.width == clip_.width && ahead_.height == clip_.height, name, ": ", ahead_.width, "x", ahead_.height,
          ", and the frames before it are ", clip_.width, "x", clip_.height);
    return true;
  }

 private:
  const std::string name_;
  const bool numbered_;
  int64_t number_ = 0;
  Image ahead_;
};

ByteSource file_source(const std::string& name) {
  const bool standard = name == "-";
  std::shared_ptr<std::FILE> file(standard ? stdin : std::fopen(name.c_str(), "rb"), [standard](std::FILE* f) {
    if (f && !standard) std::fclose(f);
  });
  check(file != nullptr, name, ": cannot open: ", std::strerror(errno));
  return [file, name](void* to, size_t bytes) {
    const size_t got = std::fread(to, 1, bytes, file.get());
    const int why = errno;
    check(got == bytes || !std::ferror(file.get()), name, ": cannot read: ", std::strerror(why));
    return got;
  };
}

std::string ending(const std::string& name) {
  std::string end = std::filesystem::path(name).extension().string();
  for (char& c : end) c = char(std::tolower(uint8_t(c)));
  return end;
}

// Where the one number of a name stands: "%04d" -> its place, its length and 4.
struct Place { size_t at, length; int digits; };

Place place_of_number(const std::string& name) {
  const size_t at = name.find('%'), d = name.find('d', at);
  const std::string digits = d == std::string::npos ? "" : name.substr(at + 1, d - at - 1);
  const bool good =
      d != std::string::npos && (digits.empty() || (digits.size() == 2 && digits[0] == '0' && digits[1] >= '1' && digits[1] <= '9'));
  check(good && name.find('%', at + 1) == std::string::npos, name, ": a % stands for a number: exactly one %d, or one like %04d");
  return {at, d - at + 1, digits.empty() ? 1 : digits[1] - '0'};
}

}  // namespace

std::string Rate::text() const { return den == 1 ? std::to_string(num) : join(num, "/", den); }

Rate parse_rate(const std::string& text, const std::string& what) {
  Rate rate{0, 1};
  const char *at = text.data(), *end = at + text.size();
  const auto [after, error] = std::from_chars(at, end, rate.num);
  bool good = error == std::errc() && rate.num >= 0 && rate.num <= 1'000'000;
  if (good && after < end && *after == '.') {
    int64_t digit_value = 1;
    for (const char* p = after + 1; p < end && good; ++p) {
      good = *p >= '0' && *p <= '9' && p - after <= 6;
      rate.num = rate.num * 10 + (*p - '0');
      digit_value *= 10;
    }
    rate.den = digit_value;
  } else if (good && after < end) {
    const auto [last, denominator] = std::from_chars(after + 1, end, rate.den);
    good = (*after == '/' || *after == ':') && denominator == std::errc() && last == end && rate.den > 0 && rate.den <= 1'000'000'000;
  }
  check(good && rate.fps() >= 0.01 && rate.fps() <= 1000, what, ": '", text,
        "' is no rate; expected frames a second from 0.01 to 1000, like 24, 12.5 or 30000/1001");
  const int64_t common = std::gcd(rate.num, rate.den);
  return {rate.num / common, rate.den / common};
}

void FrameWriter::push(const uint8_t* rgb) {
  write(rgb);
  ++frames_;
}

void FrameWriter::finish() {
  check(frames_ > 0, name_, ": there is no frame to write");
  close();
}

bool has_number(const std::string& name) { return name.find('%') != std::string::npos; }

std::string numbered(const std::string& name, int64_t number) {
  const Place place = place_of_number(name);
  std::string digits = std::to_string(number);
  if (digits.size() < size_t(place.digits)) digits.insert(0, size_t(place.digits) - digits.size(), '0');
  return name.substr(0, place.at) + digits + name.substr(place.at + place.length);
}

std::string joined(const Notes& notes) {
  std::string all;
  for (const auto& [key, text] : notes) all += (all.empty() ? "" : "; ") + key + "=" + text;
  return all;
}

std::unique_ptr<FrameWriter> write_frames(const std::string& name, const Clip& clip) {
  check(clip.width > 0 && clip.height > 0 && clip.width <= most_pixels_per_side && clip.height <= most_pixels_per_side, name,
        ": a clip of ", clip.width, "x", clip.height, " cannot be written; a side has 1 to ", most_pixels_per_side, " pixels");
  const std::string end = ending(name);
  if (has_number(name)) place_of_number(name);
  check(!has_number(name) || end == ".png", name, ": numbered frames are PNGs: out/%04d.png");
  if (name == "-" || end == ".rgb") return std::make_unique<RawWriter>(name, clip);
  if (end == ".png") return std::make_unique<PngWriter>(name, clip);
  if (end == ".y4m") return write_y4m(name, clip);
  if (end == ".gif") return write_gif(name, clip);
  if (end == ".apng") return write_apng(name, clip);
  if (end == ".mp4" || end == ".mov" || end == ".webm") return write_with_ffmpeg(name, clip, end.substr(1));
  if (end == ".mkv") return write_with_ffmpeg(name, clip, "matroska");
  fail(name, ": the name does not say what to write; expected .y4m, .gif, .apng, .png, .rgb, .mp4, .mov, .webm, .mkv, out/%04d.png or -");
}

std::unique_ptr<FrameReader> read_frames(const std::string& name) {
  const std::string end = ending(name);
  if (has_number(name) || end == ".png") return std::make_unique<PngReader>(name);
  if (name == "-" || end == ".y4m") return read_y4m(name, file_source(name));
  check(std::filesystem::exists(name), name, ": cannot open: ", std::strerror(ENOENT));
  return read_with_ffmpeg(name);
}

}  // namespace folio
