// Locks that a fork leaves usable. A child has only the thread that forked: a lock that
// another thread held at that moment would stay locked in it for ever. So fork waits
// for every lock here (training holds them for one step at most), and parent and child
// let go. It does not wait for a thread that has gone InUserCode.
#pragma once

#include <atomic>
#include <chrono>
#include <mutex>
#include <new>
#include <shared_mutex>
#include <type_traits>

namespace fastmlp {

// How many forks lie between this process and the one that loaded the library.
int fork_generation();

// While it lives, its thread runs what comes from outside, which may wait for the very
// thread that forks (for Python's own lock, say). What the locks that it holds guard is
// whole meanwhile, so that fork goes ahead without them.
class InUserCode {
 public:
  InUserCode();
  ~InUserCode();
  InUserCode(const InUserCode&) = delete;
  InUserCode& operator=(const InUserCode&) = delete;
};

namespace detail {

// Who waits for whom: a thread that holds a lock may ask for one of a later rank only.
enum class LockRank : int { optimizer, model, pool };
constexpr int kLockRanks = 3;

class ForkAware {
 public:
  // How a thread has a lock.
  enum class Held { not_at_all, shared, alone };

  explicit ForkAware(LockRank rank);
  virtual ~ForkAware();
  ForkAware(const ForkAware&) = delete;
  ForkAware& operator=(const ForkAware&) = delete;
  virtual void lock_for_fork() = 0;
  virtual void unlock_in_parent() = 0;
  virtual void renew_in_child() = 0;

 protected:
  // This thread's own notes of what it holds. note_wish throws std::runtime_error where
  // it would wait for itself.
  void note_wish(Held wish) const;
  void note_held(Held how);
  void note_released();
  Held held_here() const;
  int times_shared_here() const;
  // Whether a thread that holds it is InUserCode; in a child only this thread counts.
  bool held_outside() const { return outside_.load(std::memory_order_relaxed) > 0; }
  void forget_others();

 private:
  friend class fastmlp::InUserCode;
  LockRank rank_;
  std::atomic<int> outside_{0};
};

// A std::timed_mutex or std::shared_timed_mutex that fork waits for. Notes cost time:
// they are for locks with which a thread may go InUserCode.
template <class Mutex, LockRank kRank>
class ForkSafe final : public ForkAware {
 public:
  explicit ForkSafe(bool noted) : ForkAware(kRank), noted_(noted) {}
  void lock() {
    wish(Held::alone);
    mutex_.lock();
    got(Held::alone);
  }
  bool try_lock() {
    wish(Held::alone);
    if (!mutex_.try_lock()) return false;
    got(Held::alone);
    return true;
  }
  void unlock() {
    released();
    mutex_.unlock();
  }
  void lock_shared() {
    wish(Held::shared);
    mutex_.lock_shared();
    got(Held::shared);
  }
  void unlock_shared() {
    released();
    mutex_.unlock_shared();
  }
  void lock_for_fork() override {
    constexpr std::chrono::milliseconds kPatience{2};
    do {
      if (held_outside()) return;
      held_for_fork_ = mutex_.try_lock_for(kPatience);
    } while (!held_for_fork_);
  }
  void unlock_in_parent() override {
    if (held_for_fork_) mutex_.unlock();
    held_for_fork_ = false;
  }
  // A read-write lock remembers its holder's thread id, which is another one in the
  // child. What this thread had it has again.
  void renew_in_child() override {
    held_for_fork_ = false;
    forget_others();
    mutex_.~Mutex();
    new (&mutex_) Mutex;
    if (held_here() == Held::alone) mutex_.lock();
    if constexpr (std::is_same_v<Mutex, std::shared_timed_mutex>) {
      for (int n = times_shared_here(); n > 0; --n) mutex_.lock_shared();
    }
  }

 private:
  void wish(Held how) const {
    if (noted_) note_wish(how);
  }
  void got(Held how) {
    if (noted_) note_held(how);
  }
  void released() {
    if (noted_) note_released();
  }

  const bool noted_;
  Mutex mutex_;
  bool held_for_fork_ = false;
};

}  // namespace detail

using OptimizerMutex = detail::ForkSafe<std::timed_mutex, detail::LockRank::optimizer>;
using ModelMutex = detail::ForkSafe<std::shared_timed_mutex, detail::LockRank::model>;
using PoolMutex = detail::ForkSafe<std::timed_mutex, detail::LockRank::pool>;

}  // namespace fastmlp
