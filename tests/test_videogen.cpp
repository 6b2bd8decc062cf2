// SPDX-License-Identifier: MIT
// videogen from the command line, with a model made on the spot whose autoencoder loses nothing: clips come back to the bit, pictures that
// are given stand in the clip as they are, and every way to go wrong ends in one sentence.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <map>
#include <nlohmann/json.hpp>

#include "files/video.h"
#include "fixtures.h"
#include "frames_decoders.h"
#include "tiny_video.h"
#include "tools/lib/npz.h"
#include "tools/lib/video_files.h"
#include "tools/lib/video_flags.h"

namespace folio {
namespace {

using Json = nlohmann::json;

std::string path(const std::string& name) { return (scratch_dir() / name).string(); }
const std::string program = std::string(FOLIO_BIN_DIR) + "/videogen";

const std::string& model(const std::string& name = "tiny") {
  static std::map<std::string, std::string> made;
  std::string& at = made[name];
  if (!at.empty()) return at;
  TinyVideo video;
  if (name == "vae") video.flow = false, video.arch = "taehv";
  if (name == "decoder") video.flow = false, video.encoder = false, video.arch = "taehv";
  if (name == "other") video.latent = 12, video.encoder = video.decoder = false;
  if (name == "long") video.grid[0] = 12;
  return at = write_tiny_video(path(name + ".folio"), video);
}

struct Result {
  int code;
  std::string out, err;
};
Result run(const std::string& arguments, const std::string& before = "") {
  const Ran ran = run_command("( " + before + program + " " + arguments + " >" + path("stdout") + " 2>" + path("stderr") + " )");
  return {ran.code, read_file(path("stdout")), read_file(path("stderr"))};
}
// Generates with the tiny model.
Result make(const std::string& arguments) { return run("-m " + model() + " -t 1 -p 'a red circle' -s 5 " + arguments); }

void expect_error(const Result& r, const std::string& what) {
  EXPECT_EQ(r.code, 1) << r.err;
  EXPECT_EQ(r.out, "");
  const size_t at = r.err.find("error: ");
  EXPECT_TRUE(at != std::string::npos && (at == 0 || r.err[at - 1] == '\n')) << r.err;
  EXPECT_EQ(std::count(r.err.begin() + std::ptrdiff_t(std::min(at, r.err.size())), r.err.end(), '\n'), 1) << "one sentence: " << r.err;
  EXPECT_NE(r.err.find(what), std::string::npos) << r.err << "does not say: " << what;
}

Picture picture(int width, int height, uint64_t n) {
  Picture p;
  for (int i = 0; i < width * height * 3; ++i) p.push_back(uint8_t(philox(n, uint64_t(i), 0).word[0]));
  return p;
}
// Frames of noise as numbered PNGs; the name that reads them.
std::string clip(const std::string& name, int frames, int width = 16, int height = 16) {
  const std::string pattern = path(name + "/%02d.png");
  auto writer = write_frames(pattern, {.width = width, .height = height});
  for (int n = 0; n < frames; ++n) writer->push(picture(width, height, uint64_t(n)).data());
  writer->finish();
  return pattern;
}

TEST(Videogen, SaysWhatItCan) {
  const Result help = run("--help");
  EXPECT_EQ(help.code, 0);
  for (const char* flag :
       {"--prompt",        "--neg",        "--output",       "--width",    "--height", "--frames",   "--fps",       "--steps",
        "--cfg",           "--shift",      "--sampler",      "--seed",     "--batch",  "--threads",  "--device",    "--preview",
        "--preview-every", "--init-image", "--last-image",   "--video-in", "--vae",    "--vae-only", "--latent-in", "--latent-out",
        "--decode",        "--mem-limit",  "--list-presets", "--json",     "Examples:"})
    EXPECT_NE(help.out.find(flag), std::string::npos) << flag;
  const Result presets = run("--list-presets");
  EXPECT_EQ(presets.code, 0);
  for (const char* name : {"vg-s", "vg-m", "seed-8.5m", "taew2_1"}) EXPECT_NE(presets.out.find(name), std::string::npos) << name;
}

TEST(Videogen, NamesOfBatchesAndPreviews) {
  EXPECT_EQ(batch_name("x.gif", 2, 3), "x-2.gif");
  EXPECT_EQ(batch_name("a/b/x.gif", 1, 1), "a/b/x.gif");
  EXPECT_EQ(batch_name("out/%04d.png", 2, 3), "out/2/%04d.png");
  EXPECT_EQ(batch_name("", 2, 3), "");
  VideoFlags flags;
  EXPECT_EQ(preview_name(flags), "preview.png");
  flags.output = "a/x.gif";
  EXPECT_EQ(preview_name(flags), "a/x.preview.png");
  flags.output = "a/%04d.png";
  EXPECT_EQ(preview_name(flags), "a/preview.png");
}

TEST(Videogen, AClipGoesThroughTheAutoencoder) {
  const std::string in = clip("in", 5);
  const Result r =
      run("--vae " + model("vae") + " -t 2 --video-in " + in + " -o " + path("back/%02d.png") + " --latent-out " + path("l.npy"));
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(read_clip(path("back/%02d.png")), read_clip(in));
  EXPECT_NE(r.out.find("PSNR inf dB"), std::string::npos) << r.out;
  EXPECT_NE(r.err.find("5 frames of 16x16 · predicted peak "), std::string::npos) << r.err;
  // Latents as others have them: [1, z, T, h, w].
  const Array latents = read_npy(path("l.npy"));
  EXPECT_EQ(latents.dims, (std::vector<int64_t>{1, tiny_z, 3, 8, 8}));
  const auto frames = read_clip(in);
  for (int64_t t = 0; t < 3; ++t)
    for (int64_t c = 0; c < tiny_z; ++c) {
      const int64_t f = std::max<int64_t>(0, 2 * t - 1 + c / 12), y = 2 * 3 + c / 2 % 2,
                    x = 2 * 5 + c % 2;  // frame 0 stands for the one before it, too
      EXPECT_FLOAT_EQ(float(latents.numbers[size_t(((c * 3 + t) * 8 + 3) * 8 + 5)]),
                      float(frames[size_t(f)][size_t((y * 16 + x) * 3 + c / 4 % 3)]) / 255);
    }
  // A coarser y4m gives a number.
  const Result coarse = run("--vae " + model("vae") + " --json --video-in " + in + " -o " + path("c.y4m"));
  ASSERT_EQ(coarse.code, 0) << coarse.err;
  EXPECT_TRUE(Json::parse(coarse.out)["psnr"].is_null());   // of the frames, not of what the file does to them
  // The first frames alone, and at another size.
  const Json some =
      Json::parse(run("--vae " + model("vae") + " --json --video-in " + in + " --frames 3 -W 8 -H 12 -o " + path("d.rgb")).out);
  EXPECT_EQ(some["frames"], 3);
  EXPECT_EQ(read_file(path("d.rgb")).size(), 3u * 8 * 12 * 3);
}

// The seeds' thin decoder, from its checkpoint to pictures: what PyTorch's come to, rounded.
TEST(Videogen, ThinDecodersMakeFrames) {
  const fs::path golden = source_dir() / "tests/golden/video";
  const std::string vae = " --vae " + convert(golden / "thin.safetensors", "thin");
  const Array in = Npz((golden / "thin.npz").string()).read("dec_in"), out = Npz((golden / "thin.npz").string()).read("dec_out");
  std::vector<float> turned;   // on disk channels come first
  for (int64_t c = 0; c < 32; ++c)
    for (int64_t t = 0; t < 4; ++t)
      for (int64_t p = 0; p < 30; ++p) turned.push_back(float(in.numbers[size_t((t * 32 + c) * 30 + p)]));
  write_npy(path("thin.npy"), {1, 32, 4, 5, 6}, turned);
  for (const char* how : {"", " --decode full", " --mem-limit 2GB"}) {
    const Result r = run(vae + " --vae-only --latent-in " + path("thin.npy") + " -o " + path("thin/%02d.png") + how);
    ASSERT_EQ(r.code, 0) << r.err;
    const auto frames = read_clip(path("thin/%02d.png"));
    ASSERT_EQ(frames.size(), 4u);
    for (int64_t i = 0; i < 4 * 3 * 30; ++i) {
      const int64_t p = i % 30, c = i / 30 % 3, t = i / 90;
      EXPECT_NEAR(frames[size_t(t)][size_t(p * 3 + c)], 255 * out.numbers[size_t(i)], 0.51) << how;
    }
  }
  expect_error(run(vae + " --video-in " + clip("in", 5) + " -o " + path("x.gif")), "has no encoder");
}

TEST(Videogen, LatentsAreAClip) {
  const std::string in = clip("in", 5), vae = " --vae " + model("vae");
  Result r = run(vae + " --vae-only --video-in " + in + " --latent-out " + path("a.npy"));
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.out.find("3 latents"), std::string::npos) << r.out;
  for (const char* how : {"", "--decode full", "-t 3", "--mem-limit 2GB"}) {
    r = run(vae + " --vae-only --latent-in " + path("a.npy") + " -o " + path("back/%02d.png ") + how);
    ASSERT_EQ(r.code, 0) << r.err;
    EXPECT_EQ(read_clip(path("back/%02d.png")), read_clip(in)) << how;
  }
  // Without its first dimension, and in double precision.
  const Array a = read_npy(path("a.npy"));
  std::vector<float> numbers(a.numbers.begin(), a.numbers.end());
  write_npy(path("b.npy"), {tiny_z, 3, 8, 8}, numbers);
  EXPECT_EQ(run(vae + " --latent-in " + path("b.npy") + " -o " + path("b.rgb")).code, 0);
  EXPECT_EQ(read_file(path("b.rgb")).size(), 5u * 16 * 16 * 3);
  // To standard output, and nothing but frames.
  r = run(vae + " --latent-in " + path("b.npy") + " -o -");
  EXPECT_EQ(r.code, 0);
  EXPECT_TRUE(r.out == read_file(path("b.rgb")));
  // y4m from standard input.
  ASSERT_EQ(run(vae + " --latent-in " + path("b.npy") + " -o " + path("b.y4m")).code, 0);
  r = run(vae + " --json --video-in - -o " + path("c.rgb") + " <" + path("b.y4m"));
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(Json::parse(r.out)["frames"], 5);
}

TEST(Videogen, MakesClipsFromWords) {
  Result r = make("-o " + path("a.rgb"));
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.out.find("a.rgb · 5 frames of 16x16, 8 a second"), std::string::npos) << r.out;
  EXPECT_NE(r.out.find("seed 5"), std::string::npos) << r.out;
  EXPECT_NE(r.err.find("predicted peak"), std::string::npos) << r.err;
  const std::string first = read_file(path("a.rgb"));
  EXPECT_EQ(first.size(), 5u * 16 * 16 * 3);
  // The same on any number of threads, whatever it is called and however it is decoded; what is saved is what is decoded.
  auto again = [&](const std::string& arguments) {
    const Result ran = make(arguments + " -o " + path("b.rgb"));
    EXPECT_EQ(ran.code, 0) << ran.err;
    return read_file(path("b.rgb"));
  };
  EXPECT_TRUE(again("-t 2") == first);
  EXPECT_TRUE(again("--decode full --latent-out " + path("l.npy")) == first);
  ASSERT_EQ(run("-m " + model() + " --latent-in " + path("l.npy") + " -o " + path("b.rgb")).code, 0);
  EXPECT_TRUE(read_file(path("b.rgb")) == first);
  EXPECT_TRUE(again("--vae " + model("vae")) == first);
  EXPECT_TRUE(again("--steps 3 --cfg 2 --shift 1 --sampler euler -W 16 -H 16 --frames 5") == first);   // what the model says anyway
  std::vector<std::string> all{first};
  for (const char* other : {"-s 6", "-p 'a blue circle'", "--neg blue", "--steps 4", "--cfg 1", "--shift 2", "--sampler heun",
                            "--sampler unipc", "--steps 6", "--steps 6 --sampler dpmpp2m"}) {
    all.push_back(again(other));
    for (size_t i = 0; i + 1 < all.size(); ++i) EXPECT_TRUE(all[i] != all.back()) << other << " is like number " << i;
  }
  // Seeds that are drawn are printed, and bring the clip back.
  const Json drawn = Json::parse(make("--json -s -1 -o " + path("c.rgb")).out);
  EXPECT_TRUE(again("-s " + drawn["seed"].dump()) == read_file(path("c.rgb")));
}

