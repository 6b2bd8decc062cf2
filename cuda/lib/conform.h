// SPDX-License-Identifier: MIT
// Does an operation of cuda/lib mean the same on a chip and in the simulator? conform.cu runs each on random numbers and holds it
// against plain loops: as a program on a GPU (conform), as a test in the simulator under every schedule (tests/sim/test_conform.cpp).
#pragma once
#include <vector>

namespace folio {

struct Conformity {
  const char* operation;
  double worst, allowed;  // a number of wrong elements, or the largest error
  bool good() const { return worst <= allowed; }
};

// All operations that this device has: `compute_capability` is 80 for 8.0 and so on. Throws Error if the runtime fails.
std::vector<Conformity> conformance(int compute_capability);

}  // namespace folio
