// SPDX-License-Identifier: MIT
// Pictures and clips: each format written and read back by a reader that shares nothing with its writer, files that are cut off or
// forged, and writing where there is no room.
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>

#include "base/process.h"
#include "base/random.h"
#include "files/video.h"
#include "fixtures.h"
#include "frames_decoders.h"

namespace folio {
namespace {

std::string path(const std::string& name) { return (scratch_dir() / name).string(); }

void write_text(const std::string& file, std::string_view text) {
  FileWriter out(file);
  out.write(text);
  out.commit();
}

uint8_t noise(uint64_t n) { return uint8_t(philox(7, n, 0).word[0]); }

// Frame n: a smooth ramp that moves, more than 256 colours.
Picture ramp(int width, int height, int n) {
  Picture p;
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      for (int c = 0; c < 3; ++c) p.push_back(uint8_t(127.5 + 127.4 * std::sin(0.05 * (x + 2 * n) * (c + 1) + 0.04 * y * (3 - c))));
  return p;
}
// Few colours: a square that moves over a background.
Picture square(int width, int height, int n) {
  Picture p;
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) {
      const bool in = x >= n && x < n + 3 && y >= 1 && y < 4;
      for (int v : {in ? 230 : 12, in ? 20 : 34, in ? 30 : 200}) p.push_back(uint8_t(v));
    }
  return p;
}
Picture random_picture(int width, int height, int n) {
  Picture p;
  for (int i = 0; i < width * height * 3; ++i) p.push_back(noise(uint64_t(n) << 32 | uint64_t(i)));
  return p;
}

double psnr(const Picture& a, const Picture& b) {
  EXPECT_EQ(a.size(), b.size());
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
  return sum == 0 ? INFINITY : 10 * std::log10(255.0 * 255.0 * double(a.size()) / sum);
}
int worst(const Picture& a, const Picture& b) {
  EXPECT_EQ(a.size(), b.size());
  int most = 0;
  for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(int(a[i]) - b[i]));
  return most;
}

template <class F> std::string error_of(F f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}
void expect_says(const std::string& error, const std::string& what) {
  EXPECT_NE(error.find(what), std::string::npos) << error << "\ndoes not say: " << what;
}

using Painter = Picture (*)(int, int, int);
std::string write_clip(const std::string& name, const Clip& clip, Painter paint, int frames) {
  fs::remove(name);
  auto writer = write_frames(name, clip);
  for (int n = 0; n < frames; ++n) writer->push(paint(clip.width, clip.height, n).data());
  EXPECT_FALSE(fs::exists(name)) << "there before it is whole";
  writer->finish();
  EXPECT_EQ(writer->frames(), frames);
  EXPECT_FALSE(fs::exists(name + ".part"));
  return name;
}

TEST(Rates, AreFractions) {
  EXPECT_EQ(parse_rate("24", "--fps").text(), "24");
  EXPECT_EQ(parse_rate("30000/1001", "--fps").text(), "30000/1001");
  EXPECT_EQ(parse_rate("24:2", "--fps").text(), "12");
  EXPECT_EQ(parse_rate("12.5", "--fps").text(), "25/2");
  EXPECT_DOUBLE_EQ(parse_rate("23.976", "--fps").fps(), 23.976);
  for (const char* bad :
       {"", "0", "-1", "x", "24x", "1/0", "24/", "1e3", "1001", "0.001", "12.5.5", "99999999999999999999", "1/99999999999", "nan"})
    expect_says(error_of([&] { parse_rate(bad, "--fps"); }), "--fps: '");
}

