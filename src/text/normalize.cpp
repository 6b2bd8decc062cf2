// SPDX-License-Identifier: MIT
#include "text/normalize.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "base/error.h"
#include "text/utf8.h"

namespace folio {

namespace {

// utf8proc sorts a run of combining marks in quadratic time. Unicode's stream-safe format lets no more than 30 follow each other;
// a run of this many is no text, and is cut.
constexpr int longest_run = 1024;

// The bytes of valid UTF-8 at the head of `text` that can be normalised at once.
size_t chunk(std::string_view text) {
  int marks = 0;
  for (size_t at = 0; at < text.size();) {
    if (uint8_t(text[at]) < 0x80) {
      ++at;
      marks = 0;
      continue;
    }
    utf8proc_int32_t point = 0;
    const auto bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data() + at);
    const auto size = utf8proc_iterate(bytes, utf8proc_ssize_t(text.size() - at), &point);
    marks = utf8proc_get_property(point)->combining_class ? marks + 1 : 0;
    if (marks > longest_run) return at;
    at += size_t(std::max<utf8proc_ssize_t>(1, size));
  }
  return text.size();
}

}  // namespace

std::string normalize(std::string_view text, bool compatible) {
  const auto ascii = [](char c) { return uint8_t(c) < 0x80; };
  if (std::all_of(text.begin(), text.end(), ascii)) return std::string(text);
  const int options = UTF8PROC_STABLE | UTF8PROC_COMPOSE | (compatible ? UTF8PROC_COMPAT : 0);
  std::string out;
  while (!text.empty()) {
    std::string_view valid = text.substr(0, utf8_run(text, true));
    text.remove_prefix(valid.size());
    while (!valid.empty()) {
      const size_t size = chunk(valid);
      utf8proc_uint8_t* mapped = nullptr;
      const auto bytes = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(valid.data()), utf8proc_ssize_t(size), &mapped,
                                      utf8proc_option_t(options));
      const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(mapped, std::free);
      check(bytes >= 0, "tokenizer: cannot normalise the text: ", utf8proc_errmsg(bytes));
      out.append(reinterpret_cast<const char*>(mapped), size_t(bytes));
      valid.remove_prefix(size);
    }
    const size_t invalid = utf8_run(text, false);
    out.append(text.substr(0, invalid));
    text.remove_prefix(invalid);
  }
  return out;
}

}  // namespace folio
