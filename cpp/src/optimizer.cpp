#include "fastmlp/optimizer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "fastmlp/fp_environment.h"
#include "fastmlp/kernel_table.h"
#include "number_text.h"
#include "threading/fork_safety.h"

namespace fastmlp {
namespace {

// x^n by squaring. Unlike std::pow it gives the same bits everywhere.
double power(double x, int64_t n) {
  double result = 1.0;
  for (; n > 0; n >>= 1) {
    if (n & 1) result *= x;
    x *= x;
  }
  return result;
}

// x^y for x >= 0, with the same bits everywhere.
double real_power(double x, double y) {
  if (y == std::floor(y) && y >= 0 && y < 0x1p62) {
    return power(x, static_cast<int64_t>(y));
  }
  const auto apply = [](Elementary f, double value) {
    double result;
    kernels<double>().elementary(f, &result, &value, 1);
    return result;
  };
  return apply(Elementary::exp, y * apply(Elementary::log, x));
}

// The term that keeps a denominator above 0 in T: without it, the step for a gradient
// of 0 would be 0 / 0.
template <class T>
T epsilon(const OptimizerConfig& c) {
  return std::max(static_cast<T>(c.eps), std::numeric_limits<T>::min());
}

// The coefficient of the parameter in the gradient, and the factor of the parameter
// before the step, of optimisers whose weight decay may be decoupled.
template <class T>
T coupled_decay(const OptimizerConfig& c, double l2) {
  return static_cast<T>((c.decoupled ? 0.0 : c.weight_decay) + l2);
}
template <class T>
T decay_factor(const OptimizerConfig& c) {
  return static_cast<T>(c.decoupled ? 1 - c.lr * c.weight_decay : 1.0);
}

// Each kind of optimiser has a struct that computes its kernel's scalars at a given
// step, counted from 1, and tells which slots a configuration uses and their initial
// values. If the kind has numbers that all parameters share, `args` gets them, and
// `start` and `advance` compute them.
struct UsedSlots {
  bool used[kStateSlots];
  double initial[kStateSlots] = {};
};

struct Sgd {
  template <class T>
  static SgdArgs<T> args(const OptimizerConfig& c, int64_t step, double l2) {
    return {static_cast<T>(c.lr),
            static_cast<T>(c.momentum),
            static_cast<T>(1 - c.dampening),
            static_cast<T>(c.weight_decay + l2),
            c.nesterov,
            c.maximize,
            step == 1};
  }
  static UsedSlots used(const OptimizerConfig& c) { return {{c.momentum != 0}}; }
};

struct Adagrad {
  template <class T>
  static AdagradArgs<T> args(const OptimizerConfig& c, int64_t step, double l2) {
    const double lr = c.lr / (1 + static_cast<double>(step - 1) * c.lr_decay);
    return {static_cast<T>(lr), epsilon<T>(c), static_cast<T>(c.weight_decay + l2),
            c.maximize, c.eps_mode == EpsMode::inside};
  }
  static UsedSlots used(const OptimizerConfig& c) {
    return {{true}, {c.initial_accumulator_value}};
  }
};

struct Rmsprop {
  template <class T>
  static RmspropArgs<T> args(const OptimizerConfig& c, int64_t, double l2) {
    return {static_cast<T>(c.lr),
            static_cast<T>(c.alpha),
            static_cast<T>(1 - c.alpha),
            epsilon<T>(c),
            static_cast<T>(c.momentum),
            static_cast<T>(c.weight_decay + l2),
            c.maximize,
            c.eps_mode == EpsMode::inside};
  }
  static UsedSlots used(const OptimizerConfig& c) {
    return {{true, c.momentum != 0, c.centered}};
  }
};

struct Adam {
  template <class T>
  static AdamArgs<T> args(const OptimizerConfig& c, int64_t step, double l2) {
    const double correction1 = 1 - power(c.beta1, step);
    const double correction2 = 1 - power(c.beta2, step);
    // "hat" folds both bias corrections into the step size and adds eps to the root of
    // the uncorrected second moment.
    const bool hat = c.eps_mode == EpsMode::hat;
    const double step_size = c.lr / correction1 * (hat ? std::sqrt(correction2) : 1.0);
    return {static_cast<T>(step_size),
            static_cast<T>(c.beta1),
            static_cast<T>(1 - c.beta1),
            static_cast<T>(c.beta2),
            static_cast<T>(1 - c.beta2),
            epsilon<T>(c),
            static_cast<T>(1 / correction2),
            static_cast<T>(hat ? 1.0 : 1 / std::sqrt(correction2)),
            coupled_decay<T>(c, l2),
            decay_factor<T>(c),
            c.maximize,
            c.eps_mode == EpsMode::inside};
  }
  static UsedSlots used(const OptimizerConfig& c) { return {{true, true, c.amsgrad}}; }
};

struct Adamax {
  template <class T>
  static AdamaxArgs<T> args(const OptimizerConfig& c, int64_t step, double l2) {
    return {static_cast<T>(c.lr / (1 - power(c.beta1, step))),
            static_cast<T>(c.beta1),
            static_cast<T>(1 - c.beta1),
            static_cast<T>(c.beta2),
            epsilon<T>(c),
            static_cast<T>(c.weight_decay + l2),
            c.maximize};
  }
  static UsedSlots used(const OptimizerConfig&) { return {{true, true}}; }
};

// The shared number is the product of the momenta of all steps so far.
struct Nadam {
  static double momentum(const OptimizerConfig& c, double step) {
    constexpr double kBase = 0.96;  // as in Dozat's paper
    return c.beta1 * (1 - 0.5 * real_power(kBase, step * c.momentum_decay));
  }
  static SharedNumbers start(const OptimizerConfig&) { return {1.0}; }
  static SharedNumbers advance(const OptimizerConfig& c, int64_t step,
                               const SharedNumbers& shared, const StepSums&) {
    return {shared[0] * momentum(c, static_cast<double>(step))};
  }
  template <class T>
  static NadamArgs<T> args(const OptimizerConfig& c, int64_t step, double l2,
                           const SharedNumbers& shared) {
    const double mu = momentum(c, static_cast<double>(step));
    const double next = momentum(c, static_cast<double>(step) + 1);
    const double product = shared[0] * mu;
    return {static_cast<T>(c.lr * (1 - mu) / (1 - product)),
            static_cast<T>(c.lr * next / (1 - product * next)),
            static_cast<T>(c.beta1),
            static_cast<T>(1 - c.beta1),
            static_cast<T>(c.beta2),
            static_cast<T>(1 - c.beta2),
            epsilon<T>(c),
            static_cast<T>(1 / std::sqrt(1 - power(c.beta2, step))),
            coupled_decay<T>(c, l2),
            decay_factor<T>(c),
            c.maximize};
  }
  static UsedSlots used(const OptimizerConfig&) { return {{true, true}}; }
};

struct Radam {
  template <class T>
  static RadamArgs<T> args(const OptimizerConfig& c, int64_t step, double l2) {
    const double decayed = power(c.beta2, step), correction2 = 1 - decayed;
    // The length of the simple moving average that v is like, in the limit and now.
    const double limit = 2 / (1 - c.beta2) - 1;
    const double length = limit - 2 * static_cast<double>(step) * decayed / correction2;
    const bool known = length > 5;  // torch's bound; 4 in the paper
    double step_size = c.lr / (1 - power(c.beta1, step));
    if (known) {
      step_size *= std::sqrt(correction2 * (length - 4) * (length - 2) * limit /
                             ((limit - 4) * (limit - 2) * length));
    }
    return {static_cast<T>(step_size),
            static_cast<T>(c.beta1),
            static_cast<T>(1 - c.beta1),
            static_cast<T>(c.beta2),
            static_cast<T>(1 - c.beta2),
            known ? epsilon<T>(c) : T(1),
            T(1),
            static_cast<T>(known),
            coupled_decay<T>(c, l2),
            decay_factor<T>(c),
            c.maximize,
            false};
  }
  static UsedSlots used(const OptimizerConfig&) { return {{true, true}}; }
};

struct Adadelta {
  template <class T>
  static AdadeltaArgs<T> args(const OptimizerConfig& c, int64_t, double l2) {
    return {static_cast<T>(c.lr),
            static_cast<T>(c.rho),
            static_cast<T>(1 - c.rho),
            epsilon<T>(c),
            static_cast<T>(c.weight_decay + l2),
            c.maximize};
  }
  static UsedSlots used(const OptimizerConfig&) { return {{true, true}}; }
};

struct Rprop {
  template <class T>
  static RpropArgs<T> args(const OptimizerConfig& c, int64_t, double l2) {
    return {static_cast<T>(c.etaminus),          static_cast<T>(c.etaplus),
            static_cast<T>(c.step_min),          static_cast<T>(c.step_max),
            static_cast<T>(c.weight_decay + l2), c.maximize};
  }
  // The learning rate is the size of the first step.
  static UsedSlots used(const OptimizerConfig& c) {
    return {{true, true}, {0.0, c.lr}};
  }
};

struct Asgd {
  template <class T>
  static AsgdArgs<T> args(const OptimizerConfig& c, int64_t step, double l2) {
    const double before = static_cast<double>(step - 1);
    const double eta = c.lr / real_power(1 + c.lambd * c.lr * before, c.alpha);
    return {static_cast<T>(eta), static_cast<T>(1 - c.lambd * eta),
            static_cast<T>(1 / std::max(1.0, before - c.t0)),
            static_cast<T>(c.weight_decay + l2), c.maximize};
  }
  static UsedSlots used(const OptimizerConfig&) { return {{true}}; }
};

struct Lion {
  template <class T>
  static LionArgs<T> args(const OptimizerConfig& c, int64_t, double l2) {
    return {static_cast<T>(c.lr),        static_cast<T>(c.beta1),
            static_cast<T>(1 - c.beta1), static_cast<T>(c.beta2),
            static_cast<T>(1 - c.beta2), coupled_decay<T>(c, l2),
            decay_factor<T>(c),          c.maximize};
  }
  static UsedSlots used(const OptimizerConfig&) { return {{true}}; }
};

struct Adabelief {
  template <class T>
  static AdabeliefArgs<T> args(const OptimizerConfig& c, int64_t step, double l2) {
    return {static_cast<T>(c.lr / (1 - power(c.beta1, step))),
            static_cast<T>(c.beta1),
            static_cast<T>(1 - c.beta1),
            static_cast<T>(c.beta2),
            static_cast<T>(1 - c.beta2),
            epsilon<T>(c),
            static_cast<T>(1 / std::sqrt(1 - power(c.beta2, step))),
            coupled_decay<T>(c, l2),
            decay_factor<T>(c),
            c.maximize};
  }
  static UsedSlots used(const OptimizerConfig&) { return {{true, true}}; }
};

// The shared numbers are the largest learning rate so far and the sum of the weights of
// all z in the average.
struct ScheduleFree {
  static double rate(const OptimizerConfig& c, int64_t step) {
    const double t = static_cast<double>(step);
    const double lr = t < c.warmup_steps ? c.lr * (t / c.warmup_steps) : c.lr;
    return c.adaptive ? lr * std::sqrt(1 - power(c.beta2, step)) : lr;
  }
  static double weight(const OptimizerConfig& c, int64_t step, double lr_max) {
    return real_power(static_cast<double>(step), c.r) *
           real_power(lr_max, c.weight_lr_power);
  }
  static SharedNumbers start(const OptimizerConfig&) { return {}; }
  static SharedNumbers advance(const OptimizerConfig& c, int64_t step,
                               const SharedNumbers& shared, const StepSums&) {
    const double lr_max = std::max(shared[0], rate(c, step));
    return {lr_max, shared[1] + weight(c, step, lr_max)};
  }
  template <class T>
  static ScheduleFreeArgs<T> args(const OptimizerConfig& c, int64_t step, double l2,
                                  const SharedNumbers& shared) {
    const double gamma = rate(c, step);
    const SharedNumbers next = advance(c, step, shared, {});
    const double to_z = next[1] > 0 ? weight(c, step, next[0]) / next[1] : 0.0;
    return {static_cast<T>(gamma),
            static_cast<T>(gamma * (c.beta1 * (1 - to_z) - 1)),
            static_cast<T>(to_z),
            static_cast<T>(c.beta2),
            static_cast<T>(1 - c.beta2),
            epsilon<T>(c),
            static_cast<T>((c.adaptive ? 0.0 : c.weight_decay) + l2),
            static_cast<T>(c.adaptive ? c.weight_decay : 0.0),
            c.maximize,
            step == 1};
  }
  static UsedSlots used(const OptimizerConfig& c) { return {{true, c.adaptive}}; }
};

// The shared numbers are the estimate d of the distance to the solution, the largest
// estimate before growth_rate limits d, and a sum over all steps that estimates use.
struct Prodigy {
  static double beta3(const OptimizerConfig& c) {
    return c.beta3 > 0 ? c.beta3 : std::sqrt(c.beta2);
  }
  static double step_size(const OptimizerConfig& c, int64_t step, double d) {
    if (!c.use_bias_correction) return d * c.lr;
    return d * c.lr * std::sqrt(1 - power(c.beta2, step)) / (1 - power(c.beta1, step));
  }
  static SharedNumbers start(const OptimizerConfig& c) { return {c.d0, c.d0, 0.0}; }
  // sums: of g (p0 - p), and of |s| after the step.
  static SharedNumbers advance(const OptimizerConfig& c, int64_t step,
                               const SharedNumbers& shared, const StepSums& sums) {
    double d = shared[0];
    double d_max = shared[1];
    double numerator = shared[2];
    numerator = beta3(c) * numerator + d / c.d0 * step_size(c, step, d) * sums[0];
    const double estimate = c.d_coef * numerator / sums[1];
    if (!std::isfinite(estimate)) return shared;
    if (c.lr > 0) {
      if (d == c.d0) d = std::max(d, estimate);
      d_max = std::max(d_max, estimate);
      d = c.growth_rate > 0 ? std::min(d_max, d * c.growth_rate) : d_max;
    }
    return {d, d_max, numerator};
  }
  template <class T>
  static ProdigyArgs<T> args(const OptimizerConfig& c, int64_t step, double l2,
                             const SharedNumbers& shared) {
    const double d = shared[0], size = step_size(c, step, d);
    return {static_cast<T>(size),
            static_cast<T>(c.beta1),
            static_cast<T>(d * (1 - c.beta1)),
            static_cast<T>(c.beta2),
            static_cast<T>(d * d * (1 - c.beta2)),
            static_cast<T>(beta3(c)),
            static_cast<T>(d / c.d0 * (c.safeguard_warmup ? d : size)),
            std::max(static_cast<T>(d * c.eps), std::numeric_limits<T>::min()),
            coupled_decay<T>(c, l2),
            static_cast<T>(c.decoupled ? 1 - size * c.weight_decay : 1.0),
            c.maximize,
            step == 1};
  }
  template <class T>
  static void add_sums(const ProdigyArgs<T>& args, double* sums, const T* param,
                       const std::array<T*, kMaxSlots>& slots, const T* grad, Index n) {
    T found[kStepSums];
    kernels<T>().prodigy_sums(
        {args.beta3, args.s_share, args.weight_decay, args.maximize}, found, param,
        slots[2], args.first ? nullptr : slots[3], grad, n);
    for (size_t i = 0; i < kStepSums; ++i) sums[i] += static_cast<double>(found[i]);
  }
  static UsedSlots used(const OptimizerConfig&) { return {{true, true, true, true}}; }
};

// `bound`: a further condition on the value, and whether it is met.
void check_range(const char* name, double value, const char* bound = "",
                 bool within = true) {
  if (std::isfinite(value) && value >= 0 && within) return;
  throw std::invalid_argument(std::string(name) + " must be finite and >= 0" + bound +
                              ", got " + detail::in_full(value));
}

// Throws std::invalid_argument if a hyperparameter is out of range.
void check_config(const OptimizerConfig& config) {
  using Field = double OptimizerConfig::*;
  for (const Hyperparameter& each : kHyperparameters) {
    const auto* const field = std::get_if<Field>(&each.field);
    if (!field) continue;
    const double value = config.*(*field);
    const auto is_one_of = [&](std::initializer_list<Field> fields) {
      return std::find(fields.begin(), fields.end(), *field) != fields.end();
    };
    if (is_one_of({&OptimizerConfig::dampening, &OptimizerConfig::ns_a,
                   &OptimizerConfig::ns_b, &OptimizerConfig::ns_c})) {
      if (std::isfinite(value)) continue;
      throw std::invalid_argument(std::string(each.name) + " must be finite, got " +
                                  detail::in_full(value));
    }
    if (is_one_of({&OptimizerConfig::alpha, &OptimizerConfig::rho})) {
      check_range(each.name, value, " and <= 1", value <= 1);
    } else if (is_one_of({&OptimizerConfig::beta1, &OptimizerConfig::beta2,
                          &OptimizerConfig::beta3, &OptimizerConfig::etaminus,
                          &OptimizerConfig::ema})) {
      check_range(each.name, value, " and < 1", value < 1);
    } else {
      check_range(each.name, value);
    }
  }
}

UsedSlots used_slots(const OptimizerConfig& c) {
  switch (c.kind) {
#define FASTMLP_CASE(name, Name) \
  case OptimizerKind::name:      \
    return Name::used(c);
    FASTMLP_OPTIMIZERS(FASTMLP_CASE)
#undef FASTMLP_CASE
  }
  return {};
}

template <class Kind, class T, bool kShares>
auto args_of(const OptimizerConfig& c, int64_t step, double l2,
             const SharedNumbers& shared) {
  if constexpr (kShares) {
    return Kind::template args<T>(c, step, l2, shared);
  } else {
    return Kind::template args<T>(c, step, l2);
  }
}

// Calls f with the struct of the kind if the kind has shared numbers; otherwise returns
// zeros.
template <class F>
SharedNumbers with_shared(OptimizerKind kind, F f) {
  switch (kind) {
#define FASTMLP_CASE(name, Name)                                       \
  case OptimizerKind::name:                                            \
    if constexpr (k##Name##Facts.shared_count() > 0) return f(Name()); \
    break;
    FASTMLP_OPTIMIZERS(FASTMLP_CASE)
#undef FASTMLP_CASE
  }
  return {};
}

template <class Kind, class T, class... Rest>
void add_sums_of(const OptimizerConfig& config, int64_t step, double l2,
                 const SharedNumbers& shared, Rest... rest) {
  Kind::add_sums(Kind::template args<T>(config, step, l2, shared), rest...);
}

// Adds to `sums` those over n parameters, before a step, that `advance` needs.
template <class T>
void add_sums(const OptimizerConfig& config, int64_t step, double* sums, const T* param,
              const std::array<T*, kMaxSlots>& slots, const T* grad, Index n, double l2,
              const SharedNumbers& shared) {
  switch (config.kind) {
#define FASTMLP_CASE(name, Name)                                                   \
  case OptimizerKind::name:                                                        \
    if constexpr (k##Name##Facts.sums) {                                           \
      add_sums_of<Name, T>(config, step, l2, shared, sums, param, slots, grad, n); \
    }                                                                              \
    break;
    FASTMLP_OPTIMIZERS(FASTMLP_CASE)
#undef FASTMLP_CASE
  }
}

SharedNumbers first_shared(const OptimizerConfig& config) {
  return with_shared(config.kind, [&](auto kind) { return kind.start(config); });
}

}  // namespace

template <class T>
void apply_optimizer(const OptimizerConfig& config, int64_t step, T* param,
                     const std::array<T*, kMaxSlots>& slots, const T* grad, Index n,
                     double l2, const SharedNumbers& shared) {
  const KernelTable<T>& table = kernels<T>();
  switch (config.kind) {
#define FASTMLP_CASE(name, Name)                                                    \
  case OptimizerKind::name:                                                         \
    return table.name##_step(args_of<Name, T, (k##Name##Facts.shared_count() > 0)>( \
                                 config, step, l2, shared),                         \
                             param, slots.data(), grad, n);
    FASTMLP_OPTIMIZERS(FASTMLP_CASE)
#undef FASTMLP_CASE
  }
}

