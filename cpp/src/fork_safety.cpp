#include "fastmlp/fork_safety.h"

#include <algorithm>
#include <array>
#include <atomic>
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

#if defined(__unix__) || defined(__APPLE__)
// At load: whoever forks first may never have called anything here.
[[maybe_unused]] const int registered =
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
#endif

}  // namespace

int fork_generation() { return generation.load(std::memory_order_relaxed); }

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
