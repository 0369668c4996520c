#include "threading/spin_helper.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#include "threading/spin.h"

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <signal.h>
#endif

namespace fastmlp::detail {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

constexpr microseconds kAwake{200};  // that it spins without work
// A sleeping standby is woken if the last region was over no longer ago than this, or,
// where only its beginning is known, would have been. It stays awake for as long after
// the region that woke it, which its waker works on alone.
constexpr microseconds kSoon{300};
// It is let alone for a while if it fails to answer, and for longer if it was woken in
// vain, or if a region takes so much longer than it would alone that a member must have
// lost its CPU to another process; the longer, the more often that happens.
constexpr microseconds kUnanswered{2'000};
constexpr microseconds kStalled{1'000};
constexpr microseconds kFirstRest{20'000}, kLongestRest{1'280'000};
constexpr int kSoundRegions = 1000;  // in a row, after which stalls are forgotten
// Pauses, of some 10 to 50 ns, in which it must begin.
constexpr int kPatience = 60;

// The CPU this thread runs on; -1 where that is not known.
int current_cpu() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

// The CPUs that a thread may use; where that is not known, nothing is done with them.
class Cpus {
 public:
  // Those of this thread. Whether there may be two.
  bool look() {
#if defined(__linux__)
    known_ = sched_getaffinity(0, sizeof cpus_, &cpus_) == 0;
    return !known_ || CPU_COUNT(&cpus_) > 1;
#else
    return true;
#endif
  }

  // Keeps this thread to them.
  void apply() const {
#if defined(__linux__)
    cpu_set_t found;
    if (!known_ || sched_getaffinity(0, sizeof found, &found) != 0) return;
    if (!CPU_EQUAL(&found, &cpus_)) sched_setaffinity(0, sizeof cpus_, &cpus_);
#endif
  }

  // Leaves a CPU for another of them. A thread is often woken on the CPU of its waker,
  // where it would wait for the very region it is to help with.
  void leave([[maybe_unused]] int cpu) const {
#if defined(__linux__)
    if (!known_ || cpu >= CPU_SETSIZE) return;
    cpu_set_t others = cpus_;
    CPU_CLR(static_cast<size_t>(cpu), &others);
    if (CPU_COUNT(&others) == 0) return;
    // Once it has moved it stays, though it may come back.
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

// Threads made during its life get no signals: they are for the threads that the
// program knows of, some of which may wait for them. Those that report a fault stay.
class WithoutSignals {
 public:
#if defined(__unix__) || defined(__APPLE__)
  WithoutSignals() {
    sigset_t blocked;
    sigfillset(&blocked);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) {
      sigdelset(&blocked, fault);
    }
    pthread_sigmask(SIG_BLOCK, &blocked, &saved_);
  }
  ~WithoutSignals() { pthread_sigmask(SIG_SETMASK, &saved_, nullptr); }
  WithoutSignals(const WithoutSignals&) = delete;
  WithoutSignals& operator=(const WithoutSignals&) = delete;

 private:
  sigset_t saved_;
#else
  WithoutSignals() {}
#endif
};

// asleep -> waking -> ready <-> offered -> working -> done -> ready, and ready ->
// asleep.
enum State : int { asleep, waking, ready, offered, working, done };

class SpinHelper {
 public:
  bool start(void (*f)(void*), void* context, microseconds alone) {
    if (busy_.exchange(true, std::memory_order_acquire)) return false;
    const int found = state_.load(std::memory_order_acquire);
    const Clock::time_point now = Clock::now();
    caller_cpu_.store(current_cpu(), std::memory_order_relaxed);
    if (now >= rests_until_) {
      if (found == ready) {
        f_ = f;
        context_ = context;
        if (offer()) {
          started_ = now;
          alone_ = alone;
          unused_ = false;
          return true;
        }
        rests_until_ = now + kUnanswered;
      } else if (found == asleep && now - last_ < kSoon + alone) {
        // It rests if it fell asleep before it was used, or cannot be woken.
        const bool in_vain = unused_ || !wake(alone);
        if (in_vain) rests_until_ = now + kFirstRest;
        unused_ = !in_vain;
      }
    }
    last_ = now;
    busy_.store(false, std::memory_order_release);
    return false;
  }

  void epilogue() {
    Spin spin;
    while (state_.load(std::memory_order_acquire) != done) spin.once();
    last_ = Clock::now();
    if (last_ - started_ > kStalled + alone_) {
      rests_until_ = last_ + rest_;
      rest_ = std::min(2 * rest_, kLongestRest);
      sound_ = 0;
    } else if (sound_ < kSoundRegions && ++sound_ == kSoundRegions) {
      rest_ = kFirstRest;
    }
    state_.store(ready, std::memory_order_release);
    busy_.store(false, std::memory_order_release);
  }

 private:
  bool offer() {
    int expected = ready;
    if (!state_.compare_exchange_strong(expected, offered)) return false;
    for (int i = 0; i < kPatience; ++i) {
      if (state_.load(std::memory_order_acquire) != offered) return true;
      pause_cpu();
    }
    expected = offered;
    return !state_.compare_exchange_strong(expected, ready);
  }

  // Whether that is possible.
  bool wake(microseconds alone) {
    // It goes where its waker may go, wherever that was when the thread was made. On
    // one CPU it would only be in the way.
    if (!cpus_.look()) return false;
    if (!made_) {
      made_ = true;
      try {
        const WithoutSignals without_signals;
        std::thread([this] { run(); }).detach();
        exists_ = true;
      } catch (const std::exception&) {
        // No thread or memory to be had: the state stays asleep, callers work alone.
      }
    }
    if (!exists_) return false;
    awake_at_first_ = alone + kSoon;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      state_.store(waking, std::memory_order_release);
    }
    wake_.notify_one();
    return true;
  }

  void run() {
    for (;;) {
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [this] { return state_.load() != asleep; });
      }
      stand_by();
    }
  }

  void leave_callers_cpu() const {
    const int cpu = current_cpu();
    if (cpu >= 0 && cpu == caller_cpu_.load(std::memory_order_relaxed)) {
      cpus_.leave(cpu);
    }
  }

  // Until it has been without work for a while.
  void stand_by() {
    Clock::duration awake = awake_at_first_;
    cpus_.apply();
    leave_callers_cpu();
    state_.store(ready, std::memory_order_release);
    constexpr int kBetweenLooks = 64;  // at the clock
    Clock::time_point idle_since = Clock::now();
    for (;;) {
      leave_callers_cpu();
      for (int i = 0; i < kBetweenLooks; ++i) {
        int expected = offered;
        if (state_.load(std::memory_order_relaxed) == offered &&
            state_.compare_exchange_strong(expected, working)) {
          f_(context_);
          state_.store(done, std::memory_order_release);
          Spin spin;
          while (state_.load(std::memory_order_relaxed) == done) spin.once();
          idle_since = Clock::now();
          awake = kAwake;
        }
        pause_cpu();
      }
      if (Clock::now() - idle_since < awake) continue;
      int expected = ready;
      if (state_.compare_exchange_strong(expected, asleep)) return;
    }
  }

  std::atomic<int> state_{asleep};
  std::atomic<int> caller_cpu_{-1};
  // The job; written before it is offered.
  void (*f_)(void*) = nullptr;
  void* context_ = nullptr;
  // For the standby; written while it sleeps.
  Cpus cpus_;
  microseconds awake_at_first_{};
  // Held from start to finish; guards what follows.
  alignas(64) std::atomic<bool> busy_{false};
  bool made_ = false, exists_ = false;
  bool unused_ = false;  // since it was woken
  Clock::time_point last_{}, started_{}, rests_until_{};
  microseconds alone_{};  // of the region that started then
  microseconds rest_ = kFirstRest;
  int sound_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_;
};

// Never destroyed: the thread outlives main.
SpinHelper& standby() {
  static SpinHelper* const instance = new SpinHelper;
  return *instance;
}

}  // namespace

bool try_start_helper(void (*f)(void*), void* context, microseconds alone) {
  return standby().start(f, context, alone);
}

void join_helper() { standby().epilogue(); }

}  // namespace fastmlp::detail