TEST(Videogen, WritesDownHowItWasMade) {
  const std::string hash = Json::parse(make("--json -o " + path("a.rgb")).out)["model_hash"];
  ASSERT_EQ(make("-o " + path("a.gif") + " -q").code, 0);
  const DecodedClip gif = decode_gif(read_file(path("a.gif")));
  ASSERT_EQ(gif.frames.size(), 5u);
  EXPECT_EQ(gif.comment,
            "seed=5; model=" + hash + "; sampler=euler; steps=3; cfg=2; shift=1; prompt=a red circle; software=Folio videogen");
  ASSERT_EQ(make("-o " + path("a.apng")).code, 0);
  const DecodedClip apng = decode_apng(read_file(path("a.apng")));
  const std::string raw = read_file(path("a.rgb"));
  std::string frames;
  for (const Picture& p : apng.frames) frames.append(p.begin(), p.end());
  EXPECT_TRUE(frames == raw);
  EXPECT_NE(apng.comment.find("sampler"), std::string::npos);
  ASSERT_EQ(make("-o " + path("a.y4m")).code, 0);
  const std::string y4m = read_file(path("a.y4m")), head = y4m.substr(0, y4m.find('\n'));
  EXPECT_NE(head.find(" Xseed=5"), std::string::npos) << head;
  EXPECT_NE(head.find(" Xmodel=" + hash), std::string::npos) << head;
  ASSERT_EQ(make("--chroma 420 --fps 12.5 -o " + path("a.y4m")).code, 0);
  EXPECT_NE(read_file(path("a.y4m")).find(" F25:2 Ip A1:1 C420jpeg "), std::string::npos);
  const Json json = Json::parse(make("--json -o " + path("a.rgb")).out);
  for (const char* key : {"frames", "width", "height", "fps", "seed", "sampler", "steps", "cfg", "shift", "timings", "predicted_peak_bytes",
                          "peak_memory_bytes"})
    EXPECT_TRUE(json.contains(key)) << key;
  EXPECT_EQ(json["interrupted"], false);
  EXPECT_EQ(make("--json -q -o " + path("a.rgb")).err, "");
}

