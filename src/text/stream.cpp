// SPDX-License-Identifier: MIT
#include "text/stream.h"

#include "text/utf8.h"

namespace folio {

namespace {
constexpr std::string_view replacement = "\xef\xbf\xbd";  // U+FFFD
}

std::string TextStream::push(Token id) {
  waiting_ += tokenizer_.write(id, options_.skip_special, fresh_);
  std::string out;
  std::string_view rest = waiting_;
  while (!rest.empty()) {
    const Utf8 read = read_utf8(rest);
    if (read.cut) break;
    out += read.valid || options_.raw_bytes ? rest.substr(0, read.size) : replacement;
    rest.remove_prefix(read.size);
  }
  waiting_.erase(0, waiting_.size() - rest.size());
  return out;
}

std::string TextStream::finish() {
  std::string out;
  if (!waiting_.empty()) out = options_.raw_bytes ? waiting_ : std::string(replacement);
  waiting_.clear();
  fresh_ = options_.starts_text;
  return out;
}

}  // namespace folio