std::array<const char*, kMaxSlots> slot_names(const OptimizerConfig& c) {
  std::array<const char*, kMaxSlots> names{};
  const UsedSlots slots = used_slots(c);
  for (size_t i = 0; i < kStateSlots; ++i) {
    if (slots.used[i]) names[i] = facts_of(c.kind).slots[i].name;
  }
  if (c.ema != 0) names[kAverageSlot] = "ema";
  if (c.accumulate > 1) names[kGradientSlot] = "accumulated";
  return names;
}

std::array<const char*, kMostShared + 1> shared_names(const OptimizerConfig& c) {
  std::array<const char*, kMostShared + 1> names{};
  const OptimizerFacts& facts = facts_of(c.kind);
  for (int i = 0; i < facts.shared_count(); ++i) {
    names[static_cast<size_t>(i)] = facts.shared[i];
  }
  if (c.accumulate > 1) names[kPending] = "pending";
  return names;
}

// A training step may run user code while it holds this lock, so the lock records which
// thread holds it.
struct OptimizerMutex::Impl {
  detail::ForkSafe<std::timed_mutex, detail::LockRank::optimizer> mutex{true};
};

OptimizerMutex::OptimizerMutex() : impl_(std::make_unique<Impl>()) {}
OptimizerMutex::~OptimizerMutex() = default;
void OptimizerMutex::lock() { impl_->mutex.lock(); }
bool OptimizerMutex::try_lock() { return impl_->mutex.try_lock(); }
void OptimizerMutex::unlock() { impl_->mutex.unlock(); }

