#include "threading/helper_policy.h"

#include <algorithm>
#include <cmath>

namespace fastmlp {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

// The helper occupies a second core, so it is used only if the time with it is below
// this fraction of the time without it.
constexpr float kWorthIt = 0.95f;
// Number of regions in a trial. One would not be enough, because the helper may have to
// wake up first.
constexpr int kTrialRegions = 8;

// Updates a moving average that outliers cannot spoil: it follows shorter times faster
// than longer ones, and a longer time counts as twice the average at most. An average
// above twice the new time came from an interruption or a cold start, so it is first
// cut to twice the new time.
void update_average(std::atomic<float>& mean, float x) {
  constexpr float kUp = 1.0f / 8, kDown = 1.0f / 4, kOutlier = 2.0f;
  const float old = std::min(mean.load(kRelaxed), kOutlier * x);
  if (old == 0) {
    mean.store(x, kRelaxed);
  } else if (x < old) {
    mean.store(old + kDown * (x - old), kRelaxed);
  } else {
    mean.store(old + kUp * (std::min(x, kOutlier * old) - old), kRelaxed);
  }
}

}  // namespace

bool HelperPolicy::Stats::helper_pays() const {
  const float with_helper = with_helper_.load(kRelaxed), alone = alone_.load(kRelaxed);
  // As long as the helper has not been measured, assume that it pays, so that it is
  // tried.
  return with_helper == 0 || (alone > 0 && with_helper < kWorthIt * alone);
}

bool HelperPolicy::Stats::use_helper() {
  const bool pays = helper_pays();
  if (trials_left_.load(kRelaxed) > 0) {
    trials_left_.fetch_sub(1, kRelaxed);
    return !pays;
  }
  if (until_trial_.fetch_sub(1, kRelaxed) > 0) return pays;
  const int period = period_.load(kRelaxed);
  until_trial_.store(period, kRelaxed);
  period_.store(std::min(2 * period, kMaxPeriod), kRelaxed);
  trials_left_.store(kTrialRegions - 1, kRelaxed);
  return !pays;
}

void HelperPolicy::Stats::record(float seconds, bool with_helper) {
  const bool paid = helper_pays();
  update_average(with_helper ? with_helper_ : alone_, seconds);
  if (helper_pays() != paid) {
    period_.store(kMinPeriod, kRelaxed);
    trials_left_.store(0, kRelaxed);
  }
}

HelperPolicy::Stats& HelperPolicy::stats(double flops) {
  int exponent = 0;
  const double mantissa = std::frexp(flops, &exponent);
  const int half_octave = 2 * exponent + (mantissa > 0.7071 ? 1 : 0);
  return stats_[static_cast<size_t>(half_octave) % kSizes];
}

}  // namespace fastmlp
