// SPDX-License-Identifier: MIT
// generate and score from the command line, with models made on the spot: what they print, how they fail (one sentence, exit code
// 1), and how they behave at a terminal.
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "fixtures.h"
#include "tiny_model.h"
#include "tiny_recurrent.h"

namespace folio {
namespace {

using Json = nlohmann::json;

std::string path(const std::string& name) { return (scratch_dir() / name).string(); }

// Models of this file, each written once.
const std::string& model(const std::string& name) {
  static std::map<std::string, std::string> made;
  std::string& at = made[name];
  if (!at.empty()) return at;
  TinyModel m;
  if (name == "random") m.random = true;
  else if (name == "bare") m.tokenizer = false;
  else if (name == "chat") m.chat = chatml_template, m.add_bos = false;
  else if (name == "strange") m.chat = "{{ messages | tojson }}";
  else if (name == "long") m.context = 1 << 20;
  return at = write_tiny_model(path(name + ".folio"), m);
}

struct Result {
  int code;
  std::string out, err;
};

// A program of ours through the shell; `input` is its standard input.
Result run(const std::string& program, const std::string& arguments, const std::string& input = "") {
  FileWriter in(path("stdin"));
  in.write(input);
  in.commit();
  const std::string bin = std::string(FOLIO_BIN_DIR) + "/" + program;
  const Ran ran =
      run_command("( ( " + bin + " " + arguments + " ) <" + path("stdin") + " >" + path("stdout") + " 2>" + path("stderr") + " )");
  return {ran.code, read_file(path("stdout")), read_file(path("stderr"))};
}

Result generate(const std::string& name, const std::string& arguments, const std::string& input = "") {
  return run("generate", "-m " + model(name) + " -t 2 " + arguments, input);
}
Result score(const std::string& name, const std::string& arguments, const std::string& input = "") {
  return run("score", "-m " + model(name) + " -t 2 " + arguments, input);
}

void expect_error(const Result& r, const std::string& what) {
  EXPECT_EQ(r.code, 1) << r.err;
  EXPECT_EQ(r.out, "");
  EXPECT_TRUE(r.err.starts_with("error: ")) << r.err;
  EXPECT_EQ(std::count(r.err.begin(), r.err.end(), '\n'), 1) << "one sentence: " << r.err;
  EXPECT_NE(r.err.find(what), std::string::npos) << r.err << "does not say: " << what;
}

TEST(GenerateProgram, ContinuesAPrompt) {
  Result r = generate("heart", "-p 'see: uv' --temp 0");
  EXPECT_EQ(r.code, 0);
  EXPECT_EQ(r.out, "see: uvwxyz\n");
  EXPECT_NE(r.err.find("prompt 8 tokens"), std::string::npos) << r.err;   // bos
  EXPECT_NE(r.err.find("decode 4 tokens"), std::string::npos) << r.err;   // the first was drawn from the prompt's logits
  for (const char* part : {" GB/s, ", "% of ", " · peak ", " · seed ", " · logits "})
    EXPECT_NE(r.err.find(part), std::string::npos) << r.err;
  EXPECT_EQ(std::count(r.err.begin(), r.err.end(), '\n'), 1);
  EXPECT_EQ(generate("heart", "-p uv --no-echo").out, "wxyz\n");
  EXPECT_EQ(generate("heart", "-p uv -n 2").out, "uvwx\n");
  EXPECT_EQ(generate("heart", "-p uv -n 0").out, "uv\n");
  EXPECT_EQ(generate("heart", "-p uv --no-stats").err, "");
  EXPECT_EQ(generate("heart", "-p uv --quiet -c 5").err, "");
  EXPECT_EQ(generate("heart", "-p 8 -c 5").out, "8901\n");
  EXPECT_NE(generate("heart", "-p 8 -c 5").err.find("the context of 5 tokens is full"), std::string::npos);
  EXPECT_EQ(generate("heart", "--ignore-eos -p xy -n 4 --no-echo").out, "z\n");   // control tokens are no text
  EXPECT_EQ(Json::parse(generate("heart", "--ignore-eos -p xy -n 4 --json").out)["tokens"], Json({'z', tiny_im_end, tiny_eos, tiny_eos}));
}

TEST(GenerateProgram, TakesThePromptFromAnywhere) {
  EXPECT_EQ(generate("heart", "", "vw\n").out, "vwxyz\n");   // without the newline at its end
  EXPECT_EQ(generate("heart", "-f -", "vw").out, "vwxyz\n");
  FileWriter f(path("prompt.txt"));
  f.write("vw\n\n");
  f.commit();
  EXPECT_EQ(generate("heart", "-n 3 -f " + path("prompt.txt")).out, "vw\nabc\n");
  EXPECT_EQ(generate("heart", "--tokens '118 119'").out, "vwxyz\n");
  EXPECT_EQ(generate("heart", "--tokens 256 -n 3").out, "abc\n");
  EXPECT_EQ(generate("bare", "--tokens '48,49' -n 3").out, "48 49 50 51 52\n");
  EXPECT_EQ(generate("bare", "--tokens '48,49' -n 3 --no-echo").out, "50 51 52\n");
}

// A trained model's greedy text, as llama2.c writes it.
TEST(GenerateProgram, TellsTheGoldenStories) {
  const fs::path dir = shared_dir() / "models/stories260K";
  if (shared_dir().empty() || !fs::exists(dir)) GTEST_SKIP() << "no shared folder";
  const std::string from_bin = convert(dir / "stories260K.bin", "stories", "--tokenizer " + (dir / "tok512.bin").string());
  for (const std::string& file : {from_bin, convert(dir / "stories260K.gguf", "stories-gguf")})
    for (const auto& [golden, arguments] : std::map<std::string, std::string>{{"noprompt", "--tokens 1 -n 256"},
                                                                              {"once", "-p 'Once upon a time' -n 252"},
                                                                              {"dogcat", "-p 'The dog and the cat' -n 249"}}) {
      const Result r = run("generate", "-m " + file + " -t 2 --temp 0 -q " + arguments);
      EXPECT_EQ(r.out, read_file((dir / ("golden_" + golden + "_n256.txt")).string())) << file;
    }
}

TEST(GenerateProgram, StopStringsSpanTokens) {
  EXPECT_EQ(generate("heart", "-p a --stop gh --no-echo").out, "bcdef\n");
  EXPECT_EQ(generate("heart", "-p a --stop x --stop hij --stop j --no-echo").out, "bcdefg\n");
  EXPECT_EQ(generate("heart", "-p a --stop '' --stop yzy --no-echo").out, "bcdefghijklmnopqrstuvwxyz\n");
}

TEST(GenerateProgram, NeverWritesHalfACharacter) {
  EXPECT_EQ(generate("heart", "-p E -n 4 --no-echo").out, "éé\n");
  EXPECT_EQ(generate("heart", "-p E -n 3 --no-echo").out, "é\xef\xbf\xbd\n");
  const Json j = Json::parse(generate("heart", "-p E -n 3 --json").out);
  EXPECT_EQ(j["text"], "é\xef\xbf\xbd");
  // A prompt may be anything.
  const Result r = generate("heart", "-p $'\\xff\\xfe\\xe2\\x82\\xc0uv'");
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_TRUE(r.out.ends_with("uvwxyz\n"));
}

TEST(GenerateProgram, Json) {
  const Result r = generate("heart", "-p xy --json --logprobs 2 --temp 0 -s 5");
  EXPECT_EQ(std::count(r.out.begin(), r.out.end(), '\n'), 1);
  EXPECT_EQ(r.err, "");
  const Json j = Json::parse(r.out);
  EXPECT_EQ(j["text"], "z");
  EXPECT_EQ(j["tokens"], Json({'z', tiny_im_end}));
  EXPECT_EQ(j["prompt_tokens"], 3);
  EXPECT_EQ(j["prompt_ids"], Json({tiny_bos, 'x', 'y'}));
  EXPECT_EQ(j["finish_reason"], "stop");
  EXPECT_EQ(j["seed"], 5);
  EXPECT_EQ(j["logits_hash"].get<std::string>().size(), 16u);
  ASSERT_EQ(j["logprobs"].size(), 2u);
  EXPECT_EQ(j["logprobs"][0]["token"], 'z');
  EXPECT_EQ(j["logprobs"][0]["text"], "z");
  EXPECT_NEAR(j["logprobs"][0]["logprob"].get<double>(), 0, 1e-3);
  EXPECT_EQ(j["logprobs"][0]["top"].size(), 2u);
  for (const char* key : {"load_ms", "prompt_ms", "prompt_tps", "decode_ms", "decode_tps", "peak_memory_bytes"})
    EXPECT_GT(j["timings"][key], 0) << key;
  EXPECT_FALSE(Json::parse(generate("heart", "-p xy --json").out).contains("logprobs"));
  EXPECT_EQ(Json::parse(generate("heart", "-p xy --json -n 1").out)["finish_reason"], "length");
  EXPECT_EQ(Json::parse(generate("bare", "--tokens '48 49' --json -n 2").out)["tokens"], Json({'2', '3'}));
}

TEST(GenerateProgram, SameSeedSameTextWhateverTheThreadsAndChunks) {
  const std::string arguments =
      "-p 'The quick brown fox jumps over the lazy dog and runs' -n 100 --temp 1.2 --top-k 0 --top-p 1 --min-p 0 -q";
  const std::string want = generate("random", arguments + " -s 11").out;
  for (const char* how : {"-t 1", "-t 2", "-t 3", "--chunk 1", "-b 7", "--batch-size 512"})
    EXPECT_EQ(generate("random", arguments + " -s 11 " + how).out, want) << how;
  EXPECT_NE(generate("random", arguments + " -s 12").out, want);
  EXPECT_NE(generate("random", arguments).out, generate("random", arguments).out);   // another seed each time
}

TEST(GenerateProgram, SamplerFlagsArrive) {
  const std::string b = std::to_string('b'), c = std::to_string('c');
  EXPECT_EQ(generate("heart", "-p a -n 2 --no-echo --logit-bias " + b + "-inf --logit-bias " + c + "+5").out, "cd\n");
  EXPECT_EQ(generate("heart", "-p 0 -n 12 --no-echo --presence-penalty 30 --repeat-last-n 11 --temp 0 -q").out.substr(0, 9), "123456789");
  EXPECT_NE(generate("heart", "-p 0 -n 12 --no-echo --presence-penalty 30 --temp 0 -q").out, "123456789012\n");
  EXPECT_EQ(generate("heart", "-p 0 -n 12 --no-echo --temp 0 -q").out, "123456789012\n");
}

TEST(GenerateProgram, LooksInside) {
  const Result eager = generate("random", "-p abc --eager");
  EXPECT_EQ(eager.code, 0) << eager.err;
  EXPECT_NE(eager.out.find("attend"), std::string::npos);
  EXPECT_NE(generate("random", "-p abc --print-graph text").out.find("matmul"), std::string::npos);
  EXPECT_NE(generate("random", "-p abc --print-graph dot").out.find("digraph"), std::string::npos);
  const Result against = generate("random", "-p abc --against reference");
  EXPECT_EQ(against.code, 0) << against.out << against.err;
  EXPECT_NE(against.out.find("agrees with reference"), std::string::npos) << against.out;
}

TEST(GenerateProgram, Chat) {
  EXPECT_EQ(generate("chat", "--chat -p hello --temp 0").out, "abcdefghijklmnopqrstuvwxyz\n");
  const Json j = Json::parse(generate("chat", "--chat --system be -p hello --temp 0 --json").out);
  std::string text;
  for (int id : j["prompt_ids"]) text += id < 256 ? std::string(1, char(id)) : id == tiny_im_start ? "<" : ">";
  EXPECT_EQ(text, "<system\nbe>\n<user\nhello>\n<assistant\n");
  // Two turns: what the model has seen is not read again.
  const Result two = generate("chat", "--chat -i --json --temp 0", "hello\nyou\n");
  std::istringstream lines(two.out);
  std::string first, second;
  std::getline(lines, first), std::getline(lines, second);
  text.clear();
  const Json answer = Json::parse(second);
  for (int id : answer["prompt_ids"]) text += id < 256 ? std::string(1, char(id)) : id == tiny_im_start ? "<" : ">";
  EXPECT_EQ(text, "\n<user\nyou>\n<assistant\n");   // the end of the answer was drawn by the model
  EXPECT_EQ(answer["text"], "abcdefghijklmnopqrstuvwxyz");
}

TEST(GenerateProgram, InteractiveWithoutATerminal) {
  EXPECT_EQ(generate("heart", "-i -q", "uv\nxy\n").out, "wxyz\nz\n");
  EXPECT_EQ(generate("heart", "-i -q -p uv", "").out, "uvwxyz\n");
  EXPECT_EQ(generate("heart", "-i -q", "").code, 0);
}

TEST(GenerateProgram, BadInput) {
  expect_error(generate("heart", "-p ''"), "the prompt is empty");
  expect_error(generate("heart", "", ""), "the prompt is empty");
  expect_error(generate("heart", "-f /dev/null"), "the prompt is empty");
  expect_error(generate("heart", "--tokens ' '"), "the prompt is empty");
  expect_error(generate("heart", "-p 'seven' -c 5"), "the prompt has 6 tokens and the context holds 5");
  expect_error(generate("heart", "--tokens '1 264'"), "the vocabulary has 264 tokens");
  expect_error(generate("heart", "--tokens '1 -1'"), "there is no token -1");
  expect_error(generate("heart", "--tokens '1 two'"), "'two' is no token id");
  expect_error(generate("bare", "-p a"), "no tokenizer");
  expect_error(generate("bare", "--tokens 1 --stop a"), "--stop needs a tokenizer");
  expect_error(generate("bare", "--chat -p a"), "tokenizer");
  expect_error(generate("heart", "--chat -p a"), "no chat template");
  expect_error(generate("strange", "--chat -p a"), "template");
  expect_error(generate("heart", "-p a -f b"), "--prompt");
  expect_error(generate("heart", "-p a --no-such-flag"), "--no-such-flag");
  expect_error(generate("heart", "-f " + path("nothing.txt")), "nothing.txt");
  expect_error(generate("heart", "-p a --temp -1"), "temperature");
  expect_error(generate("heart", "-p a --temp x"), "--temp");
  expect_error(generate("heart", "-p a --top-p 2"), "top-p");
  expect_error(generate("heart", "-p a --logit-bias 5"), "--logit-bias");
  expect_error(generate("heart", "-p a --logit-bias 264+1"), "264");
  expect_error(generate("heart", "-p a --seed x"), "--seed");
  expect_error(generate("heart", "-p a -t -1"), "--threads");
  expect_error(generate("heart", "-p a -n -2"), "--predict");
  expect_error(generate("heart", "-p a --chunk 0"), "--batch-size");
  expect_error(generate("heart", "-p a --cache-type q8"), "--cache-type");
  expect_error(run("generate", "-p a"), "--model");
  expect_error(run("generate", "-p a -m " + path("nothing.folio")), "nothing.folio");
  const Result full = run("generate", "-m " + model("heart") + " -p a -q >/dev/full");
  EXPECT_EQ(full.code, 1);
  EXPECT_NE(full.err.find("cannot write to standard output"), std::string::npos) << full.err;
}

TEST(GenerateProgram, VerifyFindsDamage) {
  std::string bytes = read_file(model("heart"));
  bytes[bytes.size() - 5000] ^= 1;
  const std::string damaged = path("damaged.folio");
  FileWriter f(damaged);
  f.write(bytes);
  f.commit();
  expect_error(run("generate", "--verify -p a -m " + damaged), "damaged");
  EXPECT_EQ(generate("heart", "--verify -p a").code, 0);
}

// A file whose hashes are right, and which a broken checkpoint was made into.
TEST(GenerateProgram, VerifyNamesTheLayerThatHoldsNaN) {
  const std::string broken = path("broken.folio");
  write_tiny_recurrent(broken, {}, [](WeightsWriter& w) {
    for (const char* name : {"layer.1.mix.decay.rate", "layer.1.mix.out.weight"}) {
      const float nan = std::numeric_limits<float>::quiet_NaN();
      std::memcpy(w.entry(name).data.data() + 4, &nan, sizeof nan);
    }
  });
  for (const char* program : {"generate", "score"})
    expect_error(run(program, "--verify --tokens '1 2' -m " + broken), "layer.1.mix.out.weight holds NaN at [0,1] (and 1 more like it)");
}

// A log-linear model's table ends after 2^(L−1) tokens: said once, where a longer context is asked for, and never by the way.
TEST(GenerateProgram, SaysOnceThatALogLinearTableEnds) {
  const std::string file = write_tiny_recurrent(path("levels.folio"), {.kind = "log_linear", .levels = 10, .context = 512});
  std::string ids;
  for (int i = 0; i < 700; ++i) ids += std::to_string(i % tiny_recurrent_vocab) + " ";
  const std::string warning = "warning: -c 1,000: after every 512 tokens the log-linear layers of this model begin anew";
  for (const std::string program : {"generate -n 20 --no-stats --temp 0", "score"}) {
    const std::string name = program.substr(0, program.find(' ')), flags = program.substr(name.size()) + " -t 2 -m " + file;
    const Result longer = run(name, flags + " -c 1000 --tokens '" + ids + "'");
    EXPECT_EQ(longer.code, 0) << longer.err;
    EXPECT_EQ(longer.err.find(warning), 0u) << longer.err;
    EXPECT_EQ(longer.err.find("warning", 1), std::string::npos) << longer.err;
    EXPECT_EQ(run(name, flags + " -q -c 1000 --tokens '1 2 3'").err, "");
    for (const char* within : {"", " -c 512", " -c 100"}) {
      const Result quiet = run(name, flags + within + " --tokens '1 2 3'");
      EXPECT_EQ(quiet.code, 0) << quiet.err;
      EXPECT_EQ(quiet.err.find("warning"), std::string::npos) << quiet.err;
    }
  }
}

TEST(ScoreProgram, CountsEveryTokenOnce) {
  const std::string text = "abcdefghijklmnopqrstuvwxyz and some more: 0123456789012345678901234567890123456789";
  Json whole = Json::parse(score("random", "--json", text).out);
  EXPECT_EQ(whole["tokens"], text.size() + 1);   // bos
  EXPECT_EQ(whole["scored"], text.size());
  EXPECT_EQ(whole["bytes"], text.size());
  EXPECT_EQ(whole["windows"], 1);
  EXPECT_NEAR(whole["perplexity"], std::exp(whole["nll"].get<double>()), 1e-6);
  EXPECT_NEAR(whole["bits_per_byte"], whole["nll"].get<double>() / std::log(2.0), 1e-9);   // a byte a token
  for (const char* how : {"--chunk 1", "--chunk 7", "-t 1", "-c 83"}) {
    const Json other = Json::parse(score("random", std::string("--json ") + how, text).out);
    EXPECT_NEAR(other["nll"], whole["nll"].get<double>(), 1e-6) << how;
  }
}

// Rows of a .npy file of floats.
std::vector<float> npy(const std::string& file, int64_t rows, int64_t columns) {
  const std::string bytes = read_file(file);
  EXPECT_EQ(bytes.substr(0, 8), std::string("\x93NUMPY\x01\x00", 8));
  const size_t head = 10 + uint8_t(bytes[8]) + 256 * uint8_t(bytes[9]);
  EXPECT_EQ(head % 64, 0u);
  EXPECT_NE(bytes.find(join("'shape': (", rows, ", ", columns, ")")), std::string::npos);
  EXPECT_EQ(bytes.size(), head + size_t(rows * columns) * 4);
  std::vector<float> out(size_t(rows * columns));
  std::memcpy(out.data(), bytes.data() + head, std::min(bytes.size() - head, out.size() * 4));
  return out;
}

// Windows by hand: row i comes from the first window whose counted part reaches it.
TEST(ScoreProgram, WindowsAreAsDocumented) {
  std::vector<Token> ids;
  std::string list;
  for (int i = 0; i < 50; ++i) ids.push_back((i * i * 31 + 7 * i) % 250), list += std::to_string(ids.back()) + " ";
  const int context = 16;
  Loaded loaded(model("random"));
  Engine engine(*loaded.model, *loaded.device, {.context = context});
  for (int stride : {1, 5, 8, 16}) {
    const std::string file = path("logits.npy");
    const Result r = score("random", "--json -c 16 --stride " + std::to_string(stride) + " --logits " + file + " --tokens '" + list + "'");
    ASSERT_EQ(r.code, 0) << r.err;
    const auto got = npy(file, 50, tiny_vocab);
    double nll = 0;
    for (int i = 0, begin = 0; i < 50; ++i) {
      while (i >= begin + context) begin += stride;
      Seq seq = engine.cache().open({});
      const auto rows = all_logits(engine, seq, std::span(ids).subspan(size_t(begin), size_t(i - begin + 1)), 512);
      engine.cache().close(seq);
      const auto want = std::span(rows).last(tiny_vocab);
      EXPECT_LT(worst_difference(std::span(got).subspan(size_t(i) * tiny_vocab, tiny_vocab), want), 1e-5f)
          << "row " << i << ", stride " << stride;
      double sum = 0;
      for (float x : want) sum += std::exp(double(x));
      if (i < 49) nll += std::log(sum) - want[size_t(ids[size_t(i) + 1])];
    }
    EXPECT_NEAR(Json::parse(r.out)["nll"], nll / 49, 1e-5) << stride;
    EXPECT_EQ(Json::parse(r.out)["scored"], 49);
  }
}

TEST(ScoreProgram, BadInput) {
  expect_error(score("heart", "", ""), "the text is empty");
  expect_error(score("heart", "--tokens ''"), "there is no token");
  expect_error(score("heart", "--tokens 1"), "at least two");
  expect_error(score("heart", "--tokens '1 264'"), "264");
  expect_error(score("bare", "", "text"), "no tokenizer");
  expect_error(score("heart", "--tokens '1 2' --stride 513"), "--stride");
  expect_error(score("heart", "--tokens '1 2' --logits " + path("nowhere/x.npy")), "cannot write");
  ASSERT_EQ(mkfifo(path("pipe").c_str(), 0600), 0);
  expect_error(score("heart", "--tokens '1 2' --logits " + path("pipe")), "no regular file");
  expect_error(score("heart", "--tokens '1 2' --logits " + scratch_dir().string()), "cannot write");
  expect_error(score("heart", "--bogus"), "--bogus");
  EXPECT_FALSE(fs::exists(path("nowhere/x.npy.part")));
  const Result bare = score("bare", "--tokens '48 49 50' --json");
  EXPECT_EQ(bare.code, 0);
  EXPECT_TRUE(Json::parse(bare.out)["bits_per_byte"].is_null());
}

// A program at a terminal of its own.
class Terminal {
 public:
  explicit Terminal(const std::vector<std::string>& arguments) {
    std::vector<char*> argv;
    for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    winsize size{24, 80, 0, 0};
    child_ = forkpty(&fd_, nullptr, nullptr, &size);
    if (child_ == 0) {
      execv(argv[0], argv.data());
      _exit(127);
    }
  }
  ~Terminal() {
    if (child_ > 0) kill(child_, SIGKILL), waitpid(child_, nullptr, 0);
    close(fd_);
  }
  void type(const std::string& keys) { EXPECT_EQ(write(fd_, keys.data(), keys.size()), ssize_t(keys.size())); }
  // Reads until `text` has come, which is taken off with all before it. False after ten seconds.
  bool wait_for(const std::string& text) {
    for (int tries = 0; tries < 200; ++tries) {
      const size_t at = seen_.find(text);
      if (at != std::string::npos) {
        seen_.erase(0, at + text.size());
        return true;
      }
      pollfd p{fd_, POLLIN, 0};
      if (poll(&p, 1, 50) <= 0) continue;
      char buffer[4096];
      const ssize_t n = read(fd_, buffer, sizeof buffer);
      if (n <= 0) return false;
      seen_.append(buffer, size_t(n));
    }
    return false;
  }
  int exit_code() {
    int status = 0;
    for (int tries = 0; tries < 200; ++tries) {
      pollfd p{fd_, POLLIN, 0};
      char buffer[4096];
      if (poll(&p, 1, 50) > 0 && read(fd_, buffer, sizeof buffer) < 0) usleep(1000);   // lets it write what it has to
      if (waitpid(child_, &status, WNOHANG) == child_) {
        child_ = -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      }
    }
    return -1;
  }
  const std::string& seen() const { return seen_; }

