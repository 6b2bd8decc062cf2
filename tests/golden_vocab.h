// SPDX-License-Identifier: MIT
// Reads tests/golden/tokenizer/*.txt, written by tests/golden/make_tokenizer_golden.py: a small vocabulary and texts with the ids
// that the Python package which trained it gives them. One thing a line; texts in quotes, with \xHH for bytes and \\ and \".
//   KEY VALUE                        of the vocabulary's fields
//   token TYPE SCORE "text"          the next id
//   bytes                            the next 256 ids: byte tokens
//   merge LEFT RIGHT
//   case "text" ID ID ...
#pragma once
#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "text/tokenizer.h"

namespace folio {

struct GoldenVocab {
  explicit GoldenVocab(const std::string& path) {
    std::ifstream file(path);
    check(file.good(), path, ": cannot open");
    for (std::string line; std::getline(file, line);) {
      std::istringstream in(line);
      std::string key;
      in >> key;
      if (key.empty() || key[0] == '#') continue;
      read(key, in);
    }
    vocabulary.bos = vocabulary.add_bos ? vocabulary.bos : -1;
  }

  Vocabulary vocabulary;
  std::vector<std::pair<std::string, std::vector<Token>>> cases;

 private:
  void read(const std::string& key, std::istringstream& in) {
    Vocabulary& v = vocabulary;
    if (key == "kind") in >> v.kind;
    else if (key == "normalize") in >> v.normalize;
    else if (key == "split") v.split.push_back(quoted(in));
    else if (key == "bos") in >> v.bos;
    else if (key == "unk") in >> v.unk;
    else if (key == "add_bos") in >> v.add_bos;
    else if (key == "add_space_prefix") in >> v.add_space_prefix;
    else if (key == "ignore_merges") in >> v.ignore_merges;
    else if (key == "clean_spaces") in >> v.clean_spaces;
    else if (key == "token") {
      int type;
      float score;
      in >> type >> score;
      add(quoted(in), type, score);
    } else if (key == "bytes") {
      for (int b = 0; b < 256; ++b) add(std::string(1, char(b)), 3, 0);
    } else if (key == "merge") {
      int32_t left, right;
      in >> left >> right;
      v.merges.insert(v.merges.end(), {left, right});
    } else if (key == "case") {
      cases.push_back({quoted(in), {}});
      for (Token id; in >> id;) cases.back().second.push_back(id);
    } else {
      fail("golden vocabulary: there is no '", key, "'");
    }
  }
  void add(const std::string& text, int type, float score) {
    vocabulary.bytes += text;
    vocabulary.ends.push_back(int32_t(vocabulary.bytes.size()));
    vocabulary.types.push_back(uint8_t(type));
    if (vocabulary.kind != "bpe") vocabulary.scores.push_back(score);
  }
  static std::string quoted(std::istringstream& in) {
    std::string out;
    in >> std::ws;
    in.get();
    for (int c; (c = in.get()) != '"' && c >= 0;) {
      if (c == '\\') {
        c = in.get();
        if (c == 'x') {
          char hex[3] = {char(in.get()), char(in.get()), 0};
          c = std::stoi(hex, nullptr, 16);
        }
      }
      out += char(c);
    }
    return out;
  }
};

}  // namespace folio