TEST(Png, IsReadAsItWasWritten) {
  for (auto [w, h] : {std::pair(1, 1), {3, 5}, {64, 48}, {257, 2}}) {
    const Image image{w, h, random_picture(w, h, 1)};
    write_png(path("a.png"), image, {{"seed", "42"}, {"a key\n", "a red circle"}, {"prompt", "Grüße"}});
    const Image back = read_png(path("a.png"));
    EXPECT_EQ(back.width, w);
    EXPECT_EQ(back.height, h);
    EXPECT_EQ(back.rgb, image.rgb);
  }
  std::vector<std::string> texts;
  const std::string file = read_file(path("a.png"));
  for (const PngChunk& c : png_chunks(file, "a"))
    if (c.type != "IHDR" && c.type != "IDAT") texts.push_back(std::string(c.type) + ":" + std::string(c.data));
  using namespace std::string_literals;
  EXPECT_EQ(texts, (std::vector{"tEXt:seed\0"s + "42", "tEXt:a_key_\0a red circle"s, "iTXt:prompt\0\0\0\0\0Grüße"s}));
}

TEST(Png, OtherKindsBecomeRgb) {
  using namespace std::string_literals;
  EXPECT_EQ(decode_png(odd_png(2, 2, 8, 0, "\0\x0a\xff\0\x80\0"s), "grey").rgb,
            (Picture{10, 10, 10, 255, 255, 255, 128, 128, 128, 0, 0, 0}));
  EXPECT_EQ(decode_png(odd_png(3, 1, 1, 3, "\0\x40"s, "\1\2\3\4\5\6"s), "palette").rgb, (Picture{1, 2, 3, 4, 5, 6, 1, 2, 3}));
  EXPECT_EQ(decode_png(odd_png(1, 1, 16, 6, "\0\x12\x34\x56\x78\x9a\xbc\0\0"s), "deep").rgb, (Picture{0x12, 0x56, 0x9a}));
  EXPECT_EQ(decode_png(odd_png(2, 2, 8, 0, "\0\x0a\x14\2\1\1"s), "filter").rgb, (Picture{10, 10, 10, 20, 20, 20, 11, 11, 11, 21, 21, 21}));
}

TEST(Png, CutOffOrForgedIsRefused) {
  const Picture rgb = random_picture(9, 7, 3);
  const std::string good = encode_png(rgb.data(), 9, 7, {{"k", "v"}});
  for (size_t n = 0; n < good.size(); ++n) error_of([&] { decode_png(std::string_view(good).substr(0, n), "x.png"); });
  for (size_t n = 0; n < good.size(); ++n) {
    std::string bad = good;
    bad[n] = char(bad[n] ^ 16);
    error_of([&] { decode_png(bad, "x.png"); });
  }
  expect_says(error_of([&] { decode_png("", "x.png"); }), "x.png: not a PNG");
  expect_says(error_of([&] { decode_png(std::string_view(good).substr(0, 60), "x.png"); }), "cut off after 60 bytes");
  expect_says(error_of([&] { decode_png(odd_png(0, 1, 8, 0, ""), "x.png"); }), "0x1");
  expect_says(error_of([&] { decode_png(odd_png(0x80000001u, 2, 8, 0, ""), "x.png"); }), "2147483649x2");
  expect_says(error_of([&] { decode_png(odd_png(8000, 8000, 8, 2, "abc"), "x.png"); }),
              "cannot be a picture of 8000x8000");  // 192 MB from 14 bytes
  expect_says(error_of([&] { read_png(path("nowhere.png")); }), "cannot open");
}

// Bytes changed at random with every checksum right: the decoder itself is asked.
TEST(Png, RandomDamageNeverCrashes) {
  using namespace std::string_literals;
  const std::string seeds[] = {encode_png(random_picture(9, 7, 3).data(), 9, 7), encode_png(square(20, 9, 2).data(), 20, 9),
                               odd_png(3, 1, 1, 3, "\0\x40"s, "\1\2\3\4\5\6"s), odd_png(1, 1, 16, 6, "\0\x12\x34\x56\x78\x9a\xbc\0\0"s)};
  int decoded = 0;
  for (uint64_t n = 0; n < 4000; ++n) {
    const std::string& seed = seeds[n % 4];
    std::string bad(png_signature);
    const auto chunks = png_chunks(seed, "seed");
    const size_t chosen = philox(1, n, 0).word[0] % chunks.size();
    for (size_t i = 0; i < chunks.size(); ++i) {
      std::string data(chunks[i].data);
      if (i == chosen)
        for (uint64_t change = 0; change <= n % 3; ++change) {
          const Words4 r = philox(2, n, change);
          data[r.word[0] % data.size()] = char(r.word[1]);
        }
      put_chunk(bad, chunks[i].type, data);
    }
    put_chunk(bad, "IEND", "");
    try {
      const Image image = decode_png(bad, "x.png");
      ASSERT_EQ(image.rgb.size(), size_t(image.width) * size_t(image.height) * 3);
      ++decoded;
    } catch (const Error&) {
    }
  }
  EXPECT_GT(decoded, 100);
  EXPECT_LT(decoded, 3900);
}

