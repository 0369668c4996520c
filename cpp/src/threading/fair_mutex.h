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
  // Readers wait by sleeping, and no sleep is much shorter than this.
  static constexpr Duration kShortest = std::chrono::microseconds(100);

  // grant, enter and leave are called by the writer that holds the mutex.
  void grant(Duration waited) {
    owed_ += waited;
    if (owed_ < kShortest) return;
    end_.store(ticks(Clock::now() + std::min(owed_, kLongest)), kRelaxed);
    left_.store(kPresent, kRelaxed);
    owed_ = Duration::zero();
  }
  void enter() {
    if (end_.load(kRelaxed) != kNone) left_.store(kPresent, kRelaxed);
  }
  void leave() {
    const int64_t end = end_.load(kRelaxed);
    if (end == kNone) return;
    const int64_t now = ticks(Clock::now());
    left_.store(now, kRelaxed);
    if (now >= end) end_.store(kNone, kRelaxed);
  }

  // Readers wait here. One of them watches the clock.
  void wait() {
    if (end_.load(kRelaxed) == kNone) return;
    if (!watch_.try_lock_for(kLongest)) return;
    const std::lock_guard watch(watch_, std::adopt_lock);
    const auto latest = Clock::now() + kLongest;
    while (true) {
      const int64_t end = end_.load(kRelaxed);
      if (end == kNone) return;
      const auto now = Clock::now();
      const int64_t left = left_.load(kRelaxed);
      const bool away = left != kPresent && now - time_point(left) >= kPause;
      if (away || now + kShortest >= time_point(end) || now >= latest) return;
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

  std::atomic<int64_t> end_{kNone};   // of the lease
  std::atomic<int64_t> left_{kNone};  // when a writer last unlocked the mutex
  Duration owed_{0};                  // waiting times too short for a lease
  std::timed_mutex watch_;
};

class FairSharedMutex {
 public:
  using Milliseconds = std::chrono::milliseconds;

  void lock() {
    if (try_lock()) return;
    const Announcement announcement(*this);
    const std::lock_guard turn(turn_);
    const auto asked = WriterLease::Clock::now();
    mutex_.lock();
    lease_.grant(WriterLease::Clock::now() - asked);
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
