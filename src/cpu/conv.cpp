// SPDX-License-Identifier: MIT
// Conv on the CPU. Work is cut into chunks: rectangles of pixels of the input's grid, in which every phase has as many outputs. A worker
// copies the inputs that a chunk meets, with the zeros around them, so that no inner loop knows of edges, and takes phase by phase and
// panel by panel of output channels past them. There is no matrix of all neighbourhoods: along a row a pixel's taps are neighbours in
// memory already, kernel.w·Cin numbers in a row, and a product with a panel of weights is kernel.t·kernel.h such runs.
// Of few output channels, which would leave registers empty, the inputs are copied as planes (simd/conv_inner.h). There they cost more
// beside few sums: so a chunk has several frames and goes down row by row, and keeps only the rows that its next outputs meet.
#include <algorithm>
#include <cstring>

#include "cpu/simd/simd.h"
#include "cpu/table.h"

namespace folio {

namespace {

int64_t ceil_of(int64_t n, int64_t by) { return (n + by - 1) / by; }
int64_t whole_lines(int64_t floats) { return ceil_of(floats, 16) * 16; }

// How the work is cut. Nothing of it shows in a result (simd/conv_inner.h).
struct ConvCut {
  static constexpr int block = 192;                 // rows of a panel of weights in the first-level cache: 24 KiB of AVX-512
  static constexpr int64_t most_pixels = 512;       // of a chunk: a panel's way into the cache is paid by so many
  static constexpr int64_t most_cols = 96;
  static constexpr int most_kernel_rows = 16;       // of planes
  static constexpr int64_t region_floats = 144 << 10;   // of a second-level cache of 1 MiB

  bool planes, direct;                              // direct: 1×1, read where it lies
  int64_t frames, height, width;                    // of a phase's outputs
  int64_t chunk_frames = 1, rows, cols;             // of a chunk
  int64_t in_cols, pitch;                           // of its inputs: pixels of a row; floats of one, or of a channel's plane
  int64_t panels, items, groups;                    // of all channels; panels of all phases, in so many groups
  int lot = 0;

  ConvCut(const Conv& op, int workers) : op_(op) {
    const ConvInner& inner = simd().conv;
    frames = op.y.dim(0) / op.grow, height = op.y.dim(1) / op.up, width = op.y.dim(2) / op.up;
    planes = !op.depthwise() && op.w.cols() <= inner.thin && op.stride.w == 1 && op.kernel.h <= most_kernel_rows;
    direct = !planes && op.kernel.h == 1 && op.kernel.w == 1 && op.pad.h == 0 && op.pad.w == 0 && op.up == 1 && !op.past.present();
    if (planes) lot = inner.lot(int(op.w.cols()));
    cols = ceil_of(width, ceil_of(width, planes ? inner.across(lot) : most_cols));
    if (planes) cols = std::min<int64_t>(width, inner.across(lot));
    rows = std::clamp<int64_t>(planes ? 64 : most_pixels / cols, 1, height);
    if (planes) chunk_frames = std::min<int64_t>(frames, op.kernel.t > 1 ? 8 : 1);
    in_cols = (cols - 1) * op.stride.w + op.kernel.w + op.up - 1;
    pitch = planes ? whole_lines(ceil_of(cols, 16) * 16 + op.kernel.w + op.up - 2) : in_cols * op.x.cols();
    while (chunk_frames > 1 && region() > region_floats) chunk_frames = (chunk_frames + 1) / 2;
    while (rows > 1 && !planes && region() > region_floats) rows = (rows + 1) / 2;
    const int64_t least = std::min(rows, planes ? 8 : std::max<int64_t>(1, most_pixels / 2 / cols));
    while (rows > least && chunks() < 4 * workers) rows = std::max(least, (rows + 1) / 2);
    while (chunk_frames > 1 && chunks() < 2 * workers) chunk_frames = (chunk_frames + 1) / 2;
    panels = planes || op.depthwise() ? 1 : ceil_of(op.w.cols(), inner.panel);
    items = panels * op.phases();
    groups = planes ? 1 : std::min(items, ceil_of(4 * workers, chunks()));
  }
  int64_t met_rows() const { return op_.kernel.h + op_.up - 1; }   // by one row of outputs
  int64_t in_rows() const { return (planes ? 0 : (rows - 1) * op_.stride.h) + met_rows(); }
  int64_t in_frames() const { return (chunk_frames - 1) * op_.stride.t + op_.kernel.t; }
  int64_t row_floats() const { return planes ? op_.x.cols() * pitch : pitch; }
  int64_t frame_floats() const { return in_rows() * row_floats(); }
  int64_t region() const { return direct ? 0 : whole_lines(in_frames() * frame_floats()); }
  int64_t across() const { return ceil_of(width, cols); }
  int64_t down() const { return ceil_of(height, rows); }
  int64_t chunks() const { return ceil_of(frames, chunk_frames) * down() * across(); }
  // Of a worker: weights of its own making, then the chunk's inputs.
  int64_t weights() const {
    if (planes) return whole_lines(op_.w.dim(0) * op_.w.dim(1) * lot);
    if (op_.depthwise()) return op_.w.type == F32 ? 0 : whole_lines(op_.w.count());
    return block * simd().conv.panel;
  }
  int64_t floats() const { return weights() + region() + 16; }