TEST(Images, ChangeTheirSize) {
  const Image flat{30, 20, Picture(30 * 20 * 3, 77)};
  for (auto [w, h] : {std::pair(30, 20), {7, 9}, {64, 64}, {1, 1}, {300, 10}}) {
    const Image other = fit(flat, w, h);
    EXPECT_EQ(other.width, w);
    EXPECT_EQ(other.rgb, Picture(size_t(w * h * 3), 77));
  }
  Image stripes{64, 32, {}};   // the middle 32 columns are left, the outer ones cut away
  for (int y = 0; y < 32; ++y)
    for (int x = 0; x < 64; ++x)
      for (int c = 0; c < 3; ++c) stripes.rgb.push_back(x < 12 || x >= 52 ? 0 : x % 2 ? 100 : 200);
  const Image half = fit(stripes, 16, 16);
  for (uint8_t v : half.rgb) EXPECT_NEAR(v, 150, 1);   // every column counts
  Image ramp{32, 1, {}};
  for (int x = 0; x < 32; ++x)
    for (int c = 0; c < 3; ++c) ramp.rgb.push_back(uint8_t(8 * x));
  EXPECT_EQ(fit(ramp, 32, 1).rgb, ramp.rgb);
}

TEST(Y4m, KeepsColours) {
  for (const bool half : {false, true}) {
    const Clip clip{.width = 13,
                    .height = 9,
                    .rate = {30000, 1001},
                    .notes = {{"seed", "42"}, {"x", std::string(90, 'y')}, {"model", "ab c"}},
                    .half_chroma = half};
    const std::string name = write_clip(path("a.y4m"), clip, half ? square : ramp, 5);
    const std::string file = read_file(name), head = file.substr(0, file.find('\n'));
    EXPECT_EQ(head, std::string("YUV4MPEG2 W13 H9 F30000:1001 Ip A1:1 C") + (half ? "420jpeg" : "444") +
                        " XCOLORRANGE=LIMITED Xseed=42 Xmodel=ab_c");
    EXPECT_LT(head.size(), 96u);
    const size_t frame = 6 + (half ? 13 * 9 + 2 * 7 * 5 : 3 * 13 * 9);
    EXPECT_EQ(file.size(), head.size() + 1 + 5 * frame);
    const auto back = read_clip(name);
    ASSERT_EQ(back.size(), 5u);
    for (int n = 0; n < 5 && !half; ++n) EXPECT_LE(worst(back[size_t(n)], ramp(13, 9, n)), 2) << n;
    EXPECT_EQ(read_frames(name)->clip().rate.text(), "30000/1001");
  }
}

// BT.601 by its definition: Y' = 16 + 219 (0.299 R + 0.587 G + 0.114 B), Cb = 128 + 224 (B - Y) / 1.772, Cr = 128 + 224 (R - Y) / 1.402.
TEST(Y4m, ColoursAreBt601) {
  for (int n = 0; n < 64; ++n) {
    const Picture rgb = random_picture(1, 1, n);
    auto writer = write_frames(path("c.y4m"), {.width = 1, .height = 1});
    writer->push(rgb.data());
    writer->finish();
    const std::string file = read_file(path("c.y4m"));
    const double r = rgb[0] / 255.0, g = rgb[1] / 255.0, b = rgb[2] / 255.0, y = 0.299 * r + 0.587 * g + 0.114 * b;
    EXPECT_NEAR(uint8_t(file[file.size() - 3]), 16 + 219 * y, 0.51);
    EXPECT_NEAR(uint8_t(file[file.size() - 2]), 128 + 224 * (b - y) / 1.772, 0.51);
    EXPECT_NEAR(uint8_t(file[file.size() - 1]), 128 + 224 * (r - y) / 1.402, 0.51);
  }
}

