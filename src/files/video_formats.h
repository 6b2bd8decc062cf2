// SPDX-License-Identifier: MIT
// The writers and readers that video.cpp chooses from; what each writes stands in its own file.
#pragma once
#include <functional>

#include "files/video.h"

namespace folio {

std::unique_ptr<FrameWriter> write_y4m(const std::string& name, const Clip& clip);
std::unique_ptr<FrameWriter> write_gif(const std::string& name, const Clip& clip);
std::unique_ptr<FrameWriter> write_apng(const std::string& name, const Clip& clip);
std::unique_ptr<FrameWriter> write_with_ffmpeg(const std::string& name, const Clip& clip, const std::string& format);

// Up to that many bytes; fewer at the end alone.
using ByteSource = std::function<size_t(void* to, size_t bytes)>;
std::unique_ptr<FrameReader> read_y4m(const std::string& name, ByteSource source);
std::unique_ptr<FrameReader> read_with_ffmpeg(const std::string& name);

// "seed=42; sampler=euler"
std::string joined(const Notes& notes);

}  // namespace folio