TEST(Videogen, BatchesAreSeedsOneAfterTheOther) {
  const Result r = make("--batch 3 --latent-out " + path("l.npy") + " -o " + path("m.rgb"));
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(std::count(r.out.begin(), r.out.end(), '\n'), 3);
  for (int n = 1; n <= 3; ++n) {
    ASSERT_EQ(make(join("-s ", 4 + n, " -o ", path("single.rgb"))).code, 0);
    EXPECT_TRUE(read_file(path(join("m-", n, ".rgb"))) == read_file(path("single.rgb"))) << n;
    EXPECT_TRUE(fs::exists(path(join("l-", n, ".npy"))));
  }
}

TEST(Videogen, PicturesThatAreGivenStand) {
  const Picture first = picture(16, 16, 100), last = picture(16, 16, 200);
  write_png(path("first.png"), {16, 16, first});
  write_png(path("last.png"), {16, 16, last});
  ASSERT_EQ(make("-o " + path("plain/%02d.png")).code, 0);
  ASSERT_EQ(make("--init-image " + path("first.png") + " --last-image " + path("last.png") + " -o " + path("held/%02d.png")).code, 0);
  const auto held = read_clip(path("held/%02d.png")), plain = read_clip(path("plain/%02d.png"));
  EXPECT_EQ(held[0], first);
  EXPECT_EQ(held[4], last);
  EXPECT_EQ(held[3], last);   // one latent holds both
  EXPECT_NE(held[1], plain[1]);
  // Another size is fitted.
  write_png(path("large.png"), {48, 32, Picture(48 * 32 * 3, 200)});
  ASSERT_EQ(make("--init-image " + path("large.png") + " -o " + path("held/%02d.png")).code, 0);
  EXPECT_EQ(read_clip(path("held/%02d.png"))[0], Picture(16 * 16 * 3, 200));
}