std::vector<Picture> y4m_of(const std::string& text) {
  write_text(path("t.y4m"), text);
  return read_clip(path("t.y4m"));
}

TEST(Y4m, OtherChromaAndRanges) {
  using namespace std::string_literals;
  const std::string head = "YUV4MPEG2 W2 H2 F25:1";
  const Picture red{254, 0, 0}, four_red{254, 0, 0, 254, 0, 0, 254, 0, 0, 254, 0, 0};
  EXPECT_EQ(y4m_of(head + " C422\nFRAME\n\x51\x51\x51\x51\x5a\x5a\xf0\xf0")[0], four_red);
  EXPECT_EQ(y4m_of(head + "\nFRAME\n\x51\x51\x51\x51\x5a\xf0")[0], four_red);
  EXPECT_EQ(y4m_of(head + " C420mpeg2 A0:0 I? XFOO=1\nFRAME Ip\n\x51\x51\x51\x51\x5a\xf0"s)[0], four_red);
  EXPECT_EQ(y4m_of("YUV4MPEG2 H1 W3 F0:0 Cmono\nFRAME\n\x10\xeb\x7e"s)[0], (Picture{0, 0, 0, 255, 255, 255, 128, 128, 128}));
  EXPECT_EQ(y4m_of("YUV4MPEG2 H1 W3 F0:0 Cmono XCOLORRANGE=FULL\nFRAME\n\x10\xeb\x7e"s)[0],
            (Picture{16, 16, 16, 235, 235, 235, 126, 126, 126}));
  EXPECT_EQ(y4m_of("YUV4MPEG2 W1 H1 C444 XCOLORRANGE=FULL\nFRAME\n\x4c\x55\xff"s)[0], red);   // 76, 85, 255
}

TEST(Y4m, CutOffOrForgedIsRefused) {
  const std::string good = "YUV4MPEG2 W2 H2 F25:1 C444\nFRAME\nabcdefghijklFRAME\nabcdefghijkl";
  EXPECT_EQ(y4m_of(good).size(), 2u);
  for (size_t n = 0; n < good.size(); ++n)
    if (n != 27 && n != 45) error_of([&] { y4m_of(good.substr(0, n)); });   // no frame at all, and one: whole files
  expect_says(error_of([&] { y4m_of(good.substr(0, 50)); }), "cut off in the line 'FRAME'");
  expect_says(error_of([&] { y4m_of(good.substr(0, 55)); }), "frame 1 is cut off: 4 of 12 bytes are there");
  expect_says(error_of([&] { y4m_of(good + "abc\n"); }), "frame 2 does not begin with FRAME");
  expect_says(error_of([&] { y4m_of("RIFF"); }), "the file is cut off");
  expect_says(error_of([&] { y4m_of(std::string(100000, 'Y')); }), "not a y4m file");
  for (const char* words : {"W0 H2", "W-2 H2", "W2x H2", "W99999999999 H2", "W16385 H2", "W H2", "W2 H2 C420p10", "W2 H2 C444alpha",
                            "W2 H2 C", "W2 H2 It", "W2 H2 Im", "W2", "H2", "", "W2 H2 F1:0", "W2 H2 F-3:1", "W2 H2 F", "W16384 H16384"})
    error_of([&] { y4m_of(std::string("YUV4MPEG2 ") + words + "\nFRAME\n"); });
  expect_says(error_of([&] { y4m_of("YUV4MPEG2 W8000 H8000 C444\nFRAME\nabc"); }), "frame 0 is cut off: 3 of 192000000");
  expect_says(error_of([&] { read_frames(path("nowhere.y4m")); }), "cannot open");
  fs::create_directories(path("folder.y4m"));
  expect_says(error_of([&] { read_frames(path("folder.y4m")); }), "cannot read: Is a directory");
  for (uint64_t n = 0; n < 800; ++n) {
    std::string bad = good;
    for (uint64_t change = 0; change <= n % 3; ++change) {
      const Words4 r = philox(3, n, change);
      bad[r.word[0] % 40] = char(r.word[1]);
    }
    write_text(path("t.y4m"), bad);
    try {
      auto reader = read_frames(path("t.y4m"));
      ASSERT_LE(int64_t(reader->clip().width) * reader->clip().height, most_pixels);
      if (int64_t(reader->clip().width) * reader->clip().height > 1000000) continue;
      Picture next(size_t(reader->clip().width) * size_t(reader->clip().height) * 3);
      while (reader->next(next.data())) {
      }
    } catch (const Error&) {
    }
  }
}

