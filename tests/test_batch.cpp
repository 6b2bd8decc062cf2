// SPDX-License-Identifier: MIT
// generate --batch from the command line: the texts are those of single runs, in order; a run that is killed goes on where it stopped and
// writes nothing twice; what is wrong with a line is that line's own.
#include <nlohmann/json.hpp>
#include <sstream>

#include "fixtures.h"
#include "run/generate.h"
#include "text/stream.h"
#include "tiny_model.h"
#include "tools/lib/model.h"

namespace folio {
namespace {

using Json = nlohmann::json;

std::string path(const std::string& name) { return (scratch_dir() / name).string(); }

const std::string& model() {
  static const std::string at = write_tiny_model(path("batch.folio"), {.random = true, .chat = chatml_template});
  return at;
}

void write(const std::string& file, const std::string& text) {
  FileWriter out(file);
  out.write(text);
  out.commit();
}

Ran generate(const std::string& arguments) { return run_command(std::string(FOLIO_BIN_DIR) + "/generate -m " + model() + " -t 2 " + arguments); }

std::vector<Json> lines_of(const std::string& file) {
  std::istringstream text(read_file(file));
  std::vector<Json> all;
  for (std::string line; std::getline(text, line);) all.push_back(Json::parse(line));
  return all;
}

std::string some_requests(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    std::string prompt = i % 3 == 0 ? std::string(150, char('a' + i % 2)) : i % 3 == 1 ? "some words " : "";
    prompt += "and so on " + std::to_string(i * i);
    Json line{{"prompt", prompt}, {"max_tokens", 5 + i % 30}, {"temperature", i % 4 ? 0.9 : 0}, {"seed", i}};
    if (i % 5 == 0) line["top_p"] = 0.7;
    if (i % 7 == 0) line["stop"] = {"e", "zz"};
    text += line.dump() + "\n";
  }
  return text;
}

// What `generate -p` says to a line.
std::string alone(OpenModel& m, const Json& line) {
  SamplerOptions sampling{.temperature = line["temperature"], .top_p = line.value("top_p", 0.95f), .seed = line["seed"]};
  Sampler sampler(sampling, m.vocab());
  TextStream stream(*m.tokenizer, {});
  GenerateOptions options;
  options.limit = line["max_tokens"];
  options.ends = m.ends();
  if (line.contains("stop")) options.stops = line["stop"].get<std::vector<std::string>>();
  options.decode = [&](Token id) { return stream.push(id); };
  options.rest = [&] { return stream.finish(); };
  return Generator(*m.engine, sampler).run(m.encode(line["prompt"].get<std::string>()), options).text;
}

TEST(Batch, TwoHundredRequestsAreTwoHundredSingleRuns) {
  const std::string requests = some_requests(200);
  write(path("in.jsonl"), requests);
  ModelFlags flags;
  flags.path = model();
  OpenModel m(flags);
  for (const std::string& how : {std::string("--max-batch 8"), std::string("--max-batch 3 -b 32 --schedule lpm"),
                                 std::string("--max-batch 5 --prefix-cache off"), std::string("--max-batch 6 --kv-bytes 60000 -c 256 --cache-policy cost")}) {
    SCOPED_TRACE(how);
    fs::remove(path("out.jsonl"));
    const Ran ran = generate("--batch " + path("in.jsonl") + " -o " + path("out.jsonl") + " " + how);
    ASSERT_EQ(ran.code, 0) << ran.output;
    EXPECT_FALSE(fs::exists(path("out.jsonl.progress")));
    const auto answers = lines_of(path("out.jsonl"));
    ASSERT_EQ(answers.size(), 200u);
    std::istringstream in(requests);
    std::string line;
    int64_t cached = 0;
    for (size_t i = 0; std::getline(in, line); ++i) {
      EXPECT_EQ(answers[i]["index"], i);
      EXPECT_EQ(answers[i]["text"], alone(m, Json::parse(line))) << line;
      cached += answers[i]["usage"]["prompt_tokens_details"]["cached_tokens"].get<int64_t>();
    }
    const bool off = how.find("off") != std::string::npos;
    EXPECT_TRUE(off ? cached == 0 : cached > 20 * 128) << cached;
  }
}

// Four texts where there is room for about two: a run leaves all of them in its cache file, and the next finds them.
TEST(Batch, HostMemoryBringsBackWhatThereIsNoRoomFor) {
  std::string requests;
  for (char c : {'a', 'b', 'c', 'd'}) requests += Json{{"prompt", std::string(150, c)}, {"max_tokens", 20}, {"temperature", 0}}.dump() + "\n";
  write(path("turns.jsonl"), requests);
  const auto run = [&](const std::string& more) {
    fs::remove(path("turns.out"));
    return generate("--batch " + path("turns.jsonl") + " -o " + path("turns.out") + " --max-batch 1 -c 256 --page-stats" + more);
  };
  const auto found = [](const std::vector<Json>& answers) {
    int tokens = 0;
    for (const Json& answer : answers) tokens += answer["usage"]["prompt_tokens_details"]["cached_tokens"].get<int>();
    return tokens;
  };
  const std::string kept = " --cache-file " + path("turns.kv"), ram = " --cache-ram 4MB";
  ASSERT_EQ(run(kept + ram).code, 0);
  const auto first = lines_of(path("turns.out"));
  EXPECT_EQ(found(first), 0);
  const Ran again = run(kept + ram);
  ASSERT_EQ(again.code, 0) << again.output;
  const auto second = lines_of(path("turns.out"));
  EXPECT_EQ(found(second), 4 * 128) << again.output;
  EXPECT_NE(again.output.find("pages came back from there"), std::string::npos) << again.output;
  EXPECT_EQ(again.output.find(", 0 pages came back"), std::string::npos) << again.output;
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(second[i]["text"], first[i]["text"]);
  ASSERT_EQ(run(kept).code, 0);
  EXPECT_LT(found(lines_of(path("turns.out"))), 4 * 128) << "without host memory there is no room";
  const Ran off = run(ram + " --prefix-cache off");
  EXPECT_EQ(off.code, 1);
  EXPECT_NE(off.output.find("--cache-ram wants --prefix-cache on"), std::string::npos) << off.output;
}

TEST(Batch, ARunThatIsKilledGoesOnAndWritesNothingTwice) {
  write(path("in.jsonl"), some_requests(150));
  const std::string out = path("killed.jsonl"), whole = path("whole.jsonl");
  const std::string bare = " --batch " + path("in.jsonl") + " -s 5 --max-batch 4 -q -o ", flags = " --logit-bias 101+2" + bare;
  ASSERT_EQ(generate(flags + whole).code, 0);
  int interrupted = 0;
  for (int i = 1; i <= 12; ++i) {
    const std::string command = "timeout -s KILL 0." + std::string(i < 4 ? "0" : "") + std::to_string(i < 4 ? 3 * i : i / 2) + " " + FOLIO_BIN_DIR +
                                "/generate -m " + model() + " -t 2" + flags + out;
    interrupted += run_command(command).code != 0;
    if (!fs::exists(out + ".progress")) break;
    if (i == 1) {   // what another command would say is not put behind it
      for (const std::string& more : {flags + out + " --stop zz", bare + out, " --logit-bias 101+1" + bare + out,
                                      flags + out + " --draft-ngram --spec-accept residual"}) {
        const Ran other = generate(more);
        EXPECT_EQ(other.code, 1) << more;
        EXPECT_NE(other.output.find("was begun with other requests"), std::string::npos) << other.output;
      }
    }
    if (i == 2 && fs::exists(out) && fs::file_size(out) > 10) fs::resize_file(out, fs::file_size(out) - 7);   // killed within a line
  }
  EXPECT_GT(interrupted, 0);
  if (fs::exists(out + ".progress")) {
    ASSERT_EQ(generate(flags + out).code, 0);
  }
  auto got = lines_of(out), want = lines_of(whole);
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_EQ(got[i]["text"], want[i]["text"]) << i;
}

TEST(Batch, AFileOfAnotherBatchIsLeftAlone) {
  write(path("in.jsonl"), some_requests(3));
  write(path("precious.jsonl"), "{\"index\": 0}\n");
  Ran ran = generate("--batch " + path("in.jsonl") + " -o " + path("precious.jsonl"));
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.output.find("is no batch that was interrupted"), std::string::npos) << ran.output;
  write(path("precious.jsonl.progress"), "{\"batch\": \"0123456789abcdef\", \"seed\": 3}");
  ran = generate("--batch " + path("in.jsonl") + " -o " + path("precious.jsonl"));
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.output.find("was begun with other requests"), std::string::npos) << ran.output;
  EXPECT_EQ(read_file(path("precious.jsonl")), "{\"index\": 0}\n");
  ran = generate("--batch " + path("in.jsonl") + " -o " + path("no/such/folder.jsonl"));
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.output.find("cannot write"), std::string::npos) << ran.output;
}

