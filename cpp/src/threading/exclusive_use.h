// A guard for objects that serve one call at a time.
#pragma once

#include <atomic>
#include <stdexcept>

#include "threading/fork_safety.h"

namespace fastmlp {

// Whether an object is in use. In a forked child the flag is clear, because the calls
// of the parent's other threads do not continue there.
class BusyFlag {
 public:
  // Returns false if the flag is set already.
  bool try_set() {
    const int here = fork_generation() + 1;
    int found = process_.load(std::memory_order_relaxed);
    return found != here &&
           process_.compare_exchange_strong(found, here, std::memory_order_acquire);
  }
  void clear() { process_.store(0, std::memory_order_release); }

 private:
  // fork_generation() + 1 of the process that uses the object; 0 if it is not in use.
  std::atomic<int> process_{0};
};

// RAII: holds the flag of an object during a call.
class ExclusiveUse {
 public:
  // Throws std::runtime_error with this message if another call holds the flag.
  ExclusiveUse(BusyFlag& flag, const char* message) : flag_(flag) {
    if (!flag_.try_set()) throw std::runtime_error(message);
  }
  ~ExclusiveUse() { flag_.clear(); }
  ExclusiveUse(const ExclusiveUse&) = delete;
  ExclusiveUse& operator=(const ExclusiveUse&) = delete;

 private:
  BusyFlag& flag_;
};

}  // namespace fastmlp
