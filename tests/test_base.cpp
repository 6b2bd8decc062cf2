// SPDX-License-Identifier: MIT
// The ground: files that do not exist or cannot be written, the hash's known values, and every number format against
// definitions written here a second time.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cmath>
#include <filesystem>
#include <limits>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "graph/dtype.h"

namespace folio {
namespace {

namespace fs = std::filesystem;

template <class Call> std::string sentence(Call call) {
  try {
    call();
    return "(nothing was thrown)";
  } catch (const Error& error) {
    return error.what();
  }
}

class Files : public testing::Test {
 protected:
  Files() : folder(fs::temp_directory_path() / ("folio_base_" + std::to_string(getpid()))) { fs::create_directories(folder); }
  ~Files() override { fs::remove_all(folder); }
  std::string at(const char* name) const { return (folder / name).string(); }
  size_t files() const { return size_t(std::distance(fs::directory_iterator(folder), fs::directory_iterator())); }
  fs::path folder;
};

TEST(Error, JoinsAndChecks) {
  EXPECT_EQ(join("a ", 1, ' ', 2.5, std::string(" b")), "a 1 2.5 b");
  EXPECT_NO_THROW(check(true, "never"));
  EXPECT_EQ(sentence([] { check(1 > 2, "weights: ", 3, " of ", 4); }), "weights: 3 of 4");
  EXPECT_EQ(sentence([] { fail("x"); }), "x");
}

TEST_F(Files, WrittenReadAndMapped) {
  std::string all(100000, '\0');
  std::iota(all.begin(), all.end(), '\0');
  {
    FileWriter out(at("a"));
    out.write(all.substr(0, 7));
    out.write(all.data() + 7, all.size() - 7);
    EXPECT_FALSE(fs::exists(at("a")));  // not before it is whole
    out.commit();
  }
  EXPECT_EQ(read_file(at("a")), all);
  const MappedFile map(at("a"));
  EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(map.data()), map.bytes()), all);
  EXPECT_EQ(files(), 1u);
}

TEST_F(Files, NothingIsLeftOfAnInterruptedWrite) {
  FileWriter(at("whole")).commit();
  {
    FileWriter out(at("half"));
    out.write("some");
  }
  {
    FileWriter out(at("whole"));  // the file that was there before stays as it was
    out.write("more");
  }
  EXPECT_EQ(files(), 1u);
  EXPECT_EQ(read_file(at("whole")), "");
}

TEST_F(Files, TheWorldIsWrong) {
  EXPECT_EQ(sentence([&] { MappedFile(at("no")); }), at("no") + ": cannot open: No such file or directory");
  EXPECT_EQ(sentence([&] { read_file(at("no")); }), at("no") + ": cannot open: No such file or directory");
  EXPECT_EQ(sentence([&] { MappedFile(folder.string()); }), folder.string() + ": not a regular file");
  EXPECT_EQ(sentence([&] { MappedFile("/dev/null"); }), "/dev/null: not a regular file");
  EXPECT_EQ(sentence([&] { read_file(folder.string()); }), folder.string() + ": cannot read: Is a directory");
  FileWriter(at("empty")).commit();
  EXPECT_EQ(sentence([&] { MappedFile(at("empty")); }), at("empty") + ": the file is empty");
  EXPECT_EQ(read_file(at("empty")), "");
  EXPECT_EQ(sentence([&] { FileWriter(at("no/such/folder/a")); }),
            at("no/such/folder/a") + ": cannot write: No such file or directory");
  fs::create_directories(folder / "taken" / "inside");
  EXPECT_NE(sentence([&] { FileWriter(at("taken")).commit(); }).find("taken: cannot write: "), std::string::npos);
  EXPECT_FALSE(fs::exists(at("taken.part")));
}

// The disk is full: /dev/full says so at the first flush.
TEST_F(Files, AFullDiskIsAnError) {
  if (!fs::exists("/dev/full")) GTEST_SKIP();
  fs::create_symlink("/dev/full", at("a.part"));
  const std::string written(1 << 20, 'x');
  EXPECT_EQ(sentence([&] {
              FileWriter out(at("a"));
              out.write(written);
              out.commit();
            }),
            at("a") + ": cannot write: No space left on device");
  EXPECT_EQ(files(), 0u);
}

