// SPDX-License-Identifier: MIT
// Softmax attention over the pages of sequences: MHA, GQA and MQA (G key groups for H heads), causal or full, sliding window
// that keeps the first tokens, softcapped logits, ALiBi, a learned sink; and Merge, which joins attention over two parts of the keys.
// A sum over keys can be taken in pieces and in any order (arXiv 2205.14135): every kernel here uses that, and so do split
// decoding, shared prefixes and ring attention.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/worker.h"
#include "ops/rows.h"

namespace folio {

// o[t,h,:] = Σ_j softmax_j(s(t,h,j)) · v[j,g,:]      lse[t,h] = log Σ_j exp(s(t,h,j))      with g = h / (H/G),
// s = cap(scale · q[t,h,:]·k[j,g,:]) − slopes[h]·(pos[t] − j),  cap(x) = softcap·tanh(x/softcap) if softcap > 0,
// over the tokens j of t's own sequence: j ≤ pos[t] if causal, else j < length[b]; and, if window > 0,
// pos[t] − window < j or j < sinks. Token j lies in page[b, j/64] at row j%64; a page id −1 holds no tokens.
// Padding tokens (seq −1) put out o = 0, lse = −∞; so does a token without keys, if there is no sink.
//
// Two things are called sinks. `sinks` is a number of tokens: the first of a text, kept beside the window (arXiv 2309.17453). `sink` is a
// learned logit of each head, as of one more key without a value (gpt-oss, arXiv 2508.10925): the softmax runs over keys and sink, and
// what the sink takes is missing from o. lse has it in the sum, so of parts that Merge joins one has the sink and the others have none;
// a token without keys then puts out o = 0, lse = sink[h].
struct Attend {
  static constexpr const char* name = "attend";
  Tensor q;         // [T, H, D] f32
  Tensor k, v;      // [N, 64, G, D], [N, 64, G, Dv]   the layer's pools, f32, f16 or bf16
  Tensor page;      // [B, most] i32   page ids of each sequence
  Tensor seq, pos;  // [T] i32         whose token, and where
  Tensor length;    // [B] i32         tokens of each sequence, this step's included; may be absent if causal
  Tensor slopes;    // [H] f32         ALiBi (arXiv 2108.12409), may be absent
  Tensor sink;      // [H] f32         a logit without a value, may be absent; −∞: none
  float scale = 1, softcap = 0;
  int window = 0, sinks = 0;
  bool causal = true;
  Tensor o;         // [T, H, Dv] f32
  Tensor lse;       // [T, H] f32      log of the softmax's sum, for Merge

  void visit(auto& v_) {
    v_.in("q", q); v_.in("k", k); v_.in("v", v); v_.in("page", page); v_.in("seq", seq); v_.in("pos", pos);
    v_.in("length", length); v_.in("slopes", slopes); v_.in("sink", sink);
    v_.attr("scale", scale); v_.attr("softcap", softcap); v_.attr("window", window); v_.attr("sinks", sinks); v_.attr("causal", causal);
    v_.out("o", o); v_.out("lse", lse);
  }
  void shape() {
    check(q.type == F32 && q.rank() == 3 && k.rank() == 4 && v.rank() == 4 && k.type == v.type && k.dim(0) == v.dim(0) && k.dim(1) == page_tokens &&
          v.dim(1) == page_tokens && k.dim(2) == v.dim(2) && k.dim(3) == q.dim(2) && q.dim(1) % k.dim(2) == 0 &&
          (k.type == F32 || k.type == F16 || k.type == BF16), "attend: q is ", q.shape.text(), ", k ", k.shape.text(), ", v ", v.shape.text());
    check(page.type == I32 && page.rank() == 2 && seq.type == I32 && pos.type == I32 && seq.shape == pos.shape && seq.dim(0) == q.dim(0),
          "attend: page is ", page.shape.text(), ", seq ", seq.shape.text(), ", pos ", pos.shape.text());
    check(causal || length.present(), "attend: full attention needs the lengths");
    check(!length.present() || (length.type == I32 && length.rank() == 1 && length.dim(0) == page.dim(0)), "attend: length is ", length.shape.text());
    check(!slopes.present() || (slopes.type == F32 && slopes.shape == Shape{q.dim(1)}), "attend: slopes is ", slopes.shape.text());
    check(!sink.present() || (sink.type == F32 && sink.shape == Shape{q.dim(1)}), "attend: sink is ", sink.shape.text());
    check(window >= 0 && sinks >= 0 && softcap >= 0, "attend: window ", window, ", sinks ", sinks, ", softcap ", softcap);
    o = Tensor::of(F32, {q.dim(0), q.dim(1), v.dim(3)});
    lse = Tensor::of(F32, {q.dim(0), q.dim(1)});
  }

