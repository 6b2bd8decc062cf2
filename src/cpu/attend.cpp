// SPDX-License-Identifier: MIT
// Attend on the CPU. The step's tokens are cut into tiles (neighbours of one sequence) and the keys into spans of 512. Within a
// span a tile takes page after page into a softmax of its own; the spans' sums are then folded in ascending order:
//
//   keys    | page page page page | page page page page | page ...        spans lie at fixed positions, so a token's result
//   sums    |       part 0        |       part 1        | part 2          is the same bits for any threads, chunks or batch
//   whole     = ((part 0 ⊕ part 1) ⊕ part 2) ...      and at last the sink's logit, once
//
// A tile with little to do beside the others (prefill) takes all its spans itself and folds as it goes. One that would keep the
// team waiting (decoding a long text) is split: its parts go to shared slots, worker by worker, and are folded after a barrier;
// if there are more parts than slots, in several rounds. Which of the two it is changes no bit of the result.
#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/simd/simd.h"
#include "cpu/table.h"

namespace folio {

namespace {

constexpr int64_t span_pages = 8, span_tokens = span_pages * page_tokens;
constexpr int64_t rows_wanted = 128;           // of a tile and group: enough to pay for turning a page of keys
constexpr int64_t slot_bytes = 4 << 20;        // of all slots together; fits in the caches that workers share
constexpr int64_t few_rows = 32;               // below this a page is read faster than it is worked on, so it is read in one go
constexpr float nothing = -std::numeric_limits<float>::infinity();

int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Neighbouring tokens of one sequence, and the keys that any of them sees: [0, sink) and [low, high).
struct Tile {
  int32_t first, count, seq;
  int32_t sink, low, high;
  bool split;
  int64_t head_spans() const { return (sink + span_tokens - 1) / span_tokens; }      // those that hold sinks
  int64_t first_span() const { return std::max<int64_t>(low / span_tokens, head_spans()); }
  int64_t spans() const { return head_spans() + std::max<int64_t>(0, (high + span_tokens - 1) / span_tokens - first_span()); }
  int64_t span(int64_t i) const { return i < head_spans() ? i : first_span() + i - head_spans(); }
  int64_t cost() const { return count * int64_t(high - low + sink); }
};

// Whether values are the keys' first numbers (latents of MLA).
bool shares(const Attend& op) {
  return op.k.data == op.v.data && op.v.dim(3) <= op.k.dim(3) && std::equal(op.k.stride, op.k.stride + 3, op.v.stride);
}

// How the scratch is laid out. Every part begins at a multiple of 64 bytes.
struct Layout {
  int64_t groups, heads, padded;               // G, heads of a group, Dv up to a multiple of 16
  bool shared;                                 // values are the keys' first numbers (MLA)
  int64_t width;                               // D
  int64_t tile_tokens, part_rows;
  int64_t slot_floats;
  int64_t state, slots, own, own_tiles, own_limits, own_packed, own_buffer, own_part, own_bytes, total;

