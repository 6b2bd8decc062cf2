// SPDX-License-Identifier: MIT
// inspect, end to end: what it prints of a good file, what it says of a bad one, and how it ends.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>

#include "weights_writer.h"

namespace folio {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

struct Ran {
  int code;
  std::string out, err;
};

class Inspect : public testing::Test {
 protected:
  Inspect() : folder(fs::temp_directory_path() / ("folio_inspect_" + std::to_string(getpid()))) {
    fs::create_directories(folder);
    model = (folder / "m.folio").string();
    writer().save(model);
  }
  ~Inspect() override { fs::remove_all(folder); }

  static WeightsWriter writer(bool odd = true) {
    WeightsWriter w;
    w.meta("arch", "decoder")
        .meta("dim", 64)
        .meta("eps", 1e-5)
        .meta("long", std::string(1000, 'x'))
        .meta("escape", "\x1b[31mred\nline");
    w.meta("list", std::vector<int64_t>(100, 7)).meta("words", std::vector<std::string>{"a", "b\"c"});
    w.tensor("norm", {4}, {1, -2, 0, 5}).tensor("mix.weight", {32, 32}, std::vector<float>(1024, 0.5f), Q8_0);
    if (odd) w.tensor("odd", {5}, {1, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 3, -HUGE_VALF});
    w.integers("ids", {2, 2}, {-1, 0, 1, 1 << 30}).bytes("bytes", {3}, "\1\2\3");
    w.tensor("ffn.weight", {2, 128}, std::vector<float>(256, 1.75f), F8_E4M3);
    return w;
  }

  Ran run(const std::string& arguments) const {
    const std::string out = (folder / "out").string(), err = (folder / "err").string();
    const int status = std::system((std::string(FOLIO_BIN_DIR) + "/inspect " + arguments + " > " + out + " 2> " + err).c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_file(out), read_file(err)};
  }

  void save(const char* name, const std::string& bytes) const {
    FileWriter out((folder / name).string());
    out.write(bytes);
    out.commit();
  }

  // Exit code 1, nothing on stdout, one line on stderr that begins with "error: " and holds `part`.
  void expect_error(const std::string& arguments, const std::string& part) const {
    const Ran ran = run(arguments);
    EXPECT_EQ(ran.code, 1) << arguments;
    EXPECT_EQ(ran.out, "") << arguments;
    EXPECT_TRUE(ran.err.starts_with("error: ")) << ran.err;
    EXPECT_EQ(ran.err.find('\n'), ran.err.size() - 1) << ran.err;
    EXPECT_NE(ran.err.find(part), std::string::npos) << ran.err;
  }

