// SPDX-License-Identifier: MIT
// How wide the heads of recurrent mixers may be on a card: keys of 256 numbers, the widest that published models have, fit into the shared
// memory of sm_80 in every form; what does not fit is one sentence when the step is compiled, and no launch that fails.
#include <gtest/gtest.h>

#include "frame.h"
#include "sim.h"

namespace folio {
namespace {

constexpr int64_t T = 20, V = 40;

struct Form {
  int gates;   // log decays of a token: 0, 1 a head, 2 a channel
  bool delta, normalise;
};

// Pools and tables of one sequence that begins with nothing.
template <class Op> void place(Op& op, Inputs& in, int64_t K) {
  op.q = in.normal({T, 1, K}, F32, 0.1), op.k = in.normal({T, 1, K}, F32, 0.05), op.v = in.normal({T, 1, V});
  op.page = in.ints({1, 1}, {0}), op.slab = in.ints({1, 1}, {0}), op.seq = in.ids(0, 1, {T}), op.pos = in.ids(0, 1, {T});
  for (int32_t t = 0; t < T; ++t) op.pos.template at<int32_t>()[t] = t;
  op.rows_k = in.store().zeros(F32, {1, page_tokens, 1, K});
}

Linear linear(Inputs& in, int64_t K, const Form& form) {
  Linear op;
  place(op, in, K);
  op.rows_u = in.store().zeros(F32, {1, page_tokens, 1, V}), op.S = in.store().zeros(F32, {1, 1, K, V});
  const int64_t gates = form.gates == 2 ? K : 1;
  if (form.gates > 0) {
    op.g = in.uniform(-0.1, 0, gates == 1 ? Shape{T, 1} : Shape{T, 1, K});
    op.rows_g = in.store().zeros(F32, {1, page_tokens, 1, gates});
  }
  if (form.delta) op.beta = in.uniform(0, 1, {T, 1});
  if (form.normalise) op.z = in.store().zeros(F32, {1, 1, K});
  return op;
}

LogLinear log_linear(Inputs& in, int64_t K, bool delta) {
  LogLinear op;
  place(op, in, K);
  op.g = in.uniform(-0.1, 0, {T, 1}), op.lambda = in.uniform(0, 1, {T, 1, 8});
  op.rows_u = in.store().zeros(F32, {1, page_tokens, 1, V}), op.rows_g = in.store().zeros(F32, {1, page_tokens, 1, 1});
  op.S = in.store().zeros(F32, {1, 1, K, V});
  if (!delta) op.c = in.store().zeros(F32, {1, 1, 2});
  if (delta) op.beta = in.uniform(0, 1, {T, 1}), op.rows_w = in.store().zeros(F32, {1, page_tokens, 1, K});
  if (delta) op.rows_x = in.store().zeros(F32, {1, page_tokens, 1, page_tokens});
  return op;
}

Mesa mesa(Inputs& in, int64_t K) {
  Mesa op;
  place(op, in, K);
  op.g = in.uniform(-0.1, 0, {T, 1}), op.beta = in.uniform(0, 1, {T, 1}), op.lambda = in.uniform(0.5, 1, {1, K});
  op.rows_v = in.store().zeros(F32, {1, page_tokens, 1, V}), op.rows_g = in.store().zeros(F32, {1, page_tokens, 1, 1});
  op.rows_beta = in.store().zeros(F32, {1, page_tokens, 1, 1});
  op.Hkk = in.store().zeros(F32, {1, 1, K, K}), op.Hkv = in.store().zeros(F32, {1, 1, K, V});
  return op;
}

// What compile() says on a card of that compute capability; nothing if it has room.
template <class Op> std::string refusal(const Op& op, int capability) {
  const sim::Use use(sim::Config{.compute_capability = capability, .instead_of_running = [](const std::string&, unsigned, size_t) {}});
  auto graph = std::make_unique<Graph>();
  graph->record(op);
  try {
    cuda()->compile(std::move(graph));
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

TEST(CudaMixers, KeysOf256FitOnEveryCard) {
  Inputs in;
  for (int capability : {80, 90}) {
    for (int gates : {0, 1, 2})
      for (bool delta : {false, true})
        for (bool normalise : {false, true})
          if (!delta || !normalise) {
            EXPECT_EQ(refusal(linear(in, 256, {gates, delta, normalise}), capability), "") << gates << delta << normalise;
          }
    for (bool delta : {false, true}) EXPECT_EQ(refusal(log_linear(in, 256, delta), capability), "");
    EXPECT_EQ(refusal(mesa(in, 256), capability), "");
  }
}

TEST(CudaMixers, WiderOnesAreRefusedInOneSentence) {
  Inputs in;
  for (int capability : {80, 90}) {
    const std::string has = capability == 80 ? "this card has 166912" : "this card has 232448";
    for (const std::string& what : {refusal(linear(in, 512, {2, true, false}), capability), refusal(mesa(in, 2048), capability)}) {
      EXPECT_NE(what.find(" numbers a block of the CUDA kernel wants "), std::string::npos) << what;
      EXPECT_NE(what.find(has), std::string::npos) << what;
      EXPECT_EQ(what.find('\n'), std::string::npos) << what;
    }
    for (bool delta : {false, true})   // has tiles, whatever the width
      EXPECT_EQ(refusal(log_linear(in, 2048, delta), capability), "");
  }
}

// Where 16 rows of Mesa's solver find no room, one does, with the same bits.
TEST(CudaMixers, MesaTakesFewerRowsWhereKeysAreWide) {
  Inputs in;
  const Case<Mesa> c{mesa(in, 320), {}, {}, "wide keys"};
  Results small, large, want;
  Instance<Mesa> at(c.op, Layout::packed, 1);
  run_plain(at, want);
  for (Results* got : {&small, &large}) {
    const sim::Use use(sim::Config{.compute_capability = got == &small ? 80 : 90});
    const auto device = cuda();
    ASSERT_EQ(run_graph(*device, at, false, 1, *got), "");
  }
  EXPECT_EQ(difference(small.tensors[0], want.tensors[0], {1e-3, 1e-3, 1e-5}), "");
  for (size_t i = 0; i < small.tensors.size(); ++i) EXPECT_EQ(bit_difference(small.tensors[i], large.tensors[i]), "") << small.names[i];
}

}  // namespace
}  // namespace folio
