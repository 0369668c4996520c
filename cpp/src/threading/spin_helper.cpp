#include "threading/spin_helper.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#include "threading/block_signals.h"
#include "threading/spin.h"

#if defined(__linux__)
#include <sched.h>
#endif

namespace fastmlp::detail {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

// How long the helper spins without work before it goes to sleep: long enough for the
// work of a training loop between two steps, too short to matter to other processes.
constexpr microseconds kSpinTime{200};
// A sleeping helper is woken only if the last region ended within this time, since
// another region is then likely to follow. (If the helper did not take part in the last
// region, only its beginning is known. Therefore the expected duration of a region is
// always added to this time.) The caller works alone on the region for which it wakes
// the helper, and the helper spins until this time after the expected end of that
// region.
constexpr microseconds kWakeWindow{300};

// Number of pauses, of some 10 to 50 ns each, within which the helper must take an
// offered job. It takes a job within a fraction of a microsecond unless its CPU runs
// something else.
constexpr int kOfferPauses = 60;
// How long the helper is left alone after it has missed an offer: about a time slice of
// the process that has its CPU.
constexpr microseconds kMissedBackoff{2'000};

// A region that takes this much longer than it would without the helper has stalled:
// one of the two threads must have lost its CPU to another process. The helper is then
// left alone for kMinBackoff, and after each further stall for twice as long as before,
// until it has helped with kRegionsToForgive regions in a row without a stall.
constexpr microseconds kStall{1'000};
constexpr microseconds kMinBackoff{20'000}, kMaxBackoff{1'280'000};
constexpr int kRegionsToForgive = 1000;

// The CPU that this thread runs on; -1 if it is not known.
int current_cpu() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

// An affinity mask: the CPUs that a thread may run on. If the mask cannot be read,
// apply and leave do nothing.
class AffinityMask {
 public:
  // Reads the mask of this thread. Returns false if it is known to have a single CPU.
  bool read() {
#if defined(__linux__)
    known_ = sched_getaffinity(0, sizeof cpus_, &cpus_) == 0;
    return !known_ || CPU_COUNT(&cpus_) > 1;
#else
    return true;
#endif
  }

  // Lets this thread run on the CPUs of the mask.
  void apply() const {
#if defined(__linux__)
    cpu_set_t found;
    if (!known_ || sched_getaffinity(0, sizeof found, &found) != 0) return;
    if (!CPU_EQUAL(&found, &cpus_)) sched_setaffinity(0, sizeof cpus_, &cpus_);
#endif
  }

  // Moves this thread from `cpu` to another CPU of the mask. A thread often wakes up on
  // the CPU of the thread that woke it. There it could not run before that thread has
  // finished the very region that it should help with.
  void leave([[maybe_unused]] int cpu) const {
#if defined(__linux__)
    if (!known_ || cpu >= CPU_SETSIZE) return;
    cpu_set_t others = cpus_;
    CPU_CLR(static_cast<size_t>(cpu), &others);
    if (CPU_COUNT(&others) == 0) return;
    // The first call moves the thread. The second call allows the old CPU again, but
    // does not move the thread back.
    if (sched_setaffinity(0, sizeof others, &others) == 0) {
      sched_setaffinity(0, sizeof cpus_, &cpus_);
    }
#endif
  }

 private:
#if defined(__linux__)
  cpu_set_t cpus_;
  bool known_ = false;
#endif
};

// See the header.
enum class State : int { asleep, waking, ready, offered, working, done };

class SpinHelper {
 public:
  bool try_start(void (*f)(void*), void* context, microseconds time_alone) {
    if (in_use_.exchange(true, std::memory_order_acquire)) return false;
    const State state = state_.load(std::memory_order_acquire);
    const Clock::time_point now = Clock::now();
    caller_cpu_.store(current_cpu(), std::memory_order_relaxed);
    if (now >= left_alone_until_) {
      if (state == State::ready) {
        f_ = f;
        context_ = context;
        if (offer()) {
          started_ = now;
          time_alone_ = time_alone;
          woken_in_vain_ = false;
          return true;
        }
        left_alone_until_ = now + kMissedBackoff;
      } else if (state == State::asleep &&
                 now - last_region_ < kWakeWindow + time_alone) {
        // Leave the helper alone if it fell asleep again before it was used, or if it
        // cannot be woken.
        const bool useless = woken_in_vain_ || !wake(time_alone);
        if (useless) left_alone_until_ = now + kMinBackoff;
        woken_in_vain_ = !useless;
      }
    }
    last_region_ = now;
    in_use_.store(false, std::memory_order_release);
    return false;
  }

  void join() {
    Spin spin;
    while (state_.load(std::memory_order_acquire) != State::done) spin.once();
    last_region_ = Clock::now();
    if (last_region_ - started_ > kStall + time_alone_) {
      left_alone_until_ = last_region_ + backoff_;
      backoff_ = std::min(2 * backoff_, kMaxBackoff);
      regions_since_stall_ = 0;
    } else if (regions_since_stall_ < kRegionsToForgive &&
               ++regions_since_stall_ == kRegionsToForgive) {
      backoff_ = kMinBackoff;
    }
    state_.store(State::ready, std::memory_order_release);
    in_use_.store(false, std::memory_order_release);
  }

 private:
  bool change_state(State from, State to) {
    return state_.compare_exchange_strong(from, to);
  }

  // Returns whether the helper has taken the job.
  bool offer() {
    if (!change_state(State::ready, State::offered)) return false;
    for (int i = 0; i < kOfferPauses; ++i) {
      if (state_.load(std::memory_order_acquire) != State::offered) return true;
      pause_cpu();
    }
    return !change_state(State::offered, State::ready);
  }

  // Returns false if the helper cannot be woken.
  bool wake(microseconds time_alone) {
    // Let the helper run on the CPUs that its caller may use now, which may have
    // changed since the thread was created. On a single CPU it would only be in the
    // way.
    if (!cpus_.read()) return false;
    if (!creation_tried_) {
      creation_tried_ = true;
      try {
        const BlockSignals block_signals;
        std::thread([this] { run(); }).detach();
        exists_ = true;
      } catch (const std::exception&) {
        // No thread or memory is available: callers work alone.
      }
    }
    if (!exists_) return false;
    first_spin_time_ = time_alone + kWakeWindow;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      state_.store(State::waking, std::memory_order_release);
    }
    wake_.notify_one();
    return true;
  }

  // --- in the helper's own thread ---

  void run() {
    for (;;) {
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [this] { return state_.load() != State::asleep; });
      }
      serve();
    }
  }

  void leave_callers_cpu() const {
    const int cpu = current_cpu();
    if (cpu >= 0 && cpu == caller_cpu_.load(std::memory_order_relaxed)) {
      cpus_.leave(cpu);
    }
  }

  // Takes jobs until there has been none for a while.
  void serve() {
    Clock::duration spin_time = first_spin_time_;
    cpus_.apply();
    leave_callers_cpu();
    state_.store(State::ready, std::memory_order_release);
    constexpr int kPausesPerClock =
        64;  // reading the clock takes as long as some pauses
    Clock::time_point idle_since = Clock::now();
    for (;;) {
      leave_callers_cpu();
      for (int i = 0; i < kPausesPerClock; ++i) {
        if (state_.load(std::memory_order_relaxed) == State::offered &&
            change_state(State::offered, State::working)) {
          f_(context_);
          state_.store(State::done, std::memory_order_release);
          Spin spin;
          while (state_.load(std::memory_order_relaxed) == State::done) spin.once();
          idle_since = Clock::now();
          spin_time = kSpinTime;
        }
        pause_cpu();
      }
      if (Clock::now() - idle_since < spin_time) continue;
      if (change_state(State::ready, State::asleep)) return;
    }
  }

  std::atomic<State> state_{State::asleep};
  std::atomic<int> caller_cpu_{-1};
  // The job is the call f_(context_). The caller sets both before it offers the job.
  void (*f_)(void*) = nullptr;
  void* context_ = nullptr;
  // Written by the caller while the helper sleeps.
  AffinityMask cpus_;
  microseconds first_spin_time_{};

  // Set from try_start to join: the helper serves one caller at a time. This flag
  // guards the members below it.
  alignas(64) std::atomic<bool> in_use_{false};
  bool creation_tried_ = false, exists_ = false;
  bool woken_in_vain_ = false;  // until it takes a job
  // `last_region_`: the end of the last region, or its beginning if the helper did not
  // take part.
  Clock::time_point last_region_{}, started_{}, left_alone_until_{};
  microseconds time_alone_{};  // expected, of the region that started at started_
  microseconds backoff_ = kMinBackoff;
  int regions_since_stall_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_;
};

// Never destroyed: the thread outlives main.
SpinHelper& helper() {
  static SpinHelper* const instance = new SpinHelper;
  return *instance;
}

}  // namespace

bool try_start_helper(void (*f)(void*), void* context, microseconds time_alone) {
  return helper().try_start(f, context, time_alone);
}

void join_helper() { helper().join(); }

}  // namespace fastmlp::detail