namespace {

// The hyperparameters of a group.
OptimizerConfig with_own(OptimizerConfig config, const ParameterGroup& group) {
  const double lr = config.lr;
  for (const auto& set : group.own) set(config);
  if (group.lr_scale) config.lr = lr * *group.lr_scale;
  return config;
}

}  // namespace

Optimizer::Optimizer(const OptimizerConfig& config)
    : config_(config), shared_(first_shared(config)) {
  check_config(config);
}

void Optimizer::set_groups(std::vector<ParameterGroup> groups,
                           std::vector<GroupRange> ranges) {
  for (const GroupRange& range : ranges) {
    if (range.group < 0 || range.group >= static_cast<int>(groups.size()))
      throw std::invalid_argument("a range of parameters must belong to a group");
  }
  std::swap(groups_, groups);
  try {
    check_groups(config_);
  } catch (...) {
    std::swap(groups_, groups);
    throw;
  }
  ranges_ = std::move(ranges);
}

void Optimizer::check_groups(const OptimizerConfig& config) const {
  for (const ParameterGroup& group : groups_) {
    const OptimizerConfig own = with_own(config, group);
    check_config(own);
    if (group.lr_scale) check_range("lr_scale", *group.lr_scale);
    if (slot_names(own) != slot_names(config)) {
      throw std::invalid_argument(
          "a group must have the same state arrays as the optimizer");
    }
  }
}

