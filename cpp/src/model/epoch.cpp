#include <algorithm>
#include <cmath>
#include <mutex>
#include <stdexcept>
#include <string>

#include "fastmlp/fp_environment.h"
#include "fastmlp/random.h"
#include "model/impl.h"
#include "number_text.h"

namespace fastmlp {
namespace {

// Checks the options and returns the number of rows in the epoch.
Index checked_rows(const EpochOptions& options, Index data_rows) {
  if (options.batch_size < 1)
    throw std::invalid_argument("batch_size must be at least 1, got " +
                                std::to_string(options.batch_size));
  detail::check_l2(options.l2);
  if (options.order && options.shuffle)
    throw std::invalid_argument("`order` cannot be combined with `shuffle`");
  const Index rows = options.order ? options.n_order : data_rows;
  if (rows < 1)
    throw std::invalid_argument("an epoch must have at least one row, got " +
                                std::to_string(rows));
  if (options.first_row < 0 || options.first_row > rows) {
    throw std::invalid_argument("first_row must be from 0 to the number of rows, " +
                                std::to_string(rows) + ", got " +
                                std::to_string(options.first_row));
  }
  return rows;
}

// Fills `order` with the epoch's order of the rows: shuffled or as given in the
// options.
void set_order(std::vector<int64_t>& order, const EpochOptions& options, Index n_rows,
               Index data_rows) {
  if (options.shuffle) {
    order.resize(static_cast<size_t>(n_rows));
    shuffle(order.data(), n_rows, options.seed, options.epoch);
    return;
  }
  // Copied, so that a listener cannot change the order after the check.
  order.assign(options.order, options.order + n_rows);
  for (size_t i = 0; i < order.size(); ++i) {
    if (order[i] >= 0 && order[i] < data_rows) continue;
    throw std::invalid_argument(
        "order: entry " + std::to_string(i) + " must be a row of the data, from 0 to " +
        std::to_string(data_rows - 1) + ", got " + std::to_string(order[i]));
  }
}

// The weight of a batch's loss in the epoch's loss.
template <class T>
double weight_in_epoch(const Batch<T>& batch, const Loss& loss, const int64_t* order,
                       Index n_out) {
  if (loss.reduction == Reduction::sum) return 1.0;
  if (!rows_are_weighted(loss, batch.targets)) return static_cast<double>(batch.rows);
  double weight = 0.0;
  for (Index r = 0; r < batch.rows; ++r)
    weight += row_weight(loss, batch.targets, order ? order[r] : r, n_out);
  return weight;
}

}  // namespace

Index EpochOptions::steps_left(Index data_rows) const {
  return (checked_rows(*this, data_rows) - first_row + batch_size - 1) / batch_size;
}

template <class T>
double Mlp<T>::Impl::step(const detail::StepArgs<T>& args) {
  kept_rows = 0;  // the parameters are about to change
  last_rows = 0;
  Optimizer& optimizer = args.optimizer;
  PassArgs pass_args = this->pass_args(args.batch.x, args.batch.rows);
  pass_args.sparse = args.batch.sparse;
  pass_args.order = args.order;
  pass_args.loss = &args.loss;
  pass_args.targets = args.batch.targets;
  pass_args.helper = &training_helper;
  set_training(pass_args, args.draw);
  set_l2(pass_args, args.l2);
  set_update(pass_args, optimizer);
  LastGoodState<T>* const save_to = args.save_to;
  if (save_to) {
    save_to->params.reserve(net.n_params);
    save_to->buffers.reserve(net.n_buffers);
    pass_args.saved.params = save_to->params.data();
    for (size_t i = 0; i < kMaxSlots; ++i) {
      if (!pass_args.slots->slot[i].data()) continue;
      save_to->slots[i].reserve(net.n_params);
      pass_args.saved.slots[i] = save_to->slots[i].data();
    }
  }
  keep_before(watch && args.keeps_parameters);
  Pass pass(net, params.data(), training, pass_args);
  const double value = pass.run();
  if (!std::isfinite(value) || !pass.gradient_is_finite()) {
    net.clear_frozen(grads.data());
    const char* loss_is = std::isfinite(value) ? "finite"
                          : std::isnan(value)  ? "nan"
                                               : "infinite";
    throw Diverged("training diverged at step " + std::to_string(args.number + 1) +
                   ": the loss is " + loss_is + "; " + pass.diagnosis());
  }
  if (save_to) {
    if (net.n_buffers > 0)
      std::copy_n(buffers.data(), net.n_buffers, save_to->buffers.data());
    save_to->batches_tracked = state.batches_tracked;
    save_to->step_count = optimizer.step_count();
    save_to->shared = optimizer.shared();
    save_to->valid = true;
  }
  count_batch(pass);
  last_rows = pass.rows_at_the_end();
  last_values = &training;
  optimizer.end_step();
  return value;
}

template <class T>
void Mlp<T>::Impl::restore(const LastGoodState<T>& saved, Optimizer& optimizer) {
  std::copy_n(saved.params.data(), net.n_params, params.data());
  if (net.n_buffers > 0)
    std::copy_n(saved.buffers.data(), net.n_buffers, buffers.data());
  state.batches_tracked = saved.batches_tracked;
  OptimizerSlots<T>& slots = optimizer.prepare<T>(0, net.n_params);
  for (size_t i = 0; i < kMaxSlots; ++i) {
    if (slots.slot[i].data() && saved.slots[i].data()) {
      std::copy_n(saved.slots[i].data(), net.n_params, slots.slot[i].data());
    }
  }
  optimizer.set_step_count(saved.step_count);
  optimizer.set_shared(saved.shared);
}

template <class T>
double Mlp<T>::train_step(const Batch<T>& batch, const Loss& loss,
                          Optimizer& optimizer) {
  detail::check_batch(impl_->net, batch, loss);
  detail::check_training_rows(impl_->net, batch.rows);
  // Every thread locks the optimiser before the model: otherwise two threads could each
  // hold one of the two locks and wait for the other.
  const std::lock_guard optimizer_lock(optimizer.mutex());
  const std::unique_lock lock(impl_->mutex);
  const int64_t steps = optimizer.step_count();
  const Draw draw = {impl_->state.seed, kStepDraws,
                     static_cast<uint64_t>(optimizer.gradient_count())};
  return impl_->step({batch, loss, optimizer, draw, static_cast<Index>(steps)});
}

template <class T>
double Mlp<T>::fit_epoch(const Batch<T>& data, const Loss& loss, Optimizer& optimizer,
                         const EpochOptions& options, LastGoodState<T>& last_good) {
  detail::check_batch(impl_->net, data, loss);
  const Index n_rows = checked_rows(options, data.rows);
  const CoreFpEnvironment environment;
  Impl& impl = *impl_;
  const ExclusiveUse in_use(impl.in_epoch, "another fit of this model is under way");
  detail::check_training_rows(impl.net, std::min(options.batch_size, n_rows));
  if (const Index rest = n_rows % options.batch_size; rest > 0)
    detail::check_training_rows(impl.net, rest);
  const bool in_order = options.shuffle || options.order;
  if (in_order) {
    detail::again_after_signals(options.interruption, [&] {
      const std::unique_lock lock(impl.mutex);
      set_order(impl.order, options, n_rows, data.rows);
    });
  }
  EpochProgress own;
  EpochProgress& progress = options.progress ? *options.progress : own;
  const auto step_from = [&](Index first) {
    const std::lock_guard optimizer_lock(optimizer.mutex());
    const std::lock_guard lock(impl.mutex);
    const Index number = progress.steps;
    const Index index = (first - options.first_row) / options.batch_size;
    for (const EpochOptions::Scheduled& each : options.scheduled) {
      optimizer.mutable_config().*each.field = each.values[index];
    }
    if (options.rates) {
      detail::set_rates(impl.net, options.rates + index * impl.net.n_random);
    }
    const Index rows = std::min(options.batch_size, n_rows - first);
    const Index begin = in_order ? 0 : first;  // an order selects from all rows
    const Batch<T> batch = data.slice(begin, rows, n_in(), target_width(loss, n_out()));
    const Draw draw = {options.seed, options.epoch, static_cast<uint64_t>(number)};
    detail::StepArgs<T> args = {batch, loss, optimizer, draw, number};
    if (in_order) args.order = impl.order.data() + first;
    // If the epoch diverges, the model and the optimiser are restored to their state at
    // the beginning of the epoch, or at the row from which the epoch was resumed.
    const bool begins = number == 0 || (first > 0 && first == options.first_row);
    if (begins) args.save_to = &last_good;
    args.keeps_parameters = first + rows == n_rows;
    args.l2 = options.l2;
    double value;
    try {
      value = impl.step(args);
    } catch (const Diverged&) {
      if (last_good.valid) impl.restore(last_good, optimizer);
      throw;
    }
    const double weight = weight_in_epoch(batch, loss, args.order, n_out());
    progress.total += value * weight;
    progress.divisor += weight;
    ++progress.steps;
    return value;
  };
  for (Index first = options.first_row; first < n_rows; first += options.batch_size) {
    // No lock is held during the callbacks, which may run arbitrary code.
    options.interruption.check();
    const Index number = progress.steps;
    const double value = detail::again_after_signals(options.interruption,
                                                     [&] { return step_from(first); });
    options.listener.tell(number, value);
  }
  // Check the last update here: no later loss would show that this update went too far.
  const std::lock_guard optimizer_lock(optimizer.mutex());
  const std::unique_lock lock(impl.mutex);
  const Index n = impl.net.n_params;
  if (!kernels<T>().all_finite(impl.params.data(), n, 1, n)) {
    if (last_good.valid) impl.restore(last_good, optimizer);
    impl.net.clear_frozen(impl.grads.data());
    throw Diverged("training diverged at step " + std::to_string(progress.steps) +
                   ": the parameters are not finite after this step; learning rate " +
                   detail::in_short(optimizer.config().lr) + ", gradient norm " +
                   detail::in_short(detail::norm_of(impl.grads.data(), n)) +
                   ". Likely cause: the update went too far: lower the learning rate");
  }
  return progress.loss(loss.reduction);
}

#define FASTMLP_INSTANTIATE(T)                                                  \
  template double Mlp<T>::train_step(const Batch<T>&, const Loss&, Optimizer&); \
  template double Mlp<T>::fit_epoch(const Batch<T>&, const Loss&, Optimizer&,   \
                                    const EpochOptions&, LastGoodState<T>&);
FASTMLP_INSTANTIATE(float)
FASTMLP_INSTANTIATE(double)
#undef FASTMLP_INSTANTIATE

}  // namespace fastmlp