TEST(Videogen, ShowsPreviews) {
  for (const char* kind : {"proj", "vae"}) {
    fs::remove(path("p.preview.png"));
    const Result r = make(std::string("--preview ") + kind + " -o " + path("p.rgb"));
    ASSERT_EQ(r.code, 0) << r.err;
    const Image sheet = read_png(path("p.preview.png"));
    EXPECT_EQ(sheet.width, 3 * 64 + 2 * 2) << kind;   // a picture of each latent
    EXPECT_EQ(sheet.height, 64);
    // The last step's is the clip: its last frame, enlarged.
    const std::string raw = read_file(path("p.rgb"));
    double off = 0;
    for (int y = 0; y < 64; ++y)
      for (int x = 0; x < 64; ++x)
        for (int c = 0; c < 3; ++c)
          off += std::abs(int(sheet.rgb[size_t((y * sheet.width + 132 + x) * 3 + c)]) -
                          uint8_t(raw[size_t(((4 * 16 + y / 4) * 16 + x / 4) * 3 + c)]));
    if (kind == std::string("vae")) {
      EXPECT_EQ(off, 0);
    }
  }
  // Plain colours are what they are.
  write_png(path("flat.png"), {16, 16, Picture(16 * 16 * 3, 180)});
  ASSERT_EQ(make("--preview proj --init-image " + path("flat.png") + " -o " + path("p.rgb")).code, 0);
  const Image flat = read_png(path("p.preview.png"));
  for (size_t i = 0; i < 64 * 3; ++i) EXPECT_NEAR(flat.rgb[i], 180, 3);
  fs::remove(path("p.preview.png"));
  ASSERT_EQ(make("--preview proj --preview-every 4 -o " + path("p.rgb")).code, 0);   // of three steps
  EXPECT_FALSE(fs::exists(path("p.preview.png")));
  ASSERT_EQ(make("--preview vae --preview-path " + path("elsewhere.png") + " -o " + path("p.rgb")).code, 0);
  EXPECT_TRUE(fs::exists(path("elsewhere.png")));
}

