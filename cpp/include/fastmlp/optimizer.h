// Optimisers over flat parameter vectors. Formulas and defaults are torch's; each kind
// is described in optimizer_kinds.h.
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <variant>
#include <vector>

#include "fastmlp/aligned_buffer.h"
#include "fastmlp/optimizer_kinds.h"
#include "fastmlp/types.h"

namespace fastmlp {

// Hyperparameters: X(type, name, default). Each optimiser reads those that its class in
// Python documents and ignores the others.
//
// Order of a step: the gradients are clipped, by their joint norm (clip_norm) or
// element by element (clip_value); a limit of 0 means no clipping. Then l1
// sign(parameter) is added, then weight decay. After the step, the moving average of
// the parameters is updated: average += (1 - ema) (parameters - average). The average
// starts as the parameters after the first step; with ema = 0 there is none.
// clang-format off
#define FASTMLP_HYPERPARAMETERS(X)                                                     \
  X(double,  lr,                        1e-3)                                          \
  X(double,  weight_decay,              0)                                             \
  X(bool,    maximize,                  false)                                         \
  X(double,  eps,                       1e-8)                                          \
  X(EpsMode, eps_mode,                  EpsMode::outside)                              \
  X(double,  momentum,                  0)                                             \
  X(double,  dampening,                 0)                                             \
  X(bool,    nesterov,                  false)                                         \
  X(double,  lr_decay,                  0)                                             \
  X(double,  initial_accumulator_value, 0)                                             \
  X(double,  alpha,                     0.99)                                          \
  X(bool,    centered,                  false)                                         \
  X(double,  beta1,                     0.9)                                           \
  X(double,  beta2,                     0.999)                                         \
  X(bool,    amsgrad,                   false)                                         \
  X(bool,    decoupled,                 false) /* AdamW's weight decay */              \
  X(double,  momentum_decay,            4e-3)                                          \
  X(double,  rho,                       0.9)                                           \
  X(double,  etaminus,                  0.5)                                           \
  X(double,  etaplus,                   1.2)                                           \
  X(double,  step_min,                  1e-6)                                          \
  X(double,  step_max,                  50)                                            \
  X(double,  lambd,                     1e-4)                                          \
  X(double,  t0,                        1e6)                                           \
  X(bool,    adaptive,                  false) /* schedule-free AdamW, not SGD */      \
  X(double,  warmup_steps,              0)                                             \
  X(double,  r,                         0)                                             \
  X(double,  weight_lr_power,           2)                                             \
  X(double,  beta3,                     0) /* 0: the root of beta2 */                  \
  X(double,  d0,                        1e-6)                                          \
  X(double,  d_coef,                    1)                                             \
  X(double,  growth_rate,               0) /* 0: no limit */                           \
  X(bool,    use_bias_correction,       false)                                         \
  X(bool,    safeguard_warmup,          false)                                         \
  X(bool,    use_muon,                  false) /* of dense weights; else AdamW */      \
  X(double,  ns_a,                      3.4445) /* of the Newton-Schulz iteration */   \
  X(double,  ns_b,                      -4.775)                                        \
  X(double,  ns_c,                      2.0315)                                        \
  X(double,  ns_steps,                  5)                                             \
  X(double,  ns_eps,                    1e-7)                                          \
  X(bool,    match_rms_adamw,           false)                                         \
  X(double,  accumulate,                1) /* gradients per step */                    \
  X(double,  clip_norm,                 0)                                             \
  X(double,  clip_value,                0)                                             \
  X(double,  l1,                        0)                                             \
  X(bool,    decay_weights_only,        false) /* weight_decay and l1: weights only */ \
  X(double,  ema,                       0)
// clang-format on

struct OptimizerConfig {
  OptimizerKind kind = OptimizerKind::sgd;
#define FASTMLP_FIELD(type, name, value) type name = value;
  FASTMLP_HYPERPARAMETERS(FASTMLP_FIELD)
#undef FASTMLP_FIELD
};

struct Hyperparameter {
  const char* name;
  std::variant<double OptimizerConfig::*, bool OptimizerConfig::*,
               EpsMode OptimizerConfig::*>
      field;
};
inline constexpr Hyperparameter kHyperparameters[] = {
#define FASTMLP_ENTRY(type, name, value) {#name, &OptimizerConfig::name},
    FASTMLP_HYPERPARAMETERS(FASTMLP_ENTRY)
#undef FASTMLP_ENTRY
};

// A group of parameters with hyperparameters of their own.
struct ParameterGroup {
  // What differs from the optimiser's hyperparameters.
  std::vector<std::function<void(OptimizerConfig&)>> own;
  // The learning rate is the optimiser's times this factor; without one it is the
  // group's own.
  std::optional<double> lr_scale;
  // Whether weight_decay and l1 apply to all parameters of the group, even if
  // decay_weights_only.
  bool decays_all = false;
  // Whether clip_norm bounds the norm of the group's own gradients; otherwise they are
  // clipped together with those of all parameters outside such groups.
  bool clips_alone = false;
};

// Elements of the first vector of parameters that belong to a group.
struct GroupRange {
  Index begin, end;
  int group;  // index
};
constexpr int kNoGroup = -1;

constexpr int kMaxSlots = kStateSlots + 2;
constexpr int kAverageSlot = kStateSlots;       // the moving average of the parameters
constexpr int kGradientSlot = kStateSlots + 1;  // the sum of accumulated gradients

// Names of the slots that a configuration uses: torch's names and "ema". Unused slots
// are null.
std::array<const char*, kMaxSlots> slot_names(const OptimizerConfig& config);

// The numbers of state that all parameters share, in the order of the kind's facts, and
// the number of gradients that have been accumulated for the next step.
using SharedNumbers = std::array<double, kMostShared + 1>;
constexpr int kPending = kMostShared;
// Their names; those of unused numbers are null.
std::array<const char*, kMostShared + 1> shared_names(const OptimizerConfig& config);

// Updates n parameters in step `step` (counted from 1) by the optimiser's formula. It
// does not clip, add l1 or update the average. `slots` has the order of slot_names().
// `l2` times the parameter is added to the gradient, like SGD's weight_decay, even if
// the configuration's own decay is decoupled. `shared` has the values from before the
// step.
template <class T>
void apply_optimizer(const OptimizerConfig& config, int64_t step, T* param,
                     const std::array<T*, kMaxSlots>& slots, const T* grad, Index n,
                     double l2 = 0.0, const SharedNumbers& shared = {});

// The state of one parameter vector, in the order of slot_names(). Slots that the
// configuration does not use are empty (null).
template <class T>
struct OptimizerSlots {
  Index size = 0;
  std::array<AlignedBuffer<T>, kMaxSlots> slot;
  // Scratch memory for clip_norm: sums of this step's squared gradients, one per chunk.
  AlignedBuffer<double> squares;
  // The step's sums for the shared numbers, kStepSums per chunk.
  AlignedBuffer<double> sums;
};

constexpr int kStepSums = 2;
using StepSums = std::array<double, kStepSums>;

// Sums of squares are computed in chunks of this many elements.
constexpr Index kSquaresChunk = 1024;
constexpr Index square_chunks(Index size) {
  return (size + kSquaresChunk - 1) / kSquaresChunk;
}
// Sum of squares of one chunk of the `size` elements of x.
template <class T>
double squares_of_chunk(const T* x, Index size, Index chunk);

// The mutex of an Optimizer. fork() waits until the mutex is unlocked, so that the
// child process can use the optimiser.
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

// Updates any number of parameter vectors and counts their steps together. The first
// step fixes the number of vectors, their sizes and their types.
class Optimizer {
 public:
  // Throws std::invalid_argument if a hyperparameter is out of range: not finite;
  // negative, unless it is dampening; alpha or rho above 1; beta1, beta2, beta3,
  // etaminus or ema not below 1.
  explicit Optimizer(const OptimizerConfig& config);

