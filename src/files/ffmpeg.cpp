// SPDX-License-Identifier: MIT
// What other programs' formats ask for, through ffmpeg: RGB goes in on its standard input, or y4m comes out. It writes the .part of a
// FileWriter, which alone decides whether that gets its name.
#include <filesystem>

#include "base/error.h"
#include "base/file.h"
#include "base/process.h"
#include "files/video_formats.h"

namespace folio {

namespace {

constexpr const char* program = "ffmpeg";

void check_there(const std::string& name) {
  check(on_path(program), name,
        ": this format needs ffmpeg, which is not on the PATH; install it, or use .y4m, .gif, .apng or out/%04d.png");
}

std::string said(const Child& child) { return child.complaint().empty() ? "it gave no reason" : child.complaint(); }

std::vector<std::string> encoder(const std::string& to, const Clip& clip, const std::string& format) {
  // Most players want 4:2:0, which wants even sides. ffmpeg makes BT.601 of RGB, and a player that is not told so takes large frames for
  // BT.709.
  const std::string size = join(clip.width, "x", clip.height), comment = "comment=" + joined(clip.notes);
  return {program, "-v", "error", "-nostdin", "-y", "-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", size, "-framerate",
          clip.rate.text(), "-i", "pipe:0", "-an", "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p",
          "-colorspace", "smpte170m", "-color_primaries", "bt709", "-color_trc", "iec61966-2-1", "-color_range", "tv",
          "-metadata", comment, "-f", format, "file:" + to};
}

class FfmpegWriter : public FrameWriter {
 public:
  FfmpegWriter(const std::string& name, const Clip& clip, const std::string& format)
      : FrameWriter(name), file_(name), child_(encoder(file_.part(), clip, format), Child::Stream::to_it),
        bytes_(size_t(clip.width) * size_t(clip.height) * 3) {}

 private:
  void write(const uint8_t* rgb) override {
    if (child_.write(rgb, bytes_)) return;
    child_.wait();
    fail(name_, ": ffmpeg gave up: ", said(child_));
  }
  void close() override {
    const int code = child_.wait();
    check(code == 0, name_, ": ffmpeg failed: ", said(child_));
    file_.commit();
  }
  FileWriter file_;   // removed after the child is gone
  Child child_;
  const size_t bytes_;
};

// Frames that ffmpeg has decoded: y4m behind whose end stands its exit code.
class FfmpegReader : public FrameReader {
 public:
  explicit FfmpegReader(const std::string& name)
      : name_(name),
        child_({program, "-v", "error", "-nostdin", "-i", "file:" + name, "-an", "-pix_fmt", "yuv444p", "-f", "yuv4mpegpipe", "pipe:1"},
               Child::Stream::from_it) {
    try {
      y4m_ = read_y4m(name, [this](void* to, size_t bytes) { return child_.read(to, bytes); });
    } catch (const Error&) {
      child_.wait();
      fail(name_, ": ffmpeg cannot read it: ", said(child_));
    }
    clip_ = y4m_->clip();
  }
  bool next(uint8_t* rgb) override {
    if (y4m_->next(rgb)) return true;
    if (!ended_) {
      ended_ = true;
      const int code = child_.wait();
      check(code == 0, name_, ": ffmpeg cannot read all of it: ", said(child_));
    }
    return false;
  }

 private:
  const std::string name_;
  Child child_;
  std::unique_ptr<FrameReader> y4m_;
  bool ended_ = false;
};

}  // namespace

std::unique_ptr<FrameWriter> write_with_ffmpeg(const std::string& name, const Clip& clip, const std::string& format) {
  check_there(name);
  return std::make_unique<FfmpegWriter>(name, clip, format);
}

std::unique_ptr<FrameReader> read_with_ffmpeg(const std::string& name) {
  check(on_path(program), name, ": only .y4m, .png and in/%04d.png are read without ffmpeg, and that is not on the PATH");
  return std::make_unique<FfmpegReader>(name);
}

}  // namespace folio