TEST(Videogen, RefusesWhatCannotBe) {
  const std::string in = clip("in", 5), out = " -o " + path("never.gif"), vae = " --vae " + model("vae");
  expect_error(run(""), "no model");
  expect_error(run("-m " + model()), "no prompt");
  expect_error(run("-m " + model() + " -p a"), "no output");
  expect_error(run(vae + " -p a" + out), "no model");
  expect_error(make(out + " -p 'a green circle'"), "'green' is not known; this model knows: a, red, blue, circle");
  expect_error(make(out + " -p 'a a a a a'"), "5 words");
  expect_error(make(out + " --neg dog"), "'dog'");
  expect_error(make(out + " -W 18"), "the nearest is -W 16");
  expect_error(make(out + " -H 8"), "the nearest is -H 16");
  expect_error(make(out + " --frames 24"), "the nearest is --frames 5");
  expect_error(make(out + " --frames 0"), "--frames");
  expect_error(make(out + " --fps 0"), "--fps");
  expect_error(make(out + " --sampler ddim"), "ddim");
  expect_error(make(out + " -s x"), "--seed");
  expect_error(make(out + " --video-in " + in), "either made or given");
  expect_error(make(out + " --vae-only"), "--vae-only");
  expect_error(make(out + " --vae " + model("other")), "neither an encoder nor a decoder");
  expect_error(run("-m " + model("other") + vae + " -p a" + out), "does not go with");
  expect_error(run("-m " + model("vae") + " -p a" + out), "makes clips");
  expect_error(run("-m " + path("nowhere.folio") + " -p a" + out), "cannot open");
  expect_error(make(out + " --init-image " + path("nowhere.png")), "cannot open");
  expect_error(make(out + " --device tpu"), "no device");
  expect_error(make(" -o " + path("never.avi")), "expected .y4m");
  expect_error(make(" -o " + path("nowhere/never.gif")), "cannot write");
  expect_error(make(" -o /dev/full/never.gif"), "cannot write");
  expect_error(make(" -o " + path("never.png")), "has 5");
  expect_error(make(" --json -o -"), "standard output");
  expect_error(make(" --batch 2 -o -"), "told apart");
  const std::string given = vae + out + " --video-in ";
  expect_error(run(given + clip("four", 4)), "the nearest is --frames 3");
  expect_error(run(given + clip("odd", 3, 15, 16)), "the nearest is -W 16");
  expect_error(run(given + in + " -H 13"), "the nearest is -H 14");
  expect_error(run(given + in + " --frames 7"), "it has 5 frames");
  expect_error(run(given + path("nothing/%02d.png")), "there is neither");
  expect_error(run(given + in + " --batch 2"), "--batch");
  expect_error(run(given + in + " --init-image x.png"), "--init-image");
  expect_error(run(" --vae " + model("decoder") + out + " --video-in " + in), "no encoder");
  const auto latents = [&](const std::vector<int64_t>& dims, float value = 0) {
    int64_t count = 1;
    for (int64_t d : dims) count *= d;
    write_npy(path("bad.npy"), dims, std::vector<float>(size_t(count), value));
    return run(vae + out + " --latent-in " + path("bad.npy"));
  };
  expect_error(latents({1, 16, 3, 8, 8}), "16 channels, but " + model("vae") + " has 24");
  expect_error(latents({2, 24, 3, 8, 8}), "expected latents");
  expect_error(latents({24, 8, 8}), "expected latents");
  expect_error(latents({1, 24, 0, 8, 8}), "bad.npy");
  expect_error(latents({1, 24, 3, 8, 8}, NAN), "no number");
  write_npy(path("bad.npy"), {1, 24, 1, 2, 2}, std::vector<float>(24 * 4));
  const std::string whole = read_file(path("bad.npy"));
  FileWriter cut(path("cut.npy"));
  cut.write(whole.substr(0, whole.size() - 7));
  cut.commit();
  expect_error(run(vae + out + " --latent-in " + path("cut.npy")), "larger than the file");
  for (const auto& entry : fs::directory_iterator(scratch_dir()))
    EXPECT_FALSE(entry.path().filename().string().starts_with("never")) << entry.path();
}

