// SPDX-License-Identifier: MIT
// Clips, frame by frame: whoever makes frames pushes them one at a time, and memory does not grow with their number. The name says
// what is written:
//
//   x.y4m                 YUV4MPEG2, 4:4:4 or 4:2:0       x.png            one frame
//   x.gif                 GIF89a, endless                 out/%04d.png     a PNG for each frame, from 0000 on
//   x.apng                animated PNG, lossless          x.rgb            24-bit RGB and nothing else
//   x.mp4 .webm .mkv .mov through ffmpeg, if it is there  -                the same to standard output
//
// A file is written beside its name (x.gif.part) and renamed by finish(); without finish() nothing is left under the name. What was
// pushed before an interruption is a clip too: finish() keeps it.
// Frames are 8-bit RGB, [H, W, 3]. Colours of y4m: its header does not say which matrix they are made with, so it is BT.601, as ffmpeg
// takes it, with limited range (16 to 235) unless the file says XCOLORRANGE=FULL. Chroma of less resolution is read by repeating it and
// written as the mean of four pixels, which is what C420jpeg says of its place.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "files/png.h"

namespace folio {

// Frames a second as a fraction: 24, 30000/1001.
struct Rate {
  int64_t num = 24, den = 1;
  double fps() const { return double(num) / double(den); }
  std::string text() const;   // "24", "30000/1001"
};
// "24", "12.5" or "30000/1001", from 0.01 to 1000. Throws Error "WHAT: ...".
Rate parse_rate(const std::string& text, const std::string& what);

struct Clip {
  int width = 0, height = 0;
  Rate rate;
  int64_t frames = 0;         // how many are to come; 0: nobody knows
  Notes notes;                // kept in the file where its format has a place for them
  bool half_chroma = false;   // y4m: 4:2:0
};

class FrameWriter {
 public:
  virtual ~FrameWriter() = default;   // without finish(): what was written is removed
  // Throws Error if it cannot be written.
  void push(const uint8_t* rgb);
  // Puts the clip under its name. Throws Error if no frame was pushed, or if it cannot be written.
  void finish();
  int64_t frames() const { return frames_; }

 protected:
  explicit FrameWriter(std::string name) : name_(std::move(name)) {}
  virtual void write(const uint8_t* rgb) = 0;
  virtual void close() = 0;
  const std::string name_;

 private:
  int64_t frames_ = 0;   // pushed before this one
};

// Opens what `name` asks for. Throws Error if the name says nothing, the folder cannot be written to, or the clip cannot be such a file.
std::unique_ptr<FrameWriter> write_frames(const std::string& name, const Clip& clip);

class FrameReader {
 public:
  virtual ~FrameReader() = default;
  const Clip& clip() const { return clip_; }   // frames 0: only reading on tells
  // The next frame into rgb[H, W, 3]; false: there is none. Throws Error if it is cut off or damaged.
  virtual bool next(uint8_t* rgb) = 0;

 protected:
  Clip clip_;
};

// x.y4m, - (y4m from standard input), in/%04d.png (from 0 or 1 on), x.png, or anything that ffmpeg reads, if it is there.
std::unique_ptr<FrameReader> read_frames(const std::string& name);

// The name of frame or clip `number`: "out/%04d.png" -> "out/0007.png". Throws Error unless there is exactly one %d or %0Nd.
bool has_number(const std::string& name);
std::string numbered(const std::string& name, int64_t number);

}  // namespace folio
