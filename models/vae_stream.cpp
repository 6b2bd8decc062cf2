// SPDX-License-Identifier: MIT
#include "models/vae_stream.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "graph/plan.h"

namespace folio {

namespace {

constexpr int64_t least_rows = 8;   // of a band: more than any block reaches beyond it

// Rows [from, to) of a value.
struct Span {
  int64_t from = 0, to = 0;
  bool empty() const { return to <= from; }
  void cover(const Span& other) { *this = empty() ? other : Span{std::min(from, other.from), std::max(to, other.to)}; }
};

// Rows of x that rows `out` of a step's output are made of; and the rows of y that it puts out from those.
Span needed(const VaeStep& s, const Span& out) {
  const auto down = [](int64_t n, int64_t by) { return n >= 0 ? n / by : -((by - 1 - n) / by); };
  const auto up = [&](int64_t n, int64_t by) { return -down(-n, by); };
  switch (s.kind) {
    case VaeStep::Kind::clamp: return out;
    case VaeStep::Kind::shuffle: return {down(out.from, s.factor), up(out.to, s.factor)};
    case VaeStep::Kind::unshuffle: return {out.from * s.factor, out.to * s.factor};
    case VaeStep::Kind::norm: break;   // units that have one are not cut
    case VaeStep::Kind::conv:
      if (s.up == 2) return {down(out.from, 2) - 1, up(out.to, 2) + 1};
      return {out.from * s.stride - s.size / 2, (out.to - 1) * s.stride - s.size / 2 + s.size};
  }
  return out;
}
Span made(const VaeStep& s, const Span& in) {
  switch (s.kind) {
    case VaeStep::Kind::shuffle: return {in.from * s.factor, in.to * s.factor};
    case VaeStep::Kind::unshuffle: return {in.from / s.factor, in.to / s.factor};
    case VaeStep::Kind::conv:
      if (s.up == 2) return {(in.from + 1) * 2, (in.to - 1) * 2};
      return {(in.from + s.size / 2) / s.stride, (in.to - s.size + s.size / 2) / s.stride + 1};
    default: return in;
  }
}

// Rows of each value of a unit that rows `out` of its output need, its input first.
std::vector<Span> needs(const VaeUnit& unit, const Span& out) {
  std::vector<Span> need(unit.steps.size() + 1);
  need.back() = out;
  for (size_t i = unit.steps.size(); i-- > 0;) {
    const VaeStep& s = unit.steps[i];
    const Span in = needed(s, need[i + 1]);
    need[size_t(s.x)].cover(in);
    if (s.add >= 0) need[size_t(s.add)].cover(made(s, in));
  }
  return need;
}

int64_t padded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Rows [from, to) of a frame [1, rows, cols, C] whose first row is `begin`.
Tensor rows_of(const Tensor& t, int64_t begin, const Span& rows) {
  const Tensor cut = t.reshape({t.dim(1), t.dim(2), t.dim(3)}).slice(rows.from - begin, rows.to - rows.from);
  return cut.reshape({1, cut.dim(0), cut.dim(1), cut.dim(2)});
}

}  // namespace

// Records units on one graph: values in buffers by their rows.
class VaeStream::Recorder {
 public:
  Recorder(Graph& graph, const VaeStream& stream) : graph_(graph), stream_(stream) {
    int64_t most = 0;
    for (const Buffer& b : stream.values_) most = std::max(most, b.rows + 2 * b.margin);
    std::vector<int32_t> numbers(static_cast<size_t>(padded(most, page_tokens)));
    zeros_ = graph.constant("zeros", I32, {int64_t(numbers.size())}, numbers.data());
    std::iota(numbers.begin(), numbers.end(), 0);
    count_ = graph.constant("count", I32, {int64_t(numbers.size())}, numbers.data());
  }

  Tensor rows(const Buffer& b, const Span& span) const {
    const int64_t row = b.cols * b.channels;
    return Tensor::of(F32, {1, span.to - span.from, b.cols, b.channels},
                      stream_.memory_ + b.offset + (span.from + b.margin) * row * int64_t(sizeof(float)));
  }
  Tensor all(const Buffer& b) const { return rows(b, {0, b.rows}); }
  // What a unit remembers; absent if it is nothing.
  Tensor past(size_t unit) const {
    const Buffer& b = stream_.past_[unit];
    const int64_t frames = stream_.net_.units()[unit].late ? 2 : 1;
    return b.rows > 0 ? all(b).reshape({frames, b.rows / frames, b.cols, b.channels}) : Tensor{};
  }

