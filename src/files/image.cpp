// SPDX-License-Identifier: MIT
#include "files/image.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <new>

#include "base/error.h"
#include "base/file.h"

#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_MAX_DIMENSIONS 16384
#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STBI_WRITE_NO_STDIO
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb/stb_image.h>
#include <stb/stb_image_write.h>
#pragma GCC diagnostic pop

namespace folio {

namespace {

using Bytes = std::unique_ptr<uint8_t, decltype(&std::free)>;

// Deflate makes at most 1,032 bytes of one: a picture that claims more than its data can hold is not given any room.
constexpr int64_t most_inflation = 1032;

void check_size(std::string_view file, const std::string& name) {
  const std::vector<PngChunk> chunks = png_chunks(file, name);
  check(!chunks.empty() && chunks[0].type == "IHDR" && chunks[0].data.size() == 13, name,
        ": damaged: the file does not begin with its size");
  const std::string_view head = chunks[0].data;
  const int64_t width = big(head, 0), height = big(head, 4), depth = uint8_t(head[8]);
  const int channels = head[9] == 2 ? 3 : head[9] == 4 ? 2 : head[9] == 6 ? 4 : 1;
  check(width > 0 && height > 0 && width <= most_pixels_per_side && height <= most_pixels_per_side && width * height <= most_pixels, name,
        ": a picture of ", width, "x", height, " is not read here; at most ", most_pixels_per_side, " a side and ", most_pixels, " pixels");
  int64_t data = 0;
  for (const PngChunk& c : chunks) data += c.type == "IDAT" ? int64_t(c.data.size()) : 0;
  check(width * height * channels * depth / 8 <= data * most_inflation, name, ": ", data, " bytes of data cannot be a picture of ", width,
        "x", height);
}

// One row or column at a new length: each output reads inputs [first, first + weights.size()).
struct Tap {
  int first;
  std::vector<float> weights;
};

// `to` outputs over the inputs from `begin` on for `length`, of `most` inputs that there are.
std::vector<Tap> taps(double begin, double length, int to, int most) {
  const double step = length / to, reach = std::max(1.0, step);
  std::vector<Tap> all;
  for (int i = 0; i < to; ++i) {
    const double centre = begin + (i + 0.5) * step - 0.5;
    const int first = std::max(0, int(std::ceil(centre - reach))), last = std::min(most - 1, int(std::floor(centre + reach)));
    Tap tap{std::min(first, most - 1), {}};
    double sum = 0;
    for (int k = tap.first; k <= std::max(last, tap.first); ++k) {
      tap.weights.push_back(float(std::max(1e-6, 1 - std::fabs(k - centre) / reach)));
      sum += tap.weights.back();
    }
    for (float& w : tap.weights) w = float(w / sum);
    all.push_back(std::move(tap));
  }
  return all;
}

}  // namespace

Image decode_png(std::string_view file, const std::string& name) {
  check(file.size() <= size_t(INT32_MAX), name, ": the file is too large for a picture");
  check_size(file, name);
  Image image;
  int channels = 0;
  const Bytes pixels(
      stbi_load_from_memory(reinterpret_cast<const uint8_t*>(file.data()), int(file.size()), &image.width, &image.height, &channels, 3),
      std::free);
  check(pixels != nullptr, name, ": damaged: ", stbi_failure_reason() ? stbi_failure_reason() : "it cannot be decoded");
  image.rgb.assign(pixels.get(), pixels.get() + size_t(image.width) * size_t(image.height) * 3);
  return image;
}

Image read_png(const std::string& path) { return decode_png(read_file(path), path); }

std::string encode_png(const uint8_t* rgb, int width, int height, const Notes& notes) {
  int bytes = 0;
  const Bytes png(stbi_write_png_to_mem(rgb, width * 3, width, height, 3, &bytes), std::free);
  if (!png) throw std::bad_alloc();
  const std::string_view whole(reinterpret_cast<const char*>(png.get()), size_t(bytes));
  const size_t head = png_signature.size() + 12 + 13;   // the signature and IHDR
  std::string file(whole.substr(0, head));
  put_notes(file, notes);
  return file.append(whole.substr(head));
}

void write_png(const std::string& path, const Image& image, const Notes& notes) {
  FileWriter file(path);
  file.write(encode_png(image.rgb.data(), image.width, image.height, notes));
  file.commit();
}

Image fit(const Image& image, int width, int height) {
  if (image.width == width && image.height == height) return image;
  const double scale = std::min(double(image.width) / width, double(image.height) / height);
  const double w = scale * width, h = scale * height;
  const std::vector<Tap> across = taps((image.width - w) / 2, w, width, image.width),
                         down = taps((image.height - h) / 2, h, height, image.height);
  std::vector<float> rows(size_t(image.height) * size_t(width) * 3);   // [height of the image, width, 3]
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < width; ++x)
      for (int c = 0; c < 3; ++c) {
        float sum = 0;
        const uint8_t* in = image.rgb.data() + (size_t(y) * size_t(image.width) + size_t(across[size_t(x)].first)) * 3 + size_t(c);
        for (float weight : across[size_t(x)].weights) sum += weight * float(*in), in += 3;
        rows[(size_t(y) * size_t(width) + size_t(x)) * 3 + size_t(c)] = sum;
      }
  Image out{width, height, std::vector<uint8_t>(size_t(width) * size_t(height) * 3)};
  const size_t row = size_t(width) * 3;
  for (size_t y = 0; y < size_t(height); ++y)
    for (size_t i = 0; i < row; ++i) {
      float sum = 0.5f;
      const float* in = rows.data() + size_t(down[y].first) * row + i;
      for (float weight : down[y].weights) sum += weight * *in, in += row;
      out.rgb[y * row + i] = uint8_t(std::clamp(sum, 0.0f, 255.0f));
    }
  return out;
}

}  // namespace folio
