// SPDX-License-Identifier: MIT
// The tokenizer in a weight file: what a writer put there comes back as a Vocabulary; what is absent or misshapen is named.
#include "tools/lib/vocabulary.h"

#include <gtest/gtest.h>

#include <functional>

#include "base/error.h"
#include "weights_writer.h"

namespace folio {
namespace {

WeightsWriter spm() {
  WeightsWriter w;
  w.meta("tokenizer.kind", "spm")
      .meta("tokenizer.bos", 1)
      .meta("tokenizer.unk", 0)
      .meta("tokenizer.eos", std::vector<int64_t>{2, 1});
  w.meta("tokenizer.add_bos", 1)
      .meta("tokenizer.add_eos", 0)
      .meta("tokenizer.add_space_prefix", 1)
      .meta("tokenizer.normalize", "nfc");
  w.meta("tokenizer.strip_left", std::vector<int64_t>{2}).meta("vocab", 5);
  w.bytes("tokenizer.bytes", {14}, "<unk><s></s>ab").integers("tokenizer.ends", {5}, {5, 8, 12, 13, 14});
  w.bytes("tokenizer.types", {5}, std::string_view("\5\1\1\0\0", 5)).tensor("tokenizer.scores", {5}, {0, 0, 0, -1, -2.5});
  return w;
}

Vocabulary read(const WeightsWriter& w) { return read_vocabulary(Weights("m.folio", as_bytes(w.bytes()))); }

TEST(Vocabulary, ComesBackFromTheFile) {
  const Vocabulary v = read(spm());
  EXPECT_EQ(v.kind, "spm");
  EXPECT_EQ(v.normalize, "nfc");
  ASSERT_EQ(v.size(), 5);
  EXPECT_EQ(v.text(1), "<s>");
  EXPECT_EQ(v.text(4), "b");
  EXPECT_EQ(v.types, (std::vector<uint8_t>{5, 1, 1, 0, 0}));
  EXPECT_EQ(v.scores, (std::vector<float>{0, 0, 0, -1, -2.5}));
  EXPECT_TRUE(v.merges.empty());
  EXPECT_TRUE(v.split.empty());
  EXPECT_EQ(v.bos, 1);
  EXPECT_EQ(v.unk, 0);
  EXPECT_EQ(v.pad, -1);
  EXPECT_EQ(v.eos, (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(v.strip_left, (std::vector<int64_t>{2}));
  EXPECT_TRUE(v.strip_right.empty());
  EXPECT_TRUE(v.add_bos);
  EXPECT_FALSE(v.add_eos);
  EXPECT_TRUE(v.add_space_prefix);
  EXPECT_FALSE(v.ignore_merges);
  EXPECT_FALSE(v.clean_spaces);
  EXPECT_EQ(Tokenizer(v).encode("ab").front(), 1);
}

TEST(Vocabulary, MergesAndPatternsComeBack) {
  WeightsWriter w;
  w.meta("tokenizer.kind", "bpe")
      .meta("tokenizer.split", std::vector<std::string>{"ab|c", "\\s"})
      .meta("tokenizer.eos", std::vector<int64_t>{});
  w.bytes("tokenizer.bytes", {6}, "abcabc")
      .integers("tokenizer.ends", {5}, {1, 2, 3, 5, 6})
      .bytes("tokenizer.types", {5}, std::string(5, '\0'));
  w.integers("tokenizer.merges", {1, 2}, {0, 1});
  const Vocabulary v = read(w);
  EXPECT_EQ(v.merges, (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(v.split, (std::vector<std::string>{"ab|c", "\\s"}));
  EXPECT_TRUE(v.eos.empty());
  EXPECT_EQ(v.normalize, "none");
  EXPECT_EQ(Tokenizer(v).encode("ab"), (std::vector<Token>{3}));
}

TEST(Vocabulary, WhatIsWrongIsNamed) {
  using W = WeightsWriter;
  const struct {
    std::function<void(W&)> lie;
    const char* expected;
  } cases[] = {
      // clang-format off
      {[](W& w) { w.metadata.clear(); },
        "weights: m.folio: it holds no tokenizer; make the file again with convert.py --tokenizer FILE"},
      {[](W& w) { w.metadata[0].key = "tokenizer.sort"; }, "it holds no tokenizer"},
      {[](W& w) { w.entry("tokenizer.bytes").name = "bytes"; }, "there is no tensor 'tokenizer.bytes'"},
      {[](W& w) { w.entry("tokenizer.ends").name = "ends"; }, "there is no tensor 'tokenizer.ends'"},
      {[](W& w) { w.entry("tokenizer.ends").format = "f32"; }, "'tokenizer.ends' is f32 [5], expected i32 with 1 dimension"},
      {[](W& w) { w.entry("tokenizer.types").shape = {1, 5}; }, "'tokenizer.types' is u8 [1,5], expected u8 with 1 dimension"},
      {[](W& w) { w.integers("tokenizer.merges", {2}, {1, 2}); }, "'tokenizer.merges' is i32 [2], expected i32 with 2 dimensions"},
      {[](W& w) { w.integers("tokenizer.merges", {1, 3}, {1, 2, 3}); }, "'tokenizer.merges' is [1,3], expected pairs"},
      {[](W& w) { w.meta("tokenizer.add_bos ", 1).metadata[4].value[0] = 2; }, "'tokenizer.add_bos' is 2, expected 0 or 1"},
      {[](W& w) { w.meta("tokenizer.pad", "none"); }, "metadata 'tokenizer.pad' is a text, expected an integer"},
      {[](W& w) { w.metadata.back().value[0] = 4; }, "the tokenizer has 5 tokens, but the model only 4"},
      // clang-format on
  };
  for (const auto& c : cases) {
    WeightsWriter w = spm();
    c.lie(w);
    try {
      read(w);
      ADD_FAILURE() << "accepted: " << c.expected;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(c.expected), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace folio