  // Keys of token t that it may see: [0, sinked) and [first, end).
  struct Span { int64_t sinked, first, end; };
  Span span(int64_t t) const {
    const int64_t b = seq.at<int32_t>()[t], p = pos.at<int32_t>()[t];
    if (b < 0) return {0, 0, 0};
    const int64_t end = causal ? p + 1 : length.at<int32_t>()[b];
    const int64_t first = window > 0 ? std::max<int64_t>(0, p - window + 1) : 0;
    return {std::min({int64_t(window > 0 ? sinks : 0), first, end}), std::min(first, end), end};
  }
  float logit(float dot, int64_t t, int64_t h, int64_t j) const {
    float s = scale * dot;
    if (softcap > 0) s = softcap * std::tanh(s / softcap);
    if (slopes.present()) s -= slopes.at<float>()[h] * float(pos.at<int32_t>()[t] - j);
    return s;
  }

  void reference(Worker worker) const {
    const int64_t heads = q.dim(1), width = v.dim(3);
    std::vector<float> row(static_cast<size_t>(std::max(q.cols(), width)));
    std::vector<double> sum(static_cast<size_t>(width));
    for (int64_t item : worker.share(q.dim(0) * heads)) {
      const int64_t t = item / heads, h = item % heads, g = h / (heads / k.dim(2));
      const Span keys = span(t);
      const int32_t* pages = keys.end > 0 ? page.row<int32_t>(seq.at<int32_t>()[t]) : nullptr;
      auto each = [&](auto&& visit_key) {
        for (int64_t j = 0; j < keys.end; ++j) {
          if (j >= keys.sinked && j < keys.first) continue;
          const int64_t id = pages[j / page_tokens];
          if (id >= 0) visit_key(j, (id * page_tokens + j % page_tokens) * k.dim(2) + g);
        }
      };
      const double nothing = -std::numeric_limits<double>::infinity();
      const double rest = sink.present() && seq.at<int32_t>()[t] >= 0 ? sink.at<float>()[h] : nothing;
      double most = rest, total = 0;
      std::vector<double> logits;
      each([&](int64_t j, int64_t at) {
        format(k.type).to_float(k.row_bytes(at), row.data(), k.cols());
        double dot = 0;
        for (int64_t d = 0; d < q.cols(); ++d) dot += double(q.row<float>(item)[d]) * row[size_t(d)];
        logits.push_back(logit(float(dot), t, h, j));
        most = std::max(most, logits.back());
      });
      std::fill(sum.begin(), sum.end(), 0.0);
      size_t next = 0;
      if (rest != nothing) total = std::exp(rest - most);
      each([&](int64_t, int64_t at) {
        format(v.type).to_float(v.row_bytes(at), row.data(), width);
        const double p = std::exp(logits[next++] - most);
        total += p;
        for (int64_t d = 0; d < width; ++d) sum[size_t(d)] += p * row[size_t(d)];
      });
      for (int64_t d = 0; d < width; ++d) o.row<float>(item)[d] = total > 0 ? float(sum[size_t(d)] / total) : 0;
      lse.at<float>()[item] = total > 0 ? float(most + std::log(total)) : -std::numeric_limits<float>::infinity();
    }
  }
};

// Joins attention over two parts of the keys:  lse = log(e^a_lse + e^b_lse),  o = e^(a_lse − lse)·a + e^(b_lse − lse)·b
struct Merge {
  static constexpr const char* name = "merge";
  Tensor a, b;          // [T, H, D] f32
  Tensor a_lse, b_lse;  // [T, H] f32; −∞: that part had no keys
  Tensor o;             // like a
  Tensor lse;           // like a_lse

  void visit(auto& v) { v.in("a", a); v.in("a_lse", a_lse); v.in("b", b); v.in("b_lse", b_lse); v.out("o", o, &a); v.out("lse", lse, &a_lse); }
  void shape() {
    check(a.type == F32 && b.type == F32 && a.rank() == 3 && a.shape == b.shape && a_lse.type == F32 && b_lse.type == F32 &&
          a_lse.shape == b_lse.shape && a_lse.shape == Shape({a.dim(0), a.dim(1)}), "merge: a is ", a.shape.text(), ", b ", b.shape.text(),
          ", a_lse ", a_lse.shape.text(), ", b_lse ", b_lse.shape.text());
    o = like(a);
    lse = like(a_lse);
  }
  void reference(Worker w) const {
    const float nothing = -std::numeric_limits<float>::infinity();
    for (int64_t i : w.share(a.rows())) {
      const double la = *(a_lse.row<float>(i / a.dim(1)) + i % a.dim(1)), lb = *(b_lse.row<float>(i / a.dim(1)) + i % a.dim(1));
      const double most = std::max(la, lb), sum = most > nothing ? most + std::log(std::exp(la - most) + std::exp(lb - most)) : nothing;
      const double pa = la > nothing ? std::exp(la - sum) : 0, pb = lb > nothing ? std::exp(lb - sum) : 0;
      const float *its_a = a.row<float>(i), *its_b = b.row<float>(i);
      float* out = o.row<float>(i);
      for (int64_t d = 0; d < a.cols(); ++d) out[d] = float(pa * its_a[d] + pb * its_b[d]);
      lse.row<float>(i / a.dim(1))[i % a.dim(1)] = float(sum);
    }
  }
};

}  // namespace folio
