// SPDX-License-Identifier: MIT
// Tokenizers against the ids that other programs gave: llama.cpp's 46 vectors for GPT-2 and Llama 2 and llama2.c's algorithm on its
// own vocabulary (where ../shared is there), the Python packages' ids for tiny vocabularies of every kind (always). Then what holds
// for any text, and vocabularies made to do harm.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <random>

#include "base/error.h"
#include "base/file.h"
#include "gguf_vocab.h"
#include "golden_vocab.h"
#include "text/normalize.h"
#include "text/stream.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace folio {
namespace {

// The data that stands beside the repository and is not part of it; empty if it is not there.
std::string shared(const std::string& name) {
  const char* root = std::getenv("FOLIO_SHARED");
  const std::string path = (root ? std::string(root) : std::string(FOLIO_SOURCE_DIR) + "/../shared") + "/models/" + name;
  return std::filesystem::exists(path) ? path : std::string();
}

#define NEEDS_SHARED(path) \
  if ((path).empty()) GTEST_SKIP() << "no shared/models beside the repository (FOLIO_SHARED names another place)"

Vocabulary golden(const std::string& name) {
  return GoldenVocab(std::string(FOLIO_SOURCE_DIR) + "/tests/golden/tokenizer/" + name + ".txt").vocabulary;
}
const char* const golden_names[] = {"bpe_gpt2", "bpe_llama3", "spm", "unigram", "unigram_clean"};
const char* const exact_names[] = {"bpe_gpt2", "bpe_llama3", "spm"};  // those that lose nothing

void add(Vocabulary& v, std::string_view text, TokenType type = TokenType::normal, float score = 0) {
  v.bytes += text;
  v.ends.push_back(int32_t(v.bytes.size()));
  v.types.push_back(uint8_t(type));
  if (v.kind != "bpe") v.scores.push_back(score);
}

// Every byte as token 0 to 255, nothing else.
Vocabulary bytes_only(const std::string& kind) {
  Vocabulary v;
  v.kind = kind;
  for (int b = 0; b < 256; ++b) add(v, std::string(1, char(b)), kind == "bpe" ? TokenType::normal : TokenType::byte);
  return v;
}

using Ids = std::vector<Token>;

Ids numbers(const std::string& line) {
  std::istringstream in(line);
  return {std::istream_iterator<Token>(in), {}};
}

void expect_error(Vocabulary v, const std::string& part) {
  try {
    Tokenizer t(std::move(v));
    ADD_FAILURE() << "no error, expected: " << part;
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("tokenizer: "), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
  }
}

// Text of all sorts, most of it near UTF-8.
std::string random_text(std::mt19937& rng, size_t longest) {
  static const char* const bits[] = {
      " ",        "  ",   "the",  " king",    "\n",           "'s",       "'RE", "12", "é", "ß", "中文", "🦙", "\xe2\x96\x81",
      "\xcc\x81", "\xff", "\xc3", "\xf0\x9f", "\xed\xa0\x80", "\xc0\xaf", "<s>", "\t", ".", "A"};
  std::string out;
  while (out.size() < longest && rng() % 24)
    if (rng() % 4) out += bits[rng() % std::size(bits)];
    else out += char(rng());
  if (rng() % 16 == 0) out += std::string(1, '\0') + "x";
  return out;
}

std::string push(TextStream& stream, const Ids& ids) {
  std::string out;
  for (Token id : ids) out += stream.push(id);
  return out;
}

bool valid_utf8(std::string_view text) { return utf8_run(text, true) == text.size(); }

void expect_vectors(const std::string& name) {
  const std::string path = shared("tokenizers/" + name);
  NEEDS_SHARED(path);
  const Tokenizer tokenizer(GgufVocab(path).vocabulary());
  const std::string texts = read_file(path + ".inp"), ids = read_file(path + ".out"), mark = "\n__ggml_vocab_test__\n";
  std::istringstream lines(ids);
  size_t count = 0;
  for (size_t at = 0, end; at < texts.size(); at = end + mark.size(), ++count) {
    end = std::min(texts.find(mark, at), texts.size());
    const std::string text = texts.substr(at, end - at);
    std::string line;
    ASSERT_TRUE(std::getline(lines, line));
    const Ids got = tokenizer.encode(text, false, false);
    EXPECT_EQ(got, numbers(line)) << '"' << text << '"';
    EXPECT_EQ(tokenizer.decode(got), text);
  }
  EXPECT_EQ(count, 46u);
}

TEST(TokenizerVectors, Gpt2) { expect_vectors("ggml-vocab-gpt-2.gguf"); }
TEST(TokenizerVectors, Llama2) { expect_vectors("ggml-vocab-llama-spm.gguf"); }

// llama2.c's tokenizer.bin: i32 longest token, then for each token f32 score, i32 bytes, its text.
Vocabulary llama2c_vocabulary(const std::string& path) {
  const std::string data = read_file(path);
  Vocabulary v;
  v.kind = "spm";
  for (size_t at = 4; at < data.size();) {
    float score;
    int32_t size;
    std::memcpy(&score, data.data() + at, 4);
    std::memcpy(&size, data.data() + at + 4, 4);
    const std::string text = data.substr(at + 8, size_t(size));
    at += 8 + size_t(size);
    const size_t id = v.ends.size();
    if (id < 3) add(v, id == 0 ? "<unk>" : id == 1 ? "<s>" : "</s>", id == 0 ? TokenType::unknown : TokenType::control, score);
    else if (id < 259) add(v, std::string(1, char(id - 3)), TokenType::byte, score);
    else add(v, text, TokenType::normal, score);
  }
  v.unk = 0;
  v.bos = 1;
  v.eos = {2};
  v.add_bos = v.add_space_prefix = true;
  return v;
}

// llama2.c's loop as its author describes it: code points or their bytes, then again and again the best pair of neighbours.
Ids merge_greedily(const Tokenizer& t, std::string_view text) {
  const Vocabulary& v = t.vocabulary();
  const auto lookup = [&](std::string_view piece) -> Token {
    for (Token id = 0; id < v.size(); ++id)
      if (v.types[size_t(id)] == 0 && v.text(id) == piece) return id;
    return -1;
  };
  Ids ids;
  const std::string spaced = text.empty() ? "" : " " + std::string(text);
  for (size_t at = 0; at < spaced.size();) {
    const auto size = read_utf8(std::string_view(spaced).substr(at)).size;
    const Token id = lookup(std::string_view(spaced).substr(at, size));
    if (id >= 0) ids.push_back(id);
    else
      for (size_t i = 0; i < size; ++i)
        for (Token b = 0; b < v.size(); ++b)
          if (v.types[size_t(b)] == 3 && v.text(b)[0] == spaced[at + i]) ids.push_back(b);
    at += size;
  }
  for (;;) {
    float best = -1e10f;
    size_t where = 0;
    Token into = -1;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      if (v.types[size_t(ids[i])] || v.types[size_t(ids[i + 1])]) continue;
      const Token id = lookup(std::string(v.text(ids[i])) + std::string(v.text(ids[i + 1])));
      if (id >= 0 && v.scores[size_t(id)] > best) best = v.scores[size_t(id)], where = i, into = id;
    }
    if (into < 0) return ids;
    ids[where] = into;
    ids.erase(ids.begin() + ptrdiff_t(where) + 1);
  }
}

