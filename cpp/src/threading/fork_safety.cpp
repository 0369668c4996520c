#include "fastmlp/fork_safety.h"

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

// Never destroyed: models may outlive the end of main.
struct Registry {
  std::mutex mutex;
  std::array<std::vector<detail::ForkAware*>, detail::kLockRanks> locks;
};
Registry& registry() {
  static Registry* const instance = new Registry;
  return *instance;
}

// The locks that this thread holds, in the order of locking. More than there is room
// for are not noted: calls from outside to outside, each in another model's activation.
struct HeldLock {
  detail::ForkAware* lock;
  detail::ForkAware::Held how;
  int outside;  // how many times its thread has gone outside with it
};
constexpr int kMostHeld = 16;
thread_local HeldLock held[kMostHeld];
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
    for (detail::ForkAware* lock : rank) lock->renew_in_child();
  }
  registry().mutex.unlock();
}

// At load: whoever forks first may never have called anything here.
[[maybe_unused]] const int registered =
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
#endif

}  // namespace

int fork_generation() { return generation.load(std::memory_order_relaxed); }

InUserCode::InUserCode() {
  for (int i = 0; i < n_held; ++i) {
    ++held[i].outside;
    held[i].lock->outside_.fetch_add(1, std::memory_order_relaxed);
  }
}

InUserCode::~InUserCode() {
  if (n_held == 0) return;
  // Not while a fork is under way.
  const std::lock_guard<std::mutex> lock(registry().mutex);
  for (int i = 0; i < n_held; ++i) {
    --held[i].outside;
    held[i].lock->outside_.fetch_sub(1, std::memory_order_relaxed);
  }
}

void detail::ForkAware::note_wish(Held wish) const {
  const Held have = held_here();
  if (have == Held::not_at_all || (have == Held::shared && wish == Held::shared))
    return;
  throw std::runtime_error(
      "what this thread asks for is in use by itself: an activation or the like must "
      "not train or change the model that calls it");
}

void detail::ForkAware::note_held(Held how) {
  if (n_held < kMostHeld) held[n_held++] = {this, how, 0};
}

void detail::ForkAware::note_released() {
  HeldLock* const found = find_held(this);
  if (!found) return;
  std::move(found + 1, held + n_held, found);
  --n_held;
}

detail::ForkAware::Held detail::ForkAware::held_here() const {
  const HeldLock* const found = find_held(this);
  return found ? found->how : Held::not_at_all;
}

int detail::ForkAware::times_shared_here() const {
  const auto is_shared = [&](const HeldLock& h) {
    return h.lock == this && h.how == Held::shared;
  };
  return static_cast<int>(std::count_if(held, held + n_held, is_shared));
}

void detail::ForkAware::forget_others() {
  int outside = 0;
  for (int i = 0; i < n_held; ++i) {
    if (held[i].lock == this) outside += held[i].outside;
  }
  outside_.store(outside, std::memory_order_relaxed);
}

detail::ForkAware::ForkAware(LockRank rank) : rank_(rank) {
  const std::lock_guard<std::mutex> lock(registry().mutex);
  registry().locks[static_cast<size_t>(rank_)].push_back(this);
}

detail::ForkAware::~ForkAware() {
  const std::lock_guard<std::mutex> lock(registry().mutex);
  auto& locks = registry().locks[static_cast<size_t>(rank_)];
  locks.erase(std::find(locks.begin(), locks.end(), this));
}

}  // namespace fastmlp
