// SPDX-License-Identifier: MIT
// Linear on CUDA, portable tier, f32 arithmetic. A block takes `columns` values of one head of one sequence and walks its pages: values do
// not mix, so a block has its part of S in shared memory, from the slab it begins with to the last page that fills. The scores of a page
// are made anew by each of a head's blocks, in tiles of 16 rows at multiples of 16:
//
//   keys            64 × K      rows 0 .. of the page; with a decay a channel times the decay up to the tile, or to the page's end
//   near, far       16 × K      q and k of the tile, times scale or −β; with a decay a channel times that from the tile's (near) and from
//                               the page's begin (far), else near alone
//   P, A            16 × 64     scores with q and with k
//   u, S            64, K × columns
//
// A decayed key is wanted for rows before the tile, or when no tile is left: the last 16 rows of `keys` are q_near's, too. So 163 KB, all
// that a block has on sm_80, are enough for K = 256 in every form.
//
// A decay between two rows is the exponential of the sum of what lies between them (ops/linear.h). A row's sums are chains in ascending
// order whatever rows are new, so its bits do not depend on how the step was cut. Thread (x, y) of 32 × 8 has value x of rows y and y + 8.
#include <algorithm>

#include "cuda/lib/kernel.cuh"
#include "cuda/table.h"

namespace folio {

namespace {

constexpr int columns = 32, tile = 16, threads = 256, page = 64;
enum Decay : int { none, constant, scalar, channel };

struct Args {
  const float *q, *k, *v, *g, *beta;     // beta null: no delta rule
  const int *pages, *slabs, *seq, *pos;
  float *rows_k, *rows_u, *rows_g, *S, *z, *o;   // z null: no normaliser
  int64_t q_token, q_group, k_token, k_group, v_token, v_head, g_token, g_head, beta_token, o_token, o_head, pages_seq, slabs_seq;
  int64_t k_page, k_row, k_at, u_page, u_row, u_at, g_page, g_row, g_at, S_slab, S_at, S_row, z_slab, z_at;
  int tokens, share, K, V;               // share: heads of a key group
  Decay decay;
  float scale;
};

struct Arrays {
  float *keys, *q_near, *q_far, *k_near, *k_far, *P, *A, *u, *S, *z, *gate, *until, *norm;
  int pitch;   // of rows of K: odd, so that rows begin in different banks
};
__host__ __device__ Arrays layout(Smem& smem, int K, bool channels, bool delta) {
  Arrays at;
  at.pitch = K | 1;
  const int64_t rows = int64_t(tile) * at.pitch;
  auto one = [&](bool there, float* instead) { return there ? smem.take<float>(rows) : instead; };
  at.keys = smem.take<float>(page * at.pitch);
  at.q_near = one(!channels, at.keys + (page - tile) * at.pitch);
  at.k_near = one(delta, nullptr);
  at.q_far = one(channels, at.q_near);
  at.k_far = one(channels && delta, at.k_near);
  at.P = smem.take<float>(tile * page);
  at.A = delta ? smem.take<float>(tile * page) : nullptr;
  at.u = smem.take<float>(page * columns);
  at.S = smem.take<float>(int64_t(K) * columns);
  at.z = smem.take<float>(K);
  at.gate = smem.take<float>(page);
  at.until = smem.take<float>(page);
  at.norm = smem.take<float>(tile);
  return at;
}

// What of a run lies in one page: rows from .. to − 1, the first of them token `first` of the step.
struct Part {
  int first, from, to;
  int64_t id;   // page of the rows
};

struct Block {
  const Args& a;
  const Arrays at;
  int h, group, column;   // this thread's value, ≥ V where there is none
  bool writes_k, writes_g, writes_z;

