// Short regions: the standby does each job that it accepts exactly once, a team meets
// at its barriers whoever is in it, and whether a second thread is asked for follows
// from the times that are told, here made up.
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
using Record = HelperPolicy::Record;

// --- the standby -------------------------------------------------------------------

// It is free to refuse: on a busy machine most of the time, alone on a CPU always.
const bool kMayHelp = num_threads() > 1;
constexpr std::chrono::seconds kPatience{20};

struct Caller {
  // Not atomic: what the job does must be seen when it is finished.
  int done = 0;
  int accepted = 0;
  bool exact = true;

  // Regions that follow each other closely, until `wanted` were accepted.
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

void standby_does_each_job_once() {
  Caller caller;
  caller.call(5000);
  CHECK(caller.exact);
  CHECK(caller.accepted > 0 || !kMayHelp);
}

void standby_serves_several_threads() {
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

// One region in which everyone waits for everyone a few times.
struct Meeting {
  static constexpr int kPhases = 5;
  int at[2] = {0, 0};
  std::atomic<int> came{0}, missed{0};
  int size = 0;

  void hold(Record& record) {
    run_team({2, &record}, [&](const Team& team) {
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
      // One that has just begun to ask for the second thread goes on for a while.
      Record record;
      while (!record.wanted()) {
      }
      Meeting meeting;
      meeting.hold(record);
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

// --- the record --------------------------------------------------------------------

struct Simulated {
  Record record;
  float alone, both;  // what a region takes
  bool answered = true;

  Simulated(float alone_takes, float both_take) : alone(alone_takes), both(both_take) {}

  // Runs regions; how many of them a second thread was wanted for.
  int run(int regions) {
    int wanted = 0;
    for (int i = 0; i < regions; ++i) {
      const bool now = record.wanted();
      wanted += now;
      const bool with = now && answered;
      record.took(with ? both : alone, with);
    }
    return wanted;
  }

  // Before settling, both ways are tried; then few regions are trials.
  bool wants() {
    run(200);
    const int wanted = run(1000);
    CHECK(wanted < 100 || wanted > 900);
    return wanted > 500;
  }
};

constexpr float kMicro = 1e-6f;
// More regions than lie between two trials at most, with what a trial takes to
// convince.
constexpr int kLong = 3 * 4096;

void the_faster_way_is_taken() {
  CHECK(Simulated(100 * kMicro, 60 * kMicro).wants());
  CHECK(!Simulated(100 * kMicro, 150 * kMicro).wants());
  CHECK(!Simulated(100 * kMicro, 98 * kMicro).wants());  // not worth a core
}

void one_outlier_decides_nothing() {
  for (const float both : {60 * kMicro, 150 * kMicro}) {
    for (const bool with_second : {false, true}) {
      Simulated s(100 * kMicro, both);
      const bool before = s.wants();
      s.record.took(100 * (with_second ? s.both : s.alone), with_second);
      CHECK(s.wants() == before);
    }
  }
}

void a_cold_start_is_forgotten() {
  for (const float both : {60 * kMicro, 150 * kMicro}) {
    for (const bool with_second : {false, true}) {
      Simulated s(100 * kMicro, both);
      s.record.took(100 * s.alone, with_second);
      CHECK(s.wants() == (both < s.alone));
    }
  }
}

void other_times_change_its_mind() {
  Simulated s(100 * kMicro, 60 * kMicro);
  CHECK(s.wants());
  s.both = 150 * kMicro;
  CHECK(!s.wants());
  s.run(kLong);
  s.both = 60 * kMicro;
  s.run(kLong);
  CHECK(s.wants());
  s.alone = 50 * kMicro;
  s.run(kLong);
  CHECK(!s.wants());
}

void trials_get_rarer_but_never_end() {
  for (const float both : {60 * kMicro, 150 * kMicro}) {
    Simulated s(100 * kMicro, both);
    const bool wants = s.wants();
    const auto trials = [&](int regions) {
      const int wanted = s.run(regions);
      return wants ? regions - wanted : wanted;
    };
    const int early = trials(kLong);
    const int late = trials(kLong), later = trials(kLong);
    CHECK(early > late);
    CHECK(late > 0 && late < kLong / 100);
    CHECK(later > 0 && later < kLong / 100);
  }
}

void refusals_do_not_stick() {
  // Never there so far.
  Simulated s(100 * kMicro, 60 * kMicro);
  s.answered = false;
  s.run(kLong);
  s.answered = true;
  CHECK(s.wants());
  // Away for a while.
  s.answered = false;
  s.run(kLong);
  s.answered = true;
  s.run(kLong);
  CHECK(s.wants());
  // Away while it would have shown that it pays again.
  s.both = 150 * kMicro;
  CHECK(!s.wants());
  s.both = 60 * kMicro;
  s.answered = false;
  s.run(kLong);
  s.answered = true;
  s.run(kLong);
  CHECK(s.wants());
}

void one_record_may_be_used_by_several_threads() {
  Simulated s(100 * kMicro, 60 * kMicro);
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) threads.emplace_back([&] { s.run(kLong); });
  for (std::thread& thread : threads) thread.join();
  s.run(kLong);
  CHECK(s.wants());
}

void half_octaves_do_not_mix() {
  HelperPolicy second;
  std::set<const Record*> records;
  // Those of which short regions are made.
  for (double flops = 1.6e6; flops < 2e7; flops *= 1.41421356) {
    records.insert(&second.record(flops));
    CHECK(&second.record(flops) == &second.record(flops));
  }
  CHECK(records.size() == 8);
  CHECK(&second.record(2.2e6) == &second.record(2.9e6));
  // 2.2e6 and 4.4e6 operations: what one learns is not the other's.
  Record& little = second.record(2.2e6);
  for (int i = 0; i < 10; ++i) {
    little.took(1 * kMicro, false);
    little.took(2 * kMicro, true);
  }
  CHECK(little.seconds_alone() > 0);
  CHECK(second.record(4.4e6).seconds_alone() == 0);
}

}  // namespace

int main() {
  standby_does_each_job_once();
  standby_serves_several_threads();
  teams_meet_at_barriers();
  the_faster_way_is_taken();
  one_outlier_decides_nothing();
  a_cold_start_is_forgotten();
  other_times_change_its_mind();
  trials_get_rarer_but_never_end();
  refusals_do_not_stick();
  one_record_may_be_used_by_several_threads();
  half_octaves_do_not_mix();
  if (failures == 0) std::printf("all checks passed\n");
  return failures ? 1 : 0;
}