  // Rows from row `at` on := x [1, n, cols, C].
  void store(const Buffer& b, int64_t at, const Tensor& x) const {
    if (x.dim(1) == 0) return;
    const int64_t row = b.cols * b.channels, pages = padded(b.rows + 2 * b.margin, page_tokens) / page_tokens;
    const Tensor pool = Tensor::of(F32, {pages, page_tokens, 1, row}, stream_.memory_ + b.offset);
    graph_.record(Append{.x = x.reshape({x.dim(1), 1, row}), .page = count_.slice(0, pages).reshape({1, pages}),
                         .seq = zeros_.slice(0, x.dim(1)), .pos = count_.slice(at + b.margin, x.dim(1)), .pool = pool});
  }

  void clear_margins(const Buffer& b) const {
    const Shape shape = {1, b.margin, b.cols, b.channels};
    const std::vector<float> zeros(size_t(shape.count()));
    if (b.margin == 0) return;
    const Tensor t = graph_.constant("margin", F32, shape, zeros.data());
    store(b, -b.margin, t), store(b, b.rows, t);
  }

  // A block whose output takes the place of its input, and its input that of the frame before.
  void in_place(const VaeUnit& unit, const Buffer& x, const Buffer& past, int64_t height) const {
    Tensor before;               // the band above, of which some rows still wait
    int64_t begin = 0, done = 0;
    for (int64_t at = 0; at < x.rows; at += height) {
      const int64_t end = std::min(at + height, x.rows);
      const Tensor y = band(unit, x, &past, x, {at, end}, -1);
      // The next band asks for rows from here on.
      const int64_t free = end == x.rows ? end : std::max<int64_t>(0, needs(unit, {end, std::min(end + height, x.rows)})[0].from);
      if (unit.memory) store(past, done, rows(x, {done, free}));
      if (done < at) store(x, done, rows_of(before, begin, {done, at}));
      store(x, std::max(done, at), rows_of(y, at, {std::max(done, at), free}));
      before = y, begin = at, done = free;
    }
  }

  // Rows `out` of a unit's output. x, past: its input's and the frame before's buffers.
  Tensor band(const VaeUnit& unit, const Buffer& x, const Buffer* past, const Buffer& y, const Span& out, int phase) const {
    const std::vector<Span> need = needs(unit, out);
    std::vector<Tensor> values = {rows(x, need[0])};
    std::vector<Span> have = {need[0]};
    int64_t height = x.rows;
    std::vector<int64_t> heights = {height};
    for (size_t i = 0; i < unit.steps.size(); ++i) {
      const VaeStep& s = unit.steps[i];
      const Span in = needed(s, need[i + 1]), from = made(s, in);
      height = height_behind(s, heights[size_t(s.x)]);
      VaeCut cut{.pad = false, .phase = phase};
      if (s.kind == VaeStep::Kind::conv && (from.from < 0 || from.to > height)) cut.window = window(from, height);
      if (s.add >= 0) cut.add = rows_of(values[size_t(s.add)], have[size_t(s.add)].from, from);
      else if (i + 1 == unit.steps.size() && unit.pool > 1 && phase > 0) cut.add = rows(y, from);
      Tensor t = rows_of(values[size_t(s.x)], have[size_t(s.x)].from, in);
      if (i == 0 && unit.memory) t = both(*past, x, in);
      values.push_back(record_step(graph_, unit, i, t, cut));
      have.push_back(from);
      heights.push_back(height);
    }
    return rows_of(values.back(), have.back().from, out);
  }