TEST(Hash, IsXxh3OfSeed0) {
  // xxhsum -H3 of nothing, "a" and "abc".
  EXPECT_EQ(hash64(nullptr, 0), 0x2d06800538d394c2u);
  EXPECT_EQ(hash64("a", 1), 0xe6c632b61e964e1fu);
  EXPECT_EQ(hash64("abc", 3), 0x78af5f94892f3950u);
}

// f16 as IEEE 754 defines it, in double.
double half(uint16_t h) {
  const int exponent = h >> 10 & 31, fraction = h & 1023;
  const double sign = h >> 15 ? -1 : 1;
  if (exponent == 31) return fraction ? std::nan("") : sign * HUGE_VAL;
  return sign * (exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24));
}

TEST(Dtype, AllF16ToF32AndBack) {
  for (uint32_t h = 0; h < 65536; ++h) {
    const float f = f16_to_f32(uint16_t(h));
    const double truth = half(uint16_t(h));
    if (std::isnan(truth)) {
      EXPECT_TRUE(std::isnan(f));
      const uint16_t back = f32_to_f16(f);
      EXPECT_TRUE((back & 0x7c00) == 0x7c00 && (back & 0x3ff) != 0) << h;
    } else {
      ASSERT_EQ(double(f), truth) << h;
      ASSERT_EQ(std::signbit(f), h >> 15 != 0) << h;
      ASSERT_EQ(f32_to_f16(f), h);
    }
  }
}

// Rounding is decided by what happens at the middle between two neighbours and one step of f32 beside it.
TEST(Dtype, F32ToF16RoundsToNearestEven) {
  for (uint32_t h = 0; h < 0x7c00; ++h) {
    const float low = float(half(uint16_t(h)));
    const double next = h == 0x7bff ? 65536.0 : half(uint16_t(h + 1));  // as if the exponent went on
    const float middle = float((double(low) + next) / 2);             // exact: 12 bits
    const uint16_t even = uint16_t(h % 2 ? h + 1 : h);
    for (const int sign : {0, 0x8000}) {
      const float s = sign ? -1.0f : 1.0f;
      ASSERT_EQ(f32_to_f16(s * middle), even | sign) << h;
      ASSERT_EQ(f32_to_f16(s * std::nextafter(middle, 0.0f)), h | uint32_t(sign)) << h;
      ASSERT_EQ(f32_to_f16(s * std::nextafter(middle, 1e9f)), (h + 1) | uint32_t(sign)) << h;
    }
  }
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(f32_to_f16(inf), 0x7c00);
  EXPECT_EQ(f32_to_f16(-inf), 0xfc00);
  EXPECT_EQ(f32_to_f16(65519.996f), 0x7bff);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(f32_to_f16(std::numeric_limits<float>::max()), 0x7c00);
  EXPECT_EQ(f32_to_f16(std::numeric_limits<float>::denorm_min()), 0);
  EXPECT_EQ(f32_to_f16(-0.0f), 0x8000);
}

TEST(Dtype, AllBf16ToF32AndBack) {
  for (uint32_t h = 0; h < 65536; ++h) {
    const float f = bf16_to_f32(uint16_t(h));
    ASSERT_EQ(std::bit_cast<uint32_t>(f), h << 16);
    if (std::isnan(f)) {
      EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(f)))) << h;
    } else {
      ASSERT_EQ(f32_to_bf16(f), h);
    }
  }
}

TEST(Dtype, F32ToBf16RoundsToNearestEven) {
  for (uint32_t h = 0; h < 0x7f80; ++h) {
    const uint16_t even = uint16_t(h % 2 ? h + 1 : h);
    for (const uint32_t sign : {0u, 0x8000u}) {
      const uint32_t bits = (h | sign) << 16;
      ASSERT_EQ(f32_to_bf16(std::bit_cast<float>(bits + 0x8000)), even | sign) << h;
      ASSERT_EQ(f32_to_bf16(std::bit_cast<float>(bits + 0x7fff)), h | sign) << h;
      ASSERT_EQ(f32_to_bf16(std::bit_cast<float>(bits + 0x8001)), (h + 1) | sign) << h;
    }
  }
  EXPECT_EQ(f32_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(std::bit_cast<float>(0x7f800001u)))));  // its payload is cut off whole
}

// e4m3 as OCP's paper on 8-bit formats defines it, in double.
double small(uint8_t b) {
  const int exponent = b >> 3 & 15, fraction = b & 7;
  if (exponent == 15 && fraction == 7) return std::nan("");
  return (b >> 7 ? -1 : 1) * (exponent ? std::ldexp(8 + fraction, exponent - 10) : std::ldexp(fraction, -9));
}

