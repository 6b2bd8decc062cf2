// SPDX-License-Identifier: MIT
#include "tools/golden/golden.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"

namespace folio::golden {

void Case::expect(const std::string& out, const std::vector<double>& got) {
  const Array want = file.read("out." + out);
  check(want.numbers.size() == got.size(), file.path(), ": 'out.", out, "' is ", want.text(), ", expected ", got.size(), " numbers");
  double most = 0, off = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    most = std::max(most, std::fabs(want.numbers[i]));
    off = larger(off, std::fabs(got[i] - want.numbers[i]));
  }
  const double error = most > 0 ? off / most : off;
  if (compared == 0 || (larger(worst, error) != worst && !std::isnan(worst))) worst = error, where = out;
  ++compared;
}

double Case::meta(const std::string& what) const {
  const Array a = file.read("meta." + what);
  check(a.numbers.size() == 1, file.path(), ": 'meta.", what, "' is ", a.text(), ", expected one number");
  return a.numbers[0];
}

Memory::~Memory() {
  for (const auto& [at, bytes] : blocks_) device_.free(at, bytes);
}

Tensor Memory::zeros(DType type, const Shape& shape) {
  const int64_t bytes = std::max<int64_t>(bytes_of(type, shape.count()), 1);
  blocks_.emplace_back(device_.alloc(bytes), bytes);
  return Tensor::of(type, shape, blocks_.back().first);
}

Tensor Memory::floats(const Shape& shape, const std::vector<float>& numbers) {
  const Tensor t = zeros(F32, shape);
  check(t.count() == int64_t(numbers.size()), "golden: ", numbers.size(), " numbers for ", shape.text());
  device_.upload(t.data, numbers.data(), t.bytes());
  return t;
}

Tensor Memory::ints(const Shape& shape, const std::vector<int32_t>& numbers) {
  const Tensor t = zeros(I32, shape);
  check(t.count() == int64_t(numbers.size()), "golden: ", numbers.size(), " numbers for ", shape.text());
  device_.upload(t.data, numbers.data(), t.bytes());
  return t;
}

std::vector<double> Memory::read(const Tensor& t) const {
  std::vector<float> numbers(static_cast<size_t>(t.count()));
  device_.download(numbers.data(), t.data, t.bytes());
  return {numbers.begin(), numbers.end()};
}

Rows rows_of(const Array& a) {
  check(a.dims.size() == 3 || a.dims.size() == 4, "golden: an input is ", a.text(), ", expected (B, H, T) or (B, H, T, D)");
  const auto B = a.dims[0], H = a.dims[1], T = a.dims[2], D = a.dims.size() == 4 ? a.dims[3] : 1;
  Rows rows{a.dims.size() == 4 ? Shape{H, D} : Shape{H}, std::vector<float>(a.numbers.size())};
  for (int64_t b = 0; b < B; ++b)
    for (int64_t h = 0; h < H; ++h)
      for (int64_t t = 0; t < T; ++t)
        for (int64_t d = 0; d < D; ++d)
          rows.numbers[size_t(((b * T + t) * H + h) * D + d)] = float(a.numbers[size_t(((b * H + h) * T + t) * D + d)]);
  return rows;
}

void l2norm(Rows& rows) {
  const auto width = size_t(rows.row[rows.row.rank - 1]);
  for (size_t at = 0; at < rows.numbers.size(); at += width) {
    double sum = 1e-6;
    for (size_t i = at; i < at + width; ++i) sum += double(rows.numbers[i]) * rows.numbers[i];
    for (size_t i = at; i < at + width; ++i) rows.numbers[i] = float(rows.numbers[i] / std::sqrt(sum));
  }
}

Text::Text(int64_t sequences, int64_t tokens, int64_t begin, std::mt19937_64& random)
    : sequences(sequences),
      tokens(tokens),
      begin(begin),
      most((begin + tokens + page_tokens - 1) / page_tokens),
      pools(sequences * most + 2) {
  for (std::vector<int32_t>* table : {&page, &slab}) {
    table->resize(size_t(pools));
    std::iota(table->begin(), table->end(), 0);
    std::shuffle(table->begin(), table->end(), random);
    table->resize(size_t(sequences * most));
  }
}

std::vector<Step> one_go(const Text& text) {
  Step step;
  for (int64_t b = 0; b < text.sequences; ++b)
    for (int64_t p = text.begin; p < text.end(); ++p) step.seq.push_back(int32_t(b)), step.pos.push_back(int32_t(p));
  return {step};
}

std::vector<Step> in_pieces(const Text& text, std::mt19937_64& random) {
  std::vector<Step> steps;
  std::vector<int64_t> at(size_t(text.sequences), text.begin);
  std::vector<int32_t> order(size_t(text.sequences));
  std::iota(order.begin(), order.end(), 0);
  while (std::any_of(at.begin(), at.end(), [&](int64_t p) { return p < text.end(); })) {
    Step step;
    std::shuffle(order.begin(), order.end(), random);
    for (int32_t b : order) {
      if (random() % 4 == 0) continue;
      int64_t& p = at[size_t(b)];
      const int64_t n = std::min<int64_t>(text.end() - p, 1 + int64_t(random() % (random() % 2 ? 70 : 4)));
      for (int64_t i = 0; i < n; ++i, ++p) step.seq.push_back(b), step.pos.push_back(int32_t(p));
      if (random() % 4 == 0) step.seq.push_back(-1), step.pos.push_back(0);
    }
    if (!step.seq.empty()) steps.push_back(step);
  }
  return steps;
}

Tensor rows_of(Memory& memory, const Rows& rows, const Text& text, const Step& step) {
  const auto width = size_t(rows.row.count());
  check(rows.numbers.size() == size_t(text.sequences * text.tokens) * width, "golden: an input has ", rows.numbers.size(),
        " numbers, expected ", text.sequences * text.tokens, " times ", width);
  std::vector<float> numbers(step.seq.size() * width);
  for (size_t i = 0; i < step.seq.size(); ++i) {
    if (step.seq[i] < 0) continue;
    const auto from = size_t(step.seq[i] * text.tokens + step.pos[i] - text.begin) * width;
    std::copy_n(rows.numbers.begin() + ptrdiff_t(from), width, numbers.begin() + ptrdiff_t(i * width));
  }
  const auto n = int64_t(step.seq.size());
  return memory.floats(rows.row.rank == 2 ? Shape{n, rows.row[0], rows.row[1]} : Shape{n, rows.row[0]}, numbers);
}

void scatter(const std::vector<double>& o, const Text& text, const Step& step, int64_t heads, int64_t width, std::vector<double>& all) {
  all.resize(size_t(text.sequences * heads * text.tokens * width));
  for (size_t i = 0; i < step.seq.size(); ++i)
    for (int64_t h = 0; step.seq[i] >= 0 && h < heads; ++h) {
      const int64_t to = (step.seq[i] * heads + h) * text.tokens + step.pos[i] - text.begin;
      std::copy_n(o.begin() + ptrdiff_t((int64_t(i) * heads + h) * width), width, all.begin() + ptrdiff_t(to * width));
    }
}

}  // namespace folio::golden
