// SPDX-License-Identifier: MIT
// LogLinear on the CPU. A unit of work is a head of a run, or some columns of it when there would be too few units; it walks the
// run page by page with the page's rows gathered in buffers of its own, so that all sums are products of small matrices:
//
//   prefill, decoding, drafts     scores of the new rows, one product with the page, one with each bucket
//   the token that fills a page   the page folded onto the buckets that it swallows: into the page's slab, or, if nobody will go
//                                 on from there, into scratch until a later page swallows it
//
// Columns of v never meet, so units that share a head repeat only its scores and its rows of X and w. A sum has the same order
// however many rows are new and however the columns are cut. A row's sums end with the row: a token that is no number leaves those before
// it alone.
#include <algorithm>
#include <cmath>

#include "cpu/simd/simd.h"
#include "cpu/table.h"

namespace folio {

namespace {

constexpr int64_t P = page_tokens;
constexpr int most_buckets = 40;   // of a text shorter than 2^45 tokens

int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Matrices of scratch that a unit can need at once: for buckets of pages that the run goes on from and nobody keeps.
int64_t kept_matrices(const LogLinear& op) {
  const int64_t pages = op.q.dim(0) < 2 ? 0 : 1 + (op.q.dim(0) - 2) / P;
  return op.beta.present() ? (pages > 0 ? op.buckets() : 0) : std::min<int64_t>(pages, op.buckets());
}

// A worker's buffers, in floats.
struct Layout {
  int64_t K, V, joined;   // joined: a row of X and one of w
  int64_t keys, u, b, rate, x, p, y, read, weighed, sum, moved, kept, total;
  explicit Layout(const LogLinear& op) : K(op.q.dim(2)), V(op.v.dim(2)), joined(op.beta.present() ? P + K : 0) {
    int64_t at = 0;
    auto take = [&](int64_t floats) { return std::exchange(at, at + up(floats, 16)); };
    keys = take(P * K), u = take(P * V), b = take(2 * P), rate = take(P), x = take(P * joined), p = take(P * P), y = take(P * joined);
    read = take(P * K), weighed = take(P * K), sum = take(K * V), moved = take(P * V), kept = take(kept_matrices(op) * K * V);
    total = at;
  }
};

// A bucket's columns, as the page at hand finds it.
struct Bucket {
  float* S;
  int64_t stride;
  double c;    // up to its end
  int kept;    // its place in scratch; −1: it has a slab
};

class Unit {
 public:
  Unit(const LogLinear& op, Worker w)
      : op_(op), at_(op), inner_(simd().log_linear), own_(reinterpret_cast<float*>(w.scratch) + at_.total * w.index),
        delta_(op.beta.present()) {}
  // Columns from .. from + columns − 1 of head h; the first of them also writes what all share.
  void walk(const Run& run, int64_t h, int64_t from, int64_t columns);

 private:
  float* own(int64_t at) const { return own_ + at; }
  float* pool_row(const Tensor& pool, int64_t row, int64_t head) const {
    return pool.row<float>((rows_ * P + row) * pool.dim(2) + head);
  }
  float* matrix(int64_t id, int64_t bucket) const {
    return op_.S.row<float>((id * op_.heads() + h_) * op_.S.dim(2) + bucket * at_.K) + from_;
  }
  bool leads() const { return from_ == 0; }
  void begin(int64_t page, const int32_t* slabs);
  void gather(const Piece& piece);
  // b of the next row, as the float nearest to it and one for the rest.
  void add_decay(int64_t row, float g) {
    b_ = row > 0 ? b_ + g : g;
    own(at_.b)[row] = float(b_);
    own(at_.b)[P + row] = float(b_ - float(b_));
  }
  float decay_to_end(int64_t row) const {
    const float* b = own(at_.b);
    return std::exp((b[P - 1] - b[row]) + (b[2 * P - 1] - b[P + row]));
  }
  void new_row(int64_t t, int64_t row);
  void solve(const Piece& piece);
  void outputs(const Piece& piece);
  void read_buckets(const Piece& piece);
  void fold(int64_t page, int64_t id);
  void fold_chain(int64_t page, int64_t id);
  void fold_slab(int64_t page, int64_t id);
  void onto(const Bucket& to, bool add);
  void product(const float* a, int64_t a_row, int64_t a_depth, const float* b, int64_t b_row, float* o, int64_t o_row, int64_t rows,
               int64_t depth, int64_t columns, bool minus, bool add, int64_t sees = 0) const {
    inner_.product({a, a_row, a_depth, b, b_row, o, o_row, int(rows), int(depth), int(columns), minus, add, int(sees)});
  }

