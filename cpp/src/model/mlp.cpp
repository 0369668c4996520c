#include "fastmlp/mlp.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <shared_mutex>
#include <string>

#include "fastmlp/fp_environment.h"
#include "model/impl.h"
#include "network/derivatives/derivatives.h"

namespace fastmlp {

template <class T>
Mlp<T>::Mlp(Index n_in, std::vector<LayerSpec> layers, std::optional<uint64_t> seed,
            Operands operands)
    : impl_(std::make_unique<Impl>(n_in, layers, operands)) {
  if (seed) initialize(*seed);
}
template <class T>
Mlp<T>::~Mlp() = default;
template <class T>
Mlp<T>::Mlp(Mlp&&) noexcept = default;
template <class T>
Mlp<T>& Mlp<T>::operator=(Mlp&&) noexcept = default;

template <class T>
Index Mlp<T>::n_in() const {
  return impl_->net.n_in;
}
template <class T>
Index Mlp<T>::n_out() const {
  return impl_->net.n_out;
}
template <class T>
Index Mlp<T>::n_params() const {
  return impl_->net.n_params;
}
template <class T>
std::vector<OpInfo> Mlp<T>::ops() const {
  static_assert(OpInfo::kNetworkInput == detail::kInput);
  static_assert(OpInfo::kNone == detail::kNone);
  std::vector<OpInfo> infos;
  for (const detail::OpPlan& op : impl_->net.ops) {
    infos.push_back({op.name,
                     op.kind,
                     op.n_in,
                     op.n_out,
                     op.input,
                     op.other,
                     op.activation,
                     op.custom != nullptr,
                     op.weight_size,
                     op.weight,
                     op.bias,
                     op.parametrization,
                     op.magnitude,
                     op.statistics,
                     {op.weight_frozen, op.bias_frozen, op.magnitude_frozen}});
  }
  return infos;
}
template <class T>
void Mlp<T>::set_frozen(const std::vector<Frozen>& of_ops) {
  const std::unique_lock lock(impl_->mutex);
  std::vector<detail::OpPlan>& ops = impl_->net.ops;
  if (of_ops.size() != ops.size())
    throw std::invalid_argument("set_frozen needs an entry for each op");
  for (size_t i = 0; i < ops.size(); ++i) {
    if ((of_ops[i].weight && ops[i].weight < 0) ||
        (of_ops[i].bias && ops[i].bias < 0) ||
        (of_ops[i].magnitude && ops[i].magnitude < 0)) {
      throw std::invalid_argument(ops[i].name + " does not have what is to be frozen");
    }
  }
  for (size_t i = 0; i < ops.size(); ++i) {
    ops[i].weight_frozen = of_ops[i].weight;
    ops[i].bias_frozen = of_ops[i].bias;
    ops[i].magnitude_frozen = of_ops[i].magnitude;
  }
  impl_->net.plan_learning();
}
template <class T>
Index Mlp<T>::n_random() const {
  return impl_->net.n_random;
}
template <class T>
void Mlp<T>::set_rates(const std::vector<double>& rates) {
  const std::unique_lock lock(impl_->mutex);
  if (rates.size() != impl_->net.n_random)
    throw std::invalid_argument("set_rates needs a number for each random layer");
  detail::set_rates(impl_->net, rates.data());
}
template <class T>
Operands Mlp<T>::operands() const {
  return impl_->net.operands;
}
template <class T>
Index Mlp<T>::n_buffers() const {
  return impl_->net.n_buffers;
}
template <class T>
T* Mlp<T>::buffers() {
  return impl_->buffers.data();
}
template <class T>
TrainingState Mlp<T>::training_state() const {
  return impl_->state;
}
template <class T>
void Mlp<T>::set_training_state(const TrainingState& state) {
  const std::unique_lock lock(impl_->mutex);
  impl_->state = state;
}
template <class T>
T* Mlp<T>::params() {
  return impl_->params.data();
}
template <class T>
const T* Mlp<T>::params() const {
  return impl_->params.data();
}
template <class T>
void Mlp<T>::initialize(uint64_t seed) {
  const std::unique_lock lock(impl_->mutex);
  const CoreFpEnvironment environment;
  std::fill_n(params(), n_params(), T(0));
  for (size_t l = 0; l < impl_->net.ops.size(); ++l) {
    const detail::OpPlan& op = impl_->net.ops[l];
    detail::visit(op.kind, [&](auto kind) { kind.initialize(op, l, params(), seed); });
  }
  impl_->start_parametrizations();
}
template <class T>
void Mlp<T>::start_parametrizations() {
  const std::unique_lock lock(impl_->mutex);
  impl_->start_parametrizations();
}
template <class T>
void Mlp<T>::effective_params(T* out) const {
  const std::shared_lock lock(impl_->mutex);
  impl_->with_effective_params(false, [&](const detail::EffectiveParams<T>& effective) {
    std::copy_n(effective.data(), n_params(), out);
  });
}

template <class T>
void Mlp<T>::interpolate(const Mlp& other, double weight) {
  if (&other == this) return;
  const Index n = n_params(), extra = impl_->net.n_buffers;
  if (other.n_params() != n || other.impl_->net.n_buffers != extra) {
    const auto sizes = [](Index parameters, Index statistics) {
      return detail::counted(parameters, "parameter", "parameters") + " and " +
             detail::counted(statistics, "running statistic", "running statistics");
    };
    throw std::invalid_argument("other must have " + sizes(n, extra) + ", got " +
                                sizes(other.n_params(), other.impl_->net.n_buffers));
  }
  // Copy the other model's values first: a thread that holds one model's lock must not
  // wait for another model's lock.
  AlignedBuffer<T> goal(n + extra);
  {
    const std::shared_lock lock(other.impl_->mutex);
    std::copy_n(other.params(), n, goal.data());
    if (extra > 0) std::copy_n(other.impl_->buffers.data(), extra, goal.data() + n);
  }
  const std::unique_lock lock(impl_->mutex);
  const CoreFpEnvironment environment;
  impl_->kept_rows = 0;  // the parameters change
  const T w = static_cast<T>(weight);
  kernels<T>().interpolate(params(), goal.data(), w, n);
  if (extra > 0) {
    kernels<T>().interpolate(impl_->buffers.data(), goal.data() + n, w, extra);
  }
}

template <class T>
void Mlp<T>::predict(T* y, const T* x, Index rows) const {
  detail::check_inputs(impl_->net, x, rows);
  const std::shared_lock lock(impl_->mutex);
  detail::InferenceArgs<T> args = {x, rows};
  args.y = y;
  impl_->infer(args);
}

template <class T>
bool Mlp<T>::takes_sparse() const {
  return impl_->net.takes_sparse();
}

template <class T>
void Mlp<T>::predict(T* y, const SparseRows<T>& x, Index rows) const {
  detail::check_rows(rows);
  detail::check_sparse(impl_->net, x);
  const std::shared_lock lock(impl_->mutex);
  detail::InferenceArgs<T> args = {nullptr, rows};
  args.sparse = x;
  args.y = y;
  impl_->infer(args);
}

template <class T>
double Mlp<T>::evaluate(const Batch<T>& batch, const Loss& loss,
                        const Interruption& interruption) const {
  // Number of rows in a block: so many that the cost of packing the weights anew for
  // each block is negligible.
  constexpr Index kBlock = 16384;
  detail::check_batch(impl_->net, batch, loss);
  const AlignedBuffer<T> row_loss(batch.rows);
  for (Index first = 0; first < batch.rows; first += kBlock) {
    // No lock is held during the callback, which may run arbitrary code.
    interruption.check();
    const Batch<T> block = batch.slice(first, std::min(kBlock, batch.rows - first),
                                       n_in(), target_width(loss, n_out()));
    detail::InferenceArgs<T> args = {block.x, block.rows};
    args.sparse = block.sparse;
    args.loss = &loss;
    args.targets = &block.targets;
    args.row_loss = row_loss.data() + first;
    detail::again_after_signals(interruption, [&] {
      const std::shared_lock lock(impl_->mutex);
      impl_->infer(args);
    });
  }
  const CoreFpEnvironment environment;
  const T* weights = batch.targets.weights;
  const double normalizer =
      loss_normalizer(loss, batch.targets, nullptr, batch.rows, n_out());
  const double sum = weighted_sum<T>(row_loss.data(), weights, nullptr, batch.rows);
  return normalizer == 0.0 ? 0.0 : sum / normalizer;
}

template <class T>
void Mlp<T>::jacobian(T* j, const T* x, Index rows) const {
  impl_->derive(x, rows, [&](const auto& view, auto& memory) {
    detail::jacobian(view, j, x, rows, memory);
  });
}

template <class T>
void Mlp<T>::jvp(T* y, T* dy, const T* x, const T* v, Index rows) const {
  impl_->derive(x, rows, [&](const auto& view, auto& memory) {
    detail::jvp(view, y, dy, x, v, rows, memory);
  });
}

template <class T>
void Mlp<T>::param_jacobian(T* j, const T* x, Index rows) const {
  impl_->derive(x, rows, [&](const auto& view, auto& memory) {
    detail::param_jacobian<T>(view, j, nullptr, x, rows, memory);
  });
}

template <class T>
void Mlp<T>::per_sample_grads(T* grads, const Batch<T>& batch, const Loss& loss) const {
  detail::require_dense(batch);
  impl_->derive(batch.x, batch.rows, [&](const auto& view, auto& memory) {
    detail::per_sample_grads(view, grads, batch.x, batch.targets, loss, batch.rows,
                             memory);
  });
}

template <class T>
void Mlp<T>::hessian(T* h, const T* x, const T* weights, Index rows) const {
  impl_->derive(x, rows, [&](const auto& view, auto& memory) {
    detail::hessian(view, h, x, weights, rows, memory);
  });
}

template <class T>
void Mlp<T>::hvp(T* hv, const T* x, const T* v, const T* weights, Index rows) const {
  impl_->derive(x, rows, [&](const auto& view, auto& memory) {
    detail::hvp(view, hv, x, v, weights, rows, memory);
  });
}

template <class T>
void Mlp<T>::forward(T* y, const T* x, Index rows, bool training, const Draw* draw) {
  const std::unique_lock lock(impl_->mutex);
  Impl& impl = *impl_;
  detail::check_inputs(impl.net, x, rows);
  if (training) detail::check_training_rows(impl.net, rows);
  impl.kept_rows = 0;
  if (impl.last_values == &impl.kept) impl.last_rows = 0;
  auto args = impl.pass_args(x, rows);
  args.backward = false;
  args.y = y;
  if (training && draw) {
    impl.set_training(args, *draw);
  } else if (training) {
    impl.set_training(args);
  }
  typename Impl::Pass pass(impl.net, params(), impl.kept, args);
  pass.run();
  if (training) impl.count_pass(pass);
  std::copy_n(x, rows * n_in(), impl.kept.x);
  impl.kept_training = training;
  impl.kept_rows = rows;
}

template <class T>
void Mlp<T>::backward(T* dx, T* grads, const T* dy, Index rows) {
  const std::unique_lock lock(impl_->mutex);
  auto args = impl_->backward_args(dy, rows);
  args.dx = dx;
  args.grads = grads;
  typename Impl::Pass(impl_->net, params(), impl_->kept, args).run();
}

template <class T>
void Mlp<T>::backward_step(const T* dy, Index rows, Optimizer& optimizer) {
  const std::lock_guard optimizer_lock(optimizer.mutex());
  const std::unique_lock lock(impl_->mutex);
  Impl& impl = *impl_;
  auto args = impl.backward_args(dy, rows);
  impl.last_rows = 0;  // its gradient is about to be lost
  impl.set_update(args, optimizer);
  impl.keep_before(impl.watch);
  typename Impl::Pass pass(impl.net, params(), impl.kept, args);
  pass.run();
  if (!pass.gradient_is_finite()) {
    impl.net.clear_frozen(impl.grads.data());
    throw Diverged("training diverged at step " +
                   std::to_string(optimizer.step_count() + 1) + ": " +
                   pass.diagnosis());
  }
  impl.kept_rows = 0;  // the parameters have changed
  impl.last_rows = rows;
  impl.last_values = &impl.kept;
  optimizer.end_step();
}

template <class T>
void Mlp<T>::update(const T* grads, Optimizer& optimizer) {
  const std::lock_guard optimizer_lock(optimizer.mutex());
  const std::unique_lock lock(impl_->mutex);
  Impl& impl = *impl_;
  const Index n = n_params();
  if (!kernels<T>().all_finite(grads, n, 1, n)) {
    throw Diverged("grads must be finite: the step " +
                   std::to_string(optimizer.step_count() + 1) + " was not taken");
  }
  typename Impl::PassArgs args = {};
  impl.set_update(args, optimizer);
  // The approximate number of operations for one parameter in an Adam update.
  constexpr double kFlopsPerParameter = 15;
  double flops = kFlopsPerParameter * static_cast<double>(n);
  if (args.matrices) flops += detail::matrix_update_flops(impl.net, optimizer);
  const TeamPlan plan = plan_team(flops, n / kCacheLine<T>);
  if (args.matrices) args.matrices->prepare(impl.net, plan.most);
  run_team(plan, [&](const Team& team) {
    if (!team.commit()) return;
    detail::update_parameters(team, impl.net, args, grads, 0.0);
  });
  impl.kept_rows = 0;  // the parameters have changed
  optimizer.end_step();
}

template <class T>
Index Mlp<T>::forward_rows() const {
  return impl_->kept_rows;
}

template <class T>
void Mlp<T>::vjp(T* y, T* dx, T* grads, const T* x, const T* dy, Index rows,
                 bool training) {
  detail::check_inputs(impl_->net, x, rows);
  if (training) detail::check_training_rows(impl_->net, rows);
  const std::unique_lock lock(impl_->mutex);
  auto args = impl_->vjp_args(y, dx, grads, x, dy, rows);
  impl_->run_pass(args, params(), training);
}

template <class T>
double Mlp<T>::value_and_grad(T* grads, const Batch<T>& batch, const Loss& loss,
                              bool training, double l2) {
  detail::check_batch(impl_->net, batch, loss);
  detail::check_l2(l2);
  if (training) detail::check_training_rows(impl_->net, batch.rows);
  const std::unique_lock lock(impl_->mutex);
  auto args = impl_->loss_args(grads, batch, loss);
  impl_->set_l2(args, l2);
  return impl_->run_pass(args, params(), training);
}

template <class T>
void Mlp<T>::forward_at(T* y, const T* theta, const T* x, Index rows) {
  detail::check_inputs(impl_->net, x, rows);
  const std::unique_lock lock(impl_->mutex);
  auto args = impl_->pass_args(x, rows);
  args.backward = false;
  args.y = y;
  impl_->run_pass_at(args, theta);
}

template <class T>
void Mlp<T>::vjp_at(T* y, T* dx, T* grads, const T* theta, const T* x, const T* dy,
                    Index rows) {
  detail::check_inputs(impl_->net, x, rows);
  const std::unique_lock lock(impl_->mutex);
  auto args = impl_->vjp_args(y, dx, grads, x, dy, rows);
  impl_->run_pass_at(args, theta);
}

template <class T>
double Mlp<T>::value_and_grad_at(T* grads, const T* theta, const Batch<T>& batch,
                                 const Loss& loss, double l2) {
  detail::check_batch(impl_->net, batch, loss);
  detail::check_l2(l2);
  const std::unique_lock lock(impl_->mutex);
  auto args = impl_->loss_args(grads, batch, loss);
  impl_->set_l2(args, l2);
  return impl_->run_pass_at(args, theta);
}

template <class T>
bool Mlp<T>::replace_params(const T* expected, const T* wanted) {
  const std::unique_lock lock(impl_->mutex);
  const size_t bytes = sizeof(T) * static_cast<size_t>(n_params());
  if (std::memcmp(params(), expected, bytes) != 0) return false;
  if (std::memcmp(expected, wanted, bytes) == 0) return true;
  impl_->kept_rows = 0;
  std::memcpy(params(), wanted, bytes);
  return true;
}

template <class T>
void Mlp<T>::set_watch(bool on) {
  impl_->watch = on;
}
template <class T>
bool Mlp<T>::watch() const {
  return impl_->watch;
}
template <class T>
LastStep<T> Mlp<T>::last_step() const {
  const std::shared_lock lock(impl_->mutex);
  const Impl& impl = *impl_;
  LastStep<T> last;
  if (impl.last_rows == 0) return last;
  const auto copy = [](const T* from, Index n) {
    return std::vector<T>(from, from + n);
  };
  last.rows = impl.last_rows;
  last.grads = copy(impl.grads.data(), impl.net.n_params);
  impl.net.clear_frozen(last.grads.data());
  if (impl.has_before) last.before = copy(impl.before.data(), impl.net.n_params);
  for (size_t l = 0; l < impl.net.ops.size(); ++l) {
    const Index values = last.rows * impl.net.ops[l].n_out;
    last.outputs.push_back(copy(impl.last_values->ops[l].h, values));
  }
  return last;
}

template class Mlp<float>;
template class Mlp<double>;

}  // namespace fastmlp
