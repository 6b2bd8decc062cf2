// SPDX-License-Identifier: MIT
#include "tools/lib/video_files.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "tools/lib/npz.h"

namespace folio {

// Index of [z, count, rows, cols] for each of [count, rows, cols, z], one after the other.
template <class F> static void each_number(const Latents& l, F f) {
  const size_t plane = size_t(l.rows * l.cols);
  for (size_t t = 0, i = 0; t < size_t(l.count); ++t)
    for (size_t p = 0; p < plane; ++p)
      for (size_t c = 0; c < size_t(l.z); ++c) f(i++, (c * size_t(l.count) + t) * plane + p);
}

void save_latents(const std::string& path, const Latents& l) {
  std::vector<float> turned(l.values.size());
  each_number(l, [&](size_t here, size_t there) { turned[there] = l.values[here]; });
  write_npy(path, {1, l.z, l.count, l.rows, l.cols}, turned);
}

Latents load_latents(const std::string& path, int64_t z, const std::string& vae) {
  const Array a = read_npy(path);
  std::vector<int64_t> dims = a.dims;
  if (dims.size() == 5 && dims[0] == 1) dims.erase(dims.begin());
  check(dims.size() == 4, path, ": the array is ", a.text(), ", expected latents (1, ", z, ", frames, rows, columns)");
  check(dims[0] == z, path, ": latents of ", dims[0], " channels, but ", vae, " has ", z, ": they are of another model");
  check(!a.numbers.empty(), path, ": the array ", a.text(), " is empty");
  Latents l{dims[1], dims[2], dims[3], z, std::vector<float>(a.numbers.size())};
  each_number(l, [&](size_t here, size_t there) { l.values[here] = float(a.numbers[there]); });
  const auto odd = std::find_if_not(l.values.begin(), l.values.end(), [](float x) { return std::isfinite(x); });
  check(odd == l.values.end(), path, ": the latents hold ", odd == l.values.end() ? 0.0 : double(*odd), ", which is no number to decode");
  return l;
}

Frames load_frames(const std::string& name, int64_t most, int width, int height) {
  const std::unique_ptr<FrameReader> reader = read_frames(name);
  Frames all{reader->clip(), 0, {}};
  Image next{all.clip.width, all.clip.height, std::vector<uint8_t>(all.frame_bytes())};
  if (width > 0) all.clip.width = width;
  if (height > 0) all.clip.height = height;
  while ((most == 0 || all.count < most) && reader->next(next.rgb.data())) {
    const Image sized = fit(next, all.clip.width, all.clip.height);
    all.rgb.insert(all.rgb.end(), sized.rgb.begin(), sized.rgb.end());
    ++all.count;
  }
  check(all.count > 0, name, ": there is no frame in it");
  check(all.count >= most, name, ": it has ", all.count, " frames; --frames asks for ", most);
  return all;
}

static double decibel(double mean_square) {
  return mean_square == 0 ? std::numeric_limits<double>::infinity() : 10 * std::log10(255.0 * 255.0 / mean_square);
}

void Psnr::add(const uint8_t* a, const uint8_t* b, size_t bytes) {
  double sum = 0;
  for (size_t i = 0; i < bytes; ++i) sum += double((int(a[i]) - b[i]) * (int(a[i]) - b[i]));
  sum_ += sum / double(bytes);
  worst_ = std::max(worst_, sum / double(bytes));
  ++frames_;
}
double Psnr::all() const { return decibel(sum_ / double(frames_)); }
double Psnr::worst() const { return decibel(worst_); }

void to_bytes(const float* from, size_t count, std::vector<uint8_t>& to) {
  to.resize(count);
  for (size_t i = 0; i < count; ++i) to[i] = uint8_t(std::clamp(from[i], 0.0f, 1.0f) * 255 + 0.5f);
}

std::vector<float> to_floats(const uint8_t* from, size_t count) {
  std::vector<float> to(count);
  for (size_t i = 0; i < count; ++i) to[i] = float(from[i]) / 255;
  return to;
}

Image sheet(const std::vector<Image>& pictures, int across, int side) {
  const int w = pictures[0].width, h = pictures[0].height, times = std::max(1, (side + h - 1) / h), gap = 2;
  const int columns = std::min(across, int(pictures.size())), rows = (int(pictures.size()) + columns - 1) / columns;
  Image all{columns * (w * times + gap) - gap, rows * (h * times + gap) - gap, {}};
  all.rgb.assign(size_t(all.width) * size_t(all.height) * 3, 0);
  for (int i = 0; i < int(pictures.size()); ++i)
    for (int y = 0; y < h * times; ++y)
      for (int x = 0; x < w * times; ++x) {
        const uint8_t* from = &pictures[size_t(i)].rgb[size_t((y / times) * w + x / times) * 3];
        std::copy_n(
            from, 3,
            &all.rgb[(size_t(i / columns * (h * times + gap) + y) * size_t(all.width) + size_t(i % columns * (w * times + gap) + x)) * 3]);
      }
  return all;
}

}  // namespace folio
