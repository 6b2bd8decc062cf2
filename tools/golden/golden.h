// SPDX-License-Identifier: MIT
// Golden numbers of the mixers (NAME_T<tokens>.npz: inputs in float32, results in float64) and what it takes to run an op on
// them as a cache would: pages anywhere in pools, tables that find them, steps that take the tokens in one go or in random pieces.
//
//   files      q, k, v [B, H, T, D]            here, and in the op      [T, H, D], B sequences of T tokens
//   in.S0      state before the first token    here: the slab of page 0; the text then begins in page 1
//
// A family of cases is one function of its own file, named in the table of check_golden.cpp; it calls expect() for each result.
#pragma once
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/larger.h"
#include "graph/device.h"
#include "tools/lib/npz.h"

namespace folio::golden {

// One file and how far from it we are.
class Case {
 public:
  Case(const std::string& path, const std::string& name, Device& device) : file(path), name(name), device(device) {}
  // Notes max|got − want| / max|want|, want being the array "out.NAME". Throws Error if the file's shape is another.
  void expect(const std::string& out, const std::vector<double>& got);
  bool wants(const std::string& out) const { return file.has("out." + out); }
  Array in(const std::string& what) const { return file.read("in." + what); }
  double meta(const std::string& what) const;   // one number

  const Npz file;
  const std::string name;   // without "_T64"
  Device& device;
  double worst = 0;
  std::string where;        // the result that is worst
  int compared = 0;
};

using Check = void (*)(Case&);
void linear(Case&);         // linear.cpp
void mamba2_ssd(Case&);
void log_linear(Case&);     // log_linear.cpp
void mesa(Case&);           // mesa.cpp
void layer(Case&);          // layers.cpp
void short_conv(Case&);
void ring(Case&);           // ring.cpp
void softmax(Case&);        // softmax.cpp

// Memory of a device, given back at the end.
class Memory {
 public:
  explicit Memory(Device& device) : device_(device) {}
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  Tensor zeros(DType type, const Shape& shape);
  Tensor floats(const Shape& shape, const std::vector<float>& numbers);
  Tensor ints(const Shape& shape, const std::vector<int32_t>& numbers);
  std::vector<double> read(const Tensor& t) const;   // a contiguous f32 tensor
  Device& device() { return device_; }

 private:
  Device& device_;
  std::vector<std::pair<std::byte*, int64_t>> blocks_;
};

// What a step brings for each token: [sequences, tokens, row] on the host.
struct Rows {
  Shape row;
  std::vector<float> numbers;
};

// [B, H, T, D] or [B, H, T] as rows [H, D] or [H] of B·T tokens.
Rows rows_of(const Array& heads_first);
// x/√(Σx² + 1e-6) over the last dimension.
void l2norm(Rows& rows);

// B texts of T tokens at the places begin .. begin + T − 1, begin a multiple of 64, and where their pages lie.
struct Text {
  Text(int64_t sequences, int64_t tokens, int64_t begin, std::mt19937_64& random);
  int64_t sequences, tokens, begin, most;   // most: pages of a sequence
  std::vector<int32_t> page, slab;          // [B, most], anywhere among `pools` pages
  int64_t pools;
  int64_t end() const { return begin + tokens; }
};

// Tokens of a step: those of a sequence side by side.
struct Step {
  std::vector<int32_t> seq, pos;
};
// The whole text in one step, or in pieces of 1 to 70 tokens a sequence, any of the sequences in a step, with padding here and there.
std::vector<Step> one_go(const Text& text);
std::vector<Step> in_pieces(const Text& text, std::mt19937_64& random);

// The rows of a step's tokens: [tokens of the step, row]; zeros for padding.
Tensor rows_of(Memory& memory, const Rows& rows, const Text& text, const Step& step);

// Runs an op by itself and reads its output `o` of [T, H, V] f32 back.
template <class Op> std::vector<double> run(Memory& memory, Op op) {
  auto graph = std::make_unique<Graph>();
  graph->output("o", graph->record(op).o);
  const std::unique_ptr<Program> program = memory.device().compile(std::move(graph));
  program->run();
  const Tensor o = program->output("o");
  return {o.at<float>(), o.at<float>() + o.count()};
}

// Puts a step's results where they belong: all is [B, H, T, V] as the files have it.
void scatter(const std::vector<double>& o, const Text& text, const Step& step, int64_t heads, int64_t width, std::vector<double>& all);

}  // namespace folio::golden
