// SPDX-License-Identifier: MIT
// The inner loops of Attend: pointers and numbers only. Implemented in attend_inner.h, put together in cpu/attend.cpp.
#pragma once
#include <stdint.h>

namespace folio {

// The query rows of a tile that read the same key group. Row r is token r / heads, head r % heads of the group.
struct AttendQueries {
  const float* q;                   // token 0, the group's first head
  int64_t token_stride, head_stride;
  int tokens, heads, width;         // width: D
  const int32_t *first, *end, *sinked, *pos;   // of each token: its keys are [0, sinked) and [first, end)
  const float* slopes;              // of the group's heads; null: no ALiBi
  float scale, softcap;
  const float* packed;              // what `pack` has made of q: as many floats as q has; if shared, shared_packed()
  bool shared;                      // values are the keys' first numbers
};

// A page of one group, bytes from key to key, and the page that comes next, fetched meanwhile (null: none).
struct AttendKeys {
  int kind;                         // 0 f32, 1 f16, 2 bf16; 3 q8_0, if shared
  int value_width;
  const void *k, *v;                // equal: values are the keys' first numbers (latents of MLA)
  int64_t k_stride, v_stride;
  const void *k_ahead, *v_ahead;
};

// Shared keys: rows go in groups of 16, and numbers of a key, padded to a multiple of 16, 64 at a time (attend_shared_inner.h).
constexpr int shared_rows = 16, shared_numbers = 64;
inline int64_t attend_pitch(int64_t width) { return (width + 15) / 16 * 16; }
inline int64_t up_to_group(int64_t rows) { return (rows + shared_rows - 1) / shared_rows * shared_rows; }
inline int64_t shared_packed(int64_t rows, int64_t width) { return up_to_group(rows) * attend_pitch(width); }
inline int64_t shared_buffer(int64_t rows) { return 64 * shared_numbers + 65 * up_to_group(rows); }

// A softmax under way: o = Σ e^(s − m)·v unnormalised, m = the highest logit so far, l = Σ e^(s − m).
struct AttendSum {
  float* o;                         // rows of `width` floats, a multiple of 16
  float *m, *l;
  int width;
};

// The same where the op's output lies: row r is o + (r / heads)·token_stride + (r % heads)·head_stride, `width` floats.
struct AttendWhole {
  float* o;
  int64_t token_stride, head_stride;
  int heads, width;
  float *m, *l;
};

struct AttendInner {
  void (*pack)(const AttendQueries&, float* packed);
  // Takes the keys from <= key < to of the page that begins at token `start` into the sum.
  // buffer: 64 · (D + the sum's width) floats; if shared, shared_buffer() of the rows.
  void (*page)(const AttendQueries&, const AttendSum&, const AttendKeys&, float* buffer, int start, int from, int to);
  // Joins a part of the keys into the whole, rows from <= r < to. begin: the whole is empty yet, nothing of it is read.
  void (*fold)(bool begin, const AttendSum& part, const AttendWhole&, int from, int to);
  void (*scale)(float* o, int width, float by);
};

}  // namespace folio
