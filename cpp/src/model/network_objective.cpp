#include "fastmlp/network_objective.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "fastmlp/gemm.h"
#include "solvers/ordered_sums.h"

namespace fastmlp {
namespace {

// Number of columns of the normal matrix that one product computes. Such a band of
// columns includes elements above the diagonal, which are not needed.
constexpr Index kBand = 128;
// Number of elements in a block of the Jacobian: few enough to stay in the outer
// caches.
constexpr Index kJacobianElements = 1 << 19;

// The second derivative along a step is estimated by a finite difference over this
// fraction of the step. A smaller fraction reduces the truncation error, a larger one
// the rounding error.
template <class T>
constexpr double kDifference = sizeof(T) == sizeof(float) ? 0.5 : 0.1;

// Runs one iteration of a solver, `advance(theta)`, on a network's parameters.
template <class T, class Advance>
SolverReport on_network(Mlp<T>& mlp, Advance advance) {
  const Index n = mlp.n_params();
  const std::vector<T> start(mlp.params(), mlp.params() + n);
  std::vector<T> theta = start;
  const SolverReport report = advance(theta.data());
  if (report.status == SolverStatus::not_finite) {
    const char* loss_is = std::isfinite(report.before)
                              ? "finite, but its gradient is not"
                          : std::isnan(report.before) ? "nan"
                                                      : "infinite";
    throw Diverged(std::string("the iteration cannot begin: the loss is ") + loss_is);
  }
  if (!mlp.replace_params(start.data(), theta.data())) {
    throw std::runtime_error(
        "the model's parameters were changed while the solver was running");
  }
  return report;
}

template <class T>
Objective<T> objective_of(Mlp<T>& mlp, const Batch<T>& batch, const Loss& loss,
                          const Interruption& interruption, double l2) {
  return [&, l2](T* grad, const T* theta) {
    interruption.check();
    return mlp.value_and_grad_at(grad, theta, batch, loss, l2);
  };
}

// Adds the second derivatives of the L2 penalty to the normal matrix h.
template <class T>
void add_penalty(double* h, const Mlp<T>& mlp, const Batch<T>& batch, double l2) {
  const double share = sum_of_weights<T>(batch.targets.weights, nullptr, batch.rows);
  if (l2 == 0.0 || share == 0.0) return;
  for (const OpInfo& op : mlp.ops()) {
    if (op.kind != LayerKind::dense) continue;
    // The sum of the squares of a weight with weight normalisation is that of its
    // magnitudes; with spectral normalisation it has no such simple derivatives.
    if (op.parametrization == Parametrization::spectral_norm) continue;
    const bool has_magnitude = op.magnitude >= 0;
    const Index begin = has_magnitude ? op.magnitude : op.weight;
    const Index size = has_magnitude ? op.n_out : op.weight_size;
    for (Index i = begin; i < begin + size; ++i) {
      h[i * mlp.n_params() + i] += l2 / share;
    }
  }
}

}  // namespace

void add_normal_matrix(double* h, const double* jacobian, Index rows, Index n) {
  for (Index j = 0; j < n; j += kBand) {
    const Index band = std::min(kBand, n - j);
    gemm_tn<double>({h + j * n + j, n - j, band, n}, {jacobian + j, rows, n - j, n},
                    {jacobian + j, rows, band, n}, true);
  }
}

template <class T>
SolverReport iterate(Lbfgs<T>& solver, Mlp<T>& mlp, const Batch<T>& batch,
                     const Loss& loss, const Interruption& interruption, double l2) {
  const Objective<T> objective = objective_of(mlp, batch, loss, interruption, l2);
  return on_network(
      mlp, [&](T* theta) { return solver.iterate(theta, mlp.n_params(), objective); });
}

template <class T>
SolverReport iterate(LevenbergMarquardt<T>& solver, Mlp<T>& mlp, const Batch<T>& batch,
                     const Loss& loss, const Interruption& interruption, double l2) {
  if (loss.kind != LossKind::mse || loss.action)
    throw std::invalid_argument(
        "loss must be the squared error for Levenberg-Marquardt");
  if (batch.sparse)
    throw std::invalid_argument("x must be dense for Levenberg-Marquardt");
  const Index n = mlp.n_params(), n_out = mlp.n_out();
  LeastSquares<T> problem;
  problem.objective = objective_of(mlp, batch, loss, interruption, l2);
  // The weight of a residual: that of its row times that of its target.
  const auto weight_of = [&batch, &loss, n_out](Index i) {
    const T* const weights = batch.targets.weights;
    const double w = weights ? static_cast<double>(weights[i / n_out]) : 1.0;
    return w * target_weight(loss, batch.targets, i / n_out, i % n_out, n_out);
  };
  // The loss is sum(w r^2) / c, so H = (2 / c) sum(w J^T J).
  problem.gauss_newton = [&](double* h, const T*) {
    const double c = loss_normalizer(loss, batch.targets, nullptr, batch.rows, n_out);
    const double unit = c == 0.0 ? 0.0 : 2.0 / c;
    const Index block =
        std::min(batch.rows, std::max<Index>(1, kJacobianElements / (n * n_out)));
    const AlignedBuffer<T> own(block * n_out * n);
    const AlignedBuffer<double> scaled(block * n_out * n);
    std::fill_n(h, n * n, 0.0);
    for (Index first = 0; first < batch.rows; first += block) {
      interruption.check();
      const Index rows = std::min(block, batch.rows - first);
      mlp.param_jacobian(own.data(), batch.x + first * mlp.n_in(), rows);
      for (Index i = 0; i < rows * n_out; ++i) {
        const double scale = std::sqrt(weight_of(first * n_out + i) * unit);
        for (Index k = i * n; k < (i + 1) * n; ++k) {
          scaled.data()[k] = scale * static_cast<double>(own.data()[k]);
        }
      }
      add_normal_matrix(h, scaled.data(), rows * n_out, n);
    }
    add_penalty(h, mlp, batch, l2);
  };
  // The penalty's residuals are linear in theta: they have no second derivative.
  problem.residual_curvature = [&](double* out, const T* theta, const double* d) {
    const Index values = batch.rows * n_out;
    const AlignedBuffer<T> memory(2 * n + 3 * values + batch.rows * mlp.n_in());
    T* const shifted = memory.data();
    T* const grads = shifted + n;
    T* const ahead = grads + n;
    T* const behind = ahead + values;
    T* const here = behind + values;
    T* const dx = here + values;
    const auto outputs = [&](T* y, double shift) {
      interruption.check();
      for (Index i = 0; i < n; ++i) {
        shifted[i] = static_cast<T>(static_cast<double>(theta[i]) + shift * d[i]);
      }
      mlp.forward_at(y, shifted, batch.x, batch.rows);
    };
    constexpr double kShift = kDifference<T>;
    outputs(ahead, kShift);
    outputs(behind, -kShift);
    outputs(here, 0.0);
    const double c = loss_normalizer(loss, batch.targets, nullptr, batch.rows, n_out);
    const double unit = c == 0.0 ? 0.0 : 2.0 / (c * kShift * kShift);
    for (Index i = 0; i < values; ++i) {
      const double w = weight_of(i);
      const double middle = static_cast<double>(here[i]);
      const double second = (static_cast<double>(ahead[i]) - middle) +
                            (static_cast<double>(behind[i]) - middle);
      ahead[i] = static_cast<T>(w * unit * second);
    }
    mlp.vjp_at(here, dx, grads, theta, batch.x, ahead, batch.rows);
    for (Index i = 0; i < n; ++i) out[i] = static_cast<double>(grads[i]);
  };
  return on_network(mlp, [&](T* theta) { return solver.iterate(theta, n, problem); });
}

template <class T>
LeastSquares<T> least_squares(Index n, Residuals<T> residuals) {
  struct Last {
    std::vector<double> r, jacobian, grad;
    std::vector<T> theta;
  };
  const auto last = std::make_shared<Last>();
  const auto evaluate = [=](const T* theta) {
    last->theta.clear();
    residuals(last->r, last->jacobian, theta);
    last->theta.assign(theta, theta + n);
  };
  LeastSquares<T> problem;
  problem.objective = [=](T* grad, const T* theta) {
    evaluate(theta);
    const Index rows = static_cast<Index>(last->r.size());
    last->grad.resize(static_cast<size_t>(n));
    gemm_tn<double>({last->grad.data(), n, 1, 1}, {last->jacobian.data(), rows, n, n},
                    {last->r.data(), rows, 1, 1}, false);
    for (Index i = 0; i < n; ++i) {
      grad[i] = static_cast<T>(last->grad[static_cast<size_t>(i)]);
    }
    return ordered_dot(last->r.data(), last->r.data(), rows) / 2;
  };
  problem.gauss_newton = [=](double* h, const T* theta) {
    // The last evaluation may have been at a rejected step.
    if (!std::equal(last->theta.begin(), last->theta.end(), theta, theta + n)) {
      evaluate(theta);
    }
    std::fill_n(h, n * n, 0.0);
    add_normal_matrix(h, last->jacobian.data(), static_cast<Index>(last->r.size()), n);
  };
  // A forward difference is enough, because J is known:
  //   r'' = 2 ((r(theta + s d) - r) / s - J d) / s.
  problem.residual_curvature = [=](double* out, const T* theta, const double* d) {
    constexpr double kShift = kDifference<double>;
    if (!std::equal(last->theta.begin(), last->theta.end(), theta, theta + n)) {
      evaluate(theta);
    }
    const std::vector<T> here = last->theta;
    const std::vector<double> r = last->r, jacobian = last->jacobian;
    std::vector<T> shifted(here);
    for (size_t i = 0; i < shifted.size(); ++i) {
      shifted[i] = static_cast<T>(static_cast<double>(here[i]) + kShift * d[i]);
    }
    last->theta.clear();
    residuals(last->r, last->jacobian, shifted.data());
    if (last->r.size() != r.size()) {
      throw std::invalid_argument(
          "the number of residuals must not change between calls");
    }
    const Index rows = static_cast<Index>(r.size());
    std::vector<double> along(r.size());
    gemm_nn<double>({along.data(), rows, 1, 1}, {jacobian.data(), rows, n, n},
                    {d, n, 1, 1}, nullptr, false);
    for (size_t i = 0; i < r.size(); ++i) {
      along[i] = 2 * ((last->r[i] - r[i]) / kShift - along[i]) / kShift;
    }
    gemm_tn<double>({out, n, 1, 1}, {jacobian.data(), rows, n, n},
                    {along.data(), rows, 1, 1}, false);
    last->r = r;
    last->jacobian = jacobian;
    last->theta = here;
  };
  return problem;
}

#define FASTMLP_INSTANTIATE(T)                                                    \
  template LeastSquares<T> least_squares(Index, Residuals<T>);                    \
  template SolverReport iterate(Lbfgs<T>&, Mlp<T>&, const Batch<T>&, const Loss&, \
                                const Interruption&, double);                     \
  template SolverReport iterate(LevenbergMarquardt<T>&, Mlp<T>&, const Batch<T>&, \
                                const Loss&, const Interruption&, double);
FASTMLP_INSTANTIATE(float)
FASTMLP_INSTANTIATE(double)
#undef FASTMLP_INSTANTIATE

}  // namespace fastmlp