TEST(Y4m, ReadsRealClips) {
  const fs::path dir = shared_dir() / "data/video";
  if (shared_dir().empty() || !fs::exists(dir)) GTEST_SKIP() << "no shared folder";
  for (auto [name, w, h, frames] : {std::tuple("cockatoo_128x96_17f.y4m", 128, 96, 17), {"cockatoo_256x256_33f.y4m", 256, 256, 33}}) {
    const auto all = read_clip((dir / name).string());
    ASSERT_EQ(all.size(), size_t(frames));
    EXPECT_EQ(all[0].size(), size_t(w * h * 3));
    EXPECT_GT(psnr(all[0], all[1]), 18);   // neighbours are alike, a shifted plane is not
  }
}

TEST(Gif, FewColoursAreExact) {
  const Clip clip{.width = 21, .height = 10, .rate = {8, 1}, .notes = {{"prompt", "a red circle"}, {"seed", "42"}}};
  const DecodedClip back = decode_gif(read_file(write_clip(path("a.gif"), clip, square, 9)));
  EXPECT_EQ(back.width, 21);
  EXPECT_EQ(back.height, 10);
  EXPECT_EQ(back.plays, 0);
  EXPECT_EQ(back.comment, "prompt=a red circle; seed=42");
  ASSERT_EQ(back.frames.size(), 9u);
  double seconds = 0;
  for (int n = 0; n < 9; ++n) {
    EXPECT_EQ(back.frames[size_t(n)], square(21, 10, n)) << n;
    seconds += back.seconds[size_t(n)];
  }
  EXPECT_NEAR(seconds, 9 / 8.0, 0.0051);   // 12 and 13 hundredths in turn
}

TEST(Gif, ManyColoursAreNear) {
  const Clip clip{.width = 150, .height = 110, .rate = {100, 1}};
  const DecodedClip smooth = decode_gif(read_file(write_clip(path("a.gif"), clip, ramp, 2)));
  ASSERT_EQ(smooth.frames.size(), 2u);
  EXPECT_GT(psnr(smooth.frames[1], ramp(150, 110, 1)), 28);
  EXPECT_EQ(smooth.seconds[0], 0.02);
  // Errors are handed on: the mean of a part stays.
  const Picture want = ramp(150, 110, 0);
  for (size_t c = 0; c < 3; ++c) {
    double a = 0, b = 0;
    for (size_t y = 40; y < 70; ++y)
      for (size_t x = 40; x < 70; ++x) a += want[(y * 150 + x) * 3 + c], b += smooth.frames[0][(y * 150 + x) * 3 + c];
    EXPECT_NEAR(a / 900, b / 900, 1.0);
  }
  // Noise fills the table of codes again and again.
  const DecodedClip wild = decode_gif(read_file(write_clip(path("a.gif"), clip, random_picture, 1)));
  EXPECT_GT(psnr(wild.frames[0], random_picture(150, 110, 0)), 16);
}

