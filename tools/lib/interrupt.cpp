// SPDX-License-Identifier: MIT
#include "tools/lib/interrupt.h"

#include <csignal>

namespace folio {

std::atomic<bool> interrupt_asked{false};

extern "C" {
static void on_interrupt(int) {
  if (interrupt_asked.exchange(true)) {
    std::signal(SIGINT, SIG_DFL);
    std::raise(SIGINT);
  }
}
}

void catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = on_interrupt;   // without SA_RESTART: a read from a pipe ends as well
  sigaction(SIGINT, &action, nullptr);
}

}  // namespace folio
