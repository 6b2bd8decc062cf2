// SPDX-License-Identifier: MIT
#include "tools/lib/progress.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>

#include "base/error.h"
#include "tools/lib/machine.h"
#include "tools/lib/main.h"
#include "tools/lib/model.h"

namespace folio {

std::string human_time(double seconds) {
  char text[48];
  if (seconds < 9.95) std::snprintf(text, sizeof text, "%.2g s", seconds);
  else if (seconds < 59.5) std::snprintf(text, sizeof text, "%.0f s", seconds);
  else if (seconds < 3570) std::snprintf(text, sizeof text, "%lld min %02lld s", std::llround(seconds) / 60, std::llround(seconds) % 60);
  else std::snprintf(text, sizeof text, "%lld h %02lld min", std::llround(seconds / 60) / 60, std::llround(seconds / 60) % 60);
  return text;
}

Progress::Progress(std::string what, int64_t all, bool quiet)
    : what_(std::move(what)), all_(all), quiet_(quiet), terminal_(isatty(STDERR_FILENO) != 0), start_(seconds_now()), shown_(start_) {}

Progress::~Progress() {
  if (open_) std::fprintf(stderr, "\n");
}

double Progress::seconds() const { return seconds_now() - start_; }

void Progress::done(int64_t n) {
  const double now = seconds_now();
  const bool last = n == all_;
  if (quiet_ || n == 0 || (!last && now - shown_ < (terminal_ ? 0.05 : 2))) return;
  shown_ = now;
  const double each = (now - start_) / double(n);
  std::string line = join(what_, " ", n, all_ > 0 ? join("/", all_) : "", " · ", human_time(each), " each");
  if (all_ > n) line += " · " + human_time(each * double(all_ - n)) + " to go";
  line += " · " + human_bytes(double(peak_memory()));
  std::fprintf(stderr, terminal_ ? "\r%s\x1b[K" : "%s\n", line.c_str());
  open_ = terminal_;
}

}  // namespace folio