TEST(TokenizerVectors, Llama2c) {
  const std::string path = shared("stories260K/tok512.bin");
  NEEDS_SHARED(path);
  const Tokenizer tokenizer(llama2c_vocabulary(path));
  EXPECT_EQ(tokenizer.size(), 512);
  const std::string prompt = "Once upon a time, there was a little girl named Lily.";
  EXPECT_EQ(tokenizer.encode(prompt), (Ids{1, 403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426}));
  std::mt19937 rng(7);
  for (const std::string& text : {prompt, read_file(shared("stories260K/golden_noprompt_n256.txt")), std::string("  a  b\n\n")})
    EXPECT_EQ(tokenizer.encode(text, false), merge_greedily(tokenizer, text)) << text;
  for (int i = 0; i < 200; ++i) {
    const std::string text = random_text(rng, 40);
    EXPECT_EQ(tokenizer.encode(text, false, false), merge_greedily(tokenizer, text)) << text;
  }
}

TEST(Tokenizer, GoldenIds) {
  for (const char* name : golden_names) {
    const GoldenVocab read(std::string(FOLIO_SOURCE_DIR) + "/tests/golden/tokenizer/" + name + ".txt");
    const Tokenizer tokenizer(read.vocabulary);
    EXPECT_GE(read.cases.size(), 30u);
    for (const auto& [text, ids] : read.cases) EXPECT_EQ(tokenizer.encode(text, false, false), ids) << name << ": " << text;
    std::string all;  // in one text, long enough for the cache
    for (const auto& [text, ids] : read.cases) all += text + "\n";
    if (read.vocabulary.kind != "unigram") {
      EXPECT_EQ(tokenizer.decode(tokenizer.encode(all + all, true, false)), all + all) << name;
    }
  }
}