TEST(Batch, WhatIsWrongWithALineIsItsOwn) {
  const std::vector<std::pair<std::string, std::string>> wrong = {
      {"{\"prompt\": \"a\"", "this is no JSON"},
      {"[1, 2]", "expected an object, found array"},
      {"{\"max_tokens\": 3}", "expected either 'prompt' or 'messages'"},
      {"{\"prompt\": 7}", "'prompt' is 7, expected a text or a list of ids"},
      {"{\"prompt\": \"\", \"max_tokens\": 3}", ""},   // a begin token is a prompt
      {"{\"prompt\": []}", "the prompt is empty"},
      {"{\"prompt\": [3, 99999]}", "the vocabulary ends at"},
      {"{\"prompt\": \"a\", \"max_tokens\": \"many\"}", "'max_tokens' is \"many\", expected an integer"},
      {"{\"prompt\": \"a\", \"max_tokens\": -4}", "'max_tokens' is -4"},
      {"{\"prompt\": \"a\", \"temperature\": true}", "'temperature' is true, expected a number"},
      {"{\"prompt\": \"a\", \"top_p\": 7}", "top-p 7"},
      {"{\"prompt\": \"a\", \"n\": 0}", "'n' is 0, expected 1 to 128"},
      {"{\"prompt\": \"a\", \"stop\": [1]}", "'stop' holds something that is no text"},
      {"{\"messages\": [{\"role\": \"user\"}]}", "a message wants 'role' and 'content'"},
      {"{\"prompt\": \"" + std::string(600, 'x') + "\"}", "the context holds 512"},
  };
  std::string requests = "\n";   // empty lines are none
  for (const auto& [line, message] : wrong) requests += line + "\n{\"prompt\": \"good\", \"max_tokens\": 2, \"ignored\": {}}\n";
  write(path("wrong.jsonl"), requests);
  fs::remove(path("wrong.out"));
  const Ran ran = generate("--batch " + path("wrong.jsonl") + " -o " + path("wrong.out"));
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.output.find("14 of 30 requests failed: line 2, 4, 6, 8, 12"), std::string::npos) << ran.output;
  const auto answers = lines_of(path("wrong.out"));
  ASSERT_EQ(answers.size(), 2 * wrong.size());
  for (size_t i = 0; i < wrong.size(); ++i) {
    const Json& bad = answers[2 * i];
    EXPECT_EQ(bad.contains("error"), !wrong[i].second.empty()) << bad;
    if (bad.contains("error")) {
      EXPECT_NE(bad["error"]["message"].get<std::string>().find(wrong[i].second), std::string::npos) << bad;
    }
    EXPECT_EQ(answers[2 * i + 1]["usage"]["completion_tokens"], 2) << "its neighbour";
  }
}