int Optimizer::group_of(Index element) const {
  for (const GroupRange& range : ranges_) {
    if (element >= range.begin && element < range.end) return range.group;
  }
  return kNoGroup;
}

void Optimizer::begin_step(Index vectors) {
  check_range("lr", config_.lr);
  clips_by_norm_ = config_.clip_norm > 0;
  uses_muon_ = config_.use_muon;
  group_configs_.clear();
  for (const ParameterGroup& group : groups_) {
    group_configs_.push_back(with_own(config_, group));
    clips_by_norm_ = clips_by_norm_ || group_configs_.back().clip_norm > 0;
    uses_muon_ = uses_muon_ || group_configs_.back().use_muon;
  }
  bool fresh = true;
  for (const AnySlots& any : state_) {
    fresh = fresh && std::visit([](const auto& s) { return s.size == 0; }, any);
  }
  if (fresh) state_.resize(static_cast<size_t>(vectors));
  if (static_cast<Index>(state_.size()) != vectors) {
    throw std::invalid_argument(
        "the optimizer holds state for " + std::to_string(state_.size()) +
        " parameter arrays, but " + std::to_string(vectors) + " were passed");
  }
}

namespace {
std::string text_of(Index parameters, bool single) {
  return single
             ? detail::counted(parameters, "float32 parameter", "float32 parameters")
             : detail::counted(parameters, "float64 parameter", "float64 parameters");
}
}  // namespace

