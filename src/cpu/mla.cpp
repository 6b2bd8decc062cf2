// SPDX-License-Identifier: MIT
// Mla on the CPU.
//
//   absorbed   for some tokens at a time: q' = [q·k_up | q_rope] for each head, then Attend (cpu/attend.cpp) with the latents as keys and
//              their first R numbers as values, then v_up on what it put out. All heads share one reading of a page; Attend splits long
//              texts among the workers and joins the parts in one order.
//   expanded   a unit of work is one head of some neighbouring tokens of one sequence: it turns the head's matrices once, then makes page
//              after page into plain keys and values (simd/mla_inner.h) and takes them into one softmax.
//
// The matrices' rows become floats some at a time (for few tokens, as they are used), whatever their format: both orders compute in f32
// with the numbers the weights stand for. A token's result has the same bits for any threads, batch and chunks, as long as the order is
// the same.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/simd/simd.h"
#include "cpu/table.h"

namespace folio {

namespace {

constexpr int64_t absorbed_tokens = 128;   // at a time: what lies between the steps stays in the caches, and 128 pay for unpacking weights
constexpr int64_t expanded_tokens = 512;   // of a unit: they pay for expanding
constexpr int64_t rows_at_once = 16;       // of a matrix
constexpr int64_t few_tokens = 8;          // take a matrix's rows from its bytes: unpacking them would be more work than using them
constexpr float nothing = -std::numeric_limits<float>::infinity();

int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct Sizes {
  int64_t tokens, heads, rank, nope, rope, value;
  int64_t padded_rank, padded_value;   // multiples of 16
  explicit Sizes(const Mla& op)
      : tokens(op.q.dim(0)), heads(op.q.dim(1)), rank(op.rank()), nope(op.q.cols()), rope(op.q_rope.cols()), value(op.v_up.dim(1)),
        padded_rank(up(rank, 16)), padded_value(up(value, 16)) {}
};

// Rows first .. first + 15 of a head's matrix as floats; zeros behind the last.
void unpack_rows(const Tensor& w, int64_t head, int64_t first, int64_t padded, float* to) {
  const std::byte* from = w.data + bytes_of(w.type, head * w.stride[0] + first * w.stride[1]);
  for (int64_t i = 0; i < rows_at_once; ++i, to += padded, from += bytes_of(w.type, w.stride[1])) {
    if (first + i < w.dim(1)) simd().mla.unpack(int(w.type), from, int(w.cols()), int(padded), to);
    else std::fill_n(to, padded, 0.0f);
  }
}

// Counts units of work over the team, from 0 behind each barrier.
class Claims {
 public:
  explicit Claims(const Worker& w) : w_(w) {}
  int64_t next() { return w_.team ? w_.next() : alone_++; }
  void barrier() {
    w_.barrier();
    alone_ = 0;
  }

 private:
  const Worker w_;
  int64_t alone_ = 0;
};

// ---- absorbed

// Scratch: queries and results of the tokens at hand, some rows of weights for each worker, what Attend wants.
struct AbsorbedLayout {
  int64_t tokens, query, result;   // query, result: floats of a token's head
  int64_t at_result, at_rows, rows_bytes, at_attend;

