// SPDX-License-Identifier: MIT
// The inner loops of Conv: pointers and numbers only. Implemented in conv_inner.h, put together in cpu/conv.cpp. A chunk is a rectangle of
// output pixels of one frame and one phase. Distances are in floats.
#pragma once
#include <stdint.h>

namespace folio {

// Inputs that meet neighbouring rows of weights: `count` numbers from x on for the chunk's first pixel, x + row for the one below it.
struct ConvPiece {
  const float* x;
  int64_t row;
  int count;
};

// The chunk's results, in place: sums wait there from one block of inputs to the next.
struct ConvOut {
  int rows, cols, width;      // pixels; channels
  float* y;
  int64_t y_row, y_pixel;
  const float* add;           // null: absent
  int64_t add_row, add_pixel;
  const float* bias;          // null: absent
  bool begins, ends;          // with this block
  bool relu;                  // taken at the end
};

// A block of inputs meets a panel of weights.
struct ConvBlock {
  const ConvPiece* pieces;
  int count;
  int64_t step;               // from a pixel's inputs to its neighbour's
  const float* w;             // a panel; for depthwise [taps, channels], rows w_row apart
  int64_t w_row;
  int64_t channel;            // depthwise: from a tap to the next
  ConvOut out;
};

// A row of pixels with few channels, from planes: of each channel a row of numbers that are neighbours in the image.
struct ConvRow {
  const float* x;             // channel 0 of the first pixel, of kernel frame 0
  int64_t frame, plane;       // from kernel frame to frame, from channel to channel
  const int64_t* rows;        // of each kernel row its distance from x
  int from, to;               // kernel frames that are there
  int height, width, channels;// of the kernel; of the input
  const float* w;             // [taps, channels, lot]
  int lot;                    // output channels up to one of the lots that exist
  ConvOut out;                // one row
};

struct ConvInner {
  int panel;                  // channels of a panel of weights
  int thin;                   // so few output channels are done from planes
  int (*lot)(int channels);   // output channels, rounded up
  int (*across)(int lot);     // pixels that a ConvRow may have
  void (*wide)(const ConvBlock&);
  void (*depthwise)(const ConvBlock&);
  void (*row)(const ConvRow&);
  // `rows` rows of `width` <= panel numbers in a format (0 f32, 1 f16, 2 bf16), `stride` numbers apart, into a panel.
  void (*pack)(const void* w, int kind, int64_t stride, int rows, int width, float* panel);
  // `count` pixels of `channels` numbers, `stride` apart, into planes.
  void (*planes)(const float* x, int64_t stride, int count, int channels, float* to, int64_t plane);
};

}  // namespace folio
