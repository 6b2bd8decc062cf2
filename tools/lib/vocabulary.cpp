// SPDX-License-Identifier: MIT
#include "tools/lib/vocabulary.h"

#include <cstring>

#include "base/error.h"

namespace folio {

namespace {

constexpr const char* prefix = "tokenizer.";

// All elements of a tensor of that type and rank.
template <class T> std::vector<T> values(const Weights& w, const Tensor& t, const char* name, DType type, int rank) {
  check(t.type == type && t.rank() == rank, "weights: ", w.path(), ": '", prefix, name, "' is ", format(t.type).name, " ",
        t.shape.text(), ", expected ", format(type).name, " with ", rank, rank == 1 ? " dimension" : " dimensions");
  std::vector<T> out(size_t(t.count()));
  std::memcpy(out.data(), t.data, out.size() * sizeof(T));
  return out;
}

template <class T> std::vector<T> required(const Weights& w, const char* name, DType type) {
  return values<T>(w, w.require(std::string(prefix) + name), name, type, 1);
}

template <class T> std::vector<T> optional(const Weights& w, const char* name, DType type, int rank) {
  const Tensor t = w.find(std::string(prefix) + name);
  return t.present() ? values<T>(w, t, name, type, rank) : std::vector<T>{};
}

bool flag(const Weights& w, const char* name) {
  const int64_t n = w.integer(std::string(prefix) + name, 0);
  check(n == 0 || n == 1, "weights: ", w.path(), ": '", prefix, name, "' is ", n, ", expected 0 or 1");
  return n == 1;
}

std::vector<int64_t> ids(const Weights& w, const char* name) {
  const std::string key = std::string(prefix) + name;
  return w.has(key) ? w.integers(key) : std::vector<int64_t>{};
}

}  // namespace

Vocabulary read_vocabulary(const Weights& w) {
  check(w.has("tokenizer.kind"), "weights: ", w.path(),
        ": it holds no tokenizer; make the file again with convert.py --tokenizer FILE");
  Vocabulary v;
  v.kind = w.text("tokenizer.kind");
  v.normalize = w.text("tokenizer.normalize", "none");
  const auto bytes = required<char>(w, "bytes", U8);
  v.bytes.assign(bytes.begin(), bytes.end());
  v.ends = required<int32_t>(w, "ends", I32);
  v.types = required<uint8_t>(w, "types", U8);
  v.scores = optional<float>(w, "scores", F32, 1);
  v.merges = optional<int32_t>(w, "merges", I32, 2);
  const Tensor merges = w.find("tokenizer.merges");
  check(!merges.present() || merges.cols() == 2, "weights: ", w.path(), ": 'tokenizer.merges' is ", merges.shape.text(),
        ", expected pairs, [M,2]");
  v.split = w.texts("tokenizer.split");
  v.bos = w.integer("tokenizer.bos", -1);
  v.unk = w.integer("tokenizer.unk", -1);
  v.pad = w.integer("tokenizer.pad", -1);
  v.eos = ids(w, "eos");
  v.strip_left = ids(w, "strip_left");
  v.strip_right = ids(w, "strip_right");
  v.add_bos = flag(w, "add_bos");
  v.add_eos = flag(w, "add_eos");
  v.add_space_prefix = flag(w, "add_space_prefix");
  v.ignore_merges = flag(w, "ignore_merges");
  v.clean_spaces = flag(w, "remove_extra_spaces");
  // A token beyond the model's rows would be looked up behind the end of its embedding.
  const int64_t rows = w.integer("vocab", int64_t(v.ends.size()));
  check(int64_t(v.ends.size()) <= rows, "weights: ", w.path(), ": the tokenizer has ", v.ends.size(),
        " tokens, but the model only ", rows);
  return v;
}

}  // namespace folio
