// SPDX-License-Identifier: MIT
// Rotary position embedding (arXiv 2104.09864), in both pairings, over all or the first dimensions of a head, with the
// frequency scalings in use: linear (arXiv 2306.15595), Llama 3's, YaRN (arXiv 2309.00071). A scaling is nothing but another table
// of frequencies and a factor, made once when a model is loaded.
#pragma once
#include <cmath>
#include <vector>

#include "base/worker.h"
#include "graph/graph.h"

namespace folio {

// For each pair i < n/2 of the first n dimensions of a head, with a = pos[t]·freq[i]:
//   y[first]  = factor·(x[first]·cos a − x[second]·sin a),  y[second] = factor·(x[first]·sin a + x[second]·cos a)
// first, second = 2i, 2i+1 ("adjacent") or i, i + n/2 ("half"). Dimensions from n on are copied.
struct Rope {
  static constexpr const char* name = "rope";
  Tensor x;     // [T, H, D] f32
  Tensor pos;   // [T] i32
  Tensor freq;  // [n/2] f32, radians per token
  bool half = false;
  float factor = 1;
  Tensor y;     // like x

  void visit(auto& v) { v.in("x", x); v.in("pos", pos); v.in("freq", freq); v.attr("half", half); v.attr("factor", factor); v.out("y", y, &x); }
  void shape() {
    check(x.type == F32 && x.rank() == 3 && pos.type == I32 && pos.rank() == 1 && pos.dim(0) == x.dim(0), "rope: x is ", x.shape.text(), ", pos ", pos.shape.text());
    check(freq.type == F32 && freq.rank() == 1 && 2 * freq.dim(0) <= x.cols(), "rope: x is ", x.shape.text(), ", freq ", freq.shape.text());
    y = like(x);
  }
  void reference(Worker w) const {
    const int64_t pairs = freq.dim(0), heads = x.dim(1);
    std::vector<float> c(static_cast<size_t>(pairs)), s(static_cast<size_t>(pairs));
    for (int64_t t : w.share(x.dim(0))) {
      for (int64_t i = 0; i < pairs; ++i) {
        const double angle = double(pos.at<int32_t>()[t]) * freq.at<float>()[i];
        c[size_t(i)] = float(std::cos(angle)) * factor;
        s[size_t(i)] = float(std::sin(angle)) * factor;
      }
      for (int64_t h = 0; h < heads; ++h) {
        const float* in = x.row<float>(t * heads + h);
        float* out = y.row<float>(t * heads + h);
        for (int64_t i = 0; i < pairs; ++i) {
          const int64_t first = half ? i : 2 * i, second = half ? i + pairs : 2 * i + 1;
          const float p = in[first], q = in[second];
          out[first] = p * c[size_t(i)] - q * s[size_t(i)];
          out[second] = p * s[size_t(i)] + q * c[size_t(i)];
        }
        for (int64_t d = 2 * pairs; d < x.cols(); ++d) out[d] = in[d];
      }
    }
  }
};
inline Tensor rope(Tensor x, Tensor pos, Tensor freq, bool half, float factor = 1) {
  return x.graph->record(Rope{.x = x, .pos = pos, .freq = freq, .half = half, .factor = factor}).y;
}

struct RopeScaling {
  enum class Kind { none, linear, llama3, yarn } kind = Kind::none;
  double factor = 1;                                // how many times longer than trained
  double original_context = 0;                      // llama3, yarn
  double low_freq_factor = 1, high_freq_factor = 4; // llama3
  double beta_fast = 32, beta_slow = 1;             // yarn
  bool whole_pairs = true;                          // yarn: its ramp begins and ends at whole pairs
};

// The n/2 frequencies of rotary dimensions n with base theta: theta^(−2i/n), then scaled.
std::vector<float> rope_frequencies(int64_t n, double theta, const RopeScaling& scaling);

}  // namespace folio
