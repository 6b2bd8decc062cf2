// SPDX-License-Identifier: MIT
// The sequence mixers of `bench mixers`, each as an engine would run it: one op over page tables and pools, step after step. Inputs are
// random, as many as a step has tokens, and the same in every step; the gates forget slowly, so that what is old still counts.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "state/cache.h"
#include "tools/lib/bench.h"

namespace folio {

struct MixerSize {
  int64_t heads = 8, width = 64;   // H; K = V = D
};

struct MixerKind {
  enum Op { attend, linear, log_linear, mesa };
  enum Decay { none, constant, head, channel };   // one number a head for all tokens, one a token, one a token and channel
  std::string name;
  Op op;
  Decay decay = none;
  bool delta = false, normalise = false;

  // Operations (2 for a multiply and an add) of all heads: for a text of `tokens`, a multiple of 64; for the token before place `depth`,
  // a multiple of 64, where the Fenwick tree is fullest. Of products within a page only the half that counts is counted. `rounds`: of
  // Mesa's solver, a token.
  double prefill_flops(int64_t tokens, const MixerSize& size, double rounds) const;
  double decode_flops(int64_t depth, const MixerSize& size, double rounds) const;
};

// "linear", "linear elu+1", ... "attention tiled"
const std::vector<MixerKind>& mixer_kinds();
const MixerKind& mixer_kind(const std::string& name);

// Bytes that steps of one length hold: `rows` one for each token that may still be read, and everything beside them: slabs, inputs,
// outputs, scratch.
struct MixerMemory {
  int64_t rows = 0, beside = 0;
};

class MixerRun {
 public:
  // Sequences of up to `context` tokens in steps of up to `chunk`. Throws Error if there is no memory.
  // `layers`: so many in a step, each with memory of its own.
  MixerRun(const MixerKind& kind, const MixerSize& size, Device& device, int64_t context, int64_t chunk, int layers = 1);
  ~MixerRun();

  // Runs a step of `tokens` behind those that are there, of which the first `kept` then count; the seconds that the ops of all layers
  // took. `drafted`: nobody knows yet how many will be kept.
  double step(int64_t tokens, int64_t kept, bool drafted = false);
  // `tokens` count as read, though nothing has been computed. Only where rows are all there is.
  void skip(int64_t tokens);
  void restart();
  int64_t length() const { return seq_.length(); }
  bool rows_only() const { return kind_.op == MixerKind::attend; }
  double rounds() const { return rounds_; }   // Mesa's mean rounds a token, over all steps so far
  MixerMemory memory(int64_t tokens);         // for steps of that many

 private:
  static LayerSpec state(const MixerKind& kind, const MixerSize& size, int64_t context);
  void make_inputs(int64_t chunk);
  void fill_rows();
  Program& program(int64_t tokens);
  void record(Graph& graph, const Step& step, int layer, int64_t tokens);

  MixerKind kind_;
  MixerSize size_;
  Device& device_;
  Cache cache_;
  Seq seq_;
  DeviceTensors given_;
  Tensor q_, k_, v_, g_, beta_, lambda_;   // of a step's tokens
  std::map<int64_t, std::unique_ptr<Program>> programs_;
  double rounds_ = 0, solved_ = 0;
  bool filled_ = false;
};

}  // namespace folio
