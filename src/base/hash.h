// SPDX-License-Identifier: MIT
// XXH3-64 of bytes: checksums of weight files, keys of pages, fingerprints of logits. The only file that knows xxHash.
#pragma once
#include <cstddef>
#include <cstdint>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace folio {

// The XXH3-64 hash of `bytes` bytes at `data`, seed 0. The same value on every machine.
inline uint64_t hash64(const void* data, size_t bytes) { return XXH3_64bits(data, bytes); }

// The same of bytes that come in pieces.
class Hash64 {
 public:
  Hash64() { XXH3_64bits_reset(&state_); }
  void add(const void* data, size_t bytes) { XXH3_64bits_update(&state_, data, bytes); }
  uint64_t value() const { return XXH3_64bits_digest(&state_); }

 private:
  XXH3_state_t state_;
};

}  // namespace folio
