// SPDX-License-Identifier: MIT
// Animated PNG (PNG specification, third edition, section 4.9 and 11.3.6): a PNG whose picture is the first frame, and further frames in
// chunks that other programs skip.
//   signature · IHDR · tEXt... · acTL(frames, plays) · for each frame: fcTL(sequence, size, delay), IDAT or fdAT(sequence, data) · IEND
// Each frame is compressed as a PNG of its own and its data taken over. The number of frames stands in front and is known at the end: it
// is written again then.
#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "files/image.h"
#include "files/video_formats.h"

namespace folio {

namespace {

class ApngWriter : public FrameWriter {
 public:
  ApngWriter(const std::string& name, const Clip& clip) : FrameWriter(name), file_(name), clip_(clip) {}

 private:
  void write(const uint8_t* rgb) override {
    const std::string png = encode_png(rgb, clip_.width, clip_.height);
    const std::vector<PngChunk> chunks = png_chunks(png, name_);
    std::string out;
    if (frames() == 0) {
      out = png_signature;
      put_chunk(out, "IHDR", chunks[0].data);
      put_notes(out, clip_.notes);
      control_at_ = int64_t(out.size());
      out += control(clip_.frames);
    }
    put_chunk(out, "fcTL", frame_control());
    for (const PngChunk& c : chunks) {
      if (c.type != "IDAT") continue;
      if (frames() == 0) {
        put_chunk(out, "IDAT", c.data);
      } else {
        std::string data;
        put_big(data, sequence_++);
        put_chunk(out, "fdAT", data.append(c.data));
      }
    }
    file_.write(out);
  }

  void close() override {
    std::string end;
    put_chunk(end, "IEND", "");
    file_.write(end);
    file_.overwrite(control_at_, control(frames()));
    file_.commit();
  }

  static std::string control(int64_t frames) {
    std::string data, chunk;
    put_big(data, uint32_t(frames));
    put_big(data, 0);   // played for ever
    put_chunk(chunk, "acTL", data);
    return chunk;
  }

  std::string frame_control() {
    // A frame stays den / num seconds, two numbers of 16 bits.
    int64_t seconds = clip_.rate.den, parts = clip_.rate.num;
    while (seconds > 65535 || parts > 65535) seconds = (seconds + 1) / 2, parts = (parts + 1) / 2;
    std::string data;
    put_big(data, sequence_++);
    put_big(data, uint32_t(clip_.width));
    put_big(data, uint32_t(clip_.height));
    put_big(data, 0);
    put_big(data, 0);
    put_big(data, uint32_t(seconds), 2);
    put_big(data, uint32_t(parts), 2);
    put_big(data, 0, 2);   // left as it is, and overwritten by the next
    return data;
  }

  FileWriter file_;
  const Clip clip_;
  int64_t control_at_ = 0;
  uint32_t sequence_ = 0;
};

}  // namespace

std::unique_ptr<FrameWriter> write_apng(const std::string& name, const Clip& clip) { return std::make_unique<ApngWriter>(name, clip); }

}  // namespace folio
