// SPDX-License-Identifier: MIT
// Joins a target (FOLIO_FUZZ_TARGET) to clang's libFuzzer. Run it on a copy of the corpus:  fuzz_weights corpus -max_total_time=60
#include "fuzz.h"

#ifndef FOLIO_FUZZ_REPAIR
#define FOLIO_FUZZ_REPAIR repair_head
#endif

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t most);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  folio::fuzz::FOLIO_FUZZ_TARGET(std::as_bytes(std::span(data, size)));
  return 0;
}

// libFuzzer's own mutations, and after most of them the head set right (FOLIO_FUZZ_REPAIR): no mutation would guess the hash of the index,
// or the checksums of a PNG.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  size = LLVMFuzzerMutate(data, size, most);
  if (seed % 8 == 0) return size;
  std::string file(reinterpret_cast<const char*>(data), size);
  folio::FOLIO_FUZZ_REPAIR(file);
  std::copy(file.begin(), file.end(), data);
  return size;
}
