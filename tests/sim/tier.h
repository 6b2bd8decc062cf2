// SPDX-License-Identifier: MIT
// Chooses the tier of CUDA kernels for the devices that are made while it lives, as a user does.
#pragma once
#include <cstdlib>
#include <optional>
#include <string>

namespace folio {

class Tier {
 public:
  explicit Tier(const char* name) {
    if (const char* before = std::getenv("FOLIO_CUDA_TIER")) before_ = before;
    setenv("FOLIO_CUDA_TIER", name, 1);
  }
  ~Tier() {
    if (before_) setenv("FOLIO_CUDA_TIER", before_->c_str(), 1);
    else unsetenv("FOLIO_CUDA_TIER");
  }
  Tier(const Tier&) = delete;

 private:
  std::optional<std::string> before_;
};

}  // namespace folio
