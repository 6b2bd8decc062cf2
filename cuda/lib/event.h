// SPDX-License-Identifier: MIT
// A moment of a stream, for timing by the card's own clock.
#pragma once
#include "cuda/lib/runtime.h"

namespace folio {

class Event {
 public:
  Event() { cuda_check(cudaEventCreateWithFlags(&event_, cudaEventDefault), "an event"); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(cudaStream_t stream) { cuda_check(cudaEventRecord(event_, stream), "an event"); }
  // Waits for this event; `start` was recorded before it.
  double seconds_since(const Event& start) const {
    float milliseconds = 0;
    cuda_check(cudaEventSynchronize(event_), "work that is timed");
    cuda_check(cudaEventElapsedTime(&milliseconds, start.event_, event_), "an event");
    return milliseconds / 1e3;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace folio
