// SPDX-License-Identifier: MIT
#include "text/split.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "text/utf8.h"

namespace folio {

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t max_patterns = 64, max_pattern_bytes = 16384;  // the longest in use has about 700

// Start positions that one call may try: then we look at the clock, since the limits of PCRE2 hold for each position alone.
constexpr size_t starts_per_call = 4096;

std::string reason(int code) {
  PCRE2_UCHAR text[160];
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

constexpr size_t pattern_shown = 120;  // bytes of a pattern in an error

template <auto release>
struct Release {
  template <class T>
  void operator()(T* p) const {
    release(p);
  }
};
template <class T, auto release>
using Owned = std::unique_ptr<T, Release<release>>;

}  // namespace

struct Split::Pattern {
  std::string text;
  Owned<pcre2_code, pcre2_code_free> code;
};

namespace {

// One text being cut by one pattern after the other.
class Cutter {
 public:
  explicit Cutter(std::string_view text)
      : text_(text), match_(pcre2_match_data_create(1, nullptr)), context_(pcre2_match_context_create(nullptr)) {
    check(match_ && context_, "tokenizer: out of memory");
    // Backtracking over a run of white space takes steps in proportion to the run: what is honest stays far below this.
    pcre2_set_match_limit(context_.get(), uint32_t(std::min<size_t>(UINT32_MAX, 100'000 + 10 * text.size())));
    pcre2_set_heap_limit(context_.get(), 65536);  // KiB
    // Ten seconds and ten more for every MB: a hundred times what the patterns in use take.
    deadline_ = Clock::now() + std::chrono::seconds(10) + std::chrono::microseconds(10 * text.size());
    // PCRE2 counts U+180E as white space; Unicode since 6.3, and so every other engine, does not. Match a text that has
    // U+200B, of the same class and length, in its place.
    static constexpr std::string_view vowel_separator = "\xe1\xa0\x8e", stand_in = "\xe2\x80\x8b";
    for (size_t at = text.find(vowel_separator); at != text.npos; at = text.find(vowel_separator, at + 3)) {
      if (copy_.empty()) copy_ = text;
      copy_.replace(at, 3, stand_in);
    }
    if (!copy_.empty()) text_ = copy_;
  }

  // Appends the ends of the pieces of text_[from, to).
  void cut(const pcre2_code* code, std::string_view pattern, size_t from, size_t to, std::vector<uint32_t>& ends) {
    const std::string_view piece = text_.substr(from, to - from);
    size_t at = 0, done = 0;  // everything before `done` is in `ends`
    while (at < piece.size()) {
      size_t begin, end;
      if (!find(code, pattern, piece, at, begin, end)) {
        at = past(piece, at + starts_per_call);
        continue;
      }
      // A match may be empty, or begin before its place by way of \K: neither moves us on.
      begin = std::max(begin, done);
      if (end <= begin) {
        at = past(piece, std::max(at, begin));
        continue;
      }
      if (begin > done) ends.push_back(uint32_t(from + begin));
      ends.push_back(uint32_t(from + end));
      done = at = end;
    }
    if (done < piece.size()) ends.push_back(uint32_t(to));
  }

 private:
  // The first match that starts in [at, at + starts_per_call].
  bool find(const pcre2_code* code, std::string_view pattern, std::string_view piece, size_t at, size_t& begin, size_t& end) {
    pcre2_set_offset_limit(context_.get(), at + starts_per_call);
    const auto subject = reinterpret_cast<PCRE2_SPTR>(piece.data());
    int found = pcre2_match(code, subject, piece.size(), at, PCRE2_NO_UTF_CHECK, match_.get(), context_.get());
    // Compiled code has a small stack; the interpreter uses the heap, within its limit.
    if (found == PCRE2_ERROR_JIT_STACKLIMIT)
      found = pcre2_match(code, subject, piece.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match_.get(), context_.get());
    if (found < 0 && found != PCRE2_ERROR_NOMATCH)
      fail("tokenizer: the split pattern ", shown(pattern, pattern_shown), " fails on this text: ", reason(found));
    if ((found < 0 || ++calls_ % 256 == 0) && Clock::now() > deadline_)
      fail("tokenizer: the split pattern ", shown(pattern, pattern_shown), " takes too long on this text");
    if (found < 0) return false;
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match_.get());
    begin = bounds[0];
    end = bounds[1];
    return true;
  }

  // The first code point boundary after `at`.
  static size_t past(std::string_view piece, size_t at) {
    do ++at;
    while (at < piece.size() && (uint8_t(piece[at]) & 0xc0) == 0x80);
    return at;
  }

  std::string_view text_;
  std::string copy_;
  Owned<pcre2_match_data, pcre2_match_data_free> match_;
  Owned<pcre2_match_context, pcre2_match_context_free> context_;
  Clock::time_point deadline_;
  unsigned calls_ = 0;
};

}  // namespace

Split::Split(const std::vector<std::string>& patterns) {
  check(patterns.size() <= max_patterns, "tokenizer: ", patterns.size(), " split patterns, expected at most ", max_patterns);
  for (const std::string& text : patterns) {
    check(text.size() <= max_pattern_bytes, "tokenizer: the split pattern ", shown(text, pattern_shown), " has ", text.size(),
          " bytes, expected at most ", max_pattern_bytes);
    int error = 0;
    PCRE2_SIZE where = 0;
    // \C would match half a code point.
    const uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_USE_OFFSET_LIMIT;
    Pattern pattern{text, {}};
    pattern.code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), options, &error, &where, nullptr));
    check(pattern.code != nullptr, "tokenizer: the split pattern ", shown(text, pattern_shown), " is wrong at byte ", where, ": ",
          reason(error));
    pcre2_jit_compile(pattern.code.get(), PCRE2_JIT_COMPLETE);  // where it cannot, the interpreter serves
    patterns_.push_back(std::move(pattern));
  }
}

Split::~Split() = default;

void Split::cut(std::string_view text, std::vector<uint32_t>& ends) const {
  ends.clear();
  if (text.empty()) return;
  ends.push_back(uint32_t(text.size()));
  if (patterns_.empty()) return;
  Cutter cutter(text);
  std::vector<uint32_t> whole;
  for (const Pattern& pattern : patterns_) {
    whole.swap(ends);
    ends.clear();
    size_t from = 0;
    for (uint32_t to : whole) {
      cutter.cut(pattern.code.get(), pattern.text, from, to, ends);
      from = to;
    }
  }
}

}  // namespace folio