TEST(Videogen, MemoryIsKnownBefore) {
  const std::string out = " -o " + path("never2.gif");
  expect_error(make(out + " --mem-limit 1MB"), "--mem-limit");
  expect_error(make(out + " --decode full --mem-limit 1GB"), "only stream");
  const Result r = make("--json --mem-limit 2GB -o " + path("a.rgb"));
  ASSERT_EQ(r.code, 0) << r.err;
  const Json json = Json::parse(r.out);
  EXPECT_GE(json["predicted_peak_bytes"].get<double>(), 0.9 * json["peak_memory_bytes"].get<double>());
  EXPECT_FALSE(fs::exists(path("never2.gif")));
}

TEST(Videogen, FullDiskKeepsNothingHalf) {
  // Longer files than the limit cannot be written: the latents are kept where there is room for them, the clip is not.
  const Result r =
      run("-m " + model() + " -p a -o " + path("full.rgb") + " --latent-out " + path("full.npy"), "trap '' XFSZ; ulimit -f 3; ");
  expect_error({r.code, r.out, r.err}, "cannot write: File too large");
  for (const char* name : {"full.rgb", "full.rgb.part", "full.npy.part"}) EXPECT_FALSE(fs::exists(path(name))) << name;
  const Ran full = run_command("( " + program + " -m " + model() + " -p a -q -o - >/dev/full )");
  EXPECT_EQ(full.code, 1);
  EXPECT_EQ(full.output, "error: cannot write to standard output: No space left on device\n");
}

