// SPDX-License-Identifier: MIT
#include "graph/tensor.h"

#include "base/error.h"

namespace folio {

Shape::Shape(std::initializer_list<int64_t> dims) {
  check(dims.size() <= 4, "shape: at most 4 dimensions, got ", dims.size());
  for (int64_t d : dims) dim[rank++] = d;
}

bool Shape::operator==(const Shape& other) const {
  if (rank != other.rank) return false;
  for (int i = 0; i < rank; ++i)
    if (dim[i] != other.dim[i]) return false;
  return true;
}

int64_t Shape::count() const {
  int64_t n = 1;
  for (int i = 0; i < rank; ++i) n *= dim[i];
  return n;
}

std::string Shape::text() const {
  std::string s = "[";
  for (int i = 0; i < rank; ++i) s += (i ? "," : "") + std::to_string(dim[i]);
  return s + "]";
}

static void set_contiguous(Tensor& t) {
  int64_t s = 1;
  for (int i = t.shape.rank; i-- > 0;) {
    t.stride[i] = s;
    s *= t.shape.dim[i];
  }
}

Tensor Tensor::of(DType type, const Shape& shape, void* data) {
  check(shape.rank == 0 || shape.dim[shape.rank - 1] % format(type).block == 0, "tensor: the last dimension of ", shape.text(),
        " is not a multiple of ", format(type).block, ", the block of ", format(type).name);
  Tensor t;
  t.type = type;
  t.shape = shape;
  t.data = static_cast<std::byte*>(data);
  set_contiguous(t);
  return t;
}

int64_t Tensor::rows() const {
  int64_t n = 1;
  for (int i = 0; i + 1 < shape.rank; ++i) n *= shape.dim[i];
  return n;
}

int64_t Tensor::bytes() const {
  if (shape.rank == 0 || shape.count() == 0) return 0;
  int64_t last = 0;
  for (int i = 0; i + 1 < shape.rank; ++i) last += (shape.dim[i] - 1) * stride[i];
  return bytes_of(type, last) + bytes_of(type, cols());
}

bool Tensor::contiguous() const {
  int64_t s = 1;
  for (int i = shape.rank; i-- > 0;) {
    if (shape.dim[i] != 1 && stride[i] != s) return false;
    s *= shape.dim[i];
  }
  return true;
}

static void move(Tensor& t, int64_t elements) {
  const int64_t bytes = bytes_of(t.type, elements);
  t.offset += bytes;
  if (t.data) t.data += bytes;
}

Tensor Tensor::columns(int64_t from, int64_t n) const {
  check(from >= 0 && n >= 0 && from + n <= cols() && from % format(type).block == 0 && n % format(type).block == 0,
        "tensor: columns ", from, " to ", from + n, " of ", shape.text());
  Tensor v = *this;
  v.shape.dim[v.shape.rank - 1] = n;
  move(v, from);
  return v;
}

Tensor Tensor::slice(int64_t from, int64_t n) const {
  check(from >= 0 && n >= 0 && from + n <= dim(0), "tensor: slice ", from, " to ", from + n, " of ", shape.text());
  Tensor v = *this;
  v.shape.dim[0] = n;
  move(v, from * stride[0]);
  return v;
}

Tensor Tensor::reshape(const Shape& to) const {
  check(contiguous() && to.count() == count(), "tensor: cannot reshape ", shape.text(), " to ", to.text());
  Tensor v = *this;
  v.shape = to;
  set_contiguous(v);
  return v;
}

Tensor Tensor::split_last(int64_t n) const {
  check(rank() < 4 && n > 0 && cols() % n == 0, "tensor: cannot split the last dimension of ", shape.text(), " by ", n);
  Tensor v = *this;
  v.shape.dim[v.shape.rank - 1] = n;
  v.shape.dim[v.shape.rank] = cols() / n;
  v.stride[v.shape.rank - 1] = cols() / n;
  v.stride[v.shape.rank] = 1;
  ++v.shape.rank;
  return v;
}

Tensor Tensor::merge_last() const {
  check(rank() >= 2 && stride[rank() - 2] == cols(), "tensor: cannot merge the last dimensions of ", shape.text());
  Tensor v = *this;
  --v.shape.rank;
  v.shape.dim[v.shape.rank - 1] *= cols();
  v.stride[v.shape.rank - 1] = 1;
  return v;
}

std::byte* Tensor::row_bytes(int64_t i) const {
  bool even = rank() >= 2;   // rows at one distance: most are, and a division costs more than all the rest
  for (int d = 0; d < shape.rank - 2; ++d) even = even && stride[d] == shape.dim[d + 1] * stride[d + 1];
  if (even) return data + bytes_of(type, i * stride[shape.rank - 2]);
  int64_t element = 0;
  for (int d = shape.rank - 2; d >= 0; --d) {
    element += i % shape.dim[d] * stride[d];
    i /= shape.dim[d];
  }
  return data + bytes_of(type, element);
}

}  // namespace folio
