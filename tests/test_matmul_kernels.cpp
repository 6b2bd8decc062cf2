// SPDX-License-Identifier: MIT
// Matmul's kernels beyond what the op cases ask: every instruction set this processor has, against the reference and, for quantised
// weights, against the arithmetic the kernels claim (tokens quantised, exact integers); and that a result's bits depend neither on
// the number of tokens beside it nor on the number of threads.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "base/threads.h"
#include "cpu/table.h"
#include "every_set.h"

namespace folio {
namespace {

const DType formats[] = {F32, F16, BF16, Q8_0, Q4_0, F8_E4M3};
bool quantised(DType t) { return t == Q8_0 || t == Q4_0; }
// Rounds activations to bf16.
bool rounds(DType t) { return t == BF16 && simd().name == std::string("avx512_bf16"); }

// A matmul with its memory. Rows of x, y and add may be wider than they look; what lies between must stay as it is.
struct Problem {
  Matmul op;
  std::vector<std::vector<std::byte>> memory;
  std::mt19937 random{7};

  std::byte* bytes(int64_t n) {
    // A page of its own at the end would be better still; ASan sees reads past the end of a vector as well.
    memory.emplace_back(size_t(n));
    return memory.back().data();
  }
  Tensor floats(const Shape& shape, int64_t gap = 0) {
    Tensor t = Tensor::of(F32, shape);
    if (shape.rank == 2) t.stride[0] += gap;
    const int64_t n = shape.rank == 2 ? shape[0] * t.stride[0] : shape[0];
    t.data = bytes(n * 4);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < n; ++i) t.at<float>()[i] = normal(random);
    return t;
  }
  Tensor weights(DType type, int64_t n, int64_t k) {
    const Tensor f = floats({n, k});
    Tensor t = Tensor::of(type, {n, k}, bytes(bytes_of(type, n * k)));
    for (int64_t i = 0; i < n; ++i) format(type).from_float(f.row<float>(i), t.row_bytes(i), k);
    return t;
  }
  Problem(DType type, int64_t t, int64_t n, int64_t k, Act act = Act::none, int extras = 0, int64_t gap = 0) {
    op.x = floats({t, k}, gap);
    op.w = weights(type, n, k);
    if (extras & 1) op.bias = floats({n});
    if (extras & 2) op.gate = weights(type, n, k);
    if ((extras & 6) == 6) op.gate_bias = floats({n});
    if (extras & 8) op.add = floats({t, n}, gap);
    op.act = act;
    op.shape();
    op.y = floats({t, n}, gap);
  }
  // Row after row of y, without the gaps.
  std::vector<float> y() const {
    std::vector<float> all;
    for (int64_t t = 0; t < op.y.dim(0); ++t) all.insert(all.end(), op.y.row<float>(t), op.y.row<float>(t) + op.y.cols());
    return all;
  }
  std::vector<float> run(int threads = 1) {
    for (int64_t i = 0; i < op.y.dim(0); ++i)
      for (int64_t j = 0; j < op.y.stride[0]; ++j) op.y.row<float>(i)[j] = -77;
    std::vector<std::byte> scratch(size_t(folio::scratch(op, threads)) + 64);
    ThreadPool pool(threads);
    auto job = [&](Worker w) {
      w.scratch = scratch.data() + (64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64) % 64;
      folio::run(op, w);
    };
    if (threads == 1) job(Worker{});
    else pool.run(job);
    for (int64_t i = 0; i < op.y.dim(0); ++i)
      for (int64_t j = op.y.cols(); j < op.y.stride[0]; ++j) EXPECT_EQ(op.y.row<float>(i)[j], -77) << "between rows";
    return y();
  }
  std::vector<float> reference() {
    op.reference(Worker{});
    return y();
  }
};

// Distance over the norm of what is expected.
double distance(const std::vector<float>& got, const std::vector<float>& expected) {
  double error = 0, norm = 1e-30;
  for (size_t i = 0; i < got.size(); ++i) {
    error += std::pow(double(got[i]) - double(expected[i]), 2);
    norm += std::pow(double(expected[i]), 2);
  }
  return std::sqrt(error / norm);
}

TEST(Matmul, every_format_and_size) {
  with_every_set([] {
    for (DType type : formats)
      for (int64_t t : {0, 1, 2, 3, 5, 7, 8, 9, 13, 17, 64})
        for (auto [n, k] : {std::pair<int64_t, int64_t>{1, 1}, {3, 31}, {37, 65}, {70, 96}, {5, 544}, {130, 1056}, {16, 2528}}) {
          const int64_t block = format(type).block, width = (k + block - 1) / block * block;
          Problem p(type, t, n, width);
          const auto got = p.run();
          EXPECT_LE(distance(got, p.reference()), quantised(type) ? 0.02 : rounds(type) ? 0.01 : 2e-6)
              << format(type).name << " T " << t << " N " << n << " K " << width;
        }
  });
}

TEST(Matmul, every_epilogue_strided) {
  with_every_set([] {
    for (DType type : formats)
      for (int64_t t : {1, 3, 20})
        for (Act act : {Act::none, Act::relu, Act::relu2, Act::silu, Act::gelu, Act::gelu_tanh, Act::swiglu_oai})
          for (int extras = 0; extras < 16; ++extras) {
            if ((extras & 6) == 4) continue;   // a gate_bias without a gate
            Problem p(type, t, 45, 64, act, extras, 5);
            const auto got = p.run(extras % 3 + 1);
            EXPECT_LE(distance(got, p.reference()), quantised(type) ? 0.03 : rounds(type) ? 0.02 : 3e-6)
                << format(type).name << " T " << t << " act " << int(act) << " extras " << extras;
          }
  });
}

// What activations of any size become, element by element.
TEST(Matmul, activations_keep_their_digits) {
  with_every_set([] {
    for (Act act : {Act::relu, Act::relu2, Act::silu, Act::gelu, Act::gelu_tanh, Act::swiglu_oai}) {
      std::vector<float> u, y;
      for (float x = -30; x < 30; x += 0.0037f) u.push_back(x);
      for (float x : {0.0f, -0.0f, 1e-30f, -1e-30f, 1e4f, -1e4f}) u.push_back(x);
      y.resize(u.size());
      simd().matmul.finish({.u = u.data(), .y = y.data(), .n = int64_t(u.size()), .act = int(act)});
      for (size_t i = 0; i < u.size(); ++i) {
        const double x = double(u[i]);
        double expected = double(activate(act, u[i]));
        if (act == Act::gelu) expected = x * 0.5 * std::erfc(-x / std::sqrt(2.0));
        if (act == Act::gelu_tanh) expected = x / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
        EXPECT_NEAR(double(y[i]), expected, 1e-6 * std::fabs(expected) + 1e-7) << "act " << int(act) << " of " << x;
      }
    }
  });
}

// The arithmetic of quantised products, in plain words.
std::vector<float> quantised_model(const Matmul& op) {
  const int64_t k = op.w.cols();
  std::vector<float> y;
  for (int64_t t = 0; t < op.x.dim(0); ++t)
    for (int64_t n = 0; n < op.w.dim(0); ++n) {
      double sum = 0;
      for (int64_t b = 0; b < k / 32; ++b) {
        const float* x = op.x.row<float>(t) + 32 * b;
        float high = 0, d;
        for (int i = 0; i < 32; ++i) high = std::max(high, std::fabs(x[i]));
        int dot = 0;
        for (int i = 0; i < 32; ++i) {
          const int xq = int(std::nearbyint(x[i] * (high > 0 ? 127 / high : 0)));
          if (op.w.type == Q8_0) {
            const auto& block = op.w.row<BlockQ8_0>(n)[b];
            d = f16_to_f32(block.d);
            dot += block.q[i] * xq;
          } else {
            const auto& block = op.w.row<BlockQ4_0>(n)[b];
            d = f16_to_f32(block.d);
            dot += ((i < 16 ? block.q[i] & 15 : block.q[i - 16] >> 4) - 8) * xq;
          }
        }
        sum += double(d) * dot * double(high / 127);
      }
      y.push_back(float(sum));
    }
  return y;
}

TEST(Matmul, quantised_products_are_exact_integers) {
  with_every_set([] {
    for (DType type : {Q8_0, Q4_0})
      for (int64_t t : {1, 4, 8, 30})
        for (int64_t k : {32, 256, 512, 608, 2048}) {
          Problem p(type, t, 33, k);
          // The extremes: nothing in a format forbids −128, and all products at their largest.
          for (int64_t n : {0, 1}) {
            std::byte* row = p.op.w.row_bytes(n);
            for (int64_t b = 0; b < k / 32; ++b)
              for (int i = 2; i < format(type).bytes; ++i) row[b * format(type).bytes + i] = std::byte(n ? 0x80 : type == Q8_0 ? 0x7f : 0xff);
          }
          for (int64_t i = 0; i < k; ++i) p.op.x.row<float>(0)[i] = i % 3 ? -1.0f : 1.0f;
          EXPECT_LE(distance(p.run(), quantised_model(p.op)), 1e-6) << format(type).name << " T " << t << " K " << k;
        }
  });
}

TEST(Matmul, a_result_does_not_depend_on_its_company) {
  with_every_set([] {
    for (DType type : formats)
      for (int64_t k : {128, 2112, 6208}) {
        const int64_t most = 50, n = 83;
        Problem all(type, most, n, k, Act::silu, 2 | 8);
        const auto expected = all.run();
        for (int threads : {2, 3}) {
          const auto got = all.run(threads);
          EXPECT_EQ(0, std::memcmp(got.data(), expected.data(), got.size() * 4)) << format(type).name << " K " << k << " threads " << threads;
        }
        const Matmul op = all.op;
        for (int64_t t = 1; t <= 14; ++t) {
          all.op = op;
          for (Tensor* part : {&all.op.x, &all.op.y, &all.op.add}) *part = part->slice(most - 2 * t, t);
          const auto got = all.run(int(t % 3) + 1);
          EXPECT_EQ(0, std::memcmp(got.data(), expected.data() + (most - 2 * t) * n, got.size() * 4)) << format(type).name << " K " << k << " T " << t;
        }
      }
  });
}

// Tokens that are 1 in one place give the weights back: all 254 numbers of e4m3 under scales of all sizes, to the last bit.
TEST(Matmul, every_e4m3_is_decoded_exactly) {
  with_every_set([] {
    for (int64_t t : {1, 2, 3, 5, 7, 8, 64}) {
      Problem p(F8_E4M3, t, 256, 64);
      const float scales[] = {1, 0.3f, 0x1.fffffep-8f, 1e-30f, 0x1p-140f, 7e35f, -2.5f};
      for (int64_t n = 0; n < 256; ++n) {
        auto* block = p.op.w.row<BlockF8_E4M3>(n);
        block->d = scales[n % 7];
        for (int i = 0; i < 64; ++i) block->q[i] = uint8_t((n + i) % 128 == 127 ? 0 : n + i);
      }
      for (int64_t first = 0; first < 64; first += t) {
        for (int64_t i = 0; i < t; ++i)
          for (int64_t k = 0; k < 64; ++k) p.op.x.row<float>(i)[k] = k == (first + i) % 64;
        const auto y = p.run();
        for (int64_t i = 0; i < t; ++i)
          for (int64_t n = 0; n < 256; ++n) {
            const auto* block = p.op.w.row<BlockF8_E4M3>(n);
            ASSERT_EQ(y[size_t(i * 256 + n)], block->d * e4m3_to_f32(block->q[(first + i) % 64])) << "T " << t << " N " << n;
          }
      }
    }
  });
}

TEST(Matmul, a_weight_that_is_not_a_number_spoils_its_row_alone) {
  with_every_set([] {
    for (int64_t t : {1, 5, 20})
      for (uint8_t nan : {0x7f, 0xff})
        for (int place : {0, 7, 63}) {
          Problem p(F8_E4M3, t, 9, 192);
          p.op.w.row<BlockF8_E4M3>(4)[1].q[place] = nan;
          const auto y = p.run();
          for (int64_t i = 0; i < t; ++i)
            for (int64_t n = 0; n < 9; ++n) EXPECT_EQ(std::isnan(y[size_t(i * 9 + n)]), n == 4) << "T " << t << " place " << place;
        }
  });
}

TEST(Matmul, what_is_not_a_number_stays_so) {
  with_every_set([] {
    for (DType type : formats)
      for (int64_t t : {2, 20}) {
        Problem p(type, t, 9, 256);
        p.op.x.row<float>(1)[200] = NAN;
        const auto y = p.run();
        for (int64_t n = 0; n < 9; ++n) {
          EXPECT_TRUE(std::isfinite(y[size_t(n)])) << format(type).name;
          EXPECT_TRUE(std::isnan(y[size_t(9 + n)])) << format(type).name;
        }
      }
  });
}

}  // namespace
}  // namespace folio
