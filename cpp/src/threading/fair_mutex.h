// A shared mutex that gives a writer about half of the time beside readers that never
// pause. The standard one may prefer readers, so that a few threads that predict keep
// another from training for ever.
//
// - A waiting writer gets its turn: readers that come later wait until it has the lock.
// - A writer that had to wait may then return for as long again before readers go on.
//   So a trainer whose steps are shorter than its readers' calls takes many of them.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <shared_mutex>
#include <thread>

namespace fastmlp::detail {

// The time for which readers let writers return to a mutex. It ends early when writers
// stay away. All times are those of the steady clock.
class WriterLease {
 public:
  using Clock = std::chrono::steady_clock;
  using Duration = Clock::duration;

  // A reader never waits longer for a lease.
  static constexpr Duration kLongest = std::chrono::milliseconds(100);
  // What a writer does between two steps: load a batch, call a callback.
  static constexpr Duration kPause = std::chrono::milliseconds(1);
  // Number of leases that are not granted after one whose writer stayed away.
  static constexpr int kWithheld = 4;
  // Readers wait by sleeping, and no sleep is much shorter than this.
  static constexpr Duration kShortest = std::chrono::microseconds(100);

  // grant, enter and leave are called by the writer that holds the mutex. `asked`: when
  // it began to wait. It may also have waited for another writer, which counts for
  // nothing.
  void grant(Clock::time_point asked) {
    const Clock::time_point now = Clock::now();
    owed_ += now - std::max(asked, time_point(last_.load(kRelaxed)));
    if (owed_ < kShortest) return;
    const Duration length = std::min(owed_, kLongest);
    owed_ = Duration::zero();
    const int withheld = withheld_.load(kRelaxed);
    if (withheld > 0) {
      withheld_.store(withheld - 1, kRelaxed);
      return;
    }
    owner_.store(std::this_thread::get_id(), kRelaxed);
    left_.store(kPresent, kRelaxed);
    end_.store(ticks(now + length), std::memory_order_release);
  }
  void enter() {
    if (end_.load(kRelaxed) != kNone) left_.store(kPresent, kRelaxed);
  }
  void leave() {
    const int64_t now = ticks(Clock::now());
    last_.store(now, kRelaxed);
    const int64_t end = end_.load(kRelaxed);
    if (end == kNone) return;
    left_.store(now, kRelaxed);
    if (now >= end) end_.store(kNone, kRelaxed);
  }

  // Readers wait here, but not a thread for its own lease. One of them watches the
  // clock.
  void wait() {
    if (end_.load(kRelaxed) == kNone) return;
    if (owner_.load(kRelaxed) == std::this_thread::get_id()) return;
    const Clock::time_point latest = Clock::now() + kLongest;
    const std::unique_lock watch(watch_, latest);
    if (!watch) return;
    while (true) {
      int64_t end = end_.load(std::memory_order_acquire);
      if (end == kNone) return;
      const Clock::time_point now = Clock::now();
      const int64_t left = left_.load(kRelaxed);
      const bool away = left != kPresent && now - time_point(left) >= kPause;
      if (away) withheld_.store(kWithheld, kRelaxed);
      if (away || now + kShortest >= time_point(end)) {
        // Unless a writer has got another lease meanwhile.
        end_.compare_exchange_strong(end, kNone, kRelaxed);
        return;
      }
      if (now >= latest) return;
      std::this_thread::sleep_for(std::min(kPause, time_point(end) - now));
    }
  }

 private:
  static constexpr auto kRelaxed = std::memory_order_relaxed;
  static constexpr int64_t kNone = INT64_MIN, kPresent = INT64_MAX;

  static int64_t ticks(Clock::time_point time) {
    return time.time_since_epoch().count();
  }
  static Clock::time_point time_point(int64_t ticks) {
    return Clock::time_point(Duration(ticks));
  }

  std::atomic<int64_t> end_{kNone};      // of the lease
  std::atomic<int64_t> left_{kPresent};  // when its writer last unlocked the mutex
  std::atomic<int64_t> last_{0};         // when any writer last unlocked the mutex
  std::atomic<std::thread::id> owner_{};
  std::atomic<int> withheld_{0};  // leases that will not be granted
  Duration owed_{0};              // waiting times too short for a lease
  std::timed_mutex watch_;
};

class FairSharedMutex {
 public:
  using Milliseconds = std::chrono::milliseconds;

  void lock() {
    // Writers wait in turn: one that returns at once would keep another, and so all
    // readers, waiting.
    if (writers_.load(std::memory_order_relaxed) == 0 && try_lock()) return;
    const Announcement announcement(*this);
    const std::lock_guard turn(turn_);
    const auto asked = WriterLease::Clock::now();
    mutex_.lock();
    lease_.grant(asked);
  }
  bool try_lock() {
    if (!mutex_.try_lock()) return false;
    lease_.enter();
    return true;
  }
  void unlock() {
    lease_.leave();
    mutex_.unlock();
  }

  // Locks, or returns false once give_up() is true, which is asked every `patience`.
  template <class GiveUp>
  bool lock_unless(GiveUp give_up, Milliseconds patience) {
    if (try_lock()) return true;
    const Announcement announcement(*this);
    std::unique_lock turn(turn_, std::defer_lock);
    while (!give_up()) {
      if (!turn.owns_lock() && !turn.try_lock_for(patience)) continue;
      if (mutex_.try_lock_for(patience)) return true;
    }
    return false;
  }

  void lock_shared() {
    if (writers_.load(std::memory_order_relaxed) > 0) wait_for_writer();
    lease_.wait();
    mutex_.lock_shared();
  }
  // For a thread that already shares the mutex: a writer may be waiting for it.
  void lock_shared_again() { mutex_.lock_shared(); }
  void unlock_shared() { mutex_.unlock_shared(); }

 private:
  // RAII: a writer waits.
  class Announcement {
   public:
    explicit Announcement(FairSharedMutex& mutex) : writers_(mutex.writers_) {
      writers_.fetch_add(1, std::memory_order_relaxed);
    }
    ~Announcement() { writers_.fetch_sub(1, std::memory_order_relaxed); }
    Announcement(const Announcement&) = delete;
    Announcement& operator=(const Announcement&) = delete;

   private:
    std::atomic<int>& writers_;
  };

  // The wait is bounded, because a thread that shares the mutex may in turn wait for
  // this one: in a custom activation, say. A reader that holds the mutex for longer
  // delays others by that much if a writer waits.
  void wait_for_writer() {
    constexpr Milliseconds kLongest{1000};
    if (turn_.try_lock_for(kLongest)) turn_.unlock();
  }

  std::shared_timed_mutex mutex_;
  std::timed_mutex turn_;  // held by the writer that waits for mutex_
  std::atomic<int> writers_{0};
  WriterLease lease_;
};

}  // namespace fastmlp::detail
