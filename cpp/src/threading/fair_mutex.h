// A shared mutex on which a waiting writer gets its turn: readers that come later wait
// until it has the lock. The standard one may prefer readers, so that a few threads
// that predict keep another from training for ever.
#pragma once

#include <atomic>
#include <chrono>
#include <mutex>
#include <shared_mutex>

namespace fastmlp::detail {

class FairSharedMutex {
 public:
  using Milliseconds = std::chrono::milliseconds;

  void lock() {
    if (try_lock()) return;
    const Announcement announcement(*this);
    const std::lock_guard turn(turn_);
    mutex_.lock();
  }
  bool try_lock() { return mutex_.try_lock(); }
  void unlock() { mutex_.unlock(); }

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
};

}  // namespace fastmlp::detail
