#include "threading/thread_probe.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "threading/block_signals.h"

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#endif

namespace fastmlp::detail {
namespace {

using Clock = std::chrono::steady_clock;

// How long the result of a probe is relied on. OpenMP ends threads that a smaller team
// does not need, and creates them again later.
constexpr std::chrono::seconds kTrust{1};
// How long ended threads may take to leave the system's count of threads.
constexpr std::chrono::milliseconds kPatience{100};

long thread_id() {
#if defined(__linux__)
  return syscall(SYS_gettid);
#else
  return 0;
#endif
}

// Whether the system still counts a thread of this process.
bool is_counted([[maybe_unused]] long id) {
#if defined(__linux__)
  return syscall(SYS_tgkill, getpid(), id, 0) == 0 || errno != ESRCH;
#else
  return false;
#endif
}

// Creates up to n threads that exist at the same time, and ends them. Returns how many
// could be created.
int probe(int n) {
  std::mutex mutex;
  std::condition_variable ended;
  bool end = false;
  std::vector<std::thread> threads;
  std::vector<long> ids;
  try {
    threads.reserve(static_cast<size_t>(n));
    ids.resize(static_cast<size_t>(n));
    const BlockSignals block_signals;
    for (int i = 0; i < n; ++i) {
      long* const id = &ids[static_cast<size_t>(i)];
      threads.emplace_back([&mutex, &ended, &end, id] {
        *id = thread_id();
        std::unique_lock<std::mutex> lock(mutex);
        ended.wait(lock, [&end] { return end; });
      });
    }
  } catch (const std::exception&) {
    // No thread or memory is available.
  }
  {
    const std::lock_guard<std::mutex> lock(mutex);
    end = true;
  }
  ended.notify_all();
  for (std::thread& thread : threads) thread.join();
  const Clock::time_point limit = Clock::now() + kPatience;
  for (size_t i = 0; i < threads.size(); ++i) {
    while (is_counted(ids[i]) && Clock::now() < limit) std::this_thread::yield();
  }
  return static_cast<int>(threads.size());
}

}  // namespace

int allowed_team(int wanted) {
  // OpenMP keeps the threads of the last team separately for each calling thread.
  struct Known {
    int existing = 1;      // size of the last team
    int allowed = 1;       // size of a team after the last probe
    bool limited = false;  // whether that probe could not create all threads
    Clock::time_point until{};
  };
  thread_local Known known;
  if (wanted > known.existing) {
    const Clock::time_point now = Clock::now();
    if (now >= known.until || (!known.limited && wanted > known.allowed)) {
      const int missing = wanted - known.existing;
      const int created = probe(missing);
      known.limited = created < missing;
      // At a limit, leave a thread to the rest of the program.
      const int usable = known.limited ? std::max(created - 1, 0) : missing;
      known.allowed = known.existing + usable;
      known.until = now + kTrust;
    }
    wanted = std::min(wanted, known.allowed);
  }
  known.existing = wanted;
  return wanted;
}

}  // namespace fastmlp::detail
