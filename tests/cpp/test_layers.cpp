// The state that a model with layers of all kinds keeps between calls, and the calls
// that it rejects.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"
#include "fastmlp/mlp.h"

namespace {

using namespace fastmlp;

constexpr Index kRows = 4;
const double kX[2 * kRows] = {1, 2, 3, 4, 5, 6, 7, 9};
const double kTargets[kRows] = {0, 1, 0, 1};
const double kOnes[kRows] = {1, 1, 1, 1};

Batch<double> batch() {
  Batch<double> b = {kX, {}, kRows};
  b.targets.values = kTargets;
  return b;
}

// backward uses the statistics of the last forward, even if running ones have changed.
void test_backward_after_statistics_moved() {
  Mlp<double> mlp(2, {{3, Activation::tanh}, LayerSpec::batch_norm(), LayerSpec(1)});
  mlp.initialize(1);
  const size_t size = static_cast<size_t>(mlp.n_params());
  std::vector<double> grads(size), again(size), other(size);
  double y[kRows], dx[2 * kRows], dx_again[2 * kRows];
  mlp.forward(y, kX, kRows);
  mlp.backward(dx, grads.data(), kOnes, kRows);
  const double variance = mlp.buffers()[3];
  mlp.value_and_grad(other.data(), batch(), {}, true);
  CHECK(mlp.buffers()[3] != variance);
  mlp.backward(dx_again, again.data(), kOnes, kRows);
  CHECK(std::memcmp(dx, dx_again, sizeof dx) == 0);
  CHECK(grads == again);
}

class Failing : public CustomActivation {
 public:
  void forward(float*, const float*, Index) const override { fail(); }
  void forward(double*, const double*, Index) const override { fail(); }
  void derivative(float*, const float*, Index) const override {}
  void derivative(double*, const double*, Index) const override {}