// A running program whose standard output nobody reads yet.
class Running {
 public:
  explicit Running(const std::vector<std::string>& arguments) {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    id_ = fork();
    if (id_ == 0) {
      const int err = open(path("running.err").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      dup2(ends[1], 1);
      dup2(err, 2);
      std::vector<char*> argv{const_cast<char*>(program.c_str())};
      for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
      argv.push_back(nullptr);
      execv(argv[0], argv.data());
      _exit(127);
    }
    close(ends[1]);
    out_ = ends[0];
  }
  ~Running() {
    if (id_ > 0) kill(id_, SIGKILL), waitpid(id_, nullptr, 0);
    close(out_);
  }
  // Until the program has said this on standard error; false after two minutes.
  bool wait_for(const std::string& text) {
    for (int tries = 0; tries < 2400; ++tries) {
      if (fs::exists(path("running.err")) && read_file(path("running.err")).find(text) != std::string::npos) return true;
      usleep(50000);
    }
    return false;
  }
  void interrupt() { kill(id_, SIGINT); }
  // Reads all of its output; its exit code.
  int finish() {
    char buffer[4096];
    for (ssize_t n; (n = read(out_, buffer, sizeof buffer)) > 0;) output.append(buffer, size_t(n));
    int status = 0;
    waitpid(id_, &status, 0);
    id_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  std::string output;

 private:
  pid_t id_;
  int out_;
};

TEST(Videogen, CtrlCKeepsWhatThereIs) {
  Running made({"-m", model(), "-t", "1", "-p", "a red circle", "--steps", "100000", "-o", path("stopped.gif"), "--latent-out",
                path("stopped.npy"), "--json"});
  ASSERT_TRUE(made.wait_for("denoise "));
  made.interrupt();
  EXPECT_EQ(made.finish(), 128 + SIGINT) << read_file(path("running.err"));
  EXPECT_EQ(Json::parse(made.output)["interrupted"], true);
  EXPECT_EQ(decode_gif(read_file(path("stopped.gif"))).frames.size(), 5u);   // the clip as it was going to be
  EXPECT_TRUE(fs::exists(path("stopped.npy")));

  // While frames are decoded: those that are done. The pipe is full long before the end, so it waits there.
  write_npy(path("long.npy"), {1, tiny_z, 200, 8, 8}, std::vector<float>(size_t(tiny_z * 200 * 64), 0.5f));
  Running decoding({"--vae", model("vae"), "--latent-in", path("long.npy"), "-o", "-"});
  ASSERT_TRUE(decoding.wait_for("predicted peak"));
  usleep(300000);
  decoding.interrupt();
  usleep(100000);
  EXPECT_EQ(decoding.finish(), 128 + SIGINT);
  EXPECT_EQ(decoding.output.size() % (16 * 16 * 3), 0u);
  EXPECT_LT(decoding.output.size(), 399u * 16 * 16 * 3);
}

// Other people's layout, and our own prototype: what the program writes is what PyTorch computed.
TEST(Videogen, GoldenLatents) {
  const fs::path dir = shared_dir() / "golden/video/taehv_mini";
  if (shared_dir().empty() || !fs::exists(dir)) GTEST_SKIP() << "no shared folder";
  for (const char* name : {"base", "ltx"}) {
    const std::string vae = convert(dir / (std::string(name) + ".safetensors"), std::string("taehv-") + name);
    const Array in = read_npy((dir / (std::string(name) + "_dec_in.npy")).string()),
                want = read_npy((dir / (std::string(name) + "_dec_out.npy")).string());
    const int64_t T = in.dims[1], z = in.dims[2], plane = in.dims[3] * in.dims[4];   // [1, T, z, h, w]
    std::vector<float> turned(in.numbers.size());
    for (int64_t t = 0; t < T; ++t)
      for (int64_t c = 0; c < z; ++c)
        for (int64_t i = 0; i < plane; ++i) turned[size_t((c * T + t) * plane + i)] = float(in.numbers[size_t((t * z + c) * plane + i)]);
    write_npy(path("golden.npy"), {1, z, T, in.dims[3], in.dims[4]}, turned);
    for (const char* how : {"", " --decode full"}) {
      const Result r = run("--vae " + vae + " --vae-only --latent-in " + path("golden.npy") + " -o " + path("golden.rgb") + how);
      ASSERT_EQ(r.code, 0) << r.err;
      const std::string got = read_file(path("golden.rgb"));
      const int64_t frames = want.dims[1], H = want.dims[3], W = want.dims[4];
      ASSERT_EQ(int64_t(got.size()), frames * H * W * 3) << name;
      for (int64_t f = 0; f < frames; ++f)
        for (int64_t c = 0; c < 3; ++c)
          for (int64_t i = 0; i < H * W; ++i)
            ASSERT_NEAR(uint8_t(got[size_t((f * H * W + i) * 3 + c)]), 255 * want.numbers[size_t((f * 3 + c) * H * W + i)], 0.53)
                << name << how << " frame " << f;
    }
  }
}

// A real autoencoder on a real clip, a smaller one than that of its README (31.57 dB).
TEST(Videogen, RealClipThroughARealAutoencoder) {
  const fs::path taef2 = shared_dir() / "models/taef2", clips = shared_dir() / "data/video";
  if (shared_dir().empty() || !fs::exists(taef2) || !fs::exists(clips)) GTEST_SKIP() << "no shared folder";
  const std::string vae = convert(taef2, "taef2");
  const Result r = run("--vae " + vae + " -t 2 --json --video-in " + (clips / "cockatoo_128x96_17f.y4m").string() + " --frames 3 -o " +
                       path("real.y4m"));
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_GT(Json::parse(r.out)["psnr"].get<double>(), 26) << r.out;
  EXPECT_EQ(read_clip(path("real.y4m")).size(), 3u);
}

}  // namespace
}  // namespace folio