TEST(Tokenizer, WordCacheChangesNothing) {
  std::mt19937 rng(3);
  for (const char* name : golden_names) {
    const Tokenizer tokenizer(golden(name));
    // Words that no token joins (each begins with a space behind a letter), so a long text is its words' ids in a row.
    std::string text;
    Ids expected;
    for (int i = 0; i < 2000; ++i) {
      const std::string word =
          std::string(i ? " " : "") + "wo" + std::string(1 + rng() % 3, char('a' + rng() % 26)) + (rng() % 9 ? "" : "é") + "x";
      text += word;
      const std::string_view alone =
          tokenizer.vocabulary().add_space_prefix && i ? std::string_view(word).substr(1) : std::string_view(word);
      for (Token id : tokenizer.encode(alone, false, false))
        if (id != tokenizer.unk() || expected.empty() || expected.back() != id) expected.push_back(id);
    }
    EXPECT_EQ(tokenizer.encode(text, false, false), expected) << name;
  }
}

TEST(Tokenizer, SpmEqualsGreedyMerging) {
  const Tokenizer tokenizer(golden("spm"));
  std::mt19937 rng(11);
  for (int i = 0; i < 150; ++i) {
    const std::string text = random_text(rng, 40);
    EXPECT_EQ(tokenizer.encode(text, false, false), merge_greedily(tokenizer, text)) << text;
  }
}

TEST(Tokenizer, RandomBytesComeBack) {
  std::mt19937 rng(5);
  for (const char* name : exact_names) {
    const Tokenizer tokenizer(golden(name));
    for (int i = 0; i < 1500; ++i) {
      std::string text = random_text(rng, 200);
      if (i % 4 == 0)
        for (char& c : text) c = char(rng());
      EXPECT_EQ(tokenizer.decode(tokenizer.encode(text, true, false)), text) << name << " " << i;
      EXPECT_EQ(tokenizer.decode(tokenizer.encode(text, i % 2, true), false),
                (i % 2 && tokenizer.vocabulary().add_bos ? "<s>" : "") + text);
    }
  }
  for (const char* name : golden_names) {
    const Tokenizer tokenizer(golden(name));
    for (int i = 0; i < 500; ++i)
      for (Token id : tokenizer.encode(random_text(rng, 100))) EXPECT_TRUE(id >= 0 && id < tokenizer.size());
  }
}

