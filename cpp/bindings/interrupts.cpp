#include "interrupts.h"

#include <array>

#include "fastmlp/fp_environment.h"

namespace fastmlp::bindings {
namespace {

bool in_main_thread() {
  const py::object main = py::module_::import("threading").attr("main_thread")();
  return py::cast<unsigned long>(main.attr("ident")) == PyThread_get_thread_ident();
}

#ifndef _WIN32
// The flags of the calls that the main thread is in, one within another; a signal sets
// all. The handler may run in any thread, so it must not read the calls' own memory.
std::array<std::atomic<bool>, 16> flags;
size_t depth = 0;         // only the main thread uses it
struct sigaction before;  // while the C handler is installed: the handler to call

void note(int number, siginfo_t* info, void* context) {
  for (std::atomic<bool>& flag : flags) flag.store(true, std::memory_order_relaxed);
  if (before.sa_flags & SA_SIGINFO) {
    before.sa_sigaction(number, info, context);
  } else {
    before.sa_handler(number);
  }
}

bool is_noted_by(const struct sigaction& action) {
  return (action.sa_flags & SA_SIGINFO) != 0 && action.sa_sigaction == &note;
}
#endif

}  // namespace

#ifdef _WIN32
// Windows has no sigaction, so a signal is noticed only between two steps.
void InterruptWatch::install() {}
void InterruptWatch::restore() {}
#else
void InterruptWatch::install() {
  struct sigaction now;
  if (depth == flags.size() || sigaction(SIGINT, nullptr, &now) != 0) return;
  // A call from a Python handler or callback of another long call, or a process forked
  // from such a call, has the C handler already.
  if (!is_noted_by(now)) {
    const bool is_handled = (now.sa_flags & SA_SIGINFO) != 0 ||
                            (now.sa_handler != SIG_DFL && now.sa_handler != SIG_IGN);
    if (!is_handled) return;
    before = now;
    struct sigaction ours = now;
    ours.sa_flags |= SA_SIGINFO;
    ours.sa_sigaction = &note;
    if (sigaction(SIGINT, &ours, nullptr) != 0) return;
    installed_ = true;
  }
  flag_ = &flags[depth++];
  clear();
}

void InterruptWatch::restore() {
  if (flag_) --depth;
  flag_ = nullptr;
  if (!installed_) return;
  struct sigaction now;
  // A Python handler may have installed another handler meanwhile.
  if (sigaction(SIGINT, nullptr, &now) == 0 && is_noted_by(now)) {
    sigaction(SIGINT, &before, nullptr);
  }
}
#endif

InterruptWatch::InterruptWatch(bool wanted) {
  if (!wanted || !in_main_thread()) return;
  install();
  // A signal may have arrived before the C handler was there.
  if (!flag_ || !handlers_raise()) return;
  restore();
  throw py::error_already_set();
}

InterruptWatch::~InterruptWatch() { restore(); }

bool InterruptWatch::handlers_raise() {
  const StoppedBy nothing(nullptr);
  const CallbackFpEnvironment environment;  // of the user's signal handlers
  return PyErr_CheckSignals() != 0;
}

}  // namespace fastmlp::bindings