 private:
  const Conv& op_;
};

int kind_of(DType type) { return type == F32 ? 0 : type == F16 ? 1 : 2; }

class ConvWorker {
 public:
  ConvWorker(const Conv& op, const ConvCut& cut, float* scratch)
      : op_(op), cut_(cut), inner_(simd().conv), weights_(scratch), region_(scratch + cut.weights()), channels_(int(op.x.cols())) {
    if (cut.planes) unpack(0, op.w.dim(0) * op.w.dim(1), 0, cut.lot, weights_);
    else if (op.depthwise() && op.w.type != F32)
      for (int64_t i = 0; i < op.w.dim(0); ++i) format(op.w.type).to_float(op.w.row_bytes(i), weights_ + i * op.w.cols(), op.w.cols());
  }
  void run(int64_t unit) {
    const int64_t chunk = unit / cut_.groups, group = unit % cut_.groups;
    n_ = chunk / (cut_.down() * cut_.across()) * cut_.chunk_frames;
    i_ = chunk / cut_.across() % cut_.down() * cut_.rows;
    j_ = chunk % cut_.across() * cut_.cols;
    frames_ = std::min(cut_.chunk_frames, cut_.frames - n_);
    rows_ = std::min(cut_.rows, cut_.height - i_);
    cols_ = std::min(cut_.cols, cut_.width - j_);
    if (cut_.planes) return from_planes();
    if (!cut_.direct) fetch(0, (rows_ - 1) * op_.stride.h + cut_.met_rows());
    for (int64_t item = cut_.items * group / cut_.groups; item < cut_.items * (group + 1) / cut_.groups; ++item) one_item(item);
  }

 private:
  // A panel of one phase: of the chunk's rows those that are inside the window.
  struct Item {
    int f, a, b;
    int64_t channel, from, to;   // first channel; rows
  };

  // The frame of x that tap t of the chunk's output frame n meets.
  int64_t frame(int64_t n, int t) const { return (n_ + n) * op_.stride.t + t - op_.pad.t; }
  bool there(int64_t n, int t) const { return op_.pixel(frame(n, t), 0, 0) != nullptr; }

  // Rows of inputs, counted from the first that the chunk meets.
  void fetch(int64_t from, int64_t to) {
    for (int64_t t = 0; t < (frames_ - 1) * op_.stride.t + op_.kernel.t; ++t) {
      if (!there(0, int(t))) continue;   // nobody asks for it
      float* const at = region_ + t * cut_.frame_floats();
      for (int64_t r = from; r < to; ++r)
        fetch_row(frame(0, int(t)), i_ * op_.stride.h + r - op_.pad.h, at + r % cut_.in_rows() * cut_.row_floats());
    }
  }
  void fetch_row(int64_t n, int64_t row, float* to) const {
    const int64_t first = j_ * op_.stride.w - op_.pad.w, count = (cols_ - 1) * op_.stride.w + op_.kernel.w + op_.up - 1;
    const int64_t from = std::max<int64_t>(first, 0), end = std::min(first + count, op_.x.dim(2));
    const float* x = from < end ? op_.pixel(n, row, from) : nullptr;
    const int64_t stride = n < 0 ? op_.past.stride[2] : op_.x.stride[2], before = from - first, behind = first + count - end;
    if (cut_.planes) {
      if (!x || before > 0 || behind > 0) std::fill_n(to, channels_ * cut_.pitch, 0.0f);
      if (x) inner_.planes(x, stride, int(end - from), channels_, to + before, cut_.pitch);
      return;
    }
    if (!x) {
      std::fill_n(to, count * channels_, 0.0f);
      return;
    }
    std::fill_n(to, before * channels_, 0.0f);
    to += before * channels_;
    if (stride == channels_) std::copy_n(x, (end - from) * channels_, to);
    else
      for (int64_t i = 0; i < end - from; ++i) std::copy_n(x + i * stride, channels_, to + i * channels_);
    std::fill_n(to + (end - from) * channels_, behind * channels_, 0.0f);
  }

