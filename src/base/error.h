// SPDX-License-Identifier: MIT
// The only way to fail: Error carries one sentence for the person in front of the screen (what, where, what was expected).
// It is thrown where the world is wrong (a file, a flag, a shape in a file) and caught once, in each tool's main().
// Expected outcomes (cache full, end of text) are return values; our own mistakes are asserts.
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

namespace folio {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Joins its arguments into one string, as operator<< would print them.
template <class... Parts> std::string join(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

template <class... Parts> [[noreturn]] void fail(const Parts&... parts) { throw Error(join(parts...)); }

// Throws Error with the joined parts unless `good`. Not for the token loop: everything there has been checked before.
template <class... Parts> void check(bool good, const Parts&... parts) {
  if (!good) fail(parts...);
}

}  // namespace folio
