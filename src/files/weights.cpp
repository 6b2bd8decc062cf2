// SPDX-License-Identifier: MIT
// Reads a .folio file: head, then hash of the index, then the index from front to back through a Reader that cannot step over
// its end. Order matters: nothing in the index is believed before its hash agrees, and every number in it is checked all the
// same, for a hash protects from accidents and not from malice.
#include "files/weights.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <new>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"

namespace folio {

static_assert(std::endian::native == std::endian::little, "the data of a .folio file is used as it lies there");

namespace {

constexpr size_t head_bytes = 64, alignment = 256;
constexpr std::string_view magic{"FOLIO\r\n\x1a", 8};

// The least that an entry of the index can take; bounds how many there may be before any are allocated.
constexpr size_t least_metadata = 2 + 1 + 1 + 4;                 // key length, a letter, type, an empty list or text
constexpr size_t least_tensor = 2 + 1 + 1 + 1 + 1 + 4 * 8;       // lengths, letters, rank, one dimension, offset, bytes, hash

constexpr const char* type_names[] = {"an integer", "a real", "a text", "integers", "reals", "texts"};

std::string hex(uint64_t n) {
  std::string s(16, '0');
  for (size_t i = 16; i-- > 0; n >>= 4) s[i] = "0123456789abcdef"[n & 15];
  return s;
}

// Bytes of a stranger, fit for a terminal: cut, and whatever is not plain ASCII as \xNN.
std::string printable(std::string_view s) {
  constexpr size_t most = 64;
  std::string out;
  for (const char c : s.substr(0, most))
    if (c >= 0x20 && c < 0x7f)
      out += c;
    else
      out += "\\x" + hex(uint8_t(c)).substr(14);
  return s.size() > most ? out + "..." : out;
}

// The code point at s[i], i moved past it; -1 if this is not UTF-8 (overlong, surrogate and too large included).
int32_t next_code_point(std::string_view s, size_t& i) {
  const uint8_t first = uint8_t(s[i++]);
  if (first < 0x80) return first;
  const int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
  if (first < 0xc2 || first > 0xf4 || s.size() - i < size_t(more)) return -1;
  int32_t point = first & (0x3f >> more);
  for (int k = 0; k < more; ++k) {
    const uint8_t next = uint8_t(s[i++]);
    if ((next & 0xc0) != 0x80) return -1;
    point = point << 6 | (next & 0x3f);
  }
  const bool overlong = point < (more == 3 ? 0x10000 : more == 2 ? 0x800 : 0x80);
  return overlong || point > 0x10ffff || (point >= 0xd800 && point < 0xe000) ? -1 : point;
}

bool valid_utf8(std::string_view s) {
  for (size_t i = 0; i < s.size();)
    if (next_code_point(s, i) < 0) return false;
  return true;
}

// Names end up in messages and tables: no control characters, C1 included (a terminal obeys both).
bool valid_name(std::string_view s) {
  for (size_t i = 0; i < s.size();) {
    const int32_t point = next_code_point(s, i);
    if (point < 0x20 || (point >= 0x7f && point < 0xa0)) return false;
  }
  return !s.empty();
}

size_t align(size_t n) { return (n + alignment - 1) / alignment * alignment; }

// Takes the index apart. `place` says in errors which entry is being read.
class Reader {
 public:
  Reader(const std::string& path, std::string_view index) : path_(path), rest_(index) {}

  void enter(const char* kind, size_t i, size_t n) { kind_ = kind, i_ = i, n_ = n, name_ = {}; }
  void called(std::string_view name) { name_ = name; }
  size_t left() const { return rest_.size(); }

  template <class... Parts> [[noreturn]] void bad(const Parts&... parts) const {
    std::string place = "index";
    if (n_) place = join(kind_, " ", i_ + 1, " of ", n_);
    if (!name_.empty()) place += " '" + printable(name_) + "'";
    fail("weights: ", path_, ": ", place, ": ", parts...);
  }

  std::string_view take(size_t bytes, const char* what) {
    if (bytes > left()) bad(what, " takes ", bytes, " bytes, but the index ends after ", left());
    const std::string_view taken = rest_.substr(0, bytes);
    rest_.remove_prefix(bytes);
    return taken;
  }

  template <class T> T number(const char* what) {
    T n;
    std::memcpy(&n, take(sizeof n, what).data(), sizeof n);
    return n;
  }

  // A count of things of which each takes at least `least` bytes.
  size_t count(size_t least, const char* what) {
    const size_t n = number<uint32_t>(what);
    if (n > left() / least) bad(what, " is ", n, ", but the ", left(), " bytes left of the index hold at most ", left() / least);
    return n;
  }

  std::string_view name(const char* what) {
    const std::string_view s = take(number<uint16_t>(what), what);
    if (!valid_name(s)) bad(what, " '", printable(s), "' is not a name (UTF-8, not empty, no control characters)");
    return s;
  }