// The nearest of all numbers, the even one of two; slow and plain. What is beyond the largest is nearest to it.
uint8_t nearest_e4m3(double x) {
  const int sign = std::signbit(x) ? 0x80 : 0;
  int best = 0;
  for (int b = 1; b < 0x7f; ++b) {
    const double now = std::fabs(std::fabs(x) - small(uint8_t(b))), before = std::fabs(std::fabs(x) - small(uint8_t(best)));
    if (now < before || (now == before && b % 2 == 0)) best = b;
  }
  return uint8_t(best | sign);
}

TEST(Dtype, AllE4m3ToF32AndBack) {
  for (int b = 0; b < 256; ++b) {
    const float f = e4m3_to_f32(uint8_t(b));
    EXPECT_EQ(std::signbit(f), b >> 7 != 0) << b;
    if (std::isnan(small(uint8_t(b)))) {
      EXPECT_TRUE(std::isnan(f)) << b;
      EXPECT_EQ(f32_to_e4m3(f), 0x7f);
    } else {
      EXPECT_EQ(double(f), small(uint8_t(b))) << b;
      EXPECT_EQ(f32_to_e4m3(f), b);
    }
  }
  EXPECT_EQ(e4m3_to_f32(0x7e), 448.0f);
  EXPECT_EQ(e4m3_to_f32(0x01), 0x1p-9f);
}

TEST(Dtype, F32ToE4m3RoundsToNearestEvenAndSaturates) {
  for (uint32_t h = 0; h < 65536; ++h) {
    const double x = half(uint16_t(h));
    ASSERT_EQ(f32_to_e4m3(f16_to_f32(uint16_t(h))), std::isnan(x) ? 0x7f : nearest_e4m3(x)) << h;
  }
  // The middle between two neighbours decides, and one step of f32 beside it.
  for (int b = 0; b < 0x7e; ++b) {
    const float middle = float((small(uint8_t(b)) + small(uint8_t(b + 1))) / 2);
    const int even = b % 2 ? b + 1 : b;
    for (const int sign : {0, 0x80}) {
      const float s = sign ? -1.0f : 1.0f;
      ASSERT_EQ(f32_to_e4m3(s * middle), even | sign) << b;
      ASSERT_EQ(f32_to_e4m3(s * std::nextafter(middle, 0.0f)), b | sign) << b;
      ASSERT_EQ(f32_to_e4m3(s * std::nextafter(middle, 1e9f)), (b + 1) | sign) << b;
    }
  }
  uint32_t state = 1;
  for (int i = 0; i < 100000; ++i) {
    state = state * 1664525 + 1013904223;
    const float x = std::bit_cast<float>(state);
    ASSERT_EQ(f32_to_e4m3(x), std::isnan(x) ? 0x7f : nearest_e4m3(x)) << x;
  }
  for (float x : {464.0f, 480.0f, std::numeric_limits<float>::max(), std::numeric_limits<float>::infinity()}) {
    EXPECT_EQ(f32_to_e4m3(x), 0x7e) << x;
    EXPECT_EQ(f32_to_e4m3(-x), 0xfe) << x;
  }
}

TEST(Dtype, NamesBlocksAndSizes) {
  const std::array<const char*, kinds_of_dtype> names = {"f32", "f16", "bf16", "i32", "u8", "q8_0", "q4_0", "f8_e4m3"};
  const std::array<int64_t, kinds_of_dtype> bytes_of_64 = {256, 128, 128, 256, 64, 68, 36, 68};
  for (int i = 0; i < kinds_of_dtype; ++i) {
    DType type;
    ASSERT_TRUE(parse_dtype(names[size_t(i)], type));
    EXPECT_EQ(type, DType(i));
    EXPECT_EQ(format(type).name, std::string(names[size_t(i)]));
    EXPECT_EQ(bytes_of(type, 64), bytes_of_64[size_t(i)]);
    EXPECT_EQ(bytes_of(type, 0), 0);
  }
  DType type;
  for (const char* no : {"", "f", "F32", "f32 ", "q4_1", "bf1", "f8", "f8_e5m2"}) EXPECT_FALSE(parse_dtype(no, type)) << no;
}