template <class T>
OptimizerSlots<T>& Optimizer::prepare(Index which, Index size) {
  AnySlots& any = state_[static_cast<size_t>(which)];
  auto* slots = std::get_if<OptimizerSlots<T>>(&any);
  const bool fresh = std::visit([](const auto& s) { return s.size == 0; }, any);
  if (fresh) {
    OptimizerSlots<T> made;
    made.size = size;
    const auto names = slot_names(config_);
    const UsedSlots used = used_slots(config_);
    for (size_t i = 0; i < kMaxSlots; ++i) {
      if (!names[i]) continue;
      const T initial = static_cast<T>(i < kStateSlots ? used.initial[i] : 0.0);
      made.slot[i] = AlignedBuffer<T>(size);
      for (Index j = 0; j < size; ++j) made.slot[i].data()[j] = initial;
    }
    any = std::move(made);
    slots = &std::get<OptimizerSlots<T>>(any);
  }
  if (!slots || slots->size != size) {
    const Index held = std::visit([](const auto& s) { return s.size; }, any);
    throw std::invalid_argument(
        "the optimizer holds state for an array of " +
        text_of(held, std::holds_alternative<OptimizerSlots<float>>(any)) +
        ", but got an array of " + text_of(size, sizeof(T) == sizeof(float)));
  }
  if (clips_by_norm()) slots->squares.reserve(square_chunks(size));
  if (facts_of(config_.kind).sums) {
    slots->sums.reserve(kStepSums * square_chunks(size));
    std::fill_n(slots->sums.data(), kStepSums * square_chunks(size), 0.0);
  }
  return *slots;
}

