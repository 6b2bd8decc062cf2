// SPDX-License-Identifier: MIT
// The short causal convolution on CUDA: a thread to four channels of a token. What a token needs of its predecessors it reads from the
// step where they stand in it, else from the pages; rows are only written at places of the step, so no thread reads what another writes.
#include "cuda/rows.cuh"
#include "cuda/table.h"

namespace folio {

namespace {

struct Short {
  Rows x, w, rows, y;
  const std::byte* bias;   // may be null
  const int32_t *page, *seq, *pos;
  int64_t page_stride, tokens, cols;
  int width;
  Act act;

  FOLIO_DEVICE const std::byte* place(int64_t b, int64_t p) const {
    return rows.row(int64_t(ld_vec<int32_t>(page + b * page_stride + p / page_tokens)) * page_tokens + p % page_tokens);
  }
  // The input `back` tokens before t; null before the sequence's first.
  FOLIO_DEVICE const std::byte* input(int64_t t, int32_t b, int32_t p, int back) const {
    if (p < back) return nullptr;
    if (t >= back && ld_vec<int32_t>(seq + t - back) == b && ld_vec<int32_t>(pos + t - back) == p - back) return x.row(t - back);
    return place(b, p - back);
  }
};

template <int N> __global__ void short_conv(Short a) {
  for (int64_t t = first_row(); t < a.tokens; t += row_step()) {
    const int32_t b = ld_vec<int32_t>(a.seq + t), p = ld_vec<int32_t>(a.pos + t);
    for (int64_t c = first_col<N>(); c < a.cols; c += col_step<N>()) {
      float sum[N] = {};
      if (b >= 0) {
        if (a.bias) read<N, float>(sum, a.bias, c);
        for (int i = 0; i < a.width; ++i) {
          const std::byte* const in = a.input(t, b, p, a.width - 1 - i);
          if (!in) continue;
          float v[N], w[N];
          read<N, float>(v, in, c);
          read<N, float>(w, a.w.row(i), c);
#pragma unroll
          for (int j = 0; j < N; ++j) sum[j] += w[j] * v[j];
        }
        float own[N];
        read<N, float>(own, a.x.row(t), c);
        write<N, float>(const_cast<std::byte*>(a.place(b, p)), c, own);
#pragma unroll
        for (int j = 0; j < N; ++j) sum[j] = activated(a.act, sum[j]);
      }
      write<N, float>(a.y.row(t), c, sum);
    }
  }
}

}  // namespace

void run(const ShortConv& op, const CudaQueue& queue) {
  if (op.x.count() == 0) return;
  const Short conv{rows_of(op.x), rows_of(op.w), rows_of(op.rows), rows_of(op.y), op.bias.data, op.page.at<int32_t>(), op.seq.at<int32_t>(),
                  op.pos.at<int32_t>(), op.page.stride[0], op.x.dim(0), op.x.cols(), int(op.w.dim(0)), op.act};
  const bool four = by_four(op.x) && by_four(op.w) && by_four(op.rows) && by_four(op.y) && (!op.bias.present() || by_four(op.bias));
  if (four) launch<short_conv<4>>(over_rows(conv.tokens, conv.cols, 4, queue.stream), conv);
  else launch<short_conv<1>>(over_rows(conv.tokens, conv.cols, 1, queue.stream), conv);
}

}  // namespace folio
