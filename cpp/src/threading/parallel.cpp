#include "threading/parallel.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>

#include "fastmlp/fork_safety.h"
#include "fastmlp/fp_environment.h"
#include "threading/spin.h"
#include "threading/spin_helper.h"

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif

namespace fastmlp {
namespace {

// --- limits ----------------------------------------------------------------------

int openmp_limit() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

int affinity_limit() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  const unsigned n = std::thread::hardware_concurrency();
  return n > 0 ? static_cast<int>(n) : 1;
}

#if defined(__linux__)
// quota / period of one cgroup, rounded up; `none` where there is no limit.
int quota_of(const std::string& quota, const std::string& period, int none) {
  char* end = nullptr;
  const double q = std::strtod(quota.c_str(), &end);
  const double p = std::strtod(period.c_str(), nullptr);
  if (end == quota.c_str() || q <= 0 || p <= 0)
    return none;  // "max", or -1 in version 1
  return std::max(1, static_cast<int>(std::ceil(q / p)));
}
#endif

int cgroup_limit() {
  constexpr int kNone = 1 << 20;
  int limit = kNone;
#if defined(__linux__)
  // Version 2: the tightest limit from our own group up to the root.
  std::ifstream groups("/proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {
    if (line.rfind("0::", 0) != 0) continue;
    std::string path = line.substr(3);
    for (;;) {
      std::ifstream file("/sys/fs/cgroup" + path + "/cpu.max");
      std::string quota, period;
      if (file >> quota >> period)
        limit = std::min(limit, quota_of(quota, period, kNone));
      if (path.empty() || path == "/") break;
      path.erase(path.rfind('/'));
    }
  }
  // Version 1, as a container sees it.
  std::ifstream quota_file("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
  std::ifstream period_file("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  std::string quota, period;
  if (quota_file >> quota && period_file >> period) {
    limit = std::min(limit, quota_of(quota, period, kNone));
  }
#endif
  return limit;
}

// The machine's limits cost a system call and a few files to read: look again only
// after a while.
int machine_limit() {
  using Clock = std::chrono::steady_clock;
  constexpr int64_t kFresh = 100'000'000;  // ns
  static std::atomic<int64_t> read_at{-kFresh - 1};
  static std::atomic<int> limit{1};
  const int64_t now = Clock::now().time_since_epoch().count();
  if (now - read_at.load(std::memory_order_acquire) > kFresh) {
    limit.store(std::min(affinity_limit(), cgroup_limit()), std::memory_order_relaxed);
    read_at.store(now, std::memory_order_release);
  }
  return limit.load(std::memory_order_relaxed);
}

std::atomic<int> requested{0};          // by set_num_threads; 0: automatic
std::atomic<int> openmp_at_request{0};  // OpenMP's limit when it was called

}  // namespace

int num_threads() {
  if (fork_generation() > 0) return 1;
  const int openmp = openmp_limit();
  const int asked = requested.load(std::memory_order_relaxed);
  if (asked == 0) return std::max(1, std::min(openmp, machine_limit()));
  // OpenMP's limit has changed since: someone (threadpoolctl, say) limits it.
  const bool limited = openmp != openmp_at_request.load(std::memory_order_relaxed);
  // Threads that cannot be made end the process in OpenMP's runtime.
  constexpr int kAlwaysAllowed = 8, kPerCpu = 4;
  const int most = std::max(kAlwaysAllowed, kPerCpu * affinity_limit());
  return std::min({asked, most, limited ? openmp : asked});
}

void set_num_threads(int n) {
  if (n < 0) throw std::invalid_argument("the number of threads must not be negative");
  openmp_at_request.store(openmp_limit());
  requested.store(n);
}

bool built_with_openmp() {
#ifdef _OPENMP
  return true;
#else
  return false;
#endif
}

TeamPlan plan_team(double flops, Index parts, HelperPolicy* second) {
  // A region with its barriers costs a few us on an idle machine, but milliseconds when
  // another process has the core that a member waits for. Below this many operations
  // (some 0.2 ms of work) there is too little to gain ...
  constexpr double kSerialBelow = 2e7;
  // ... unless a second thread happens to stand by; and below this, not even then.
  constexpr double kAloneBelow = 1.5e6;
  if (flops < (second ? kAloneBelow : kSerialBelow) || parts < 2) return {};
  const int n = static_cast<int>(std::min<Index>(parts, num_threads()));
  if (!second || flops >= kSerialBelow || n == 1) return {n, nullptr};
  return {2, &second->record(flops)};
}

int threads_for_work(double flops, Index parts) { return plan_team(flops, parts).most; }

void Team::barrier() const {
  if (size_ == 1) return;
  const unsigned generation = shared_->generation.load(std::memory_order_acquire);
  if (shared_->arrived.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
    shared_->arrived.store(0, std::memory_order_relaxed);
    shared_->generation.store(generation + 1, std::memory_order_release);
    return;
  }
  detail::Spin spin;
  while (shared_->generation.load(std::memory_order_acquire) == generation) spin.once();
}

namespace {

using Body = void (*)(void*, const Team&);

void run_alone(Body body, void* state) {
  Team::Shared shared;
  const DefaultFpEnvironment environment;
  body(state, Team(&shared, 0, 1));
}

// Whether there was a second thread; if not, nothing has been done.
bool run_with_standby(Body body, void* state, std::chrono::microseconds alone) {
  Team::Shared shared;
  struct Second {
    Body body;
    void* state;
    Team team;
  } second = {body, state, Team(&shared, 1, 2)};
  const auto run_second = [](void* context) {
    const DefaultFpEnvironment environment;
    const Second& s = *static_cast<Second*>(context);
    s.body(s.state, s.team);
  };
  if (!detail::try_start_helper(run_second, &second, alone)) return false;
  {
    const DefaultFpEnvironment environment;
    body(state, Team(&shared, 0, 2));
  }
  detail::join_helper();
  return true;
}

void run_brief(HelperPolicy::Record& record, Body body, void* state) {
  using Clock = std::chrono::steady_clock;
  using Seconds = std::chrono::duration<float>;
  const bool wanted = record.wanted();
  const auto alone = std::chrono::duration_cast<std::chrono::microseconds>(
      Seconds(record.seconds_alone()));
  const Clock::time_point start = Clock::now();
  const bool both = wanted && run_with_standby(body, state, alone);
  if (!both) run_alone(body, state);
  record.took(Seconds(Clock::now() - start).count(), both);
}

}  // namespace

void detail::run_untyped_team(TeamPlan plan, Body body, void* state) {
  if (plan.second) return run_brief(*plan.second, body, state);
#ifdef _OPENMP
  if (plan.most > 1) {
    Team::Shared shared;
#pragma omp parallel num_threads(plan.most)
    {
      const DefaultFpEnvironment environment;
      body(state, Team(&shared, omp_get_thread_num(), omp_get_num_threads()));
    }
    return;
  }
#endif
  run_alone(body, state);
}

}  // namespace fastmlp