 private:
  [[noreturn]] static void fail() { throw std::domain_error("no"); }
};

// A pass that fails draws no random numbers and changes no statistics.
void test_failed_pass_changes_nothing() {
  Mlp<double> mlp(2, {{3},
                      LayerSpec::batch_norm(),
                      LayerSpec::dropout(0.5),
                      LayerSpec::activation_only(std::make_shared<Failing>()),
                      {1}});
  double y[kRows];
  try {
    mlp.forward(y, kX, kRows, true);
    CHECK(false);
  } catch (const std::domain_error&) {
  }
  CHECK(mlp.training_state().passes == 0);
  CHECK(mlp.training_state().batches_tracked == 0);
  CHECK(mlp.buffers()[0] == 0 && mlp.buffers()[3] == 1);
  CHECK(mlp.forward_rows() == 0);
}

// Rates of random layers can be changed, all or none of them.
void test_rates() {
  Mlp<double> mlp(2, {LayerSpec::dropout(0.5),
                      {1},
                      LayerSpec::residual({LayerSpec::gaussian_noise(1)})});
  CHECK(mlp.n_random() == 2);
  mlp.initialize(0);
  double plain[kRows], y[kRows];
  mlp.predict(plain, kX, kRows);
  const auto differs = [&] {
    mlp.forward(y, kX, kRows, true);
    return !std::equal(y, y + kRows, plain);
  };
  CHECK(differs());
  const std::vector<double> wrong[] = {{0.0}, {0, -1}, {1, 0}, {0, 0, 0}};
  for (const std::vector<double>& rates : wrong) {
    try {
      mlp.set_rates(rates);
      CHECK(false);
    } catch (const std::invalid_argument&) {
    }
    CHECK(differs());
  }
  mlp.set_rates({0, 0});
  CHECK(!differs());
}

// A step with a given gradient that is not finite: the step is not taken, the error
// names the cause, and the gradient is not reported as that of the last step.
void test_given_gradient_not_finite() {
  Mlp<double> mlp(2, {{1}});
  mlp.initialize(0);
  mlp.set_watch(true);
  Optimizer sgd{OptimizerConfig{}};
  mlp.train_step(batch(), {}, sgd);
  CHECK(mlp.last_step().rows == kRows);
  const std::vector<double> before(mlp.params(), mlp.params() + mlp.n_params());
  const double dy[kRows] = {1, 1, std::numeric_limits<double>::quiet_NaN(), 1};
  double y[kRows];
  mlp.forward(y, kX, kRows);
  try {
    mlp.backward_step(dy, kRows, sgd);
    CHECK(false);
  } catch (const Diverged& e) {
    const std::string what = e.what();
    CHECK(what.find("the gradient of the loss is not finite in row 2") !=
          std::string::npos);
    CHECK(what.find("Likely cause: the loss") != std::string::npos);
  }
  CHECK(mlp.last_step().rows == 0);
  CHECK(sgd.step_count() == 1);
  CHECK(std::memcmp(before.data(), mlp.params(), before.size() * sizeof(double)) == 0);
}

// Layers without parameters also have sizes.
void test_sizes() {
  const auto refused = [](Index n_in, const std::vector<LayerSpec>& layers) {
    try {
      Mlp<float> mlp(n_in, layers);
      return false;
    } catch (const std::invalid_argument&) {
      return true;
    }
  };
  CHECK(refused(Index{1} << 62, {LayerSpec::dropout(0.1)}));
  CHECK(refused(Index{1} << 55, std::vector<LayerSpec>(4, LayerSpec::dropout(0.1))));
  CHECK(!refused(Index{1} << 40, {LayerSpec::dropout(0.1)}));
}

// The ops of a network name their inputs, and an activation joins the op before it.
void test_ops() {
  const Mlp<float> mlp(3, {{4, Activation::relu},
                           LayerSpec::residual({{5}, LayerSpec::layer_norm()}),
                           LayerSpec::activation_only(Activation::tanh),
                           LayerSpec::activation_only(std::make_shared<Failing>()),
                           LayerSpec::batch_norm(1e-5, 0.1, false)});
  const std::vector<OpInfo> ops = mlp.ops();
  struct Expected {
    const char* name;
    LayerKind kind;
    int input, other;
    Activation activation;
    Index weight, bias, statistics;
  };
  constexpr int kNone = OpInfo::kNone;
  const Expected expected[] = {
      {"0", LayerKind::dense, OpInfo::kNetworkInput, kNone, Activation::relu, 0, 12,
       -1},
      {"1.body.0", LayerKind::dense, 0, kNone, Activation::identity, 16, 36, -1},
      {"1.body.1", LayerKind::layer_norm, 1, kNone, Activation::identity, 41, 46, -1},
      {"1.projection", LayerKind::dense, 0, kNone, Activation::identity, 51, 71, -1},
      {"1", LayerKind::add, 2, 3, Activation::tanh, -1, -1, -1},
      {"3", LayerKind::activation, 4, kNone, Activation::identity, -1, -1, -1},
      {"4", LayerKind::batch_norm, 5, kNone, Activation::identity, -1, -1, 0}};
  CHECK(ops.size() == std::size(expected));
  for (size_t i = 0; i < ops.size(); ++i) {
    const OpInfo& op = ops[i];
    const Expected& e = expected[i];
    CHECK(op.name == e.name && op.kind == e.kind);
    CHECK(op.input == e.input && op.other == e.other);
    CHECK(op.activation == e.activation && op.has_custom == (i == 5));
    CHECK(op.weight == e.weight && op.bias == e.bias && op.statistics == e.statistics);
    CHECK(op.n_out == (i == 0 ? 4 : 5));
  }
}

void test_interpolate_other_statistics() {
  // Both have six parameters.
  Mlp<double> with(2, {LayerSpec::batch_norm(1e-5, 0.1, false), {2}}),
      without(2, {{2}});
  try {
    with.interpolate(without, 0.5);
    CHECK(false);
  } catch (const std::invalid_argument& e) {
    CHECK(std::string(e.what()).find("4 running statistics, got 6 parameters and 0") !=
          std::string::npos);
  }
}

}  // namespace

int main() {
  test_backward_after_statistics_moved();
  test_failed_pass_changes_nothing();
  test_rates();
  test_given_gradient_not_finite();
  test_sizes();
  test_ops();
  test_interpolate_other_statistics();
  if (failures == 0) std::printf("all checks passed\n");
  return failures == 0 ? 0 : 1;
}
