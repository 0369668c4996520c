#include "threading/cpu_limits.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace fastmlp::detail {
namespace {

constexpr int kNoLimit = 1 << 20;

#if defined(__linux__)
// quota / period of one cgroup, rounded up.
int whole_cpus(const std::string& quota, const std::string& period) {
  char* end = nullptr;
  const double q = std::strtod(quota.c_str(), &end);
  const double p = std::strtod(period.c_str(), nullptr);
  // If there is no quota, version 2 of cgroups has "max" in its place and version 1 has
  // -1.
  if (end == quota.c_str() || q <= 0 || p <= 0) return kNoLimit;
  return std::max(1, static_cast<int>(std::ceil(q / p)));
}

// Version 2: cpu.max holds the quota and the period.
int cgroup2_quota(const std::string& group) {
  std::ifstream file(group + "/cpu.max");
  std::string quota, period;
  return file >> quota >> period ? whole_cpus(quota, period) : kNoLimit;
}

int cgroup1_quota(const std::string& group) {
  std::ifstream quota_file(group + "/cpu.cfs_quota_us");
  std::ifstream period_file(group + "/cpu.cfs_period_us");
  std::string quota, period;
  if (quota_file >> quota && period_file >> period) return whole_cpus(quota, period);
  return kNoLimit;
}

// The lowest limit of the group at `path` and all groups above it. A container may see
// its own group as the root and be told a path that does not exist in its view.
int lowest_limit(const std::string& root, std::string path,
                 int (*quota)(const std::string&)) {
  int limit = kNoLimit;
  for (;;) {
    limit = std::min(limit, quota(root + path));
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos) return limit;
    path.erase(slash);
  }
}

// Lines of /proc/self/cgroup are "number:controllers:path"; for version 2 the number is
// 0 and there are no controllers.
int cgroup_limit() {
  int limit = kNoLimit;
  std::ifstream groups("/proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (controllers.empty()) {
      limit = std::min(limit, lowest_limit("/sys/fs/cgroup", path, cgroup2_quota));
    } else if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
      limit = std::min(limit, lowest_limit("/sys/fs/cgroup/cpu", path, cgroup1_quota));
    }
  }
  return limit;
}
#else
int cgroup_limit() { return kNoLimit; }
#endif

}  // namespace

int affinity_limit() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  const unsigned n = std::thread::hardware_concurrency();
  return n > 0 ? static_cast<int>(n) : 1;
}

int cpu_limit() {
  // Finding the limits takes a system call and reads a few files, which is too slow to
  // repeat for every parallel region.
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

}  // namespace fastmlp::detail
