// SPDX-License-Identifier: MIT
#include "files/palette.h"

#include <algorithm>
#include <unordered_map>

namespace folio {

namespace {

constexpr int most_colours = 256, bins_per_side = 32;

int bin_of(int r, int g, int b) { return (r >> 3) * bins_per_side * bins_per_side + (g >> 3) * bins_per_side + (b >> 3); }

// The colours as they are, if there are few enough; an empty palette otherwise.
Indexed keep_colours(const uint8_t* rgb, size_t pixels) {
  Indexed out;
  std::unordered_map<uint32_t, uint8_t> known;
  for (size_t i = 0; i < pixels; ++i) {
    const uint8_t* p = rgb + 3 * i;
    const uint32_t key = uint32_t(p[0]) << 16 | uint32_t(p[1]) << 8 | p[2];
    auto found = known.find(key);
    if (found == known.end()) {
      if (known.size() == most_colours) return {};
      found = known.emplace(key, uint8_t(known.size())).first;
      out.palette.push_back({p[0], p[1], p[2]});
    }
    out.pixels.push_back(found->second);
  }
  return out;
}

struct Bin {
  int64_t count = 0;
  double sum[3] = {}, squares[3] = {};
  void add(const Bin& other) {
    count += other.count;
    for (int c = 0; c < 3; ++c) sum[c] += other.sum[c], squares[c] += other.squares[c];
  }
  double mean(int c) const { return sum[c] / double(count); }
  double error(int c) const { return squares[c] - sum[c] * sum[c] / double(count); }   // squared, if all became the mean
};

struct Box {
  Bin* first;
  Bin* last;    // behind it
  Bin all = {};
  int widest = 0;
  double error = 0;

  Box(Bin* from, Bin* to) : first(from), last(to) {
    for (const Bin* b = from; b < to; ++b) all.add(*b);
    for (int c = 0; c < 3; ++c)
      if (all.error(c) > all.error(widest)) widest = c;
    error = to - from > 1 ? all.error(widest) : 0;
  }
};

std::vector<Colour> cut_boxes(const uint8_t* rgb, size_t pixels) {
  std::vector<Bin> bins(bins_per_side * bins_per_side * bins_per_side);
  for (size_t i = 0; i < pixels; ++i) {
    const uint8_t* p = rgb + 3 * i;
    Bin& b = bins[size_t(bin_of(p[0], p[1], p[2]))];
    ++b.count;
    for (int c = 0; c < 3; ++c) b.sum[c] += p[c], b.squares[c] += double(p[c]) * p[c];
  }
  std::erase_if(bins, [](const Bin& b) { return b.count == 0; });
  auto errs_less = [](const Box& a, const Box& b) { return a.error < b.error; };
  std::vector<Box> heap{Box(bins.data(), bins.data() + bins.size())};
  while (heap.size() < most_colours && heap.front().error > 0) {
    std::pop_heap(heap.begin(), heap.end(), errs_less);
    const Box box = heap.back();
    heap.pop_back();
    const int c = box.widest;
    const double cut = box.all.mean(c);
    Bin* middle = std::partition(box.first, box.last, [&](const Bin& b) { return b.mean(c) < cut; });
    if (middle == box.first || middle == box.last) middle = box.first + (box.last - box.first) / 2;   // means as alike as rounding goes
    for (const Box& half : {Box(box.first, middle), Box(middle, box.last)}) {
      heap.push_back(half);
      std::push_heap(heap.begin(), heap.end(), errs_less);
    }
  }
  std::vector<Colour> palette;
  for (const Box& box : heap) {
    Colour colour;
    for (int c = 0; c < 3; ++c) colour[size_t(c)] = uint8_t(std::clamp(box.all.mean(c) + 0.5, 0.0, 255.0));
    palette.push_back(colour);
  }
  return palette;
}

// The nearest colour of a palette, looked for once for each bin.
class Nearest {
 public:
  explicit Nearest(const std::vector<Colour>& palette) : palette_(palette), known_(bins_per_side * bins_per_side * bins_per_side, -1) {}
  uint8_t operator()(const int* rgb) {
    int16_t& best = known_[size_t(bin_of(rgb[0], rgb[1], rgb[2]))];
    if (best >= 0) return uint8_t(best);
    int least = INT32_MAX;
    for (size_t i = 0; i < palette_.size(); ++i) {
      int distance = 0;
      for (size_t c = 0; c < 3; ++c) {
        const int d = palette_[i][c] - ((rgb[c] & ~7) + 4);   // from the middle of the bin
        distance += d * d;
      }
      if (distance < least) least = distance, best = int16_t(i);
    }
    return uint8_t(best);
  }

 private:
  const std::vector<Colour>& palette_;
  std::vector<int16_t> known_;
};

void dither(const uint8_t* rgb, int width, int height, Indexed& out) {
  Nearest nearest(out.palette);
  const size_t row = 3 * size_t(width + 2);   // a pixel more at both ends, for errors that fall off
  std::vector<int> now(row), below(row);      // errors in sixteenths
  for (int y = 0; y < height; ++y) {
    const int step = y % 2 ? -1 : 1;
    for (int i = 0, x = y % 2 ? width - 1 : 0; i < width; ++i, x += step) {
      const uint8_t* p = rgb + 3 * (size_t(y) * size_t(width) + size_t(x));
      int* here = now.data() + 3 * (x + 1);
      int* under = below.data() + 3 * (x + 1);
      int want[3];
      for (int c = 0; c < 3; ++c) want[c] = std::clamp(p[c] + here[c] / 16, 0, 255);
      const uint8_t index = nearest(want);
      out.pixels[size_t(y) * size_t(width) + size_t(x)] = index;
      for (int c = 0; c < 3; ++c) {
        const int error = want[c] - out.palette[index][size_t(c)];
        here[c + 3 * step] += 7 * error;
        under[c - 3 * step] += 3 * error;
        under[c] += 5 * error;
        under[c + 3 * step] += error;
      }
    }
    std::swap(now, below);
    std::fill(below.begin(), below.end(), 0);
  }
}

}  // namespace

Indexed index_colours(const uint8_t* rgb, int width, int height) {
  const size_t pixels = size_t(width) * size_t(height);
  Indexed out = keep_colours(rgb, pixels);
  if (!out.palette.empty()) return out;
  out.palette = cut_boxes(rgb, pixels);
  out.pixels.resize(pixels);
  dither(rgb, width, height, out);
  return out;
}

}  // namespace folio