 private:
  static int64_t height_behind(const VaeStep& s, int64_t rows) {
    if (s.kind == VaeStep::Kind::shuffle) return rows * s.factor;
    if (s.kind == VaeStep::Kind::unshuffle) return rows / s.factor;
    return s.kind == VaeStep::Kind::conv ? rows * s.up / s.stride : rows;
  }
  Tensor window(const Span& have, int64_t height) const {
    const std::array<int32_t, 2> inside = {int32_t(std::max<int64_t>(0, -have.from)), int32_t(std::min(have.to, height) - have.from)};
    return graph_.constant("window", I32, {2}, inside.data());
  }
  // The same rows of two buffers as a clip of two frames, as far apart as the buffers lie.
  Tensor both(const Buffer& past, const Buffer& now, const Span& span) const {
    Tensor t = rows(past, span);
    t.shape.dim[0] = 2;
    t.stride[0] = (now.offset - past.offset) / int64_t(sizeof(float));
    return t;
  }

  Graph& graph_;
  const VaeStream& stream_;
  Tensor zeros_, count_;
};

VaeStream::VaeStream(const VaeNet& net, Device& device, int64_t rows, int64_t cols, int64_t limit) : net_(net), device_(device) {
  check(rows >= 1 && cols >= 1 && rows <= 1 << 16 && cols <= 1 << 16, "autoencoder: frames of ", cols, " by ", rows, " pixels");
  check(rows % net.down() == 0 && cols % net.down() == 0, "autoencoder: frames of ", cols, " by ", rows, " pixels, expected multiples of ",
        net.down());
  for (size_t u = 0; u < net.units().size(); ++u) {
    const VaeUnit& unit = net.units()[u];
    const bool begins = u == 0 || unit.grow > 1 || unit.late || net.units()[u - 1].pool > 1 || net.units()[u - 1].late;
    if (begins) stages_.push_back({.first = u});
    Stage& stage = stages_.back();
    stage.last = u + 1, stage.grow *= unit.grow, stage.pool *= unit.pool, stage.late = unit.late;
  }
  bool memory = false;
  for (size_t k = stages_.size(); k-- > 0; stages_[k].memory = memory)
    for (size_t u = stages_[k].first; u < stages_[k].last; ++u) memory = memory || net.units()[u].memory || net.units()[u].late;
  lay_out(rows, cols);
  memory_ = device.alloc(memory_bytes_);
  try {
    compile(limit);
    // What a device wants beside its plan is known only then.
    for (int64_t room = limit; limit > 0 && bytes_ > limit; compile(room)) room = std::max<int64_t>(room - (bytes_ - limit), 1);
  } catch (...) {
    device.free(memory_, memory_bytes_);
    throw;
  }
  if (device_.apart()) forget();
}

// A card runs its programs once while they are compiled, and what they remembered then is of no clip.
void VaeStream::forget() const {
  for (const Buffer& b : past_) {
    const std::vector<std::byte> zeros(size_t(b.bytes));
    if (b.rows > 0) device_.upload(memory_ + b.offset, zeros.data(), b.bytes);
  }
}

VaeStream::~VaeStream() {
  for (Stage& stage : stages_) stage.programs.clear();
  device_.free(memory_, memory_bytes_);
}

void VaeStream::lay_out(int64_t rows, int64_t cols) {
  const auto& units = net_.units();
  for (size_t u = 0; u <= units.size(); ++u) {
    Buffer b{.rows = rows, .cols = cols, .channels = u < units.size() ? units[u].in : net_.out()};
    values_.push_back(b);
    home_.push_back(u > 0 && units[u - 1].block ? home_[u - 1] : int(u));
    past_.emplace_back();
    if (u == units.size()) break;
    if (units[u].memory || units[u].late) past_[u] = b, past_[u].rows *= units[u].late ? 2 : 1;
    rows = rows * units[u].up / units[u].down, cols = cols * units[u].up / units[u].down;
  }
  // A margin as wide as any unit that reads the buffer reaches.
  for (size_t u = 0; u < units.size(); ++u) {
    if (units[u].whole) continue;
    Buffer& home = values_[size_t(home_[u])];
    home.margin = std::max(home.margin, -needs(units[u], {0, 1})[0].from);
  }
  int64_t most = 0;
  const auto size = [&](Buffer& b) {
    const int64_t row = b.cols * b.channels * int64_t(sizeof(float));
    b.bytes = padded((b.rows + 2 * b.margin) * row, 256), most = std::max(most, page_tokens * row);
  };
  const auto place = [&](Buffer& b) { b.offset = memory_bytes_, memory_bytes_ += b.bytes; };
  for (size_t u = values_.size(); u-- > 0;) {   // hosts first
    if (past_[u].rows > 0) past_[u].margin = values_[size_t(home_[u])].margin, size(past_[u]), place(past_[u]);
    if (home_[u] != int(u)) continue;
    size(values_[u]), lend(u);
    if (!values_[u].lent) place(values_[u]);
  }
  memory_bytes_ += most;   // Append's last page may reach over the end; its rows there are never touched
}

// A value that no other stage sees may lie in the buffer of a later stage's: that one's frames come after it and are gone before it comes
// again, if no stage waits for frames. Set beside the margins of its host, whose zeros nobody else may touch.
void VaeStream::lend(size_t u) {
  const auto stage = std::find_if(stages_.begin(), stages_.end(), [&](const Stage& s) { return s.first < u && u < s.last; });
  if (net_.pool() > 1 || stage == stages_.end() || home_[stage->last] == int(u)) return;
  Buffer& b = values_[u];
  for (size_t v = stage->last + 1; v < values_.size() && !b.lent; ++v) {
    Buffer& host = values_[v];
    const int64_t row = host.cols * host.channels * int64_t(sizeof(float));
    const int64_t begin = padded(host.offset + host.margin * row, 256), end = host.offset + (host.margin + host.rows) * row;
    if (home_[v] == int(v) && !host.lent && !host.hosts && begin + b.bytes <= end) b.offset = begin, b.lent = host.hosts = true;
  }
  if (b.lent) b.bytes = 0;
}

std::unique_ptr<Graph> VaeStream::record_whole(const Stage& stage, int phase) const {
  auto graph = std::make_unique<Graph>();
  const Recorder recorder(*graph, *this);
  Tensor x = recorder.all(buffer(stage.first));
  for (size_t u = stage.first; u < stage.last; ++u) {
    x = record_unit(*graph, net_.units()[u], x, recorder.past(u), phase, recorder.all(buffer(u + 1)));
  }
  recorder.store(buffer(stage.last), 0, x);
  return graph;
}

std::unique_ptr<Graph> VaeStream::record_bands(const Stage& stage, int phase, int64_t tile) const {
  auto graph = std::make_unique<Graph>();
  const Recorder recorder(*graph, *this);
  for (size_t u = stage.first; u < stage.last; ++u) {
    const VaeUnit& unit = net_.units()[u];
    const Buffer &x = buffer(u), &y = buffer(u + 1);
    if (y.lent && !unit.block) recorder.clear_margins(y);
    if (unit.whole) {
      recorder.store(y, 0, record_unit(*graph, unit, recorder.all(x), recorder.past(u), phase, {}));
      continue;
    }
    const int64_t row = y.cols * y.channels * int64_t(sizeof(float));
    const int64_t height = std::max(least_rows, tile / row / 2 * 2);   // even: a band of an enlarged image wastes no row
    if (unit.block) {
      recorder.in_place(unit, x, past_[u], height);
      continue;
    }
    for (int64_t at = 0; at < y.rows; at += height)
      recorder.store(y, at, recorder.band(unit, x, nullptr, y, {at, std::min(at + height, y.rows)}, phase));
  }
  return graph;
}

void VaeStream::compile(int64_t limit) {
  if (device_.apart()) frame_.resize(size_t(frame_count()));
  int64_t fixed = net_.weight_bytes() + int64_t(frame_.size() * sizeof(float)), used = 0;
  for (const Buffer& b : values_) fixed += b.bytes;
  for (const Buffer& b : past_) fixed += b.bytes, used += b.bytes;
  struct Recorded {
    std::unique_ptr<Graph> graph;
    std::unique_ptr<Program>* to;
    int64_t bytes;
  };
  std::vector<Recorded> all;
  for (Stage& stage : stages_) {
    stage.programs.resize(size_t(stage.grow * stage.pool));
    const auto graphs = [&](int64_t tile) {
      std::vector<Recorded> out;
      for (int phase = 0; phase < stage.grow * stage.pool; ++phase) {
        auto graph = tile ? record_bands(stage, phase, tile) : record_whole(stage, phase);
        const int64_t bytes = make_plan(*graph).arena;
        out.push_back({std::move(graph), &stage.programs[size_t(phase)], bytes});
      }
      return out;
    };
    const auto most = [](const std::vector<Recorded>& of) {
      return std::max_element(of.begin(), of.end(), [](const auto& a, const auto& b) { return a.bytes < b.bytes; })->bytes;
    };
    auto recorded = graphs(0);
    bool cut = false;
    for (int64_t tile = int64_t(16) << 20; limit > 0 && fixed + most(recorded) > limit; tile /= 2) {
      check(tile > 0, "autoencoder: this size takes ", (fixed + most(recorded)) / 1000000 + 1,
            " MB in the narrowest bands, and the limit is ", limit / 1000000, " MB");
      recorded = graphs(std::max<int64_t>(tile, 1));
      cut = true;
    }
    banded_ = banded_ || cut;
    for (size_t u = stage.first; u <= stage.last; ++u) {
      Buffer& b = values_[size_t(home_[u])];
      b.used = b.used || cut || u == stage.first || u == stage.last;
    }
    std::move(recorded.begin(), recorded.end(), std::back_inserter(all));
  }
  // All values of these graphs are given or temporary. The largest first, so that its memory is that of all.
  std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
  Workspace temporaries;
  int64_t temporary = 0;
  for (Recorded& one : all) {
    *one.to = device_.compile_in(temporaries, std::move(one.graph));
    temporary = std::max(temporary, (*one.to)->arena_bytes());
  }
  for (const Buffer& b : values_) used += b.used ? b.bytes : 0;
  bytes_ = net_.weight_bytes() + used + temporary + int64_t(frame_.size() * sizeof(float));
}

int64_t VaeStream::frame_count() const { return values_.back().rows * values_.back().cols * values_.back().channels; }

void VaeStream::push(const float* frame, int64_t from, const Sink& sink) {
  const Buffer& in = values_.front();
  const int64_t row = in.cols * in.channels * int64_t(sizeof(float));
  device_.upload(memory_ + in.offset + in.margin * row, frame, in.rows * row);
  run(0, from, sink);
}

void VaeStream::finish(int64_t from, const Sink& sink) {
  for (size_t k = 0; k < stages_.size(); ++k) {
    if (!stages_[k].late) continue;
    const Buffer& in = buffer(stages_[k].first);
    const std::vector<float> zeros(size_t(in.rows * in.cols * in.channels));
    device_.upload(memory_ + in.offset + in.margin * in.cols * in.channels * int64_t(sizeof(float)), zeros.data(),
                   int64_t(zeros.size() * sizeof(float)));
    run(k, from, sink);
  }
}

void VaeStream::run(size_t k, int64_t from, const Sink& sink) {
  Stage& stage = stages_[k];
  if (stage.late) {
    stage.programs[0]->run();
    if (std::exchange(stage.begun, true)) behind(k, from, sink);
    return;
  }
  if (stage.pool > 1) {
    stage.programs[size_t(stage.taken)]->run();
    stage.taken = (stage.taken + 1) % stage.pool;
    if (stage.taken == 0) behind(k, from, sink);
    return;
  }
  int64_t frames = 1;   // that one run of this stage leads to
  for (size_t after = k + 1; after < stages_.size(); ++after) frames *= stages_[after].grow;
  for (int phase = 0; phase < stage.grow; ++phase) {
    if (!stage.memory && given_ + frames <= from) {
      given_ += frames;
      continue;
    }
    stage.programs[size_t(phase)]->run();
    behind(k, from, sink);
  }
}

void VaeStream::behind(size_t k, int64_t from, const Sink& sink) {
  if (k + 1 < stages_.size()) return run(k + 1, from, sink);
  if (given_++ < from) return;
  const Buffer& out = buffer(net_.units().size());
  std::byte* at = memory_ + out.offset + out.margin * out.cols * out.channels * int64_t(sizeof(float));
  if (device_.apart()) device_.download(frame_.data(), at, int64_t(frame_.size() * sizeof(float)));
  sink(device_.apart() ? frame_.data() : reinterpret_cast<float*>(at));
}

}  // namespace folio
