// SPDX-License-Identifier: MIT
// Kernel of LogLinear, portable tier. A block takes 64 columns of v of one head of one sequence and walks its run page by page; all
// sums are products of small matrices, cut into tiles of 64 by 64 that 256 threads keep in registers, 4 by 4 each, while 32 of the
// depth at a time pass through shared memory. Operands are functions of row and column, so rows of earlier steps come straight from
// the pools and new ones straight from the step. Blocks that share a head repeat its scores and rows of X and w: columns never meet.
// A sum runs over the depth in ascending order, alone in its thread, so a token's bits do not depend on how the step was cut.
#pragma once
#include "cuda/lib/kernel.cuh"

namespace folio::log_linear {

constexpr int P = 64, threads = 256, width = 64, step = 32, pitch = 68, fine = 7;
constexpr int most_buckets = 40;

struct Pool {
  float* at;
  int64_t page, row, head;   // strides
};
struct Args {
  const float *q, *k, *v, *g, *beta, *lambda;   // beta null: Mamba-2
  int64_t q_token, q_group, k_token, k_group, v_token, v_head, g_token, beta_token, lambda_token, lambda_head;
  const int32_t *page, *slab, *seq, *pos;
  int64_t page_seq, slab_seq;
  Pool rows_k, rows_u, rows_g, rows_w, rows_x;
  float *S, *c, *o;
  int64_t S_page, S_head, S_row, c_page, c_head;
  float* scratch;
  int64_t block_floats;      // of scratch
  int tokens, sequences, heads, share, K, V, levels, buckets, parts;
};

// Scratch of a block, in floats; kept: of matrices that no slab keeps.
struct Scratch {
  int64_t x, p, y, moved, sum, kept, total;
  __host__ __device__ Scratch(int K, bool delta, int64_t matrices) {
    x = 0;
    p = x + (delta ? P * (P + K) : 0);
    y = p + P * P;
    moved = y + (delta ? P * (P + K) : 0);
    sum = moved + (delta ? P * width : 0);
    kept = sum + (delta ? int64_t(K) * width : 0);
    total = (kept + matrices * K * width + 63) / 64 * 64;
  }
};

struct Bucket {
  float* S;
  int64_t stride;
  double c;      // up to its end
  int kept;      // its place in scratch; −1: it has a slab
};

// What all threads of a block share: tiles of a product's operands, and where the page at hand stands.
struct alignas(16) Page {
  float a[step * pitch], t[step * pitch];
  float rate[P], fold[P], factor[most_buckets];
  double b[P];                   // of differences of large ones the digits matter
  Bucket bucket[most_buckets];   // [m] is there if bit m of the page's number is set
  Bucket to;
  double c;                      // up to the page
  uint64_t kept;                 // places of scratch that are taken
};

// What a block works on: the new rows from .. to − 1 of a page, which are the tokens first .. of the step.
struct Unit {
  int seq, head, group, column, columns, first, from, to, number;
  int64_t rows;                  // the page in the pools of rows
  bool leads;                    // writes what the blocks of a head share
  FOLIO_DEVICE int token(int row) const { return first + row - from; }
};

// out(r, e, Σ_d a(r, d)·b(d, e)). a_turned, b_turned: neighbours in memory are neighbours in r, or in d. `own`: the sum of row r ends
// with its own token, at d = sees + r − 1, so that a later one that is no number stays out of it, for times zero it would not.
template <bool a_turned, bool b_turned, bool own = false, class A, class B, class O>
FOLIO_DEVICE void product(Page& page, int rows, int columns, int depth, A a, B b, O out, int sees = 0, Here here = {}) {
  const int y = int(threadIdx.x) / 16 * 4, x = int(threadIdx.x) % 16 * 4;
  for (int row = 0; row < rows; row += 64)
    for (int column = 0; column < columns; column += 64) {
      float sum[4][4] = {};
      for (int from = 0; from < depth; from += step) {
        for (int i = int(threadIdx.x); i < 64 * step; i += threads) {
          const int ar = a_turned ? i % 64 : i / step, ad = a_turned ? i / 64 : i % step;
          page.a[ad * pitch + ar] = row + ar < rows && from + ad < depth ? a(row + ar, from + ad) : 0;
          const int be = b_turned ? i / step : i % 64, bd = b_turned ? i % step : i / 64;
          page.t[bd * pitch + be] = column + be < columns && from + bd < depth ? b(from + bd, column + be) : 0;
        }
        block_sync(here);
        if (row + y < rows)
          for (int d = 0; d < step; ++d) {
            const float4 u = ld_vec<float4>(page.a + d * pitch + y), w = ld_vec<float4>(page.t + d * pitch + x);
            const float us[4] = {u.x, u.y, u.z, u.w}, ws[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              if (own && from + d >= sees + row + y + i) continue;
#pragma unroll
              for (int j = 0; j < 4; ++j) sum[i][j] += us[i] * ws[j];
            }
          }
        block_sync(here);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          if (row + y + i < rows && column + x + j < columns) out(row + y + i, column + x + j, sum[i][j]);
    }
  block_sync(here);
}

FOLIO_DEVICE float* pool_row(const Pool& pool, const Unit& u, int row, int head) {
  return pool.at + u.rows * pool.page + row * pool.row + head * pool.head;
}
FOLIO_DEVICE float key(const Args& a, const Unit& u, int row, int i) {
  return row < u.from ? pool_row(a.rows_k, u, row, u.group)[i] : a.k[u.token(row) * a.k_token + u.group * a.k_group + i];
}
FOLIO_DEVICE float value(const Args& a, const Unit& u, const Page& page, int row, int e) {
  if (row < u.from) return pool_row(a.rows_u, u, row, u.head)[u.column + e];
  return page.rate[row] * a.v[u.token(row) * a.v_token + u.head * a.v_head + u.column + e];
}
FOLIO_DEVICE float query(const Args& a, const Unit& u, int row, int i) {
  return a.q[u.token(row) * a.q_token + u.group * a.q_group + i];
}
FOLIO_DEVICE float log_decay(const Args& a, const Unit& u, int row) {
  return row < u.from ? *pool_row(a.rows_g, u, row, u.head) : a.g[u.token(row) * a.g_token + u.head];
}
FOLIO_DEVICE float weight(const Args& a, const Unit& u, int row, int level) {
  return level < a.levels ? a.lambda[u.token(row) * a.lambda_token + u.head * a.lambda_head + level] : 0;
}
// Of rows t ≥ s of a page.
FOLIO_DEVICE int level_of(int t, int s) {
  int level = 0;
  for (int x = t ^ s; x > 0; x >>= 1) ++level;
  return level;
}
FOLIO_DEVICE int lowest_zero(uint64_t x) {
  int i = 0;
  while (x >> i & 1) ++i;
  return i;
}
FOLIO_DEVICE float* matrix(const Args& a, const Unit& u, int64_t id, int m) {
  return a.S + id * a.S_page + u.head * a.S_head + int64_t(m) * a.K * a.S_row + u.column;
}
FOLIO_DEVICE double decay_until(const Args& a, const Unit& u, int64_t id) {
  const float* c = a.c + id * a.c_page + u.head * a.c_head;
  return double(c[0]) + c[1];
}

// One thread: the buckets that page `number` finds.
FOLIO_DEVICE void begin(const Args& a, const Unit& u, int number, const int32_t* slabs, Page& page) {
  page.kept = 0;
  page.c = number > 0 && !a.beta ? decay_until(a, u, slabs[number - 1]) : 0;
  for (int full = number; full > 0; full &= full - 1) {
    const int m = lowest_zero(~uint64_t(full));
    if (m >= a.buckets) break;
    const int64_t id = slabs[a.beta ? number - 1 : full - 1];
    page.bucket[m] = {matrix(a, u, id, a.beta ? m : 0), a.S_row, a.beta ? 0 : decay_until(a, u, id), -1};
  }
}

// b and β of the page's rows, and the new rows into the pools.
FOLIO_DEVICE void gather(const Args& a, const Unit& u, Page& page) {
  if (threadIdx.x == 0)
    for (int row = 0; row < u.to; ++row) {
      page.b[row] = (row > 0 ? page.b[row - 1] : 0) + log_decay(a, u, row);
      page.rate[row] = row >= u.from && a.beta ? a.beta[u.token(row) * a.beta_token + u.head] : 1;
    }
  block_sync();
  const int n = u.to - u.from;
  for (int i = int(threadIdx.x); i < n * u.columns; i += threads) {
    const int row = u.from + i / u.columns, e = i % u.columns;
    pool_row(a.rows_u, u, row, u.head)[u.column + e] = value(a, u, page, row, e);
  }
  for (int i = int(threadIdx.x); u.leads && u.head % a.share == 0 && i < n * a.K; i += threads)
    pool_row(a.rows_k, u, u.from + i / a.K, u.group)[i % a.K] = key(a, u, u.from + i / a.K, i % a.K);
  for (int i = int(threadIdx.x); u.leads && i < n; i += threads) *pool_row(a.rows_g, u, u.from + i, u.head) = log_decay(a, u, u.from + i);
}

// Rows of X and w: a thread has whole columns of them, so it waits for nobody.
FOLIO_DEVICE void solve(const Args& a, const Unit& u, Page& page, float* x, float* p) {
  const int joined = P + a.K;
  product<false, true>(page, u.to - u.from, u.to, a.K, [&](int r, int d) { return key(a, u, u.from + r, d); },
                       [&](int d, int s) { return key(a, u, s, d); },
                       [&](int r, int s, float dot) {
                         const int t = u.from + r;
                         p[r * P + s] = s < t ? page.rate[t] * dot * expf(float(page.b[t] - page.b[s])) : 0;
                       });
  for (int i = int(threadIdx.x); i < joined; i += threads) {
    for (int t = 0; t < u.from; ++t)
      x[t * joined + i] = i < P ? pool_row(a.rows_x, u, t, u.head)[i] : pool_row(a.rows_w, u, t, u.head)[i - P];
    for (int t = u.from; t < u.to; ++t) {
      float sum = i < P ? float(i == t) : page.rate[t] * expf(float(page.b[t])) * key(a, u, t, i - P);
#pragma unroll 4
      for (int j = 0; j < t; ++j) sum -= p[(t - u.from) * P + j] * x[j * joined + i];
      x[t * joined + i] = sum;
      if (u.leads) (i < P ? pool_row(a.rows_x, u, t, u.head)[i] : pool_row(a.rows_w, u, t, u.head)[i - P]) = sum;
    }
  }
  block_sync();
}

FOLIO_DEVICE void outputs(const Args& a, const Unit& u, Page& page, const Scratch& at, float* own) {
  const int n = u.to - u.from, joined = P + a.K;
  float *p = own + at.p, *y = own + at.y;
  const float* x = own + at.x;
  product<false, true>(page, n, u.to, a.K, [&](int r, int d) { return query(a, u, u.from + r, d); },
                       [&](int d, int s) { return key(a, u, s, d); },
                       [&](int r, int s, float dot) {
                         const int t = u.from + r;
                         const float by = a.beta ? 1 : weight(a, u, t, level_of(t, s));
                         p[r * P + s] = s > t ? 0 : dot * expf(float(page.b[t] - page.b[s])) * by;
                       });
  if (a.beta)
    product<false, false, true>(page, n, joined, u.to, [&](int r, int d) { return p[r * P + d]; },
                                [&](int d, int e) { return x[d * joined + e]; },
                                [&](int r, int e, float sum) {
                                  const int t = u.from + r;
                                  y[r * joined + e] = e >= P ? expf(float(page.b[t])) * query(a, u, t, e - P) - sum
                                                             : e <= t ? sum * weight(a, u, t, level_of(t, e)) : 0;
                                }, u.from + 1);
  const float* inner = a.beta ? y : p;
  const int inner_row = a.beta ? joined : P;
  float* o = a.o + (int64_t(u.first) * a.heads + u.head) * a.V + u.column;
  const int64_t o_row = int64_t(a.heads) * a.V;
  product<false, false, true>(page, n, u.columns, u.to, [&](int r, int d) { return inner[r * inner_row + d]; },
                              [&](int d, int e) { return value(a, u, page, d, e); },
                              [&](int r, int e, float sum) { o[r * o_row + e] = sum; }, u.from + 1);
  for (int m = 0; m < a.buckets && u.number >> m; ++m) {
    if (!(u.number >> m & 1) || fine + m >= a.levels) continue;
    const Bucket& bucket = page.bucket[m];
    const float decay = a.beta ? 1 : expf(float(page.c - bucket.c));
    product<false, false>(page, n, u.columns, a.K,
                          [&](int r, int d) {
                            const int t = u.from + r;
                            const float reads = a.beta ? y[r * joined + P + d] : expf(float(page.b[t])) * query(a, u, t, d);
                            return weight(a, u, t, fine + m) * decay * reads;
                          },
                          [&](int d, int e) { return bucket.S[d * bucket.stride + e]; },
                          [&](int r, int e, float sum) { o[r * o_row + e] += sum; });
  }
}

// Mamba-2: the page and the buckets 0 … j−1 become bucket j, in the slab `id` or, if that is −1, in scratch.
FOLIO_DEVICE void fold_chain(const Args& a, const Unit& u, Page& page, float* kept, int id) {
  const int j = lowest_zero(uint64_t(u.number));
  if (threadIdx.x == 0) {
    double c = page.c + page.b[P - 1];
    const float high = float(c), low = float(c - high);
    c = double(high) + low;
    for (int m = 0; m < j; ++m) {
      page.factor[m] = expf(float(c - page.bucket[m].c));
      if (page.bucket[m].kept >= 0) page.kept &= ~(uint64_t(1) << page.bucket[m].kept);
    }
    page.c = c;
    page.to = {nullptr, width, c, id < 0 ? lowest_zero(page.kept) : -1};
    if (id >= 0) {
      page.to.S = matrix(a, u, id, 0), page.to.stride = a.S_row;
      float* sum = a.c + id * a.c_page + u.head * a.c_head;
      if (u.leads) sum[0] = high, sum[1] = low;
    } else {
      page.kept |= uint64_t(1) << page.to.kept;
      page.to.S = kept + int64_t(page.to.kept) * a.K * width;
    }
  }
  block_sync();
  const Bucket& to = page.to;
  product<true, false>(page, a.K, u.columns, P, [&](int i, int s) { return key(a, u, s, i); },
                       [&](int s, int e) { return page.fold[s] * value(a, u, page, s, e); },
                       [&](int i, int e, float sum) {
                         for (int m = 0; m < j; ++m) sum += page.factor[m] * page.bucket[m].S[i * page.bucket[m].stride + e];
                         to.S[i * to.stride + e] = sum;
                       });
  if (threadIdx.x == 0) page.bucket[j] = to;
  block_sync();
}

// Delta rule: every bucket after the page's tokens, the page and the buckets 0 … j−1 as bucket j.
FOLIO_DEVICE void fold_slab(const Args& a, const Unit& u, Page& page, const Scratch& at, float* own, int id) {
  const int j = lowest_zero(uint64_t(u.number)), joined = P + a.K;
  float *x = own + at.x, *moved = own + at.moved, *merged = own + at.sum;
  const float decay = expf(float(page.b[P - 1]));
  for (int m = j; m < a.buckets && (u.number + 1) >> m; ++m) {
    if (m > j && !(u.number >> m & 1)) continue;
    const bool newest = m == j;
    if (newest)
      for (int i = int(threadIdx.x); j > 0 && i < a.K * u.columns; i += threads) {
        float sum = 0;
        for (int l = 0; l < j; ++l) sum += page.bucket[l].S[i / u.columns * page.bucket[l].stride + i % u.columns];
        merged[i / u.columns * width + i % u.columns] = sum;
      }
    block_sync();
    const float* old = newest ? j > 0 ? merged : nullptr : page.bucket[m].S;
    const int64_t old_row = newest ? width : page.bucket[m].stride;
    if (newest)
      product<false, false>(page, P, u.columns, P, [&](int r, int d) { return x[r * joined + d]; },
                            [&](int d, int e) { return value(a, u, page, d, e); },
                            [&](int r, int e, float sum) { moved[r * width + e] = sum; });
    if (old)
      product<false, false>(page, P, u.columns, a.K, [&](int r, int d) { return x[r * joined + P + d]; },
                            [&](int d, int e) { return old[d * old_row + e]; },
                            [&](int r, int e, float sum) { moved[r * width + e] = (newest ? moved[r * width + e] : 0) - sum; });
    if (threadIdx.x == 0)
      page.to = id < 0 ? Bucket{own + at.kept + int64_t(m) * a.K * width, width, 0, -1} : Bucket{matrix(a, u, id, m), a.S_row, 0, -1};
    block_sync();
    const Bucket& to = page.to;
    product<true, false>(page, a.K, u.columns, P, [&](int i, int s) { return key(a, u, s, i); },
                         [&](int s, int e) { return page.fold[s] * moved[s * width + e]; },
                         [&](int i, int e, float sum) { to.S[i * to.stride + e] = sum + (old ? decay * old[i * old_row + e] : 0); });
    if (threadIdx.x == 0) page.bucket[m] = to;
  }
  block_sync();
}

// The run of the sequence, page by page.
FOLIO_DEVICE void walk(const Args& a, Unit& u, int count, Page& page, const Scratch& at, float* own) {
  const int32_t *rows = a.page + u.seq * a.page_seq, *slabs = a.slab + u.seq * a.slab_seq;
  const int begins = a.pos[u.first], end = u.first + count;
  if (threadIdx.x == 0) begin(a, u, begins / P, slabs, page);
  u.number = begins / P;
  u.from = begins % P;
  while (u.first < end) {
    u.to = u.from + end - u.first < P ? u.from + end - u.first : P;
    u.rows = rows[u.number];
    gather(a, u, page);
    if (a.beta) solve(a, u, page, own + at.x, own + at.p);
    outputs(a, u, page, at, own);
    const int next = u.first + u.to - u.from;
    if (u.to == P && (slabs[u.number] >= 0 || next < end)) {
      for (int s = int(threadIdx.x); s < P; s += threads) page.fold[s] = expf(float(page.b[P - 1] - page.b[s]));
      if (a.beta) fold_slab(a, u, page, at, own, slabs[u.number]);
      else fold_chain(a, u, page, own + at.kept, slabs[u.number]);
    }
    u.first = next, u.from = 0, ++u.number;
    block_sync();
  }
}

static __global__ void __launch_bounds__(threads) log_linear(const Args a) {
  FOLIO_SHARED(Page, page, [1]);
  const Scratch at(a.K, a.beta != nullptr, 0);
  float* own = a.scratch + int64_t(blockIdx.x) * a.block_floats;
  for (int t = int(blockIdx.x); t < a.tokens; t += int(gridDim.x))
    for (int i = int(threadIdx.x); a.seq[t] < 0 && i < a.heads * a.V; i += threads) a.o[int64_t(t) * a.heads * a.V + i] = 0;
  for (int i = int(blockIdx.x); i < a.sequences * a.heads * a.parts; i += int(gridDim.x)) {
    Unit u{.seq = i / (a.heads * a.parts), .head = i / a.parts % a.heads};
    u.group = u.head / a.share;
    u.column = i % a.parts * width;
    u.columns = a.V - u.column < width ? a.V - u.column : width;
    u.leads = u.column == 0;
    int there = 0, first = 0;
    for (int t = int(threadIdx.x); t < a.tokens; t += threads)
      if (a.seq[t] == u.seq) {
        ++there;
        first = max(first, a.tokens - t);
      }
    const int count = block_sum(there);
    u.first = a.tokens - block_max(first);
    if (count > 0) walk(a, u, count, page[0], at, own);
  }
}

}  // namespace folio::log_linear
