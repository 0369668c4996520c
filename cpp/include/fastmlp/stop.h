// Stopping calls that take long, for Ctrl-C or a deadline.
#pragma once

#include <atomic>
#include <stdexcept>

namespace fastmlp {

// A call was asked to stop. The model is in the state after its last complete step, and
// arrays that the call was filling hold arbitrary values.
class Interrupted : public std::runtime_error {
 public:
  Interrupted() : std::runtime_error("the call was interrupted") {}
};

// RAII: while alive, calls of the library from this thread throw Interrupted soon after
// the flag becomes true. They look at it many times in a second, also within a large
// step, but never between the beginning and the end of an update of parameters. The
// flag must stay true until the call has returned. Null: calls are not stopped.
class StoppedBy {
 public:
  explicit StoppedBy(const std::atomic<bool>* flag);
  ~StoppedBy();
  StoppedBy(const StoppedBy&) = delete;
  StoppedBy& operator=(const StoppedBy&) = delete;

 private:
  const std::atomic<bool>* before_;
};

}  // namespace fastmlp