  Layout(const Attend& op, int workers) {
    const int64_t tokens = op.q.dim(0);
    groups = op.k.dim(2);
    heads = op.q.dim(1) / groups;
    padded = up(op.v.dim(3), 16);
    shared = shares(op);
    width = op.q.dim(2);
    tile_tokens = std::clamp<int64_t>(rows_wanted / std::max<int64_t>(heads, 1), 1, std::max<int64_t>(tokens, 1));
    part_rows = std::max(tile_tokens * heads, std::min(tile_tokens * heads, few_rows) * groups);
    const int64_t spans = op.page.dim(1) / span_pages + 1;
    const int64_t largest = part_floats(tile_tokens * heads * groups);
    slot_floats = std::min(part_floats(tokens * heads * groups) * spans, std::max(slot_bytes / 4, 2 * workers * largest));
    state = 0;
    slots = state + up(2 * tokens * op.q.dim(1) * 4, 64);
    own = slots + up(slot_floats * 4, 64);
    own_tiles = 0;
    own_limits = own_tiles + up(tokens * int64_t(sizeof(Tile)), 64);
    own_packed = own_limits + up(4 * tile_tokens * 4, 64);
    own_buffer = own_packed + up((shared ? groups * packed(tile_tokens * heads) : part_rows * width) * 4, 64);
    own_part = own_buffer + (shared ? shared_buffer(tile_tokens * heads) : (width + padded) * page_tokens) * 4;
    own_bytes = own_part + up(part_floats(part_rows) * 4, 64);
    total = own + own_bytes * workers;
  }
  int64_t part_floats(int64_t rows) const { return up(rows * (padded + 2), 16); }
  int64_t packed(int64_t rows) const { return shared ? shared_packed(rows, width) : rows * width; }   // floats of a group's packed queries
};

// A piece of work: a tile's groups, over all its keys (span −1) or over its span number `span`, whose part goes to `slot`.
struct Unit {
  int64_t tile, span, group, groups;
  float* slot;
};

// Memory for the sums of `groups` groups: all outputs, then all m and l. The unit at hand fills it from group `first` on.
struct Part {
  float* at;
  int64_t groups, first;
};

class Attention {
 public:
  Attention(const Attend& op, Worker w) : op_(op), w_(w), at_(op, w.count), tokens_(op.q.dim(0)) {
    std::byte* own = w.scratch + at_.own + at_.own_bytes * w.index;
    m_ = reinterpret_cast<float*>(w.scratch + at_.state);
    l_ = m_ + tokens_ * op.q.dim(1);
    slots_ = reinterpret_cast<float*>(w.scratch + at_.slots);
    tiles_ = reinterpret_cast<Tile*>(own + at_.own_tiles);
    limits_ = reinterpret_cast<int32_t*>(own + at_.own_limits);
    packed_ = reinterpret_cast<float*>(own + at_.own_packed);
    buffer_ = reinterpret_cast<float*>(own + at_.own_buffer);
    part_ = reinterpret_cast<float*>(own + at_.own_part);
  }
  void run();

 private:
  // Where a walk over all units stands, which ends when the slots are full. The last tile comes first: it has the most keys.
  struct Walk {
    int64_t tile, span = 0, group = 0, used = 0;
  };
  bool next(Walk& walk, Unit& unit) const;
  int64_t claim() { return w_.team ? w_.next() : claimed_++; }
  void make_tiles();
  void decide();
  void whole_tile(const Unit& unit);
  void one_span(const Unit& unit, int64_t span, const Part& part, bool further);
  void one_page(const Unit& unit, int64_t p, const Part& part, int64_t ahead);
  void fold_slots(Walk walk);
  void finish(const Tile& tile, int64_t group, int64_t from, int64_t to);

  void prepare(const Unit& unit);
  AttendQueries queries(const Tile& tile, int64_t group, int64_t packed) const;
  AttendWhole whole(const Tile& tile, int64_t group) const;
  AttendSum sum(const Tile& tile, const Part& part, int64_t i) const {
    const int64_t rows = tile.count * at_.heads, group = part.first + i;
    float* m = part.at + part.groups * rows * at_.padded + group * rows * 2;
    return {part.at + group * rows * at_.padded, m, m + rows, int(at_.padded)};
  }
  int64_t page_id(const Tile& tile, int64_t p) const { return op_.page.row<int32_t>(tile.seq)[p]; }
  int64_t last_page(const Tile& tile) const { return (std::max(tile.high, tile.sink) + page_tokens - 1) / page_tokens; }

