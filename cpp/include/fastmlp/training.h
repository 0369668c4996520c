// Training: the options and callbacks of an epoch, and the state that training keeps.
#pragma once

#include <array>
#include <stdexcept>
#include <vector>

#include "fastmlp/aligned_buffer.h"
#include "fastmlp/optimizer.h"
#include "fastmlp/stop.h"
#include "fastmlp/types.h"

namespace fastmlp {

// The loss, the gradient or the parameters of a step are not finite. The step was not
// taken, except that fit_epoch notices non-finite parameters only after the last step.
class Diverged : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A callback that is called between steps, and between blocks of rows, with no lock
// held. If it returns true, the work stops.
struct Interruption {
  bool (*requested)(void* context) = nullptr;
  void* context = nullptr;

  // Throws Interrupted.
  void check() const {
    if (requested && requested(context)) throw Interrupted();
  }
};

// A callback that is called after every step of an epoch, with no lock held. If it
// returns false, the epoch stops.
struct StepListener {
  bool (*stepped)(void* context, Index step, double loss) = nullptr;
  void* context = nullptr;

  // Throws Interrupted.
  void tell(Index step, double loss) const {
    if (stepped && !stepped(context, step, loss)) throw Interrupted();
  }
};

// The progress of an epoch: the steps taken, and the sums from which its loss is
// computed.
struct EpochProgress {
  Index steps = 0;
  double total = 0.0, divisor = 0.0;

  // The loss so far: a mean over rows (or weights), or a sum.
  double loss(Reduction reduction) const {
    if (reduction == Reduction::sum) return total;
    return divisor == 0.0 ? 0.0 : total / divisor;
  }
};

struct EpochOptions {
  Index batch_size = 32;
  bool shuffle = false;  // the order depends on (seed, epoch); see random.h
  uint64_t seed = 0;
  uint32_t epoch = 0;
  // For an epoch that is run in several parts: the progress so far, which is updated
  // after each step before the listener is called, and the position in the epoch's
  // order of rows from which to continue.
  EpochProgress* progress = nullptr;
  Index first_row = 0;
  Interruption interruption = {};
  // Hyperparameters that change from step to step, each with its values in the
  // remaining steps_left() steps.
  struct Scheduled {
    double OptimizerConfig::* field;
    const double* values;
  };
  std::vector<Scheduled> scheduled = {};
  // The numbers of Mlp::set_rates for each of these steps, one step after another.
  // Null: they stay as they are.
  const double* rates = nullptr;
  StepListener listener = {};
  // Indices of the epoch's n_order rows, in order; rows may repeat. Must not be
  // combined with shuffle. Null: all rows of the data.
  const int64_t* order = nullptr;
  Index n_order = 0;
  double l2 = 0.0;  // see Mlp::value_and_grad; subtracted if the optimiser maximises

  // The number of steps from first_row to the end of an epoch over `data_rows` rows of
  // data. Throws std::invalid_argument if batch_size, order, first_row or l2 is not
  // valid.
  Index steps_left(Index data_rows) const;
};

// Parameters and optimiser state from before the first step of an epoch, saved if the
// loss and the gradient of that step are finite. If training diverges, it is rolled
// back to the state that was saved last.
template <class T>
struct LastGoodState {
  bool valid = false;
  AlignedBuffer<T> params, buffers;
  std::array<AlignedBuffer<T>, kMaxSlots> slots;
  int64_t step_count = 0, batches_tracked = 0;
  SharedNumbers shared = {};
};

// The seed and the counter that determine the random numbers of training outside
// fit_epoch, and the number of batches that running statistics have seen.
struct TrainingState {
  uint64_t seed = 0;
  uint64_t passes = 0;  // passes in training mode that are not optimiser steps
  int64_t batches_tracked = 0;
};

// Results of the last optimiser step, copied for later inspection.
template <class T>
struct LastStep {
  Index rows = 0;  // rows of `outputs` (the last rows of a large batch); 0: no step yet
  std::vector<T> grads;   // (n_params)
  std::vector<T> before;  // the parameters before the step, or empty: see set_watch
  std::vector<std::vector<T>> outputs;  // (rows, n_out) of each op
};

}  // namespace fastmlp
