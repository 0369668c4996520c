// A step along a line that satisfies the strong Wolfe conditions: the search of More &
// Thuente 1994 ("Line search algorithms with guaranteed sufficient decrease"), which
// encloses such a step and closes in on it by safeguarded cubic interpolation.
#pragma once

namespace fastmlp {

class LineSearch {
 public:
  struct Options {
    double c1 = 1e-4;  // for the sufficient decrease
    double c2 = 0.9;   // for the curvature
    int max_evaluations = 25;
  };

  enum class Verdict {
    search,   // evaluate at step()
    found,    // the last step satisfies both conditions
    give_up,  // no step was found within max_evaluations or the precision of numbers
  };

  // `value` and `slope` are the function's value and slope at 0, where the slope must
  // be negative; `step` > 0 is the first step to try.
  LineSearch(const Options& options, double value, double slope, double step);

  double step() const { return trial_.step; }
  // Takes the function's value and slope at step(). A value or slope that is not finite
  // means that the step was too long.
  Verdict observe(double value, double slope);

  // Whether the last step is the best so far: its value is the lowest among the steps
  // with a sufficient decrease, or it satisfies both conditions.
  bool best() const { return best_is_trial_; }
  bool any_decrease() const { return best_value_known_; }

 private:
  struct Point {
    double step, value, slope;
  };

  Point auxiliary(const Point& p) const;
  double next_step(const Point& low, const Point& far, const Point& trial);
  void close_in();

  Options options_;
  Point start_, low_, far_, trial_;
  bool enclosed_ = false;
  bool first_stage_ = true;
  double width_, width_before_;
  double min_step_ = 0.0, max_step_;
  double ceiling_;  // steps beyond it had values that were not finite; or kFarthest
  int evaluations_ = 0;
  bool best_is_trial_ = false, best_value_known_ = false;
  double best_value_ = 0.0;
};

}  // namespace fastmlp
