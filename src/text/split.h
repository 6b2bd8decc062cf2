// SPDX-License-Identifier: MIT
// Split: cuts a text into the pieces that byte-level BPE never merges across, by regular expressions as the model's maker wrote
// them. Patterns come from a file and may be hostile: they are compiled and run under limits, and running away is an Error.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace folio {

class Split {
 public:
  // Patterns in PCRE2's syntax, UTF and UCP on. Throws Error, with the pattern, on one that does not compile.
  explicit Split(const std::vector<std::string>& patterns);
  ~Split();

  // Where the pieces of `text` (valid UTF-8, under 2 GiB) end. Each pattern cuts every piece of the one before it into its
  // matches and what lies between them. Throws Error if a match takes too long.
  void cut(std::string_view text, std::vector<uint32_t>& ends) const;

 private:
  struct Pattern;
  std::vector<Pattern> patterns_;
};

}  // namespace folio
