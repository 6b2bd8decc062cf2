// SPDX-License-Identifier: MIT
// What several tests need: where things lie, how to run a program, a model with its engine.
#pragma once
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "models/zoo.h"
#include "run/engine.h"

namespace folio {

namespace fs = std::filesystem;

inline fs::path source_dir() { return FOLIO_SOURCE_DIR; }

// The shared folder with other people's models and texts: $FOLIO_SHARED, or `shared` beside the repository. Empty if absent.
inline fs::path shared_dir() {
  const char* named = std::getenv("FOLIO_SHARED");
  const fs::path dir = named ? fs::path(named) : source_dir().parent_path() / "shared";
  return fs::exists(dir) ? dir : fs::path();
}

// A folder of this test program's own, emptied by the system's habits rather than by us so that failures can be looked at.
inline fs::path scratch_dir() {
  static const fs::path dir = [] {
    const fs::path d = fs::temp_directory_path() / ("folio-test-" + std::to_string(getpid()));
    fs::create_directories(d);
    return d;
  }();
  return dir;
}

struct Ran {
  int code;
  std::string output;   // stdout and stderr
};

inline Ran run_command(const std::string& command) {
  Ran ran{-1, ""};
  std::FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  if (!pipe) return ran;
  std::array<char, 4096> buffer;
  for (size_t n; (n = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) ran.output.append(buffer.data(), n);
  const int status = pclose(pipe);
  ran.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return ran;
}

// tools/convert.py from `source` into the scratch folder; `more` are further flags. Fails the test if it fails.
inline std::string convert(const fs::path& source, const std::string& name, const std::string& more = "") {
  const char* python = std::getenv("FOLIO_PYTHON");
  const std::string out = (scratch_dir() / (name + ".folio")).string();
  const Ran ran = run_command(std::string(python ? python : "python3") + " " + (source_dir() / "tools/convert.py").string() + " " + source.string() +
                              " -o " + out + " --quiet " + more);
  EXPECT_EQ(ran.code, 0) << ran.output;
  return out;
}

template <class T> std::vector<T> read_numbers(const fs::path& path) {
  const std::string bytes = read_file(path.string());
  std::vector<T> numbers(bytes.size() / sizeof(T));
  std::memcpy(numbers.data(), bytes.data(), numbers.size() * sizeof(T));
  return numbers;
}

// A model that lives as long as its file, on a device.
struct Loaded {
  Weights weights;
  std::unique_ptr<Model> model;
  std::unique_ptr<Device> device;
  explicit Loaded(const std::string& path, std::unique_ptr<Device> on = cpu(2))
      : weights(path), model(load_model(weights)), device(std::move(on)) {}
};

// Logits [T, V] of all tokens, read in steps of at most `chunk`.
inline std::vector<float> all_logits(Engine& engine, Seq& seq, std::span<const Token> tokens, int chunk) {
  std::vector<float> all;
  for (size_t from = 0; from < tokens.size(); from += size_t(chunk)) {
    const auto part = tokens.subspan(from, std::min(size_t(chunk), tokens.size() - from));
    EXPECT_TRUE(engine.cache().reserve(seq, int(part.size()), int(part.size())));
    const Work work{&seq, part, int(part.size())};
    const Tensor logits = engine.step({&work, 1});
    all.insert(all.end(), logits.at<float>(), logits.at<float>() + logits.count());
    engine.cache().commit(seq, part);
  }
  return all;
}

inline float worst_difference(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  float worst = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const float d = std::fabs(a[i] - b[i]);
    if (!(d <= worst) && !std::isnan(worst)) worst = d;   // NaN counts as worst
  }
  return worst;
}

// RMS of a - b as a fraction of the RMS of b.
inline double rms_difference(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0, size = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    difference += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
    size += double(b[i]) * b[i];
  }
  return std::sqrt(difference / size);
}

inline Token argmax(std::span<const float> row) { return Token(std::max_element(row.begin(), row.end()) - row.begin()); }

}  // namespace folio
