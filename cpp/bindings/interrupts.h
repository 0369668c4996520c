// Ctrl-C while the core works.
//
// Python handles a signal only in its main thread, when that thread holds the GIL and
// looks. The core must not do that while it holds a lock: a handler may use the same
// model, and a thread that forks with the GIL waits for the core's locks. So during a
// long call from the main thread, a C handler of SIGINT, which then calls Python's,
// sets a flag that makes the core give up its work and locks; only then are Python's
// handlers run. If none raises an exception, the work begins again.
//
// Each call has a flag of its own, which stays set until the core has given up: no
// other thread, and no call within a callback, clears it.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <atomic>
#include <chrono>
#ifndef _WIN32
#include <csignal>
#endif
#include <type_traits>
#include <utility>

#include "arrays.h"
#include "fastmlp/training.h"

namespace fastmlp::bindings {

// RAII: installs the C handler, if `wanted` and if this is Python's main thread. The
// GIL must be held. Throws what a Python handler raises.
class InterruptWatch {
 public:
  explicit InterruptWatch(bool wanted);
  ~InterruptWatch();
  InterruptWatch(const InterruptWatch&) = delete;
  InterruptWatch& operator=(const InterruptWatch&) = delete;

  // The flag that Ctrl-C sets; null if it is not watched.
  const std::atomic<bool>* flag() const { return flag_; }
  bool pressed() const { return flag_ && flag_->load(std::memory_order_relaxed); }
  // To be called when the core is not at work.
  void clear() const {
    if (flag_) flag_->store(false, std::memory_order_relaxed);
  }

  // Runs Python's handlers of signals that have arrived. Returns whether one of them
  // has raised an exception. The GIL must be held.
  static bool handlers_raise();

 private:
  void install();
  void restore();

  std::atomic<bool>* flag_ = nullptr;
  bool installed_ = false;
};

// Checks for signals between steps, at intervals of kPeriod and not after every step,
// because acquiring the GIL takes longer than a small step.
class SignalPoll {
 public:
  explicit SignalPoll(const InterruptWatch& watch) : watch_(watch) {}
  Interruption interruption() { return {&SignalPoll::requested, this}; }

 private:
  static bool requested(void* context) {
    auto* poll = static_cast<SignalPoll*>(context);
    const Clock::time_point now = Clock::now();
    if (now < poll->next_ && !poll->watch_.pressed()) return false;
    poll->next_ = now + kPeriod;
    const py::gil_scoped_acquire acquire;
    poll->watch_.clear();  // first: a signal that arrives afterwards sets it again
    return InterruptWatch::handlers_raise();
  }

  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kPeriod{20};
  const InterruptWatch& watch_;
  Clock::time_point next_ = Clock::now() + kPeriod;
};

// Calls f(watch, flag) with the flag by which Ctrl-C stops f, or null. If f throws
// Interrupted and neither a callback nor a handler has raised an exception, f is called
// again.
template <class F>
auto repeat_after_signals(bool is_long, F f) {
  const InterruptWatch watch(is_long);
  // If the handlers raise nothing, the work is repeated without the flag. Otherwise
  // frequent signals could keep it from ever finishing.
  for (const std::atomic<bool>* flag = watch.flag();; flag = nullptr) {
    try {
      return f(watch, flag);
    } catch (const Interrupted&) {
      if (PyErr_Occurred() || InterruptWatch::handlers_raise()) {
        throw py::error_already_set();
      }
    }
  }
}

// Calls f(interruption) without the GIL. If Ctrl-C is pressed or a callback raises an
// exception, f stops and the exception propagates to the caller. f must be such that it
// may be called again after it has thrown Interrupted.
template <class F>
auto interruptible(bool is_long, F f) {
  return repeat_after_signals(
      is_long, [&](const InterruptWatch& watch, const std::atomic<bool>* flag) {
        SignalPoll poll(watch);
        return without_gil([&] {
          const StoppedBy stop(flag);
          return f(poll.interruption());
        });
      });
}

// The same with f() and with the GIL.
template <class F>
auto interruptible_with_gil(F f) {
  return repeat_after_signals(
      true, [&](const InterruptWatch&, const std::atomic<bool>* flag) {
        const StoppedBy stop(flag);
        return f();
      });
}

// From this many operations on, a call counts as long: some 0.2 ms of work, a thousand
// times what watching costs.
constexpr double kLongFrom = 2e7;

// f() without the GIL; if it takes about `operations`, or more, Ctrl-C stops it.
template <class F>
auto interruptible(double operations, F f) {
  if (operations < kLongFrom) return without_gil(f);
  return interruptible(true, [&](const Interruption&) { return f(); });
}

template <class T, size_t N, class F, size_t... I>
py::object fill_arrays(const Shape (&shapes)[N], F f, double operations,
                       std::index_sequence<I...>) {
  std::array<py::array_t<T>, N> arrays = {new_array<T>(shapes[I])...};
  T* const data[N] = {arrays[I].mutable_data()...};
  const auto fill = [&] { return f(data[I]...); };
  if constexpr (!std::is_void_v<decltype(fill())>) {
    const auto result = interruptible(operations, fill);
    return py::make_tuple(result, std::move(arrays[I])...);
  } else {
    interruptible(operations, fill);
    if constexpr (N == 1) return std::move(arrays[0]);
    return py::make_tuple(std::move(arrays[I])...);
  }
}

// Creates arrays of these shapes and calls f with a pointer to the memory of each, as
// interruptible(operations, f) does. Returns a single array as such and several arrays
// as a tuple. If f returns a value, the result is always a tuple, and this value comes
// first in it.
template <class T, size_t N, class F>
py::object new_arrays(const Shape (&shapes)[N], F f, double operations) {
  return fill_arrays<T>(shapes, f, operations, std::make_index_sequence<N>());
}

}  // namespace fastmlp::bindings