TEST(Batch, ChoicesMessagesAndOpenAIsForm) {
  write(path("forms.jsonl"), R"({"prompt": "abc", "max_tokens": 8, "n": 3, "seed": 4, "temperature": 1}
{"prompt": "abc", "max_tokens": 8, "seed": 4, "temperature": 1}
{"custom_id": "mine", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 6, "temperature": 0}}
{"custom_id": "bad", "body": {"prompt": 3}}
)");
  fs::remove(path("forms.out"));
  const Ran ran = generate("--batch " + path("forms.jsonl") + " --page-stats -o " + path("forms.out"));
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.output.find("rows of all tokens"), std::string::npos) << ran.output;
  const auto answers = lines_of(path("forms.out"));
  ASSERT_EQ(answers.size(), 4u);
  ASSERT_EQ(answers[0]["choices"].size(), 3u);
  EXPECT_EQ(answers[0]["choices"][0]["text"], answers[1]["text"]) << "the first choice has the request's own seed";
  EXPECT_NE(answers[0]["choices"][1]["text"], answers[0]["choices"][0]["text"]);
  EXPECT_NE(answers[0]["choices"][1]["text"], answers[0]["choices"][2]["text"]);
  EXPECT_EQ(answers[0]["usage"]["completion_tokens"], 24);
  EXPECT_EQ(answers[2]["custom_id"], "mine");
  EXPECT_EQ(answers[2]["response"]["status_code"], 200);
  EXPECT_EQ(answers[2]["response"]["body"]["choices"][0]["message"]["role"], "assistant");
  EXPECT_TRUE(answers[3]["response"].is_null());
  EXPECT_EQ(answers[3]["custom_id"], "bad");
}