  Item item_of(int64_t index) const {
    const int64_t phase = index / cut_.panels;
    Item item{.f = int(phase / (op_.up * op_.up)), .a = int(phase / op_.up % op_.up), .b = int(phase % op_.up),
              .channel = index % cut_.panels * inner_.panel, .from = 0, .to = rows_};
    auto inside = [&](int64_t i) { return op_.inside((i_ + i) * op_.up + item.a); };
    while (item.to > 0 && !inside(item.to - 1)) --item.to;
    while (item.from < item.to && !inside(item.from)) ++item.from;
    return item;
  }
  void one_item(int64_t index) {
    const Item item = item_of(index);
    if (item.from < item.to && op_.depthwise()) depthwise(item, index);
    else if (item.from < item.to) wide(item, index / cut_.panels);
    finish(item);
  }
  // The activations that are not part of the inner loops, on results that lie in a cache yet; and zeros beyond the window.
  void finish(const Item& item) const {
    const ConvOut o = out(item, 0, 0, rows_);
    const bool activates = op_.act != Act::none && op_.act != Act::relu;
    for (int64_t n = 0; n < frames_; ++n)
      for (int64_t i = 0; i < rows_; ++i) {
        const bool inside = i >= item.from && i < item.to;
        for (int64_t j = 0; j < cols_ && (activates || !inside); ++j) {
          float* const at = o.y + n * op_.grow * op_.y.stride[0] + i * o.y_row + j * o.y_pixel;
          if (!inside) std::fill_n(at, o.width, 0.0f);
          else
            simd().matmul.finish({.u = at, .gate = nullptr, .bias = nullptr, .gate_bias = nullptr, .add = nullptr, .y = at, .n = o.width,
                                .act = int(op_.act)});
        }
      }
  }

  ConvOut out(const Item& item, int64_t n, int64_t from, int64_t rows) const {
    auto at = [&](const Tensor& t) {
      return t.at<float>() + ((n_ + n) * op_.grow + item.f) * t.stride[0] + ((i_ + from) * op_.up + item.a) * t.stride[1] +
             (j_ * op_.up + item.b) * t.stride[2] + item.channel;
    };
    const bool adds = op_.add.present();
    const int64_t width = cut_.panels == 1 ? op_.w.cols() : std::min<int64_t>(inner_.panel, op_.w.cols() - item.channel);
    return {.rows = int(rows), .cols = int(cols_), .width = int(width), .y = at(op_.y), .y_row = op_.up * op_.y.stride[1],
            .y_pixel = op_.up * op_.y.stride[2], .add = adds ? at(op_.add) : nullptr, .add_row = adds ? op_.up * op_.add.stride[1] : 0,
            .add_pixel = adds ? op_.up * op_.add.stride[2] : 0, .bias = op_.bias.present() ? op_.bias.at<float>() + item.channel : nullptr,
            .begins = true, .ends = true, .relu = op_.act == Act::relu};
  }

  // Where the inputs of kernel frame t and row r begin.
  ConvPiece piece(const Item& item, int t, int r) const {
    if (cut_.direct) {
      return {op_.pixel(frame(0, t), (i_ + item.from) * op_.stride.h, j_ * op_.stride.w), op_.stride.h * op_.x.stride[1], channels_};
    }
    const int64_t row = item.from * op_.stride.h + r + item.a;
    return {region_ + t * cut_.frame_floats() + row * cut_.pitch + int64_t(item.b) * channels_, op_.stride.h * cut_.pitch,
            op_.kernel.w * channels_};
  }

  // Blocks of inputs go past the item's panel, one after the other; frames that are not there are left out.
  void wide(const Item& item, int64_t phase) {
    ConvPiece pieces[ConvCut::block];
    ConvBlock b{.pieces = pieces, .count = 0, .step = op_.stride.w * (cut_.direct ? op_.x.stride[2] : channels_), .w = weights_,
                .w_row = 0, .channel = 0, .out = out(item, 0, item.from, item.to - item.from)};
    int held = 0;   // rows of the panel
    auto flush = [&](bool ends) {
      b.out.ends = ends;
      inner_.wide(b);
      b.out.begins = false, b.count = 0, held = 0;
    };
    for (int tap = 0; tap < op_.kernel.t * op_.kernel.h; ++tap) {
      if (!there(0, tap / op_.kernel.h)) continue;
      const ConvPiece whole = piece(item, tap / op_.kernel.h, tap % op_.kernel.h);
      const int64_t row = (phase * op_.kernel.t * op_.kernel.h + tap) * op_.kernel.w * channels_;
      for (int done = 0, n; done < whole.count; done += n) {
        if (held == ConvCut::block) flush(false);
        n = std::min(whole.count - done, ConvCut::block - held);
        unpack(row + done, n, item.channel, b.out.width, weights_ + held * inner_.panel);
        pieces[b.count++] = {whole.x + done, whole.row, n};
        held += n;
      }
    }
    flush(true);
  }
  // `rows` rows of weights, counted over taps and inputs: a panel's channels, or all in lots.
  void unpack(int64_t row, int64_t rows, int64_t channel, int width, float* to) const {
    for (int64_t n; rows > 0; row += n, rows -= n) {
      const int64_t tap = row / channels_, k = row % channels_;
      n = std::min(rows, channels_ - k);
      const std::byte* from = op_.w.data + bytes_of(op_.w.type, tap * op_.w.stride[0] + k * op_.w.stride[1] + channel);
      if (cut_.planes) {
        for (int64_t i = 0; i < n; ++i, to += cut_.lot)
          format(op_.w.type).to_float(from + bytes_of(op_.w.type, i * op_.w.stride[1]), to, op_.w.cols());
      } else {
        inner_.pack(from, kind_of(op_.w.type), op_.w.stride[1], int(n), width, to);
        to += n * inner_.panel;
      }
    }
  }