template <class T>
double squares_of_chunk(const T* x, Index size, Index chunk) {
  x += chunk * kSquaresChunk;
  const Index n = std::min(kSquaresChunk, size - chunk * kSquaresChunk);
  double sum = static_cast<double>(kernels<T>().sum_of_squares(x, n));
  if (!std::isfinite(sum)) {  // the squares of large floats overflow
    sum = 0.0;
    for (Index i = 0; i < n; ++i) {
      sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    }
  }
  return sum;
}

template <class T>
void Optimizer::sum_squares(const OptimizerSlots<T>& slots, const T* grad, Index first,
                            Index last) {
  for (Index chunk = first; chunk < last; ++chunk) {
    slots.squares.data()[chunk] = squares_of_chunk(grad, slots.size, chunk);
  }
}

double Optimizer::clip_scale() const {
  if (!clips_by_norm()) return 1.0;
  double sum = 0.0;
  for (const AnySlots& any : state_) {
    std::visit(
        [&](const auto& s) {
          for (Index i = 0; i < square_chunks(s.size); ++i) sum += s.squares.data()[i];
        },
        any);
  }
  return clip_scale(sum, kNoGroup);
}

double Optimizer::clip_scale(double sum_of_squares, int group) const {
  constexpr double kTiny = 1e-6;  // as in torch
  const double most = config_of(group).clip_norm;
  if (most == 0) return 1.0;
  const double scale = most / (std::sqrt(sum_of_squares) + kTiny);
  return scale >= 1.0 ? 1.0 : scale;  // NaN stays NaN
}