  AbsorbedLayout(const Sizes& s, int workers)
      : tokens(std::min(s.tokens, absorbed_tokens)), query(s.padded_rank + up(s.rope, 16)), result(s.padded_rank),
        at_result(tokens * s.heads * query * 4), at_rows(at_result + tokens * s.heads * result * 4),
        rows_bytes(rows_at_once * s.padded_rank * 4), at_attend(at_rows + workers * rows_bytes) {}
};

// Attention of `count` tokens over the latents; queries and results lie in scratch.
Attend attention(const Mla& op, const AbsorbedLayout& at, float* query, float* result, int64_t first, int64_t count) {
  const Sizes s(op);
  auto of = [&](float* data, int64_t numbers, int64_t width) {
    Tensor t = Tensor::of(F32, {count, s.heads, numbers}, data);
    t.stride[0] = s.heads * width;
    t.stride[1] = width;
    return t;
  };
  Attend a;
  a.q = of(query, s.rank + s.rope, at.query);
  a.o = of(result, s.rank, at.result);
  a.k = a.v = op.latent;
  a.v.shape.dim[3] = s.rank;
  a.page = op.page;
  a.seq = op.seq.slice(first, count);
  a.pos = op.pos.slice(first, count);
  a.lse = op.lse.slice(first, count);
  a.scale = op.scale;
  return a;
}

class Absorbed {
 public:
  Absorbed(const Mla& op, Worker w)
      : op_(op), w_(w), size_(op), at_(size_, w.count), claims_(w), query_(reinterpret_cast<float*>(w.scratch)),
        result_(reinterpret_cast<float*>(w.scratch + at_.at_result)),
        rows_(reinterpret_cast<float*>(w.scratch + at_.at_rows + at_.rows_bytes * w.index)) {}

  void run() {
    for (first_ = 0; first_ < size_.tokens; first_ += at_.tokens) {
      count_ = std::min(at_.tokens, size_.tokens - first_);
      for (int64_t h; (h = claims_.next()) < size_.heads;) absorb(h);
      claims_.barrier();
      Worker inner = w_;
      inner.scratch += at_.at_attend;
      folio::run(attention(op_, at_, query_, result_, first_, count_), inner);
      claims_.barrier();
      for (int64_t h; (h = claims_.next()) < size_.heads;) bring_up(h);
      claims_.barrier();
    }
  }

 private:
  // A matrix of a head with the few tokens at hand.
  static MatmulPart few(const Tensor& w, int64_t h) {
    return {.w = reinterpret_cast<const uint8_t*>(w.data) + bytes_of(w.type, h * w.stride[0]), .w_stride = bytes_of(w.type, w.stride[1]),
            .k = w.cols()};
  }
  void absorb(int64_t h) {
    const float* q = op_.q.at<float>() + first_ * op_.q.stride[0] + h * op_.q.stride[1];
    float* to = query_ + h * at_.query;
    const int64_t stride = size_.heads * at_.query;
    if (count_ <= few_tokens) {
      MatmulPart part = few(op_.k_up, h);
      part.x = reinterpret_cast<const uint8_t*>(q), part.x_stride = op_.q.stride[0] * 4;
      part.rows = int(size_.nope), part.tokens = int(count_), part.out = to, part.out_stride = stride;
      simd().mla.absorb_few(int(op_.k_up.type), part);
    }
    for (int64_t d = 0; count_ > few_tokens && d < size_.nope; d += rows_at_once) {
      unpack_rows(op_.k_up, h, d, size_.padded_rank, rows_);
      simd().mla.absorb(q + d, op_.q.stride[0], int(count_), rows_, int(std::min(rows_at_once, size_.nope - d)), int(size_.padded_rank),
                        d == 0, to, stride);
    }
    const float* rope = op_.q_rope.at<float>() + first_ * op_.q_rope.stride[0] + h * op_.q_rope.stride[1];
    for (int64_t t = 0; t < count_; ++t) std::memcpy(to + t * stride + size_.rank, rope + t * op_.q_rope.stride[0], size_t(size_.rope) * 4);
  }
  void bring_up(int64_t h) {
    MatmulPart part = few(op_.v_up, h);
    part.x = reinterpret_cast<const uint8_t*>(result_ + h * at_.result), part.x_stride = size_.heads * at_.result * 4;
    part.tokens = int(count_), part.out_stride = op_.o.stride[0];
    for (int64_t e = 0; e < size_.value; e += rows_at_once, part.w += rows_at_once * part.w_stride) {
      part.rows = int(std::min(rows_at_once, size_.value - e));
      part.out = op_.o.at<float>() + first_ * op_.o.stride[0] + h * op_.o.stride[1] + e;
      if (count_ <= few_tokens) {
        simd().mla.dots_few(int(op_.v_up.type), part);
        continue;
      }
      unpack_rows(op_.v_up, h, e, size_.padded_rank, rows_);
      MatmulPart floats = part;
      floats.w = reinterpret_cast<const uint8_t*>(rows_), floats.w_stride = size_.padded_rank * 4;
      simd().matmul.f32.few(floats);
    }
  }