  std::string text() {
    const std::string_view s = take(number<uint32_t>("the text's length"), "the text");
    if (!valid_utf8(s)) bad("the text '", printable(s), "' is not UTF-8");
    return std::string(s);
  }

  double real() {
    const double x = number<double>("the real");
    if (!std::isfinite(x)) bad("the real is not finite");
    return x;
  }

  MetaValue value() {
    const int type = number<uint8_t>("the type");
    switch (type) {
      case 0: return number<int64_t>("the integer");
      case 1: return real();
      case 2: return text();
      case 3: {
        std::vector<int64_t> list(count(8, "the count of integers"));
        for (int64_t& n : list) n = number<int64_t>("the integer");
        return list;
      }
      case 4: {
        std::vector<double> list(count(8, "the count of reals"));
        for (double& x : list) x = real();
        return list;
      }
      case 5: {
        std::vector<std::string> list(count(4, "the count of texts"));
        for (std::string& s : list) s = text();
        return list;
      }
      default: bad("its type is ", type, ", expected 0 to 5");
    }
  }

  // All of a tensor but its data. `from` is where the data has to begin.
  WeightEntry tensor(size_t file_bytes, size_t from) {
    WeightEntry entry;
    called(name("the name"));
    entry.name = name_;
    const std::string_view named = take(number<uint8_t>("the format's length"), "the format");
    DType type;
    if (!parse_dtype(named, type)) bad("its format '", printable(named), "' is not known to this program");
    const Shape shape = this->shape(type);
    const int64_t bytes = shape_bytes(type, shape);

    const uint64_t offset = number<uint64_t>("the offset"), stated = number<uint64_t>("the bytes");
    entry.hash = number<uint64_t>("the hash");
    if (stated != uint64_t(bytes))
      bad("it takes ", stated, " bytes, expected ", bytes, " for ", shape.text(), " of ", format(type).name);
    if (offset != from)
      bad("its data begins at ", offset, ", expected ", from, ", the first multiple of ", alignment, " free there");
    if (offset > file_bytes || uint64_t(bytes) > file_bytes - offset)
      bad("its data of ", bytes, " bytes at ", offset, " ends after the file's ", file_bytes);
    entry.offset = offset;
    entry.tensor = Tensor::of(type, shape);
    return entry;
  }

 private:
  Shape shape(DType type) {
    const int rank = number<uint8_t>("the rank");
    if (rank < 1 || rank > 4) bad("its rank is ", rank, ", expected 1 to 4");
    Shape shape;
    shape.rank = rank;
    for (int i = 0; i < rank; ++i) {
      const uint64_t dim = number<uint64_t>("the shape");
      if (dim == 0 || dim > uint64_t(INT64_MAX)) bad("dimension ", i, " is ", dim, ", expected 1 to ", INT64_MAX);
      shape.dim[i] = int64_t(dim);
    }
    const int block = format(type).block;
    if (shape.dim[rank - 1] % block != 0)
      bad("its last dimension is ", shape.dim[rank - 1], ", expected a multiple of ", block, ", the block of ", format(type).name);
    return shape;
  }

  int64_t shape_bytes(DType type, const Shape& shape) const {
    int64_t n = 1;
    bool over = false;
    for (int i = 0; i < shape.rank; ++i) over |= __builtin_mul_overflow(n, shape.dim[i], &n);
    int64_t bytes = 0;
    if (over || __builtin_mul_overflow(n / format(type).block, int64_t(format(type).bytes), &bytes))
      bad("its shape ", shape.text(), " has more elements than 64 bits can count");
    return bytes;
  }