template <class T>
void Optimizer::apply(const OptimizerSlots<T>& slots, T* param, const T* grad,
                      Index begin, Index end, double clip_scale, bool decayed,
                      double l2, int group) const {
  const OptimizerConfig* config = &config_of(group);
  std::optional<OptimizerConfig> without;
  if (!decayed) {
    without = *config;
    without->l1 = without->weight_decay = 0;
    config = &*without;
  }
  const bool sums = facts_of(config->kind).sums;
  const auto update = [&](const T* from, Index at, Index n) {
    std::array<T*, kMaxSlots> part{};
    for (size_t i = 0; i < kMaxSlots; ++i) {
      if (slots.slot[i].data()) part[i] = slots.slot[i].data() + at;
    }
    const int64_t step = step_count() + 1;
    if (sums) {
      add_sums(*config, step, slots.sums.data() + kStepSums * (at / kSquaresChunk),
               param + at, part, from, n, l2, shared_);
    }
    apply_optimizer(*config, step, param + at, part, from, n, l2, shared_);
  };

  if (!sums && clip_scale == 1.0 && config->clip_value == 0 && config->l1 == 0) {
    update(grad + begin, begin, end - begin);
  } else {
    // The caller's gradients must not change, so they are processed in blocks, in a
    // buffer that stays in the cache. A block lies in one chunk of the sums.
    constexpr Index kBlock = kSquaresChunk;
    T block[kBlock];
    const double l1 = config->maximize ? -config->l1 : config->l1;
    const ConditionArgs<T> args = {static_cast<T>(clip_scale),
                                   config->clip_value > 0
                                       ? static_cast<T>(config->clip_value)
                                       : std::numeric_limits<T>::infinity(),
                                   static_cast<T>(l1)};
    for (Index at = begin, n = 0; at < end; at += n) {
      n = std::min(kBlock - at % kBlock, end - at);
      kernels<T>().condition_gradient(args, block, grad + at, param + at, n);
      update(block, at, n);
    }
  }

  average(slots, param, begin, end);
}