TEST(Gif, EverySizeOfTableAndPicture) {
  for (int colours : {1, 2, 3, 4, 5, 16, 17, 255, 256})
    for (auto [w, h] : {std::pair(1, 1), {16, 16}, {31, 17}, {256, 300}}) {
      Picture picture;
      for (int i = 0; i < w * h; ++i) {
        const int k = int(philox(5, uint64_t(i), uint64_t(colours)).word[0] % uint32_t(colours));
        for (int v : {k, 255 - k, k / 2}) picture.push_back(uint8_t(v));
      }
      auto writer = write_frames(path("b.gif"), {.width = w, .height = h});
      writer->push(picture.data());
      writer->finish();
      const DecodedClip back = decode_gif(read_file(path("b.gif")));
      ASSERT_EQ(back.frames.size(), 1u);
      EXPECT_EQ(back.frames[0], picture) << colours << " colours, " << w << "x" << h;
    }
}

TEST(Apng, IsLosslessAndCountsWhatCame) {
  const Clip clip{.width = 23, .height = 11, .rate = {30000, 1001}, .frames = 100, .notes = {{"seed", "42"}}};
  const std::string file = read_file(write_clip(path("a.apng"), clip, ramp, 4));   // 100 were expected: somebody pressed Ctrl-C
  const DecodedClip back = decode_apng(file);
  EXPECT_EQ(back.plays, 0);
  EXPECT_EQ(back.comment, std::string("seed\0", 5) + "42");
  ASSERT_EQ(back.frames.size(), 4u);
  for (int n = 0; n < 4; ++n) EXPECT_EQ(back.frames[size_t(n)], ramp(23, 11, n));
  EXPECT_DOUBLE_EQ(back.seconds[0], 1001.0 / 30000);
  EXPECT_EQ(decode_png(file, "a").rgb, ramp(23, 11, 0));   // where nobody knows of animation
  const Clip odd{.width = 2, .height = 2, .rate = {23976123, 1000000}};
  EXPECT_NEAR(decode_apng(read_file(write_clip(path("b.apng"), odd, ramp, 1))).seconds[0], 1 / 23.976123, 1e-4);
}

TEST(PngFrames, AreNumbered) {
  const Clip clip{.width = 8, .height = 6, .frames = 12, .notes = {{"seed", "42"}}};
  const std::string name = path("deep/frames/%04d.png");
  auto writer = write_frames(name, clip);
  for (int n = 0; n < 12; ++n) {
    writer->push(ramp(8, 6, n).data());
    EXPECT_TRUE(fs::exists(numbered(name, n)));
  }
  writer->finish();
  EXPECT_TRUE(fs::exists(path("deep/frames/0011.png")));
  EXPECT_EQ(std::distance(fs::directory_iterator(path("deep/frames")), fs::directory_iterator()), 12);
  const auto back = read_clip(name);
  ASSERT_EQ(back.size(), 12u);
  for (int n = 0; n < 12; ++n) EXPECT_EQ(back[size_t(n)], ramp(8, 6, n));
  fs::remove(path("deep/frames/0000.png"));
  EXPECT_EQ(read_clip(name).size(), 11u);   // from 1 on is a clip as well
  fs::remove(path("deep/frames/0001.png"));
  expect_says(error_of([&] { read_clip(name); }), "there is neither");
  write_png(path("deep/frames/0000.png"), {8, 5, Picture(8 * 5 * 3)});
  write_png(path("deep/frames/0001.png"), {8, 6, Picture(8 * 6 * 3)});
  expect_says(error_of([&] { read_clip(name); }), "8x6, and the frames before it are 8x5");
  EXPECT_EQ(numbered("a%d.png", 12345), "a12345.png");
  EXPECT_EQ(numbered("a%02d.png", 123), "a123.png");
  for (const char* bad : {"%s.png", "%04d%04d.png", "%.png", "%4d.png", "%0d.png", "%012d.png", "%x-%d.png", "%%04d.png", "%n%d.png"})
    expect_says(error_of([&] { write_frames(path(bad), clip); }), "exactly one %d");
}

TEST(Frames, RawAndSinglePictures) {
  const Clip clip{.width = 5, .height = 4, .frames = 1};
  const std::string raw = read_file(write_clip(path("a.rgb"), clip, ramp, 2));
  const Picture a = ramp(5, 4, 0), b = ramp(5, 4, 1);
  EXPECT_EQ(raw, std::string(a.begin(), a.end()) + std::string(b.begin(), b.end()));
  EXPECT_EQ(read_clip(write_clip(path("one.png"), clip, ramp, 1)), std::vector<Picture>{a});
  Clip two = clip;
  two.frames = 2;
  expect_says(error_of([&] { write_frames(path("two.png"), two); }), "name it like out/%04d.png");
}

