// SPDX-License-Identifier: MIT
// Ctrl-C as a wish: the program stops at its next good place and keeps what it has. Pressed again before it was noticed, it ends the
// program, as ever.
#pragma once
#include <atomic>

namespace folio {

extern std::atomic<bool> interrupt_asked;   // whoever has acted on it sets it back
void catch_interrupts();                    // from here on Ctrl-C asks

}  // namespace folio
