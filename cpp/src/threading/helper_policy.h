// Whether a second thread pays for a short region: found out by trying.
//
// It depends on more than the work: on how far apart the two cores are (a cache line
// may take 50 ns from one to the other, or 350), and on what else runs there. Results
// do not depend on it.
#pragma once

#include <array>
#include <atomic>

namespace fastmlp {

// Kept beside what the regions belong to, such as a model. May be used by several
// threads at once; what they then overwrite for each other is a guess anyway.
class HelperPolicy {
 public:
  // One for each half octave of work, so that batches of different sizes do not mix.
  class Record {
   public:
    // Whether the next region is to be run with a second thread.
    bool wanted();
    // How long it took, and whether it had one: it may have been refused.
    void took(float seconds, bool with_second);
    // How long it takes alone; 0: not known yet.
    float seconds_alone() const { return alone_.load(std::memory_order_relaxed); }

   private:
    bool pays() const;

    static constexpr int kOften = 64, kSeldom = 4096;
    // Moving averages in seconds; 0: not known yet.
    std::atomic<float> alone_{0.0f}, both_{0.0f};
    // Regions until the other choice is tried, what that was last set to, and for how
    // many more regions it goes on being tried: a second thread may have to wake up
    // first.
    std::atomic<int> until_trial_{0}, period_{kOften}, trials_left_{0};
  };

  Record& record(double flops);

 private:
  static constexpr int kRecords = 8;
  std::array<Record, kRecords> records_;
};

}  // namespace fastmlp