TEST(Frames, WhatCannotBeWritten) {
  const Clip clip{.width = 64, .height = 64};
  for (const char* name : {"x", "x.avi", "x.y4m.txt", "x%d.gif"}) error_of([&] { write_frames(path(name), clip); });
  expect_says(error_of([&] { write_frames(path("x.avi"), clip); }), "expected .y4m, .gif");
  for (const char* end : {".y4m", ".gif", ".apng", ".rgb", ".png", "-%03d.png"}) {
    if (end[0] == '.')
      expect_says(error_of([&] { write_frames(path(std::string("nowhere/x") + end), clip); }), "cannot write: No such file or directory");
    expect_says(error_of([&] { write_frames("/dev/full/x" + std::string(end), clip); }), "ot a directory");
    const std::string name = path(std::string("empty") + end);
    expect_says(error_of([&] { write_frames(name, clip)->finish(); }), "there is no frame to write");
    EXPECT_FALSE(fs::exists(name));
    EXPECT_FALSE(fs::exists(name + ".part"));
    { write_frames(path(std::string("dropped") + end), clip)->push(Picture(64 * 64 * 3).data()); }
    EXPECT_FALSE(fs::exists(path(std::string("dropped") + end)));
    EXPECT_FALSE(fs::exists(path(std::string("dropped") + end + ".part")));
  }
  expect_says(error_of([&] { write_frames("/dev/full", clip); }), "does not say what");
  error_of([&] { write_frames(path("x.gif"), {.width = 0, .height = 5}); });
  error_of([&] { write_frames(path("x.gif"), {.width = 20000, .height = 5}); });
}