  const OptimizerConfig& config() const { return config_; }
  // After the first step, changes must not add or remove slots.
  OptimizerConfig& mutable_config() { return config_; }

  // Groups for an optimiser of one vector of parameters. The ranges do not overlap; all
  // other elements belong to no group. Throws std::invalid_argument if a hyperparameter
  // is out of range, a group needs slots that config() does not have, or a range has no
  // group; the former groups then remain.
  void set_groups(std::vector<ParameterGroup> groups, std::vector<GroupRange> ranges);
  // Throws std::invalid_argument if the groups do not go with this configuration.
  void check_groups(const OptimizerConfig& config) const;
  // The group of an element, or kNoGroup.
  int group_of(Index element) const;
  bool decays_all(int group) const {
    return group != kNoGroup && groups_[static_cast<size_t>(group)].decays_all;
  }
  bool clips_alone(int group) const {
    return group != kNoGroup && groups_[static_cast<size_t>(group)].clips_alone;
  }
  // The hyperparameters of a group in this step, or those of kNoGroup.
  const OptimizerConfig& config_of(int group) const {
    return group == kNoGroup ? config_ : group_configs_[static_cast<size_t>(group)];
  }

  // A step over several vectors:
  //   1. begin_step,
  //   2. prepare for each vector,
  //   3. if clips_by_norm, sum_squares for all chunks of each vector,
  //   4. apply for each vector, its range split at multiples of grain among threads,
  //      and in any way within a thread, in ascending order,
  //   5. end_step, which counts the step and advances the shared numbers.
  // sum_squares and apply may be called from any thread. A step abandoned before apply
  // leaves no trace. begin_step and prepare throw std::invalid_argument if the number
  // of vectors, or a vector's size or type, differs from that in the first step, or if
  // lr is negative or not finite.
  void begin_step(Index vectors);
  template <class T>
  OptimizerSlots<T>& prepare(Index which, Index size);
  bool clips_by_norm() const { return clips_by_norm_; }
  // Whether some dense weights may be orthogonalised.
  bool uses_muon() const { return uses_muon_; }
  // Sums the squares in each of the chunks first .. last - 1, of square_chunks(size)
  // chunks in total.
  template <class T>
  static void sum_squares(const OptimizerSlots<T>& slots, const T* grad, Index first,
                          Index last);
  // The factor to pass to apply once all squares are summed:
  // min(1, clip_norm / (norm + 1e-6)), where norm is the joint norm of all gradients of
  // the step. The factor is 1 unless clips_by_norm().
  double clip_scale() const;
  // The same for gradients of a group whose squares have this sum.
  double clip_scale(double sum_of_squares, int group) const;
  // The ranges of different threads in apply must begin at multiples of this; `usual`
  // suffices unless sums are computed, whose chunks must not be divided.
  Index grain(Index usual) const {
    return facts_of(config_.kind).sums ? kSquaresChunk : usual;
  }
  // Whether apply needs to know which parameters are `decayed`.
  bool spares_some() const {
    return config_.decay_weights_only && (config_.l1 != 0 || config_.weight_decay != 0);
  }
  // `decayed`: whether weight_decay and l1 apply to these parameters. `l2`: see
  // apply_optimizer. `group`: of these parameters.
  template <class T>
  void apply(const OptimizerSlots<T>& slots, T* param, const T* grad, Index begin,
             Index end, double clip_scale = 1.0, bool decayed = true, double l2 = 0.0,
             int group = kNoGroup) const;
  // With accumulation, a step has several gradients: `collect` adds one to the sum in
  // kGradientSlot. If `completes`, it divides the sum by their number, and apply must
  // then get that mean; otherwise, apply must not be called before end_step.
  bool accumulates() const { return config_.accumulate > 1; }
  bool completes() const { return shared_[kPending] + 1 >= config_.accumulate; }
  template <class T>
  void collect(const OptimizerSlots<T>& slots, const T* grad, Index begin,
               Index end) const;
  // For parameters that are frozen in this step: state that begins as a copy of the
  // parameters, and averages of them, remain equal to them.
  template <class T>
  void pass_by(const OptimizerSlots<T>& slots, const T* param, Index begin,
               Index end) const;
  // Updates the moving average alone.
  template <class T>
  void average(const OptimizerSlots<T>& slots, const T* param, Index begin,
               Index end) const;
  void end_step();