  const Attend& op_;
  const Worker w_;
  const Layout at_;
  const int64_t tokens_;
  int64_t count_ = 0, claimed_ = 0;
  int64_t prepared_tile_ = -1, prepared_group_ = -1;
  int64_t parts_ = 1;        // into how many units the groups of a small tile go
  float *m_, *l_;            // [G, T·heads]: of the op's rows
  float* slots_;
  Tile* tiles_;
  int32_t* limits_;          // first, end, sinked, pos of the tile's tokens
  float *packed_, *buffer_, *part_;
};

void Attention::make_tiles() {
  const int32_t* seq = op_.seq.at<int32_t>();
  const int64_t capacity = op_.page.dim(1) * page_tokens;
  for (int64_t t = 0; t < tokens_; ++t) {
    const Attend::Span keys = op_.span(t);
    const int32_t sink = int32_t(std::max<int64_t>(keys.sinked, 0)), low = int32_t(std::min(keys.first, capacity));
    const int32_t high = int32_t(std::clamp<int64_t>(keys.end, 0, capacity));
    if (count_ > 0 && tiles_[count_ - 1].seq == seq[t] && tiles_[count_ - 1].count < at_.tile_tokens) {
      Tile& tile = tiles_[count_ - 1];
      ++tile.count;
      tile.sink = std::max(tile.sink, sink);
      tile.low = std::min(tile.low, low);
      tile.high = std::max(tile.high, high);
    } else {
      tiles_[count_++] = {int32_t(t), 1, seq[t], sink, low, high, false};
    }
  }
}

// Splits what would keep the team waiting, and cuts by groups if there is little to share out.
void Attention::decide() {
  int64_t cost = 0, units = 0;
  for (int64_t i = 0; i < count_; ++i) cost += tiles_[i].cost();
  for (int64_t i = 0; i < count_; ++i) {
    Tile& tile = tiles_[i];
    tile.split = w_.count > 1 && tile.spans() > 1 && tile.cost() * 4 * w_.count > cost;
    units += tile.split ? tile.spans() : 1;
  }
  const int64_t wanted = w_.count > 1 ? 4 * w_.count : 1;
  parts_ = std::clamp<int64_t>((wanted + units - 1) / std::max<int64_t>(units, 1), 1, at_.groups);
}

bool Attention::next(Walk& walk, Unit& unit) const {
  if (walk.tile < 0) return false;
  const Tile& tile = tiles_[walk.tile];
  const int64_t all = at_.groups, floats = tile.split ? at_.part_floats(tile.count * at_.heads * all) : 0;
  if (walk.group == 0) {
    if (walk.used + floats > at_.slot_floats) return false;
    walk.used += floats;
  }
  const int64_t parts = tile.count * at_.heads >= few_rows ? all : parts_;
  const int64_t groups = std::min((all + parts - 1) / parts, all - walk.group);
  unit = {walk.tile, tile.split ? walk.span : -1, walk.group, groups, slots_ + walk.used - floats};
  walk.group += groups;
  if (walk.group < all) return true;
  walk.group = 0;
  if (!tile.split || ++walk.span == tile.spans()) {
    walk.span = 0;
    --walk.tile;
  }
  return true;
}

// What a unit's pages have in common: the tokens' limits and the packed queries of its groups.
void Attention::prepare(const Unit& unit) {
  if (unit.tile == prepared_tile_ && unit.group == prepared_group_) return;   // another span of the same
  prepared_tile_ = unit.tile, prepared_group_ = unit.group;
  const Tile& tile = tiles_[unit.tile];
  const int64_t n = tile.count;
  for (int64_t i = 0; i < n; ++i) {
    const Attend::Span keys = op_.span(tile.first + i);
    limits_[i] = int32_t(std::min<int64_t>(keys.first, tile.high));
    limits_[n + i] = int32_t(std::clamp<int64_t>(keys.end, 0, tile.high));
    limits_[2 * n + i] = int32_t(std::max<int64_t>(keys.sinked, 0));
    limits_[3 * n + i] = op_.pos.at<int32_t>()[tile.first + i];
  }
  const int64_t numbers = at_.packed(n * at_.heads);
  for (int64_t g = 0; g < unit.groups; ++g) simd().attend.pack(queries(tile, unit.group + g, g), packed_ + g * numbers);
}

// `packed`: which of the packed groups it is.
AttendQueries Attention::queries(const Tile& tile, int64_t group, int64_t packed) const {
  const Tensor& q = op_.q;
  const int64_t head = group * at_.heads, n = tile.count;
  const int32_t* limit = limits_;
  const float* slopes = op_.slopes.present() ? op_.slopes.at<float>() + head : nullptr;
  return {q.at<float>() + tile.first * q.stride[0] + head * q.stride[1], q.stride[0], q.stride[1],
          tile.count, int(at_.heads), int(q.dim(2)), limit, limit + n, limit + 2 * n, limit + 3 * n, slopes, op_.scale, op_.softcap,
          packed_ + packed * at_.packed(n * at_.heads), at_.shared};
}

AttendWhole Attention::whole(const Tile& tile, int64_t group) const {
  const Tensor& o = op_.o;
  const int64_t row = (group * tokens_ + tile.first) * at_.heads;
  return {o.at<float>() + tile.first * o.stride[0] + group * at_.heads * o.stride[1], o.stride[0], o.stride[1],
          int(at_.heads), int(o.dim(2)), m_ + row, l_ + row};
}

// Takes page p into the sums of the unit's groups; page id `ahead` is fetched meanwhile.
void Attention::one_page(const Unit& unit, int64_t p, const Part& part, int64_t ahead) {
  const Tile& tile = tiles_[unit.tile];
  const int64_t id = page_id(tile, p), start = p * page_tokens;
  if (id < 0) return;
  const bool sinks = start < tile.sink;
  const int64_t from = sinks ? 0 : std::max<int64_t>(0, tile.low - start);
  const int64_t to = std::min(page_tokens, std::max<int64_t>(tile.high, sinks ? tile.sink : 0) - start);
  if (from >= to) return;
  const AttendInner& inner = simd().attend;
  static_assert(int(F32) == 0 && int(F16) == 1 && int(BF16) == 2);
  const int kind = op_.k.type == Q8_0 ? 3 : int(op_.k.type);
  auto group_of = [&](const Tensor& pool, int64_t page, int64_t g) {
    return pool.data + bytes_of(pool.type, page * pool.stride[0] + g * pool.stride[2]);
  };
  const int64_t k_stride = bytes_of(op_.k.type, op_.k.stride[1]), v_stride = bytes_of(op_.v.type, op_.v.stride[1]);
  for (int64_t i = 0; i < unit.groups; ++i) {
    const int64_t g = unit.group + i;
    const AttendKeys keys = {kind, int(op_.v.dim(3)), group_of(op_.k, id, g), group_of(op_.v, id, g), k_stride, v_stride,
                             ahead >= 0 ? group_of(op_.k, ahead, g) : nullptr, ahead >= 0 ? group_of(op_.v, ahead, g) : nullptr};
    inner.page(queries(tile, g, i), sum(tile, part, i), keys, buffer_, int(start), int(from), int(to));
  }
}

// Leaves the sums over one span in `part`. `further`: this worker goes on to the next span, so its first page is fetched ahead.
void Attention::one_span(const Unit& unit, int64_t span, const Part& part, bool further) {
  const Tile& tile = tiles_[unit.tile];
  const int64_t rows = tile.count * at_.heads, end = std::min((span + 1) * span_pages, last_page(tile));
  for (int64_t i = 0; i < unit.groups; ++i) {
    const AttendSum s = sum(tile, part, i);
    std::fill(s.o, s.o + rows * at_.padded, 0.0f);
    std::fill(s.m, s.m + rows, nothing);
    std::fill(s.l, s.l + rows, 0.0f);
  }
  for (int64_t p = span * span_pages; p < end; ++p) {
    const bool more = p + 1 < (further ? last_page(tile) : end);
    one_page(unit, p, part, more ? page_id(tile, p + 1) : -1);
  }
}

void Attention::whole_tile(const Unit& unit) {
  const Tile& tile = tiles_[unit.tile];
  const int64_t rows = tile.count * at_.heads, spans = tile.seq < 0 ? 0 : tile.spans();
  const Part part = {part_, unit.groups, 0};
  for (int64_t i = 0; i < spans; ++i) {
    one_span(unit, tile.span(i), part, true);
    for (int64_t g = 0; g < unit.groups; ++g) simd().attend.fold(i == 0, sum(tile, part, g), whole(tile, unit.group + g), 0, int(rows));
  }
  for (int64_t g = unit.group; g < unit.group + unit.groups; ++g) {
    if (spans == 0) {
      const AttendWhole to = whole(tile, g);
      for (int64_t r = 0; r < rows; ++r) {
        float* o = to.o + r / at_.heads * to.token_stride + r % at_.heads * to.head_stride;
        std::fill(o, o + to.width, 0.0f);
        to.m[r] = nothing;
        to.l[r] = 0;
      }
    }
    finish(tile, g, 0, rows);
  }
}

// Divides by the sums, the sink's logit among them, and writes their logarithms.
void Attention::finish(const Tile& tile, int64_t group, int64_t from, int64_t to) {
  const AttendWhole sums = whole(tile, group);
  for (int64_t r = from; r < to; ++r) {
    const int64_t token = r / at_.heads, head = r % at_.heads;
    float m = sums.m[r], l = sums.l[r], turn = 1;   // l: 0 without keys; NaN goes on to the output
    if (op_.sink.present() && tile.seq >= 0) {
      const float sink = op_.sink.at<float>()[group * at_.heads + head], most = std::max(m, sink);
      if (most != nothing) {
        turn = std::exp(m - most);
        l = l * turn + std::exp(sink - most);
        m = most;
      }
    }
    simd().attend.scale(sums.o + token * sums.token_stride + head * sums.head_stride, sums.width, l == 0 ? 0 : turn / l);
    op_.lse.at<float>()[(tile.first + token) * op_.lse.stride[0] + group * at_.heads + head] = l == 0 ? nothing : m + std::log(l);
  }
}

// Folds the parts of a round. A row belongs to one worker, which takes its parts in ascending order.
void Attention::fold_slots(Walk walk) {
  constexpr int64_t chunk = 16;
  for (Unit unit; next(walk, unit);) {
    if (unit.span < 0 || unit.group > 0) continue;
    const Tile& tile = tiles_[unit.tile];
    const int64_t rows = tile.count * at_.heads;
    int64_t turn = 0;
    for (int64_t g = 0; g < at_.groups; ++g)
      for (int64_t from = 0; from < rows; from += chunk) {
        if (turn++ % w_.count != w_.index) continue;
        const int64_t to = std::min(from + chunk, rows);
        simd().attend.fold(unit.span == 0, sum(tile, {unit.slot, at_.groups, 0}, g), whole(tile, g), int(from), int(to));
        if (unit.span + 1 == tile.spans()) finish(tile, g, from, to);
      }
  }
}

void Attention::run() {
  make_tiles();
  decide();
  Walk walk{count_ - 1};
  while (walk.tile >= 0) {
    walk.used = 0;
    const Walk begin = walk;
    bool split = false;
    int64_t mine = claim(), i = 0;
    for (Unit unit; next(walk, unit); ++i) {
      split |= unit.span >= 0;
      if (i != mine) continue;
      const Tile& tile = tiles_[unit.tile];
      if (tile.seq >= 0) prepare(unit);
      if (unit.span < 0) whole_tile(unit);
      else one_span(unit, tile.span(unit.span), {unit.slot, at_.groups, unit.group}, false);
      mine = claim();
    }
    if (!split) break;          // without split tiles the slots never fill: this was all
    w_.barrier();
    fold_slots(begin);
    if (walk.tile >= 0) w_.barrier();
  }
}

}  // namespace

int64_t scratch(const Attend& op, int workers) { return Layout(op, workers).total; }
void run(const Attend& op, Worker w) { Attention(op, w).run(); }

}  // namespace folio
