// SPDX-License-Identifier: MIT
#include <algorithm>

#include "files/png.h"
#include "fuzz.h"

namespace folio::fuzz {

namespace {

using Random = std::mt19937_64;

size_t below(Random& random, size_t n) { return n ? random() % n : 0; }
bool chance(Random& random, int percent) { return int(below(random, 100)) < percent; }
template <class T> T& any(std::vector<T>& list, Random& random) { return list[below(random, list.size())]; }

// Numbers at which counters overflow, signs flip and checks are off by one.
uint64_t interesting(Random& random) {
  constexpr uint64_t numbers[] = {
      0,          1,           2,        4,          16,         31,         32,         64,         127,
      128,        255,         256,      257,        4096,       0x7fff,     0x8000,     0xffff,     0x10000,
      1u << 24,   0x7fffffff,  1u << 31, 0xffffffff, 1ull << 32, 1ull << 40, 1ull << 61, 1ull << 62, (1ull << 62) + 1,
      1ull << 63, ~0ull - 255, ~0ull};
  const uint64_t n = numbers[below(random, std::size(numbers))];
  return chance(random, 30) ? n + below(random, 5) - 2 : chance(random, 10) ? random() : n;
}

// Somewhere in the file, mostly in head and index: the data is long and says little.
size_t place(const std::string& file, Random& random) {
  const size_t index = file.size() >= 64 ? std::min<uint64_t>(number_at<uint64_t>(file, 16), file.size() - 64) : 0;
  return chance(random, 85) && index ? (chance(random, 90) ? 64 : 0) + below(random, index) : below(random, file.size());
}

// Of a picture or a clip: the head is short, and what does not begin as such a file is soon refused.
size_t media_place(const std::string& file, Random& random) {
  const size_t from = file.size() > 8 && chance(random, 95) ? 8 : 0;
  return from + below(random, (chance(random, 40) ? std::min<size_t>(file.size(), 64) : file.size()) - from);
}

using Place = size_t(const std::string&, Random&);

void overwrite(std::string& file, Random& random, Place& place) {
  const size_t at = place(file, random), bytes = size_t(1) << below(random, 4);
  const uint64_t n = interesting(random);
  for (size_t i = 0; i < bytes && at + i < file.size(); ++i) file[at + i] = char(n >> 8 * i);
}

void spoil_once(std::string& file, const std::string& other, Random& random, Place& place) {
  if (file.empty()) file = other;
  switch (below(random, 8)) {
    case 0: case 1:
      for (size_t n = 1 + below(random, 4); n > 0; --n) file[place(file, random)] ^= char(1 << below(random, 8));
      return;
    case 2: case 3: case 4: return overwrite(file, random, place);
    case 5: return file.resize(below(random, file.size()));
    case 6: {  // a stretch of another file, over what is there or between it
      const size_t at = place(file, random), from = below(random, other.size()),
                   n = std::min(1 + below(random, 64), other.size() - from);
      file.replace(at, chance(random, 50) ? n : 0, other, from, n);
      return;
    }
    default: {
      const size_t at = place(file, random);
      file.erase(at, 1 + below(random, 32));
    }
  }
}

MetaValue random_value(Random& random) {
  switch (below(random, 6)) {
    case 0: return int64_t(interesting(random));
    case 1: return double(int64_t(interesting(random))) / 3;
    case 2: {
      constexpr const char* texts[] = {"", "bpe", "spm", "unigram", "nfc", "nfkc", "none", "\xf0\x9f\x99\x82"};
      return std::string(texts[below(random, std::size(texts))]);
    }
    case 3: return std::vector<int64_t>(below(random, 4), int64_t(interesting(random)));
    case 4: return std::vector<double>(below(random, 4), 0.5);
    default: {  // patterns that do not compile, or run away
      constexpr const char* patterns[] = {
          "",         "(",   "(a+)+$",    "(?R)", "\\p{Greek}+|", "(?=a)*", "[^\\r\\n\\p{L}]?+\\p{L}+", "\\K", "(*LIMIT_MATCH=9)a",
          "(a|aa)*b", "\\C", ".{1,60000}"};
      return std::vector<std::string>(1 + below(random, 2), patterns[below(random, std::size(patterns))]);
    }
  }
}

void spoil_metadata(WeightsWriter& w, const WeightsWriter& other, Random& random) {
  if (w.metadata.empty()) w.metadata = other.metadata;
  if (w.metadata.empty()) return;
  auto& m = any(w.metadata, random);
  switch (below(random, 5)) {
    case 0: m = w.metadata.back(), w.metadata.pop_back(); return;
    case 1: m.type = uint8_t(below(random, 7)); return;
    case 2: overwrite(m.value, random, place); return;
    default: {
      WeightsWriter one;
      MetaValue value = random_value(random);
      while (chance(random, 80) && value.index() != m.type) value = random_value(random);  // mostly of the type that it had
      one.meta(m.key, value);
      if (chance(random, 50) && m.type == 0) one.metadata.clear(), one.meta(m.key, int(below(random, 3)) - 1);  // flags
      m = one.metadata[0];
    }
  }
}

void spoil_tensor(WeightsWriter& w, const WeightsWriter& other, Random& random) {
  if (w.tensors.empty()) w.tensors = other.tensors;
  if (w.tensors.empty()) return;
  auto& t = any(w.tensors, random);
  DType type = F32;
  parse_dtype(t.format, type);
  // Numbers of the tensor's own width, so that a spoiled id stays one id.
  const size_t width = size_t(format(type).bytes);
  switch (below(random, 7)) {
    case 0: t = w.tensors.back(), w.tensors.pop_back(); return;
    case 1: {  // longer or shorter by some elements
      if (t.shape.size() != 1 || format(type).block != 1) return;
      t.shape[0] = std::max<uint64_t>(1, t.shape[0] + below(random, 5) - 2);
      t.data.resize(t.shape[0] * width);
      return;
    }
    case 2: std::swap(t.data, any(w.tensors, random).data); return;
    case 3: {
      if (other.tensors.empty()) return;
      const std::string name = t.name;
      t = other.tensors[below(random, other.tensors.size())];
      if (chance(random, 80)) t.name = name;
      return;
    }
    case 4: t.shape.insert(t.shape.begin() + ptrdiff_t(below(random, t.shape.size() + 1)), 1); return;
    default: {
      if (t.data.size() < width) return;
      for (size_t n = 1 + below(random, 3); n > 0; --n) {
        const size_t at = below(random, t.data.size() / width) * width;
        const uint64_t value = interesting(random);
        for (size_t i = 0; i < width && i < 8; ++i) t.data[at + i] = char(value >> 8 * i);
        if (chance(random, 60)) t.data[at] = char(below(random, 8)), std::fill_n(&t.data[at] + 1, width - 1, '\0');
      }
    }
  }
}

}  // namespace

std::string spoil_bytes(std::string file, const std::string& other, Random& random) {
  for (size_t n = 1 + below(random, 3); n > 0; --n) spoil_once(file, other, random, place);
  if (chance(random, 75)) repair_head(file);
  return file;
}

std::string spoil_content(WeightsWriter content, const WeightsWriter& other, Random& random) {
  for (size_t n = 1 + below(random, 2); n > 0; --n) {
    if (chance(random, 50))
      spoil_metadata(content, other, random);
    else
      spoil_tensor(content, other, random);
  }
  return content.bytes();
}

void repair_png(std::string& file) {
  if (!file.starts_with(png_signature)) return;
  for (size_t at = png_signature.size(); file.size() - at >= 12;) {
    const std::string_view rest = std::string_view(file).substr(at);
    const size_t bytes = big(rest, 0);
    if (bytes > rest.size() - 12) return;
    std::string chunk;
    put_chunk(chunk, rest.substr(4, 4), rest.substr(8, bytes));
    file.replace(at, chunk.size(), chunk);
    at += chunk.size();
  }
}

// A word of a y4m's first line that was not there, in front of those that were.
static void spoil_line(std::string& file, Random& random) {
  constexpr const char* words[] = {"W0",       "W1",    "W16384",  "W16385", "H99999999999999999999", "H-1", "F0:0",  "F1:0",  "F1000000:1",
                                   "F30:1001", "F1:99", "F0.5",    "Ii",     "I?",                    "It",  "C420",  "C422",  "Cmono",
                                   "C444",     "C444p10", "C411",  "XCOLORRANGE=FULL", "X",           "",    "A0:0",  "W",     "\n"};
  const size_t at = std::min(file.find(' '), file.size());
  file.insert(at, std::string(" ") + words[below(random, std::size(words))]);
}

std::string spoil_media(std::string file, const std::string& other, Random& random) {
  for (size_t n = 1 + below(random, 3); n > 0; --n) {
    if (file.starts_with("YUV4MPEG2") && chance(random, 40)) spoil_line(file, random);
    else spoil_once(file, other, random, media_place);
  }
  if (chance(random, 75)) repair_png(file);
  return file;
}

}  // namespace folio::fuzz
