// SPDX-License-Identifier: MIT
// What the fuzzers share: the things that are tried on the bytes of a file, seeds to start from, and ways to spoil them.
// libFuzzer (clang) drives a target with libfuzzer.cpp; replay.cpp drives all, with any compiler, in ctest.
#pragma once
#include <cstddef>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "weights_writer.h"

namespace folio::fuzz {

// Reads the file, and uses what it reads as a program would. True if it was accepted; a refusal's sentence goes to `why`, if
// given. Anything else than Error is a bug, and so is a crash.
bool try_weights(std::span<const std::byte> file, std::string* why = nullptr);
bool try_tokenizer(std::span<const std::byte> file, std::string* why = nullptr);
bool try_picture(std::span<const std::byte> file, std::string* why = nullptr);   // a PNG
bool try_clip(std::span<const std::byte> file, std::string* why = nullptr);      // a y4m

// Small files that are right: one with everything in it, one with nothing, and one of each kind of tokenizer.
struct Seed {
  std::string name;
  WeightsWriter content;
};
std::vector<Seed> seeds();
// PNGs of every kind of pixel, and y4m of every kind of colours; a few hundred bytes each.
std::vector<std::string> media_seeds();

// One random change to the bytes of a file: bits, integers, cuts, splices with `other`. Three times of four the head is made to
// agree again, or else nothing would ever get past the hash of the index.
std::string spoil_bytes(std::string file, const std::string& other, std::mt19937_64& random);

// One random change to what a file says: keys and tensors changed, dropped, doubled, taken from `other`. The file itself is right.
std::string spoil_content(WeightsWriter content, const WeightsWriter& other, std::mt19937_64& random);

// One to three random changes to a picture or a clip; three times of four the checksums of a PNG are made to agree again.
std::string spoil_media(std::string file, const std::string& other, std::mt19937_64& random);
void repair_png(std::string& file);

}  // namespace folio::fuzz