  const std::string& path_;
  std::string_view rest_, name_;
  const char* kind_ = "";
  size_t i_ = 0, n_ = 0;
};

}  // namespace

Weights::Weights(const std::string& path) : path_(path) {
  auto map = std::make_shared<const MappedFile>(path);
  bytes_ = map->bytes();
  const std::byte* data = map->data();
  file_ = {std::move(map), data};
  read();
}

Weights::Weights(std::string name, std::span<const std::byte> file) : path_(std::move(name)), bytes_(file.size()) {
  auto* copy = static_cast<std::byte*>(::operator new(file.size(), std::align_val_t(alignment)));
  file_ = {copy, [](const std::byte* p) { ::operator delete(const_cast<std::byte*>(p), std::align_val_t(alignment)); }};
  std::copy(file.begin(), file.end(), copy);
  read();
}

Weights::Weights(std::string name, Metadata metadata, std::vector<WeightEntry> tensors, std::shared_ptr<const std::byte> memory)
    : path_(std::move(name)), file_(std::move(memory)), metadata_(std::move(metadata)), tensors_(std::move(tensors)) {
  for (size_t i = 0; i < tensors_.size(); ++i)
    check(by_name_.emplace(tensors_[i].name, i).second, "weights: ", path_, ": there are two tensors '", tensors_[i].name, "'");
}

template <class... Parts> void Weights::bad(const Parts&... parts) const { fail("weights: ", path_, ": ", parts...); }

std::string_view Weights::read_head() {
  const std::string_view file(reinterpret_cast<const char*>(file_.get()), bytes_);
  const std::string_view start = file.substr(0, magic.size());
  if (start != magic.substr(0, start.size())) {
    if (start.starts_with("GGUF")) bad("this is a GGUF file; make a .folio file of it with tools/convert.py");
    if (start.starts_with("FOLIO")) bad("its line ends were changed, as a transfer in text mode does; copy it again as binary");
    bad("not a .folio file: it begins with '", printable(start), "', expected 'FOLIO'; tools/convert.py makes one of a checkpoint");
  }
  if (bytes_ < head_bytes) bad("the file is cut off: it has ", bytes_, " bytes, and the head alone takes ", head_bytes);

  auto u32 = [&](size_t at) { uint32_t n; std::memcpy(&n, file.data() + at, sizeof n); return n; };
  auto u64 = [&](size_t at) { uint64_t n; std::memcpy(&n, file.data() + at, sizeof n); return n; };
  // The version comes first: another version's head may look different from here on.
  if (u32(8) > version)
    bad("it is of format version ", u32(8), ", and this program reads version ", version,
        ": use a newer Folio, or make the file again with this Folio's tools/convert.py");
  if (u32(8) != version) bad("it is of format version ", u32(8), ", expected ", version);
  const uint64_t index = u64(16), total = u64(24);
  if (total > bytes_) bad("the file is cut off: it has ", bytes_, " bytes of ", total, "; copy or download it again");
  if (total < bytes_) bad("the file has ", bytes_, " bytes, expected ", total, " as its head says; copy or download it again");
  if (index > total - head_bytes) bad("the index takes ", index, " bytes, but only ", total - head_bytes, " follow the head");
  if (u32(12) != 0 || file.substr(40, 24).find_first_not_of('\0') != std::string_view::npos)
    bad("the head is damaged: its spare bytes are not zero");
  index_bytes_ = index;
  index_hash_ = u64(32);
  const uint64_t hash = hash64(file.data() + head_bytes, index);
  if (hash != index_hash_)
    bad("the index is damaged: its hash is ", hex(hash), ", expected ", hex(index_hash_), "; copy or download the file again");
  return file.substr(head_bytes, index);
}

void Weights::read() {
  check(bytes_ > 0, path_, ": the file is empty");
  Reader reader(path_, read_head());
  const size_t keys = reader.count(least_metadata, "the count of metadata");
  for (size_t i = 0; i < keys; ++i) {
    reader.enter("metadata", i, keys);
    const std::string_view key = reader.name("the key");
    reader.called(key);
    if (!metadata_.emplace(key, reader.value()).second) reader.bad("there is another of this name");
  }
  reader.enter("", 0, 0);
  const size_t count = reader.count(least_tensor, "the count of tensors");
  tensors_.reserve(count);
  size_t end = head_bytes + index_bytes_;
  for (size_t i = 0; i < count; ++i) {
    reader.enter("tensor", i, count);
    WeightEntry entry = reader.tensor(bytes_, align(end));
    if (!by_name_.emplace(entry.name, i).second) reader.bad("there is another of this name");
    entry.tensor.data = const_cast<std::byte*>(file_.get()) + entry.offset;
    end = entry.offset + size_t(entry.tensor.bytes());
    tensors_.push_back(std::move(entry));
  }
  reader.enter("", 0, 0);
  if (reader.left() > 0) reader.bad(reader.left(), " bytes are left after the last tensor");
  if (end != bytes_) bad("the last tensor ends at ", end, ", but the file has ", bytes_, " bytes");
}

const WeightEntry* Weights::entry(std::string_view name) const {
  const auto at = by_name_.find(name);
  return at == by_name_.end() ? nullptr : &tensors_[at->second];
}

Tensor Weights::find(std::string_view name) const {
  const WeightEntry* found = entry(name);
  return found ? found->tensor : Tensor{};
}

Tensor Weights::require(std::string_view name) const {
  const WeightEntry* found = entry(name);
  if (!found) bad("there is no tensor '", name, "'");
  return found->tensor;
}

Tensor Weights::get(std::string_view name, const Shape& want) const {
  const Tensor found = require(name);
  if (!(found.shape == want)) bad("'", name, "' is ", found.shape.text(), ", expected ", want.text());
  return found;
}

bool Weights::has(std::string_view key) const { return metadata_.find(key) != metadata_.end(); }

template <class T> const T& Weights::need(std::string_view key) const {
  const char* expected = type_names[MetaValue(T{}).index()];
  const auto at = metadata_.find(key);
  if (at == metadata_.end()) bad("metadata '", key, "' is absent, expected ", expected);
  const T* found = std::get_if<T>(&at->second);
  if (!found) bad("metadata '", key, "' is ", type_names[at->second.index()], ", expected ", expected);
  return *found;
}

// The integers of that key where something else is asked for; null if it holds no integers.
const std::vector<int64_t>* Weights::integers_instead(std::string_view key) const {
  const auto at = metadata_.find(key);
  return at == metadata_.end() ? nullptr : std::get_if<std::vector<int64_t>>(&at->second);
}

int64_t Weights::integer(std::string_view key) const { return need<int64_t>(key); }

int64_t Weights::integer(std::string_view key, int64_t absent) const { return has(key) ? integer(key) : absent; }

double Weights::real(std::string_view key) const {
  const auto at = metadata_.find(key);
  if (at != metadata_.end() && std::holds_alternative<int64_t>(at->second)) return double(std::get<int64_t>(at->second));
  return need<double>(key);
}

double Weights::real(std::string_view key, double absent) const { return has(key) ? real(key) : absent; }

std::string Weights::text(std::string_view key) const { return need<std::string>(key); }

std::string Weights::text(std::string_view key, std::string_view absent) const {
  return has(key) ? text(key) : std::string(absent);
}

std::vector<int64_t> Weights::integers(std::string_view key) const { return need<std::vector<int64_t>>(key); }

std::vector<double> Weights::reals(std::string_view key) const {
  if (const auto* whole = integers_instead(key)) return {whole->begin(), whole->end()};
  return need<std::vector<double>>(key);
}

std::vector<std::string> Weights::texts(std::string_view key) const {
  const auto* whole = integers_instead(key);
  if (!has(key) || (whole && whole->empty())) return {};
  return need<std::vector<std::string>>(key);
}

// fn(i) for every tensor, on all cores.
template <class F> void Weights::each_tensor(F fn) const {
  std::atomic<size_t> next = 0;
  auto work = [&] {
    for (size_t i; (i = next++) < tensors_.size();) fn(i);
  };
  std::vector<std::jthread> others;
  const size_t threads = std::min<size_t>(tensors_.size(), std::thread::hardware_concurrency());
  for (size_t i = 1; i < threads; ++i) others.emplace_back(work);
  work();
}

std::vector<std::string> Weights::verify() const {
  if (bytes_ == 0) return {};
  const size_t count = tensors_.size();
  std::vector<char> data_bad(count), gap_bad(count);
  each_tensor([&](size_t i) {
    const WeightEntry& e = tensors_[i];
    const size_t before = i ? tensors_[i - 1].offset + size_t(tensors_[i - 1].tensor.bytes()) : head_bytes + index_bytes_;
    gap_bad[i] = std::any_of(file_.get() + before, file_.get() + e.offset, [](std::byte b) { return b != std::byte{0}; });
    data_bad[i] = hash64(e.tensor.data, size_t(e.tensor.bytes())) != e.hash;
  });
  std::vector<std::string> bad;
  for (size_t i = 0; i < count; ++i) {
    if (gap_bad[i]) bad.push_back("gap before " + tensors_[i].name);
    if (data_bad[i]) bad.push_back(tensors_[i].name);
  }
  return bad;
}

// What the first number of a tensor that is none is, and where it stands; an empty text: all are finite.
static std::string first_not_finite(const Tensor& t) {
  constexpr int64_t chunk = 4096;   // a multiple of every format's block
  const Format& f = format(t.type);
  std::vector<float> numbers(chunk);
  for (int64_t from = 0; f.to_float && from < t.count(); from += chunk) {
    const int64_t n = std::min(chunk, t.count() - from);
    f.to_float(t.data + bytes_of(t.type, from), numbers.data(), n);
    const auto bad = std::find_if(numbers.begin(), numbers.begin() + n, [](float x) { return !std::isfinite(x); });
    if (bad == numbers.begin() + n) continue;
    std::string place;
    int64_t at = from + (bad - numbers.begin());
    for (int d = t.rank() - 1; d >= 0; at /= t.dim(d), --d) place = std::to_string(at % t.dim(d)) + (place.empty() ? "" : ",") + place;
    return join(std::isnan(*bad) ? "NaN" : "infinity", " at [", place, "]");
  }
  return "";
}

std::vector<std::string> Weights::not_finite() const {
  std::vector<std::string> found(tensors_.size()), bad;
  each_tensor([&](size_t i) { found[i] = first_not_finite(tensors_[i].tensor); });
  for (size_t i = 0; i < found.size(); ++i)
    if (!found[i].empty()) bad.push_back(tensors_[i].name + " holds " + found[i]);
  return bad;
}

}  // namespace folio
