// SPDX-License-Identifier: MIT
// Reads the vocabulary out of a GGUF file, for tests alone: it trusts the file. tools/convert.py does the same in Python.
#pragma once
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "base/file.h"
#include "text/tokenizer.h"

namespace folio {

class GgufVocab {
 public:
  explicit GgufVocab(const std::string& path) : data_(read_file(path)) {
    at_ = 24;  // magic, version, count of tensors, count of keys
    uint64_t keys;
    std::memcpy(&keys, data_.data() + 16, 8);
    while (keys--) {
      const std::string key = text();
      value(key, number<uint32_t>());
    }
  }

  Vocabulary vocabulary() const {
    Vocabulary v;
    const bool bpe = texts_.at("tokenizer.ggml.model")[0] == "gpt2";
    v.kind = bpe ? "bpe" : "spm";
    std::map<std::string, int32_t> ids;
    const auto& tokens = texts_.at("tokenizer.ggml.tokens");
    const auto& types = numbers_.at("tokenizer.ggml.token_type");
    for (size_t i = 0; i < tokens.size(); ++i) {
      constexpr uint8_t type[] = {0, 0, 5, 1, 2, 4, 3};  // GGUF's 1 to 6: normal, unknown, control, user, unused, byte
      v.types.push_back(type[size_t(types[i])]);
      const bool plain = v.types.back() == 1 || v.types.back() == 5;
      if (v.types.back() == 3) v.bytes += char(std::stoi(tokens[i].substr(3, 2), nullptr, 16));  // <0x0A>
      else v.bytes += plain ? tokens[i] : bpe ? from_gpt2(tokens[i]) : spaced(tokens[i]);
      v.ends.push_back(int32_t(v.bytes.size()));
      ids.emplace(tokens[i], int32_t(i));
    }
    if (bpe) {
      v.split = {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"};
      for (const std::string& merge : texts_.at("tokenizer.ggml.merges")) {
        const size_t gap = merge.find(' ', 1);
        v.merges.push_back(ids.at(merge.substr(0, gap)));
        v.merges.push_back(ids.at(merge.substr(gap + 1)));
      }
    } else {
      v.scores.assign(numbers_.at("tokenizer.ggml.scores").begin(), numbers_.at("tokenizer.ggml.scores").end());
      v.add_space_prefix = v.add_bos = true;
    }
    v.bos = int64_t(numbers_.at("tokenizer.ggml.bos_token_id")[0]);
    v.eos = {int64_t(numbers_.at("tokenizer.ggml.eos_token_id")[0])};
    if (numbers_.count("tokenizer.ggml.unknown_token_id")) v.unk = int64_t(numbers_.at("tokenizer.ggml.unknown_token_id")[0]);
    return v;
  }

 private:
  template <class T>
  T number() {
    T x;
    std::memcpy(&x, data_.data() + at_, sizeof x);
    at_ += sizeof x;
    return x;
  }
  std::string text() {
    const auto size = number<uint64_t>();
    at_ += size;
    return data_.substr(at_ - size, size);
  }
  void value(const std::string& key, uint32_t type) {
    auto& out = numbers_[key];
    switch (type) {
      case 0:
      case 1:
      case 7:
        out.push_back(number<uint8_t>());
        break;
      case 2:
      case 3:
        out.push_back(number<uint16_t>());
        break;
      case 4:
        out.push_back(number<uint32_t>());
        break;
      case 5:
        out.push_back(number<int32_t>());
        break;
      case 6:
        out.push_back(double(number<float>()));
        break;
      case 8:
        texts_[key].push_back(text());
        break;
      case 9: {
        const auto inner = number<uint32_t>();
        for (auto n = number<uint64_t>(); n--;) value(key, inner);
        break;
      }
      default:
        out.push_back(double(number<uint64_t>()));
    }
  }

  // GPT-2 writes bytes as printable characters: these stand for themselves, the rest follow from U+0100 on.
  static std::string from_gpt2(const std::string& token) {
    static const auto table = [] {
      std::map<int, char> bytes;
      int next = 256;
      for (int b = 0; b < 256; ++b) bytes[(b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174 ? b : next++] = char(b);
      return bytes;
    }();
    std::string out;
    for (size_t i = 0; i < token.size(); ++i) {
      int point = uint8_t(token[i]);
      if (point >= 0x80) point = (point & 31) << 6 | (token[++i] & 63);
      out += table.at(point);
    }
    return out;
  }
  static std::string spaced(std::string token) {
    for (size_t at; (at = token.find("\xe2\x96\x81")) != token.npos;) token.replace(at, 3, " ");
    return token;
  }

  std::string data_;
  size_t at_ = 0;
  std::map<std::string, std::vector<double>> numbers_;
  std::map<std::string, std::vector<std::string>> texts_;
};

}  // namespace folio
