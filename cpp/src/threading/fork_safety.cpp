#include "threading/fork_safety.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <stdexcept>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace fastmlp {
namespace {

std::atomic<int> generation{0};

// All locks by rank. Never destroyed: models may outlive main.
struct Registry {
  std::mutex mutex;
  std::array<std::vector<detail::ForkAware*>, detail::kLockRanks> locks;
};
Registry& registry() {
  static Registry* const instance = new Registry;
  return *instance;
}

// The recorded locks that this thread holds, in the order of locking. Locks beyond
// kMaxHeld are not listed. To reach that number, a model's user code would have to call
// another model, whose user code calls a third one, and so on.
struct HeldLock {
  detail::ForkAware* lock;
  detail::ForkAware::Hold how;
  int in_user_code;  // how many times this thread has entered user code with it
};
constexpr int kMaxHeld = 16;
thread_local HeldLock held[kMaxHeld];
thread_local int n_held = 0;

HeldLock* find_held(const detail::ForkAware* lock) {
  for (int i = n_held; i-- > 0;) {
    if (held[i].lock == lock) return &held[i];
  }
  return nullptr;
}

#if defined(__unix__) || defined(__APPLE__)
void before_fork() {
  registry().mutex.lock();
  for (auto& rank : registry().locks) {
    for (detail::ForkAware* lock : rank) lock->lock_for_fork();
  }
}

void after_fork_in_parent() {
  for (auto& rank : registry().locks) {
    for (detail::ForkAware* lock : rank) lock->unlock_in_parent();
  }
  registry().mutex.unlock();
}

void after_fork_in_child() {
  generation.fetch_add(1, std::memory_order_relaxed);
  for (auto& rank : registry().locks) {
    for (detail::ForkAware* lock : rank) lock->reset_in_child();
  }
  registry().mutex.unlock();
}

// Registered when the library is loaded, because a process may fork before it uses the
// library.
[[maybe_unused]] const int registered =
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
#endif

}  // namespace

int fork_generation() { return generation.load(std::memory_order_relaxed); }

InUserCode::InUserCode() {
  for (int i = 0; i < n_held; ++i) {
    ++held[i].in_user_code;
    held[i].lock->in_user_code_.fetch_add(1, std::memory_order_relaxed);
  }
}

InUserCode::~InUserCode() {
  if (n_held == 0) return;
  // Waits for a fork in progress.
  const std::lock_guard<std::mutex> lock(registry().mutex);
  for (int i = 0; i < n_held; ++i) {
    --held[i].in_user_code;
    held[i].lock->in_user_code_.fetch_sub(1, std::memory_order_relaxed);
  }
}

void detail::ForkAware::check_deadlock(Hold wanted) const {
  const Hold held_now = held_by_this_thread();
  if (held_now == Hold::none) return;
  if (held_now == Hold::shared && wanted == Hold::shared) return;
  throw std::runtime_error(
      "this thread is already using the model or optimizer: a custom activation must "
      "not train or change the model that calls it");
}

void detail::ForkAware::record_locked(Hold how) {
  if (n_held < kMaxHeld) held[n_held++] = {this, how, 0};
}

void detail::ForkAware::record_unlocked() {
  HeldLock* const found = find_held(this);
  if (!found) return;
  std::move(found + 1, held + n_held, found);
  --n_held;
}

detail::ForkAware::Hold detail::ForkAware::held_by_this_thread() const {
  const HeldLock* const found = find_held(this);
  return found ? found->how : Hold::none;
}

int detail::ForkAware::times_shared_by_this_thread() const {
  const auto is_shared = [&](const HeldLock& h) {
    return h.lock == this && h.how == Hold::shared;
  };
  return static_cast<int>(std::count_if(held, held + n_held, is_shared));
}

void detail::ForkAware::forget_other_threads() {
  int in_user_code = 0;
  for (int i = 0; i < n_held; ++i) {
    if (held[i].lock == this) in_user_code += held[i].in_user_code;
  }
  in_user_code_.store(in_user_code, std::memory_order_relaxed);
}

void detail::ForkAware::enroll() {
  const std::lock_guard<std::mutex> lock(registry().mutex);
  registry().locks[static_cast<size_t>(rank_)].push_back(this);
}

void detail::ForkAware::leave() {
  const std::lock_guard<std::mutex> lock(registry().mutex);
  auto& locks = registry().locks[static_cast<size_t>(rank_)];
  locks.erase(std::find(locks.begin(), locks.end(), this));
}

}  // namespace fastmlp