TEST(Dtype, PlainFormatsConvertWholeRows) {
  const std::vector<float> row = {0, 1, -2.5, 65504, 1e-3f};
  for (const DType type : {F32, F16, BF16}) {
    std::vector<std::byte> bytes(size_t(bytes_of(type, 5)));
    std::vector<float> back(5);
    format(type).from_float(row.data(), bytes.data(), 5);
    format(type).to_float(bytes.data(), back.data(), 5);
    for (size_t i = 0; i < 5; ++i)
      EXPECT_NEAR(back[i], row[i], std::fabs(row[i]) * (type == F32 ? 0 : type == F16 ? 0x1p-11 : 0x1p-8));
  }
  EXPECT_EQ(format(I32).to_float, nullptr);
  EXPECT_EQ(format(U8).from_float, nullptr);
}

// By hand: the largest magnitude is 254, so d = 2 and q = x / 2, halves away from zero.
TEST(Dtype, Q8ByHand) {
  std::vector<float> x(64, 0.0f);
  x[0] = -254, x[1] = 254, x[2] = 1, x[3] = -1, x[4] = 0.9f, x[5] = 5, x[31] = 100;
  x[32] = 127;  // the second block: d = 1
  x[33] = -0.5f, x[34] = 0.49f;
  std::array<BlockQ8_0, 2> q{};
  format(Q8_0).from_float(x.data(), q.data(), 64);
  EXPECT_EQ(q[0].d, 0x4000);  // 2
  const int8_t expected[] = {-127, 127, 1, -1, 0, 3};
  for (int i = 0; i < 6; ++i) EXPECT_EQ(q[0].q[i], expected[i]) << i;
  EXPECT_EQ(q[0].q[31], 50);
  EXPECT_EQ(q[1].d, 0x3c00);  // 1
  EXPECT_EQ(q[1].q[0], 127);
  EXPECT_EQ(q[1].q[1], -1);
  EXPECT_EQ(q[1].q[2], 0);

  q[0].d = 0xb800;  // -0.5
  q[0].q[7] = -128;
  std::vector<float> back(64);
  format(Q8_0).to_float(q.data(), back.data(), 64);
  EXPECT_EQ(back[0], 63.5f);
  EXPECT_EQ(back[7], 64.0f);
  EXPECT_EQ(back[31], -25.0f);
  EXPECT_EQ(back[32], 127.0f);
}

// By hand: -16 is the largest magnitude, so d = 2 and the nibble is x / 2 + 8, cut at 15.
TEST(Dtype, Q4ByHand) {
  std::vector<float> x(32, 0.0f);
  x[0] = -16, x[1] = 14, x[2] = 15.9f, x[3] = 1, x[4] = 0.9f, x[5] = -1.1f, x[16] = 2, x[31] = -4;
  BlockQ4_0 q{};
  format(Q4_0).from_float(x.data(), &q, 32);
  EXPECT_EQ(q.d, 0x4000);  // 2
  const uint8_t low[] = {0, 15, 15, 9, 8, 7};  // 1 / 2 + 8.5 = 9; -1.1 / 2 + 8.5 = 7.95
  for (int i = 0; i < 6; ++i) EXPECT_EQ(q.q[i] & 15, low[i]) << i;
  EXPECT_EQ(q.q[0] >> 4, 9);   // element 16
  EXPECT_EQ(q.q[15] >> 4, 6);  // element 31
  std::vector<float> back(32);
  format(Q4_0).to_float(&q, back.data(), 32);
  const float expected[] = {-16, 14, 14, 2, 0, -2};
  for (int i = 0; i < 6; ++i) EXPECT_EQ(back[size_t(i)], expected[i]) << i;
  EXPECT_EQ(back[16], 2.0f);
  EXPECT_EQ(back[31], -4.0f);

  x.assign(32, 0.0f);
  x[9] = 8;  // positive and largest: d = -1
  format(Q4_0).from_float(x.data(), &q, 32);
  EXPECT_EQ(q.d, 0xbc00);
  EXPECT_EQ(q.q[9] & 15, 0);
}

