#include "threading/parallel.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>

#include "fastmlp/fp_environment.h"
#include "threading/cpu_limits.h"
#include "threading/fork_safety.h"
#include "threading/spin.h"
#include "threading/spin_helper.h"
#include "threading/stop.h"
#include "threading/thread_probe.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace fastmlp {
namespace {

int openmp_limit() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

std::atomic<int> requested{0};          // by set_num_threads; 0: automatic
std::atomic<int> openmp_at_request{0};  // OpenMP's limit at that time

}  // namespace

int num_threads() {
  if (fork_generation() > 0) return 1;
  const int openmp = openmp_limit();
  const int asked = requested.load(std::memory_order_relaxed);
  if (asked == 0) return std::max(1, std::min(openmp, detail::cpu_limit()));
  // If OpenMP's limit has changed since the request, then other code, such as
  // threadpoolctl, has set it.
  const bool limited = openmp != openmp_at_request.load(std::memory_order_relaxed);
  // OpenMP's runtime ends the process if it cannot create a thread, so a request for
  // very many threads is reduced.
  constexpr int kAlwaysAllowed = 8, kPerCpu = 4;
  const int most = std::max(kAlwaysAllowed, kPerCpu * detail::affinity_limit());
  return std::min({asked, most, limited ? openmp : asked});
}

void set_num_threads(int n) {
  if (n < 0)
    throw std::invalid_argument("the number of threads must not be negative, got " +
                                std::to_string(n));
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

TeamPlan plan_team(double flops, Index parts, HelperPolicy* helper) {
  // An OpenMP region with its barriers costs a few us on an idle machine, but
  // milliseconds if another process has the CPU of a member that the others wait for.
  // Below this many operations (some 0.2 ms of work) OpenMP has too little to gain.
  constexpr double kOpenMpFrom = 2e7;
  // The helper can pay off for less work than an OpenMP team, because the caller never
  // waits for a helper that has not begun. Below this many operations, not even the
  // helper gains anything.
  constexpr double kHelperFrom = 1.5e6;
  if (flops < (helper ? kHelperFrom : kOpenMpFrom) || parts < 2) return {};
  const int n = static_cast<int>(std::min<Index>(parts, num_threads()));
  if (!helper || flops >= kOpenMpFrom || n == 1) return {n, nullptr};
  return {2, &helper->stats(flops)};
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

bool Team::commit() const {
  if (!detail::stop_flag()) return true;
  // A member that has seen the flag and skipped work saw it before the barrier, so the
  // first member sees it now.
  if (rank_ == 0) shared_->committed = !detail::stop_requested();
  barrier();
  return shared_->committed;
}

namespace {

using Body = void (*)(void*, const Team&);

void check_completed(const Team::Shared& shared) {
  if (!shared.committed) detail::check_stop();
}

void run_alone(Body body, void* state) {
  Team::Shared shared;
  {
    const CoreFpEnvironment environment;
    body(state, Team(&shared, 0, 1));
  }
  check_completed(shared);
}

// Returns false, without having called the body, if the helper did not begin.
bool run_with_helper(Body body, void* state, std::chrono::microseconds time_alone) {
  Team::Shared shared;
  struct Job {
    Body body;
    void* state;
    Team team;
    const std::atomic<bool>* stop;
  } job = {body, state, Team(&shared, 1, 2), detail::stop_flag()};
  const auto run_job = [](void* context) {
    const CoreFpEnvironment environment;
    const Job& j = *static_cast<Job*>(context);
    const StoppedBy stop(j.stop);
    j.body(j.state, j.team);
  };
  if (!detail::try_start_helper(run_job, &job, time_alone)) return false;
  {
    const CoreFpEnvironment environment;
    body(state, Team(&shared, 0, 2));
  }
  detail::join_helper();
  check_completed(shared);
  return true;
}

void run_short_region(HelperPolicy::Stats& stats, Body body, void* state) {
  using Clock = std::chrono::steady_clock;
  using Seconds = std::chrono::duration<float>;
  const bool use_helper = stats.use_helper();
  const auto time_alone = std::chrono::duration_cast<std::chrono::microseconds>(
      Seconds(stats.seconds_alone()));
  const Clock::time_point start = Clock::now();
  const bool helped = use_helper && run_with_helper(body, state, time_alone);
  if (!helped) run_alone(body, state);
  stats.record(Seconds(Clock::now() - start).count(), helped);
}

}  // namespace

void detail::run_untyped_team(TeamPlan plan, Body body, void* state) {
  if (plan.helper) return run_short_region(*plan.helper, body, state);
#ifdef _OPENMP
  const int size = plan.most > 1 ? detail::allowed_team(plan.most) : 1;
  if (size > 1) {
    Team::Shared shared;
    const std::atomic<bool>* const stop = detail::stop_flag();
#pragma omp parallel num_threads(size)
    {
      const CoreFpEnvironment environment;
      const StoppedBy stopped(stop);
      body(state, Team(&shared, omp_get_thread_num(), omp_get_num_threads()));
    }
    check_completed(shared);
    return;
  }
#endif
  run_alone(body, state);
}

}  // namespace fastmlp
