// Decides by measurement whether the helper thread (spin_helper.h) is used.
//
// Whether the helper pays depends on more than the amount of work: on the distance
// between the two cores (moving a cache line takes 50 to 350 ns) and on other load on
// these cores. So regions are timed with and without the helper, and the slower way is
// tried again now and then. Results do not depend on the decision.
#pragma once

#include <array>
#include <atomic>

namespace fastmlp {

// Measurements that belong to one object with recurring regions, such as a model. Safe
// to use from several threads at once: a lost update only makes an estimate older.
class HelperPolicy {
 public:
  // Running times of regions of about the same size, and the decision whether the next
  // region uses the helper.
  class Stats {
   public:
    // Whether to use the helper in the next region; call it once per region.
    bool use_helper();
    // Records the running time of the region for which use_helper was called.
    // `with_helper`: whether the helper took part. It may not have, even if use_helper
    // returned true.
    void record(float seconds, bool with_helper);
    // Average running time without the helper; 0 if not measured yet.
    float seconds_alone() const { return alone_.load(std::memory_order_relaxed); }

   private:
    bool helper_pays() const;

    // Number of regions between two trials of the slower way: kMinPeriod at first and
    // after each change of the decision. It doubles after each trial, up to kMaxPeriod.
    static constexpr int kMinPeriod = 64, kMaxPeriod = 4096;

    // Moving averages in seconds; 0 if not measured yet.
    std::atomic<float> alone_{0.0f}, with_helper_{0.0f};
    // Regions until the next trial, the value that this counter starts from, and the
    // regions left in the trial under way.
    std::atomic<int> until_trial_{0}, period_{kMinPeriod}, trials_left_{0};
  };

  // The statistics of regions of `flops` operations: one for each half octave, so that
  // batches of different sizes do not mix.
  Stats& stats(double flops);

 private:
  // Enough for all short regions: those of 1.5e6 to 2e7 operations, see plan_team.
  static constexpr int kSizes = 8;
  std::array<Stats, kSizes> stats_;
};

}  // namespace fastmlp