  const LogLinear& op_;
  const Layout at_;
  const LogLinearInner& inner_;
  float* const own_;
  const bool delta_;
  int64_t h_ = 0, group_ = 0, from_ = 0, columns_ = 0, rows_ = 0;   // rows_: the page at hand in the pools of rows
  double c_ = 0;                  // up to the page at hand
  double b_ = 0;                  // within it, up to the last row gathered
  uint64_t kept_ = 0;             // places of scratch that are taken
  Bucket bucket_[most_buckets];   // [m] is there if bit m of the page's number is set
};

void Unit::walk(const Run& run, int64_t h, int64_t from, int64_t columns) {
  h_ = h, group_ = op_.group(h), from_ = from, columns_ = columns;
  c_ = 0, kept_ = 0;
  const int32_t *rows = op_.page.row<int32_t>(run.seq), *slabs = op_.slab.row<int32_t>(run.seq);
  begin(run.pos / P, slabs);
  for (int64_t done = 0; done < run.count;) {
    const Piece piece = piece_at(run, done);
    rows_ = rows[piece.page];
    done += piece.to - piece.from;
    gather(piece);
    if (delta_) solve(piece);
    outputs(piece);
    if (piece.fills() && (slabs[piece.page] >= 0 || done < run.count)) fold(piece.page, slabs[piece.page]);
  }
}

double decay_until(const LogLinear& op, int64_t id, int64_t h) {
  const float* c = op.c.row<float>(id * op.heads() + h);
  return double(c[0]) + c[1];
}

void Unit::begin(int64_t page, const int32_t* slabs) {
  if (page > 0 && !delta_) c_ = decay_until(op_, slabs[page - 1], h_);
  for (int64_t full = page; full > 0; full &= full - 1) {
    const int m = std::countr_zero(uint64_t(full));
    if (m >= op_.buckets()) break;
    const int64_t id = slabs[delta_ ? page - 1 : full - 1];
    bucket_[m] = {matrix(id, delta_ ? m : 0), op_.S.stride[2], delta_ ? 0 : decay_until(op_, id, h_), -1};
  }
}

// The page's rows side by side; the new ones go to the pools, too.
void Unit::gather(const Piece& piece) {
  const int64_t K = at_.K;
  for (int64_t row = 0; row < piece.from; ++row) {
    std::copy_n(pool_row(op_.rows_k, row, group_), K, own(at_.keys) + row * K);
    std::copy_n(pool_row(op_.rows_u, row, h_) + from_, columns_, own(at_.u) + row * columns_);
    add_decay(row, *pool_row(op_.rows_g, row, h_));
    if (!delta_) continue;
    std::copy_n(pool_row(op_.rows_x, row, h_), P, own(at_.x) + row * at_.joined);
    std::copy_n(pool_row(op_.rows_w, row, h_), K, own(at_.x) + row * at_.joined + P);
  }
  for (int64_t row = piece.from; row < piece.to; ++row) new_row(piece.first + row - piece.from, row);
}

void Unit::new_row(int64_t t, int64_t row) {
  const int64_t K = at_.K;
  const float *key = op_.k.row<float>(t * op_.k.dim(1) + group_), *value = op_.v.row<float>(t * op_.heads() + h_) + from_;
  const float rate = delta_ ? op_.beta.row<float>(t)[h_] : 1;
  const float decay = op_.g.row<float>(t)[h_];
  float* u = own(at_.u) + row * columns_;
  std::copy_n(key, K, own(at_.keys) + row * K);
  for (int64_t e = 0; e < columns_; ++e) u[e] = rate * value[e];
  std::copy_n(u, columns_, pool_row(op_.rows_u, row, h_) + from_);
  add_decay(row, decay);
  own(at_.rate)[row] = rate;
  if (!leads()) return;
  *pool_row(op_.rows_g, row, h_) = decay;
  if (h_ % (op_.heads() / op_.k.dim(1)) == 0) std::copy_n(key, K, pool_row(op_.rows_k, row, group_));
}

// New rows of X and w by forward substitution, eight at a time: first all earlier rows, then each other.
void Unit::solve(const Piece& piece) {
  const int64_t K = at_.K, n = piece.to - piece.from, J = at_.joined;
  float *keys = own(at_.keys), *b = own(at_.b), *p = own(at_.p), *x = own(at_.x);
  inner_.scores(keys + piece.from * K, K, keys, b, own(at_.rate) + piece.from, p, int(piece.from), int(n), int(piece.to), int(K), false);
  for (int64_t t = piece.from; t < piece.to; ++t) {
    const float factor = own(at_.rate)[t] * std::exp(b[t]);
    std::fill_n(x + t * J, P, 0.0f);
    x[t * J + t] = 1;
    for (int64_t i = 0; i < K; ++i) x[t * J + P + i] = factor * keys[t * K + i];
  }
  for (int64_t first = piece.from, last; first < piece.to; first = last) {
    last = std::min(first + 8, piece.to);
    const float* L = p + (first - piece.from) * P;
    product(L, P, 1, x, J, x + first * J, J, last - first, first, J, true, true);
    for (int64_t t = first + 1; t < last; ++t)
      product(L + (t - first) * P + first, P, 1, x + first * J, J, x + t * J, J, 1, t - first, J, true, true);
  }
  for (int64_t t = piece.from; leads() && t < piece.to; ++t) {
    std::copy_n(x + t * J, P, pool_row(op_.rows_x, t, h_));
    std::copy_n(x + t * J + P, K, pool_row(op_.rows_w, t, h_));
  }
}

void Unit::outputs(const Piece& piece) {
  const int64_t K = at_.K, n = piece.to - piece.from, J = at_.joined;
  const float* q = op_.q.row<float>(piece.first * op_.q.dim(1) + group_);
  float *a = own(at_.p), *y = own(at_.y);
  inner_.scores(q, op_.q.stride[0], own(at_.keys), own(at_.b), nullptr, a, int(piece.from), int(n), int(piece.to), int(K), true);
  if (delta_) product(a, P, 1, own(at_.x), J, y, J, n, piece.to, J, false, false, piece.from + 1);
  const int64_t a_row = delta_ ? J : P;
  if (delta_) a = y;
  for (int64_t r = 0; r < n; ++r) {
    const int64_t t = piece.from + r;
    const float decay = std::exp(own(at_.b)[t]);
    for (int64_t i = 0; i < K; ++i) own(at_.read)[r * K + i] = decay * q[r * op_.q.stride[0] + i] - (delta_ ? y[r * J + P + i] : 0);
    a[r * a_row + t] *= op_.weight(piece.first + r, h_, 0);
    for (int m = 0; m + 1 < LogLinear::fine; ++m) {   // a level of rows before t for each bit of t
      if (!(t >> m & 1)) continue;
      const float weight = op_.weight(piece.first + r, h_, m + 1);
      float* const level = a + r * a_row + (t >> (m + 1) << (m + 1));
      for (int64_t s = 0; s < int64_t(1) << m; ++s) level[s] *= weight;
    }
  }
  product(a, a_row, 1, own(at_.u), columns_, op_.o.row<float>(piece.first * op_.heads() + h_) + from_, op_.heads() * at_.V, n, piece.to,
          columns_, false, false, piece.from + 1);
  read_buckets(piece);
}

void Unit::read_buckets(const Piece& piece) {
  const int64_t K = at_.K, n = piece.to - piece.from;
  for (int m = 0; m < op_.buckets() && piece.page >> m; ++m) {
    if (!(piece.page >> m & 1) || LogLinear::fine + m >= op_.lambda.dim(2)) continue;
    const float decay = delta_ ? 1 : std::exp(float(c_ - bucket_[m].c));
    for (int64_t r = 0; r < n; ++r) {
      const float weight = op_.weight(piece.first + r, h_, LogLinear::fine + m) * decay;
      for (int64_t i = 0; i < K; ++i) own(at_.weighed)[r * K + i] = weight * own(at_.read)[r * K + i];
    }
    product(own(at_.weighed), K, 1, bucket_[m].S, bucket_[m].stride, op_.o.row<float>(piece.first * op_.heads() + h_) + from_,
            op_.heads() * at_.V, n, K, columns_, false, true);
  }
}

void Unit::fold(int64_t page, int64_t id) { delta_ ? fold_slab(page, id) : fold_chain(page, id); }

// to (+)= Σ_s (k_s e^(b_63 − b_s))ᵀ moved_s
void Unit::onto(const Bucket& to, bool add) {
  for (int64_t s = 0; s < P; ++s) {
    const float decay = decay_to_end(s);
    for (int64_t e = 0; e < columns_; ++e) own(at_.moved)[s * columns_ + e] *= decay;
  }
  product(own(at_.keys), 1, at_.K, own(at_.moved), columns_, to.S, to.stride, at_.K, P, columns_, false, add);
}

void Unit::fold_chain(int64_t page, int64_t id) {
  const int j = std::countr_one(uint64_t(page));   // buckets 0 … j−1 are there and are swallowed
  double c = c_ + b_;
  const float high = float(c), low = float(c - high);
  c = double(high) + low;
  const float* from[most_buckets];
  int64_t stride[most_buckets];
  float factor[most_buckets];
  for (int m = 0; m < j; ++m) {
    from[m] = bucket_[m].S, stride[m] = bucket_[m].stride, factor[m] = std::exp(float(c - bucket_[m].c));
    if (bucket_[m].kept >= 0) kept_ &= ~(uint64_t(1) << bucket_[m].kept);
  }
  Bucket to{id < 0 ? nullptr : matrix(id, 0), op_.S.stride[2], c, -1};
  if (id < 0) {
    to.kept = std::countr_one(kept_);
    kept_ |= uint64_t(1) << to.kept;
    to.S = own(at_.kept) + to.kept * at_.K * at_.V, to.stride = columns_;
  } else if (leads()) {
    float* sum = op_.c.row<float>(id * op_.heads() + h_);
    sum[0] = high, sum[1] = low;
  }
  if (j > 0) inner_.sum(to.S, to.stride, from, stride, factor, j, int(at_.K), int(columns_));
  std::copy_n(own(at_.u), P * columns_, own(at_.moved));
  onto(to, j > 0);
  bucket_[j] = to;
  c_ = c;
}

void Unit::fold_slab(int64_t page, int64_t id) {
  const int64_t K = at_.K, J = at_.joined;
  const int j = std::countr_one(uint64_t(page)), C = op_.buckets();
  float *x = own(at_.x), *sum = own(at_.sum), *moved = own(at_.moved);
  const float decay = std::exp(own(at_.b)[P - 1]);
  // m's matrix `old`, if there is one, after this page's tokens, and with the page's own if it is bucket j.
  auto put = [&](int m, const float* old, int64_t old_stride) {
    const Bucket to = {id < 0 ? own(at_.kept) + m * K * columns_ : matrix(id, m), id < 0 ? columns_ : op_.S.stride[2], 0, -1};
    if (m == j) product(x, J, 1, own(at_.u), columns_, moved, columns_, P, P, columns_, false, false);
    if (old) {
      product(x + P, J, 1, old, old_stride, moved, columns_, P, K, columns_, true, m == j);
      inner_.sum(to.S, to.stride, &old, &old_stride, &decay, 1, int(K), int(columns_));
    }
    onto(to, old != nullptr);
    bucket_[m] = to;
  };
  if (j < C) {
    const float* from[most_buckets];
    int64_t stride[most_buckets];
    float ones[most_buckets];
    for (int m = 0; m < j; ++m) from[m] = bucket_[m].S, stride[m] = bucket_[m].stride, ones[m] = 1;
    if (j > 0) inner_.sum(sum, columns_, from, stride, ones, j, int(K), int(columns_));
    put(j, j > 0 ? sum : nullptr, columns_);
  }
  for (int m = j + 1; m < C && page >> m; ++m)
    if (page >> m & 1) put(m, bucket_[m].S, bucket_[m].stride);
}

}  // namespace

int64_t scratch(const LogLinear& op, int workers) { return Layout(op).total * 4 * workers; }

void run(const LogLinear& op, Worker w) {
  int64_t runs = 0, claimed = 0;
  each_run(op.seq, op.pos, [&](const Run&, int64_t) { ++runs; });
  const int64_t heads = op.heads(), V = op.v.dim(2), whole = std::max<int64_t>(runs * heads, 1);
  const int64_t wanted = w.count > 1 ? (2 * w.count + whole - 1) / whole : 1;
  const int64_t columns = std::max<int64_t>(up((V + wanted - 1) / wanted, 16), 16), parts = (V + columns - 1) / columns;
  Unit unit(op, w);
  for (int64_t item; (item = w.team ? w.next() : claimed++) < runs * heads * parts;)
    each_run(op.seq, op.pos, [&](const Run& run, int64_t index) {
      if (index != item / (heads * parts)) return;
      const int64_t from = item % parts * columns;
      unit.walk(run, item / parts % heads, from, std::min(columns, V - from));
    });
  for (int64_t t : w.share(op.seq.dim(0)))
    if (op.seq.at<int32_t>()[t] < 0) std::fill_n(op.o.row<float>(t * heads), heads * V, 0.0f);
}

}  // namespace folio
