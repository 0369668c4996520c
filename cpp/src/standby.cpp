#include "standby.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#include "spin.h"

#if defined(__linux__)
#include <sched.h>
#endif

namespace fastmlp::detail {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

constexpr microseconds kAwake{200};  // that it spins without work
// A sleeping standby is woken if the last region was no longer ago than this.
constexpr microseconds kSoon{500};
// It is let alone for a while if it fails to answer, and for longer if a region takes so
// long that a member must have lost its CPU to another process; the longer, the more often
// that happens.
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

// Leaves a CPU for another that this thread may use. A thread is often woken on the CPU of
// its waker, where it would wait for the very region it is to help with.
void leave_cpu([[maybe_unused]] int cpu) {
#if defined(__linux__)
  cpu_set_t allowed;
  if (cpu >= CPU_SETSIZE || sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  cpu_set_t others = allowed;
  CPU_CLR(static_cast<size_t>(cpu), &others);
  if (CPU_COUNT(&others) == 0) return;
  // Once it has moved it stays, though it may come back.
  if (sched_setaffinity(0, sizeof others, &others) == 0) {
    sched_setaffinity(0, sizeof allowed, &allowed);
  }
#endif
}

// asleep -> waking -> ready <-> offered -> working -> done -> ready, and ready -> asleep.
enum State : int { asleep, waking, ready, offered, working, done };

class Standby {
 public:
  bool start(void (*f)(void*), void* context) {
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
          return true;
        }
        rests_until_ = now + kUnanswered;
      } else if (found == asleep && now - last_ < kSoon) {
        wake();
      }
    }
    last_ = now;
    busy_.store(false, std::memory_order_release);
    return false;
  }

  void finish() {
    Spin spin;
    while (state_.load(std::memory_order_acquire) != done) spin.once();
    last_ = Clock::now();
    if (last_ - started_ > kStalled) {
      rests_until_ = last_ + rest_;
      rest_ = std::min(2 * rest_, kLongestRest);
      sound_ = 0;
    } else if (++sound_ == kSoundRegions) {
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

  void wake() {
    if (!made_) {
      made_ = true;
      try {
        std::thread([this] { run(); }).detach();
      } catch (const std::system_error&) {
        return;  // no thread to be had: the state stays asleep, callers work alone
      }
      exists_ = true;
    }
    if (!exists_) return;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      state_.store(waking, std::memory_order_release);
    }
    wake_.notify_one();
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
    if (cpu >= 0 && cpu == caller_cpu_.load(std::memory_order_relaxed)) leave_cpu(cpu);
  }

  // Until it has been without work for kAwake.
  void stand_by() {
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
        }
        pause_cpu();
      }
      if (Clock::now() - idle_since < kAwake) continue;
      int expected = ready;
      if (state_.compare_exchange_strong(expected, asleep)) return;
    }
  }

  std::atomic<int> state_{asleep};
  std::atomic<int> caller_cpu_{-1};
  // The job; written before it is offered.
  void (*f_)(void*) = nullptr;
  void* context_ = nullptr;
  // Held from start to finish; guards what follows.
  alignas(64) std::atomic<bool> busy_{false};
  bool made_ = false, exists_ = false;
  Clock::time_point last_{}, started_{}, rests_until_{};
  microseconds rest_ = kFirstRest;
  int sound_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_;
};

// Never destroyed: the thread outlives main.
Standby& standby() {
  static Standby* const instance = new Standby;
  return *instance;
}

}  // namespace

bool start_standby(void (*f)(void*), void* context) {
  return standby().start(f, context);
}

void finish_standby() { standby().finish(); }

}  // namespace fastmlp::detail
