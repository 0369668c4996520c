// Short regions: the helper runs each job that it accepts exactly once, all members of
// a team meet at its barriers, and the policy decides whether to use the helper by
// measured times, which are simulated here.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <set>
#include <thread>
#include <vector>

#include "check.h"
#include "threading/helper_policy.h"
#include "threading/parallel.h"
#include "threading/spin_helper.h"

namespace {

using namespace fastmlp;
using Stats = HelperPolicy::Stats;

// --- the helper --------------------------------------------------------------------

// The helper may refuse: most of the time on a busy machine, always on a single CPU.
const bool kMayHelp = num_threads() > 1;
constexpr std::chrono::seconds kPatience{20};

struct Caller {
  // Not atomic: joining must make what the job wrote visible.
  int done = 0;
  int accepted = 0;
  bool exact = true;

  // Runs regions in quick succession until `wanted` of them were accepted.
  void call(int wanted) {
    const auto end = std::chrono::steady_clock::now() + kPatience;
    while (accepted < wanted && std::chrono::steady_clock::now() < end) {
      const auto job = [](void* self) { ++static_cast<Caller*>(self)->done; };
      if (detail::try_start_helper(job, this, std::chrono::microseconds(0))) {
        ++accepted;
        detail::join_helper();
      }
      exact = exact && done == accepted;
      if (!kMayHelp) return;
    }
  }
};

void the_helper_runs_each_job_once() {
  Caller caller;
  caller.call(5000);
  CHECK(caller.exact);
  CHECK(caller.accepted > 0 || !kMayHelp);
}

void the_helper_serves_several_threads() {
  std::vector<Caller> callers(3);
  std::vector<std::thread> threads;
  for (Caller& caller : callers) threads.emplace_back([&] { caller.call(1000); });
  for (std::thread& thread : threads) thread.join();
  int accepted = 0;
  for (const Caller& caller : callers) {
    CHECK(caller.exact);
    accepted += caller.accepted;
  }
  CHECK(accepted > 0 || !kMayHelp);
}

// --- teams -------------------------------------------------------------------------

// A region whose members wait for each other a few times.
struct Meeting {
  static constexpr int kPhases = 5;
  int at[2] = {0, 0};
  std::atomic<int> came{0}, missed{0};
  int size = 0;

  void hold(Stats& stats) {
    run_team({2, &stats}, [&](const Team& team) {
      came.fetch_add(1);
      if (team.rank() == 0) size = team.size();
      for (int phase = 1; phase <= kPhases; ++phase) {
        at[team.rank()] = phase;
        team.barrier();
        for (int r = 0; r < team.size(); ++r) missed.fetch_add(at[r] != phase);
        team.barrier();
      }
    });
  }
};

void teams_meet_at_barriers() {
  const auto meet = [](int wanted, int& together, std::atomic<int>& wrong) {
    const auto end = std::chrono::steady_clock::now() + kPatience;
    while (together < wanted && std::chrono::steady_clock::now() < end) {
      // A trial of the helper has just begun, so that it is used for some regions.
      Stats stats;
      while (!stats.use_helper()) {
      }
      Meeting meeting;
      meeting.hold(stats);
      wrong += meeting.missed != 0 || meeting.came != meeting.size ||
               meeting.size < 1 || meeting.size > 2;
      together += meeting.size == 2;
      if (!kMayHelp) return;
    }
  };
  int together = 0;
  std::atomic<int> wrong{0};
  meet(2000, together, wrong);
  CHECK(wrong == 0);
  CHECK(together > 0 || !kMayHelp);

  int here = 0, there = 0;
  std::thread other([&] { meet(500, there, wrong); });
  meet(500, here, wrong);
  other.join();
  CHECK(wrong == 0);
  CHECK(here + there > 0 || !kMayHelp);
}

// --- the policy --------------------------------------------------------------------

struct Simulated {
  Stats stats;
  float alone, helped;  // how long a region takes
  bool available = true;

  Simulated(float alone_takes, float helped_takes)
      : alone(alone_takes), helped(helped_takes) {}

  // Runs regions; returns for how many of them the helper was to be used.
  int run(int regions) {
    int used = 0;
    for (int i = 0; i < regions; ++i) {
      const bool use = stats.use_helper();
      used += use;
      const bool with_helper = use && available;
      stats.record(with_helper ? helped : alone, with_helper);
    }
    return used;
  }

