// Optimisers over flat parameter vectors. Formulas and defaults are torch's; see the
// kernels in kernel_table.h.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <variant>
#include <vector>

#include "fastmlp/aligned_buffer.h"
#include "fastmlp/types.h"

namespace fastmlp {

struct OptimizerConfig {
  OptimizerKind kind = OptimizerKind::sgd;
  double lr = 1e-3;
  double weight_decay = 0;
  bool maximize = false;
  double eps = 1e-8;                     // all but sgd
  EpsMode eps_mode = EpsMode::outside;   // hat: adam only
  double momentum = 0;                   // sgd, rmsprop
  double dampening = 0;                  // sgd
  bool nesterov = false;                 // sgd
  double lr_decay = 0;                   // adagrad
  double initial_accumulator_value = 0;  // adagrad
  double alpha = 0.99;                   // rmsprop
  bool centered = false;                 // rmsprop
  double beta1 = 0.9, beta2 = 0.999;     // adam
  bool amsgrad = false;                  // adam
  bool decoupled = false;                // adam: AdamW's weight decay

  // Before the update: gradients are clipped, by the norm of all of them or one by one
  // (0: not), then l1 sign(parameter) is added, then weight decay.
  double clip_norm = 0;
  double clip_value = 0;
  double l1 = 0;
  bool decay_weights_only = false;  // l1 and weight_decay leave other parameters alone
  // After it: ema += (1 - ema) (parameters - ema), from the first step's parameters on;
  // 0: none is kept.
  double ema = 0;
};

constexpr int kMaxSlots = 4;
constexpr int kAverageSlot = 3;  // of the moving average

// Names of the slots that a configuration uses, torch's and "ema"; null for the unused
// ones.
std::array<const char*, kMaxSlots> slot_names(const OptimizerConfig& config);

// One update of n parameters at step `step` (from 1), `slots` in the order of
// slot_names(): by the optimiser's formula alone, without clipping, l1 and average.
// `l2` times the parameter is added to the gradient as weight_decay is in SGD, also
// where the configuration's own decay is decoupled.
template <class T>
void apply_optimizer(const OptimizerConfig& config, int64_t step, T* param,
                     const std::array<T*, kMaxSlots>& slots, const T* grad, Index n,
                     double l2 = 0.0);

// The state kept per parameter, in the order of slot_names(): pointers are null for
// slots that the configuration does not use.
template <class T>
struct OptimizerSlots {
  Index size = 0;
  std::array<AlignedBuffer<T>, kMaxSlots> slot;
  // Of this step's gradients, by chunks; only where clip_norm asks for it. No state.
  AlignedBuffer<double> squares;
};

// Elements of a chunk, of which sums of squares are made.
constexpr Index kSquaresChunk = 1024;
constexpr Index square_chunks(Index size) {
  return (size + kSquaresChunk - 1) / kSquaresChunk;
}
// The sum of squares of such a chunk of the `size` elements of x.
template <class T>
double squares_of_chunk(const T* x, Index size, Index chunk);

// The mutex of an Optimizer. A fork waits until it is unlocked, so that it is usable in
// the child.
class OptimizerMutex {
 public:
  OptimizerMutex();
  ~OptimizerMutex();
  void lock();
  bool try_lock();
  void unlock();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// One step count for all the vectors it updates. The first step fixes how many there
// are, their sizes and types.
class Optimizer {
 public:
  explicit Optimizer(const OptimizerConfig& config) : config_(config) {}

  const OptimizerConfig& config() const { return config_; }
  // Which slots exist must not change with it once there is state.
  OptimizerConfig& mutable_config() { return config_; }

  // A step over several vectors: begin_step, then prepare each of them, then, if
  // clips_by_norm, sum_squares of all chunks of each of them, then apply any split of
  // their ranges, then end_step, which counts it. sum_squares and apply may be called
  // from any thread. A step that is not ended has not happened if apply was not called.
  // Throws std::invalid_argument if number, size or type differ from the first step's.
  void begin_step(Index vectors);
  template <class T>
  OptimizerSlots<T>& prepare(Index which, Index size);
  bool clips_by_norm() const { return config_.clip_norm > 0; }
  // Of chunks [first, last) of square_chunks(size).
  template <class T>
  static void sum_squares(const OptimizerSlots<T>& slots, const T* grad, Index first,
                          Index last);
  // min(1, clip_norm / (norm + 1e-6)), the norm that of all gradients of the step: for
  // apply, once all squares are summed. 1 if not clips_by_norm.
  double clip_scale() const;
  // Whether apply must be told of parameters that are not to be `decayed`.
  bool spares_some() const {
    return config_.decay_weights_only && (config_.l1 != 0 || config_.weight_decay != 0);
  }
  // `decayed`: whether weight_decay and l1 are for these parameters. `l2`: as in
  // apply_optimizer.
  template <class T>
  void apply(const OptimizerSlots<T>& slots, T* param, const T* grad, Index begin,
             Index end, double clip_scale = 1.0, bool decayed = true,
             double l2 = 0.0) const;
  void end_step() { step_count_.store(step_count() + 1, kRelaxed); }

  // May be asked for by any thread at any time.
  int64_t step_count() const { return step_count_.load(kRelaxed); }
  void set_step_count(int64_t n) { step_count_.store(n, kRelaxed); }
  void reset();

  using AnySlots = std::variant<OptimizerSlots<float>, OptimizerSlots<double>>;
  std::vector<AnySlots>& state() { return state_; }

  // Held through a step by whoever makes it.
  OptimizerMutex& mutex() { return mutex_; }

 private:
  static constexpr auto kRelaxed = std::memory_order_relaxed;

  OptimizerConfig config_;
  std::atomic<int64_t> step_count_{0};
  std::vector<AnySlots> state_;
  OptimizerMutex mutex_;
};

}  // namespace fastmlp
