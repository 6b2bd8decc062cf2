// SPDX-License-Identifier: MIT
#include "base/error.h"

#include <cstdio>

namespace folio {

Words::Words(double number) {
  char digits[32];
  text_.assign(digits, size_t(std::snprintf(digits, sizeof digits, "%g", number)));
}

std::string join_words(std::initializer_list<Words> words) {
  std::string all;
  for (const Words& one : words) all += one.text();
  return all;
}

}  // namespace folio