template <class T>
void Optimizer::collect(const OptimizerSlots<T>& slots, const T* grad, Index begin,
                        Index end) const {
  const KernelTable<T>& table = kernels<T>();
  T* const sum = slots.slot[kGradientSlot].data() + begin;
  const Index n = end - begin;
  if (shared_[kPending] == 0) {
    std::copy_n(grad + begin, n, sum);
  } else {
    table.add(sum, sum, grad + begin, n);
  }
  if (!completes()) return;
  const ConditionArgs<T> mean = {static_cast<T>(1 / config_.accumulate),
                                 std::numeric_limits<T>::infinity(), T(0)};
  table.condition_gradient(mean, sum, sum, sum, n);
}

template <class T>
void Optimizer::pass_by(const OptimizerSlots<T>& slots, const T* param, Index begin,
                        Index end) const {
  const int copies = facts_of(config_.kind).copies;
  T* const copy = copies < 0 ? nullptr : slots.slot[static_cast<size_t>(copies)].data();
  if (copy) std::copy(param + begin, param + end, copy + begin);
  average(slots, param, begin, end);
}

template <class T>
void Optimizer::average(const OptimizerSlots<T>& slots, const T* param, Index begin,
                        Index end) const {
  T* const average = slots.slot[kAverageSlot].data();
  if (!average) return;
  const double weight = step_count() == 0 ? 1.0 : 1 - config_.ema;
  kernels<T>().interpolate(average + begin, param + begin, static_cast<T>(weight),
                           end - begin);
}

void Optimizer::end_step() {
  if (!completes()) {
    ++shared_[kPending];
    return;
  }
  shared_[kPending] = 0;
  if (facts_of(config_.kind).shared_count() > 0) {
    const CoreFpEnvironment environment;
    StepSums sums = {};
    for (const AnySlots& any : state_) {
      std::visit(
          [&](const auto& s) {
            for (Index i = 0; i < s.sums.size(); ++i) {
              sums[static_cast<size_t>(i % kStepSums)] += s.sums.data()[i];
            }
          },
          any);
    }
    shared_ = with_shared(config_.kind, [&](auto kind) {
      return kind.advance(config_, step_count() + 1, shared_, sums);
    });
  }
  set_step_count(step_count() + 1);
}

void Optimizer::reset() {
  state_.clear();
  set_step_count(0);
  shared_ = first_shared(config_);
}

#define FASTMLP_INSTANTIATE(T)                                                         \
  template void apply_optimizer(const OptimizerConfig&, int64_t, T*,                   \
                                const std::array<T*, kMaxSlots>&, const T*, Index,     \
                                double, const SharedNumbers&);                         \
  template double squares_of_chunk(const T*, Index, Index);                            \
  template OptimizerSlots<T>& Optimizer::prepare<T>(Index, Index);                     \
  template void Optimizer::sum_squares(const OptimizerSlots<T>&, const T*, Index,      \
                                       Index);                                         \
  template void Optimizer::apply(const OptimizerSlots<T>&, T*, const T*, Index, Index, \
                                 double, bool, double, int) const;                     \
  template void Optimizer::collect(const OptimizerSlots<T>&, const T*, Index, Index)   \
      const;                                                                           \
  template void Optimizer::pass_by(const OptimizerSlots<T>&, const T*, Index, Index)   \
      const;                                                                           \
  template void Optimizer::average(const OptimizerSlots<T>&, const T*, Index, Index)   \
      const;
FASTMLP_INSTANTIATE(float)
FASTMLP_INSTANTIATE(double)
#undef FASTMLP_INSTANTIATE

}  // namespace fastmlp
