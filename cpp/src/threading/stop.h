// Whether the running call has been asked to stop: see fastmlp/stop.h.
#pragma once

#include "fastmlp/stop.h"

namespace fastmlp::detail {

// The flag that stops calls from this thread, or null.
const std::atomic<bool>* stop_flag();

// Work between two looks at the flag should take at most some tens of milliseconds.
// Members of a team may see the flag change at different times, so they may skip work
// when it is set, but not a barrier.
inline bool stop_requested() {
  const std::atomic<bool>* const flag = stop_flag();
  return flag && flag->load(std::memory_order_relaxed);
}

// Throws Interrupted.
inline void check_stop() {
  if (stop_requested()) throw Interrupted();
}

}  // namespace fastmlp::detail
