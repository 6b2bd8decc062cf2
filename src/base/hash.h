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

}  // namespace folio
