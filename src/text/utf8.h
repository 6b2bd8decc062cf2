// SPDX-License-Identifier: MIT
// UTF-8, strictly: no overlong forms, no surrogates, nothing above U+10FFFF. Text from outside may be any bytes; what is not
// UTF-8 is carried along byte by byte and never altered, so these few questions are all that the room asks.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace folio {

// How the bytes at the head of a text read as one code point.
struct Utf8 {
  uint32_t size;  // 1 to 4: bytes of the code point; or, where invalid, of what can be no part of one (never 0)
  bool valid;
  bool cut;  // invalid here only because the text ends: more bytes could complete it
};

// Reads the code point at the head of `text`, which is not empty. Where it is invalid, `size` is the longest prefix that some
// valid code point begins with (at least 1): the unit that Unicode's standard replaces by one U+FFFD.
inline Utf8 read_utf8(std::string_view text) {
  const auto byte = [&](size_t i) { return uint8_t(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {1, true, false};
  if (lead < 0xc2 || lead > 0xf4) return {1, false, false};
  const uint32_t size = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  // The second byte is narrower after four leads: E0 and F0 (overlong), ED (surrogates), F4 (above U+10FFFF).
  const uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80, high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  for (uint32_t i = 1; i < size; ++i) {
    if (i == text.size()) return {i, false, true};
    if (byte(i) < (i == 1 ? low : 0x80) || byte(i) > (i == 1 ? high : 0xbf)) return {i, false, false};
  }
  return {size, true, false};
}

// How many bytes at the head of `text` are valid UTF-8 (`valid`), or are not.
inline size_t utf8_run(std::string_view text, bool valid) {
  size_t at = 0;
  while (at < text.size()) {
    if (valid && uint8_t(text[at]) < 0x80) {
      ++at;
      continue;
    }
    const Utf8 read = read_utf8(text.substr(at));
    if (read.valid != valid) break;
    at += read.size;
  }
  return at;
}

// At most `most` bytes of a text that came from outside, in quotes and fit for an error message on a terminal.
inline std::string shown(std::string_view text, size_t most) {
  size_t size = std::min(text.size(), most);
  while (size && size < text.size() && (uint8_t(text[size]) & 0xc0) == 0x80) --size;  // no half code point
  std::string out = "'";
  for (char c : text.substr(0, size)) out += uint8_t(c) < 0x20 || c == 0x7f ? ' ' : c;
  return out + (size < text.size() ? "...'" : "'");
}

}  // namespace folio