// By hand: the largest magnitude is 896, so d = 2.
TEST(Dtype, F8ByHand) {
  const float inf = std::numeric_limits<float>::infinity();
  std::vector<float> x(128, 0.0f), back(128);
  x[0] = -896, x[1] = 2, x[2] = 17, x[3] = 19, x[4] = 0x1p-8f, x[5] = inf, x[6] = -inf, x[7] = std::nanf(""), x[63] = -12;
  std::array<BlockF8_E4M3, 2> q{};
  format(F8_E4M3).from_float(x.data(), q.data(), 128);
  EXPECT_EQ(q[0].d, 2.0f);
  const uint8_t expected[] = {0xfe, 0x38, 0x50, 0x52, 0x01, 0x7e, 0xfe, 0x7f, 0x00};  // 8.5 and 9.5 go to 8 and 10
  for (int i = 0; i < 9; ++i) EXPECT_EQ(q[0].q[i], expected[i]) << i;
  EXPECT_EQ(q[0].q[63], 0xcc);
  EXPECT_EQ(q[1].d, 0.0f);
  q[1].d = 0x1p-140f, q[1].q[3] = 0x7e;  // a scale that is subnormal itself
  format(F8_E4M3).to_float(q.data(), back.data(), 128);
  const float values[] = {-896, 2, 16, 20, 0x1p-8f, 896, -896};
  for (int i = 0; i < 7; ++i) EXPECT_EQ(back[size_t(i)], values[i]) << i;
  EXPECT_TRUE(std::isnan(back[7]));
  EXPECT_EQ(back[63], -12.0f);
  EXPECT_EQ(back[64 + 3], 448 * 0x1p-140f);
  EXPECT_EQ(back[64], 0.0f);
}

TEST(Dtype, F8ErrorBounds) {
  std::vector<float> x(64), back(64);
  BlockF8_E4M3 q{};
  uint32_t state = 1;
  for (int trial = 0; trial < 1000; ++trial) {
    float most = 0;
    for (float& v : x) {
      state = state * 1664525 + 1013904223;
      v = float(int32_t(state)) * 0x1p-31f * std::ldexp(1.0f, trial % 200 - 100);
      most = std::max(most, std::fabs(v));
    }
    format(F8_E4M3).from_float(x.data(), &q, 64);
    format(F8_E4M3).to_float(&q, back.data(), 64);
    // Half a step of three bits of fraction, or of the subnormals; and f32's own roundings.
    for (size_t i = 0; i < 64; ++i) ASSERT_LE(std::fabs(back[i] - x[i]), std::max(std::fabs(x[i]) * 0.06251f, most / 448 * 0x1.01p-10f));
  }
  x.assign(64, std::numeric_limits<float>::denorm_min());  // no scale is as small as this one would have to be
  format(F8_E4M3).from_float(x.data(), &q, 64);
  format(F8_E4M3).to_float(&q, back.data(), 64);
  EXPECT_EQ(back, std::vector<float>(64, 0.0f));
}

TEST(Dtype, BlocksOfZerosAndErrorBounds) {
  std::vector<float> x(32, 0.0f), back(32, 1.0f);
  BlockQ8_0 q8{};
  BlockQ4_0 q4{};
  format(Q8_0).from_float(x.data(), &q8, 32);
  format(Q8_0).to_float(&q8, back.data(), 32);
  EXPECT_EQ(back, x);
  back.assign(32, 1.0f);
  format(Q4_0).from_float(x.data(), &q4, 32);
  format(Q4_0).to_float(&q4, back.data(), 32);
  EXPECT_EQ(back, x);

  uint32_t state = 1;
  for (int trial = 0; trial < 1000; ++trial) {
    float most = 0;
    for (float& v : x) {
      state = state * 1664525 + 1013904223;
      v = float(int32_t(state)) * 0x1p-31f * std::ldexp(1.0f, trial % 20 - 10);
      most = std::max(most, std::fabs(v));
    }
    format(Q8_0).from_float(x.data(), &q8, 32);
    format(Q8_0).to_float(&q8, back.data(), 32);
    // Half a step, and the step itself is rounded to f16's 11 bits, or to 2^-25 where it is subnormal there.
    for (size_t i = 0; i < 32; ++i) ASSERT_LE(std::fabs(back[i] - x[i]), most / 127 * 0.5f + most * 0x1p-11f + 127 * 0x1p-25f);
    format(Q4_0).from_float(x.data(), &q4, 32);
    format(Q4_0).to_float(&q4, back.data(), 32);
    for (size_t i = 0; i < 32; ++i)
      ASSERT_LE(std::fabs(back[i] - x[i]), most / 8 + most * 0x1p-11f + 8 * 0x1p-25f);  // a whole one at +max
  }
}

}  // namespace
}  // namespace folio
