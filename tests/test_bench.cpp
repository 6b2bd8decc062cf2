// SPDX-License-Identifier: MIT
// bench as a program: that it measures what it lists, in each of its forms, and refuses nonsense in one sentence. Never how fast.
#include <nlohmann/json.hpp>

#include "fixtures.h"
#include "ops/linear.h"
#include "tools/lib/bench_ops.h"
#include "tools/lib/mixer_curve.h"
#include "tools/lib/mixer_lines.h"
#include "tools/lib/mixer_plain.h"

namespace folio {
namespace {

using Json = nlohmann::json;

Ran bench(const std::string& arguments) { return run_command(std::string(FOLIO_BIN_DIR) + "/bench " + arguments); }

TEST(Bench, OpsAreMeasuredAsListed) {
  const Ran list = bench("ops --quick --list"), run = bench("ops --quick --repeats 1 -t 2 --json");
  ASSERT_EQ(run.code, 0) << run.output;
  const Json json = Json::parse(run.output);
  std::string names;
  for (const Json& c : json["cases"]) {
    names += c["case"].get<std::string>() + "\n";
    for (const char* key : {"flops", "bytes", "seconds", "gbps", "gflops", "share"})
      EXPECT_GT(c[key].get<double>(), 0) << key << " of " << c;
  }
  EXPECT_EQ(list.output, names);
  EXPECT_GT(json["limits"]["read_gbps"].get<double>(), 0);
}

TEST(Bench, ConvolutionsOfDecoders) {
  const Ran run = bench("vae --quick --repeats 1 -t 2 --json");
  ASSERT_EQ(run.code, 0) << run.output;
  const Json json = Json::parse(run.output), cases = json["cases"];
  ASSERT_EQ(cases.size(), 10u);
  ASSERT_EQ(json["decoders"].size(), 1u);
  for (const char* key : {"seconds", "first", "gflops", "share", "bytes"}) EXPECT_GT(json["decoders"][0][key].get<double>(), 0) << key;
  EXPECT_LT(json["decoders"][0]["first"], json["decoders"][0]["seconds"]);
  for (const Json& c : cases)
    for (const char* key : {"seconds", "flops", "gflops", "share"}) EXPECT_GT(c[key].get<double>(), 0) << key << " of " << c;
  EXPECT_EQ(cases[0]["flops"].get<double>(), 4 * cases[1]["flops"].get<double>());   // 32 -> 32 -> 3 and 32 -> 8 -> 3
  EXPECT_GT(cases[1]["ratio"].get<double>(), 0);
}

TEST(Bench, OpsAreLeftOutWithAReason) {
  const Ran ran = bench("ops --only 'matmul bf16 T=8192' --most 1e-9 -t 2");
  EXPECT_EQ(ran.code, 0) << ran.output;
  EXPECT_NE(ran.output.find("matmul bf16 T=8192 8192->8192 left out: takes"), std::string::npos) << ran.output;
}

TEST(Bench, RingsAndStreams) {
  const Ran ran = bench("ring --tokens 500 --ring-tokens 300 --ranks 3 --kv-bytes 65536 -t 2 --json");
  ASSERT_EQ(ran.code, 0) << ran.output;
  const Json json = Json::parse(ran.output);
  ASSERT_EQ(json["ring"].size(), 2u);
  for (const Json& ring : json["ring"]) {
    EXPECT_LT(ring["difference"].get<double>(), 1e-5) << ring;
    EXPECT_GT(ring["bytes_sent"].get<int64_t>(), 0);
  }
  EXPECT_LT(json["streamed"]["difference"].get<double>(), 1e-3);   // keys and values are f16
  EXPECT_LE(json["streamed"]["held_bytes"].get<int64_t>(), 65536);
  EXPECT_GT(json["streamed"]["all_bytes"].get<int64_t>(), 65536);
  const Ran bad = bench("ring --tokens 500 --ring-tokens 300 --kv-bytes 100");
  EXPECT_EQ(bad.code, 1);
  EXPECT_NE(bad.output.find("one page of 64 tokens takes"), std::string::npos) << bad.output;
}

TEST(Bench, DenoisesClips) {
  const Ran ran = bench("video --max-tokens 600 --repeats 1 -t 2 --json");
  ASSERT_EQ(ran.code, 0) << ran.output;
  const Json json = Json::parse(ran.output);
  ASSERT_EQ(json["steps"].size(), 2u);
  for (const Json& step : json["steps"])
    for (const char* key : {"seconds", "gflops", "bytes"}) EXPECT_GT(step[key].get<double>(), 0) << key;
  ASSERT_EQ(json["scaling"].size(), 2u);
  for (const Json& clip : json["scaling"])
    for (const char* key : {"tokens", "seconds", "softmax_seconds", "square_seconds"}) EXPECT_GT(clip[key].get<double>(), 0) << key;
  EXPECT_EQ(json["seed"]["parameters"].get<int64_t>(), 8543563);
  EXPECT_GT(json["seed"]["seconds"].get<double>(), 0);
  const Ran bad = bench("video --preset seed-8.5m");
  EXPECT_EQ(bad.code, 1);
  EXPECT_NE(bad.output.find("'seed-8.5m' is no flow model; there are vg-s and vg-m"), std::string::npos) << bad.output;
}

TEST(Bench, ServesTraces) {
  const Ran ran = bench(
      "serve --shape 260k --type f32 --requests 8 --shared 256 --own 8 --draw 4 --turns 2 --hit 256 --match 640 --max-batch 2 "
      "--repeats 1 -t 2 --json");
  ASSERT_EQ(ran.code, 0) << ran.output;
  const Json json = Json::parse(ran.output);
  std::string kinds;
  for (const Json& trace : json["traces"]) {
    kinds += trace["trace"].get<std::string>() + " " + trace["load"].get<std::string>() + (trace["cache"] ? " on\n" : " off\n");
    EXPECT_GT(trace["tps"].get<double>(), 0) << trace;
    for (const std::string time : {"first", "between"}) {
      EXPECT_GT(trace[time + "_p50"].get<double>(), 0) << trace;
      EXPECT_GE(trace[time + "_p90"].get<double>(), trace[time + "_p50"].get<double>()) << trace;
      EXPECT_GE(trace[time + "_p99"].get<double>(), trace[time + "_p90"].get<double>()) << trace;
    }
    const bool finds = trace["cache"] && trace["trace"] != "nothing shared";
    EXPECT_EQ(trace["hit_rate"].get<double>() > 0.3, finds) << trace;
  }
  std::string expected;
  for (const std::string trace : {"shared prefix", "conversations", "tree of thoughts", "nothing shared"})
    for (const char* load : {" closed off\n", " closed on\n", " Poisson off\n", " Poisson on\n"}) expected += trace + load;
  EXPECT_EQ(kinds, expected);
  for (const char* line : {"shared_prefix_speedup", "hit_speedup", "lookup_seconds", "batch_speedup", "batch_decode_speedup",
                           "ngram_speedup_alone", "ngram_speedup_batch", "wrong_guesses_alone", "wrong_guesses_batch"})
    EXPECT_GT(json["lines"][line].get<double>(), 0) << line;
  EXPECT_LT(json["lines"]["overhead_without_hits"].get<double>(), 1);
  for (const char* line : {"bookkeeping_without_hits", "deterministic_cost"}) EXPECT_LT(json["lines"][line].get<double>(), 1) << line;
  const Ran rate =
      bench("serve --shape 260k --type f32 --requests 3 --rate 200 --shared 64 --hit 64 --match 640 --draw 2 --repeats 1 -t 1 --csv");
  EXPECT_EQ(rate.code, 0) << rate.output;
  const Ran one = bench("serve --shape 260k --type f32 --only 'looking up' --match 640 -t 1");
  EXPECT_EQ(one.output.rfind("| line | measured | aim |\n| --- | --- | --- |\n| looking up a prompt of 640 | ", 0), 0u) << one.output;
  const Ran none = bench("serve --shape 260k --type f32 --only nonsense");
  EXPECT_EQ(none.code, 1);
  EXPECT_EQ(none.output, "error: bench: no trace and no line has 'nonsense' in its name\n");
}

TEST(Bench, TableAndCsv) {
  const std::string flags = "ops --quick --type q8_0 --only 'matmul q8_0 T=8' --repeats 1 -t 2";
  const Ran table = bench(flags), csv = bench(flags + " --csv");   // below a line of limits
  EXPECT_NE(table.output.find("\n| case | us | GB/s | TFLOP/s | share of limit | limit |\n| --- |"), std::string::npos) << table.output;
  EXPECT_NE(csv.output.find("\ncase,us,GB/s,TFLOP/s,share of limit,limit\nmatmul q8_0 T=8 256->192,"), std::string::npos) << csv.output;
}

// Worked out by hand.
TEST(Bench, WorkOfACase) {
  const OpCase product{.op = "matmul", .type = BF16, .tokens = 2, .inputs = 3, .features = 5};
  EXPECT_EQ(product.flops(), 60);
  EXPECT_EQ(product.bytes(), 15 * 2 + (6 + 10) * 4);
  const OpCase mlp{.op = "mlp", .type = Q8_0, .tokens = 1, .inputs = 64, .features = 32};
  EXPECT_EQ(mlp.flops(), 3 * 2 * 64 * 32);
  EXPECT_EQ(mlp.bytes(), 3 * 64 * 34 + 2 * 64 * 4);
  const OpCase prefill{.op = "attend", .type = F16, .tokens = 3, .depth = 3, .heads = 2, .groups = 1, .head_size = 4};
  EXPECT_EQ(prefill.flops(), 4 * 2 * 4 * (1 + 2 + 3));
  EXPECT_EQ(prefill.bytes(), 2 * 3 * 4 * 2 + 2 * 3 * 2 * 4 * 4);
  const OpCase decode{.op = "attend", .type = F16, .tokens = 1, .sequences = 2, .depth = 10, .heads = 2, .groups = 1, .head_size = 4};
  EXPECT_EQ(decode.flops(), 2 * 4 * 2 * 4 * 10);
  EXPECT_EQ(decode.name(), "attend f16 D=4 decode 2 x 10");
}

TEST(Bench, ModelsOfAllKinds) {
  for (const std::string shape : {"gpt2", "260k", "mla-2m"}) {
    const Ran ran = bench("model --shape " + shape + " --type q8_0 --prompt 4 --gen 4 --depth 8 --batch 2 --repeats 1 -t 2 --json");
    ASSERT_EQ(ran.code, 0) << ran.output;
    const Json json = Json::parse(ran.output);
    EXPECT_EQ(json["shape"], shape);
    EXPECT_GT(json["memory_bytes"].get<double>(), json["weight_bytes"].get<double>());
  }
}

const char* const small_mixers = "mixers --max-tokens 128 -D 16,32 --heads 2 --repeats 1 -t 2 --plot ";
constexpr size_t all_mixers = 13;

// Every element is closed, and in the order in which they were opened; there is one root.
bool well_formed(const std::string& xml) {
  std::vector<std::string> open;
  size_t roots = 0;
  for (size_t at = xml.find('<'); at != std::string::npos; at = xml.find('<', at + 1)) {
    const size_t end = xml.find('>', at);
    if (end == std::string::npos) return false;
    const std::string tag = xml.substr(at + 1, end - at - 1), name = tag.substr(0, tag.find_first_of(" /\n", 1));
    if (std::count(tag.begin(), tag.end(), '"') % 2 || tag.find('<') != std::string::npos) return false;
    if (tag[0] == '/') {
      if (open.empty() || "/" + open.back() != tag) return false;
      open.pop_back();
    } else {
      roots += open.empty();
      if (tag.back() != '/') open.push_back(name);
    }
  }
  return open.empty() && roots == 1;
}

TEST(Bench, MixersAsTableAndPicture) {
  const fs::path plot = scratch_dir() / "mixers.svg";
  const Ran ran = bench(small_mixers + plot.string());
  ASSERT_EQ(ran.code, 0) << ran.output;
  size_t rows = 0;
  for (size_t at = 0; (at = ran.output.find("\n| ", at)) != std::string::npos; ++at) ++rows;
  EXPECT_EQ(rows, 2 + all_mixers * 2 * 2) << ran.output;   // head, rule, T = 64 and 128 at two sizes
  for (const char* words : {"| mixer | D | T | prefill ms | x tiled | x naive |", "| attention naive | 32 | 128 | ", "Lines to reach:",
                            "log-linear mamba2, D = 16: prefill ", "mesa, rounds of the solver a token, tolerance 1e-4 (D = 32): "})
    EXPECT_NE(ran.output.find(words), std::string::npos) << words << "\n" << ran.output;
  const std::string svg = read_file(plot.string());
  EXPECT_TRUE(well_formed(svg));
  EXPECT_FALSE(well_formed(svg.substr(0, svg.size() / 2)));
  size_t lines = 0;
  for (size_t at = 0; (at = svg.find("<polyline", at)) != std::string::npos; ++at) ++lines;
  EXPECT_EQ(lines, all_mixers * 2 * 2);                    // a panel for each size, prefill above decoding
  EXPECT_FALSE(fs::exists(plot.string() + ".part"));
}

TEST(Bench, MixersAsJson) {
  const fs::path plot = scratch_dir() / "mixers_json.svg";
  const Ran ran = bench(small_mixers + plot.string() + " --json");
  ASSERT_EQ(ran.code, 0) << ran.output;
  const Json json = Json::parse(ran.output);
  EXPECT_EQ(json["curves"].size(), all_mixers * 2);
  EXPECT_EQ(json["crossings"].size(), (all_mixers - 1) * 2);
  for (const Json& curve : json["curves"]) {
    ASSERT_EQ(curve["points"].size(), 2) << curve;
    for (const Json& point : curve["points"])
      for (const char* key : {"prefill_s", "prefill_gflops", "prefill_share_of_peak", "prefill_x_tiled", "prefill_x_naive", "decode_s",
                              "decode_x_tiled", "memory_bytes", "beside_rows_bytes"})
        EXPECT_GT(point[key].get<double>(), 0) << key << " of " << curve;
    EXPECT_EQ(curve.contains("rounds"), curve["mixer"] == "mesa");
  }
  for (const Json& line : json["lines"]) EXPECT_TRUE(line["measured"].is_string() && line["aim"].is_string()) << line;
}

// Rows beside the curves, small: each has what it says, and its lines.
TEST(Bench, LatentsExpertsAndARing) {
  const auto run = [](const std::string& flags) { return bench("mixers --max-tokens 128 --repeats 1 -t 2 --only " + flags); };
  std::vector<std::string> names, lines;
  for (const std::string only : {"mla", "experts", "ring"}) {
    const Ran ran = run(only + " --json");
    ASSERT_EQ(ran.code, 0) << ran.output;
    const Json json = Json::parse(ran.output);
    for (const Json& row : json["layers"]) {
      names.push_back(row["layer"]);
      for (const char* key : {"seconds", "flops"}) EXPECT_GT(row[key].get<double>(), 0) << key << " of " << row;
    }
    for (const Json& line : json["lines"]) lines.push_back(line["line"]);
    EXPECT_TRUE(json["curves"].empty()) << only;
    if (only == "mla") {
      EXPECT_EQ(json["lines"][1]["measured"], "96 B, multi-head 192 B");   // 2·(32 + 16); 2·2·(32 + 16)
    } else if (only == "experts") {   // the router [8, 64] in f32, of 3 matrices of 32 x 64 in 16 bit those of two experts
      EXPECT_EQ(json["layers"][0]["bytes"], 8 * 64 * 4 + 2 * 3 * 32 * 64 * 2);
    }
  }
  EXPECT_EQ(names, (std::vector<std::string>{"mla, decoding at 128", "multi-head attention, decoding at 128", "mla, prefill of 40",
                                             "experts, 1 token", "experts, 40 tokens", "ring, contiguous, 256 tokens",
                                             "ring, zigzag, 256 tokens"}));
  EXPECT_EQ(lines.size(), 5u);
  const Ran table = run("mla");
  EXPECT_NE(table.output.find("\n| mla, decoding at 128 | "), std::string::npos) << table.output;
  EXPECT_EQ(table.output.find("plot: "), std::string::npos) << table.output;
}

TEST(Bench, MixersLeaveOutWhatTakesTooLong) {
  const Ran ran = bench("mixers --max-tokens 2048 -D 16 --heads 1 --repeats 1 -t 2 --seconds 1e-9 --only tiled --csv --plot " +
                        (scratch_dir() / "late.svg").string());
  ASSERT_EQ(ran.code, 0) << ran.output;
  EXPECT_NE(ran.output.find("\nattention tiled,16,2048,-,"), std::string::npos) << ran.output;   // decoded all the same
  EXPECT_NE(ran.output.find(",prefill takes over 1e-09 s\n"), std::string::npos) << ran.output;
}

TEST(Bench, StepsOfAMixer) {
  const auto device = cpu(2);
  for (int64_t tokens : {1, 8, 64})
    EXPECT_GT(measure_step(mixer_kind("gated delta"), {.heads = 2, .width = 16}, *device, 64, tokens, 1, 3), 0);
}

// Worked out by hand: pages 0, 1, 2, 3 read 0, 1, 1, 2 buckets.
TEST(Bench, WorkOfAMixer) {
  const MixerSize size{.heads = 2, .width = 16};
  EXPECT_EQ(mixer_kind("attention tiled").prefill_flops(64, size, 0), 2 * 4 * 16 * (64 * 65 / 2));
  EXPECT_EQ(mixer_kind("linear").prefill_flops(64, size, 0), 2 * 64 * (4 * 256 + 2 * 64 * 16));
  EXPECT_EQ(mixer_kind("gated delta").decode_flops(64, size, 0), 2 * 7 * 256);
  EXPECT_EQ(mixer_kind("log-linear mamba2").prefill_flops(256, size, 0), 2 * (256 * (2 * 256 + 2 * 64 * 16) + 2 * 256 * 64 * 4));
  EXPECT_EQ(mixer_kind("log-linear mamba2").decode_flops(256, size, 0), 2 * 256 * 2 * (1 + 2));
  EXPECT_EQ(mixer_kind("mesa").decode_flops(64, size, 5), 2 * 256 * (2 * 5 + 6));
  EXPECT_EQ(PlainAttention::flops(size, 64, 64), 2 * 4 * 16 * 64 * 64);
}

// What follows from times that are made up: T^2 against T from 100 times as much, T log T.
TEST(Bench, CrossingsAndSlopes) {
  std::vector<MixerCurve> curves(3);
  curves[0].mixer = "linear", curves[1].mixer = "attention tiled", curves[2].mixer = "log-linear mamba2";
  for (int64_t T = 64; T <= 65536; T *= 2) {
    const double t = double(T);
    curves[0].points.push_back({.tokens = T, .prefill = t * 2000, .decode = 5});
    curves[1].points.push_back({.tokens = T, .prefill = t * t, .decode = t / 100});
    curves[2].points.push_back({.tokens = T, .prefill = t * std::log2(t), .decode = T == 1024 ? 1.0 : 4.0});
  }
  const std::vector<Crossing> crossed = crossings(curves);
  ASSERT_EQ(crossed.size(), 2);
  EXPECT_EQ(crossed[0].prefill, 2048);
  EXPECT_EQ(crossed[0].decode, 512);
  const std::vector<MixerLine> lines = curve_lines(curves);
  auto line = [&](const std::string& begin) {
    for (const MixerLine& l : lines)
      if (l.what.starts_with(begin)) return l;
    return MixerLine();
  };
  EXPECT_EQ(line("log-linear mamba2, slope").measured, "1.104");
  EXPECT_EQ(line("log-linear mamba2, decoding").measured, "4.00x");
  EXPECT_FALSE(line("log-linear mamba2, decoding").reached);
  // T/2000 of a limit of T/128, everywhere alike.
  EXPECT_EQ(line("linear attention against tiled").measured, "6% at 4096, the least up to 65536");
}

// The rivals compute what they are said to: attention against its formula, gated delta against the op.
TEST(Bench, PlainAttentionIsAttention) {
  PlainAttention plain({.heads = 3, .width = 16}, 21, 37, 2);
  for (const Tensor* t : {&plain.q, &plain.k, &plain.v})
    for (int64_t i = 0; i < t->count(); ++i) t->at<float>()[i] = float(std::sin(0.37 * double(i % 1013)));
  plain.run();
  for (int64_t h = 0; h < 3; ++h)
    for (int64_t t = 0; t < 21; ++t) {
      std::vector<double> weights, o(16);
      double sum = 0;
      for (int64_t j = 0; j <= 37 - 21 + t; ++j) {
        double dot = 0;
        for (int64_t d = 0; d < 16; ++d) dot += double(plain.q.row<float>(h * 21 + t)[d]) * plain.k.row<float>(h * 37 + j)[d];
        weights.push_back(std::exp(dot)), sum += weights.back();
      }
      for (size_t j = 0; j < weights.size(); ++j)
        for (int64_t d = 0; d < 16; ++d) o[size_t(d)] += weights[j] / sum * plain.v.row<float>(h * 16 + d)[j];
      for (int64_t d = 0; d < 16; ++d) EXPECT_NEAR(plain.output(h).row<float>(t)[d], o[size_t(d)], 1e-5) << h << " " << t << " " << d;
    }
}

TEST(Bench, PlainDeltaIsGatedDelta) {
  constexpr int64_t H = 2, D = 48, T = 5;
  ThreadPool pool(2);
  PlainDelta plain({.heads = H, .width = D}, pool);
  const auto device = cpu(1);
  DeviceTensors given(*device);
  auto zeros = [&](const Shape& shape) { return given.floats(shape, std::vector<float>(size_t(shape.count()))); };
  auto repeated = [&](const Shape& shape, const std::vector<float>& one) {   // the same token T times
    std::vector<float> all;
    for (int64_t t = 0; t < T; ++t) all.insert(all.end(), one.begin(), one.end());
    return given.floats(shape, all);
  };
  const Tensor table = given.ints({1, 1}, {0});
  auto graph = std::make_unique<Graph>();
  graph->output("o", graph->record(Linear{
      .q = repeated({T, H, D}, plain.q), .k = repeated({T, H, D}, plain.k), .v = repeated({T, H, D}, plain.v),
      .g = repeated({T, H}, plain.g), .beta = repeated({T, H}, plain.beta), .page = table, .slab = table,
      .seq = given.ints({T}, std::vector<int32_t>(T)), .pos = given.ints({T}, {0, 1, 2, 3, 4}),
      .rows_k = zeros({1, page_tokens, H, D}), .rows_u = zeros({1, page_tokens, H, D}),
      .rows_g = zeros({1, page_tokens, H, 1}), .S = zeros({1, H, D, D}), .scale = 1 / std::sqrt(float(D))}).o);
  const auto program = device->compile(std::move(graph));
  program->run();
  for (int64_t t = 0; t < T; ++t) {
    plain.run();
    EXPECT_LT(worst_difference(plain.o, {program->output("o").row<float>(t * H), size_t(H * D)}), 1e-5f) << t;
  }
}

TEST(Bench, RefusesNonsenseInOneSentence) {
  const std::vector<std::pair<std::string, std::string>> all = {
      {"ops --only nothing", "no case has 'nothing'"}, {"ops --type f5", "no weight format 'f5'"},
      {"ops --device tpu", "'tpu' is no device"},      {"ops --device cuda:99", "cuda"},
      {"model --shape 9b", "there is no shape '9b'"},  {"model --repeats 0", "must be positive"},
      {"mixers --max-tokens 63", "--max-tokens is 63; expected 64 to 1048576"}, {"mixers --only nothing", "no mixer has 'nothing'"},
      {"mixers -D 40", "--sizes has 40"},              {"mixers --heads 0", "--heads is 0"},
      {"mixers --seconds 0", "--seconds"},             {"mixers --repeats 0", "must be positive"},
      {"mixers --plot /nowhere/at/all.svg", "there is no folder '/nowhere/at'"}, {"mixers --plot ''", "wants the name of a file"},
      {"mixers --golden /nowhere", "'/nowhere' is no folder"}};
  for (const auto& [flags, words] : all) {
    const Ran ran = bench(flags);
    EXPECT_EQ(ran.code, 1) << ran.output;
    EXPECT_EQ(ran.output.find("error: "), 0u) << ran.output;
    EXPECT_NE(ran.output.find(words), std::string::npos) << ran.output;
    EXPECT_EQ(std::count(ran.output.begin(), ran.output.end(), '\n'), 1) << ran.output;
  }
}

}  // namespace
}  // namespace folio