TEST(Tokenizer, LongPieces) {
  // A piece of 300,000 symbols, whatever the kind: quadratic work would take hours.
  for (const char* name : golden_names)
    for (const char* unit : {"a", " ", "\xff", "the", "é", "\n"}) {
      std::string text;
      while (text.size() < 300'000) text += unit;
      const Tokenizer tokenizer(golden(name));
      const Ids ids = tokenizer.encode(text);
      if (tokenizer.vocabulary().kind != "unigram") {
        EXPECT_EQ(tokenizer.decode(ids), text) << name;
      }
    }
}

Vocabulary with_specials(Vocabulary v) {
  add(v, "<s>", TokenType::control);     // 256
  add(v, "</s>", TokenType::control);    // 257
  add(v, "<s><s>", TokenType::control);  // 258
  add(v, "user", TokenType::user);       // 259
  add(v, "users", TokenType::user);      // 260
  add(v, "<unk>", TokenType::unknown);   // 261
  add(v, "gone", TokenType::unused);     // 262
  v.bos = 256;
  v.eos = {257, 258};
  v.unk = 261;
  v.add_bos = true;
  return v;
}

TEST(Tokenizer, SpecialTokens) {
  const Tokenizer t(with_specials(bytes_only("bpe")));
  EXPECT_EQ(t.encode("a"), (Ids{256, 'a'}));
  EXPECT_EQ(t.encode(""), (Ids{256}));
  EXPECT_EQ(t.encode("", false), Ids{});
  EXPECT_EQ(t.encode("<s>a</s>", false), (Ids{256, 'a', 257}));
  EXPECT_EQ(t.encode("<s>", false, false), (Ids{'<', 's', '>'}));
  EXPECT_EQ(t.encode("<s><s><s>", false), (Ids{258, 256}));               // the longest
  EXPECT_EQ(t.encode("xusersuser", false, false), (Ids{'x', 260, 259}));  // added by the user: always
  EXPECT_EQ(t.encode("gone", false), (Ids{'g', 'o', 'n', 'e'}));          // unused: never
  EXPECT_EQ(t.encode("<unk>", false), (Ids{261}));
  EXPECT_EQ(t.encode("<", false), (Ids{'<'}));
  EXPECT_EQ(t.decode(Ids{256, 'a', 257, 259}), "auser");
  EXPECT_EQ(t.decode(Ids{256, 'a', 257, 259}, false), "<s>a</s>user");
  EXPECT_EQ(t.decode(Ids{261}), "\xef\xbf\xbd");
  EXPECT_TRUE(t.eos(257) && t.eos(258) && !t.eos(256) && !t.eos(-1));
  EXPECT_EQ(t.find("</s>"), 257);
  EXPECT_EQ(t.find("a"), Token('a'));
  EXPECT_EQ(t.find("nothing"), -1);
  EXPECT_EQ(t.find(""), -1);
  EXPECT_EQ(t.text_of(259), "user");
  EXPECT_EQ(t.decode(258), "<s><s>");
  // Ids outside of the vocabulary have no text: a model's output may be padded.
  EXPECT_EQ(t.decode(Ids{-1, t.size(), 2147483647, 'b'}), "b");
  EXPECT_EQ(t.text_of(-5), "");
  EXPECT_EQ(t.type_of(1 << 20), TokenType::unused);

  Vocabulary v = with_specials(bytes_only("bpe"));
  v.strip_left = {257};
  v.strip_right = {256};
  v.add_eos = true;
  EXPECT_EQ(Tokenizer(v).encode("<s> \n a </s> b<s>  "), (Ids{256, 256, 'a', 257, ' ', 'b', 256, 257}));
}

TEST(Tokenizer, SpacePrefix) {
  Vocabulary v = with_specials(bytes_only("spm"));
  v.add_space_prefix = true;
  const Tokenizer t(v);
  // Before the text, and again behind every special token, as llama.cpp does.
  EXPECT_EQ(t.encode("a"), (Ids{256, ' ', 'a'}));
  EXPECT_EQ(t.encode(" a", false), (Ids{' ', ' ', 'a'}));
  EXPECT_EQ(t.encode("a", false, true, true), (Ids{'a'}));
  EXPECT_EQ(t.encode("a</s>b", false, true, true), (Ids{'a', 257, ' ', 'b'}));
  EXPECT_EQ(t.encode("a</s><s>b", false), (Ids{' ', 'a', 257, 256, ' ', 'b'}));
  for (const char* text : {"a", " a", "  a", "a </s><s>b", "</s> ", "", " ", "user s"})
    EXPECT_EQ(t.decode(t.encode(text), false), std::string("<s>") + text);
  EXPECT_EQ(t.decode(Ids{256, ' ', 'a', ' ', 'b'}), "a b");
  EXPECT_EQ(t.decode(Ids{' ', ' ', 'a'}), " a");
  // An answer goes on where the prompt ended; an answer to nothing begins a text.
  TextStream on(t), begin(t, {.starts_text = true});
  EXPECT_EQ(push(on, {' ', 'a'}), " a");
  EXPECT_EQ(push(begin, {' ', 'a', ' '}), "a ");
  TextStream after_bos(t);
  EXPECT_EQ(push(after_bos, {256, ' ', 'a'}), "a");

  v.add_space_prefix = false;
  EXPECT_EQ(Tokenizer(v).encode(" a", false), (Ids{' ', 'a'}));
  EXPECT_EQ(Tokenizer(v).decode(Ids{256, ' ', 'a'}), " a");
  // Byte-level BPE adds one only where there is none.
  Vocabulary bpe = bytes_only("bpe");
  bpe.add_space_prefix = true;
  EXPECT_EQ(Tokenizer(bpe).encode("a"), (Ids{' ', 'a'}));
  EXPECT_EQ(Tokenizer(bpe).encode(" a"), (Ids{' ', 'a'}));
}

TEST(Tokenizer, BytesThatAreNoTextStandAlone) {
  Vocabulary v = bytes_only("bpe");
  v.split = {R"(\p{L}+|\s)"};
  add(v, "ab");
  v.merges = {'a', 'b'};
  EXPECT_EQ(Tokenizer(v).encode("a\xff"
                                "bab\xc3"),
            (Ids{'a', 0xff, 'b', 256, 0xc3}));
}

TEST(Tokenizer, IgnoreMerges) {
  Vocabulary v = bytes_only("bpe");
  v.split = {R"(\w+|\W)"};
  add(v, "abc");  // no merges lead there
  EXPECT_EQ(Tokenizer(v).encode("abc abcd"), (Ids{'a', 'b', 'c', ' ', 'a', 'b', 'c', 'd'}));
  v.ignore_merges = true;
  EXPECT_EQ(Tokenizer(v).encode("abc abcd"), (Ids{256, ' ', 'a', 'b', 'c', 'd'}));
}

TEST(Tokenizer, MergesTakeTheBestThenTheLeftmost) {
  Vocabulary v = bytes_only("bpe");
  for (const char* text : {"aa", "ab", "aab"}) add(v, text);
  v.merges = {'a', 'b', 'a', 'a', 'a', 257};
  EXPECT_EQ(Tokenizer(v).encode("aaa"), (Ids{256, 'a'}));
  EXPECT_EQ(Tokenizer(v).encode("aaab"), (Ids{256, 257}));
  EXPECT_EQ(Tokenizer(v).encode("aab"), (Ids{258}));
}

TEST(Tokenizer, UnusedPiecesFallApart) {
  Vocabulary v = bytes_only("spm");
  add(v, "a", TokenType::normal, -9);
  add(v, "b", TokenType::normal, -9);
  add(v, "ab", TokenType::unused, -1);
  add(v, "aba", TokenType::normal, -2);
  add(v, "abab", TokenType::unused, -0.5f);
  const Tokenizer t(v);
  EXPECT_EQ(t.encode("ab"), (Ids{256, 257}));
  EXPECT_EQ(t.encode("aba"), (Ids{259}));
  EXPECT_EQ(t.encode("abab"), (Ids{256, 257, 256, 257}));
}

TEST(Tokenizer, UnknownsMeltTogether) {
  Vocabulary v;
  v.kind = "unigram";
  add(v, "<unk>", TokenType::unknown);
  add(v, "a", TokenType::normal, -1);
  v.unk = 0;
  EXPECT_EQ(Tokenizer(v).encode("a\xc3\xa9\xff za"), (Ids{1, 0, 1}));
  EXPECT_EQ(Tokenizer(v).decode(Ids{1, 0, 1}),
            "a\xef\xbf\xbd"
            "a");
  v.unk = -1;
  EXPECT_EQ(Tokenizer(v).encode("aa"), (Ids{1, 1}));
  try {
    Tokenizer(v).encode("a\n");
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "tokenizer: the vocabulary has no token for byte 0x0a of the text, and no unknown token");
  }
}