 private:
  pid_t child_ = -1;
  int fd_ = -1;
  std::string seen_;
};

std::vector<std::string> at_terminal(const std::string& name, std::vector<std::string> more = {}) {
  std::vector<std::string> all{std::string(FOLIO_BIN_DIR) + "/generate", "-m", model(name), "-t", "1", "--temp", "0", "-i"};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

TEST(InteractiveProgram, EditsLinesAndRemembersThem) {
  Terminal t(at_terminal("heart"));
  ASSERT_TRUE(t.wait_for("> "));
  t.type("wx\x1b[Dy\x7fv\x1b[D\x1b[D\x1b[3~uv\x1b[F\x7f" "x\r");   // wx, w|x, wv|x, |wvx, |vx, uv|vx, uvvx
  EXPECT_TRUE(t.wait_for("uvvx")) << t.seen();
  EXPECT_TRUE(t.wait_for("yz")) << t.seen();
  ASSERT_TRUE(t.wait_for("> "));
  t.type("éé\x7f\x7fxy\r");
  EXPECT_TRUE(t.wait_for("xy\r"));
  EXPECT_TRUE(t.wait_for("z\r\n"));
  ASSERT_TRUE(t.wait_for("> "));
  t.type("\x1b[A\x1b[A\x1b[B\r");   // back two, forward one: xy again
  EXPECT_TRUE(t.wait_for("xy\r"));
  EXPECT_TRUE(t.wait_for("z\r\n"));
  ASSERT_TRUE(t.wait_for("> "));
  t.type("\x04");
  EXPECT_TRUE(t.wait_for("tokens/s"));
  EXPECT_EQ(t.exit_code(), 0);
}

TEST(InteractiveProgram, CtrlCStopsTheAnswerAndNotTheProgram) {
  Terminal t(at_terminal("long"));
  ASSERT_TRUE(t.wait_for("> "));
  t.type("0\r");
  ASSERT_TRUE(t.wait_for("0123456789012345")) << t.seen();
  t.type("\x03");
  EXPECT_TRUE(t.wait_for("[interrupted]")) << t.seen();
  ASSERT_TRUE(t.wait_for("> "));
  t.type("wx\r");   // the conversation goes on
  EXPECT_TRUE(t.wait_for("yz\r\n")) << t.seen();
  ASSERT_TRUE(t.wait_for("> "));
  t.type("some\x03");   // clears the line
  t.type("\x03");       // warns
  EXPECT_TRUE(t.wait_for("to leave")) << t.seen();
  ASSERT_TRUE(t.wait_for("> "));   // between two prompts the terminal is cooked, and Ctrl-C a signal that has nothing to stop
  t.type("\x03");
  EXPECT_EQ(t.exit_code(), 0);
}

TEST(InteractiveProgram, CtrlCAgainAfterAnAnswerEndsIt) {
  Terminal t(at_terminal("long", {"-p", "0"}));
  ASSERT_TRUE(t.wait_for("01234567890123")) << t.seen();
  t.type("\x03");
  ASSERT_TRUE(t.wait_for("> "));
  t.type("\x03");
  EXPECT_EQ(t.exit_code(), 0);
}

TEST(InteractiveProgram, CtrlCWithoutConversationEndsWithStatistics) {
  std::vector<std::string> arguments = at_terminal("long", {"-p", "0"});
  std::erase(arguments, "-i");
  Terminal t(arguments);
  ASSERT_TRUE(t.wait_for("01234567890123")) << t.seen();
  t.type("\x03");
  EXPECT_TRUE(t.wait_for("tokens/s"));
  EXPECT_EQ(t.exit_code(), 130);
}

// Guesses save steps and change nothing: repetitive and random texts, guessed by n-grams and by a model that knows everything or nothing.
TEST(Drafts, LeaveTheTextAsItIs) {
  for (const std::string name : {"heart", "random"})
    for (const std::string how : {"--temp 0", "--temp 0.9 -s 7 --repeat-penalty 1.1", "--temp 1 -s 3 --top-k 0 --min-p 0"}) {
      SCOPED_TRACE(name + " " + how);
      const std::string arguments = "-p \"EEE123456789012\" -n 90 --ignore-eos --json " + how;
      const Json plain = Json::parse(generate(name, arguments).out);
      for (const std::string& draft : {std::string("--draft-ngram --draft-min-match 1"), "--draft " + model("random"), "--draft " + model("heart")}) {
        const Json drafted = Json::parse(generate(name, arguments + " --draft-always " + draft).out);
        EXPECT_EQ(drafted["tokens"], plain["tokens"]) << draft;
        EXPECT_EQ(drafted["text"], plain["text"]) << draft;
        if (draft == "--draft " + model(name)) {
          EXPECT_EQ(drafted["drafts"]["accepted"], drafted["drafts"]["drafted"]) << "it knows all, and draws with the same noise";
          EXPECT_LT(drafted["timings"]["decode_steps"], 30);
        }
      }
    }
}

// Other rules write other texts, the same each time, and greedy ones as ever.
TEST(Drafts, ResidualAndBlockWriteTheirOwnTexts) {
  const std::string arguments = "-p \"EEE123456789012\" -n 60 --ignore-eos --json ", draft = " --draft " + model("random");
  const std::string warm = arguments + "--temp 1.2 -s 3 --top-k 0 --min-p 0";
  for (const std::string rule : {" --spec-accept residual", " --spec-accept block"}) {
    SCOPED_TRACE(rule);
    const Json first = Json::parse(generate("random", warm + draft + rule).out), again = Json::parse(generate("random", warm + draft + rule).out);
    EXPECT_EQ(first["tokens"].size(), 60u);
    EXPECT_EQ(first["tokens"], again["tokens"]);
    EXPECT_NE(first["tokens"], Json::parse(generate("random", warm).out)["tokens"]);
    EXPECT_EQ(first["drafts"]["accepted"], first["drafts"]["drafted"]) << "both models are the same";
    EXPECT_GT(first["drafts"]["accepted"], 30);
    for (const std::string& other : {draft, std::string(" --draft-ngram --draft-always")})
      EXPECT_EQ(Json::parse(generate("random", arguments + "--temp 0" + other + rule).out)["tokens"],
                Json::parse(generate("random", arguments + "--temp 0").out)["tokens"]);
  }
  for (const std::string wrong : {"--spec-accept typical", "--draft-max 65", "--draft-max 0"})
    EXPECT_EQ(generate("heart", "-p a -n 3 " + wrong).code, 1) << wrong;
}

TEST(Drafts, OfAnotherVocabularyAreRefused) {
  const Result bare = generate("heart", "-p a -n 3 --draft " + model("bare"));
  EXPECT_EQ(bare.code, 1);
  EXPECT_NE(bare.err.find("has no tokenizer, and the model has one"), std::string::npos) << bare.err;
  const Result other = generate("heart", "-p a -n 3 --draft " + write_tiny_model(path("other.folio"), {.swapped = true}));
  EXPECT_EQ(other.code, 1);
  EXPECT_NE(other.err.find("has another vocabulary: token 97 is"), std::string::npos) << other.err;
}

}  // namespace
}  // namespace folio
