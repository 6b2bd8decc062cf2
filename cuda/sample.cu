// SPDX-License-Identifier: MIT
// Sampling on CUDA: a block to a row. The rule is that of base/draw.h, step by step, so the token is the host's; sets of tokens are
// thresholds on codes (nothing is sorted, nothing is moved), and what is summed are integers.
//
//   process   copies the row into scratch, NaN as -∞, then penalties and biases, each token's by one thread
//   shorten   if k is small: the k-th largest of the threads' largest codes is a bound that k tokens reach and few more. Those, up to
//             2048, go into shared memory, and the row is not read again
//   top-k, typical, top-p   a threshold each (select.cuh), the two last by mass; min-p is one already
//   draw      the largest code of (logit + noise, token) over what is left
//
// For top-p, tokens that even all together weigh less than what may be left out are passed over: few enter the histograms.
#include "cuda/select.cuh"
#include "cuda/table.h"

namespace folio {

namespace {

constexpr int room = 2048;

// What a block may use of shared memory.
struct Space {
  Weight* held;        // [select_bins]
  int* count;          // [select_bins]
  uint64_t* list;      // [room]
};

// The two forms of a set of codes: a row of floats in fours, which ends with minus infinities, and a list.
struct RowCodes {
  const std::byte* row;
  int64_t cols;        // a multiple of 4
  template <class F> FOLIO_DEVICE void each(F f) const {
    for (int64_t c = 4 * int64_t(threadIdx.x); c < cols; c += 4 * int64_t(blockDim.x)) {
      const auto x = ld_vec<float4>(row + c * int64_t(sizeof(float)));
      f(code_of(x.x, int(c))), f(code_of(x.y, int(c) + 1)), f(code_of(x.z, int(c) + 2)), f(code_of(x.w, int(c) + 3));
    }
  }
};
struct ListCodes {
  const uint64_t* list;
  int n;
  template <class F> FOLIO_DEVICE void each(F f) const {
    for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) f(list[i]);
  }
};

// What is left over: codes from `lowest` on, of those what is near enough to the mean surprise.
struct Left {
  uint64_t lowest, nearest;
  float centre, mean;   // of the surprises: the highest logit, and what the mean lies below it
  FOLIO_DEVICE uint64_t nearness(uint64_t code) const { return nearness_of(centre - logit_of(code), mean, token_of(code)); }
  FOLIO_DEVICE bool has(uint64_t code) const { return code >= lowest && (nearest == 0 || nearness(code) >= nearest); }
};

template <class Codes> FOLIO_DEVICE float highest_of(const Codes& codes, const Left& left) {
  uint64_t best = 0;
  codes.each([&](uint64_t code) {
    if (left.has(code)) best = max(best, code);
  });
  return logit_of(block_max(best));
}

template <class Codes> FOLIO_DEVICE void keep_typical(const Codes& codes, Left& left, float share, const Space& space) {
  const float highest = highest_of(codes, left);
  Weight masses = 0, moments = 0;
  codes.each([&](uint64_t code) {
    if (!left.has(code)) return;
    const float below = highest - logit_of(code);
    const uint64_t mass = mass_of(below);
    masses += mass;
    moments += moment_of(below, mass);
  });
  masses = block_sum(masses);
  left.centre = highest;
  left.mean = mean_of(block_sum(moments), masses);
  left.nearest = select_by_weight(space.held, space.count, need_of(share, masses), [&](auto meet) {
    codes.each([&](uint64_t code) {
      if (!left.has(code)) return;
      if (const Weight mass = mass_of(highest - logit_of(code)); mass > 0) meet(left.nearness(code), mass);
    });
  });
}

template <class Codes> FOLIO_DEVICE void keep_top_p(const Codes& codes, Left& left, float share, int64_t vocab, const Space& space) {
  const float highest = highest_of(codes, left);
  Weight whole = 0;
  codes.each([&](uint64_t code) {
    if (left.has(code)) whole += mass_of(highest - logit_of(code));
  });
  whole = block_sum(whole);
  const Weight need = need_of(share, whole), least = max((whole - need) / Weight(vocab), Weight(1));
  left.lowest = select_by_weight(space.held, space.count, need, [&](auto meet) {
    codes.each([&](uint64_t code) {
      if (!left.has(code)) return;
      if (const Weight mass = mass_of(highest - logit_of(code)); mass >= least) meet(code, mass);
    });
  });
}

// Of the `have` numbers among the codes. All threads get the token.
template <class Codes>
FOLIO_DEVICE int draw(const Codes& codes, int have, const DrawOptions& o, const DrawPlace& place, int64_t vocab, const Space& space) {
  Left left = {lowest_code, 0, 0, 0};
  if (place.top_k > 0 && place.top_k < have)
    left.lowest = select_by_count(space.count, place.top_k, [&](auto meet) {
      codes.each([&](uint64_t code) {
        if (code >= lowest_code) meet(code);
      });
    });
  if (o.typical < 1) keep_typical(codes, left, o.typical, space);
  if (o.top_p < 1) keep_top_p(codes, left, o.top_p, vocab, space);
  const float highest = highest_of(codes, left);
  const float least = o.min_p > 0 ? least_of(highest, o.min_p) : -INFINITY;
  const uint64_t seed = uint64_t(place.seed_high) << 32 | place.seed_low;
  const uint64_t position = uint64_t(place.position_high) << 32 | place.position_low;
  uint64_t best = 0;
  codes.each([&](uint64_t code) {
    const float logit = logit_of(code);
    if (!left.has(code) || !(logit >= least)) return;
    const int token = token_of(code);
    best = max(best, code_of(draw_of(logit, highest, o.temperature, gumbel(seed, position, uint32_t(token))), token));
  });
  return token_of(block_max(best));
}

// The codes that can be among the `want` largest, and few more, into the list. How many; -1 if they are more than it holds.
template <class Codes> FOLIO_DEVICE int shorten(const Codes& codes, uint64_t mine, int want, const Space& space) {
  FOLIO_SHARED(int, listed, [1]);
  uint64_t bound = lowest_code;
  if (want <= int(blockDim.x)) {
    space.list[threadIdx.x] = mine;
    if (threadIdx.x == 0) listed[0] = 0;
    block_sync();
    bound = select_by_count(space.count, want, [&](auto meet) { meet(space.list[threadIdx.x]); });
    bound = max(bound, lowest_code);
  } else if (threadIdx.x == 0) {
    listed[0] = 0;
  }
  block_sync();
  codes.each([&](uint64_t code) {
    if (code < bound) return;
    const int at = atomicAdd(&listed[0], 1);
    if (at < room) space.list[at] = code;
  });
  block_sync();
  return listed[0] <= room ? listed[0] : -1;
}

struct Inputs {
  Rows logits;
  int64_t vocab;
  const std::byte *options, *place, *seen, *biased, *bias;   // rows without gaps; null: absent
  int most_seen, biases;
  bool by_four;        // logits can be read so
};

__host__ __device__ inline int64_t in_fours(int64_t n) { return (n + 3) / 4 * 4; }

template <class T> FOLIO_DEVICE T number_at(const std::byte* at, int64_t i) { return ld_vec<T>(at + i * int64_t(sizeof(T))); }

FOLIO_DEVICE DrawOptions options_at(const std::byte* at, int64_t row) {
  const std::byte* const o = at + row * int64_t(sizeof(DrawOptions));
  return {number_at<float>(o, 0), number_at<float>(o, 1), number_at<float>(o, 2), number_at<float>(o, 3),
          number_at<float>(o, 4), number_at<float>(o, 5), number_at<float>(o, 6)};
}
FOLIO_DEVICE DrawPlace place_at(const std::byte* at, int64_t row) {
  const std::byte* const p = at + row * int64_t(sizeof(DrawPlace));
  return {number_at<int32_t>(p, 0), number_at<uint32_t>(p, 1), number_at<uint32_t>(p, 2), number_at<uint32_t>(p, 3), number_at<uint32_t>(p, 4)};
}

// The row's logits after penalties and biases, into `work`. Every token stands in `seen` once, so its thread has it alone; of equal
// tokens in `biased` the thread of the first adds all, in their order.
FOLIO_DEVICE void process(const Inputs& in, int64_t row, const DrawOptions& o, std::byte* work) {
  auto put = [&](float x, int i) { st_vec(work + i * int64_t(sizeof(float)), usable(x)); };
  if (in.by_four) each_number<4>(in.logits.row(row), in.vocab, put);
  else each_number<1>(in.logits.row(row), in.vocab, put);
  const int64_t beyond = in.vocab + threadIdx.x;
  if (beyond < in_fours(in.vocab)) put(-INFINITY, int(beyond));
  auto valid = [&](int32_t token) { return token >= 0 && token < in.vocab; };
  auto change = [&](int32_t token, auto to) {
    std::byte* const at = work + token * int64_t(sizeof(float));
    st_vec(at, to(ld_vec<float>(at)));
  };
  block_sync();
  for (int i = int(threadIdx.x); i < in.most_seen; i += int(blockDim.x)) {
    const int2 pair = {number_at<int32_t>(in.seen, 2 * (row * in.most_seen + i)), number_at<int32_t>(in.seen, 2 * (row * in.most_seen + i) + 1)};
    if (valid(pair.x)) change(pair.x, [&](float x) { return penalised(x, pair.y, o); });
  }
  block_sync();
  const int64_t first = row * in.biases;
  for (int i = int(threadIdx.x); i < in.biases; i += int(blockDim.x)) {
    const int32_t token = number_at<int32_t>(in.biased, first + i);
    if (!valid(token) || (i > 0 && number_at<int32_t>(in.biased, first + i - 1) == token)) continue;
    for (int j = i; j < in.biases && number_at<int32_t>(in.biased, first + j) == token; ++j)
      change(token, [&](float x) { return biased(x, number_at<float>(in.bias, first + j)); });
  }
  block_sync();
}

__global__ void __launch_bounds__(1024) sample_rows(Inputs in, std::byte* scratch, int32_t* tokens) {
  FOLIO_SHARED(Weight, held, [select_bins]);
  FOLIO_SHARED(int, count, [select_bins]);
  FOLIO_SHARED(uint64_t, list, [room]);
  const Space space = {held, count, list};
  const int64_t row = blockIdx.x;
  const DrawOptions o = options_at(in.options, row);
  const DrawPlace place = place_at(in.place, row);
  std::byte* const work = scratch + row * in_fours(in.vocab) * int64_t(sizeof(float));
  process(in, row, o, work);

  const RowCodes all = {work, in_fours(in.vocab)};
  uint64_t mine = 0;
  int have = 0;
  all.each([&](uint64_t code) {
    mine = max(mine, code);
    have += code >= lowest_code;
  });
  have = block_sum(have);
  const uint64_t best = block_max(mine);
  int token = have > 0 ? token_of(best) : -1;
  if (have > 0 && o.temperature != 0) {
    const int want = place.top_k > 0 ? min(place.top_k, have) : have;
    const int listed = want <= int(blockDim.x) || have <= room ? shorten(all, mine, want, space) : -1;
    token = listed >= 0 ? draw(ListCodes{list, listed}, listed, o, place, in.vocab, space) : draw(all, have, o, place, in.vocab, space);
  }
  if (threadIdx.x == 0) st_vec(tokens + row, int32_t(token));
}

}  // namespace

int64_t cuda_scratch(const Sample& op, int) { return op.logits.dim(0) * in_fours(op.logits.cols()) * int64_t(sizeof(float)); }

void run(const Sample& op, const CudaQueue& queue) {
  const int64_t rows = op.logits.dim(0), vocab = op.logits.cols();
  if (rows == 0) return;
  const Inputs in = {rows_of(op.logits), vocab, op.options.data, op.place.data, op.seen.data, op.biased.data, op.bias.data,
                     op.seen.present() ? int(op.seen.dim(1)) : 0, op.bias.present() ? int(op.bias.cols()) : 0,
                     by_four(op.logits)};
  const Launch at{dim3(unsigned(rows)), dim3(vocab > 4096 ? 1024 : 256), 0, queue.stream};
  launch<sample_rows>(at, in, queue.scratch, op.token.at<int32_t>());
}

}  // namespace folio
