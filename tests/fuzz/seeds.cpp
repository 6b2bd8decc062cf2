// SPDX-License-Identifier: MIT
#include "files/image.h"
#include "fuzz.h"

namespace folio::fuzz {

namespace {

struct Piece {
  std::string text;
  int type = 0;     // as in text/tokenizer.h
  float score = 0;
};

void add_tokens(WeightsWriter& w, const std::vector<Piece>& pieces, bool scores) {
  std::string bytes, types;
  std::vector<int32_t> ends;
  std::vector<float> score;
  for (const Piece& p : pieces) {
    bytes += p.text;
    ends.push_back(int32_t(bytes.size()));
    types += char(p.type);
    score.push_back(p.score);
  }
  const auto V = int64_t(pieces.size());
  w.bytes("tokenizer.bytes", {int64_t(bytes.size())}, bytes)
      .integers("tokenizer.ends", {V}, ends)
      .bytes("tokenizer.types", {V}, types);
  if (scores) w.tensor("tokenizer.scores", {V}, score);
}

void add_common(WeightsWriter& w, const char* kind, int bos, int eos, int unk) {
  w.meta("arch", "vocab")
      .meta("tokenizer.kind", kind)
      .meta("tokenizer.bos", bos)
      .meta("tokenizer.unk", unk)
      .meta("tokenizer.pad", -1);
  w.meta("tokenizer.eos", std::vector<int64_t>{eos}).meta("tokenizer.add_bos", 1).meta("tokenizer.add_eos", 0);
  w.meta("tokenizer.add_space_prefix", kind == std::string("bpe") ? 0 : 1).meta("tokenizer.ignore_merges", 0);
  w.meta("tokenizer.normalize", "none");
}

// All 256 bytes, some merges, two special tokens and one that was added.
WeightsWriter bpe() {
  std::vector<Piece> pieces;
  for (int b = 0; b < 256; ++b) pieces.push_back({std::string(1, char(b))});
  std::vector<int32_t> merges;
  auto merge = [&](int left, int right) {
    merges.push_back(left), merges.push_back(right);
    pieces.push_back({pieces[size_t(left)].text + pieces[size_t(right)].text});
    return int(pieces.size()) - 1;
  };
  const int he = merge('h', 'e'), the = merge('t', he);
  merge(' ', the);
  const int ll = merge('l', 'l');
  merge(he, ll);
  merge('a', 'a');
  merge(0xc3, 0xbc);
  const int bos = int(pieces.size());
  pieces.insert(pieces.end(), {{"<s>", 1}, {"</s>", 1}, {"<added>", 2}, {"", 4}});
  WeightsWriter w;
  add_common(w, "bpe", bos, bos + 1, -1);
  w.meta("tokenizer.split", std::vector<std::string>{R"('s|'t| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", "[0-9]{1,3}"});
  w.meta("tokenizer.strip_left", std::vector<int64_t>{bos + 2}).meta("tokenizer.strip_right", std::vector<int64_t>{bos + 2});
  add_tokens(w, pieces, false);
  w.integers("tokenizer.merges", {int64_t(merges.size()) / 2, 2}, merges);
  return w;
}

std::vector<Piece> sentence_pieces() {
  std::vector<Piece> pieces = {{"<unk>", 5}, {"<s>", 1}, {"</s>", 1}};
  for (int b = 0; b < 256; ++b) pieces.push_back({std::string(1, char(b)), 3});
  float score = -1;
  for (const char* text :
       {" the", " H", "he", "ll", "ello", "o", "l", "e", "h", "t", " ", "a", "aa", "aaaa", "\xe4\xb8\x96", "\xc3\xbc", "!", "1"})
    pieces.push_back({text, 0, score -= 0.5f});
  pieces.push_back({"<added>", 2});
  pieces.push_back({"th", 4, -2});
  return pieces;
}

WeightsWriter spm() {
  WeightsWriter w;
  add_common(w, "spm", 1, 2, 0);
  add_tokens(w, sentence_pieces(), true);
  return w;
}

WeightsWriter unigram() {
  WeightsWriter w;
  add_common(w, "unigram", 1, 2, 0);
  w.metadata.pop_back();
  w.meta("tokenizer.normalize", "nfkc").meta("tokenizer.remove_extra_spaces", 1).meta("vocab", 1000);
  add_tokens(w, sentence_pieces(), true);
  return w;
}

WeightsWriter everything() {
  WeightsWriter w;
  w.meta("arch", "decoder").meta("dim", 32).meta("eps", 1e-5).meta("name", "K\xc3\xa4se").meta("empty", "");
  w.meta("layer.mixer", std::vector<int64_t>{0, 0, -1}).meta("scales", std::vector<double>{0.5, -2});
  w.meta("words", std::vector<std::string>{"a", "", "\n"}).meta("none", std::vector<int64_t>{});
  const std::vector<float> numbers(64, 0.25f);
  w.tensor("f32", {2, 3}, {1, 2, 3, 4, 5, 6}).tensor("f16", {3}, {1, -2, 0.5}, F16).tensor("bf16", {1, 1, 2}, {1, 2}, BF16);
  w.tensor("q8", {2, 32}, numbers, Q8_0)
      .tensor("q4", {1, 1, 2, 32}, numbers, Q4_0)
      .tensor("f8", {1, 64}, numbers, F8_E4M3)
      .integers("ids", {2, 2}, {1, -1, 7, 0})
      .bytes("u8", {3}, "abc");
  return w;
}

}  // namespace

std::vector<Seed> seeds() {
  return {{"everything", everything()}, {"nothing", {}}, {"bpe", bpe()}, {"spm", spm()}, {"unigram", unigram()}};
}

// The numbers of a picture that nobody has compressed: to each row of each pass a filter and its bytes.
static std::string rows_of(int width, int height, int bits, bool interlaced, std::mt19937_64& random) {
  struct Pass { int x, y, across, down; };
  const std::vector<Pass> whole = {{0, 0, 1, 1}},
                          adam7 = {{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4}, {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}};
  std::string rows;
  for (const Pass& p : interlaced ? adam7 : whole) {
    const int columns = (width - p.x + p.across - 1) / p.across;
    for (int y = p.y; columns > 0 && y < height; y += p.down) {
      rows += char(random() % 5);
      for (int i = 0; i < (columns * bits + 7) / 8; ++i) rows += char(random());
    }
  }
  return rows;
}

static std::string plain_png(int depth, int colour, bool interlaced, std::mt19937_64& random) {
  const int width = 9, height = 6, channels = colour == 2 ? 3 : colour == 4 ? 2 : colour == 6 ? 4 : 1;
  std::string head, file(png_signature);
  put_big(head, width), put_big(head, height);
  for (const int byte : {depth, colour, 0, 0, int(interlaced)}) head += char(byte);
  put_chunk(file, "IHDR", head);
  if (colour == 3) {
    std::string palette;
    for (int i = 0; i < 3 << depth; ++i) palette += char(random());
    put_chunk(file, "PLTE", palette.substr(0, 3 * 16)), put_chunk(file, "tRNS", palette.substr(0, 2));
  }
  if (colour == 2) put_chunk(file, "tRNS", std::string(6, '\1'));
  const std::string rows = rows_of(width, height, depth * channels, interlaced, random);
  std::string data = "\x78\x01\x01";   // one block, stored
  for (const size_t n : {rows.size(), ~rows.size()}) data += char(n & 255), data += char(n >> 8 & 255);
  data += rows + std::string(4, '\0');
  put_chunk(file, "IDAT", data.substr(0, 20)), put_chunk(file, "IDAT", data.substr(20)), put_chunk(file, "IEND", "");
  return file;
}

std::vector<std::string> media_seeds() {
  std::mt19937_64 random(5);
  std::vector<std::string> all;
  for (const auto& [colour, depths] : std::vector<std::pair<int, std::vector<int>>>{
           {0, {1, 2, 4, 8, 16}}, {2, {8, 16}}, {3, {1, 2, 4}}, {4, {8, 16}}, {6, {8, 16}}})
    for (const int depth : depths)
      for (const bool interlaced : {false, true}) all.push_back(plain_png(depth, colour, interlaced, random));
  std::vector<uint8_t> rgb(17 * 11 * 3);
  for (size_t i = 0; i < rgb.size(); ++i) rgb[i] = uint8_t(i / 40 * 9);
  for (int i = 0; i < 6; ++i) all.push_back(encode_png(rgb.data(), 17 - i, 11, {{"seed", "42"}, {"prompt", "\xc3\xbc"}}));   // compressed
  for (const char* colours : {"", " C420jpeg", " C420mpeg2", " C422", " C444", " C444", " Cmono XCOLORRANGE=FULL"}) {
    std::string file = std::string("YUV4MPEG2 W5 H3 F30000:1001 Ip A1:1") + colours + "\n";
    const std::string kind = colours;
    const size_t bytes = kind.starts_with(" Cmono") ? 15 : kind == " C444" ? 45 : kind == " C422" ? 33 : 27;
    for (int frame = 0; frame < 2; ++frame) {
      file += frame == 0 ? "FRAME\n" : "FRAME Ip\n";
      for (size_t i = 0; i < bytes; ++i) file += char(random());
    }
    all.push_back(file);
  }
  return all;
}

}  // namespace folio::fuzz
