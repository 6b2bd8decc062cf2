// SPDX-License-Identifier: MIT
// How far a long job is, on standard error: one line that is written over and over at a terminal, and a line every few seconds elsewhere.
//   denoise 7/24 · 0.52 s each · 8.8 s to go · 143 MB
#pragma once
#include <cstdint>
#include <string>

namespace folio {

// "0.52 s", "1 min 05 s", "2 h 03 min"
std::string human_time(double seconds);

class Progress {
 public:
  Progress(std::string what, int64_t all, bool quiet);   // all 0: nobody knows
  ~Progress();                                           // ends the line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void done(int64_t n);   // so many are
  double seconds() const;

 private:
  const std::string what_;
  const int64_t all_;
  const bool quiet_, terminal_;
  const double start_;
  double shown_ = 0;
  bool open_ = false;   // a line is, at the terminal
};

}  // namespace folio
