// SPDX-License-Identifier: MIT
// The token loop in this process: stop strings, turns, limits, and that chunks, turns and seeds give the texts they promise. The
// programs themselves, from the command line, are tested in test_programs.cpp.
#include "run/generate.h"

#include <limits>
#include <set>

#include "fixtures.h"
#include "tiny_model.h"
#include "tools/lib/line_editor.h"
#include "tools/lib/model.h"
#include "tools/lib/sampling.h"

namespace folio {
namespace {

std::string tiny(const std::string& name, const TinyModel& model = {}) {
  return write_tiny_model((scratch_dir() / (name + ".folio")).string(), model);
}

std::vector<Token> ids(const std::string& text) { return {text.begin(), text.end()}; }

TEST(StopStrings, LetThroughWhatCannotBeTheirBeginning) {
  StopStrings s({"stop", "", "\n\n"});
  EXPECT_EQ(s.feed("hello st"), "hello ");
  EXPECT_EQ(s.feed("range"), "strange");
  EXPECT_EQ(s.feed("\n"), "");
  EXPECT_EQ(s.feed("s"), "\n");
  EXPECT_EQ(s.feed("t"), "");
  EXPECT_EQ(s.feed("o"), "");
  EXPECT_FALSE(s.found());
  EXPECT_EQ(s.feed("p and more"), "");
  EXPECT_TRUE(s.found());
  EXPECT_EQ(s.feed("anything"), "");
  EXPECT_EQ(s.rest(), "");
}

TEST(StopStrings, GiveBackWhatWasHeld) {
  StopStrings s({"aab"});
  EXPECT_EQ(s.feed("xaa"), "x");
  EXPECT_EQ(s.feed("a"), "a");   // aaa: the last two may still begin it
  EXPECT_EQ(s.rest(), "aa");
  EXPECT_EQ(s.feed("aa"), "");
  EXPECT_EQ(s.feed("b"), "");
  EXPECT_TRUE(s.found());
}

TEST(StopStrings, TheFirstCompleteOneWins) {
  StopStrings s({"cd", "bcde", "abc"});
  EXPECT_EQ(s.feed("xabcdef"), "x");   // abc is complete before cd, and ends before bcde
  EXPECT_TRUE(s.found());
  StopStrings t({"c", "abc"});
  EXPECT_EQ(t.feed("xabc"), "x");      // both end here: the one that began first
}

TEST(StopStrings, AnyPiecesGiveTheSameText) {
  const std::string text = "one two threeee, twothree and threeet";
  for (const char* stop : {"threeet", "two t", "tt", "e,", "zzz"}) {
    const size_t at = text.find(stop);
    for (size_t piece = 1; piece < 9; ++piece) {
      StopStrings s({stop});
      std::string out;
      for (size_t i = 0; i < text.size(); i += piece) out += s.feed(std::string_view(text).substr(i, piece));
      out += s.rest();
      EXPECT_EQ(out, text.substr(0, at)) << stop << " by " << piece;
      EXPECT_EQ(s.found(), at != std::string::npos);
    }
  }
}

// A model with all that the loop needs; text is one byte a token.
struct Loop {
  explicit Loop(const TinyModel& model, SamplerOptions sampling = {.temperature = 0}, int chunk = 512, int64_t context = 0)
      : loaded(tiny(model.random ? "random" : "heart", model)), engine(*loaded.model, *loaded.device, {.context = context, .chunk = chunk}),
        sampler(sampling, loaded.model->vocab()), generator(engine, sampler) {
    options.decode = [](Token t) { return t < 256 ? std::string(1, char(t)) : std::string(); };
    options.show = [this](const Drawn& d) { shown += d.text; };
  }
  Generated run(const std::string& prompt, int64_t limit = -1) {
    options.limit = limit;
    return generator.run(ids(prompt), options);
  }
  Loaded loaded;
  Engine engine;
  Sampler sampler;
  Generator generator;
  GenerateOptions options;
  std::string shown;
};

TEST(Generate, StopsWhereItIsTold) {
  Loop loop({});
  loop.options.ends = {tiny_im_end};
  Generated g = loop.run("v");
  EXPECT_EQ(g.text, "wxyz");
  EXPECT_EQ(g.finish, Finish::end);
  EXPECT_EQ(g.tokens, (std::vector<Token>{'w', 'x', 'y', 'z', tiny_im_end}));
  EXPECT_EQ(loop.shown, "wxyz");
  EXPECT_EQ(g.prompt_tokens, 1);
  EXPECT_EQ(g.steps, 4);
  EXPECT_STREQ(name(g.finish), "stop");

  loop.generator.clear();
  loop.options.stops = {"fgh"};
  g = loop.run("abc");
  EXPECT_EQ(g.text, "de");
  EXPECT_EQ(g.finish, Finish::stop);
  EXPECT_EQ(g.tokens.size(), 5u);

  loop.generator.clear();
  g = loop.run("abc", 3);
  EXPECT_EQ(g.text, "def");   // what was held for the stop string comes out at last
  EXPECT_EQ(g.finish, Finish::limit);
  EXPECT_STREQ(name(g.finish), "length");

  loop.generator.clear();
  g = loop.run("abc", 0);
  EXPECT_EQ(g.text, "");
  EXPECT_EQ(g.tokens.size(), 0u);
  EXPECT_NE(g.logits_hash, 0u);
}

TEST(Generate, TheContextEnds) {
  for (int64_t context : {1, 2, 63, 64, 65, 130}) {
    Loop loop({}, {.temperature = 0}, 512, context);
    const Generated g = loop.run("0");
    EXPECT_EQ(g.finish, Finish::context);
    EXPECT_EQ(int64_t(g.tokens.size()), context - 1);
    EXPECT_EQ(loop.generator.text().size(), size_t(context));
    EXPECT_THROW(loop.run("0"), Error);
  }
  Loop loop({}, {.temperature = 0}, 512, 4);
  EXPECT_THROW(loop.run("12345"), Error);
  EXPECT_THROW(loop.run(""), Error);
  EXPECT_EQ(loop.run("1234").tokens.size(), 0u);   // full, and not an error
}

TEST(Generate, AnInterruptStopsItAndTheTextGoesOn) {
  Loop loop({});
  std::atomic<bool> interrupt{false};
  loop.options.interrupt = &interrupt;
  loop.options.show = [&](const Drawn& d) { interrupt = interrupt || d.token == '5'; };
  Generated g = loop.run("0");
  EXPECT_EQ(g.finish, Finish::interrupted);
  EXPECT_EQ(g.text, "12345");
  g = loop.run("a", 3);   // still asked for: not even the prompt is read
  EXPECT_EQ(g.finish, Finish::interrupted);
  EXPECT_TRUE(g.tokens.empty());
  interrupt = false;
  g = loop.run("b", 3);
  EXPECT_EQ(g.text, "cde");
  EXPECT_EQ(loop.generator.text().size(), 11u);
}

TEST(Generate, ChunksAndTurnsChangeNoToken) {
  const SamplerOptions sampling{.temperature = 1.5f, .top_k = 0, .top_p = 1, .min_p = 0, .repeat_penalty = 1.1f, .seed = 3};
  const std::string prompt = "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness";
  const Generated want = Loop({.random = true}, sampling).run(prompt, 200);
  ASSERT_EQ(want.tokens.size(), 200u);
  EXPECT_GT(std::set<Token>(want.tokens.begin(), want.tokens.end()).size(), 50u) << "these are no draws";
  for (int chunk : {1, 7, 64}) {
    const Generated g = Loop({.random = true}, sampling, chunk).run(prompt, 200);
    EXPECT_EQ(g.tokens, want.tokens) << chunk;
  }
  // In turns: some of it, an answer, and on.
  Loop turns({.random = true}, sampling);
  turns.run(prompt.substr(0, 50), 0);
  const Generated first = turns.run(prompt.substr(50), 120);
  const Generated second = turns.run("", 80);
  std::vector<Token> all = first.tokens;
  all.insert(all.end(), second.tokens.begin(), second.tokens.end());
  EXPECT_EQ(all, want.tokens);
  SamplerOptions other = sampling;
  other.seed = 4;
  EXPECT_NE(Loop({.random = true}, other).run(prompt, 200).tokens, want.tokens);
}

TEST(Generate, Logprobs) {
  Loop loop({.random = true}, {.temperature = 0});
  loop.options.logprobs = 3;
  const Generated g = loop.run("x", 20);
  ASSERT_EQ(g.logprobs.size(), 20u);
  ASSERT_EQ(g.likeliest.size(), 20u);
  for (size_t i = 0; i < 20; ++i) {
    ASSERT_EQ(g.likeliest[i].size(), 3u);
    EXPECT_EQ(g.likeliest[i][0].token, g.tokens[i]);
    EXPECT_EQ(g.likeliest[i][0].logprob, g.logprobs[i]);
    EXPECT_LE(g.likeliest[i][1].logprob, g.likeliest[i][0].logprob);
    EXPECT_LT(g.logprobs[i], 0);
  }
}

TEST(Flags, TokenIds) {
  EXPECT_EQ(parse_tokens("1 2,3\n 511\t0", 512), (std::vector<Token>{1, 2, 3, 511, 0}));
  EXPECT_TRUE(parse_tokens(" , ", 512).empty());
  for (const char* bad : {"512", "-1", "1x", "x", "1.5", "0x3", "99999999999999999999999", "1 2 3 four", "+1"})
    EXPECT_THROW(parse_tokens(bad, 512), Error) << bad;
}

TEST(Flags, LogitBias) {
  using Bias = std::pair<Token, float>;
  EXPECT_EQ(parse_bias("15043+1"), Bias(15043, 1));
  EXPECT_EQ(parse_bias("7-0.5"), Bias(7, -0.5f));
  EXPECT_EQ(parse_bias("7=-2e1"), Bias(7, -20));
  EXPECT_EQ(parse_bias("7:3"), Bias(7, 3));
  EXPECT_EQ(parse_bias("0-inf").second, -std::numeric_limits<float>::infinity());
  for (const char* bad : {"", "7", "7+", "+7", "-7+1", "7 1", "71", "7+x", "7+1x", "7--1x", "99999999999+1", "7+nan", "7*3"})
    EXPECT_THROW(parse_bias(bad), Error) << bad;
}

TEST(EditedLine, MovesByCharacters) {
  EditedLine line;
  line.insert("aé日e\xcc\x81");   // the last is an e with a combining accent
  line.left();
  EXPECT_EQ(line.cursor(), 6u);
  line.left(), line.left();
  EXPECT_EQ(line.cursor(), 1u);
  line.insert("x");
  EXPECT_EQ(line.text(), "axé日e\xcc\x81");
  line.erase();
  EXPECT_EQ(line.text(), "ax日e\xcc\x81");
  line.end(), line.backspace();
  EXPECT_EQ(line.text(), "ax日");
  line.backspace(), line.begin(), line.left(), line.erase();
  EXPECT_EQ(line.text(), "x");
  line.set("\xff\xfe" "b");
  line.left(), line.left(), line.erase();
  EXPECT_EQ(line.text(), "\xff" "b");
}

TEST(EditedLine, Erases) {
  EditedLine line;
  line.set("one two  ");
  line.erase_word();
  EXPECT_EQ(line.text(), "one ");
  line.set("abc"), line.left(), line.erase_to_begin();
  EXPECT_EQ(line.text(), "c");
  line.set("abc"), line.left(), line.erase_to_end();
  EXPECT_EQ(line.text(), "ab");
  EXPECT_EQ(line.cursor(), 2u);
  EditedLine empty;
  empty.left(), empty.right(), empty.backspace(), empty.erase(), empty.erase_word(), empty.erase_to_begin(), empty.erase_to_end();
  EXPECT_EQ(empty.text(), "");
  EXPECT_EQ(columns_of("aé日e\xcc\x81"), 5);
}

}  // namespace
}  // namespace folio
