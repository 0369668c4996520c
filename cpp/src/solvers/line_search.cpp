#include "solvers/line_search.h"

#include <algorithm>
#include <cmath>

namespace fastmlp {
namespace {

// Until an interval that contains an acceptable step is known, each increase of the
// step is between these two factors times the increase before it.
constexpr double kMinGrowth = 1.1, kMaxGrowth = 4.0;
// Two trials together must shrink the interval to less than this fraction of its width.
constexpr double kShrink = 0.66;
// Fraction of a step that is kept if the values at its end are not finite.
constexpr double kRetreat = 0.1;
// Relative width below which an interval is not searched any further.
constexpr double kMinWidth = 1e-9;
constexpr double kFarthest = 1e20;

// Minimiser of the cubic with the values fa, fb and the slopes ga, gb at a and b. The
// result is NaN if the cubic is constant or, with `may_not_exist`, if it has no
// minimiser.
double cubic_minimum(double a, double fa, double ga, double b, double fb, double gb,
                     bool may_not_exist) {
  const double theta = 3 * (fa - fb) / (b - a) + ga + gb;
  const double scale = std::max({std::fabs(theta), std::fabs(ga), std::fabs(gb)});
  if (scale == 0.0) return std::nan("");
  const double t = theta / scale;
  const double square = t * t - (ga / scale) * (gb / scale);
  if (may_not_exist && square <= 0) return std::nan("");
  double gamma = scale * std::sqrt(std::max(0.0, square));
  if (b < a) gamma = -gamma;
  const double p = (gamma - ga) + theta;
  const double q = ((gamma - ga) + gamma) + gb;
  return a + p / q * (b - a);
}

}  // namespace

LineSearch::LineSearch(const Options& options, double value, double slope, double step)
    : options_(options),
      start_{0.0, value, slope},
      low_(start_),
      far_(start_),
      trial_{step, 0.0, 0.0},
      width_(kFarthest),
      width_before_(2 * kFarthest),
      max_step_(step + kMaxGrowth * step),
      ceiling_(kFarthest) {}

// The function minus the line of sufficient decrease.
LineSearch::Point LineSearch::auxiliary(const Point& p) const {
  const double line = options_.c1 * start_.slope;
  return {p.step, p.value - start_.value - p.step * line, p.slope - line};
}

LineSearch::Verdict LineSearch::observe(double value, double slope) {
  ++evaluations_;
  best_is_trial_ = false;
  const bool last = evaluations_ >= options_.max_evaluations;
  if (!std::isfinite(value) || !std::isfinite(slope)) {
    ceiling_ = max_step_ = trial_.step;
    min_step_ = low_.step;
    trial_.step = low_.step + kRetreat * (trial_.step - low_.step);
    return last || trial_.step == low_.step ? Verdict::give_up : Verdict::search;
  }
  trial_.value = value;
  trial_.slope = slope;

  const double line = options_.c1 * start_.slope;
  const bool decrease = value <= start_.value + trial_.step * line;
  if (decrease && (!best_value_known_ || value < best_value_)) {
    best_is_trial_ = best_value_known_ = true;
    best_value_ = value;
  }
  if (decrease && std::fabs(slope) <= options_.c2 * -start_.slope) {
    best_is_trial_ = true;  // even if the value at an earlier step was lower
    return Verdict::found;
  }
  if (last) return Verdict::give_up;

  // The auxiliary function is used only until a step has a sufficient decrease and is
  // no longer too steep.
  if (first_stage_ && decrease &&
      slope >= std::min(options_.c1, options_.c2) * start_.slope) {
    first_stage_ = false;
  }
  const bool use_auxiliary = first_stage_ && value <= low_.value && !decrease;
  const double next =
      use_auxiliary ? next_step(auxiliary(low_), auxiliary(far_), auxiliary(trial_))
                    : next_step(low_, far_, trial_);
  const double before = trial_.step;
  const bool lower = use_auxiliary ? auxiliary(trial_).value <= auxiliary(low_).value
                                   : value <= low_.value;
  const double low_slope = use_auxiliary ? auxiliary(low_).slope : low_.slope;
  const double trial_slope = use_auxiliary ? auxiliary(trial_).slope : slope;
  if (!lower) {
    far_ = trial_;
  } else {
    if (trial_slope * (low_slope < 0 ? -1.0 : 1.0) < 0) far_ = low_;
    low_ = trial_;
  }
  trial_.step = next;
  close_in();
  if (trial_.step == before || !(trial_.step > 0)) return Verdict::give_up;
  if (enclosed_ &&
      std::fabs(far_.step - low_.step) <= kMinWidth * std::max(far_.step, low_.step)) {
    return Verdict::give_up;
  }
  return Verdict::search;
}

// Returns the next step to try, by the four cases in section 4 of More & Thuente 1994.
// Sets enclosed_ if a minimum lies between `low` and `trial`.
double LineSearch::next_step(const Point& low, const Point& far, const Point& trial) {
  const double toward = trial.step - low.step;
  const double signs = trial.slope * (low.slope < 0 ? -1.0 : 1.0);
  const double secant =
      trial.step + trial.slope / (trial.slope - low.slope) * (low.step - trial.step);

  // The value is higher: there is a minimum between `low` and `trial`.
  if (trial.value > low.value) {
    const double cubic = cubic_minimum(low.step, low.value, low.slope, trial.step,
                                       trial.value, trial.slope, false);
    const double quadratic =
        low.step +
        low.slope / ((low.value - trial.value) / toward + low.slope) / 2 * toward;
    enclosed_ = true;
    return std::fabs(cubic - low.step) < std::fabs(quadratic - low.step)
               ? cubic
               : cubic + (quadratic - cubic) / 2;
  }
  // The value is lower and the slope has the opposite sign: again there is a minimum
  // between `low` and `trial`.
  if (signs < 0) {
    const double cubic = cubic_minimum(trial.step, trial.value, trial.slope, low.step,
                                       low.value, low.slope, false);
    enclosed_ = true;
    return std::fabs(cubic - trial.step) > std::fabs(secant - trial.step) ? cubic
                                                                          : secant;
  }
  // The value is lower and the slope flatter: the cubic is used if its minimum lies
  // beyond `trial`.
  if (std::fabs(trial.slope) <= std::fabs(low.slope)) {
    double cubic = cubic_minimum(low.step, low.value, low.slope, trial.step,
                                 trial.value, trial.slope, true);
    if (!((cubic - trial.step) * toward > 0))
      cubic = toward > 0 ? max_step_ : min_step_;
    const bool cubic_nearer =
        std::fabs(cubic - trial.step) < std::fabs(secant - trial.step);
    if (!enclosed_) {
      return std::max(min_step_, std::min(max_step_, cubic_nearer ? secant : cubic));
    }
    const double next = cubic_nearer ? cubic : secant;
    const double limit = trial.step + kShrink * (far.step - trial.step);
    return toward > 0 ? std::min(limit, next) : std::max(limit, next);
  }
  // The value is lower and the slope is not flatter.
  if (enclosed_) {
    return cubic_minimum(trial.step, trial.value, trial.slope, far.step, far.value,
                         far.slope, false);
  }
  return toward > 0 ? max_step_ : min_step_;
}

// Bisects an interval that does not shrink enough, and sets the bounds of the step
// after the next one.
void LineSearch::close_in() {
  if (enclosed_) {
    const double width = std::fabs(far_.step - low_.step);
    const double near = std::min(low_.step, far_.step);
    const double end = std::max(low_.step, far_.step);
    const bool outside = !(trial_.step >= near && trial_.step <= end);
    if (outside || width >= kShrink * width_before_) {
      trial_.step = low_.step + (far_.step - low_.step) / 2;
    }
    width_before_ = width_;
    width_ = width;
    min_step_ = near;
    max_step_ = end;
    return;
  }
  if (!(trial_.step < ceiling_)) {
    trial_.step = low_.step + (ceiling_ - low_.step) / 2;
  }
  const double grown = trial_.step - low_.step;
  min_step_ = trial_.step + kMinGrowth * grown;
  max_step_ = trial_.step + kMaxGrowth * grown;
}

}  // namespace fastmlp
