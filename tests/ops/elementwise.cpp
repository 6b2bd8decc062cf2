// SPDX-License-Identifier: MIT
// Cases of add, scale, cast, activations and their gated forms.
#include "cases.h"

namespace folio {

static const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
static const std::vector<Act> acts = {Act::none, Act::relu, Act::relu2, Act::silu, Act::gelu, Act::gelu_tanh, Act::swiglu_oai};

CASES(Add) {
  known({.a = values({1, 3}, {1, 2, 3}), .b = values({1, 3}, {10, -2, 0.5f})}, {values({1, 3}, {11, 0, 3.5f})});
  known({.a = values({2, 2}, {1, 2, 3, 4}), .b = values({2}, {10, 20})}, {values({2, 2}, {11, 22, 13, 24})});
  known({.a = values({1, 4}, {inf, inf, nan, 1}), .b = values({1, 4}, {1, -inf, 1, -inf})}, {values({1, 4}, {inf, nan, nan, -inf})});
  for (int64_t rows : {1, 3, 64})
    for (int64_t cols : {1, 32, 1000}) {
      add({.a = normal({rows, cols}), .b = normal({rows, cols})});
      add({.a = normal({rows, cols}), .b = normal({cols})});
    }
  add({.a = normal({77}), .b = normal({77})});
  add({.a = normal({5, 3, 16}), .b = normal({5, 3, 16})});
  add({.a = normal({2, 3, 4, 5}), .b = normal({5})});
}

CASES(Mul) {
  known({.a = values({1, 3}, {1, 2, 3}), .b = values({1, 3}, {10, -2, 0.5f})}, {values({1, 3}, {10, -4, 1.5f})});
  known({.a = values({2, 2}, {1, 2, 3, 4}), .b = values({2}, {10, 20})}, {values({2, 2}, {10, 40, 30, 80})});
  for (int64_t rows : {1, 64})
    for (int64_t cols : {1, 32, 1000}) {
      add({.a = normal({rows, cols}), .b = normal({rows, cols})});
      add({.a = normal({rows, cols}), .b = normal({cols})});
    }
  add({.a = normal({2, 3, 4, 5}), .b = normal({5})});
}

CASES(Scale) {
  known({.x = values({1, 4}, {1, -2, 0, inf}), .factor = -0.5f}, {values({1, 4}, {-0.5f, 1, 0, -inf})});
  for (int64_t rows : {1, 3, 64})
    for (int64_t cols : {1, 32, 1000}) add({.x = normal({rows, cols}), .factor = 1.7f});
  add({.x = normal({5, 3, 17}), .factor = 0});
}

CASES(Cast) {
  // 2049 and 2051 lie between two f16 numbers, and so does 65520, beyond which there is only infinity; 2^-25 is half the smallest.
  known({.x = values({1, 8}, {1, -2, 65504, 65520, 2049, 2051, 0x1p-24f, 0x1p-25f}), .to = F16},
        {raw(F16, {1, 8}, {0x00, 0x3c, 0x00, 0xc0, 0xff, 0x7b, 0x00, 0x7c, 0x00, 0x68, 0x02, 0x68, 0x01, 0x00, 0x00, 0x00})});
  known({.x = raw(F16, {1, 4}, {0x00, 0x3c, 0xff, 0x03, 0x00, 0xfc, 0x00, 0x80})}, {values({1, 4}, {1, 1023 * 0x1p-24f, -inf, -0.0f})});
  // 1 + 2^-8 lies between two bf16 numbers and goes to the even one; so does 1 + 3·2^-8.
  known({.x = values({1, 4}, {1, 1 + 0x1p-8f, 1 + 3 * 0x1p-8f, -inf}), .to = BF16},
        {raw(BF16, {1, 4}, {0x80, 0x3f, 0x80, 0x3f, 0x82, 0x3f, 0x80, 0xff})});
  known({.x = raw(BF16, {1, 2}, {0xc0, 0x3f, 0x00, 0xc1})}, {values({1, 2}, {1.5f, -8})});

  std::vector<float> eighths(32), nibbles(32);
  std::vector<uint8_t> q8 = {0x00, 0x38}, q4 = {0x00, 0xb8};  // scales 0.5 and −0.5 as f16
  for (int i = 0; i < 32; ++i) {
    eighths[size_t(i)] = i == 31 ? 63.5f : 0.5f * float(i * 3 - 40);  // the largest is 127 steps of 0.5
    q8.push_back(uint8_t(i == 31 ? 127 : i * 3 - 40));
    nibbles[size_t(i)] = -0.5f * float(i % 16 - 8);  // the widest is 4 = −8 steps of −0.5
  }
  for (int i = 0; i < 16; ++i) q4.push_back(uint8_t(i | i << 4));
  known({.x = values({1, 32}, eighths), .to = Q8_0}, {raw(Q8_0, {1, 32}, q8)});
  known({.x = raw(Q8_0, {1, 32}, q8)}, {values({1, 32}, eighths)});
  known({.x = values({1, 32}, nibbles), .to = Q4_0}, {raw(Q4_0, {1, 32}, q4)});
  known({.x = raw(Q4_0, {1, 32}, q4)}, {values({1, 32}, nibbles)});
  known({.x = values({1, 32}, std::vector<float>(32, 0.0f)), .to = Q8_0}, {raw(Q8_0, {1, 32}, std::vector<uint8_t>(34, 0))});

  // 448·1.5 is the largest: a scale of 1.5. 2^-9 is the smallest step; 8.5 and 9.5 lie between two numbers.
  std::vector<float> eights(64, 0.0f), back(64, 0.0f);
  std::vector<uint8_t> f8(68, 0);
  f8[2] = 0xc0, f8[3] = 0x3f;
  const std::vector<std::pair<float, uint8_t>> pairs = {{-448, 0xfe},     {1, 0x38}, {0x1p-9f, 0x01}, {-0x7p-9f, 0x87},
                                                        {0x1p-6f, 0x08}, {8, 0x50}, {10, 0x52}};
  for (size_t i = 0; i < pairs.size(); ++i) eights[i] = back[i] = pairs[i].first * 1.5f, f8[4 + i] = pairs[i].second;
  eights[40] = 8.5f * 1.5f, eights[41] = 9.5f * 1.5f, eights[42] = inf, eights[43] = -inf, eights[44] = nan, eights[45] = -0.0f;
  const uint8_t rounded[] = {0x50, 0x52, 0x7e, 0xfe, 0x7f, 0x80};
  for (size_t i = 0; i < 6; ++i) f8[44 + i] = rounded[i];
  known({.x = values({1, 64}, eights), .to = F8_E4M3}, {raw(F8_E4M3, {1, 64}, f8)});
  back[40] = 12, back[41] = 15, back[42] = 672, back[43] = -672, back[44] = nan, back[45] = -0.0f;
  known({.x = raw(F8_E4M3, {1, 64}, f8)}, {values({1, 64}, back)});
  known({.x = values({1, 64}, std::vector<float>(64, 0.0f)), .to = F8_E4M3}, {raw(F8_E4M3, {1, 64}, std::vector<uint8_t>(68, 0))});
  for (double size : {1e-30, 1e-6, 1e30}) add({.x = normal({3, 128}, F32, size), .to = F8_E4M3});

  for (DType type : {F32, F16, BF16, Q8_0, Q4_0, F8_E4M3})
    for (int64_t rows : {1, 5})
      for (int64_t cols : {std::max(32, format(type).block), 320}) {
        add({.x = normal({rows, cols}), .to = type});
        add({.x = normal({rows, cols}, type)});
      }
  for (DType type : {F32, F16, BF16}) {
    add({.x = normal({3, 7}), .to = type});
    add({.x = normal({2, 3, 7}, type)});
    add({.x = values({1, 4}, {nan, inf, -inf, 0}), .to = type});
    add({.x = normal({4, 9}, F32, 1e-6), .to = type});
  }
}

CASES(Activate) {
  const std::vector<float> x = {-3, -1, -0.5f, 0, 0.5f, 1, 2, 10};
  const std::vector<std::vector<float>> y = {
      x,
      {0, 0, 0, 0, 0.5f, 1, 2, 10},
      {0, 0, 0, 0, 0.25f, 1, 4, 100},
      {-0.14227762f, -0.268941421f, -0.188770334f, 0, 0.311229666f, 0.731058579f, 1.76159416f, 9.99954602f},
      {-0.00404969409f, -0.158655254f, -0.154268769f, 0, 0.345731231f, 0.841344746f, 1.95449974f, 10},
      {-0.00363739208f, -0.158808009f, -0.15428599f, 0, 0.34571401f, 0.841191991f, 1.95459769f, 10},
      {-0.0180713097f, -0.154204234f, -0.149611563f, 0, 0.350388437f, 0.845795766f, 1.93565862f, 6.99995313f},   // x·σ(1.702x) of at most 7
  };
  for (size_t i = 0; i < acts.size(); ++i) known({.x = values({2, 4}, x), .act = acts[i]}, {values({2, 4}, y[i])});
  for (Act act : acts) {
    for (int64_t rows : {1, 5}) add({.x = normal({rows, 333}, F32, 4), .act = act});
    add({.x = uniform(-100, 100, {3, 4, 50}), .act = act});
  }
}

CASES(Glu) {
  const Tensor gate = values({1, 4}, {-1, 0, 1, 2}), up = values({1, 4}, {2, 3, 4, -0.5f});
  known({.gate = gate, .up = up, .act = Act::silu}, {values({1, 4}, {-0.537882843f, 0, 2.92423431f, -0.880797078f})});
  known({.gate = gate, .up = up, .act = Act::gelu}, {values({1, 4}, {-0.317310508f, 0, 3.36537898f, -0.977249868f})});
  known({.gate = gate, .up = up, .act = Act::relu}, {values({1, 4}, {0, 0, 4, -1})});
  known({.gate = values({1, 4}, {1, 2, 9, nan}), .up = values({1, 4}, {8, -8, 0, 1}), .act = Act::swiglu_oai},
        {values({1, 4}, {6.76636613f, -11.6139517f, 6.99995313f, nan})});
  for (Act act : acts)
    for (int64_t rows : {1, 5}) add({.gate = normal({rows, 333}), .up = normal({rows, 333}), .act = act});
  add({.gate = normal({4, 3, 50}), .up = normal({4, 3, 50})});
  add({.gate = normal({5, 333}, F32, 8), .up = normal({5, 333}, F32, 8), .act = Act::swiglu_oai});
}

CASES(Softcap) {
  known({.x = values({2, 4}, {-100, -30, -1, 0, 1, 15, 30, 1000}), .cap = 30},
        {values({2, 4}, {-29.923739f, -22.8478247f, -0.999629794f, 0, 0.999629794f, 13.8635147f, 22.8478247f, 30})});
  for (int64_t rows : {1, 5}) add({.x = normal({rows, 333}, F32, 40), .cap = 30});
  add({.x = normal({3, 2, 50}, F32, 100), .cap = 50});
}

}  // namespace folio
