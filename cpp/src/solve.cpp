#include "fastmlp/solve.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "fastmlp/gemm.h"
#include "vectors.h"

namespace fastmlp {
namespace {

// Columns of the normal matrix made by one product: above the diagonal that of a band
// is all that is made in vain.
constexpr Index kBand = 128;
// Elements of a block of the Jacobian: stays in the outer caches.
constexpr Index kJacobianElements = 1 << 19;

// A network's iteration by any of the solvers: `advance(theta)` is that of the solver.
template <class T, class Advance>
SolverReport on_network(Mlp<T>& mlp, Advance advance) {
  const Index n = mlp.n_params();
  const std::vector<T> start(mlp.params(), mlp.params() + n);
  std::vector<T> theta = start;
  const SolverReport report = advance(theta.data());
  if (report.status == SolverStatus::not_finite) {
    const char* loss_is = std::isfinite(report.before) ? "finite, its gradient is not"
                          : std::isnan(report.before)  ? "nan"
                                                       : "infinite";
    throw Diverged(std::string("the iteration cannot begin: the loss is ") + loss_is);
  }
  if (!mlp.replace_params(start.data(), theta.data())) {
    throw std::runtime_error(
        "the model's parameters were changed while the solver was at work");
  }
  return report;
}

template <class T>
Objective<T> objective_of(Mlp<T>& mlp, const Batch<T>& batch, const Loss& loss,
                          const Interruption& interruption) {
  return [&](T* grad, const T* theta) {
    interruption.check();
    return mlp.value_and_grad_at(grad, theta, batch, loss);
  };
}

// The outputs' derivatives with respect to the parameters, (rows * n_out, n_params).
template <class T>
void output_jacobian(Mlp<T>& mlp, T* jacobian, const T* x, Index rows) {
  const Index n_out = mlp.n_out();
  std::vector<T> y(static_cast<size_t>(n_out)), dx(static_cast<size_t>(mlp.n_in()));
  for (Index r = 0; r < rows; ++r) {
    for (Index o = 0; o < n_out; ++o) {
      std::vector<T> seed(static_cast<size_t>(n_out), T(0));
      seed[static_cast<size_t>(o)] = T(1);
      mlp.vjp(y.data(), dx.data(), jacobian, x + r * mlp.n_in(), seed.data(), 1);
      jacobian += mlp.n_params();
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
                     const Loss& loss, const Interruption& interruption) {
  const Objective<T> objective = objective_of(mlp, batch, loss, interruption);
  return on_network(
      mlp, [&](T* theta) { return solver.iterate(theta, mlp.n_params(), objective); });
}

template <class T>
SolverReport iterate(LevenbergMarquardt<T>& solver, Mlp<T>& mlp, const Batch<T>& batch,
                     const Loss& loss, const Interruption& interruption) {
  if (loss.kind != LossKind::mse)
    throw std::invalid_argument("loss: Levenberg-Marquardt is for the squared error");
  const Index n = mlp.n_params(), n_out = mlp.n_out();
  LeastSquares<T> problem;
  problem.objective = objective_of(mlp, batch, loss, interruption);
  // The loss is sum(w r^2) / c, so H = sum(2 w / c J^T J).
  problem.gauss_newton = [&](double* h, const T*) {
    const T* const weights = batch.targets.weights;
    const double c = loss_normalizer(loss, weights, batch.rows, n_out);
    const double unit = c == 0.0 ? 0.0 : 2.0 / c;
    const Index block =
        std::min(batch.rows, std::max<Index>(1, kJacobianElements / (n * n_out)));
    const AlignedBuffer<T> own(block * n_out * n);
    const AlignedBuffer<double> scaled(block * n_out * n);
    std::fill_n(h, n * n, 0.0);
    for (Index first = 0; first < batch.rows; first += block) {
      interruption.check();
      const Index rows = std::min(block, batch.rows - first);
      output_jacobian(mlp, own.data(), batch.x + first * mlp.n_in(), rows);
      for (Index r = 0; r < rows; ++r) {
        const double w = weights ? static_cast<double>(weights[first + r]) : 1.0;
        const double scale = std::sqrt(w * unit);
        const Index at = r * n_out * n;
        for (Index i = at; i < at + n_out * n; ++i) {
          scaled.data()[i] = scale * static_cast<double>(own.data()[i]);
        }
      }
      add_normal_matrix(h, scaled.data(), rows * n_out, n);
    }
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
    // The last evaluation may have been of a step that was not taken.
    if (!std::equal(last->theta.begin(), last->theta.end(), theta, theta + n)) {
      evaluate(theta);
    }
    std::fill_n(h, n * n, 0.0);
    add_normal_matrix(h, last->jacobian.data(), static_cast<Index>(last->r.size()), n);
  };
  return problem;
}

#define FASTMLP_INSTANTIATE(T)                                                    \
  template LeastSquares<T> least_squares(Index, Residuals<T>);                    \
  template SolverReport iterate(Lbfgs<T>&, Mlp<T>&, const Batch<T>&, const Loss&, \
                                const Interruption&);                             \
  template SolverReport iterate(LevenbergMarquardt<T>&, Mlp<T>&, const Batch<T>&, \
                                const Loss&, const Interruption&);
FASTMLP_INSTANTIATE(float)
FASTMLP_INSTANTIATE(double)
#undef FASTMLP_INSTANTIATE

}  // namespace fastmlp
