// Locks that stay usable in a forked process.
//
// A child process has only the thread that forked; a lock that another thread held at
// that moment would stay locked in the child for ever. So fork() waits for every lock
// of this kind (training holds its locks for one step at most), and parent and child
// release them afterwards. fork() does not wait for threads in user code: see
// InUserCode.
#pragma once

#include <atomic>
#include <chrono>
#include <mutex>
#include <new>
#include <type_traits>

#include "threading/fair_mutex.h"

namespace fastmlp {

// The number of forks between the process that loaded the library and this one.
int fork_generation();

// RAII: while alive, this thread is in user code, such as a custom activation. User
// code may wait for the very thread that forks (for Python's GIL, say). The state
// behind the locks that this thread holds is consistent, so fork() does not wait for
// them.
class InUserCode {
 public:
  InUserCode();
  ~InUserCode();
  InUserCode(const InUserCode&) = delete;
  InUserCode& operator=(const InUserCode&) = delete;
};

namespace detail {

// The order of locking: a thread that holds a lock takes only locks of a later rank.
enum class LockRank : int { optimizer, model, pool };
constexpr int kLockRanks = 3;

// The interface by which fork() locks, unlocks and resets a lock.
class ForkAware {
 public:
  // How a thread holds a lock.
  enum class Hold { none, shared, exclusive };

  explicit ForkAware(LockRank rank) : rank_(rank) {}
  virtual ~ForkAware() = default;
  ForkAware(const ForkAware&) = delete;
  ForkAware& operator=(const ForkAware&) = delete;
  virtual void lock_for_fork() = 0;
  virtual void unlock_in_parent() = 0;
  virtual void reset_in_child() = 0;

 protected:
  // From enroll to leave, fork() knows the lock. A fork may happen at any moment, so
  // they are called by the most derived class, once it is complete and while it is.
  void enroll();
  void leave();

  // Each thread has a list of the locks that it holds. The functions below use the list
  // of the calling thread.
  //
  // Throws std::runtime_error if taking the lock would make this thread wait for
  // itself.
  void check_deadlock(Hold wanted) const;
  void record_locked(Hold how);
  void record_unlocked();
  Hold held_by_this_thread() const;
  int times_shared_by_this_thread() const;
  // Whether a thread that holds this lock is in user code.
  bool held_in_user_code() const {
    return in_user_code_.load(std::memory_order_relaxed) > 0;
  }
  // Called in a forked child, where no other thread exists that could hold the lock.
  void forget_other_threads();

 private:
  friend class fastmlp::InUserCode;
  LockRank rank_;
  std::atomic<int> in_user_code_{0};
};

// A std::timed_mutex or FairSharedMutex for which fork() waits. `recorded`:
// whether to record its holders, which takes time and is only needed if a thread may
// enter user code while it holds the lock.
template <class Mutex, LockRank kRank>
class ForkSafe final : public ForkAware {
 public:
  explicit ForkSafe(bool recorded) : ForkAware(kRank), recorded_(recorded) { enroll(); }
  ~ForkSafe() override { leave(); }
  void lock() {
    before_lock(Hold::exclusive);
    mutex_.lock();
    after_lock(Hold::exclusive);
  }
  bool try_lock() {
    before_lock(Hold::exclusive);
    if (!mutex_.try_lock()) return false;
    after_lock(Hold::exclusive);
    return true;
  }
  void unlock() {
    before_unlock();
    mutex_.unlock();
  }
  void lock_shared() {
    before_lock(Hold::shared);
    if (recorded_ && held_by_this_thread() == Hold::shared) {
      mutex_.lock_shared_again();
    } else {
      mutex_.lock_shared();
    }
    after_lock(Hold::shared);
  }
  void unlock_shared() {
    before_unlock();
    mutex_.unlock_shared();
  }

  void lock_for_fork() override {
    // The thread that holds the lock may enter user code meanwhile, so look again now
    // and then.
    constexpr std::chrono::milliseconds kPatience{2};
    const auto held = [this] { return held_in_user_code(); };
    if constexpr (kShared) {
      locked_for_fork_ = !held() && mutex_.lock_unless(held, kPatience);
    } else {
      while (!held() && !locked_for_fork_) {
        locked_for_fork_ = mutex_.try_lock_for(kPatience);
      }
    }
  }
  void unlock_in_parent() override {
    if (locked_for_fork_) mutex_.unlock();
    locked_for_fork_ = false;
  }
  // A mutex may remember the id of the thread that locked it, which differs in the
  // child. So the mutex is constructed again and, if this thread had locked it, locked
  // again in the same way.
  void reset_in_child() override {
    locked_for_fork_ = false;
    forget_other_threads();
    mutex_.~Mutex();
    new (&mutex_) Mutex;
    if (held_by_this_thread() == Hold::exclusive) mutex_.lock();
    if constexpr (kShared) {
      for (int n = times_shared_by_this_thread(); n > 0; --n) mutex_.lock_shared();
    }
  }

 private:
  static constexpr bool kShared = std::is_same_v<Mutex, FairSharedMutex>;

  void before_lock(Hold how) const {
    if (recorded_) check_deadlock(how);
  }
  void after_lock(Hold how) {
    if (recorded_) record_locked(how);
  }
  void before_unlock() {
    if (recorded_) record_unlocked();
  }

  const bool recorded_;
  Mutex mutex_;
  bool locked_for_fork_ = false;
};

}  // namespace detail

using ModelMutex = detail::ForkSafe<detail::FairSharedMutex, detail::LockRank::model>;
using PoolMutex = detail::ForkSafe<std::timed_mutex, detail::LockRank::pool>;
// The mutex of rank LockRank::optimizer is OptimizerMutex in optimizer.h.

}  // namespace fastmlp