  void depthwise(const Item& item, int64_t phase) {
    ConvPiece pieces[ConvCut::block];
    const bool plain = op_.w.type == F32;
    const int64_t w_row = plain ? op_.w.stride[0] : op_.w.cols();
    ConvBlock b{.pieces = pieces, .count = 0, .step = op_.stride.w * (cut_.direct ? op_.x.stride[2] : channels_), .w = nullptr,
                .w_row = w_row, .channel = channels_, .out = out(item, 0, item.from, item.to - item.from)};
    const float* w = (plain ? op_.w.at<const float>() : weights_) + phase * op_.taps() * w_row;
    const int runs = op_.kernel.t * op_.kernel.h;
    int first = 0;   // of the block; a frame that is not there ends it, too
    auto flush = [&](int next, bool ends) {
      b.out.ends = ends, b.w = w + int64_t(first) * op_.kernel.w * w_row;
      inner_.depthwise(b);
      b.out.begins = false, b.count = 0, first = next;
    };
    for (int run = 0; run < runs; ++run) {
      if (!there(0, run / op_.kernel.h)) {
        if (b.count > 0) flush(run + 1, false);
        first = run + 1;
        continue;
      }
      if (b.count == ConvCut::block) flush(run, false);
      pieces[b.count] = piece(item, run / op_.kernel.h, run % op_.kernel.h);
      pieces[b.count++].count = op_.kernel.w;
    }
    flush(runs, true);
  }

  // Row by row, with the rows met in a ring.
  void from_planes() {
    for (int64_t i = 0, fetched = 0; i < rows_; ++i) {
      const int64_t first = i * op_.stride.h;
      fetch(std::max(fetched, first), first + cut_.met_rows());
      fetched = first + cut_.met_rows();
      for (int64_t phase = 0; phase < cut_.items; ++phase) {
        const Item item = item_of(phase);
        for (int64_t n = 0; n < frames_ && i >= item.from && i < item.to; ++n) one_row(item, phase, n, i);
      }
    }
    for (int64_t phase = 0; phase < cut_.items; ++phase) finish(item_of(phase));
  }
  void one_row(const Item& item, int64_t phase, int64_t n, int64_t i) const {
    int from = 0, to = op_.kernel.t;
    while (from < to && !there(n, from)) ++from;
    while (to > from && !there(n, to - 1)) --to;
    int64_t rows[ConvCut::most_kernel_rows];
    for (int r = 0; r < op_.kernel.h; ++r) rows[r] = (i * op_.stride.h + item.a + r) % cut_.in_rows() * cut_.row_floats();
    inner_.row({.x = region_ + n * op_.stride.t * cut_.frame_floats() + item.b, .frame = cut_.frame_floats(), .plane = cut_.pitch,
                .rows = rows, .from = from, .to = to, .height = op_.kernel.h, .width = op_.kernel.w, .channels = channels_,
                .w = weights_ + phase * op_.taps() * channels_ * cut_.lot, .lot = cut_.lot, .out = out(item, n, i, 1)});
  }

  const Conv& op_;
  const ConvCut& cut_;
  const ConvInner& inner_;
  float *weights_, *region_;
  int channels_;
  int64_t n_ = 0, i_ = 0, j_ = 0, frames_ = 0, rows_ = 0, cols_ = 0;   // of the chunk
};

}  // namespace

int64_t scratch(const Conv& op, int workers) { return workers * ConvCut(op, workers).floats() * int64_t(sizeof(float)); }

void run(const Conv& op, Worker w) {
  const ConvCut cut(op, w.count);
  ConvWorker worker(op, cut, reinterpret_cast<float*>(w.scratch) + w.index * cut.floats());
  const int64_t units = cut.chunks() * cut.groups;
  for (int64_t i = w.team ? w.next() : 0; i < units; i = w.team ? w.next() : i + 1) worker.run(i);
  if (!op.past.present()) return;
  w.barrier();
  op.remember(w);
}

}  // namespace folio
