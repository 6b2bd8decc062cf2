// SPDX-License-Identifier: MIT
#include <cstdlib>

#include "base/error.h"
#include "fuzz.h"

namespace folio::fuzz {

// Asks for every key as every type; the wrong ones have to throw Error.
static void ask(const Weights& w, const std::string& key) {
  const auto allowed = [](auto call) {
    try {
      call();
    } catch (const Error&) {
    }
  };
  allowed([&] { w.integer(key); });
  allowed([&] { w.real(key, 1.0); });
  allowed([&] { w.text(key, ""); });
  allowed([&] { w.integers(key); });
  allowed([&] { w.reals(key); });
  allowed([&] { w.texts(key); });
}

bool try_weights(std::span<const std::byte> file, std::string* why) {
  try {
    const Weights w("fuzz.folio", file);
    for (const auto& [key, value] : w.metadata()) ask(w, key);
    ask(w, "absent");
    for (const WeightEntry& e : w.tensors()) {
      const Tensor t = w.get(e.name, e.tensor.shape);
      const uint64_t begin = uint64_t(t.data - w.tensors()[0].tensor.data) + w.tensors()[0].offset;
      if (begin != e.offset || t.bytes() < 1 || begin + uint64_t(t.bytes()) > file.size()) std::abort();
      volatile std::byte last = t.row_bytes(t.rows() - 1)[bytes_of(t.type, t.cols()) - 1];
      (void)last;
    }
    w.verify();  // reads every byte
    w.not_finite();
    return true;
  } catch (const Error& error) {
    if (why) *why = error.what();
    return false;
  }
}

}  // namespace folio::fuzz
