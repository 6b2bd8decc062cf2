// SPDX-License-Identifier: MIT
// The .folio reader: what the writer wrote comes back, and a file that is wrong in any one place is refused with a sentence
// that names it. Corruptions of the index get a fresh hash, so that it is the checks behind the hash that refuse them.
#include "files/weights.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>

#include "base/error.h"
#include "weights_writer.h"

namespace folio {
namespace {

Weights parse(const std::string& file) { return Weights("m.folio", as_bytes(file)); }

// The sentence with which the file is refused; empty if it is accepted.
std::string refusal(const std::string& file) {
  try {
    parse(file);
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

template <class Call> std::string sentence(Call call) {
  try {
    call();
    return "(nothing was thrown)";
  } catch (const Error& error) {
    return error.what();
  }
}

std::vector<float> ramp(int n) {
  std::vector<float> values;
  for (int i = 0; i < n; ++i) values.push_back(float(i - n / 2) / 8);
  return values;
}

// Every type of metadata and every format of tensors.
WeightsWriter everything() {
  WeightsWriter w;
  w.meta("arch", "decoder").meta("dim", 64).meta("eps", 1e-5).meta("name", "Käse, 文, 🙂").meta("empty", "");
  w.meta("most", std::numeric_limits<int64_t>::max()).meta("least", std::numeric_limits<int64_t>::min());
  w.meta("layer.mixer", std::vector<int64_t>{0, 0, -1}).meta("scales", std::vector<double>{0.5, -2});
  w.meta("split", std::vector<std::string>{"\\p{L}+", "", "\n"}).meta("none", std::vector<int64_t>{});
  w.tensor("f32", {2, 3}, {1, 2, 3, 4, 5, 6}).tensor("f16", {3}, {1, -2, 0.5}, F16).tensor("bf16", {1, 1, 5}, ramp(5), BF16);
  w.tensor("q8", {2, 64}, ramp(128), Q8_0).tensor("q4", {1, 2, 2, 32}, ramp(128), Q4_0);
  w.integers("ids", {2, 2}, {1, -1, 1 << 30, 0}).bytes("bytes", {7}, std::string_view("abc\0\xff\n!", 7));
  w.tensor("f8", {2, 64}, ramp(128), F8_E4M3);
  return w;
}

// Two small tensors: few enough bytes to try every one of them.
WeightsWriter small() {
  WeightsWriter w;
  w.meta("arch", "decoder").meta("dim", 4).meta("list", std::vector<std::string>{"a", "b"});
  w.tensor("one", {2, 2}, {1, 2, 3, 4}).tensor("two", {32}, ramp(32), Q8_0);
  return w;
}

TEST(Weights, ReadsBackAllMetadata) {
  const Weights w = parse(everything().bytes());
  EXPECT_EQ(w.metadata().size(), 11u);
  EXPECT_EQ(w.text("arch"), "decoder");
  EXPECT_EQ(w.text("name"), "Käse, 文, 🙂");
  EXPECT_EQ(w.text("empty"), "");
  EXPECT_EQ(w.integer("dim"), 64);
  EXPECT_EQ(w.integer("most"), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(w.integer("least"), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(w.real("eps"), 1e-5);
  EXPECT_EQ(w.real("dim"), 64.0);  // an integer passes for a real
  EXPECT_EQ(w.integers("layer.mixer"), (std::vector<int64_t>{0, 0, -1}));
  EXPECT_EQ(w.reals("scales"), (std::vector<double>{0.5, -2}));
  EXPECT_EQ(w.reals("layer.mixer"), (std::vector<double>{0, 0, -1}));
  EXPECT_EQ(w.texts("split"), (std::vector<std::string>{"\\p{L}+", "", "\n"}));
  EXPECT_TRUE(w.integers("none").empty());
  EXPECT_TRUE(w.texts("none").empty());
  EXPECT_TRUE(w.reals("none").empty());

  EXPECT_TRUE(w.has("dim"));
  EXPECT_FALSE(w.has("dimm"));
  EXPECT_EQ(w.integer("absent", 3), 3);
  EXPECT_EQ(w.integer("dim", 3), 64);
  EXPECT_EQ(w.real("absent", 0.25), 0.25);
  EXPECT_EQ(w.text("absent", "x"), "x");
  EXPECT_TRUE(w.texts("absent").empty());
}

TEST(Weights, NamesTheKeyThatIsAbsentOrOfAnotherType) {
  const Weights w = parse(everything().bytes());
  EXPECT_EQ(sentence([&] { w.integer("heads"); }), "weights: m.folio: metadata 'heads' is absent, expected an integer");
  EXPECT_EQ(sentence([&] { w.integer("arch"); }), "weights: m.folio: metadata 'arch' is a text, expected an integer");
  EXPECT_EQ(sentence([&] { w.integer("arch", 3); }), "weights: m.folio: metadata 'arch' is a text, expected an integer");
  EXPECT_EQ(sentence([&] { w.integer("eps"); }), "weights: m.folio: metadata 'eps' is a real, expected an integer");
  EXPECT_EQ(sentence([&] { w.real("arch"); }), "weights: m.folio: metadata 'arch' is a text, expected a real");
  EXPECT_EQ(sentence([&] { w.text("dim"); }), "weights: m.folio: metadata 'dim' is an integer, expected a text");
  EXPECT_EQ(sentence([&] { w.integers("dim"); }), "weights: m.folio: metadata 'dim' is an integer, expected integers");
  EXPECT_EQ(sentence([&] { w.reals("split"); }), "weights: m.folio: metadata 'split' is texts, expected reals");
  EXPECT_EQ(sentence([&] { w.texts("layer.mixer"); }), "weights: m.folio: metadata 'layer.mixer' is integers, expected texts");
  EXPECT_EQ(sentence([&] { w.integers("absent"); }), "weights: m.folio: metadata 'absent' is absent, expected integers");
}

TEST(Weights, ReadsBackAllFormats) {
  const WeightsWriter written = everything();
  const Weights w = parse(written.bytes());
  ASSERT_EQ(w.tensors().size(), written.tensors.size());
  for (size_t i = 0; i < w.tensors().size(); ++i) {
    const WeightEntry& entry = w.tensors()[i];
    const auto& truth = written.tensors[i];
    EXPECT_EQ(entry.name, truth.name);
    EXPECT_EQ(format(entry.tensor.type).name, truth.format);
    EXPECT_EQ(entry.offset % 256, 0u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(entry.tensor.data) % 256, 0u);
    ASSERT_EQ(size_t(entry.tensor.bytes()), truth.data.size());
    EXPECT_EQ(std::memcmp(entry.tensor.data, truth.data.data(), truth.data.size()), 0) << truth.name;
  }
  EXPECT_EQ(w.get("f32", {2, 3}).at<float>()[5], 6.0f);
  EXPECT_EQ(w.get("ids", {2, 2}).at<int32_t>()[2], 1 << 30);
  EXPECT_EQ(w.require("q4").shape.text(), "[1,2,2,32]");
  EXPECT_EQ(w.require("q4").row_bytes(3) - w.require("q4").data, 3 * 18);
  EXPECT_EQ(w.find("q5").rank(), 0);
  EXPECT_FALSE(w.find("q5").present());
  EXPECT_EQ(sentence([&] { w.require("q5"); }), "weights: m.folio: there is no tensor 'q5'");
  EXPECT_EQ(sentence([&] { w.get("f32", {3, 2}); }), "weights: m.folio: 'f32' is [2,3], expected [3,2]");
  EXPECT_TRUE(w.verify().empty());
}

TEST(Weights, AFileWithoutAnythingIsAFile) {
  const std::string file = WeightsWriter().bytes();
  EXPECT_EQ(file.size(), 64u + 8);
  const Weights w = parse(file);
  EXPECT_TRUE(w.tensors().empty());
  EXPECT_TRUE(w.metadata().empty());
  EXPECT_TRUE(w.verify().empty());
}

TEST(Weights, CanBeMadeOfMemory) {
  std::shared_ptr<float> memory(new float[6]{1, 2, 3, 4, 5, 6}, std::default_delete<float[]>());
  std::vector<WeightEntry> entries = {{"a", Tensor::of(F32, {2, 2}, memory.get())}, {"b", Tensor::of(F32, {2}, memory.get() + 4)}};
  const std::shared_ptr<const std::byte> bytes(memory, reinterpret_cast<const std::byte*>(memory.get()));
  memory.reset();
  const Weights w("memory", {{"dim", int64_t(2)}}, entries, bytes);
  EXPECT_EQ(w.integer("dim"), 2);
  EXPECT_EQ(w.get("b", {2}).at<float>()[1], 6.0f);
  EXPECT_TRUE(w.verify().empty());
  entries[1].name = "a";
  EXPECT_EQ(sentence([&] { Weights("memory", {}, entries, bytes); }), "weights: memory: there are two tensors 'a'");
}

TEST(Weights, ReadsFromDiskAndCopiesShareTheMap) {
  const auto folder = std::filesystem::temp_directory_path() / ("folio_weights_" + std::to_string(getpid()));
  std::filesystem::create_directories(folder);
  const std::string path = folder / "a.folio";
  everything().save(path);
  {
    std::optional<Weights> first(path);
    const Weights second = *first;
    EXPECT_EQ(first->path(), path);
    EXPECT_EQ(first->file_bytes(), int64_t(std::filesystem::file_size(path)));
    first.reset();
    EXPECT_EQ(second.require("f32").at<float>()[1], 2.0f);
    EXPECT_TRUE(second.verify().empty());
  }
  EXPECT_NE(sentence([&] { Weights(folder / "b.folio"); }).find("b.folio: cannot open: No such file"), std::string::npos);
  EXPECT_NE(sentence([&] { Weights(folder.string()); }).find("not a regular file"), std::string::npos);
  FileWriter(folder / "empty.folio").commit();
  EXPECT_NE(sentence([&] { Weights(folder / "empty.folio"); }).find("the file is empty"), std::string::npos);
  std::filesystem::remove_all(folder);
}

TEST(Weights, EveryTruncationIsRefused) {
  const std::string file = small().bytes();
  for (size_t n = 0; n < file.size(); ++n) {
    const std::string why = refusal(file.substr(0, n));
    EXPECT_NE(why.find(n ? "the file is cut off" : "the file is empty"), std::string::npos) << n << ": " << why;
  }
  EXPECT_EQ(refusal(file), "");
  for (const size_t more : {1, 255, 256, 4096})
    EXPECT_NE(refusal(file + std::string(more, '\0')).find("as its head says"), std::string::npos);
}

// As above, but the head is made to agree with the shorter file: now the index itself has to notice.
TEST(Weights, EveryTruncationUnderAFreshHashIsRefused) {
  const std::string file = small().bytes();
  const uint64_t index = number_at<uint64_t>(file, 16);
  for (size_t n = 64; n < file.size(); ++n) {
    std::string cut = file.substr(0, n);
    put_at<uint64_t>(cut, 16, std::min<uint64_t>(index, n - 64));
    repair_head(cut);
    EXPECT_NE(refusal(cut), "") << n;
  }
  for (size_t n = 0; n < index; ++n) {  // the whole file, but an index that ends early
    std::string shorter = file;
    put_at<uint64_t>(shorter, 16, n);
    repair_head(shorter);
    EXPECT_NE(refusal(shorter), "") << n;
  }
}

TEST(Weights, EveryFlippedBitIsFound) {
  const std::string file = small().bytes();
  const size_t data = 64 + number_at<uint64_t>(file, 16);
  for (size_t bit = 0; bit < file.size() * 8; ++bit) {
    std::string flipped = file;
    flipped[bit / 8] ^= char(1 << bit % 8);
    if (bit / 8 < data) {
      EXPECT_NE(refusal(flipped), "") << "bit " << bit;
    } else {
      EXPECT_EQ(parse(flipped).verify().size(), 1u) << "bit " << bit;
    }
  }
}

TEST(Weights, VerifyNamesWhatIsDamaged) {
  const WeightsWriter w = everything();
  std::string file = w.bytes();
  const Weights whole = parse(file);
  const WeightEntry &q8 = whole.tensors()[3], &ids = whole.tensors()[5];
  file[q8.offset + 3] ^= 16;
  file[ids.offset] ^= 1;
  file[ids.offset - 1] = 1;
  EXPECT_EQ(parse(file).verify(), (std::vector<std::string>{"q8", "gap before ids", "ids"}));
}

struct Corruption {
  const char* what;
  std::function<void(WeightsWriter&)> lie;  // the index is laid out and hashed after it
  std::function<void(std::string&)> damage;  // done to the file
  const char* expected;                      // in the sentence
};

using W = WeightsWriter;
using F = std::string;

// clang-format off
// Of the head, and of the file as a whole.
const Corruption of_head[] = {
    {"gguf", {}, [](F& f) { f.replace(0, 4, "GGUF"); }, "this is a GGUF file"},
    {"not ours", {}, [](F& f) { f.replace(0, 4, "PK\3\4"); }, "not a .folio file: it begins with 'PK\\x03\\x04O"},
    {"text mode", {}, [](F& f) { f.erase(5, 1); }, "transfer in text mode"},
    {"lower case", {}, [](F& f) { f[0] = 'f'; }, "not a .folio file"},
    {"newer", {}, [](F& f) { put_at<uint32_t>(f, 8, 2); }, "format version 2, and this program reads version 1: use a newer Folio"},
    {"far newer", {}, [](F& f) { put_at<uint32_t>(f, 8, ~0u); }, "use a newer Folio"},
    {"version 0", {}, [](F& f) { put_at<uint32_t>(f, 8, 0); }, "format version 0, expected 1"},
    {"newer, other head", {}, [](F& f) { f.resize(64), std::fill(f.begin() + 8, f.end(), '\7'); }, "use a newer Folio"},
    {"zero field", {}, [](F& f) { put_at<uint32_t>(f, 12, 1); }, "spare bytes"},
    {"spare bytes", {}, [](F& f) { f[63] = 1; }, "spare bytes"},
    {"index longer than the file", {}, [](F& f) { put_at<uint64_t>(f, 16, f.size() - 63); }, "the index takes"},
    {"index of 2^64 - 1", {}, [](F& f) { put_at<uint64_t>(f, 16, ~0ull); }, "the index takes 18446744073709551615 bytes"},
    {"index that wraps round with the head", {}, [](F& f) { put_at<uint64_t>(f, 16, ~0ull - 63); }, "the index takes"},
    {"index of 0", {}, [](F& f) { put_at<uint64_t>(f, 16, 0), repair_head(f); },
      "the count of metadata takes 4 bytes, but the index ends after 0"},
    {"file longer than it is", {}, [](F& f) { put_at<uint64_t>(f, 24, ~0ull); }, "the file is cut off"},
    {"file shorter than it is", {}, [](F& f) { put_at<uint64_t>(f, 24, 64); }, "expected 64 as its head says"},
    {"hash", {}, [](F& f) { f[32] ^= 1; }, "the index is damaged: its hash is"},
    {"index", {}, [](F& f) { f[100] ^= 1; }, "the index is damaged: its hash is"},
    {"trailing bytes", {}, [](F& f) { f += "x", repair_head(f); }, "the last tensor ends at"},
    {"no tensor, trailing bytes", [](W& w) { w.tensors.clear(); }, [](F& f) { f += "x", repair_head(f); },
      "the last tensor ends at"},
};

// Of the index, rightly hashed.
const Corruption of_index[] = {
    {"metadata count", [](W& w) { w.metadata_count = ~0u; }, {}, "the count of metadata is 4294967295, but"},
    {"one metadata more", [](W& w) { w.metadata_count = w.metadata.size() + 1; }, {}, "metadata 4 of 4"},
    {"one metadata less", [](W& w) { w.metadata_count = w.metadata.size() - 1; }, {}, "the count of tensors is"},
    {"empty key", [](W& w) { w.metadata[0].key = ""; }, {}, "metadata 1 of 3: the key '' is not a name"},
    {"key with a line end", [](W& w) { w.metadata[0].key = "a\nb"; }, {}, "the key 'a\\x0ab' is not a name"},
    {"key with an escape", [](W& w) { w.metadata[0].key = "\x1b[2J"; }, {}, "'\\x1b[2J' is not a name"},
    {"key with a C1 escape", [](W& w) { w.metadata[0].key = "\xc2\x9b" "2J"; }, {}, "is not a name"},
    {"key not UTF-8", [](W& w) { w.metadata[0].key = "a\xff"; }, {}, "is not a name"},
    {"key cut inside a code point", [](W& w) { w.metadata[0].key = "a\xe6\x96"; }, {}, "is not a name"},
    {"key twice", [](W& w) { w.metadata[1].key = "arch"; }, {}, "metadata 2 of 3 'arch': there is another of this name"},
    {"type 6", [](W& w) { w.metadata[1].type = 6; }, {}, "'dim': its type is 6, expected 0 to 5"},
    {"text too long", [](W& w) { put_at<uint32_t>(w.metadata[0].value, 0, ~0u); },
      {}, "the text takes 4294967295 bytes, but the index ends"},
    {"text not UTF-8", [](W& w) { w.metadata[0].value[4] = '\xc0'; }, {}, "the text '\\xc0ecoder' is not UTF-8"},
    {"text with a surrogate", [](W& w) { w.meta("s", "\xed\xa0\x80"); }, {}, "is not UTF-8"},
    {"text overlong", [](W& w) { w.meta("s", "\xe0\x80\xaf"); }, {}, "is not UTF-8"},
    {"text over U+10FFFF", [](W& w) { w.meta("s", "\xf4\x90\x80\x80"); }, {}, "is not UTF-8"},
    {"texts count", [](W& w) { put_at<uint32_t>(w.metadata[2].value, 0, 1 << 30); },
      {}, "the count of texts is 1073741824, but the"},
    {"texts not UTF-8", [](W& w) { w.metadata[2].value.back() = '\x80'; }, {}, "'list': the text '\\x80' is not UTF-8"},
    {"integers count", [](W& w) { w.meta("i", std::vector<int64_t>{1}), put_at<uint32_t>(w.metadata[3].value, 0, ~0u); },
      {}, "the count of integers is"},
    {"reals count", [](W& w) { w.meta("r", std::vector<double>{1}), put_at<uint32_t>(w.metadata[3].value, 0, ~0u); },
      {}, "the count of reals is"},
    {"real NaN", [](W& w) { w.meta("r", std::nan("")); }, {}, "'r': the real is not finite"},
    {"reals infinite", [](W& w) { w.meta("r", std::vector<double>{1, HUGE_VAL}); }, {}, "'r': the real is not finite"},
    {"tensor count", [](W& w) { w.tensor_count = ~0u; }, {}, "the count of tensors is 4294967295, but"},
    {"one tensor more", [](W& w) { w.tensor_count = 3; }, {}, "the count of tensors is 3, but"},
    {"one tensor less", [](W& w) { w.tensor_count = 1; }, {}, "bytes are left after the last tensor"},
    {"bytes after the tensors", [](W& w) { w.after_index = "x"; }, {}, "index: 1 bytes are left after the last tensor"},
    {"tensor without a name", [](W& w) { w.tensors[0].name = ""; }, {}, "tensor 1 of 2: the name '' is not a name"},
    {"tensor named in Latin-1", [](W& w) { w.tensors[0].name = "K\xe4se"; }, {}, "'K\\xe4se' is not a name"},
    {"tensor twice", [](W& w) { w.tensors[1].name = "one"; }, {}, "tensor 2 of 2 'one': there is another of this name"},
    {"unknown format", [](W& w) { w.tensors[0].format = "q5_k"; }, {}, "'one': its format 'q5_k' is not known to this program"},
    {"format without a name", [](W& w) { w.tensors[0].format = ""; }, {}, "its format '' is not known"},
    {"format that begins alike", [](W& w) { w.tensors[0].format = "f321"; }, {}, "its format 'f321' is not known"},
    {"rank 0", [](W& w) { w.tensors[0].shape = {}; }, {}, "its rank is 0, expected 1 to 4"},
    {"rank 5", [](W& w) { w.tensors[0].shape = {1, 1, 1, 2, 2}; }, {}, "its rank is 5, expected 1 to 4"},
    {"dimension 0", [](W& w) { w.tensors[0].shape = {2, 0}; }, {}, "dimension 1 is 0, expected 1 to"},
    {"dimension -1", [](W& w) { w.tensors[0].shape = {~0ull, 4}; }, {}, "dimension 0 is 18446744073709551615, expected"},
    {"shape overflows to right", [](W& w) { w.tensors[0].shape = {1ull << 32, 1ull << 32}; },
      {}, "has more elements than 64 bits can count"},
    {"shape overflows to 4", [](W& w) { w.tensors[0].shape = {(1ull << 62) + 1, 4}; }, {}, "has more elements than 64 bits"},
    {"bytes overflow", [](W& w) { w.tensors[0].shape = {1ull << 62}; }, {}, "has more elements than 64 bits"},
    {"blocks overflow", [](W& w) { w.tensors[1].shape = {1ull << 62, 1, 1, 32}; },
      {}, "more elements than 64 bits"},
    {"half a block", [](W& w) { w.tensors[1].shape = {2, 16}; },
      {}, "its last dimension is 16, expected a multiple of 32, the block of q8_0"},
    {"half a block of f8", [](W& w) { w.tensors[1].format = "f8_e4m3", w.tensors[1].shape = {1, 32}; },
      {}, "its last dimension is 32, expected a multiple of 64, the block of f8_e4m3"},
    {"bytes without scales", [](W& w) { w.tensors[1].format = "f8_e4m3", w.tensors[1].shape = {64}, w.tensors[1].data.resize(64); },
      {}, "it takes 64 bytes, expected 68 for [64] of f8_e4m3"},
    {"shape of more bytes", [](W& w) { w.tensors[0].shape = {2, 3}; },
      {}, "'one': it takes 16 bytes, expected 24 for [2,3] of f32"},
    {"bytes 0", [](W& w) { w.tensors[0].bytes = 0; }, {}, "it takes 0 bytes, expected 16"},
    {"bytes too many", [](W& w) { w.tensors[0].bytes = ~0ull; }, {}, "it takes 18446744073709551615 bytes, expected 16"},
    {"larger than the file", [](W& w) { w.tensors[1].shape = {1ull << 20, 32}, w.tensors[1].bytes = 34ull << 20; },
      {}, "ends after the file's"},
    {"offset 0", [](W& w) { w.tensors[0].offset = 0; }, {}, "'one': its data begins at 0, expected"},
    {"offset in the index", [](W& w) { w.tensors[0].offset = 64; }, {}, "its data begins at 64, expected"},
    {"offset not aligned", [](W& w) { w.tensors[1].offset = 256 * 2 + 16; }, {}, "its data begins at 528, expected"},
    {"offset after the file", [](W& w) { w.tensors[1].offset = 1ull << 40; }, {}, "its data begins at 1099511627776, expected"},
    {"offset that wraps round", [](W& w) { w.tensors[1].offset = ~0ull - 255; },
      {}, "its data begins at 18446744073709551360, expected"},
    {"one over the other", [](W& w) { w.tensors[1].offset = 256; }, {}, "'two': its data begins at 256, expected 512"},
    {"a hole", [](W& w) { w.tensors[1].offset = 256 * 3; }, {}, "'two': its data begins at 768, expected 512"},
    {"a long name", [](W& w) { w.tensors[1].name = F(65535, 'x') + "y"; }, {}, "the name '' is not a name"},  // 65536 wraps to 0
};
// clang-format on

void expect_refused(const Corruption& c) {
  WeightsWriter w = small();
  if (c.lie) c.lie(w);
  std::string file = w.bytes();
  if (c.damage) c.damage(file);
  const std::string why = refusal(file);
  EXPECT_TRUE(why.starts_with("weights: m.folio: ")) << c.what << ": " << why;
  EXPECT_NE(why.find(c.expected), std::string::npos) << c.what << ": " << why;
  EXPECT_EQ(why.find('\n'), std::string::npos) << c.what;
  EXPECT_LT(why.size(), 400u) << c.what;
}

TEST(Weights, CorruptHeadsAreRefused) {
  for (const Corruption& c : of_head) expect_refused(c);
}

TEST(Weights, CorruptIndexesAreRefused) {
  for (const Corruption& c : of_index) expect_refused(c);
}

// The longest name that a u16 can count, and lists long enough that their reading would show a quadratic step.
TEST(Weights, LargeIndexesAreReadQuickly) {
  WeightsWriter w;
  w.meta(std::string(65535, 'k'), 1);
  w.meta("list", std::vector<std::string>(200000, "word"));
  for (int i = 0; i < 20000; ++i) w.bytes("layer." + std::to_string(i), {1}, "x");
  const std::string file = w.bytes();
  const auto start = std::chrono::steady_clock::now();
  const Weights read = parse(file);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
  EXPECT_EQ(read.tensors().size(), 20000u);
  EXPECT_EQ(read.texts("list").size(), 200000u);
}

}  // namespace
}  // namespace folio
