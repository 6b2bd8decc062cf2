// SPDX-License-Identifier: MIT
// The only way to fail: Error carries one sentence for the person in front of the screen (what, where, what was expected).
// It is thrown where the world is wrong (a file, a flag, a shape in a file) and caught once, in each tool's main().
// Expected outcomes (cache full, end of text) are return values; our own mistakes are asserts.
#pragma once
#include <concepts>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>

namespace folio {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Anything that a sentence is made of, as operator<< prints it. Streams would say the same, but every sentence would cost the compiler
// a template of its own, and this file is part of all others.
class Words {
 public:
  Words(std::string_view text) : text_(text) {}
  Words(const std::string& text) : text_(text) {}
  Words(const char* text) : text_(text) {}
  Words(char c) : text_(1, c) {}
  Words(bool b) : text_(b ? "1" : "0") {}
  Words(double number);
  template <std::integral Number> Words(Number number) : text_(std::to_string(number)) {}
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

std::string join_words(std::initializer_list<Words> words);

// Joins its arguments into one string.
template <class... Parts> std::string join(const Parts&... parts) { return join_words({Words(parts)...}); }

template <class... Parts> [[noreturn]] void fail(const Parts&... parts) { throw Error(join(parts...)); }

// Throws Error with the joined parts unless `good`. Not for the token loop: everything there has been checked before.
template <class... Parts> void check(bool good, const Parts&... parts) {
  if (!good) fail(parts...);
}

}  // namespace folio