// A limit on the length of files stands for a disk that is full.
TEST(Frames, FullDiskLeavesNoHalfFile) {
  signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  for (const char* name : {"full.y4m", "full.gif", "full.apng", "full.rgb", "full.png", "full-%d.png"}) {
    const rlimit small{4000, old.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    const std::string error = error_of([&] {
      auto writer = write_frames(path(name), {.width = 64, .height = 64});
      for (int n = 0; n < (std::string(name) == "full.png" ? 1 : 40); ++n) writer->push(random_picture(64, 64, n).data());
      writer->finish();
    });
    setrlimit(RLIMIT_FSIZE, &old);
    expect_says(error, "cannot write: File too large");
    for (const auto& entry : fs::directory_iterator(scratch_dir()))
      EXPECT_FALSE(entry.path().filename().string().starts_with("full")) << entry.path();
  }
}

// In place of ffmpeg a script that keeps its arguments and copies what it is given.
class WithFfmpeg : public ::testing::Test {
 protected:
  void SetUp() override {
    old_ = std::getenv("PATH");
    fs::create_directories(path("bin"));
    setenv("PATH", (path("bin") + ":" + old_).c_str(), 1);
  }
  void TearDown() override { setenv("PATH", old_.c_str(), 1); }
  static void script(const std::string& text) {
    write_text(path("bin/ffmpeg"), "#!/bin/sh\nfor last; do :; done\nlast=${last#file:}\n" + text);
    fs::permissions(path("bin/ffmpeg"), fs::perms::all);
  }
  std::string old_;
};

TEST_F(WithFfmpeg, GetsFramesAndSettings) {
  script("printf '%s\\n' \"$@\" >'" + path("arguments") + "'\ncat >\"$last\"\n");
  const Clip clip{.width = 6, .height = 4, .rate = {25, 2}, .notes = {{"prompt", "a 'red' circle; \"$HOME\""}, {"seed", "42"}}};
  const std::string file = read_file(write_clip(path("a.mp4"), clip, ramp, 3));
  EXPECT_EQ(file.size(), size_t(3 * 6 * 4 * 3));
  const std::string arguments = read_file(path("arguments"));
  for (const std::string part :
       {"-video_size\n6x4\n", "-framerate\n25/2\n", "-colorspace\nsmpte170m\n", "-f\nmp4\n",
        "comment=prompt=a 'red' circle; \"$HOME\"; seed=42\n"})
    expect_says(arguments, part);
  write_clip(path("a.mkv"), clip, ramp, 1);
  expect_says(read_file(path("arguments")), "-f\nmatroska\n");
}

TEST_F(WithFfmpeg, FailsWithItsReason) {
  script("cat >/dev/null\necho 'Conversion failed!' >&2\nexit 1\n");
  const Clip clip{.width = 64, .height = 64};
  expect_says(error_of([&] { write_clip(path("bad.mp4"), clip, ramp, 2); }), "ffmpeg failed: Conversion failed!");
  script("echo 'no such encoder' >&2\nexit 1\n");
  expect_says(error_of([&] { write_clip(path("bad.mp4"), clip, ramp, 200); }), "ffmpeg gave up: no such encoder");
  EXPECT_FALSE(fs::exists(path("bad.mp4")));
  EXPECT_FALSE(fs::exists(path("bad.mp4.part")));
  expect_says(error_of([&] { write_frames(path("nowhere/bad.mp4"), clip); }), "cannot write");
  script("cat >\"$last\"\n");
  { write_frames(path("dropped.mp4"), clip)->push(Picture(64 * 64 * 3).data()); }
  EXPECT_FALSE(fs::exists(path("dropped.mp4.part")));
}

TEST_F(WithFfmpeg, ReadsWhatItDecodes) {
  write_clip(path("in.y4m"), {.width = 6, .height = 4}, ramp, 3);
  write_text(path("in.mp4"), "not looked at");
  script("printf '%s\\n' \"$@\" >'" + path("arguments") + "'\ncat '" + path("in.y4m") + "'\n");
  EXPECT_EQ(read_clip(path("in.mp4")).size(), 3u);
  expect_says(read_file(path("arguments")), "-i\nfile:" + path("in.mp4"));
  script("echo 'moov atom not found' >&2\nexit 1\n");
  expect_says(error_of([&] { read_clip(path("in.mp4")); }), "moov atom not found");
  script("cat '" + path("in.y4m") + "'\necho 'corrupt' >&2\nexit 69\n");
  expect_says(error_of([&] { read_clip(path("in.mp4")); }), "cannot read all of it: corrupt");
  expect_says(error_of([&] { read_clip(path("nowhere.mp4")); }), "cannot open");
}

TEST(WithoutFfmpeg, SaysSo) {
  const std::string old = std::getenv("PATH");
  setenv("PATH", path("nothing-here").c_str(), 1);
  const std::string written = error_of([] { write_frames(path("x.mp4"), {.width = 8, .height = 8}); });
  write_text(path("x.webm"), "x");
  const std::string read = error_of([] { read_frames(path("x.webm")); });
  setenv("PATH", old.c_str(), 1);
  expect_says(written, "needs ffmpeg, which is not on the PATH");
  expect_says(read, "only .y4m, .png");
}

// The real one, where there is one.
TEST(RealFfmpeg, WritesAndReads) {
  if (!on_path("ffmpeg")) GTEST_SKIP() << "no ffmpeg here";
  const Clip clip{.width = 64, .height = 48, .rate = {8, 1}, .notes = {{"seed", "42"}}};
  for (const char* name : {"real.mp4", "real.webm", "real.mkv"}) {
    const auto back = read_clip(write_clip(path(name), clip, ramp, 9));
    ASSERT_EQ(back.size(), 9u) << name;
    EXPECT_GT(psnr(back[8], ramp(64, 48, 8)), 20) << name;
  }
  for (const char* name : {"real.gif", "real.apng"}) {   // and it reads what we write
    const auto back = read_clip(write_clip(path(name), clip, square, 9));
    ASSERT_EQ(back.size(), 9u) << name;
    EXPECT_GT(psnr(back[8], square(64, 48, 8)), 30) << name;
  }
}

}  // namespace
}  // namespace folio
