// Marks of what is at work without Python's lock, and serves one call at a time.
#pragma once

#include <atomic>
#include <stdexcept>

#include "fastmlp/fork_safety.h"

namespace fastmlp::bindings {

// The process in which it works: fork generation + 1, or 0. What another thread did at
// the moment of a fork does not go on in the child.
using BusyFlag = std::atomic<int>;

class ExclusiveUse {
 public:
  // Throws std::runtime_error with this message if a call is under way.
  ExclusiveUse(BusyFlag& mark, const char* message) : mark_(mark) {
    const int here = fork_generation() + 1;
    int found = mark_.load(std::memory_order_relaxed);
    if (found == here ||
        !mark_.compare_exchange_strong(found, here, std::memory_order_acquire)) {
      throw std::runtime_error(message);
    }
  }
  ~ExclusiveUse() { mark_.store(0, std::memory_order_release); }
  ExclusiveUse(const ExclusiveUse&) = delete;
  ExclusiveUse& operator=(const ExclusiveUse&) = delete;

 private:
  BusyFlag& mark_;
};

}  // namespace fastmlp::bindings
