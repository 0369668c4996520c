// The library without Python: a network learns a function, its gradient is checked by
// differences, the bits do not depend on threads or instruction set, errors are thrown.
// There is no test framework: a failed check prints its line and the program returns 1.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "fastmlp/isa.h"
#include "fastmlp/mlp.h"
#include "fastmlp/threads.h"

namespace {

using namespace fastmlp;

template <class T>
struct Data {
  std::vector<T> x, y;
  Index rows;

  Batch<T> batch() const {
    Batch<T> b = {x.data(), {}, rows};
    b.targets.values = y.data();
    return b;
  }
};

// y = x0 * x1 on a grid over [-1, 1]^2.
template <class T>
Data<T> product_data() {
  constexpr int kSide = 21;
  Data<T> data = {{}, {}, kSide * kSide};
  for (int i = 0; i < kSide; ++i) {
    for (int j = 0; j < kSide; ++j) {
      const T a = static_cast<T>(0.1 * (i - 10)), b = static_cast<T>(0.1 * (j - 10));
      data.x.insert(data.x.end(), {a, b});
      data.y.push_back(a * b);
    }
  }
  return data;
}

OptimizerConfig adam() {
  OptimizerConfig config;
  config.kind = OptimizerKind::adam;
  config.lr = 1e-2;
  return config;
}

const std::vector<LayerSpec> kLayers = {
    {24, Activation::tanh}, {24, Activation::silu}, {1, Activation::identity}};

template <class T>
void test_learns() {
  const Data<T> data = product_data<T>();
  Mlp<T> mlp(2, kLayers);
  mlp.initialize(1);
  Optimizer optimizer(adam());
  double loss = 1.0;
  for (int i = 0; i < 300; ++i) loss = mlp.train_step(data.batch(), Loss{}, optimizer);
  CHECK(loss < 1e-3);  // under 1 % of the variance of y, 0.13
}

// A network wide enough to be divided among threads.
template <class T>
std::vector<T> trained_wide() {
  const Data<T> data = product_data<T>();
  Mlp<T> mlp(2, {{96, Activation::gelu}, {96, Activation::tanh}, {1}});
  mlp.initialize(1);
  Optimizer optimizer(adam());
  for (int i = 0; i < 5; ++i) mlp.train_step(data.batch(), Loss{}, optimizer);
  return {mlp.params(), mlp.params() + mlp.n_params()};
}

template <class T>
void test_same_bits_everywhere() {
  const std::string initial = isa_name(active_isa());
  std::vector<T> expected;
  for (const Isa isa : available_isas()) {
    set_active_isa(isa_name(isa));
    for (const int threads : {1, 3}) {
      set_num_threads(threads);
      const std::vector<T> params = trained_wide<T>();
      if (expected.empty()) expected = params;
      CHECK(std::memcmp(expected.data(), params.data(), sizeof(T) * params.size()) ==
            0);
    }
  }
  set_num_threads(0);
  set_active_isa(initial);
}

void test_gradient() {
  const Data<double> data = product_data<double>();
  Mlp<double> mlp(2, kLayers);
  mlp.initialize(2);
  std::vector<double> grads(static_cast<size_t>(mlp.n_params()));
  const double value = mlp.value_and_grad(grads.data(), data.batch(), Loss{});
  CHECK(value == mlp.evaluate(data.batch(), Loss{}));
  constexpr double kStep = 1e-6, kTolerance = 1e-8;  // error ~ step^2 + eps / step
  for (Index i = 0; i < mlp.n_params(); i += 7) {
    double& p = mlp.params()[i];
    const double kept = p;
    p = kept + kStep;
    const double above = mlp.evaluate(data.batch(), Loss{});
    p = kept - kStep;
    const double below = mlp.evaluate(data.batch(), Loss{});
    p = kept;
    const double difference = (above - below) / (2 * kStep);
    CHECK(std::fabs(difference - grads[static_cast<size_t>(i)]) < kTolerance);
  }
}

void test_epochs() {
  const Data<float> data = product_data<float>();
  Mlp<float> mlp(2, kLayers);
  mlp.initialize(3);
  Optimizer optimizer(adam());
  LastGoodState<float> last_good;
  EpochOptions options;
  options.batch_size = 50;
  options.shuffle = true;
  double first = 0.0, last = 0.0;
  for (uint32_t epoch = 0; epoch < 30; ++epoch) {
    options.epoch = epoch;
    last = mlp.fit_epoch(data.batch(), Loss{}, optimizer, options, last_good);
    if (epoch == 0) first = last;
  }
  CHECK(optimizer.step_count() == 30 * 9);
  CHECK(last < first / 20);

  // An epoch in two parts gives the same result as a whole one.
  {
    LastGoodState<float> good;
    Mlp<float> whole(2, kLayers), parts(2, kLayers);
    whole.initialize(3);
    parts.initialize(3);
    Optimizer one(adam()), two(adam());
    const double wanted = whole.fit_epoch(data.batch(), Loss{}, one, options, good);
    EpochProgress progress;
    EpochOptions part = options;
    part.progress = &progress;
    part.listener = {[](void*, Index step, double) { return step < 3; }, nullptr};
    bool stopped = false;
    try {
      parts.fit_epoch(data.batch(), Loss{}, two, part, good);
    } catch (const Interrupted&) {
      stopped = true;
    }
    CHECK(stopped && progress.steps == 4);
    part.listener = {};
    part.first_row = progress.steps * part.batch_size;
    CHECK(parts.fit_epoch(data.batch(), Loss{}, two, part, good) == wanted);
    CHECK(progress.steps == 9);
    CHECK(
        std::equal(whole.params(), whole.params() + whole.n_params(), parts.params()));
  }

  // A diverging epoch is rolled back to a state with a finite loss.
  optimizer.mutable_config().lr = 1e30;
  bool diverged = false;
  try {
    mlp.fit_epoch(data.batch(), Loss{}, optimizer, options, last_good);
  } catch (const Diverged&) {
    diverged = true;
  }
  CHECK(diverged);
  CHECK(mlp.evaluate(data.batch(), Loss{}) < first);
}

// The sum of the squares of all weights of a network like kLayers.
double squares_of_weights(const Mlp<double>& mlp) {
  double sum = 0.0;
  for (const OpInfo& op : mlp.ops()) {
    for (Index i = 0; i < op.n_in * op.n_out; ++i) {
      const double w = mlp.params()[op.weight + i];
      sum += w * w;
    }
  }
  return sum;
}

// With chosen rows, a penalty and a scale, an epoch of one batch is a gradient step.
void test_epoch_options() {
  constexpr double kTolerance = 1e-13;
  const Data<double> data = product_data<double>();
  const std::vector<int64_t> order = {440, 3, 3, 17, 200};
  Data<double> chosen = {{}, {}, static_cast<Index>(order.size())};
  for (const int64_t row : order) {
    const size_t r = static_cast<size_t>(row);
    chosen.x.insert(chosen.x.end(), {data.x[2 * r], data.x[2 * r + 1]});
    chosen.y.push_back(data.y[r]);
  }
  Loss loss;
  loss.scale = 3.0;
  OptimizerConfig config;
  config.lr = 0.1;
  Optimizer sgd(config);
  EpochOptions options;
  options.order = order.data();
  options.n_order = chosen.rows;
  options.l2 = 0.5;
  LastGoodState<double> good;
  Mlp<double> mlp(2, kLayers), other(2, kLayers);
  mlp.initialize(4);
  other.initialize(4);
  std::vector<double> grads(static_cast<size_t>(mlp.n_params()));
  const double plain = other.value_and_grad(grads.data(), chosen.batch(), Loss{});
  const double value =
      other.value_and_grad(grads.data(), chosen.batch(), loss, false, options.l2);
  const double penalty =
      options.l2 / 2 * squares_of_weights(other) / static_cast<double>(chosen.rows);
  CHECK(std::fabs(value - (3 * plain + penalty)) < kTolerance);
  CHECK(mlp.fit_epoch(data.batch(), loss, sgd, options, good) == value);
  for (Index i = 0; i < mlp.n_params(); ++i) {
    const double wanted = other.params()[i] - 0.1 * grads[static_cast<size_t>(i)];
    CHECK(std::fabs(mlp.params()[i] - wanted) < kTolerance);
  }

  // A call that is rejected changes nothing.
  const std::vector<double> before(mlp.params(), mlp.params() + mlp.n_params());
  const auto refused = [&](const Loss& of, const EpochOptions& with) {
    try {
      mlp.fit_epoch(data.batch(), of, sgd, with, good);
      return false;
    } catch (const std::invalid_argument&) {
      return std::equal(before.begin(), before.end(), mlp.params());
    }
  };
  for (const int64_t row : {int64_t{-1}, int64_t{441}}) {
    const std::vector<int64_t> beyond = {0, 1, row};
    EpochOptions with = options;
    with.order = beyond.data();
    with.n_order = 3;
    CHECK(refused(loss, with));
  }
  EpochOptions with = options;
  with.shuffle = true;
  CHECK(refused(loss, with));
  with = options;
  with.n_order = 0;
  CHECK(refused(loss, with));
  with = options;
  with.l2 = -1.0;
  CHECK(refused(loss, with));
  for (const double scale : {0.0, -1.0, std::numeric_limits<double>::infinity()}) {
    loss.scale = scale;
    CHECK(refused(loss, options));
  }
}

void test_errors() {
  const auto refused = [](Index n_in, std::vector<LayerSpec> layers) {
    try {
      Mlp<float> mlp(n_in, layers);
      return false;
    } catch (const std::invalid_argument&) {
      return true;
    }
  };
  CHECK(refused(3, {}));
  CHECK(refused(0, {{3}}));
  CHECK(refused(3, {{0}}));
  CHECK(refused(std::numeric_limits<Index>::max() / 4, {{100}}));
  const auto config_refused = [](double OptimizerConfig::* field, double value) {
    OptimizerConfig config = adam();
    config.*field = value;
    try {
      const Optimizer optimizer(config);
      return false;
    } catch (const std::invalid_argument&) {
      return true;
    }
  };
  CHECK(config_refused(&OptimizerConfig::lr, -1));
  CHECK(config_refused(&OptimizerConfig::lr, std::nan("")));
  CHECK(config_refused(&OptimizerConfig::beta2, 1));
  CHECK(config_refused(&OptimizerConfig::alpha, 1.5));
  CHECK(!config_refused(&OptimizerConfig::dampening, -1));
  // A learning rate that is changed later is checked by the next step.
  Mlp<float> mlp(2, kLayers);
  const Data<float> data = product_data<float>();
  Optimizer optimizer(adam());
  optimizer.mutable_config().lr = -1;
  try {
    mlp.train_step(data.batch(), Loss{}, optimizer);
    CHECK(false);
  } catch (const std::invalid_argument&) {
  }
  try {
    set_active_isa("nonsense");
    CHECK(false);
  } catch (const std::invalid_argument&) {
  }
}

Mlp<float> made(uint64_t seed) {
  Mlp<float> mlp(2, kLayers, seed);
  return mlp;
}

void test_construction() {
  // A network is initialised by its constructor, and may be returned and moved.
  Mlp<float> mlp = made(7), other(2, kLayers, std::nullopt);
  CHECK(std::all_of(other.params(), other.params() + other.n_params(),
                    [](float p) { return p == 0.0f; }));
  other.initialize(7);
  const std::vector<float> wanted(other.params(), other.params() + other.n_params());
  CHECK(std::equal(wanted.begin(), wanted.end(), mlp.params()));
  std::vector<Mlp<float>> all;
  all.push_back(std::move(mlp));
  all.push_back(made(8));
  CHECK(std::equal(wanted.begin(), wanted.end(), all[0].params()));
  std::swap(all[0], all[1]);
  CHECK(std::equal(wanted.begin(), wanted.end(), all[1].params()));
  const Mlp<float> standard(2, kLayers), with_zero(2, kLayers, 0);
  CHECK(std::equal(standard.params(), standard.params() + standard.n_params(),
                   with_zero.params()));
}

}  // namespace

int main() {
  test_learns<float>();
  test_learns<double>();
  test_same_bits_everywhere<float>();
  test_same_bits_everywhere<double>();
  test_gradient();
  test_epochs();
  test_epoch_options();
  test_construction();
  test_errors();
  if (failures == 0) std::printf("all checks passed\n");
  return failures == 0 ? 0 : 1;
}