TEST(Batch, ACacheFileServesTheNextRun) {
  write(path("in.jsonl"), some_requests(30));
  const std::string file = path("kept.kv"), flags = " --batch " + path("in.jsonl") + " -c 256 -o ";
  ASSERT_EQ(generate("--cache-file " + file + flags + path("kept1.jsonl")).code, 0);
  const Ran second = generate("--cache-file " + file + flags + path("kept2.jsonl"));
  ASSERT_EQ(second.code, 0);
  EXPECT_NE(second.output.find("tokens are remembered"), std::string::npos) << second.output;
  const auto one = lines_of(path("kept1.jsonl")), two = lines_of(path("kept2.jsonl"));
  for (size_t i = 0; i < one.size(); ++i) EXPECT_EQ(one[i]["text"], two[i]["text"]);
  EXPECT_EQ(one[0]["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
  EXPECT_EQ(two[0]["usage"]["prompt_tokens_details"]["cached_tokens"], 128);
  // Killed while it is written: the old one is there, or the new one; never half of one.
  for (int i = 1; i < 12; ++i) {
    fs::remove(path("kept3.jsonl")), fs::remove(path("kept3.jsonl.progress"));
    run_command("timeout -s KILL 0.0" + std::to_string(i) + " " + FOLIO_BIN_DIR + "/generate -m " + model() + " -q --cache-file " + file + flags +
                path("kept3.jsonl"));
  }
  fs::remove(path("kept3.jsonl")), fs::remove(path("kept3.jsonl.progress"));
  EXPECT_NE(generate("--cache-file " + file + flags + path("kept3.jsonl")).output.find("tokens are remembered"), std::string::npos);
  // One that is none is named, and does no harm.
  write(path("wrong.kv"), "something else, and long enough to have a head of its own: forty-eight bytes");
  const Ran wrong = generate("-p a -n 3 --cache-file " + path("wrong.kv"));
  EXPECT_EQ(wrong.code, 0);
  EXPECT_NE(wrong.output.find("warning: " + path("wrong.kv") + ": no cache file of ours"), std::string::npos) << wrong.output;
}

}  // namespace
}  // namespace folio