  const Mla& op_;
  const Worker w_;
  const Sizes size_;
  const AbsorbedLayout at_;
  Claims claims_;
  float *query_, *result_, *rows_;
  int64_t first_ = 0, count_ = 0;   // the tokens at hand
};

// ---- expanded

// Scratch of a worker.
struct ExpandedLayout {
  int64_t tokens, limits, joined, packed, sums, k_up, v_up, rows, buffer, bytes;

  explicit ExpandedLayout(const Mla& op) {
    const Sizes s(op);
    tokens = std::min(s.tokens, expanded_tokens);
    bytes = 0;
    auto take = [&](int64_t numbers) {
      const int64_t at = bytes;
      bytes += up(numbers * 4, 64);
      return at;
    };
    limits = take(4 * tokens);
    joined = take(tokens * (s.nope + s.rope));
    packed = take(tokens * (s.nope + s.rope));
    sums = take(tokens * (s.padded_value + 2));
    k_up = take(mla_turned_floats(s.nope, s.rank));
    v_up = take(mla_turned_floats(s.value, s.rank));
    rows = take(rows_at_once * s.padded_rank);
    buffer = take(mla_page_floats(s.rank, s.nope, s.rope, s.padded_value, op.latent.type == Q8_0));
  }
};

// Neighbouring tokens of one sequence.
struct Tile {
  int64_t first, count, seq;
};

class Expanded {
 public:
  Expanded(const Mla& op, Worker w) : op_(op), size_(op), at_(op), claims_(w), own_(w.scratch + at_.bytes * w.index) {}

  void run() {
    int64_t mine = claims_.next(), unit = 0;
    for (Tile tile = next(0); tile.count > 0; tile = next(tile.first + tile.count))
      for (int64_t h = 0; h < size_.heads; ++h, ++unit) {
        if (unit != mine) continue;
        if (tile.seq < 0) padding(tile, h);
        else one_head(tile, h);
        mine = claims_.next();
      }
  }

 private:
  Tile next(int64_t first) const {
    const int32_t* seq = op_.seq.at<int32_t>();
    int64_t end = first;
    while (end < size_.tokens && seq[end] == seq[first] && end - first < at_.tokens) ++end;
    return {first, end - first, end > first ? seq[first] : -1};
  }
  float* floats(int64_t at) const { return reinterpret_cast<float*>(own_ + at); }
  float* out(int64_t t, int64_t h) const { return op_.o.at<float>() + t * op_.o.stride[0] + h * op_.o.stride[1]; }
  float& lse(int64_t t, int64_t h) const { return op_.lse.at<float>()[t * op_.lse.stride[0] + h]; }

