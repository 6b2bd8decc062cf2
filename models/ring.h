// SPDX-License-Identifier: MIT
// Attention in pieces: keys and values that are not in one place at one time. Attend over some of the keys gives (o, lse), Merge joins
// two such results in any order, exactly (arXiv 2205.14135, 2310.01889), so that
//   ring_attention     each rank has some tokens of a text; their keys and values go round the ring while the queries stay, and every rank
//                      attends over what it holds at the moment and merges
//   attend_streamed    one device, whose memory holds only some of the keys at once; the others wait in host memory
// are the same loop over pairs (stretch of queries, stretch of keys). A pair of which every key is visible needs no mask, one on the
// diagonal a causal one, others are skipped.
//
// Zigzag (arXiv 2311.09431 has the idea of balancing by place): of 2P equal blocks rank r has r and 2P − 1 − r, so that all ranks have
// equally much to do in each of the P rounds. Contiguous blocks leave rank 0 idle in all rounds but the first.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/ring.h"
#include "graph/device.h"

namespace folio {

enum class RingLayout { contiguous, zigzag };

// Tokens first .. first + count − 1 of a text.
struct Stretch {
  int64_t first = 0, count = 0;
};

// What rank `rank` of `ranks` has of a text of `tokens` tokens: one stretch, or two in ascending order. Any of them may be empty.
std::vector<Stretch> ring_share(RingLayout layout, int64_t tokens, int ranks, int rank);

// What is attended, and how: ops/attend.h. Keys and values travel and are kept as `rows` (F32, F16 or BF16).
struct RingShape {
  int64_t heads = 1, groups = 1, head_size = 64, value_size = 64;
  float scale = 1, softcap = 0;
  int window = 0;
  bool causal = true;
  DType rows = F32;
  int64_t page_bytes() const;   // of a page of keys and one of values
};

// Rows of host memory: q [n, H, D], k [n, G, D], v [n, G, Dv], and o [n, H, Dv], lse [n, H] to be written.
struct RingTensors {
  std::span<const float> q, k, v;
  std::span<float> o, lse;
};

// Seconds spent, and bytes handed on.
struct RingTimes {
  double attend = 0, merge = 0, exchange = 0;
  int64_t bytes_sent = 0, pairs = 0;
};

// This rank's part of the attention over a text of `tokens` tokens; `mine` has the rows of its own tokens, ring_share's stretches one
// after the other. Every rank of the ring calls it once with the same shape, layout and tokens. Throws Error if sizes do not fit.
RingTimes ring_attention(Ring& ring, Device& device, const RingShape& shape, RingLayout layout, int64_t tokens, const RingTensors& mine);

// Attention over a whole text of which the device holds keys and values of at most `kv_bytes` at a time; each of them goes to the device
// once. Throws Error if not even a page fits.
RingTimes attend_streamed(Device& device, const RingShape& shape, int64_t tokens, const RingTensors& all, int64_t kv_bytes);

}  // namespace folio
