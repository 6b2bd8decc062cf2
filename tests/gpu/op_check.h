// SPDX-License-Identifier: MIT
// Every case of every op on a device, held against the plain reference: packed, on strided views between poison and in place; captured
// and replayed twice, then eagerly, all with the same bits. For devices that are not always there; test_ops does the same and more for
// the CPU, tests/sim for the simulated card.
#pragma once
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "graph/device.h"

namespace folio {

struct OpCheckOptions {
  std::string only;                                             // in the op's name; empty: all ops
  int64_t most = std::numeric_limits<int64_t>::max();           // operations of a case; larger ones are left out
  double seconds = std::numeric_limits<double>::infinity();     // begin no case after so many: sanitizers are slow
  int threads = 0;                                              // of the reference
};

struct CheckedCase {
  std::string op, label, wrong;   // wrong: empty if all is well, else how it was run and what differs
  double worst = 0;               // largest error of an element, as a multiple of what is allowed
};

struct OpCheckReport {
  std::vector<CheckedCase> cases;
  int64_t left_out = 0;           // too large, or no time left
  std::string stopped;            // the error after which the device was not asked any more: a card that has failed once only fails
  int64_t failed() const;
  bool good() const { return stopped.empty() && !cases.empty() && failed() == 0; }
};

// Calls `each` after every case.
OpCheckReport check_ops(Device& device, const OpCheckOptions& options, const std::function<void(const CheckedCase&)>& each);

}  // namespace folio