  // The decision that it reaches. At first both choices are tried; later, few regions
  // are trials.
  bool uses_helper() {
    run(200);
    const int used = run(1000);
    CHECK(used < 100 || used > 900);
    return used > 500;
  }
};

constexpr float kMicro = 1e-6f;
// More than the largest number of regions between two trials, and enough for a trial to
// change the decision.
constexpr int kLong = 3 * 4096;

void the_faster_way_is_taken() {
  CHECK(Simulated(100 * kMicro, 60 * kMicro).uses_helper());
  CHECK(!Simulated(100 * kMicro, 150 * kMicro).uses_helper());
  CHECK(!Simulated(100 * kMicro, 98 * kMicro).uses_helper());  // not worth a core
}

void one_outlier_decides_nothing() {
  for (const float helped : {60 * kMicro, 150 * kMicro}) {
    for (const bool with_helper : {false, true}) {
      Simulated s(100 * kMicro, helped);
      const bool before = s.uses_helper();
      s.stats.record(100 * (with_helper ? s.helped : s.alone), with_helper);
      CHECK(s.uses_helper() == before);
    }
  }
}

void a_cold_start_is_forgotten() {
  for (const float helped : {60 * kMicro, 150 * kMicro}) {
    for (const bool with_helper : {false, true}) {
      Simulated s(100 * kMicro, helped);
      s.stats.record(100 * s.alone, with_helper);
      CHECK(s.uses_helper() == (helped < s.alone));
    }
  }
}

void other_times_change_the_decision() {
  Simulated s(100 * kMicro, 60 * kMicro);
  CHECK(s.uses_helper());
  s.helped = 150 * kMicro;
  CHECK(!s.uses_helper());
  s.run(kLong);
  s.helped = 60 * kMicro;
  s.run(kLong);
  CHECK(s.uses_helper());
  s.alone = 50 * kMicro;
  s.run(kLong);
  CHECK(!s.uses_helper());
}

void trials_get_rarer_but_never_end() {
  for (const float helped : {60 * kMicro, 150 * kMicro}) {
    Simulated s(100 * kMicro, helped);
    const bool uses_helper = s.uses_helper();
    const auto trials = [&](int regions) {
      const int used = s.run(regions);
      return uses_helper ? regions - used : used;
    };
    const int early = trials(kLong);
    const int late = trials(kLong), later = trials(kLong);
    CHECK(early > late);
    CHECK(late > 0 && late < kLong / 100);
    CHECK(later > 0 && later < kLong / 100);
  }
}

void refusals_do_not_stick() {
  // The helper has never been available.
  Simulated s(100 * kMicro, 60 * kMicro);
  s.available = false;
  s.run(kLong);
  s.available = true;
  CHECK(s.uses_helper());
  // The helper is not available for a while.
  s.available = false;
  s.run(kLong);
  s.available = true;
  s.run(kLong);
  CHECK(s.uses_helper());
  // The helper is not available when a trial would have shown that it pays again.
  s.helped = 150 * kMicro;
  CHECK(!s.uses_helper());
  s.helped = 60 * kMicro;
  s.available = false;
  s.run(kLong);
  s.available = true;
  s.run(kLong);
  CHECK(s.uses_helper());
}

void stats_may_be_used_by_several_threads() {
  Simulated s(100 * kMicro, 60 * kMicro);
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) threads.emplace_back([&] { s.run(kLong); });
  for (std::thread& thread : threads) thread.join();
  s.run(kLong);
  CHECK(s.uses_helper());
}

void half_octaves_do_not_mix() {
  HelperPolicy policy;
  std::set<const Stats*> stats;
  // The sizes of short regions.
  for (double flops = 1.6e6; flops < 2e7; flops *= 1.41421356) {
    stats.insert(&policy.stats(flops));
    CHECK(&policy.stats(flops) == &policy.stats(flops));
  }
  CHECK(stats.size() == 8);
  CHECK(&policy.stats(2.2e6) == &policy.stats(2.9e6));
  // 2.2e6 and 4.4e6 operations are measured separately.
  Stats& little = policy.stats(2.2e6);
  for (int i = 0; i < 10; ++i) {
    little.record(1 * kMicro, false);
    little.record(2 * kMicro, true);
  }
  CHECK(little.seconds_alone() > 0);
  CHECK(policy.stats(4.4e6).seconds_alone() == 0);
}

}  // namespace

int main() {
  the_helper_runs_each_job_once();
  the_helper_serves_several_threads();
  teams_meet_at_barriers();
  the_faster_way_is_taken();
  one_outlier_decides_nothing();
  a_cold_start_is_forgotten();
  other_times_change_the_decision();
  trials_get_rarer_but_never_end();
  refusals_do_not_stick();
  stats_may_be_used_by_several_threads();
  half_octaves_do_not_mix();
  if (failures == 0) std::printf("all checks passed\n");
  return failures ? 1 : 0;
}