  fs::path folder;
  std::string model;
};

TEST_F(Inspect, PrintsWhatIsInTheFile) {
  const Ran ran = run(model);
  EXPECT_EQ(ran.code, 0);
  EXPECT_EQ(ran.err, "");
  for (const char* part :
       {".folio version 1", "metadata (7)", "tensors (6)", "arch    \"decoder\"", "dim     64", "eps     1e-05",
        "[7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, ...] (100 entries)", "xxx...\" (1,000 bytes)", "\\x1b[31mred\\nline",
        "mix.weight  q8_0     [32,32]  1,088", "ffn.weight  f8_e4m3  [2,128]    272", "totals",
        "f32            2         9     36   36 bytes"})
    EXPECT_NE(ran.out.find(part), std::string::npos) << part << "\n" << ran.out;
  EXPECT_EQ(ran.out.find('\x1b'), std::string::npos);
}

TEST_F(Inspect, JsonHoldsAll) {
  const Ran ran = run("--json " + model);
  EXPECT_EQ(ran.code, 0);
  const Json json = Json::parse(ran.out);
  EXPECT_EQ(json["version"], 1);
  EXPECT_EQ(json["bytes"], fs::file_size(model));
  EXPECT_EQ(json["metadata"]["dim"], 64);
  EXPECT_EQ(json["metadata"]["long"].get<std::string>().size(), 1000u);
  EXPECT_EQ(json["metadata"]["list"].size(), 100u);
  EXPECT_EQ(json["metadata"]["words"][1], "b\"c");
  ASSERT_EQ(json["tensors"].size(), 6u);
  EXPECT_EQ(json["tensors"][1]["name"], "mix.weight");
  EXPECT_EQ(json["tensors"][1]["shape"], (std::vector<int>{32, 32}));
  EXPECT_EQ(json["tensors"][1]["bytes"], 1088);
  EXPECT_EQ(json["tensors"][1]["hash"].get<std::string>().size(), 16u);
  EXPECT_EQ(json["totals"]["f32"]["tensors"], 2);
}

TEST_F(Inspect, VerifyFindsDamage) {
  const std::string sound = (folder / "sound.folio").string();
  writer(false).save(sound);
  const Ran good = run("--verify " + sound);
  EXPECT_EQ(good.code, 0) << good.err;
  EXPECT_TRUE(good.out.starts_with("OK   ")) << good.out;
  EXPECT_EQ(Json::parse(run("--verify --json " + sound).out)["ok"], true);

  std::string bytes = writer(false).bytes();
  const Weights parsed("m", as_bytes(bytes));
  bytes[parsed.tensors()[1].offset + 100] ^= 1;
  bytes[parsed.tensors()[2].offset] ^= 1;
  save("bad.folio", bytes);
  const Ran bad = run("--verify " + (folder / "bad.folio").string());
  EXPECT_EQ(bad.code, 1);
  EXPECT_EQ(bad.out, "BAD  mix.weight\nBAD  ids\n");
  EXPECT_NE(bad.err.find("bad.folio: 2 parts do not agree with the index"), std::string::npos) << bad.err;
  const Ran json = run("--verify --json " + (folder / "bad.folio").string());
  EXPECT_EQ(json.code, 1);
  EXPECT_EQ(Json::parse(json.out)["bad"], (std::vector<std::string>{"mix.weight", "ids"}));
  EXPECT_EQ(run((folder / "bad.folio").string()).code, 0);  // damaged data can still be listed
}

// In every float format, in a number or in the scale of a block.
TEST_F(Inspect, VerifyNamesTensorsThatHoldWhatIsNoNumber) {
  const auto bytes_of_number = [](auto n) { return std::string(reinterpret_cast<const char*>(&n), sizeof n); };
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  struct Spoilt {
    DType type;
    size_t at;           // byte of a tensor [2,128]
    std::string bytes;
    const char* what;
  };
  for (const Spoilt& s : std::vector<Spoilt>{{F32, 4 * 130, bytes_of_number(nan), "NaN at [1,2]"},
                                             {F32, 0, bytes_of_number(-inf), "infinity at [0,0]"},
                                             {F16, 2 * 255, bytes_of_number(uint16_t(0x7e00)), "NaN at [1,127]"},
                                             {F16, 2 * 3, bytes_of_number(uint16_t(0xfc00)), "infinity at [0,3]"},
                                             {BF16, 2 * 129, bytes_of_number(uint16_t(0x7fc0)), "NaN at [1,1]"},
                                             {BF16, 2 * 127, bytes_of_number(uint16_t(0x7f80)), "infinity at [0,127]"},
                                             {Q8_0, 34 * 5, bytes_of_number(uint16_t(0x7e00)), "NaN at [1,32]"},
                                             {Q8_0, 34 * 1, bytes_of_number(uint16_t(0x7c00)), "infinity at [0,32]"},
                                             {Q4_0, 18 * 4, bytes_of_number(uint16_t(0x7e00)), "NaN at [1,0]"},
                                             {F8_E4M3, 68 * 1, bytes_of_number(nan), "NaN at [0,64]"},
                                             {F8_E4M3, 68 * 2 + 4 + 7, "\x7f", "NaN at [1,7]"}}) {
    WeightsWriter w = writer(false);
    w.tensor("layer.3.mix.in.weight", {2, 128}, std::vector<float>(256, 1.5f), s.type);
    w.entry("layer.3.mix.in.weight").data.replace(s.at, s.bytes.size(), s.bytes);
    const std::string file = (folder / "nan.folio").string();
    w.save(file);
    const Ran ran = run("--verify " + file);
    EXPECT_EQ(ran.code, 1);
    EXPECT_EQ(ran.out, join("BAD  layer.3.mix.in.weight holds ", s.what, "\n")) << format(s.type).name;
    EXPECT_NE(ran.err.find("nan.folio: 1 tensor holds what is no number"), std::string::npos) << ran.err;
    const Ran json = run("--verify --json " + file);
    EXPECT_EQ(json.code, 1);
    EXPECT_EQ(Json::parse(json.out)["ok"], false);
    EXPECT_EQ(Json::parse(json.out)["not_finite"], (std::vector<std::string>{join("layer.3.mix.in.weight holds ", s.what)}));
  }
}

TEST_F(Inspect, StatisticsOfATensor) {
  const Json norm = Json::parse(run("--json --tensor norm " + model).out);
  EXPECT_EQ(norm["min"], -2);
  EXPECT_EQ(norm["max"], 5);
  EXPECT_EQ(norm["mean"], 1);
  EXPECT_NEAR(norm["std"].get<double>(), std::sqrt((0 + 9 + 1 + 16) / 4.0), 1e-12);
  EXPECT_EQ(norm["zero"], 1);
  EXPECT_EQ(norm["first"], (std::vector<double>{1, -2, 0, 5}));
  const Json odd = Json::parse(run("--json --tensor odd " + model).out);
  EXPECT_EQ(odd["nan"], 1);
  EXPECT_EQ(odd["inf"], 2);
  EXPECT_EQ(odd["finite"], 2);
  EXPECT_EQ(odd["mean"], 2);
  EXPECT_TRUE(odd["first"][1].is_null());
  const Json q8 = Json::parse(run("--json --tensor mix.weight " + model).out);
  EXPECT_NEAR(q8["mean"].get<double>(), 0.5, 1e-3);
  EXPECT_EQ(q8["elements"], 1024);
  EXPECT_EQ(q8["first"].size(), 8u);
  EXPECT_EQ(Json::parse(run("--json --tensor ffn.weight " + model).out)["mean"], 1.75);
  EXPECT_EQ(Json::parse(run("--json --tensor ids " + model).out)["max"], 1 << 30);
  EXPECT_EQ(Json::parse(run("--json --tensor bytes " + model).out)["mean"], 2);
  const Ran text = run("--tensor norm " + model);
  EXPECT_EQ(text.code, 0);
  EXPECT_NE(text.out.find("norm: f32 [4], 4 elements, 16 bytes"), std::string::npos) << text.out;
  EXPECT_NE(text.out.find("first  1 -2 0 5"), std::string::npos) << text.out;
}

TEST_F(Inspect, BadInputEndsInOneSentence) {
  const std::string bytes = writer().bytes();
  std::string newer = bytes, flipped = bytes;
  newer[8] = 2;
  flipped[100] ^= 1;
  save("cut.folio", bytes.substr(0, 300));
  save("empty.folio", "");
  save("magic.folio", "PK\3\4 something else altogether");
  save("newer.folio", newer);
  save("flipped.folio", flipped);
  const auto file = [&](const char* name) { return (folder / name).string(); };
  for (const char* flags : {"", "--verify ", "--json ", "--tensor norm "}) {
    expect_error(flags + file("no.folio"), "no.folio: cannot open: No such file or directory");
    expect_error(flags + folder.string(), "not a regular file");
    expect_error(flags + file("empty.folio"), "empty.folio: the file is empty");
    expect_error(flags + file("cut.folio"), "the file is cut off: it has 300 bytes");
    expect_error(flags + file("magic.folio"), "not a .folio file");
    expect_error(flags + file("newer.folio"), "use a newer Folio");
    expect_error(flags + file("flipped.folio"), "the index is damaged");
  }
  expect_error("--tensor nrom " + model, "there is no tensor 'nrom'");
}

TEST_F(Inspect, BadCommandLinesEndInOneSentence) {
  expect_error("", "FILE is required");
  expect_error("--no-such-flag " + model, "--no-such-flag");
  expect_error(model + " " + model, "not expected");
  expect_error("--tensor", "--tensor");
  expect_error("--verify --tensor norm " + model, "--verify");
  EXPECT_EQ(run("").err.find("Run with"), std::string::npos);
}

TEST_F(Inspect, HelpShowsExamples) {
  const Ran ran = run("--help");
  EXPECT_EQ(ran.code, 0);
  EXPECT_NE(ran.out.find("Examples:"), std::string::npos);
  EXPECT_NE(ran.out.find("inspect --verify model.folio"), std::string::npos);
}

TEST_F(Inspect, AnOutputThatCannotBeWrittenIsAnError) {
  if (!fs::exists("/dev/full")) GTEST_SKIP();
  const std::string err = (folder / "err").string();
  const int status = std::system((std::string(FOLIO_BIN_DIR) + "/inspect " + model + " > /dev/full 2> " + err).c_str());
  EXPECT_EQ(WEXITSTATUS(status), 1);
  EXPECT_NE(read_file(err).find("error: cannot write to standard output: No space left on device"), std::string::npos)
      << read_file(err);
}

}  // namespace
}  // namespace folio
