#include "threading/helper_policy.h"

#include <algorithm>
#include <cmath>

namespace fastmlp {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

// What a second thread must save to be worth a core.
constexpr float kWorthIt = 0.95f;
constexpr int kTrials = 8;

// A moving average that a single interruption does not spoil for long. One that is far
// above what a region has just taken came of an interruption, or of a cold start.
void average(std::atomic<float>& mean, float x) {
  constexpr float kUp = 1.0f / 8, kDown = 1.0f / 4, kMostTimes = 2.0f;
  const float old = std::min(mean.load(kRelaxed), kMostTimes * x);
  if (old == 0) {
    mean.store(x, kRelaxed);
  } else if (x < old) {
    mean.store(old + kDown * (x - old), kRelaxed);
  } else {
    mean.store(old + kUp * (std::min(x, kMostTimes * old) - old), kRelaxed);
  }
}

}  // namespace

bool HelperPolicy::Record::pays() const {
  const float both = both_.load(kRelaxed), alone = alone_.load(kRelaxed);
  // Alone is tried last: it needs nobody.
  return both == 0 || (alone > 0 && both < kWorthIt * alone);
}

bool HelperPolicy::Record::wanted() {
  const bool pays_now = pays();
  if (trials_left_.load(kRelaxed) > 0) {
    trials_left_.fetch_sub(1, kRelaxed);
    return !pays_now;
  }
  if (until_trial_.fetch_sub(1, kRelaxed) > 0) return pays_now;
  // The longer the answer stays the same, the less often it is asked for.
  const int period = period_.load(kRelaxed);
  until_trial_.store(period, kRelaxed);
  period_.store(std::min(2 * period, kSeldom), kRelaxed);
  trials_left_.store(kTrials - 1, kRelaxed);
  return !pays_now;
}

void HelperPolicy::Record::took(float seconds, bool with_second) {
  const bool paid = pays();
  average(with_second ? both_ : alone_, seconds);
  if (pays() != paid) {
    period_.store(kOften, kRelaxed);
    trials_left_.store(0, kRelaxed);
  }
}

HelperPolicy::Record& HelperPolicy::record(double flops) {
  int exponent = 0;
  const double mantissa = std::frexp(flops, &exponent);
  const int half_octave = 2 * exponent + (mantissa > 0.7071 ? 1 : 0);
  return records_[static_cast<size_t>(half_octave) % kRecords];
}

}  // namespace fastmlp
