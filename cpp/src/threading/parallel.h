// Parallel regions and the teams of threads that run them. Only parallel.cpp uses
// OpenMP.
//
// Three kinds of regions, by the amount of work (plan_team):
//   little   the caller alone
//   short    the caller and, if it is awake and has been measured to help, the helper
//            thread (spin_helper.h, helper_policy.h)
//   large    a team of num_threads() OpenMP threads
// spin_helper.h explains why there is a helper thread in addition to OpenMP's threads.
#pragma once

#include <atomic>
#include <type_traits>

#include "fastmlp/threads.h"
#include "fastmlp/types.h"
#include "threading/helper_policy.h"

namespace fastmlp {

// A half-open range of indices.
struct Range {
  Index begin, end;
  Index size() const { return end - begin; }
};

// Part `rank` of `size` nearly equal parts of [0, n), cut at multiples of `grain`.
inline Range split(Index n, Index grain, int rank, int size) {
  const Index units = (n + grain - 1) / grain;
  const auto cut = [&](Index r) {
    const Index at = units * r / size * grain;
    return at < n ? at : n;
  };
  return {cut(rank), cut(rank + 1)};
}

// Which threads run a region.
struct TeamPlan {
  int most = 1;
  // Set for short regions only: use the helper if it is spinning and these measurements
  // say that this pays.
  HelperPolicy::Stats* helper = nullptr;
};

// The plan for `flops` operations (2 per multiply-add) that can be cut into `parts`.
// Without `helper`, short regions run on the caller alone.
TeamPlan plan_team(double flops, Index parts, HelperPolicy* helper = nullptr);

// A member's view of the team that runs a region.
class Team {
 public:
  struct Shared {
    alignas(64) std::atomic<int> arrived{0};
    alignas(64) std::atomic<unsigned> generation{0};
    bool committed = false;
  };

  Team(Shared* shared, int rank, int size)
      : shared_(shared), rank_(rank), size_(size) {}
  int rank() const { return rank_; }
  int size() const { return size_; }
  // This member's part of [0, n).
  Range share(Index n, Index grain = 1) const { return split(n, grain, rank_, size_); }

  // Returns when every member has called barrier(). Spins, then yields: OpenMP's own
  // barrier sleeps under some wait policies, which costs tens of microseconds.
  void barrier() const;

  // Ends the part of a region that may be abandoned: whether its work is complete. All
  // members get the same answer; after true, run_team does not throw Interrupted. It
  // must follow a barrier.
  bool commit() const;

 private:
  Shared* shared_;
  int rank_, size_;
};

namespace detail {
void run_untyped_team(TeamPlan plan, void (*body)(void*, const Team&), void* state);
}

// Calls body(team) once in each thread of a team of at most plan.most threads, one of
// which is the caller, and returns when all are done. All threads run in the core's
// floating-point environment; that of the caller is restored afterwards. The body must
// not throw unless the plan is for one thread. Throws Interrupted if the call has been
// asked to stop (threading/stop.h), even if the body has been completed, unless its
// members have committed.
template <class Body>
void run_team(TeamPlan plan, Body&& body) {
  using Plain = std::remove_reference_t<Body>;
  detail::run_untyped_team(
      plan, [](void* state, const Team& team) { (*static_cast<Plain*>(state))(team); },
      &body);
}

}  // namespace fastmlp
