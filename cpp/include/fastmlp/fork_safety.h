// Locks that a fork leaves usable. A child has only the thread that forked: a lock that
// another thread held at that moment would stay locked in it for ever. So fork waits
// for every lock here (training holds them for one step at most), and parent and child
// let go.
#pragma once

#include <mutex>
#include <new>
#include <shared_mutex>

namespace fastmlp {

// How many forks lie between this process and the one that loaded the library.
int fork_generation();

namespace detail {

// Who waits for whom: a thread that holds a lock may ask for one of a later rank only.
enum class LockRank : int { optimizer, model, pool };
constexpr int kLockRanks = 3;

class ForkAware {
 public:
  explicit ForkAware(LockRank rank);
  virtual ~ForkAware();
  ForkAware(const ForkAware&) = delete;
  ForkAware& operator=(const ForkAware&) = delete;
  virtual void lock_for_fork() = 0;
  virtual void unlock_in_parent() = 0;
  virtual void renew_in_child() = 0;

 private:
  LockRank rank_;
};

// A std::mutex or std::shared_mutex that fork waits for.
template <class Mutex, LockRank kRank>
class ForkSafe final : public ForkAware {
 public:
  ForkSafe() : ForkAware(kRank) {}
  void lock() { mutex_.lock(); }
  bool try_lock() { return mutex_.try_lock(); }
  void unlock() { mutex_.unlock(); }
  void lock_shared() { mutex_.lock_shared(); }
  void unlock_shared() { mutex_.unlock_shared(); }
  void lock_for_fork() override { mutex_.lock(); }
  void unlock_in_parent() override { mutex_.unlock(); }
  // A read-write lock remembers its holder's thread id, which is another one in the
  // child.
  void renew_in_child() override {
    mutex_.~Mutex();
    new (&mutex_) Mutex;
  }

 private:
  Mutex mutex_;
};

}  // namespace detail

using OptimizerMutex = detail::ForkSafe<std::mutex, detail::LockRank::optimizer>;
using ModelMutex = detail::ForkSafe<std::shared_mutex, detail::LockRank::model>;
using PoolMutex = detail::ForkSafe<std::mutex, detail::LockRank::pool>;

}  // namespace fastmlp
