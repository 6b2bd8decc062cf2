// SPDX-License-Identifier: MIT
// 100,000 tokens through every recurrent mixer, as an Engine feeds them: in steps of random length, some with drafts that are rejected,
// while its cache takes pages back and gives them out again. A float64 recurrence runs beside (one_op.h), and in every stretch of 1,000
// tokens the results must be as near to it as the golden numbers of short texts are: nothing may drift.
#include <gtest/gtest.h>

#include <iostream>
#include <random>

#include "one_op.h"

namespace folio::one_op {
namespace {

constexpr int64_t tokens = 100'000, stretch = 1000;

struct Text {
  Kind kind;
  double tolerance;   // of a stretch, normwise; 1e-6 was seen at most
};
void PrintTo(const Text& text, std::ostream* out) { *out << text.kind.name; }

class LongText : public testing::TestWithParam<Text> {};

TEST_P(LongText, DoesNotDrift) {
  Inputs in;
  const Kind& kind = GetParam().kind;
  const Tables tables(in, kind);
  const OneOp model(kind, tables);
  const auto device = cpu(1);
  Engine engine(model, *device, {.context = tokens, .chunk = 1024});
  Seq seq = engine.cache().open({});
  Recurrence exact(kind, tables);
  std::mt19937 random(11);
  double most = 0, off = 0, worst = 0;
  for (int64_t at = 0; at < tokens;) {
    const int64_t n = std::min<int64_t>(tokens - at, 1 + int64_t(random() % (random() % 2 ? 5 : 900)));
    const int64_t wrong = std::min<int64_t>(tokens - at - n, random() % 4 ? 0 : int64_t(random() % 9));
    std::vector<Token> proposed;
    for (int64_t i = 0; i < n + wrong; ++i) proposed.push_back(Token(random() % words));
    ASSERT_TRUE(engine.cache().reserve(seq, int(n + wrong), int(n)));
    const Work work{&seq, proposed, int(n + wrong)};
    const Tensor o = engine.step({&work, 1});
    engine.cache().commit(seq, std::span(proposed).first(size_t(n)));
    for (int64_t i = 0; i < n; ++i, ++at) {
      const std::vector<double> want = exact.step(proposed[size_t(i)]);
      for (int64_t e = 0; e < V; ++e) {
        most = std::max(most, std::fabs(want[size_t(e)]));
        off = larger(off, std::fabs(o.row<float>(i)[e] - want[size_t(e)]));
      }
      if ((at + 1) % stretch != 0) continue;
      ASSERT_LE(off, GetParam().tolerance * most) << "in the " << stretch << " tokens up to " << at + 1;
      worst = larger(worst, off / most);
      most = off = 0;
    }
  }
  RecordProperty("worst", std::to_string(worst));
  std::cout << "worst stretch: " << worst << "\n";
}

// Only where nothing is ever forgotten, roundings of S (one a token, in f32) add up, as the square root of the length; and the answer, a mean
// of values of both signs, becomes the smaller: 3e-5 was seen near the end.
constexpr Family linear = Family::linear, log_linear = Family::log_linear;
INSTANTIATE_TEST_SUITE_P(Mixers, LongText,
                         testing::Values(Text{{"linear_attention", linear, Decay::none, false, true}, 5e-5},
                                         Text{{"retention", linear, Decay::constant, false}, 5e-6},
                                         Text{{"simple_gla", linear, Decay::scalar, false}, 5e-6},
                                         Text{{"gla", linear, Decay::channel, false}, 5e-6},
                                         Text{{"delta", linear, Decay::none, true}, 5e-6},
                                         Text{{"gated_delta", linear, Decay::scalar, true}, 5e-6},
                                         Text{{"kda", linear, Decay::channel, true}, 5e-6},
                                         Text{{"log_linear_mamba2", log_linear, Decay::scalar, false}, 5e-6},
                                         Text{{"log_linear_gated_delta", log_linear, Decay::scalar, true}, 5e-6},
                                         Text{{"mesa", Family::mesa, Decay::scalar, true}, 5e-6}),
                         [](const auto& info) { return std::string(info.param.kind.name); });

}  // namespace
}  // namespace folio::one_op
