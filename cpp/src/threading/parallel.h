// Teams of threads. OpenMP is known to parallel.cpp alone.
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

// How many threads a region is worth: at most `most`.
struct TeamPlan {
  int most = 1;
  // Of a region that is over so soon that a second thread takes part only if it stands
  // by and has paid before.
  HelperPolicy::Record* second = nullptr;
};

// For this much work (2 operations per multiply-add) that falls into `parts` parts.
// Without `second`, little work is done alone.
TeamPlan plan_team(double flops, Index parts, HelperPolicy* second = nullptr);

// One member's view of the team that runs a region.
class Team {
 public:
  struct Shared {
    alignas(64) std::atomic<int> arrived{0};
    alignas(64) std::atomic<unsigned> generation{0};
  };

  Team(Shared* shared, int rank, int size)
      : shared_(shared), rank_(rank), size_(size) {}
  int rank() const { return rank_; }
  int size() const { return size_; }
  Range share(Index n, Index grain = 1) const { return split(n, grain, rank_, size_); }

  // Returns when every member has called it. Spins, then yields: OpenMP's own barrier
  // sleeps under some wait policies, which costs tens of microseconds.
  void barrier() const;

 private:
  Shared* shared_;
  int rank_, size_;
};

namespace detail {
void run_untyped_team(TeamPlan plan, void (*body)(void*, const Team&), void* state);
}

// Calls body(team) once in each thread of a team as planned, or a smaller one, the
// caller among them, and returns when all are done. Every thread runs with the default
// floating-point environment (round to nearest, subnormals kept), the caller's is
// restored after. The body must not throw, unless it is planned for one thread.
template <class Body>
void run_team(TeamPlan plan, Body&& body) {
  using Plain = std::remove_reference_t<Body>;
  detail::run_untyped_team(
      plan, [](void* state, const Team& team) { (*static_cast<Plain*>(state))(team); },
      &body);
}

}  // namespace fastmlp
