#include "interrupts.h"

#include "fastmlp/fp_environment.h"

namespace fastmlp::bindings {

std::atomic<bool> InterruptWatch::pressed_{false};
struct sigaction InterruptWatch::before_ = {};

namespace {

bool in_main_thread() {
  const py::object main = py::module_::import("threading").attr("main_thread")();
  return py::cast<unsigned long>(main.attr("ident")) == PyThread_get_thread_ident();
}

}  // namespace

bool InterruptWatch::is_noted_by(const struct sigaction& action) {
  return (action.sa_flags & SA_SIGINFO) != 0 && action.sa_sigaction == &note;
}

void InterruptWatch::note(int number, siginfo_t* info, void* context) {
  pressed_.store(true, std::memory_order_relaxed);
  if (before_.sa_flags & SA_SIGINFO) {
    before_.sa_sigaction(number, info, context);
  } else {
    before_.sa_handler(number);
  }
}

InterruptWatch::InterruptWatch(bool wanted) {
  if (!wanted || !in_main_thread()) return;
  struct sigaction now;
  if (sigaction(SIGINT, nullptr, &now) != 0) return;
  // A call from a Python handler or callback of another long call, or a process forked
  // from such a call, has the C handler already.
  if (!is_noted_by(now)) {
    const bool is_handled = (now.sa_flags & SA_SIGINFO) != 0 ||
                            (now.sa_handler != SIG_DFL && now.sa_handler != SIG_IGN);
    if (!is_handled) return;
    before_ = now;
    struct sigaction ours = now;
    ours.sa_flags |= SA_SIGINFO;
    ours.sa_sigaction = &note;
    if (sigaction(SIGINT, &ours, nullptr) != 0) return;
    installed_ = true;
  }
  watches_ = true;
  // A signal may have arrived before the C handler was there.
  if (!handlers_raise()) return;
  restore();
  throw py::error_already_set();
}

InterruptWatch::~InterruptWatch() { restore(); }

void InterruptWatch::restore() const {
  if (!installed_) return;
  struct sigaction now;
  // A Python handler may have installed another handler meanwhile.
  if (sigaction(SIGINT, nullptr, &now) == 0 && is_noted_by(now)) {
    sigaction(SIGINT, &before_, nullptr);
  }
}

bool InterruptWatch::handlers_raise() {
  // The flag first: a signal that arrives afterwards sets it again.
  pressed_.store(false, std::memory_order_relaxed);
  const StoppedBy nothing(nullptr);
  const CallbackFpEnvironment environment;  // of the user's signal handlers
  return PyErr_CheckSignals() != 0;
}

}  // namespace fastmlp::bindings
