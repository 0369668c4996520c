// Optimisers over flat parameter vectors. Formulas and defaults are torch's; see the
// kernels in kernel_table.h.
#pragma once

#include <array>
#include <variant>
#include <vector>

#include "fastmlp/aligned_buffer.h"
#include "fastmlp/fork_safety.h"
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
};

constexpr int kMaxSlots = 3;

// torch's names of the slots that a configuration uses; null for the unused ones.
std::array<const char*, kMaxSlots> slot_names(const OptimizerConfig& config);

// One update of n parameters at step `step` (from 1), `slots` in the order of
// slot_names().
template <class T>
void apply_optimizer(const OptimizerConfig& config, int64_t step, T* param,
                     const std::array<T*, kMaxSlots>& slots, const T* grad, Index n);

// The state kept per parameter, in the order of slot_names(): pointers are null for
// slots that the configuration does not use.
template <class T>
struct OptimizerSlots {
  Index size = 0;
  std::array<AlignedBuffer<T>, kMaxSlots> slot;
};

// One step count for all the vectors it updates. The first step fixes how many there
// are, their sizes and types.
class Optimizer {
 public:
  explicit Optimizer(const OptimizerConfig& config) : config_(config) {}

  const OptimizerConfig& config() const { return config_; }
  // Which slots exist must not change with it once there is state.
  OptimizerConfig& mutable_config() { return config_; }

  // A step over several vectors: begin_step, then prepare each of them, then apply any
  // split of their ranges from any thread, then end_step, which counts it. A step that
  // is not ended has not happened if apply was not called. Throws std::invalid_argument
  // if number, size or type differ from the first step's.
  void begin_step(Index vectors);
  template <class T>
  OptimizerSlots<T>& prepare(Index which, Index size);
  template <class T>
  void apply(const OptimizerSlots<T>& slots, T* param, const T* grad, Index begin,
             Index end) const;
  void end_step() { ++step_count_; }

  int64_t step_count() const { return step_count_; }
  void set_step_count(int64_t n) { step_count_ = n; }
  void reset();

  using AnySlots = std::variant<OptimizerSlots<float>, OptimizerSlots<double>>;
  std::vector<AnySlots>& state() { return state_; }

  // Held through a step by whoever makes it.
  OptimizerMutex& mutex() { return mutex_; }

 private:
  OptimizerConfig config_;
  int64_t step_count_ = 0;
  std::vector<AnySlots> state_;
  OptimizerMutex mutex_;
};

}  // namespace fastmlp