  void padding(const Tile& tile, int64_t h) const {
    for (int64_t t = tile.first; t < tile.first + tile.count; ++t) {
      std::fill_n(out(t, h), size_.value, 0.0f);
      lse(t, h) = nothing;
    }
  }
  MlaHead turned(int64_t h) const {
    for (const auto& [w, at] : {std::pair{&op_.k_up, at_.k_up}, {&op_.v_up, at_.v_up}})
      for (int64_t d = 0; d < w->dim(1); d += rows_at_once) {
        unpack_rows(*w, h, d, size_.padded_rank, floats(at_.rows));
        simd().mla.turn(floats(at_.rows), size_.padded_rank, int(size_.rank), int(d), floats(at));
      }
    return {int(size_.rank), int(size_.nope), int(size_.rope), int(size_.value), floats(at_.k_up), floats(at_.v_up)};
  }
  // The tile's queries of a head, q and q_rope side by side and packed, and how far each looks back.
  AttendQueries queries(const Tile& tile, int64_t h) const {
    const int64_t width = size_.nope + size_.rope, capacity = op_.page.dim(1) * page_tokens;
    auto* limits = reinterpret_cast<int32_t*>(own_ + at_.limits);
    for (int64_t i = 0; i < tile.count; ++i) {
      const int64_t t = tile.first + i, pos = op_.pos.at<int32_t>()[t];
      limits[i] = limits[2 * tile.count + i] = 0;
      limits[tile.count + i] = int32_t(std::min(pos + 1, capacity));
      limits[3 * tile.count + i] = int32_t(pos);
      float* to = floats(at_.joined) + i * width;
      std::memcpy(to, op_.q.at<float>() + t * op_.q.stride[0] + h * op_.q.stride[1], size_t(size_.nope) * 4);
      std::memcpy(to + size_.nope, op_.q_rope.at<float>() + t * op_.q_rope.stride[0] + h * op_.q_rope.stride[1], size_t(size_.rope) * 4);
    }
    const AttendQueries q = {floats(at_.joined), width, 0, int(tile.count), 1, int(width), limits, limits + tile.count,
                             limits + 2 * tile.count, limits + 3 * tile.count, nullptr, op_.scale, 0, floats(at_.packed), false};
    simd().attend.pack(q, floats(at_.packed));
    return q;
  }
  void one_head(const Tile& tile, int64_t h) const {
    const MlaHead head = turned(h);
    const AttendQueries q = queries(tile, h);
    float* o = floats(at_.sums);
    const AttendSum sum = {o, o + tile.count * size_.padded_value, o + tile.count * (size_.padded_value + 1), int(size_.padded_value)};
    std::fill(sum.o, sum.m, 0.0f);
    std::fill_n(sum.m, tile.count, nothing);
    std::fill_n(sum.l, tile.count, 0.0f);
    const int64_t high = *std::max_element(q.end, q.end + tile.count);
    const int32_t* pages = op_.page.row<int32_t>(tile.seq);
    for (int64_t start = 0; start < high; start += page_tokens) {
      const int64_t id = pages[start / page_tokens];
      if (id < 0) continue;
      const Tensor& rows = op_.latent;
      const MlaPage page = {rows.type == Q8_0 ? 3 : int(rows.type), rows.data + bytes_of(rows.type, id * rows.stride[0]),
                            bytes_of(rows.type, rows.stride[1])};
      simd().mla.page(q, sum, head, page, floats(at_.buffer), int(start), int(std::min(page_tokens, high - start)));
    }
    for (int64_t i = 0; i < tile.count; ++i) {
      const float l = sum.l[i];   // 0 without keys; NaN goes on to the output
      std::memcpy(out(tile.first + i, h), sum.o + i * size_.padded_value, size_t(size_.value) * 4);
      simd().attend.scale(out(tile.first + i, h), int(size_.value), l == 0 ? 0 : 1 / l);
      lse(tile.first + i, h) = l == 0 ? nothing : sum.m[i] + std::log(l);
    }
  }

  const Mla& op_;
  const Sizes size_;
  const ExpandedLayout at_;
  Claims claims_;
  std::byte* own_;
};

}  // namespace

int64_t scratch(const Mla& op, int workers) {
  if (op.expand) return ExpandedLayout(op).bytes * workers;
  const AbsorbedLayout at(Sizes(op), workers);
  return at.at_attend + scratch(attention(op, at, nullptr, nullptr, 0, at.tokens), workers);
}

void run(const Mla& op, Worker w) {
  if (op.expand) Expanded(op, w).run();
  else Absorbed(op, w).run();
}

}  // namespace folio
