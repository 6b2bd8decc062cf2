// SPDX-License-Identifier: MIT
// Mesa on the card, in f32 arithmetic, two kernels after each other:
//   mesa_states   a block per run, head and 32 rows of the state walks the run's pages: it puts the step's rows into their pools and
//                 folds each page that fills, into the page's slab and, where the run goes on, into a state of the scratch
//   mesa_solve    a block per up to 16 rows of a page and head: with the state before the page at hand no page waits for another
// Both are launched for every token; a token that begins nothing returns at once, so a captured launch serves every step. States of the
// scratch are numbered by the borders between two pages of one run, in the order of the step.
//
// A product cuts its sums into four, by every fourth number, and adds these in one order, whatever the rows are: so a row's bits depend
// neither on the other rows nor on how many a block takes. 256 threads are 64 columns by 4 parts.
#include <algorithm>

#include "cuda/lib/kernel.cuh"
#include "cuda/table.h"

namespace folio {

namespace {

constexpr int page_rows = int(page_tokens), threads = 256, slice = 32;

// A tensor of up to four dimensions whose last is contiguous.
template <class T> struct View {
  T* data;
  int64_t stride[3];
  FOLIO_DEVICE T* at(int64_t i, int64_t j = 0, int64_t k = 0) const { return data + i * stride[0] + j * stride[1] + k * stride[2]; }
};
template <class T> View<T> view(const Tensor& t) { return {t.at<T>(), {t.stride[0], t.stride[1], t.stride[2]}}; }

struct Args {
  View<float> q, k, v, g, beta, lambda, rows_k, rows_v, rows_g, rows_beta, Hkk, Hkv, o;
  View<int32_t> page, slab, iterations;
  const int32_t *seq, *pos;
  float* states;                        // [borders][heads]: [K][K], then [K][V]
  float tolerance, epsilon;
  int cap, mode, tokens, heads, keys, values;
  FOLIO_DEVICE float* state(int border, int head) const {
    return states + (int64_t(border) * heads + head) * keys * (keys + values);
  }
};

// Whether tokens t − 1 and t are neighbours of one run.
FOLIO_DEVICE bool follows(const Args& a, int t) {
  return t > 0 && a.seq[t] >= 0 && a.seq[t - 1] == a.seq[t] && a.pos[t - 1] + 1 == a.pos[t];
}
FOLIO_DEVICE bool is_border(const Args& a, int t) { return a.pos[t] % page_rows == 0 && follows(a, t); }

// How many borders are there before token t; every thread of the block calls.
FOLIO_DEVICE int borders_before(const Args& a, int t) {
  int count = 0;
  for (int u = int(threadIdx.x); u < t; u += threads) count += is_border(a, u);
  return block_sum(count);
}

struct StateArrays {
  float *key, *g, *beta, *weight;   // [64][K + 1], [64] each
  __host__ __device__ StateArrays(Smem& smem, int keys)
      : key(smem.take<float>(int64_t(page_rows) * (keys + 1))), g(smem.take<float>(page_rows)), beta(smem.take<float>(page_rows)),
        weight(smem.take<float>(page_rows)) {}
};

// A page of a run: rows from .. to − 1 are tokens first .. of the step, the rows before are in the pool.
struct Part {
  int first, from, to, page;
  int64_t id;
};

// The page's keys, g and β, as they are after the step; and, if `write`, the step's rows of the head to their pools.
FOLIO_DEVICE void take_page(const Args& a, const Part& part, int h, bool write, const StateArrays& at) {
  for (int i = int(threadIdx.x); i < part.to * a.keys; i += threads) {
    const int row = i / a.keys, c = i % a.keys;
    float* const kept = a.rows_k.at(part.id, row, h) + c;
    const float x = row < part.from ? *kept : a.k.at(part.first + row - part.from, h)[c];
    at.key[row * (a.keys + 1) + c] = x;
    if (write && row >= part.from) *kept = x;
  }
  for (int i = int(threadIdx.x); write && i < (part.to - part.from) * a.values; i += threads) {
    const int row = part.from + i / a.values, e = i % a.values;
    a.rows_v.at(part.id, row, h)[e] = a.v.at(part.first + row - part.from, h)[e];
  }
  for (int row = int(threadIdx.x); row < part.to; row += threads) {
    const int t = part.first + row - part.from;
    const bool old = row < part.from;
    at.g[row] = old ? *a.rows_g.at(part.id, row, h) : a.g.at(t)[h];
    at.beta[row] = old ? *a.rows_beta.at(part.id, row, h) : a.beta.at(t)[h];
    if (!write || old) continue;
    *a.rows_g.at(part.id, row, h) = at.g[row];
    *a.rows_beta.at(part.id, row, h) = at.beta[row];
  }
  block_sync();
}

// Σ of the g behind row s up to row t; s = −1: from the page's first row on. Added in that order.
FOLIO_DEVICE float between(const float* g, int s, int t) {
  float sum = 0;
  for (int row = s + 1; row <= t; ++row) sum += g[row];
  return sum;
}

// Where a state stands; null: nowhere.
struct State {
  float *kk, *kv;
  int64_t kk_row, kv_row;
};
FOLIO_DEVICE State in_scratch(const Args& a, int border, int h) {
  float* const at = a.state(border, h);
  return {at, at + int64_t(a.keys) * a.keys, a.keys, a.values};
}
FOLIO_DEVICE State in_slab(const Args& a, int64_t id, int h) {
  return {a.Hkk.at(id, h), a.Hkv.at(id, h), a.Hkk.stride[2], a.Hkv.stride[2]};
}

// Rows top .. top + 31 of the state after a full page. The weight stands at the key of the smaller number: H is symmetric to the bit.
FOLIO_DEVICE void fold(const Args& a, const Part& part, int h, int top, const StateArrays& at, const State& before, const State& scratch,
                       const State& slab) {
  constexpr int own = 8;
  const int last = page_rows - 1, pitch = a.keys + 1, columns = a.keys + a.values;
  const float decay = expf(between(at.g, -1, last));
  for (int s = int(threadIdx.x); s < page_rows; s += threads) at.weight[s] = expf(between(at.g, s, last)) * at.beta[s];
  block_sync();
  for (int item = int(threadIdx.x); item < columns * (slice / own); item += threads) {
    const int j = item % columns, e = j - a.keys, i0 = top + item / columns * own;
    float sum[own];
    for (int i = 0; i < own; ++i) {
      const float* const from = e < 0 ? before.kk : before.kv;
      sum[i] = from && i0 + i < a.keys ? decay * (e < 0 ? from[(i0 + i) * before.kk_row + j] : from[(i0 + i) * before.kv_row + e]) : 0;
    }
    for (int s = 0; s < page_rows; ++s) {
      const float* const key = at.key + s * pitch;
      const float weight = at.weight[s];
      const float other = e < 0 ? key[j] : s < part.from ? a.rows_v.at(part.id, s, h)[e] : a.v.at(part.first + s - part.from, h)[e];
      for (int i = 0; i < own && i0 + i < a.keys; ++i) {
        const bool swap = e < 0 && j < i0 + i;
        sum[i] += weight * (swap ? other : key[i0 + i]) * (swap ? key[i0 + i] : other);
      }
    }
    for (int i = 0; i < own && i0 + i < a.keys; ++i) {
      if (scratch.kk) (e < 0 ? scratch.kk + (i0 + i) * scratch.kk_row + j : scratch.kv + (i0 + i) * scratch.kv_row + e)[0] = sum[i];
      if (slab.kk) (e < 0 ? slab.kk + (i0 + i) * slab.kk_row + j : slab.kv + (i0 + i) * slab.kv_row + e)[0] = sum[i];
    }
  }
  block_sync();
}

__global__ void __launch_bounds__(threads) mesa_states(const Args a) {
  const int h = int(blockIdx.y), top = int(blockIdx.z) * slice;
  int t = int(blockIdx.x);
  if (a.seq[t] < 0 || follows(a, t)) return;
  Smem smem = Smem::here();
  const StateArrays at(smem, a.keys);
  int border = borders_before(a, t);
  const int32_t *rows = a.page.at(a.seq[t]), *slabs = a.slab.at(a.seq[t]);
  State before{};
  if (a.pos[t] >= page_rows) before = in_slab(a, slabs[a.pos[t] / page_rows - 1], h);
  for (bool more = true; more;) {
    Part part{t, a.pos[t] % page_rows, a.pos[t] % page_rows, a.pos[t] / page_rows, 0};
    part.id = rows[part.page];
    do ++t, ++part.to;
    while (part.to < page_rows && t < a.tokens && follows(a, t));
    more = t < a.tokens && follows(a, t);
    take_page(a, part, h, blockIdx.z == 0, at);
    if (part.to < page_rows) break;
    const State scratch = more ? in_scratch(a, border++, h) : State{};
    const State slab = slabs[part.page] >= 0 ? in_slab(a, slabs[part.page], h) : State{};
    if (scratch.kk || slab.kk) fold(a, part, h, top, at, before, scratch, slab);
    before = scratch;
  }
}

// Arrays of mesa_solve. What a product reads by rows of a block lies turned, R to a column; the rest by rows.
template <int R> struct SolveArrays {
  static constexpr int pitch = R == 1 ? 1 : R + 4;   // a multiple of four, and other banks from column to column
  float *p, *w;                  // [K][pitch], [64][pitch]
  float *x, *r, *y;              // [R][K + 1]
  float *key, *part;             // [64][K + 1], [4][R][64]
  float *M, *g, *beta, *lambda;  // [R][64], [64], [64], [K]
  float *decay, *delta, *end;    // [R]
  int *open, *rounds;            // [R]
  __host__ __device__ SolveArrays(Smem& smem, int keys)
      : p(smem.take<float>(int64_t(keys) * pitch)), w(smem.take<float>(page_rows * pitch)), x(smem.take<float>(R * (int64_t(keys) + 1))),
        r(smem.take<float>(R * (int64_t(keys) + 1))), y(smem.take<float>(R * (int64_t(keys) + 1))),
        key(smem.take<float>(page_rows * (int64_t(keys) + 1))), part(smem.take<float>(4 * R * 64)), M(smem.take<float>(R * page_rows)),
        g(smem.take<float>(page_rows)), beta(smem.take<float>(page_rows)), lambda(smem.take<float>(keys)), decay(smem.take<float>(R)),
        delta(smem.take<float>(R)), end(smem.take<float>(R)), open(smem.take<int>(R)), rounds(smem.take<int>(R)) {}
};

// R numbers that stand together in shared memory, times b, to the sums.
template <int R> FOLIO_DEVICE void add_rows(float (&sum)[R], const float* a, float b) {
  if constexpr (R == 1) {
    sum[0] += a[0] * b;
  } else {
#pragma unroll
    for (int r = 0; r < R; r += 4) {
      const float4 x = ld_vec<float4>(a + r);
      sum[r] += x.x * b, sum[r + 1] += x.y * b, sum[r + 2] += x.z * b, sum[r + 3] += x.w * b;
    }
  }
}

// put(r, c, Σ_d a[d][r]·get(d, c)) for the block's rows and c < width. The same thread puts the same (r, c) in every product. The first
// `all` of d are for every row; of the rest, tokens of this block, each row sees its own and those before it: what is no number in a
// later one must not reach it, and times zero it would.
template <int R, class Get, class Put>
FOLIO_DEVICE void product(const SolveArrays<R>& at, const float* a, int depth, int width, int all, Get get, Put put) {
  const int column = int(threadIdx.x) % 64, quarter = int(threadIdx.x) / 64;
  for (int c0 = 0; c0 < width; c0 += 64) {
    const int c = c0 + column;
    float sum[R] = {};
    int d = quarter;
    if (c < width) {
#pragma unroll 4
      for (; d < all; d += 4) add_rows<R>(sum, a + d * SolveArrays<R>::pitch, get(d, c));
      for (; d < depth; d += 4) {
        const float b = get(d, c);
#pragma unroll
        for (int r = 1; r < R; ++r)
          if (d < all + r) sum[r] += a[d * SolveArrays<R>::pitch + r] * b;
      }
    }
#pragma unroll
    for (int r = 0; r < R; ++r) at.part[(quarter * R + r) * 64 + column] = sum[r];
    block_sync();
    for (int r = quarter; r < R && c < width; r += 4) {
      const float* const sums = at.part + r * 64 + column;
      put(r, c, (sums[0] + sums[R * 64]) + (sums[2 * R * 64] + sums[3 * R * 64]));
    }
    block_sync();
  }
}

// A block's rows: tokens first .. first + count − 1, at rows `row` .. of page `id`; `before`: the state before the page.
struct Tile {
  int first, count, row;
  int64_t id;
  State before;
};

template <int R> FOLIO_DEVICE void load_tile(const Args& a, const Tile& tile, int h, const SolveArrays<R>& at) {
  const int depth = tile.row + tile.count;
  for (int i = int(threadIdx.x); i < depth * a.keys; i += threads) {
    const int row = i / a.keys, c = i % a.keys;
    at.key[row * (a.keys + 1) + c] = a.rows_k.at(tile.id, row, h)[c];
  }
  for (int row = int(threadIdx.x); row < depth; row += threads) {
    at.g[row] = *a.rows_g.at(tile.id, row, h);
    at.beta[row] = *a.rows_beta.at(tile.id, row, h);
  }
  for (int c = int(threadIdx.x); c < a.keys; c += threads) at.lambda[c] = a.lambda.at(h)[c];
  block_sync();
  for (int i = int(threadIdx.x); i < R * page_rows; i += threads) {
    const int r = i / page_rows, s = i % page_rows, row = tile.row + r;
    at.M[i] = r < tile.count && s <= row ? expf(between(at.g, s, row)) * at.beta[s] : 0;
  }
  for (int r = int(threadIdx.x); r < R; r += threads) at.decay[r] = r < tile.count ? expf(between(at.g, -1, tile.row + r)) : 0;
  block_sync();
}

// w = (p Kᵀ) ⊙ M, turned
template <int R> FOLIO_DEVICE void scores(const Args& a, const Tile& tile, const SolveArrays<R>& at) {
  auto put = [&](int r, int s, float sum) {
    at.w[s * SolveArrays<R>::pitch + r] = r < tile.count && s <= tile.row + r ? sum * at.M[r * page_rows + s] : 0;
  };
  product<R>(at, at.p, a.keys, tile.row + tile.count, a.keys, [&](int d, int s) { return at.key[s * (a.keys + 1) + d]; }, put);
}

// y = p H
template <int R> FOLIO_DEVICE void times(const Args& a, const Tile& tile, const SolveArrays<R>& at) {
  const int pitch = a.keys + 1;
  scores<R>(a, tile, at);
  const State& state = tile.before;
  const int before = state.kk ? a.keys : 0;
  product<R>(at, at.p, before, a.keys, before, [&](int d, int c) { return state.kk[d * state.kk_row + c]; },
             [&](int r, int c, float sum) { at.y[r * pitch + c] = sum * at.decay[r]; });
  product<R>(at, at.w, tile.row + tile.count, a.keys, tile.row + 1, [&](int s, int c) { return at.key[s * pitch + c]; },
             [&](int r, int c, float sum) { at.y[r * pitch + c] += sum; });
}

// q to r, and to x where the solver begins; x, turned, to p.
template <int R> FOLIO_DEVICE void begin(const Args& a, const Tile& tile, int h, const SolveArrays<R>& at) {
  const int pitch = a.keys + 1;
  for (int i = int(threadIdx.x); i < R * a.keys; i += threads) {
    const int r = i / a.keys, c = i % a.keys;
    const float q = r < tile.count ? a.q.at(tile.first + r, h)[c] : 0;
    float x = 0;
    if (a.mode != 1 && r < tile.count) {
      float d = a.mode == 3 ? at.beta[tile.row + r] : tile.before.kk ? at.decay[r] * tile.before.kk[c * tile.before.kk_row + c] : 0;
      for (int s = 0; a.mode != 3 && s <= tile.row + r; ++s) d += at.M[r * page_rows + s] * (at.key[s * pitch + c] * at.key[s * pitch + c]);
      d += at.lambda[c];
      x = d > 0 ? q / d : 0;
    }
    at.r[r * pitch + c] = q;
    at.x[r * pitch + c] = x;
    at.p[c * SolveArrays<R>::pitch + r] = x;
  }
  block_sync();
}

// r −= y + Λx, p = r, and where each row ends. A row belongs to a warp.
template <int R> FOLIO_DEVICE void residual(const Args& a, const Tile& tile, const SolveArrays<R>& at) {
  const int pitch = a.keys + 1;
  for (int r = warp_id(); r < R; r += threads / 32) {
    float square = 0, right = 0;
    for (int c = lane_id(); c < a.keys; c += 32) {
      const int i = r * pitch + c;
      right += at.r[i] * at.r[i];
      const float left = a.mode == 1 ? at.r[i] : at.r[i] - (at.y[i] + at.lambda[c] * at.x[i]);
      at.r[i] = left;
      at.p[c * SolveArrays<R>::pitch + r] = left;
      square += left * left;
    }
    square = warp_sum(square);
    right = warp_sum(right);
    if (lane_id() == 0) {
      at.delta[r] = square;
      at.end[r] = a.mode == 0 ? a.tolerance * a.tolerance * right : -1;
      at.open[r] = r < tile.count;
      at.rounds[r] = 0;
    }
  }
  block_sync();
}

// Closes rows that are done; whether any is open.
template <int R> FOLIO_DEVICE bool any_open(const Args& a, const SolveArrays<R>& at) {
  for (int r = int(threadIdx.x); r < R; r += threads)
    if (at.rounds[r] >= a.cap || at.delta[r] <= at.end[r]) at.open[r] = 0;
  block_sync();
  bool any = false;
  for (int r = 0; r < R; ++r) any |= at.open[r] != 0;
  return any;
}

// A round of every open row; y holds p H.
template <int R> FOLIO_DEVICE void one_round(const Args& a, const SolveArrays<R>& at) {
  const int pitch = a.keys + 1;
  for (int r = warp_id(); r < R; r += threads / 32) {
    if (!at.open[r]) continue;
    float curve = 0, square = 0;
    for (int c = lane_id(); c < a.keys; c += 32) {
      const float p = at.p[c * SolveArrays<R>::pitch + r], y = at.y[r * pitch + c] + at.lambda[c] * p;
      at.y[r * pitch + c] = y;
      curve += p * y;
    }
    curve = warp_sum(curve);
    const bool good = a.mode != 0 || curve > 0;
    const float was = at.delta[r], alpha = was / (curve + a.epsilon);
    for (int c = lane_id(); c < a.keys && good; c += 32) {
      const int i = r * pitch + c;
      at.x[i] += alpha * at.p[c * SolveArrays<R>::pitch + r];
      const float left = at.r[i] - alpha * at.y[i];
      at.r[i] = left;
      square += left * left;
    }
    square = warp_sum(square);
    const float turn = square / (was + a.epsilon);
    for (int c = lane_id(); c < a.keys && good; c += 32) {
      float& p = at.p[c * SolveArrays<R>::pitch + r];
      p = at.r[r * pitch + c] + turn * p;
    }
    if (lane_id() == 0) {
      at.delta[r] = square;
      if (good) ++at.rounds[r];
      else at.open[r] = 0;
    }
  }
  block_sync();
}

template <int R> FOLIO_DEVICE void answer(const Args& a, const Tile& tile, int h, const SolveArrays<R>& at) {
  for (int i = int(threadIdx.x); i < R * a.keys; i += threads)
    at.p[i % a.keys * SolveArrays<R>::pitch + i / a.keys] = at.x[i / a.keys * (a.keys + 1) + i % a.keys];
  block_sync();
  scores<R>(a, tile, at);
  const State& state = tile.before;
  const int before = state.kv ? a.keys : 0;
  product<R>(at, at.p, before, a.values, before, [&](int d, int e) { return state.kv[d * state.kv_row + e]; },
             [&](int r, int e, float sum) { if (r < tile.count) a.o.at(tile.first + r, h)[e] = sum * at.decay[r]; });
  product<R>(at, at.w, tile.row + tile.count, a.values, tile.row + 1, [&](int s, int e) { return a.rows_v.at(tile.id, s, h)[e]; },
             [&](int r, int e, float sum) { if (r < tile.count) a.o.at(tile.first + r, h)[e] += sum; });
  for (int r = int(threadIdx.x); r < tile.count; r += threads) a.iterations.at(tile.first + r)[h] = at.rounds[r];
}

// The tile that begins at token t: up to the next row that is a multiple of R, or the end of the run.
template <int R> FOLIO_DEVICE Tile tile_at(const Args& a, int t, int h) {
  Tile tile{t, 1, a.pos[t] % page_rows, a.page.at(a.seq[t])[a.pos[t] / page_rows], {}};
  while ((tile.row + tile.count) % R != 0 && t + tile.count < a.tokens && follows(a, t + tile.count)) ++tile.count;
  const int page = a.pos[t] / page_rows, begin = t - tile.row;   // the token of the page's row 0, if it is in the step
  if (begin > 0 && a.seq[begin] == a.seq[t] && a.pos[begin] == page * page_rows && is_border(a, begin))
    tile.before = in_scratch(a, borders_before(a, begin), h);
  else if (page > 0) tile.before = in_slab(a, a.slab.at(a.seq[t])[page - 1], h);
  return tile;
}

template <int R> __global__ void __launch_bounds__(threads) mesa_solve(const Args a) {
  const int t = int(blockIdx.x), h = int(blockIdx.y);
  if (a.seq[t] < 0) {
    for (int e = int(threadIdx.x); e < a.values; e += threads) a.o.at(t, h)[e] = 0;
    if (threadIdx.x == 0) a.iterations.at(t)[h] = 0;
    return;
  }
  if (a.pos[t] % R != 0 && follows(a, t)) return;
  Smem smem = Smem::here();
  const SolveArrays<R> at(smem, a.keys);
  const Tile tile = tile_at<R>(a, t, h);
  load_tile<R>(a, tile, h, at);
  begin<R>(a, tile, h, at);
  if (a.mode != 1) times<R>(a, tile, at);
  residual<R>(a, tile, at);
  while (any_open<R>(a, at)) {
    times<R>(a, tile, at);
    one_round<R>(a, at);
  }
  answer<R>(a, tile, h, at);
}

// A state for each border of two pages within a run: every 64 tokens, and one more for each sequence.
int64_t most_borders(const Mesa& op) {
  const int64_t T = op.q.dim(0);
  return std::min(T / 2, T / page_tokens + op.page.dim(0));
}

template <int R> size_t solve_bytes(const Args& args) {
  Smem smem;
  SolveArrays<R>(smem, args.keys);
  return smem.bytes();
}
template <int R> void solve(const Args& args, const CudaQueue& queue) {
  queue.expect_shared(solve_bytes<R>(args), "mesa", join("keys of ", args.keys, " numbers"));
  launch<mesa_solve<R>>({dim3(unsigned(args.tokens), unsigned(args.heads)), dim3(threads), solve_bytes<R>(args), queue.stream}, args);
}

}  // namespace

int64_t cuda_scratch(const Mesa& op, int) {
  const int64_t K = op.k.dim(2);
  return most_borders(op) * op.heads() * K * (K + op.v.dim(2)) * int64_t(sizeof(float));
}

void run(const Mesa& op, const CudaQueue& queue) {
  if (op.q.dim(0) == 0 || op.heads() == 0) return;
  const Args args{.q = view<float>(op.q), .k = view<float>(op.k), .v = view<float>(op.v), .g = view<float>(op.g),
                  .beta = view<float>(op.beta), .lambda = view<float>(op.lambda), .rows_k = view<float>(op.rows_k),
                  .rows_v = view<float>(op.rows_v), .rows_g = view<float>(op.rows_g), .rows_beta = view<float>(op.rows_beta),
                  .Hkk = view<float>(op.Hkk), .Hkv = view<float>(op.Hkv), .o = view<float>(op.o), .page = view<int32_t>(op.page),
                  .slab = view<int32_t>(op.slab), .iterations = view<int32_t>(op.iterations), .seq = op.seq.at<int32_t>(),
                  .pos = op.pos.at<int32_t>(), .states = reinterpret_cast<float*>(queue.scratch), .tolerance = op.tolerance,
                  .epsilon = op.epsilon(), .cap = op.cap, .mode = op.mode, .tokens = int(op.q.dim(0)), .heads = int(op.heads()),
                  .keys = int(op.k.dim(2)), .values = int(op.v.dim(2))};
  Smem smem;
  StateArrays(smem, args.keys);
  queue.expect_shared(smem.bytes(), "mesa", join("keys of ", args.keys, " numbers"));
  const dim3 grid(unsigned(args.tokens), unsigned(args.heads), unsigned((args.keys + slice - 1) / slice));
  launch<mesa_states>({grid, dim3(threads), smem.bytes(), queue.stream}, args);
  // With no more tokens than sequences a block's other rows would stay empty; and with wide keys there is no room for them.
  if (op.q.dim(0) <= op.page.dim(0) || solve_bytes<16>(args) > queue.shared) solve<1>(args, queue);
  else solve<16>(args, queue);
}

}  // namespace folio