TEST(Tokenizer, Normalises) {
  EXPECT_EQ(normalize("e\xcc\x81", false), "é");
  EXPECT_EQ(normalize("é", false), "é");
  EXPECT_EQ(normalize("ﬁ①", true), "fi1");
  EXPECT_EQ(normalize("ﬁ", false), "ﬁ");
  EXPECT_EQ(normalize("각", false), "각");
  EXPECT_EQ(normalize(std::string("a\0b\xff"
                                  "e\xcc\x81\xc3",
                                  8),
                      false),
            std::string("a\0b\xff"
                        "é\xc3",
                        7));
  std::string marks = "a";  // a run of marks in the worst order, which utf8proc alone would take minutes to sort
  for (int i = 0; i < 200'000; ++i) marks += i % 2 ? "\xcc\xa1" : "\xcc\x81";
  EXPECT_GT(normalize(marks, false).size(), 100'000u);
  Vocabulary v = bytes_only("bpe");
  v.normalize = "nfkc";
  EXPECT_EQ(Tokenizer(v).encode("ﬁ"), (Ids{'f', 'i'}));
  Vocabulary clean = bytes_only("unigram");
  clean.clean_spaces = clean.add_space_prefix = true;
  EXPECT_EQ(Tokenizer(clean).encode("  a   b "), (Ids{' ', 'a', ' ', 'b'}));
  EXPECT_EQ(Tokenizer(clean).encode("   "), Ids{});
  clean.normalize = "nfkc";  // first: it makes spaces
  EXPECT_EQ(Tokenizer(clean).encode("\u3000 a\u3000"), (Ids{' ', 'a'}));
}

TEST(TextStream, NeverEmitsHalfACodePoint) {
  std::mt19937 rng(9);
  for (const char* name : {"bpe_gpt2", "spm", "unigram"}) {
    const Tokenizer t(golden(name));
    for (int round = 0; round < 300; ++round) {
      TextStream shown(t, {.starts_text = true}), raw(t, {.starts_text = true, .raw_bytes = true});
      Ids ids = t.encode(random_text(rng, 60), true, false);
      if (round % 2)
        for (Token& id : ids) id = Token(rng() % size_t(t.size() + 2)) - 1;
      std::string text, bytes;
      for (Token id : ids) {
        const std::string part = shown.push(id);
        EXPECT_TRUE(valid_utf8(part));
        text += part;
        bytes += raw.push(id);
      }
      const std::string rest = shown.finish();
      EXPECT_TRUE(valid_utf8(rest));
      EXPECT_EQ(bytes + raw.finish(), t.decode(ids));
      if (valid_utf8(t.decode(ids))) {
        EXPECT_EQ(text + rest, t.decode(ids));
      }
    }
  }
}

TEST(TextStream, ReplacesWhatCannotBeCompleted) {
  const Tokenizer t(with_specials(bytes_only("bpe")));
  const std::string bad = "\xef\xbf\xbd";
  const auto run = [&](std::string_view bytes, bool raw) {
    TextStream s(t, {.raw_bytes = raw});
    std::vector<std::string> out;
    for (char c : bytes) out.push_back(s.push(uint8_t(c)));
    out.push_back(s.finish());
    return out;
  };
  using Parts = std::vector<std::string>;
  EXPECT_EQ(run("\xf0\x9f\xa6\x99", false), (Parts{"", "", "", "🦙", ""}));
  EXPECT_EQ(run("\xe4\xb8"
                "a",
                false),
            (Parts{"", "", bad + "a", ""}));
  EXPECT_EQ(run("\xff\xc3", false), (Parts{bad, "", bad}));
  EXPECT_EQ(run("\xed\xa0\x80", false), (Parts{"", bad + bad, bad, ""}));  // a surrogate
  EXPECT_EQ(run("\xc3\xc3\xa9", true), (Parts{"", "\xc3", "é", ""}));
  TextStream s(t, {.skip_special = false});
  EXPECT_EQ(push(s, {256, 259}), "<s>user");
  TextStream hidden(t);
  EXPECT_EQ(push(hidden, {0xc3, 257, 0xa9}), "é");
}

TEST(HostileVocabulary, IsAnError) {
  const Vocabulary good = with_specials(bytes_only("bpe"));
  EXPECT_NO_THROW(Tokenizer{good});
  const auto broken = [&](const char* part, auto&& change) {
    Vocabulary v = good;
    change(v);
    expect_error(v, part);
  };
  expect_error({}, "vocabulary is empty");
  broken("kind 'wordpiece'", [](auto& v) { v.kind = "wordpiece"; });
  broken("normalisation 'nfd'", [](auto& v) { v.normalize = "nfd"; });
  broken("types for", [](auto& v) { v.types.pop_back(); });
  broken("types for", [](auto& v) { v.ends.push_back(v.ends.back()); });
  broken("token 5 ends at byte 3", [](auto& v) { v.ends[5] = 3; });
  broken("token 5 ends at byte -1", [](auto& v) { v.ends[5] = -1; });
  broken("ends at byte 2147483647", [](auto& v) { v.ends.back() = 2147483647; });
  broken("the tokens end at byte", [](auto& v) { v.bytes += 'x'; });
  broken("ends at byte", [](auto& v) { v.bytes.clear(); });
  broken("type 6", [](auto& v) { v.types[9] = 6; });
  broken("byte token 256 has 3 bytes", [](auto& v) { v.types[256] = 3; });
  broken("bos is token 263", [](auto& v) { v.bos = 263; });
  broken("bos is token 4294967296", [](auto& v) { v.bos = 1ll << 32; });
  broken("unk is token -2", [](auto& v) { v.unk = -2; });
  broken("pad is token", [](auto& v) { v.pad = INT64_MIN; });
  broken("eos is token -1", [](auto& v) { v.eos = {257, -1}; });
  broken("strip_left is token", [](auto& v) { v.strip_left = {263}; });
  broken("add_bos", [](auto& v) { v.bos = -1; });
  broken("add_eos", [](auto& v) { v.eos.clear(), v.add_eos = true; });
  broken("expected pairs", [](auto& v) { v.merges = {1}; });
  broken("merge 1 is of tokens", [](auto& v) {
    v.merges = {'<', 's', 1, 263}, add(v, "<s");
    v.merges[3] = 264;
  });
  broken("merge 0 is of tokens -1", [](auto& v) { v.merges = {-1, 1}; });
  broken("makes a text that is no token", [](auto& v) { v.merges = {'x', 'y'}; });
  broken("scores for kind bpe, expected 0", [](auto& v) { v.scores = {1}; });
  broken("0 scores for kind spm, expected 263", [](auto& v) { v.kind = "spm"; });
  broken("has merges", [](auto& v) { v.kind = "spm", v.merges = {1, 2}; });
  broken("has split patterns", [](auto& v) { v.kind = "unigram", v.split = {"a"}; });
  broken("score of token 3 is not finite", [](auto& v) { v.kind = "spm", v.scores.assign(263, 0), v.scores[3] = NAN; });
  broken("score of token 3 is not finite", [](auto& v) { v.kind = "unigram", v.scores.assign(263, 0), v.scores[3] = -INFINITY; });
  broken("'(a' is wrong at byte 2", [](auto& v) { v.split = {"x", "(a"}; });
  broken("is wrong at byte", [](auto& v) { v.split = {R"(a\C)"}; });
  broken("is wrong at byte", [](auto& v) { v.split = {"\xff"}; });
  broken("is wrong at byte", [](auto& v) { v.split = {"((((a{1,9999}){1,9999}){1,9999}){1,9999})"}; });
  broken("bytes, expected at most", [](auto& v) { v.split = {std::string(20000, 'a')}; });
  broken("split patterns, expected at most", [](auto& v) { v.split.assign(65, "a"); });
}

TEST(HostileVocabulary, PatternsCannotHang) {
  const std::string text = std::string(3000, 'a') + "!";
  int stopped = 0;
  for (const char* pattern : {"(a+)+[bc]", "(a|aa)+[bc]", "(?:a?){40}a{40}[bc]", "(?R)?a[bc]", "((a+)+)+[^a!]", "(a*)*[bc]",
                              "(?=(a+)+[bc])", R"((\w+\s?)+[bc])", "(?:(?R)|a)+[bc]", "(*NO_JIT)(a+)+[bc]", "(*NO_START_OPT)(a+)+b"}) {
    Vocabulary v = bytes_only("bpe");
    v.split = {pattern};
    const Tokenizer t(v);
    try {
      EXPECT_EQ(t.decode(t.encode(text)), text) << pattern;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(pattern), std::string::npos) << e.what();
      ++stopped;
    }
  }
  EXPECT_GE(stopped, 5);
  // Matches that are empty, begin behind their start or reach over others lose and repeat nothing.
  for (const char* pattern : {"", "a*?", "(?=b)", R"(a\Kb)", "(?<=a)b", "^", "$", "b|", R"(\b)", "(*ACCEPT)a", "(?<=é)", "(?C1)a"}) {
    Vocabulary v = bytes_only("bpe");
    v.split = {pattern, pattern};
    const Tokenizer t(v);
    for (const std::string& some : {std::string("aabbaéébab"),
                                    std::string("ab\xff"
                                                "ba"),
                                    std::string()})
      EXPECT_EQ(t.decode(t.encode(some)), some) << pattern;
  }
}

TEST(HostileVocabulary, RandomChangesNeverCrash) {
  std::mt19937 rng(13);
  int accepted = 0;
  for (int i = 0; i < 3000; ++i) {
    static const std::vector<Vocabulary> seeds = [] {
      std::vector<Vocabulary> all;
      for (const char* name : golden_names) all.push_back(golden(name));
      return all;
    }();
    Vocabulary v = seeds[rng() % seeds.size()];
    const auto any = [&](auto& list) {
      if (!list.empty()) list[rng() % list.size()] = typename std::decay_t<decltype(list)>::value_type(rng() % 2 ? rng() % 600 : rng());
    };
    for (unsigned n = rng() % 3 + 1; n--;) switch (rng() % 9) {
        case 0:
          any(v.bytes);
          break;
        case 1:
          v.types[rng() % v.types.size()] = uint8_t(rng() % 7);
          break;
        case 2:
          any(v.merges);
          break;
        case 3:
          v.ends[rng() % v.ends.size()] += int(rng() % 3) - 1;
          break;
        case 4:
          if (v.scores.size()) v.scores[rng() % v.scores.size()] = std::ldexp(float(rng()), int(rng() % 160) - 32);
          break;
        case 5:
          if (v.split.size()) any(v.split[0]);
          break;
        case 6:
          v.unk = int64_t(rng() % 300) - 1;
          break;
        case 7:
          v.kind = rng() % 2 ? "spm" : "unigram";
          break;
        case 8:
          v.add_space_prefix = rng() % 2, v.ignore_merges = rng() % 2, v.clean_spaces = rng() % 2, v.normalize = rng() % 2 ? "nfc" : "none";
          break;
      }
    try {
      const Tokenizer t(v);
      ++accepted;
      const Ids ids = t.encode(random_text(rng, 60));
      TextStream stream(t);
      for (Token id : ids) EXPECT_TRUE(valid_utf8(stream.push(id)));
      t.decode(ids);
    } catch (const Error& e) {
      EXPECT_EQ(std::string(e.what()).rfind("tokenizer: ", 0), 0u) << e.what();
    }
  }
  EXPECT_GT(accepted, 300);
}

}  // namespace
}  // namespace folio
