// A step along a line that satisfies the strong Wolfe conditions: the search of More &
// Thuente 1994 ("Line search algorithms with guaranteed sufficient decrease"), which
// encloses such a step and closes in on it by safeguarded cubic interpolation.
#pragma once

namespace fastmlp {

class LineSearch {
 public:
  struct Options {
    double c1 = 1e-4;  // of the sufficient decrease
    double c2 = 0.9;   // of the curvature
    int most = 25;     // evaluations
  };

  enum class Verdict {
    search,   // evaluate at step()
    found,    // the step just seen satisfies both conditions
    give_up,  // none was found: the number of evaluations or of digits is used up
  };

  // The function has this value and slope < 0 at 0; `step` > 0 is tried first.
  LineSearch(const Options& options, double value, double slope, double step);

  double step() const { return trial_.step; }
  // The function's value and slope at step(). What is not finite counts as too far.
  Verdict observe(double value, double slope);

  // Whether the value just seen is a sufficient decrease and the lowest such so far.
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
  double least_ = 0.0, most_;
  double ceiling_;  // beyond it values were not finite, or it is simply far
  int evaluations_ = 0;
  bool best_is_trial_ = false, best_value_known_ = false;
  double best_value_ = 0.0;
};

}  // namespace fastmlp