  FOLIO_DEVICE bool mine() const { return column < a.V; }
  FOLIO_DEVICE int token(const Part& p, int row) const { return p.first + row - p.from; }
  FOLIO_DEVICE float beta(const Part& p, int row) const { return a.beta ? ld_vec<float>(a.beta + token(p, row) * a.beta_token + h) : 1; }
  FOLIO_DEVICE float key(const Part& p, int row, int c) const {
    if (row >= p.from) return ld_vec<float>(a.k + token(p, row) * a.k_token + group * a.k_group + c);
    return ld_vec<float>(a.rows_k + p.id * a.k_page + row * a.k_row + group * a.k_at + c);
  }
  // What is left of S₀ at a row that is far from the page's begin; with a decay a channel it is in q_far and k_far already.
  FOLIO_DEVICE float rest(int row) const { return a.decay == channel ? 1 : at.until[row]; }
  // Log decay of a row, of channel c if there is one a channel.
  FOLIO_DEVICE float gate(const Part& p, int row, int c) const {
    if (row >= p.from) return ld_vec<float>(a.g + token(p, row) * a.g_token + h * a.g_head + c);
    return ld_vec<float>(a.rows_g + p.id * a.g_page + row * a.g_row + h * a.g_at + c);
  }
};

FOLIO_DEVICE void load_page(const Block& b, const Part& p) {
  const Args& a = b.a;
  for (int i = int(threadIdx.x); i < p.to * a.K; i += threads) {
    const int row = i / a.K, c = i % a.K;
    const bool fresh = row >= p.from;
    if (!fresh && a.decay == channel) continue;   // decay_keys reads them
    const float key = b.key(p, row, c);
    if (a.decay != channel) b.at.keys[row * b.at.pitch + c] = key;
    if (fresh && b.writes_k) st_vec(a.rows_k + p.id * a.k_page + row * a.k_row + b.group * a.k_at + c, key);
    if (fresh && b.writes_g && a.decay == channel) st_vec(a.rows_g + p.id * a.g_page + row * a.g_row + b.h * a.g_at + c, b.gate(p, row, c));
  }
  for (int row = warp_id(); row < p.to; row += threads / 32) {
    float value = 0;
    if (b.mine() && row < p.from) value = ld_vec<float>(a.rows_u + p.id * a.u_page + row * a.u_row + b.h * a.u_at + b.column);
    else if (b.mine()) value = b.beta(p, row) * ld_vec<float>(a.v + b.token(p, row) * a.v_token + b.h * a.v_head + b.column);
    b.at.u[row * columns + lane_id()] = value;
  }
  if (int(threadIdx.x) < p.to) {
    const int row = int(threadIdx.x);
    const float gate = a.decay == constant ? ld_vec<float>(a.g + b.h) : a.decay == scalar ? b.gate(p, row, 0) : 0;
    b.at.gate[row] = gate;
    if (row >= p.from && b.writes_g && a.decay == scalar) st_vec(a.rows_g + p.id * a.g_page + row * a.g_row + b.h * a.g_at, gate);
  }
  block_sync();
  if (int(threadIdx.x) < p.to) {
    const int row = int(threadIdx.x);
    float sum = 0;
    for (int r = 0; a.decay == scalar && r <= row; ++r) sum += b.at.gate[r];
    if (a.decay == constant) sum = b.at.gate[row] * float(row + 1);
    b.at.until[row] = expf(sum);
  }
  block_sync();
}

// Keys of rows 0 .. end − 1 with the decay between them and row end − 1, one a channel. Returns by thread c the sum over all of them.
FOLIO_DEVICE void decay_keys(const Block& b, const Part& p, int end) {
  for (int c = int(threadIdx.x); c < b.a.K; c += threads) {
    float sum = 0;
    for (int s = end - 1; s >= 0; --s) {
      b.at.keys[s * b.at.pitch + c] = b.key(p, s, c) * expf(sum);
      sum += b.gate(p, s, c);
    }
  }
}

// q and k of the tile's new rows.
FOLIO_DEVICE void load_tile(const Block& b, const Part& p, int begin, int from, int to) {
  const Args& a = b.a;
  for (int c = int(threadIdx.x) % 32; c < a.K; c += 32)
    for (int row = from + warp_id(); row < to; row += threads / 32) {
      float near = 0, far = 0;   // of log decays
      for (int r = 0; a.decay == channel && r <= row; ++r) {
        const float gate = b.gate(p, r, c);
        far += gate;
        if (r >= begin) near += gate;
      }
      const int at = (row - begin) * b.at.pitch + c;
      const float q = a.scale * ld_vec<float>(a.q + b.token(p, row) * a.q_token + b.group * a.q_group + c);
      const float k = a.beta ? -b.beta(p, row) * b.key(p, row, c) : 0;
      b.at.q_near[at] = a.decay == channel ? q * expf(near) : q;
      if (a.beta) b.at.k_near[at] = a.decay == channel ? k * expf(near) : k;
      if (a.decay != channel) continue;
      b.at.q_far[at] = q * expf(far);
      if (a.beta) b.at.k_far[at] = k * expf(far);
    }
}

// Scores of the tile's rows with the rows before `end`, each with itself and those before it.
FOLIO_DEVICE void score_tile(const Block& b, int begin, int from, int to, int end) {
  const Args& a = b.a;
  for (int i = int(threadIdx.x); i < (to - from) * page; i += threads) {
    const int row = from + i / page, s = i % page;
    if (s > row || s >= end) continue;
    const float *q = b.at.q_near + (row - begin) * b.at.pitch, *key = b.at.keys + s * b.at.pitch;
    const float* k = a.beta ? b.at.k_near + (row - begin) * b.at.pitch : q;
    float of_q = 0, of_k = 0, sum = 0;
    for (int c = 0; c < a.K; ++c) of_q += q[c] * key[c], of_k += k[c] * key[c];
    for (int r = s + 1; a.decay == scalar && r <= row; ++r) sum += b.at.gate[r];
    if (a.decay == constant) sum = b.at.gate[0] * float(row - s);
    const float by = a.decay == scalar || a.decay == constant ? expf(sum) : 1;
    b.at.P[(row - begin) * page + s] = of_q * by;
    if (a.beta) b.at.A[(row - begin) * page + s] = of_k * by;
  }
}

// The same with the rows of the tile itself, where decays differ by channel: a warp to a row, pair by pair.
FOLIO_DEVICE void score_pairs(const Block& b, const Part& p, int begin, int from, int to) {
  const Args& a = b.a;
  for (int row = from + warp_id(); row < to; row += threads / 32) {
    float of_q[tile] = {}, of_k[tile] = {};
    const float minus = -b.beta(p, row);
    for (int c = lane_id(); c < a.K; c += 32) {
      const float q = a.scale * ld_vec<float>(a.q + b.token(p, row) * a.q_token + b.group * a.q_group + c);
      const float k = minus * b.key(p, row, c);
      float sum = 0;
#pragma unroll
      for (int i = 0; i < tile; ++i) {
        const int s = row - i;
        if (s < begin) continue;
        const float key = b.key(p, s, c) * expf(sum);
        of_q[i] += q * key;
        of_k[i] += k * key;
        sum += b.gate(p, s, c);
      }
    }
#pragma unroll
    for (int i = 0; i < tile; ++i) {
      const float sum_q = warp_sum(of_q[i]), sum_k = warp_sum(of_k[i]);
      if (lane_id() > 0 || row - i < begin) continue;
      b.at.P[(row - begin) * page + row - i] = sum_q;
      if (a.beta) b.at.A[(row - begin) * page + row - i] = sum_k;
    }
  }
}

// scale·q·z + 1e-10 of the tile's rows, a warp to a row.
FOLIO_DEVICE void norms(const Block& b, int begin, int from, int to) {
  for (int row = from + warp_id(); row < to; row += threads / 32) {
    float sum = 0;
    for (int c = lane_id(); c < b.a.K; c += 32) sum += b.at.q_far[(row - begin) * b.at.pitch + c] * b.at.z[c];
    sum *= b.rest(row);
    for (int s = lane_id(); s <= row; s += 32) sum += b.at.P[(row - begin) * page + s];
    sum = warp_sum(sum);
    if (lane_id() == 0) b.at.norm[row - begin] = sum + 1e-10f;
  }
}

// u of the tile's rows: what S and earlier tiles give by all threads, then row after row by one warp, for each waits for those before.
FOLIO_DEVICE void correct_tile(const Block& b, int begin, int from, int to) {
  const int x = lane_id();
  for (int row = from + warp_id(); row < to; row += threads / 32) {
    float sum = 0;
    const float *k = b.at.k_far + (row - begin) * b.at.pitch, *A = b.at.A + (row - begin) * page;
    for (int c = 0; c < b.a.K; ++c) sum += k[c] * b.at.S[c * columns + x];
    sum = b.at.u[row * columns + x] + b.rest(row) * sum;
    for (int s = 0; s < begin; ++s) sum += A[s] * b.at.u[s * columns + x];
    b.at.u[row * columns + x] = sum;
  }
  block_sync();
  for (int row = from; warp_id() == 0 && row < to; ++row) {
    float sum = b.at.u[row * columns + x];
    for (int s = begin; s < row; ++s) sum += b.at.A[(row - begin) * page + s] * b.at.u[s * columns + x];
    b.at.u[row * columns + x] = sum;
  }
  block_sync();
}

FOLIO_DEVICE void write_tile(const Block& b, const Part& p, int begin, int from, int to) {
  const Args& a = b.a;
  const int x = lane_id();
  for (int row = from + warp_id(); row < to; row += threads / 32) {
    const float *q = b.at.q_far + (row - begin) * b.at.pitch, *P = b.at.P + (row - begin) * page;
    float sum = 0;
    for (int c = 0; c < a.K; ++c) sum += q[c] * b.at.S[c * columns + x];
    sum *= b.rest(row);
    for (int s = 0; s <= row; ++s) sum += P[s] * b.at.u[s * columns + x];
    if (!b.mine()) continue;
    st_vec(a.o + b.token(p, row) * a.o_token + b.h * a.o_head + b.column, a.z ? sum / b.at.norm[row - begin] : sum);
    st_vec(a.rows_u + p.id * a.u_page + row * a.u_row + b.h * a.u_at + b.column, b.at.u[row * columns + x]);
  }
}

// S behind a page that is full, and its slab unless that is −1.
FOLIO_DEVICE void fold_page(const Block& b, const Part& p, int64_t slab) {
  const Args& a = b.a;
  if (a.decay == channel) decay_keys(b, p, page);
  block_sync();
  for (int c = warp_id(); c < a.K; c += threads / 32) {
    float rest = b.at.until[page - 1], sum = 0, keys = 0;
    for (int r = 0; a.decay == channel && r < page; ++r) sum += b.gate(p, r, c);
    if (a.decay == channel) rest = expf(sum);
    float S = b.at.S[c * columns + lane_id()] * rest;
    sum = 0;
    for (int s = page - 1; s >= 0; --s) {
      const float key = b.at.keys[s * b.at.pitch + c] * (a.decay == scalar || a.decay == constant ? expf(sum) : 1);
      S += key * b.at.u[s * columns + lane_id()];
      keys += key;
      if (a.decay == scalar) sum += b.at.gate[s];
      if (a.decay == constant) sum = b.at.gate[0] * float(page - s);
    }
    b.at.S[c * columns + lane_id()] = S;
    const float z = b.at.z[c] * rest + keys;
    __syncwarp();
    if (lane_id() == 0) b.at.z[c] = z;
    if (slab < 0) continue;
    if (b.mine()) st_vec(a.S + slab * a.S_slab + b.h * a.S_at + c * a.S_row + b.column, S);
    if (b.writes_z && lane_id() == 0) st_vec(a.z + slab * a.z_slab + b.h * a.z_at + c, z);
  }
}

FOLIO_DEVICE void walk_page(const Block& b, const Part& p) {
  load_page(b, p);
  for (int begin = p.from / tile * tile; begin < p.to; begin += tile) {
    const int from = max(begin, p.from), to = min(begin + tile, p.to);
    const bool channels = b.a.decay == channel;
    load_tile(b, p, begin, from, to);
    if (channels) decay_keys(b, p, begin);
    block_sync();
    score_tile(b, begin, from, to, channels ? begin : page);
    if (channels) score_pairs(b, p, begin, from, to);
    block_sync();
    if (b.a.beta) correct_tile(b, begin, from, to);
    if (b.a.z) norms(b, begin, from, to);
    block_sync();
    write_tile(b, p, begin, from, to);
    block_sync();
  }
}

// The first token from `t` on that is (`same`) or is not one of the run that began at token `first`, if it goes on; tokens, if there is
// none.
FOLIO_DEVICE int find(const Args& a, int sequence, int t, int first, bool same) {
  int at = a.tokens;
  for (int i = t + int(threadIdx.x); i < a.tokens && at == a.tokens; i += threads) {
    const bool here = a.seq[i] == sequence && (same || a.pos[i] == a.pos[first] + i - first);
    if (here == same) at = i;
  }
  return a.tokens - block_max(a.tokens - at);
}

FOLIO_DEVICE void walk_run(const Block& b, int sequence, int first, int count) {
  const Args& a = b.a;
  const int* slabs = a.slabs + sequence * a.slabs_seq;
  const int start = a.pos[first], before = start / page - 1;
  const int64_t slab = before >= 0 ? slabs[before] : -1;
  for (int c = warp_id(); c < a.K; c += threads / 32) {
    const bool there = slab >= 0 && b.mine();
    b.at.S[c * columns + lane_id()] = there ? ld_vec<float>(a.S + slab * a.S_slab + b.h * a.S_at + c * a.S_row + b.column) : 0;
    if (lane_id() == 0) b.at.z[c] = a.z && slab >= 0 ? ld_vec<float>(a.z + slab * a.z_slab + b.h * a.z_at + c) : 0;
  }
  for (int done = 0; done < count;) {
    const int number = (start + done) / page, from = (start + done) % page, to = min(page, from + count - done);
    const Part p{first + done, from, to, a.pages[sequence * a.pages_seq + number]};
    walk_page(b, p);
    done += to - from;
    if (to == page && (done < count || slabs[number] >= 0)) fold_page(b, p, slabs[number]);
    block_sync();
  }
}

// Grid: sequences, heads, slices of the value.
__global__ void __launch_bounds__(threads) linear_runs(Args a, int sequences) {
  Smem smem = Smem::here();
  const int sequence = int(blockIdx.x), h = int(blockIdx.y), slice = int(blockIdx.z);
  const bool first_slice = slice == 0;
  const Block b{a, layout(smem, a.K, a.decay == channel, a.beta != nullptr), h, h / a.share, slice * columns + lane_id(),
                first_slice && h % a.share == 0, first_slice && a.rows_g, first_slice && a.z};
  for (int t = warp_id(); sequence == 0 && t < a.tokens; t += threads / 32)
    if (a.seq[t] < 0 && b.mine()) st_vec(a.o + t * a.o_token + h * a.o_head + b.column, 0.0f);
  for (int t = 0; sequence < sequences;) {
    const int first = find(a, sequence, t, 0, true);
    if (first >= a.tokens) return;
    t = find(a, sequence, first, first, false);
    walk_run(b, sequence, first, t - first);
  }
}

Args arguments(const Linear& op) {
  auto floats = [](const Tensor& t) { return t.present() ? t.at<float>() : nullptr; };
  auto stride = [](const Tensor& t, int d) { return t.present() && t.rank() > d + 1 ? t.stride[d] : 0; };
  const Tensor &q = op.q, &k = op.k, &v = op.v, &g = op.g;
  return {.q = floats(q), .k = floats(k), .v = floats(v), .g = floats(g), .beta = floats(op.beta), .pages = op.page.at<int32_t>(),
          .slabs = op.slab.at<int32_t>(), .seq = op.seq.at<int32_t>(), .pos = op.pos.at<int32_t>(), .rows_k = floats(op.rows_k),
          .rows_u = floats(op.rows_u), .rows_g = floats(op.rows_g), .S = floats(op.S), .z = floats(op.z), .o = floats(op.o),
          .q_token = q.stride[0], .q_group = q.stride[1], .k_token = k.stride[0], .k_group = k.stride[1], .v_token = v.stride[0],
          .v_head = v.stride[1], .g_token = stride(g, 0), .g_head = op.channels() ? g.stride[1] : 1, .beta_token = stride(op.beta, 0),
          .o_token = op.o.stride[0], .o_head = op.o.stride[1], .pages_seq = op.page.stride[0], .slabs_seq = op.slab.stride[0],
          .k_page = op.rows_k.stride[0], .k_row = op.rows_k.stride[1], .k_at = op.rows_k.stride[2], .u_page = op.rows_u.stride[0],
          .u_row = op.rows_u.stride[1], .u_at = op.rows_u.stride[2], .g_page = stride(op.rows_g, 0), .g_row = stride(op.rows_g, 1),
          .g_at = stride(op.rows_g, 2), .S_slab = op.S.stride[0], .S_at = op.S.stride[1], .S_row = op.S.stride[2],
          .z_slab = stride(op.z, 0), .z_at = stride(op.z, 1), .tokens = int(q.dim(0)), .share = int(v.dim(1) / q.dim(1)),
          .K = int(q.dim(2)), .V = int(v.dim(2)),
          .decay = !g.present() ? none : op.constant() ? constant : op.channels() ? channel : scalar, .scale = op.scale};
}

}  // namespace

void run(const Linear& op, const CudaQueue& queue) {
  if (op.o.count() == 0) return;
  const Args args = arguments(op);
  Smem smem;
  layout(smem, args.K, args.decay == channel, args.beta != nullptr);
  queue.expect_shared(smem.bytes(), "linear", join("keys of ", args.K, " numbers"));
  const auto sequences = int(op.page.dim(0));
  const dim3 grid(unsigned(std::max(sequences, 1)), unsigned(op.heads()), unsigned((args.V + columns - 1) / columns));
  launch<linear_runs>({grid, dim3(threads), smem.bytes(), queue.stream}, args, sequences);
}

}  // namespace folio