  // Any thread may read the number of steps at any time.
  int64_t step_count() const { return step_count_.load(kRelaxed); }
  // The number of gradients that steps have used or that are accumulated.
  int64_t gradient_count() const {
    return step_count() * static_cast<int64_t>(config_.accumulate) +
           static_cast<int64_t>(shared_[kPending]);
  }
  void set_step_count(int64_t n) { step_count_.store(n, kRelaxed); }
  const SharedNumbers& shared() const { return shared_; }
  void set_shared(const SharedNumbers& numbers) { shared_ = numbers; }
  void reset();

  using AnySlots = std::variant<OptimizerSlots<float>, OptimizerSlots<double>>;
  std::vector<AnySlots>& state() { return state_; }

  // The caller must hold this mutex from begin_step to end_step.
  OptimizerMutex& mutex() { return mutex_; }

 private:
  static constexpr auto kRelaxed = std::memory_order_relaxed;

  OptimizerConfig config_;
  std::vector<ParameterGroup> groups_;
  std::vector<OptimizerConfig> group_configs_;  // in this step
  std::vector<GroupRange> ranges_;
  bool clips_by_norm_ = false, uses_muon_ = false;  // in this step
  std::atomic<int64_t> step_count_{0};
  std::vector<AnySlots> state_;
  SharedNumbers shared_;
  OptimizerMutex mutex_;
};

}  // namespace fastmlp
